"""After a solve: what no image explains, black images of what is not black, operators that change in mid-run."""

from functools import cache

import numpy as np
import pytest
from models import coil_maps, phantom, random_model
from scipy.ndimage import gaussian_filter

from safi_fast import OperatorError, Solver
from safi_fast.explained import UNEXPLAINED, unexplained
from safi_fast.operators import (
    Blur,
    Downsample,
    FourierMRI,
    Identity,
    Mask,
    ParallelBeamCT,
    SenseMRI,
    estimate_maps,
    from_scipy,
)

N = 32
IMAGE = phantom(N, N)
SCAN = np.zeros((N, N), np.float32)  # nothing about it is round
SCAN[5:12, 8:26], SCAN[14:26, 10:14] = 0.9, 0.6
SCAN = gaussian_filter(SCAN, 0.5)
LINES = np.ones((N, 1)) * ((np.arange(N) % 2 == 0) | (abs(np.arange(N) - N // 2) < 5))
MAPS = coil_maps(6, N, N)
PHASE = np.exp(0.8j * np.pi * np.linspace(0, 1, N)).astype(np.complex64)
CENTRED = {"mask_order": "centered"}
ANGLES = np.linspace(0, np.pi, N, endpoint=False)
COILS, SCANNER = SenseMRI(MAPS, LINES, **CENTRED), ParallelBeamCT((N, N), ANGLES, N)
RNG = np.random.default_rng(5)
MATRIX = RNG.standard_normal((2 * N * N, N * N)).astype(np.float32) / N

RIGHT = {
    "identity": Identity((N, N)),
    "blur": Blur(np.full((5, 5), 1 / 25), (N, N)),
    "inpainting": Mask(RNG.random((N, N)) < 0.5),
    "superres": Downsample(2, (N, N)),
    "coil": FourierMRI(LINES, **CENTRED),
    "complex coil": FourierMRI(LINES, image="complex", **CENTRED),
    "coils": COILS,
    "real coils": SenseMRI(MAPS, LINES, image="real", **CENTRED),
    "ct": SCANNER,
    "matrix": from_scipy(MATRIX, (N, N)),
}
WRONG = {
    "reversed coils": (SenseMRI(MAPS[::-1], LINES, **CENTRED), COILS.apply(IMAGE), "in the order of the coils"),
    "two coils exchanged": (SenseMRI(MAPS[[1, 0, 2, 3, 4, 5]], LINES, **CENTRED), COILS.apply(IMAGE), "in the order"),
    "conjugated maps": (SenseMRI(MAPS.conj(), LINES, **CENTRED), COILS.apply(IMAGE), "and not conjugated"),
    "a silent coil": (COILS, COILS.apply(IMAGE) * (np.arange(6) != 2)[:, None, None], "are the maps of this scan"),
    "a phase": (
        FourierMRI(LINES, **CENTRED),
        FourierMRI(LINES, image="complex", **CENTRED).apply(IMAGE * PHASE),
        "has the image a phase[?] then pass image='complex'",
    ),
    "a phase in coils": (RIGHT["real coils"], COILS.apply(IMAGE * PHASE), "maps .* Or has the image a phase"),
    "views and cells exchanged": (SCANNER, SCANNER.apply(SCAN).T.copy(), "views and cells not exchanged"),
    "angles of a whole turn": (ParallelBeamCT((N, N), 2 * ANGLES, N), SCANNER.apply(SCAN), "are the angles those"),
    "order of the views": (SCANNER, RNG.permutation(SCANNER.apply(SCAN)), "in the right unit and order"),
}


@cache
def solver():
    return Solver(random_model(lipschitz=1.1), backend="cpu")


def solve(y, operator, **options):
    box = {"box": None} if operator.image == "complex" else {}
    return solver().reconstruct(y, operator, **{"strength": 1e-3, "max_outer": 1, "max_iter": 20} | box | options)


def noisy(y, operator, level):
    values = RNG.standard_normal((2, *y.shape))
    values = values[0] + 1j * values[1] if operator.complex else values[0]
    return operator.check_measurement(y + level * np.sqrt(np.mean(abs(y) ** 2)) * values)


@pytest.mark.parametrize(("level", "strength"), [(0, 1e-6), (0, 0.5), (0.02, 0.5), (0.4, 1e-6), (0.4, 0.01)])
@pytest.mark.parametrize("name", RIGHT)
def test_nothing_is_said_of_a_right_operator(name, level, strength):
    """Whatever the noise, and however much is smoothed away."""
    operator = RIGHT[name]
    y = noisy(operator.apply(SCAN), operator, level)
    box = {} if operator.image == "complex" else {"box": (-9.0, 9.0)}  # noise of this size is refused in many
    assert np.isfinite(solve(y, operator, strength=strength, **box).image).all()


@pytest.mark.parametrize("name", WRONG)
def test_wrong_operators_are_named(name):
    operator, y, cause = WRONG[name]
    y = noisy(y, operator, 0.02)
    with pytest.warns(match=f"measurement holds what no image explains: .* and gap; .*{cause}") as caught:
        solve(y, operator)
    assert len(caught) == 1


def test_one_of_several_is_numbered():
    operator, y, _ = WRONG["conjugated maps"]
    with pytest.warns(match=r"measurement\[1\] holds what no image explains"):
        solve(np.stack([operator.apply(IMAGE), y]), operator)
    with pytest.warns(match="^measurement holds"):  # many strengths, one measurement
        solver().tune_strength(y, operator, [1e-4, 1e-3], noise_std=1.0, box=None, max_outer=1, max_iter=5)


def test_measured_coils(data_folder):
    """Maps of a real scan, and the same conjugated, in another order, or of an image without phase."""
    from safi_fast import io

    y = io.read_kspace(data_folder / "mri" / "espirit_und2x2.cfl", coils=True).array[0]
    maps, sampled = estimate_maps(y, kspace_order="centered"), (y != 0).any(0)
    for used, wrong in ((maps, False), (maps.conj(), True), (maps[::-1], True), (maps[[1, 0, *range(2, 8)]], True)):
        operator = SenseMRI(used, sampled, **CENTRED)
        assert (unexplained(operator, y, y) > 2 * UNEXPLAINED) is wrong


def test_a_black_image_is_named():
    y = -RIGHT["blur"].apply(IMAGE)
    with pytest.warns(
        match="measurement is not zero, and no noise, but its image is 0 everywhere: is the measurement neg"
    ):
        assert solve(y, RIGHT["blur"], box=(0.0, 1.0), max_iter=60).image.max() < 0.05
    solve(0.02 * RNG.standard_normal((N, N)) - 0.01, RIGHT["blur"], strength=1.0, box=(0.0, 1.0))  # noise alone


class Turning(Blur):
    """A blur of which some methods are multiplied by a number from a moment on."""

    factors: dict[str, float] = {}  # noqa: RUF012

    @property
    def spectrum(self):
        return None

    def _apply(self, x):
        return super()._apply(x) * np.float32(self.factors.get("apply", 1))

    def _adjoint(self, y):
        return super()._adjoint(y) * np.float32(self.factors.get("adjoint", 1))


@pytest.mark.parametrize(
    "factors",
    [
        {"apply": 0},
        {"apply": -1},
        {"adjoint": 0},
        {"adjoint": -1},
        {"apply": 0, "adjoint": 0},
        {"apply": -1, "adjoint": -1},
    ],
)
def test_an_operator_that_changes_in_mid_run(factors):
    operator = Turning(np.full((3, 3), 1 / 9), (N, N))
    y = operator.apply(IMAGE)
    with pytest.raises(OperatorError, match=r"Turning: apply or adjoint changed in mid-run: .* measurement ") as caught:
        solve(y, operator, max_outer=2, callback=lambda state: setattr(operator, "factors", factors))
    assert caught.value.image.shape == (N, N)
    operator.factors = {}
    solve(y, operator)
    with pytest.raises(OperatorError, match=r"of measurement\[1\] "):
        solve(np.stack([0 * y, y]), operator, max_outer=2, callback=lambda state: setattr(operator, "factors", factors))
