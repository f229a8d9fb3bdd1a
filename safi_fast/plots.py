"""Pictures of results and of models, drawn with Matplotlib's object interface: no window, no global state.

Needs `pip install matplotlib`.
"""

import io
import json
import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .atomic import write_atomically
from .errors import BackendError, ImageFileError, InputError

if TYPE_CHECKING:
    from .model import Model

DPI = 120
GREY = "0.45"
ACCENT = "#d1495b"
BLUE = "#30638e"
MASK_COLOURS = "cividis"
FILTER_COLOURS = "RdBu_r"
CAPTIONS = {
    "noisy": "Noisy",
    "denoised": "Denoised",
    "clean": "Original",
    "mask": "Mask, mean over the filters\n1: smoothed in full, 0: left alone",
}
RECONSTRUCTION_CAPTIONS = {
    "start": "Start",
    "result": "Reconstruction",
    "mask": CAPTIONS["mask"],
    "convergence": "Convergence\nhow near each outer step came",
}
PANEL_WIDTH, GAP, MARGIN, CAPTION_HEIGHT, BAR_WIDTH = 3.0, 0.08, 0.08, 0.5, 0.42  # inches
CURVE_MARGIN, SMALLEST_CURVE = 0.5, 2.2  # inches, of the convergence curve

Array = NDArray[Any]
Detail = tuple[int, int, int, int]


def require_matplotlib() -> None:
    """Raise BackendError, which says what to install, if Matplotlib is not there."""
    if find_spec("matplotlib") is None:
        raise BackendError("drawing pictures needs Matplotlib; install it with pip install matplotlib")


def before_after(
    path: str | Path,
    noisy: ArrayLike,
    denoised: ArrayLike,
    mask_mean: ArrayLike | None = None,
    *,
    clean: ArrayLike | None = None,
    captions: Mapping[str, str] | None = None,
    detail: Detail | None = None,
) -> None:
    """Draw the noisy image, the result, the original if there is one, and the mean mask, side by side.

    Images are (H, W) or (H, W, 3) on [0, 1] and shown clipped to it; `mask_mean` is (H, W) on [0, 1].
    `captions` replaces texts of CAPTIONS; what follows a line break is set small. `detail` is (row, column, height,
    width) of a part that is drawn enlarged in a second row.
    """
    panels = {"noisy": noisy, "denoised": denoised, "clean": clean, "mask": mask_mean}
    images = {name: _checked(name, value) for name, value in panels.items() if value is not None}
    height, width = images["noisy"].shape[:2]
    for name, image in images.items():
        if image.shape[:2] != (height, width):
            raise InputError(f"{name} has shape {image.shape}, but noisy has {images['noisy'].shape}")
    texts = {**CAPTIONS, **(captions or {})}
    unknown = sorted(texts.keys() - CAPTIONS.keys())
    if unknown:
        raise InputError(f"captions names no panel {unknown[0]!r}; the panels are {', '.join(CAPTIONS)}")
    heights = [PANEL_WIDTH * height / width]
    if detail is not None:
        _check_detail(detail, height, width)
        heights.append(PANEL_WIDTH * detail[2] / detail[3])

    bar = BAR_WIDTH if "mask" in images else 0.0
    figure = _figure(
        2 * MARGIN + len(images) * PANEL_WIDTH + (len(images) - 1) * GAP + bar,
        2 * MARGIN + CAPTION_HEIGHT + sum(heights) + (len(heights) - 1) * GAP,
    )
    top = MARGIN + CAPTION_HEIGHT
    for column, (name, image) in enumerate(images.items()):
        left = MARGIN + column * (PANEL_WIDTH + GAP)
        _caption(figure, left, top, texts[name])
        colours, limits = (MASK_COLOURS, mask_limits(image)) if name == "mask" else ("gray", (0.0, 1.0))
        whole = _axes(figure, left, top, PANEL_WIDTH, heights[0])
        drawn = _draw(whole, image, colours, limits)
        if name == "mask":
            _colour_bar(figure, _axes(figure, left + PANEL_WIDTH + GAP, top, 0.1, heights[0]), drawn)
        if detail is not None:
            _outline(whole, detail)
            enlarged = _axes(figure, left, top + heights[0] + GAP, PANEL_WIDTH, heights[1])
            _draw(enlarged, _cut(image, detail), colours, limits)
    _save(figure, path)


def reconstruction(
    path: str | Path,
    start: ArrayLike,
    result: ArrayLike,
    mask_mean: ArrayLike,
    certificates: Sequence[float],
    changes: Sequence[float],
    *,
    certificate: str = "relative duality gap",
    captions: Mapping[str, str] | None = None,
) -> None:
    """Draw a reconstruction: the image of a classical method, the result, the mean mask, and how the solver converged.

    Images are (H, W) or (H, W, 3) on [0, 1], or `start` of another size, and shown clipped; `certificates` and
    `changes` hold one value per outer step, `certificate` says what the first are. `captions` replaces texts of
    RECONSTRUCTION_CAPTIONS.
    """
    images = {
        name: _checked(name, value) for name, value in (("start", start), ("result", result), ("mask", mask_mean))
    }
    height, width = images["result"].shape[:2]
    if images["mask"].shape != (height, width):
        raise InputError(f"mask has shape {images['mask'].shape}, but result has {images['result'].shape}")
    if not certificates or len(certificates) != len(changes):
        raise InputError(
            f"certificates has {len(certificates)} values and changes {len(changes)}; expected one each per outer step"
        )
    texts = {**RECONSTRUCTION_CAPTIONS, **(captions or {})}
    unknown = sorted(texts.keys() - RECONSTRUCTION_CAPTIONS.keys())
    if unknown:
        raise InputError(f"captions names no panel {unknown[0]!r}; the panels are {', '.join(RECONSTRUCTION_CAPTIONS)}")
    tall, top = PANEL_WIDTH * height / width, MARGIN + CAPTION_HEIGHT
    figure = _figure(
        2 * MARGIN + 4 * PANEL_WIDTH + 2 * GAP + BAR_WIDTH + CURVE_MARGIN,
        2 * MARGIN + CAPTION_HEIGHT + max(tall, SMALLEST_CURVE),
    )
    for column, (name, image) in enumerate(images.items()):
        left = MARGIN + column * (PANEL_WIDTH + GAP)
        _caption(figure, left, top, texts[name])
        colours, limits = (MASK_COLOURS, mask_limits(image)) if name == "mask" else ("gray", (0.0, 1.0))
        drawn = _draw(_axes(figure, left, top, PANEL_WIDTH, tall), image, colours, limits)
        if name == "mask":
            _colour_bar(figure, _axes(figure, left + PANEL_WIDTH + GAP, top, 0.1, tall), drawn)
    left = MARGIN + 3 * PANEL_WIDTH + 2 * GAP + BAR_WIDTH + CURVE_MARGIN
    _caption(figure, left, top, texts["convergence"])
    axes = _axes(figure, left, top, PANEL_WIDTH - 0.1, max(tall, SMALLEST_CURVE) - CURVE_MARGIN)
    _convergence(axes, certificates, changes, certificate)
    _save(figure, path)


def _convergence(axes: Any, certificates: Sequence[float], changes: Sequence[float], certificate: str) -> None:
    steps = np.arange(1, len(certificates) + 1)
    for values, label, colour in ((certificates, certificate, ACCENT), (changes, "change between outer steps", BLUE)):
        finite = [value if np.isfinite(value) and value > 0 else np.nan for value in values]
        axes.semilogy(steps, finite, "o-", color=colour, markersize=4, label=label)
    axes.set_xlabel("outer step", fontsize=9)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.legend(frameon=False, fontsize=8)
    _plain(axes)


def inspect_model(model: "Model", path: str | Path) -> None:
    """Draw the composed filters, the learned functions of the mask, its first layer, and the strengths."""
    from .masks import MmrMask, SafiMask

    if not isinstance(model.mask, (SafiMask, MmrMask)):
        raise InputError(f"model {model.name!r} has a {model.family} mask; those that can be drawn are safi and mmr")
    if isinstance(model.mask, SafiMask):
        kernels, kernel_title = model.mask.convolutions[0][:, 0], "First layer of the mask"
        curves = {f"Mask, spline {i + 1}": spline for i, spline in enumerate(model.mask.splines)}
        start = -1.0
    else:
        kernels, kernel_title = model.mask.smoothing[0][:, 0], "First smoothing layer of the mask"
        curves, start = {"Mask as a function of the smoothed response": model.mask.profile.clip(0, 1)}, 0.0
    filters = model.filters.composed()[:, 0]
    figure = _figure(13.0, 7.2)
    _title(figure, model)
    left, right = figure.add_gridspec(1, 2, left=0.035, right=0.985, top=0.855, bottom=0.075, wspace=0.1)
    upper, lower = right.subgridspec(2, 1, height_ratios=(1.0, 1.2), hspace=0.34)
    _tiles(figure, left, filters, f"Filters, {filters.shape[1]} x {filters.shape[2]}, strongest first", aspect=1.0)
    for cell, (name, values) in zip(upper.subgridspec(1, len(curves), wspace=0.28), curves.items(), strict=True):
        _curves(figure.add_subplot(cell), name, values, start)
    heading = f"{kernel_title}, {kernels.shape[1]} x {kernels.shape[2]}"
    if len(model.noise_levels) == 1:
        _tiles(figure, lower, kernels, heading, aspect=2.0)
    else:
        tiles, strengths = lower.subgridspec(1, 2, wspace=0.28)
        _tiles(figure, tiles, kernels, heading, aspect=1.0)
        _strengths(figure.add_subplot(strengths), model)
    _save(figure, path)


def training_curve(log: str | Path, path: str | Path) -> None:
    """Draw a training run from its log (JSON lines): loss and validation PSNR over hours, one line a noise level."""
    rows = [json.loads(line) for line in Path(log).read_text(encoding="utf-8").splitlines()]
    steps = [row for row in rows if row["kind"] == "step"]
    checks = [row for row in rows if row["kind"] == "validation"]
    if not checks:
        raise InputError(f"log {log} holds no validation; there is nothing to draw yet")
    levels = list(checks[0]["psnr"])
    figure = _figure(3.4 * (len(levels) + 1), 3.0)
    grid = figure.add_gridspec(1, len(levels) + 1, left=0.05, right=0.99, top=0.86, bottom=0.18, wspace=0.28)
    panels = [figure.add_subplot(cell) for cell in grid]
    panels[0].plot([row["seconds"] / 3600 for row in steps], [row["loss"] for row in steps], color=GREY, linewidth=1)
    _heading(panels[0], "Loss (1: expected error)")
    for axes, level in zip(panels[1:], levels, strict=True):
        hours = [row["seconds"] / 3600 for row in checks]
        axes.plot(hours, [row["psnr"][level] for row in checks], "o-", color=ACCENT, markersize=3)
        _heading(axes, f"Validation PSNR, dB, sigma {level}")
    for axes in panels:
        axes.set_xlabel("hours", fontsize=9)
        _plain(axes)
    _save(figure, path)


def _figure(width: float, height: float) -> Any:
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _save(figure: Any, path: str | Path) -> None:
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise ImageFileError(f"{path}: unsupported extension {path.suffix!r}; a picture is written as .png")
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    write_atomically(path, stream.getvalue())


def _checked(name: str, value: ArrayLike) -> Array:
    image = np.asarray(value, dtype=np.float64)
    if not (image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3 and name != "mask")) or image.size == 0:
        raise InputError(
            f"{name} has shape {image.shape}; expected (H, W)" + ("" if name == "mask" else " or (H, W, 3)")
        )
    if not np.isfinite(image).all():
        raise InputError(f"{name} holds NaN or infinity")
    return image.clip(0, 1)


def _check_detail(detail: Detail, height: int, width: int) -> None:
    row, column, rows, columns = detail
    if row < 0 or column < 0 or rows < 1 or columns < 1 or row + rows > height or column + columns > width:
        raise InputError(f"detail {detail} does not lie in an image of {height} x {width}")


def _cut(image: Array, detail: Detail) -> Array:
    row, column, rows, columns = detail
    return image[row : row + rows, column : column + columns]


def _axes(figure: Any, left: float, top: float, width: float, height: float) -> Any:
    """Axes by their place on the sheet in inches, `top` measured from above."""
    sheet_width, sheet_height = figure.get_size_inches()
    box = (left / sheet_width, 1 - (top + height) / sheet_height, width / sheet_width, height / sheet_height)
    return figure.add_axes(box)


def _caption(figure: Any, left: float, bottom: float, text: str) -> None:
    head, _, rest = text.partition("\n")
    width, height = figure.get_size_inches()
    figure.text(left / width, 1 - (bottom - 0.29) / height, head, fontsize=11, fontweight="bold", va="bottom")
    figure.text(left / width, 1 - (bottom - 0.1) / height, rest, fontsize=9, color=GREY, va="bottom")


def _draw(axes: Any, image: Array, colours: str, limits: tuple[float, float]) -> Any:
    axes.set_axis_off()
    return axes.imshow(image, cmap=colours, vmin=limits[0], vmax=limits[1], interpolation="nearest", aspect="auto")


def mask_limits(mask: Array) -> tuple[float, float]:
    """The tenths that hold 98 % of the values: a mean over many filters rarely fills [0, 1]."""
    low, high = np.quantile(mask, (0.01, 0.99))
    low, high = math.floor(10 * low) / 10, math.ceil(10 * high) / 10
    return (low, high) if high > low else (0.0, 1.0)


def _outline(axes: Any, detail: Detail) -> None:
    from matplotlib.patches import Rectangle

    row, column, rows, columns = detail
    axes.add_patch(Rectangle((column, row), columns, rows, fill=False, edgecolor=ACCENT, linewidth=1.2))


def _colour_bar(figure: Any, axes: Any, drawn: Any) -> None:
    bar = figure.colorbar(drawn, cax=axes, ticks=drawn.get_clim(), format="%.1f")
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=2, pad=2, colors=GREY)


def _title(figure: Any, model: "Model") -> None:
    bank, schedule, levels = model.filters, model.schedule, 255 * model.noise_levels
    facts = [
        model.family.upper(),
        f"sigma {levels[0]:g} of 255" if len(levels) == 1 else f"sigma {levels[0]:g} to {levels[-1]:g} of 255",
        f"{bank.channels} filters, {'one layer' if len(bank.layers) == 1 else f'cascade of {len(bank.layers)} layers'}",
        f"{bank.boundary} boundary",
        f"schedule {schedule.name} {schedule.outer} x {schedule.inner}",
    ]
    if len(levels) == 1:
        facts.append(f"strength {model.strength.unrolled[0]:.4g} unrolled, {model.strength.converged[0]:.4g} converged")
    figure.text(0.035, 0.95, model.name, fontsize=16, fontweight="bold")
    figure.text(0.035, 0.915, "   ".join(facts), fontsize=9.5, color=GREY)


def _tiles(figure: Any, cell: Any, kernels: Array, title: str, *, aspect: float) -> None:
    """Kernels as one mosaic, each scaled to its own largest weight, ordered by norm; aspect: width over height."""
    order = np.argsort(-np.linalg.norm(kernels.reshape(len(kernels), -1), axis=1), kind="stable")
    side = kernels.shape[-1]
    columns = math.ceil(math.sqrt(aspect * len(kernels)))
    rows = math.ceil(len(kernels) / columns)
    mosaic = np.full((rows * (side + 1) - 1, columns * (side + 1) - 1), np.nan)
    for place, index in enumerate(order):
        row, column = (side + 1) * (place // columns), (side + 1) * (place % columns)
        kernel = kernels[index].astype(np.float64)
        mosaic[row : row + side, column : column + side] = kernel / (np.abs(kernel).max() or 1.0)
    axes = figure.add_subplot(cell)
    axes.imshow(mosaic, cmap=FILTER_COLOURS, vmin=-1, vmax=1, interpolation="nearest")
    axes.set_anchor("NW")
    axes.set_axis_off()
    _heading(axes, title)


def _curves(axes: Any, name: str, values: Array, start: float) -> None:
    """All channels in grey, their median in colour."""
    knots = np.linspace(start, 1.0, values.shape[1])
    axes.plot(knots, values.T, color="0.3", linewidth=0.7, alpha=0.25)
    axes.plot(knots, np.median(values, axis=0), color=ACCENT, linewidth=2)
    _heading(axes, name)
    _plain(axes)


def _strengths(axes: Any, model: "Model") -> None:
    levels = 255 * model.noise_levels
    for values, label, colour in (
        (model.strength.unrolled, "unrolled", ACCENT),
        (model.strength.converged, "converged", BLUE),
    ):
        axes.plot(levels, values, "o-", color=colour, markersize=5, label=label)
    axes.set_xlabel("sigma of 255", fontsize=9)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, fontsize=9)
    _heading(axes, "Strength lambda")
    _plain(axes)


def _heading(axes: Any, text: str) -> None:
    axes.set_title(text, fontsize=10.5, loc="left", pad=6)


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.2)
