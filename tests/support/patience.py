"""How long a test waits for what should come soon: far longer than it takes, for machines that do other things as well.

Waiting ends a test that would hang; it says nothing about speed. All of it is less than the 300 seconds that a test may
take (pyproject.toml).
"""

import time

PROCESS = 280.0  # seconds for a process that a test starts
SOON = 60.0  # seconds for something that another thread does


def wait_until(condition, seconds=SOON):
    """Whether the condition comes true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.005)
    return True
