"""Computed tomography: laws of the operators, closed-form line integrals, other libraries,
real sinograms, CUDA twins.
"""

import warnings

import numba
import numpy as np
import pytest
from emulator.compile import compile_cubin, compilers
from emulator.device import EmulatedDevice

from safi_fast.bindings.module import source
from safi_fast.bindings.projector import CpuProjector, CudaProjector, fan_tables, launch_for, parallel_tables
from safi_fast.errors import InputError, OperatorError
from safi_fast.operators.ct import FanBeamCT, ParallelBeamCT, astra_parallel

HALF_TURN, FULL_TURN = np.linspace(0, np.pi, 30, endpoint=False), np.linspace(0, 2 * np.pi, 40, endpoint=False)


def operators():
    """Both geometries, odd and even sizes, coarse and fine cells, shifted centres, truncated views."""
    odd = np.array([0.0, 0.3, np.pi / 4, 1.2, np.pi / 2, 2.9, -1.0, 7.5])
    yield "parallel", ParallelBeamCT((33, 33), HALF_TURN, 49)
    yield "parallel odd", ParallelBeamCT((21, 38), odd, 57, 0.8, centre=27.3)
    yield "parallel coarse", ParallelBeamCT((40, 17), odd, 18, 3.1, pixel_size=0.9)
    yield "parallel fine", ParallelBeamCT((12, 9), odd, 90, 0.21)
    yield "fan", FanBeamCT((32, 32), FULL_TURN, 80, 1.0, 60.0, 100.0)
    yield "fan odd", FanBeamCT((21, 38), odd, 97, 0.11, 6.0, 9.0, pixel_size=0.13, centre=47.1)
    yield "fan coarse", FanBeamCT((40, 17), odd, 15, 6.0, 50.0, 90.0)
    yield "fan wide", FanBeamCT((16, 16), odd, 46, 0.6, 16.0, 22.0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield "parallel truncated", ParallelBeamCT((33, 20), odd, 11)
        yield "fan truncated", FanBeamCT((33, 20), odd, 15, 1.0, 60.0, 100.0)


OPERATORS = dict(operators())
each_operator = pytest.mark.parametrize("name", OPERATORS)


def normal(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def relative(result, expected):
    return np.linalg.norm(result - expected) / np.linalg.norm(expected)


# ----------------------------------------------------------------------------------------------------------------- laws
@each_operator
def test_adjoint(name):
    operator = OPERATORS[name]
    for seed in range(3):
        x, y = normal((2, *operator.shape_in), seed), normal((2, *operator.shape_out), seed + 10)
        forward, back = operator.apply(x), operator.adjoint(y)
        assert forward.dtype == back.dtype == np.float32
        difference = np.vdot(forward.astype(float), y) - np.vdot(x.astype(float), back)
        assert abs(difference) < 1e-6 * np.linalg.norm(forward) * np.linalg.norm(y)


def rays(operator, places):
    """A point and the direction of the rays to `places` (K,) on the detector, for all views."""
    cos, sin = np.cos(operator.angles)[:, None], np.sin(operator.angles)[:, None]
    if isinstance(operator, ParallelBeamCT):
        return (places * cos, places * sin), (-sin + 0 * places, cos + 0 * places)
    far, near = operator.source_detector, operator.source_origin
    return (near * sin, -near * cos), (places * cos - far * sin, places * sin + far * cos)


def oracle(operator):
    """The matrix (cells, pixels) in float64, from the rays themselves: overlaps on the middle
    lines of rows or columns.
    """
    height, width = operator.shape_in
    cells, size = np.arange(operator.detectors + 1) - operator.centre - 0.5, operator.pixel_size
    point, way = rays(operator, cells * operator.detector_spacing)
    _, middle = rays(operator, (cells[:-1] + 0.5) * operator.detector_spacing)
    matrix = np.zeros((*operator.shape_out, height, width))
    for v, angle in enumerate(operator.angles):
        cos, sin = np.cos(angle), np.sin(angle)
        by_rows = cos * sin > 0 if abs(abs(cos) - abs(sin)) < 1e-9 else abs(cos) > abs(sin)
        along, across = (0, 1) if by_rows else (1, 0)
        count, length = (height, width) if by_rows else (width, height)
        weights = size * np.hypot(*(part[v] for part in middle)) / abs(middle[across][v])
        for line in range(count):
            level = ((height - 1) / 2 - line if by_rows else line - (width - 1) / 2) * size
            place = point[along][v] + (level - point[across][v]) * way[along][v] / way[across][v]
            place = (place if by_rows else -place) / size + length / 2
            low, high = np.minimum(place[1:], place[:-1]), np.maximum(place[1:], place[:-1])
            i = np.arange(length)
            overlap = np.minimum(high[:, None], i + 1) - np.maximum(low[:, None], i)
            share = np.maximum(overlap, 0) * (weights / (high - low))[:, None]
            matrix[(v, slice(None), line) if by_rows else (v, slice(None), slice(None), line)] = share
    return matrix.reshape(operator.detectors * len(operator.angles), height * width)


@each_operator
def test_weights_are_those_of_the_oracle(name):
    """Both directions, entry by entry, within the rounding of positions and of running sums."""
    operator = OPERATORS[name]
    matrix = oracle(operator)
    some = np.random.default_rng(1)
    i, k = some.choice(matrix.shape[1], 40), some.choice(matrix.shape[0], 40)
    x, y = np.zeros((40, matrix.shape[1]), np.float32), np.zeros((40, matrix.shape[0]), np.float32)
    x[np.arange(40), i] = y[np.arange(40), k] = 1
    forward = operator.apply(x.reshape(40, *operator.shape_in)).reshape(40, -1)
    back = operator.adjoint(y.reshape(40, *operator.shape_out)).reshape(40, -1)
    np.testing.assert_allclose(forward, matrix[:, i].T, atol=3e-5 * matrix.max())
    np.testing.assert_allclose(back, matrix[k], atol=3e-5 * matrix.max())
    x, y = normal(operator.shape_in), normal(operator.shape_out)
    assert relative(operator.apply(x).ravel(), matrix @ x.ravel()) < 1e-5
    assert relative(operator.adjoint(y).ravel(), y.ravel() @ matrix) < 1e-5
    assert np.linalg.norm(matrix, 2) <= operator.norm <= 1.003 * np.linalg.norm(matrix, 2)


@each_operator
def test_batch_equals_loop(name):
    operator = OPERATORS[name]
    x, y = normal((2, 3, *operator.shape_in)), normal((2, 3, *operator.shape_out))
    before = x.copy(), y.copy()
    for function, values in ((operator.apply, x), (operator.adjoint, y), (operator.fbp, y)):
        together = function(values)
        for at in np.ndindex(2, 3):
            np.testing.assert_array_equal(together[at], function(values[at]))
    np.testing.assert_array_equal(x, before[0])
    np.testing.assert_array_equal(y, before[1])


@each_operator
def test_number_of_threads_changes_no_bit(name):
    operator = OPERATORS[name]
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("needs two threads")
    x, y, threads = normal((3, *operator.shape_in)), normal((3, *operator.shape_out)), numba.get_num_threads()
    results = []
    try:
        for number in (1, numba.config.NUMBA_NUM_THREADS):
            numba.set_num_threads(number)
            results.append((operator.apply(x), operator.adjoint(y), operator.fbp(y)))
    finally:
        numba.set_num_threads(threads)
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def test_quarter_turns_are_exact():
    """Along rows and columns the projection adds up pixels, in any order: whole numbers make it exact."""
    image = np.random.default_rng(0).integers(0, 100, (15, 24)).astype(np.float32)
    right, up, left, down = ParallelBeamCT((15, 24), np.arange(4) * np.pi / 2, 24).apply(image)
    padded = np.pad(image.sum(1), 5)  # of 15 rows in 24 cells the middle ones lie half a cell off
    np.testing.assert_array_equal(right, image.sum(0))
    np.testing.assert_array_equal(left, image.sum(0)[::-1])
    np.testing.assert_array_equal(up, ((padded[1:] + padded[:-1]) / 2)[::-1])
    np.testing.assert_array_equal(down, up[::-1])


def test_turning_the_image_permutes_the_views():
    angles = np.concatenate(
        [np.linspace(0, np.pi / 2, 8, endpoint=False) + quarter * np.pi / 2 for quarter in range(4)]
    )
    image = normal((31, 31))
    for operator in (ParallelBeamCT((31, 31), angles, 47), FanBeamCT((31, 31), angles, 70, 1.0, 60.0, 90.0)):
        turned = operator.apply(np.rot90(image))  # counterclockwise, as the angles
        assert relative(turned, np.roll(operator.apply(image), 8, axis=0)) < 2e-6


# --------------------------------------------------------------------------------------------------------- closed forms
def ellipse_image(size, centre, radii, fine=8):
    """The share of each pixel that an ellipse covers; x to the right, y upwards."""
    at = (np.arange(size * fine) + 0.5) / fine - size / 2
    inside = ((at - centre[0]) / radii[0]) ** 2 + ((-at[:, None] - centre[1]) / radii[1]) ** 2 <= 1
    return inside.reshape(size, fine, size, fine).mean((1, 3)).astype(np.float32)


def ellipse_integrals(point, direction, centre, radii):
    """Lengths of lines in an ellipse, from a point of each line and its direction; (x, y) first."""
    p = [(point[i] - centre[i]) / radii[i] for i in range(2)]
    d = [direction[i] / radii[i] for i in range(2)]
    square = d[0] ** 2 + d[1] ** 2
    inner = square - (p[0] * d[1] - p[1] * d[0]) ** 2
    return 2 * np.sqrt(np.maximum(inner, 0)) / square * np.hypot(*direction)


def cell_means(operator, integrals):
    """Means over each detector cell of the closed form, by 16 rays."""
    shifts = (np.arange(16) + 0.5) / 16 - 0.5
    cells = np.arange(operator.detectors) - operator.centre
    return np.mean(
        [integrals(*rays(operator, (cells + shift) * operator.detector_spacing)) for shift in shifts], axis=0
    )


def closed_form_operators():
    return (
        ParallelBeamCT((128, 128), np.linspace(0, np.pi, 90, endpoint=False) + 0.01, 183),
        ParallelBeamCT((128, 128), np.linspace(0, np.pi, 90, endpoint=False) + 0.01, 240, 0.77, centre=117.2),
        FanBeamCT((128, 128), np.linspace(0, 2 * np.pi, 90, endpoint=False), 260, 1.0, 300.0, 500.0),
        FanBeamCT((128, 128), np.linspace(0, 2 * np.pi, 90, endpoint=False), 260, 1.3, 180.0, 300.0, centre=131.0),
    )


@pytest.mark.parametrize("radii", [(30.2, 30.2), (41.7, 13.6)])
def test_ellipses_have_the_lengths_of_their_chords(radii):
    """Within 1 %: the error is that of drawing the edge with pixels."""
    centre = (11.3, -20.7)
    image = ellipse_image(128, centre, radii)
    for operator in closed_form_operators():
        expected = cell_means(operator, lambda point, way: ellipse_integrals(point, way, centre, radii))
        assert relative(operator.apply(image), expected) < 0.01


def test_smooth_images_are_projected_to_three_digits():
    """A Gaussian of standard deviation 9 pixels: what is left are the steps of the pixels, worst where cells are
    smaller.
    """
    at = np.arange(128) - 63.5
    image = np.exp(-((at - 11.3) ** 2 + (-at[:, None] + 20.7) ** 2) / (2 * 81)).astype(np.float32)

    def integrals(point, way):
        distance = ((point[0] - 11.3) * way[1] - (point[1] + 20.7) * way[0]) / np.hypot(*way)
        return 9 * np.sqrt(2 * np.pi) * np.exp(-(distance**2) / 162)

    for operator in closed_form_operators():
        result, expected = operator.apply(image), cell_means(operator, integrals)
        assert relative(result, expected) < 0.002
        np.testing.assert_allclose(result.sum(), expected.sum(), rtol=3e-6)


def test_a_distant_source_gives_parallel_rays():
    image, angles = normal((40, 30)), np.linspace(0, 2 * np.pi, 17)
    parallel = ParallelBeamCT((40, 30), angles, 61, centre=29.0).apply(image)
    fan = FanBeamCT((40, 30), angles, 61, 1.0, 1e6, 1e6 + 50, centre=29.0).apply(image)
    assert relative(fan, parallel) < 1e-3


def test_units_scale():
    image = normal((40, 30))
    one = FanBeamCT((40, 30), FULL_TURN, 90, 1.0, 70.0, 110.0)
    other = FanBeamCT((40, 30), FULL_TURN, 90, 0.2, 14.0, 22.0, pixel_size=0.2)
    assert relative(other.apply(image), 0.2 * one.apply(image)) < 1e-5
    assert relative(other.fbp(other.apply(image)), one.fbp(one.apply(image))) < 1e-5


# ------------------------------------------------------------------------------------------------------ other libraries
@pytest.fixture(scope="module")
def phantom():
    data = pytest.importorskip("skimage.data")
    from skimage.transform import resize

    return resize(data.shepp_logan_phantom(), (255, 255), anti_aliasing=True).astype(np.float32)


def test_radon_of_skimage(phantom):
    """Its sinogram is the transpose, in degrees, about pixel N // 2, which is the middle for odd N."""
    from skimage.transform import iradon, radon

    angles = np.linspace(0, np.pi, 60, endpoint=False)
    operator = ParallelBeamCT((255, 255), angles, 255)
    sinogram = operator.apply(phantom)
    assert relative(sinogram.T, radon(phantom, np.rad2deg(angles), circle=True)) < 0.004
    circle = np.hypot(*np.meshgrid(np.arange(255) - 127, np.arange(255) - 127)) < 126
    expected = iradon(sinogram.T, np.rad2deg(angles))
    np.testing.assert_allclose(operator.fbp(sinogram)[circle], expected[circle], atol=2e-5)
    expected = iradon(sinogram.T, np.rad2deg(angles), filter_name="hann")  # by samples of another Hann window
    np.testing.assert_allclose(operator.fbp(sinogram, "hann")[circle], expected[circle], atol=1e-3)


def test_astra():
    pytest.importorskip("astra", reason="needs the ASTRA toolbox")
    angles, image = np.linspace(0, np.pi, 20, endpoint=False) + 0.01, ellipse_image(64, (5, -8), (20, 9))
    ours = ParallelBeamCT((64, 64), angles, 93, 1.1, centre=45.0)
    theirs = astra_parallel((64, 64), angles, 93, 1.1, centre=45.0)
    assert relative(ours.apply(image), theirs.apply(image)) < 0.01
    assert relative(ours.adjoint(ours.apply(image)), theirs.adjoint(ours.apply(image))) < 0.01


# --------------------------------------------------------------------------------------------- filtered back projection
@pytest.mark.parametrize(
    ("operator", "error"),
    [
        (ParallelBeamCT((255, 255), np.linspace(0, np.pi, 360, endpoint=False), 363), 0.035),
        (ParallelBeamCT((255, 255), np.linspace(0, np.pi, 361), 363), 0.035),
        (FanBeamCT((255, 255), np.linspace(0, 2 * np.pi, 720, endpoint=False), 500, 1.0, 400.0, 700.0), 0.022),
        (FanBeamCT((255, 255), np.linspace(0.3, 0.3 + 1.3 * np.pi, 500), 500, 1.0, 400.0, 700.0), 0.024),
    ],
    ids=["parallel", "both ends", "fan", "short scan"],
)
def test_fbp_recovers_the_phantom(phantom, operator, error):
    """RMSE in the circle, values 0 to 1 (edges are what differs), and flat regions without an offset."""
    image = operator.fbp(operator.apply(phantom))
    x, y = np.meshgrid(np.arange(255) - 127, np.arange(255) - 127)
    circle = np.hypot(x, y) < 126
    assert np.sqrt(np.mean((image - phantom)[circle] ** 2)) < error
    flat = np.s_[150:165, 120:135]
    assert abs(image[flat].mean() - phantom[flat].mean()) < 0.005


def test_fbp_in_millimetres_of_a_disc():
    operator = FanBeamCT(
        (128, 128), np.linspace(0, 2 * np.pi, 300, endpoint=False), 260, 0.2, 60.0, 100.0, pixel_size=0.2
    )
    image = operator.fbp(operator.apply(0.03 * ellipse_image(128, (10, 5), (40, 40))))
    assert image[40:80, 60:90].mean() == pytest.approx(0.03, rel=0.005)


def test_views_count_by_the_angle_they_stand_for(phantom):
    """Uneven, repeated and opposite views."""
    even = np.linspace(0, np.pi, 180, endpoint=False)
    dense = np.sort(np.concatenate([even, even[::3] + np.pi / 360, even[::5] + np.pi, even[:9]]))
    images = [
        operator.fbp(operator.apply(phantom))
        for operator in (ParallelBeamCT((255, 255), a, 363) for a in (even, dense))
    ]
    assert relative(images[1], images[0]) < 0.05


def test_limited_angle_is_not_scaled_up(phantom):
    """A third of the views gives the sum over these views, so the three thirds make the whole."""
    angles = np.linspace(0, np.pi, 180, endpoint=False)
    whole = ParallelBeamCT((255, 255), angles, 363)
    sinogram = whole.apply(phantom)
    thirds = [ParallelBeamCT((255, 255), angles[i : i + 60], 363).fbp(sinogram[i : i + 60]) for i in (0, 60, 120)]
    assert relative(sum(thirds), whole.fbp(sinogram)) < 1e-5


# ------------------------------------------------------------------------------------------------------------ real data
def test_tooth(data_folder):
    """Projecting the full-view FBP gives back the sinogram to 5 %; about a wrong centre it does less well."""
    tifffile = pytest.importorskip("tifffile")
    sinogram = tifffile.imread(data_folder / "ct" / "tooth.tiff")
    residuals = []
    for centre in (199.5, 203.5):
        operator = ParallelBeamCT((380, 380), np.linspace(0, np.pi, 181), 400, centre=centre)
        residuals.append(relative(operator.apply(operator.fbp(sinogram)), sinogram))
    assert residuals[0] < 0.05
    assert residuals[0] < 0.9 * residuals[1]


def crossings(sinogram, level):
    """Where each view first and last reaches a level, in cells."""
    view, last = np.arange(len(sinogram)), sinogram.shape[1] - 1
    above = sinogram > level
    low, high = above.argmax(1), last - above[:, ::-1].argmax(1)
    inner, outer = sinogram[view, [low, high]], sinogram[view, [low - 1, high + 1]]
    return np.stack([low, high]) + np.array([[-1], [1]]) * (inner - level) / (inner - outer)


def test_htc2022(data_folder):
    """A disc of 70 mm from 90 degrees.

    Its outline on the detector tells which way the scan turns: a disc at (-0.1, -1.3) mm explains
    it to a quarter of a cell, and with the rotation reversed no disc does."""
    from scipy.io import loadmat

    path = data_folder / "ct" / "htc2022" / "tb_subsample_90.mat"
    data = loadmat(path, squeeze_me=True, struct_as_record=False)["CtDataLimited"]
    sinogram, scan = data.sinogram.astype(np.float32), data.parameters
    misfits, around = [], np.linspace(0, 2 * np.pi, 3000)
    for sign in (1, -1):
        operator = FanBeamCT(
            (256, 256), sign * np.deg2rad(scan.angles), scan.numDetectorsPost, scan.pixelSizePost,
            scan.distanceSourceOrigin, scan.distanceSourceDetector, pixel_size=2 * scan.effectivePixelSizePost,
        )  # fmt: skip
        outline = operator._places(-0.1 + 34.8 * np.cos(around), sign * -1.31 + 34.8 * np.sin(around))
        outline = np.stack([outline.min(1), outline.max(1)])
        misfits.append(np.sqrt(np.mean((outline - crossings(sinogram, 0.15)) ** 2)))
        if sign == 1:
            image = operator.fbp(sinogram, "hann")
    assert misfits[0] < 0.25
    assert misfits[1] > 2.5 * misfits[0]
    at = (np.arange(256) - 127.5) * 2 * scan.effectivePixelSizePost
    radius, turn = np.hypot(at + 0.1, -at[:, None] + 1.31), np.arctan2(-at[:, None] + 1.31, at + 0.1) % np.pi
    seen = (turn > np.deg2rad(80)) & (turn < np.deg2rad(160))  # where rays touch the rim
    rim, outside = image[seen & (radius > 32.5) & (radius < 34.5)], image[seen & (radius > 35.2) & (radius < 37)]
    assert rim.mean() - outside.mean() == pytest.approx(
        0.04, rel=0.1
    )  # 1 / mm, of acrylic; the level between is not measured
    assert rim.mean() > 0.02


# --------------------------------------------------------------------------------------------------------------- errors
def test_errors():
    good = {"shape": (16, 16), "angles": [0.0, 1.0], "detectors": 24}
    fan = good | {"detector_spacing": 1.0, "source_origin": 40.0, "source_detector": 60.0, "detectors": 40}
    for change, message in (
        ({"angles": []}, r"angles has shape \(0,\); expected a list of at least one angle in radians"),
        ({"angles": [[0.0]]}, r"angles has shape \(1, 1\)"),
        ({"angles": [0.0, np.nan]}, r"angles\[1\] is nan; expected finite numbers"),
        (
            {"angles": np.arange(180)},
            r"angles span 179 radians, 28 turns; if they are in degrees pass np\.deg2rad\(angles\)",
        ),
        ({"detectors": 0}, "detectors is 0; expected how many cells"),
        ({"detectors": 2.5}, r"detectors is 2\.5"),
        ({"detector_spacing": 0.0}, r"detector_spacing is 0\.0; expected a positive length"),
        ({"pixel_size": np.inf}, "pixel_size is inf"),
        ({"centre": np.nan}, "centre is nan; expected the detector cell"),
        ({"norm": -1.0}, r"norm is -1\.0; expected a positive number"),
        ({"shape": (0, 3)}, "expected two positive numbers"),
    ):
        for kind, arguments in ((ParallelBeamCT, good), (FanBeamCT, fan)):
            with pytest.raises(InputError, match=message):
                kind(**(arguments | change))
    for change, message in (
        ({"source_origin": -1.0}, r"source_origin is -1\.0; expected a positive length"),
        ({"source_detector": 30.0}, r"source_detector is 30\.0 and source_origin 40\.0; expected the detector behind"),
        ({"source_origin": 5.0}, r"source_origin is 5\.0; expected a source outside the image at all angles: at least"),
        (
            {"detector_spacing": 3.0, "angles": [0.8]},
            r"the fan opens 44\.3 degrees to one side .*; expected at most 35",
        ),
    ):
        with pytest.raises(InputError, match=message):
            FanBeamCT(**(fan | change))


def test_wrong_arrays_are_named():
    operator = ParallelBeamCT((16, 16), [0.0, 1.0], 24)
    with pytest.raises(InputError, match=r"x has shape \(16, 15\); ParallelBeamCT expects \(\.\.\., 16, 16\)"):
        operator.apply(np.zeros((16, 15)))
    for function, name in ((operator.adjoint, "y"), (operator.fbp, "sinogram")):
        with pytest.raises(InputError, match=rf"{name} has shape \(24, 2\); ParallelBeamCT expects \(\.\.\., 2, 24\)"):
            function(np.zeros((24, 2)))
    with pytest.raises(InputError, match="filter is 'cosine'; expected 'ramp' or 'hann'"):
        operator.fbp(np.zeros((2, 24)), "cosine")


def test_truncation_is_a_warning():
    with pytest.warns(
        UserWarning, match=r"too small .* on average 2\d\.\d % of the ellipse .* beside the 20 cells of 1"
    ):
        operator = ParallelBeamCT((32, 32), HALF_TURN, 20)
    assert operator.share_outside == pytest.approx(
        0.26, abs=0.02
    )  # 1 - (2 / pi) (asin a + a sqrt(1 - a a)), a = 20 / 32
    with pytest.warns(UserWarning, match="too small"):
        FanBeamCT((32, 32), FULL_TURN, 30, 1.0, 60.0, 100.0)
    ParallelBeamCT((32, 32), HALF_TURN, 32)  # all of the inscribed ellipse: no warning


def test_rays_beside_the_image_are_an_error():
    with pytest.warns(UserWarning, match=r"100\.0 %"):
        operator = ParallelBeamCT((8, 8), [0.0], 4, centre=100.0)
    with pytest.raises(OperatorError, match="no ray meets the image"):
        _ = operator.norm


# ---------------------------------------------------------------------------------------------------------- CUDA twins
def twins():
    angles = np.linspace(0, 2 * np.pi, 9) + 0.1
    yield parallel_tables((19, 35), angles, 133, spacing=0.4, centre=66.7, pixel=1.2)
    yield fan_tables(
        (26, 19), angles, 41, spacing=1.3, centre=19.0, pixel=1.2, source_origin=40.0, source_detector=80.0
    )  # fmt: skip


@pytest.mark.parametrize("mode", ["plain", "check"])
@pytest.mark.parametrize("tables", list(twins()), ids=["parallel", "fan"])
def test_cuda_twin(mode, tables):
    """Within the rounding of float32: the running sums reach 5 times a row's norm, positions
    are good to 1e-5 pixels.
    """
    device = EmulatedDevice(mode, seed=1)
    cpu, cuda = CpuProjector(tables), CudaProjector(tables, device)
    x, y = normal((2, *tables.shape)), normal((2, tables.views, tables.detectors))
    cells = np.pad(y, ((0, 0), (0, 0), (1, 2)))
    for name, given, uploaded in (("project", x, x), ("back_project", y, y), ("smear", y, cells)):
        expected = getattr(cpu, name)(given)
        result = device.download(getattr(cuda, name)(device.upload(uploaded)))
        np.testing.assert_allclose(result, expected, atol=2e-5 * abs(expected).max(), err_msg=name)


def test_launches():
    tables = parallel_tables((100, 70), HALF_TURN, 125, spacing=1.0, centre=62.0, pixel=1.0)
    expected = {
        "line_sums": ((43, 1, 3), (128, 1, 1)),
        "project": ((2, 30, 3), (128, 1, 1)),
        "view_sums": ((8, 1, 3), (128, 1, 1)),
        "back_project": ((3, 13, 3), (32, 8, 1)),
        "smear": ((3, 13, 3), (32, 8, 1)),
    }
    for kernel, (grid, block) in expected.items():
        launch = launch_for(kernel, tables, 3)
        assert (launch.grid, launch.block, launch.shared_bytes) == (grid, block, 0)
    with pytest.raises(KeyError):
        launch_for("sharpen", tables, 1)


@pytest.mark.skipif(not compilers(), reason="needs nvcc, or pip install nvidia-cuda-nvrtc")
def test_cuda_kernels_compile_without_spills():
    for compiler in compilers():
        for architecture in ("sm_80", "sm_90"):
            cubin = compile_cubin(source("projector"), ("-std=c++17",), architecture=architecture, compiler=compiler)
            assert set(cubin.kernels) == {"line_sums", "project", "view_sums", "back_project", "smear"}
