"""An acquisition of MRpro as operators of this package, for mrpro.py.

One of our operators is taken where it gives what MRpro's gives for random images, to float32 rounding:

    FourierMRI, SenseMRI    samples of kdata.traj on the grid, no sample twice, encoding matrix and image of one size
    NonCartesianMRI         other trajectories of such sizes
    from_mrpro              everything else: fourier_op, or one made of the trajectory of each slice
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from mrpro.data import KTrajectory, SpatialDimension
from mrpro.operators import FourierOp, SensitivityOp
from numpy.typing import NDArray

from ..errors import BackendError, InputError, OperatorError
from ..operators import FourierMRI, NonCartesianMRI, Operator, SenseMRI, from_mrpro

CLOSE = 3e-5  # relative, of float32 transforms
GRID = 1e-3  # of a sample from its place, as MRpro has it
BRIGHT = 0.999  # quantile of the magnitudes


@dataclass(frozen=True)
class Acquisition:
    """Operators, one for all images or one each, and their measurements.

    measured: (images, *shape_out). shape: of the images in MRpro, (*other, coils or 1, 1, y, x). white: the magnitude
    of their brightest pixels.
    """

    operators: list[Operator]
    measured: Any
    shape: tuple[int, ...]
    white: float


@dataclass(frozen=True)
class _Parts:
    """What operators are made of, for n images.

    places: ky and kx in cycles per field of view, (n, k2, k1, k0) each. maps: (1 or n, coils, 1, H, W); None: none.
    """

    fourier_op: Any
    places: tuple[Any, Any, Any]
    encoding: Any
    maps: Any
    size: tuple[int, int]


Sorted = Callable[[Any], Any]  # measurements (n, [coils,] k2, k1, k0) as the operators take them
Candidate = tuple[list[Operator], Sorted]


def white(image: Any) -> float:
    """The magnitude of the brightest pixels. Raises InputError where there is none."""
    magnitudes = image.abs().cpu().numpy()
    found = float(np.quantile(magnitudes, BRIGHT)) if magnitudes.size else 0.0
    if not found > 0 or not np.isfinite(found):
        raise InputError(f"data of shape {tuple(image.shape)} has no magnitude to scale by: its brightest is {found}")
    return found


def acquisition(fourier_op: Any, csm_op: Any, dcf_op: Any, kdata: Any) -> Acquisition:
    """How `kdata` is reconstructed. Raises InputError."""
    model, y = fourier_op if csm_op is None else fourier_op @ csm_op, kdata.data
    (start,) = model.H(y if dcf_op is None else dcf_op(y)[0])
    (seen,) = model(start)
    if seen.shape != y.shape:
        raise InputError(f"kdata.data has shape {tuple(y.shape)}; fourier_op gives {tuple(seen.shape)}")
    shape = tuple(map(int, start.shape))
    if shape[-3] != 1:
        raise InputError(
            f"images have {shape[-3]} planes along z; expected 1: slices, each for itself, lie in the axes before coils"
        )
    fitted = float(torch.vdot(seen.ravel(), y.ravel()).abs() / seen.abs().square().sum().clamp(min=1e-38))
    brightest = white(start) * fitted
    count = start.shape[:-3].numel()
    flat = (count, *y.shape[-3:]) if csm_op is None else (count, *y.shape[-4:])
    parts = _parts(fourier_op, csm_op, kdata, shape)

    generator = np.random.default_rng(0)
    values = generator.standard_normal(shape) + 1j * generator.standard_normal(shape)
    probe = torch.tensor(values, dtype=start.dtype, device=start.device)
    expected = model(probe)[0].reshape(flat)
    for made, arranged in _candidates(parts):
        if _same(made, probe.reshape(count, *shape[-2:]), arranged(expected)):
            return Acquisition(made, arranged(y.reshape(flat)), shape, brightest)
    raise InputError(
        f"fourier_op does not treat its {count} images each for itself, or is neither one for all nor that of "
        "kdata.traj; reconstruct one image at a time"
    )


def _parts(fourier_op: Any, csm_op: Any, kdata: Any, shape: tuple[int, ...]) -> _Parts:
    """For images of `shape`."""
    front, count, traj = shape[:-3], int(np.prod(shape[:-3])), kdata.traj
    kz, ky, kx = (
        torch.broadcast_to(k, (*front, *kdata.data.shape[-3:])).reshape(count, *kdata.data.shape[-3:])
        for k in (traj.kz, traj.ky, traj.kx)
    )
    maps = None
    if csm_op is not None:
        of_all = torch.broadcast_to(csm_op.csm_tensor, (*front[:-1], *csm_op.csm_tensor.shape[-4:]))
        maps = _one_if_equal(of_all.reshape(count, *of_all.shape[-4:]))
    return _Parts(fourier_op, (kz, ky, kx), kdata.header.encoding_matrix, maps, (shape[-2], shape[-1]))


def _one_if_equal(values: Any) -> Any:
    """The first of (n, ...) as (1, ...) where all are the same."""
    return values[:1] if bool((values == values[:1]).all()) else values


def _candidates(parts: _Parts) -> Iterator[Candidate]:
    """What may be the acquisition, the cheapest first."""
    for make in (_cartesian, _off_grid, _called, _called_by_trajectory):
        try:
            yield make(parts)
        except torch.OutOfMemoryError:
            raise
        except (InputError, OperatorError, BackendError, RuntimeError, ValueError):  # of a size that does not fit
            continue


def _same(operators: list[Operator], probe: Any, expected: Any) -> bool:
    """Whether the operators give for the images `probe` (n, H, W) what was expected, (n, *shape_out)."""
    if tuple(expected.shape[1:]) != operators[0].shape_out:
        return False
    wrong = total = 0.0
    for number, (image, wanted) in enumerate(zip(probe.cpu().numpy(), expected.cpu().numpy(), strict=True)):
        found = operators[number if len(operators) > 1 else 0].apply(image)
        wrong += float(np.linalg.norm(found - wanted) ** 2)
        total += float(np.linalg.norm(wanted) ** 2)
    return bool(wrong <= CLOSE**2 * total)


def _each(make: Callable[..., Operator], *parts: Any) -> list[Operator]:
    """make(...) of the entries of sequences that have one for all or one each; None stays."""
    count = max(len(part) for part in parts if part is not None)
    return [make(*(None if part is None else part[number % len(part)] for part in parts)) for number in range(count)]


# ------------------------------------------------------------------------------------------------ operators of our own


def _cartesian(parts: _Parts) -> Candidate:
    """Samples of a grid of the size of the image. Raises InputError."""
    (_, ky, kx), (height, width) = parts.places, parts.size
    rows, columns = (k.round().long() + side // 2 for k, side in ((ky, height), (kx, width)))
    apart = max(float((k - k.round()).abs().max()) for k in (ky, kx))
    inside = bool(((rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)).all())
    places = (rows * width + columns).flatten(1)
    counts = torch.zeros(len(places), height * width, device=ky.device)
    counts.scatter_add_(1, places.clamp(0, height * width - 1), torch.ones_like(places, dtype=counts.dtype))
    if apart > GRID or not inside or float(counts.max()) > 1:
        raise InputError("samples are not each at a place of its own on the grid")

    def arranged(y: Any) -> Any:
        given = y.reshape(len(y), -1, places.shape[1])
        grid = torch.zeros(*given.shape[:2], height * width, dtype=y.dtype, device=y.device)
        grid.scatter_(-1, places[:, None].expand_as(given), given)
        return grid.reshape(len(y), *([] if parts.maps is None else [-1]), height, width)

    def make(mask: NDArray[Any], maps: NDArray[Any] | None) -> Operator:
        settings: dict[str, Any] = {"mask_order": "centered", "check_order": False, "check_mask": False}
        return FourierMRI(mask, image="complex", **settings) if maps is None else SenseMRI(maps, mask, **settings)

    masks = _one_if_equal(counts.reshape(-1, height, width) > 0).cpu().numpy()
    return _each(make, masks, _maps(parts)), arranged


def _off_grid(parts: _Parts) -> Candidate:
    """Other samples. Raises InputError, BackendError."""
    _, ky, kx = parts.places
    places = _one_if_equal(torch.stack([ky, kx], -1)).cpu().numpy()
    return _each(lambda where, maps: NonCartesianMRI(where, parts.size, maps), places, _maps(parts)), lambda y: y


def _maps(parts: _Parts) -> NDArray[Any] | None:
    return None if parts.maps is None else parts.maps[:, :, 0].cpu().numpy()


# ------------------------------------------------------------------------------------------------------- through MRpro


def _called(parts: _Parts) -> Candidate:
    """fourier_op, where it takes one image."""
    return _through(parts, [parts.fourier_op])


def _called_by_trajectory(parts: _Parts) -> Candidate:
    """A FourierOp of each trajectory."""
    size = SpatialDimension(1, *parts.size)
    trajectories = (KTrajectory(*(k[None, None] for k in one)) for one in zip(*parts.places, strict=True))
    return _through(parts, [FourierOp(size, parts.encoding, one) for one in trajectories])


def _through(parts: _Parts, fourier_ops: list[Any]) -> Candidate:
    def make(fourier_op: Any, maps: Any) -> Operator:
        return from_mrpro(fourier_op if maps is None else fourier_op @ SensitivityOp(maps[None]), parts.size)

    made = _each(make, fourier_ops, parts.maps)
    return made, lambda y: y.reshape(len(y), *made[0].shape_out)
