"""`safi-fast reconstruct mri --trajectory`: k-space off the Cartesian grid."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ...errors import ImageFileError
from ...values import Range, stated_range
from ..arguments import UsageError
from . import Array, Slice, Study, measured_study, quantile_range

if TYPE_CHECKING:
    from ...operators import NonCartesianMRI
    from .mri import MriOptions

EDGE = 1e-3  # cycles, of rounding

CARTESIAN = (  # options that say something of a grid
    "mask", "mask_order", "estimate_maps", "calibration", "no_mask_check", "select",
)  # fmt: skip


def read_trajectory(path: str) -> Array:
    """(samples, spokes, 2) of BART's (3, samples, spokes), else (n, m, 2) as stored. Raises ImageFileError."""
    from ...io import read_array

    stored = np.asarray(read_array(path))
    array = stored.real if stored.dtype.kind == "c" and not stored.imag.any() else stored
    if array.ndim == 3 and array.shape[0] == 3 and array.shape[-1] != 2 and not array[2].any():
        array = np.moveaxis(array[:2], 0, -1)
    if array.dtype.kind == "c" or array.ndim != 3 or array.shape[-1] != 2:
        raise ImageFileError(
            f"{path}: holds {stored.dtype} of shape {stored.shape}; expected real numbers (n, m, 2), or BART's "
            "(3, samples, spokes) with zeros for kz"
        )
    return np.asarray(array, np.float64)


def open_study(path: Path, options: MriOptions) -> Study:
    """Read a file, its trajectory and maps, settle scale and box."""
    from ...io import read_kspace

    _check_options(options)
    kspace = read_kspace(path, options.variable, options.layout, coils=bool(options.maps), check_axes=False).array
    places = read_trajectory(str(options.trajectory))
    if places.shape[:2] != kspace.shape[2:]:
        raise ImageFileError(
            f"{options.trajectory}: has {places.shape[0]} x {places.shape[1]} places, but the k-space of {path} has "
            f"{kspace.shape[2]} x {kspace.shape[3]} samples"
        )
    maps, size = _maps(kspace, path, options), _image_size(places, options.size)

    def make(number: int) -> Slice:
        from ...operators import NonCartesianMRI

        of = None if maps is None else np.asarray(maps[min(number, len(maps) - 1)])
        operator = NonCartesianMRI(places, size, of, image=options.image)
        y = operator.check_measurement(kspace[number].reshape(operator.shape_out))
        return Slice(y, operator, gridded(operator, y), None, {"samples": int(places.size // 2)})

    meaning = _range(path, [make(number).start for number in range(len(kspace))], options)
    facts = {
        "coils": kspace.shape[1],
        "trajectory": options.trajectory,
        "image_size": list(size),
        "maps": options.maps,
        "image_kind": options.image,
    }
    return measured_study(
        len(kspace), make, meaning, options, facts, start_name="Gridded", image=options.image, mask_of=options.mask_of
    )


def gridded(operator: NonCartesianMRI, y: Array) -> Array:
    """H^T w y with the weights of the density of samples, as large as fits the measurements best."""
    from ...operators import density_weights

    weights = density_weights(operator.trajectory, operator.shape_in)
    image: Array = operator.adjoint(weights * y)
    seen = operator.apply(image)
    energy = float(np.vdot(seen, weights * seen).real)
    return image * np.float32(np.vdot(seen, weights * y).real / energy if energy > 0 else 0.0)


def _check_options(options: MriOptions) -> None:
    for name in CARTESIAN:
        if getattr(options, name):
            flag = "--" + name.replace("_", "-")
            raise UsageError(f"{flag} is for k-space on the Cartesian grid; leave it out beside --trajectory")
    if options.kspace_order != "centered":
        raise UsageError(
            f"--kspace-order {options.kspace_order}: the image behind --trajectory has its origin in the middle; leave "
            "it out"
        )


def _maps(kspace: Array, path: Path, options: MriOptions) -> Array | None:
    """(slices or 1, coils, H, W) of --maps; None for one coil."""
    from ...io import read_maps

    slices, coils = kspace.shape[:2]
    if options.maps is None:
        if coils > 1:
            raise ImageFileError(f"{path}: has {coils} coils; pass their sensitivities with --maps FILE")
        return None
    maps: Array = read_maps(options.maps, options.maps_layout)
    if maps.shape[1] != coils or len(maps) not in (1, slices):
        raise ImageFileError(
            f"{options.maps}: maps are (slices, coils, H, W) = {maps.shape}; expected 1 or {slices} slices of {coils} "
            f"coils, as the k-space of {path}"
        )
    return maps


def _image_size(places: Array, given: tuple[int, int] | None) -> tuple[int, int]:
    """--size, else that of the smallest square image that holds the trajectory."""
    if given is not None:
        return given
    side = 2 * int(np.ceil(np.abs(places).max() - EDGE))
    return side, side


def _range(path: Path, images: list[Array], options: MriOptions) -> Range:
    """--data-range, else that of the gridded magnitudes."""
    if not options.data_range:
        return quantile_range(path, "gridded magnitude", [np.abs(image) for image in images])
    meaning = stated_range(options.data_range)
    if meaning.low:
        raise UsageError(
            f"--data-range {meaning.low:g} {meaning.high:g}: black is 0 in MRI; pass one number, the magnitude of white"
        )
    return meaning
