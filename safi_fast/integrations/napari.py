"""A widget of napari, "SAFI denoise" in its menu Plugins, that denoises an image layer in a thread of its own.

napari finds it by the manifest `napari.yaml` beside this module. magicgui makes its fields from annotations, which must
not be texts. Planes, which are the last two axes (of colour layers those before the samples), are solved one by one;
the result is a new layer that lies where the old one does. Written for napari 0.9.
"""

from collections.abc import Generator
from math import prod
from typing import Any

import numpy as np
from magicgui import magicgui
from magicgui.widgets import FunctionGui
from napari.layers import Image
from napari.qt.threading import thread_worker
from napari.viewer import Viewer

from ..api import Solver
from ..errors import InputError
from ..models import list_models
from ..noise_level import ESTIMATE

__all__ = ["denoise_widget", "solved_planes"]

DEFAULT = "default"
SCHEDULES = (DEFAULT, "unrolled", "converged", "gap")
# Of a layer, what is true of its result as well; of these, those that this napari knows.
KEPT = ("scale", "translate", "rotate", "shear", "affine", "units", "axis_labels", "colormap", "contrast_limits",
        "gamma", "blending", "rgb", "metadata")  # fmt: skip
MOST = 1e9


def denoise_widget() -> FunctionGui:
    """The widget: a layer, its noise, a model and a schedule."""

    def denoise(
        viewer: Viewer, layer: Image, estimate: bool = True, sigma: float = 0.1, model: str = DEFAULT,
        schedule: str = DEFAULT,
    ) -> None:  # fmt: skip
        data = layer.data[0] if layer.multiscale else layer.data
        settings = _settings_of(layer, model, schedule)
        level: Any = ESTIMATE if estimate else sigma
        made = thread_worker(solved_planes, progress={"total": prod(_leading(data.shape, layer.rgb))})
        worker = made(data, level, rgb=layer.rgb, model=_chosen(model), schedule=_chosen(schedule))

        def add(result: tuple[Any, list[float]]) -> None:
            values, found = result
            settings["metadata"]["safi_fast"]["sigma"] = found
            viewer.add_image(values, **settings)

        def ready() -> None:
            widget.call_button.enabled = True

        widget.call_button.enabled = False
        worker.returned.connect(add)
        worker.finished.connect(ready)
        worker.start()

    widget: Any = magicgui(
        denoise,
        call_button="Denoise",
        layer={"tooltip": "image layer; each plane (its last two axes) is solved by itself"},
        estimate={"label": "estimate sigma", "tooltip": "measure the noise in each plane of 32 x 32 pixels or more"},
        sigma={"min": 0.0, "max": MOST, "step": 0.01, "tooltip": "standard deviation of the noise, in layer values"},
        model={"choices": [DEFAULT, *list_models()], "tooltip": "default: by the number of channels"},
        schedule={"choices": SCHEDULES, "tooltip": "default: what the model was trained for"},
    )
    return widget


def solved_planes(
    data: Any, sigma: Any, *, rgb: bool = False, model: Any = None, schedule: str | None = None
) -> Generator[int, None, tuple[Any, list[float]]]:
    """Yields the number of planes that are done; returns the result and sigma of each plane.

    data: array, also of Dask, (..., H, W), with a last axis of 3 or 4 samples where `rgb`; a fourth, alpha, is kept.
        Integers come back rounded in their dtype, others as float32.
    sigma: standard deviation of the noise in the units of `data`, or "estimate". Black and white are 0 and 255 of
        uint8, 0 and 1 of floats that lie there, else the least and the greatest value of a plane.

    Raises InputError.
    """
    axis = -1 if rgb else None
    if rgb and data.shape[-1] not in (3, 4):
        raise InputError(f"data has {data.shape[-1]} samples per pixel; expected 3 or 4 of a colour layer")
    solver, found = Solver(model), []
    result = np.empty(data.shape, data.dtype if data.dtype.kind in "iu" else np.float32)
    options = {} if schedule is None else {"schedule": schedule}
    for number, index in enumerate(np.ndindex(_leading(data.shape, rgb)), 1):
        plane = np.asarray(data[index])  # of a Dask array one at a time
        image = plane[..., :3] if rgb else plane
        clean, level = _solved(solver, image, sigma, axis, options)
        result[index] = plane
        result[index][..., : image.shape[-1]] = _stored(clean, result.dtype)
        found.append(level)
        yield number
    return result, found


def _solved(solver: Solver, image: Any, sigma: Any, axis: int | None, options: dict[str, Any]) -> tuple[Any, float]:
    """Without noise, and how much there was. Raises InputError."""
    if not np.isfinite(image).all():
        raise InputError("the layer has values that are NaN or infinite; expected finite ones")
    low, high = float(image.min()), float(image.max())
    if low == high:
        return image, 0.0
    known = image.dtype == np.uint8 or (image.dtype.kind == "f" and low >= 0 and high <= 1)
    settings = options if known else {"data_range": (low, high), "box": None, **options}
    solution = solver.denoise(image, sigma, channel_axis=axis, return_solution=True, **settings)
    return solution.image, float(solution.sigma if isinstance(sigma, str) else sigma)


def _stored(values: Any, dtype: np.dtype[Any]) -> Any:
    """Integers rounded and clipped to their type."""
    if dtype.kind == "f":
        return values
    limits = np.iinfo(dtype)
    return np.clip(np.rint(values.astype(np.float64)), limits.min, limits.max)


def _settings_of(layer: Any, model: str, schedule: str) -> dict[str, Any]:
    """What the layer of the result is like."""
    every = layer.as_layer_data_tuple()[1]
    settings = {name: every[name] for name in KEPT if name in every}
    settings["metadata"] = {**settings.get("metadata", {}), "safi_fast": {"model": model, "schedule": schedule}}
    return {**settings, "name": f"{layer.name} denoised"}


def _chosen(choice: str) -> str | None:
    return None if choice == DEFAULT else choice


def _leading(shape: tuple[int, ...], rgb: bool) -> tuple[int, ...]:
    """The axes before rows and columns."""
    return tuple(shape[: len(shape) - 2 - rgb])
