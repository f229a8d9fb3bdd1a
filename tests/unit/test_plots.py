"""The pictures: they are drawn, have the size their contents ask for, and leave Matplotlib's global state alone."""

import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from safi_fast import plots
from safi_fast.errors import BackendError, ImageFileError, InputError
from safi_fast.masks import MmrMask, SafiMask
from safi_fast.model import FilterBank, Model, Schedule, Strength

pytest.importorskip("matplotlib", reason="pictures need the extra `plots`")

RNG = np.random.default_rng(2)
H, W = 40, 60
NOISY, DENOISED, CLEAN, MASK = RNG.random((4, H, W))


def size(path):
    with Image.open(path) as image:
        return image.size


def test_three_and_four_panels_and_a_detail(tmp_path):
    plots.before_after(tmp_path / "3.png", NOISY, DENOISED, MASK)
    plots.before_after(tmp_path / "4.png", NOISY, DENOISED, MASK, clean=CLEAN, captions={"noisy": "Noisy\n20 dB"})
    plots.before_after(tmp_path / "5.png", NOISY, DENOISED, MASK, clean=CLEAN, detail=(5, 10, 20, 30))
    plots.before_after(tmp_path / "2.png", NOISY, DENOISED)
    widths, heights = zip(*(size(tmp_path / f"{n}.png") for n in (2, 3, 4, 5)), strict=True)
    assert widths[0] < widths[1] < widths[2] == widths[3]
    assert heights[0] == heights[1] == heights[2] < heights[3]


def test_panels_show_the_images(tmp_path):
    black, white = np.zeros((H, W)), np.ones((H, W))
    plots.before_after(tmp_path / "a.png", black, white)
    with Image.open(tmp_path / "a.png") as image:
        row = np.asarray(image.convert("L"))[image.height // 2]
    quarter, three_quarters = row[len(row) // 4], row[3 * len(row) // 4]
    assert (quarter, three_quarters) == (0, 255)


def test_colour_and_constant_masks_are_drawn(tmp_path):
    colour = np.stack([NOISY, DENOISED, CLEAN], -1)
    for mask in (np.zeros((H, W)), np.ones((H, W)), np.full((H, W), 0.5)):
        plots.before_after(tmp_path / "a.png", colour, colour, mask)
    assert (tmp_path / "a.png").stat().st_size > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"noisy": NOISY[0]}, r"noisy has shape \(60,\); expected \(H, W\) or \(H, W, 3\)"),
        ({"mask_mean": np.stack([MASK] * 3, -1)}, r"mask has shape \(40, 60, 3\); expected \(H, W\)$"),
        ({"clean": CLEAN[1:]}, r"clean has shape \(39, 60\), but noisy has \(40, 60\)"),
        ({"denoised": np.full((H, W), np.nan)}, "denoised holds NaN or infinity"),
        ({"detail": (30, 0, 20, 20)}, r"detail \(30, 0, 20, 20\) does not lie in an image of 40 x 60"),
        ({"captions": {"before": "Noisy"}}, "captions names no panel 'before'; the panels are noisy, denoised"),
    ],
)
def test_bad_input(tmp_path, arguments, message):
    good = {"noisy": NOISY, "denoised": DENOISED, "mask_mean": MASK, "clean": CLEAN}
    with pytest.raises(InputError, match=message):
        plots.before_after(tmp_path / "a.png", **{**good, **arguments})
    assert not list(tmp_path.iterdir())


def test_reconstructions_are_drawn(tmp_path):
    certificates, changes = [1e-1, 1e-3], [np.inf, 1e-2]
    plots.reconstruction(tmp_path / "a.png", NOISY[::2, ::2], DENOISED, MASK, certificates, changes)
    colour = np.stack([NOISY, DENOISED, CLEAN], -1)
    plots.reconstruction(tmp_path / "b.png", colour, colour, MASK, [0.0], [0.0], captions={"start": "Blurred"})
    assert size(tmp_path / "a.png") == size(tmp_path / "b.png")
    assert size(tmp_path / "a.png")[0] > 4 * plots.PANEL_WIDTH * plots.DPI


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"mask_mean": MASK[1:]}, r"mask has shape \(39, 60\), but result has \(40, 60\)"),
        ({"certificates": []}, "certificates has 0 values and changes 1; expected one each per outer step"),
        (
            {"captions": {"noisy": "x"}},
            "captions names no panel 'noisy'; the panels are start, result, mask, convergence",
        ),
        ({"start": np.zeros(3)}, r"start has shape \(3,\)"),
    ],
)
def test_bad_reconstructions(tmp_path, arguments, message):
    good = {"start": NOISY, "result": DENOISED, "mask_mean": MASK, "certificates": [0.1], "changes": [0.1]}
    with pytest.raises(InputError, match=message):
        plots.reconstruction(tmp_path / "a.png", **{**good, **arguments})


def test_output_must_be_a_png_in_a_folder_that_exists(tmp_path):
    with pytest.raises(ImageFileError, match=r"unsupported extension '\.jpg'; a picture is written as \.png"):
        plots.before_after(tmp_path / "a.jpg", NOISY, DENOISED)
    with pytest.raises(ImageFileError, match=r"missing/a\.png: cannot be written \(no such file or directory\)"):
        plots.before_after(tmp_path / "missing" / "a.png", NOISY, DENOISED)


def test_missing_matplotlib_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setattr(plots, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"needs Matplotlib; install it with pip install matplotlib"):
        plots.before_after(tmp_path / "a.png", NOISY, DENOISED)


def model(family, levels):
    channels, count = 6, len(levels)
    kernels = RNG.standard_normal((channels, 1, 5, 5))
    square = RNG.standard_normal((channels, channels, 3, 3))
    splines = RNG.standard_normal((3, channels, 21))
    if family == "safi":
        rows = np.ones((count, channels))
        mask = SafiMask((kernels, square, square), (1, 2, 4), tuple(splines), rows, 0 * rows, "symmetric")
    else:
        smoothing = np.abs(kernels) / np.abs(kernels).sum((2, 3), keepdims=True)
        profile = np.linspace(1, -0.5, 21) * np.ones((channels, 1))
        mask = MmrMask((smoothing,), profile, np.ones(channels))
    strengths = np.geomspace(1e-3, 2e-3, count)
    bank, schedule = FilterBank((kernels,), "symmetric"), Schedule("unrolled", 5, 12)
    return Model("tiny", family, bank, mask, Strength(strengths, strengths), np.asarray(levels) / 255, schedule)


@pytest.mark.parametrize("family", ["safi", "mmr"])
@pytest.mark.parametrize("levels", [(25,), (5, 15, 25)])
def test_models_are_drawn(tmp_path, family, levels):
    plots.inspect_model(model(family, levels), tmp_path / "a.png")
    assert size(tmp_path / "a.png") == (13.0 * plots.DPI, 7.2 * plots.DPI)


DRAW = """
import sys
import numpy as np
from safi_fast.plots import before_after

print("matplotlib" in sys.modules)
before_after(sys.argv[1], np.zeros((20, 20)), np.zeros((20, 20)))
print("matplotlib.pyplot" in sys.modules)
"""


def test_matplotlib_is_imported_late_and_pyplot_never(tmp_path):
    command = [sys.executable, "-c", DRAW, str(tmp_path / "a.png")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.split() == ["False", "False"]
