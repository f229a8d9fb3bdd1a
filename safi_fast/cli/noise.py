"""The seeded noise of `evaluate` and `demo`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def add_noise(clean: NDArray[Any], sigma: float, seed: int, index: int = 0) -> NDArray[np.float32]:
    """White Gaussian noise of standard deviation `sigma`, not clipped, on a float32 copy of `clean`.

    It depends on the seed and on the index of the image in its set, so an image keeps its noise when others
    are left out of the end of the set.
    """
    noise = np.random.default_rng([seed, index]).standard_normal(clean.shape, dtype=np.float32)
    return clean.astype(np.float32) + np.float32(sigma) * noise
