"""Mean dual points of a run of the primal-dual iteration, for its certificate.

A mean of admissible u is admissible, so any mean bounds the objective from below as a single step does. With the number
of the step in its run as weight the mean of T(s) - s over K steps is (s - s_0) / K (Halpern with reflection, Lu and
Yang 2024, summed up): the slope H^T p + z that the gap pays for loses what x oscillates by and the rounding of single
steps, which in float32 is all that is left in the end.
"""

from __future__ import annotations

import numpy as np

from ..namespaces import namespace, put, taken
from ..types import Active, AnyArray, FloatVector
from .data_term import column


class DualMeans:
    """Means of z_hat and extra_hat of each image since it last started anew, and those of the run before that."""

    def __init__(self, z: AnyArray, extra: AnyArray):
        zeros = namespace(z).zeros_like
        self._now, self._before = (zeros(z), zeros(extra)), (zeros(z), zeros(extra))
        self._length, self._length_before = np.zeros(len(z), np.int64), np.zeros(len(z), np.int64)

    def add(self, a: Active, weight: FloatVector, hats: tuple[AnyArray, AnyArray]) -> None:
        """A step of the images `a` to z_hat and extra_hat (n, ...); the one of weight 0 starts a run and does not
        count.
        """
        ended = a[(weight == 0) & (self._length[a] > 0)]
        if len(ended):
            for before, now in zip(self._before, self._now, strict=True):
                put(before, ended, taken(now, ended))
            self._length_before[ended] = self._length[ended]
        self._length[a] = np.where(weight == 0, 0, self._length[a] + 1)
        share = np.where(weight == 0, 0.0, 2 / (self._length[a] + 1))
        for mean, hat in zip(self._now, hats, strict=True):
            own = taken(mean, a)
            moved = hat - own
            moved *= column(share, moved)
            moved += own
            put(mean, a, moved)

    def point(self, a: Active) -> tuple[AnyArray, AnyArray] | None:
        """z and extra of the images `a`: of the run, or of the one before while that was longer; None: of no step."""
        older = (self._length_before[a] > self._length[a]).astype(np.float64)
        if not (older + self._length[a]).all():
            return None
        z, extra = (
            namespace(now).where(column(older, now) > 0, taken(before, a), taken(now, a))
            for before, now in zip(self._before, self._now, strict=True)
        )
        return z, extra
