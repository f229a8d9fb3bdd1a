"""Static figures of the CUDA kernels, from the emulator and the oracle of tests/: python -m bench.static.cuda."""

import sys

from bench import ROOT

TESTS = str(ROOT / "tests")
if TESTS not in sys.path:
    sys.path.insert(0, TESTS)  # whose modules import each other by their bare names
