"""Extrapolation factors of the accelerated dual steps.

factor_i = (t_i - 1) / t_{i+1}
FISTA (Beck and Teboulle 2009):          t_0 = 1,   t_{i+1} = (1 + sqrt(1 + 4 t_i^2)) / 2
CD (Chambolle and Dossal 2015, a = 3):   t_0 = 5/3, t_{i+1} = (i + 6) / 3, as the published code starts it
"""

from __future__ import annotations

import math
from collections.abc import Iterator


def fista() -> Iterator[float]:
    """FISTA's factors from the first step on."""
    t = 1.0
    while True:
        following = (1 + math.sqrt(1 + 4 * t * t)) / 2
        yield (t - 1) / following
        t = following


def chambolle_dossal() -> Iterator[float]:
    """CD's factors from the first step on."""
    t, i = 5 / 3, 0
    while True:
        following = (i + 6) / 3
        yield (t - 1) / following
        t, i = following, i + 1
