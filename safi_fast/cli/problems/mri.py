"""Cartesian MRI from k-space: BART .cfl, fastMRI or ISMRMRD .h5, .npy, .npz or .mat; one coil, or several with maps.

K-space lies on the full grid, zero where nothing was sampled, its transform orthonormal. Frequency zero is in the
middle (--kspace-order centered, as BART, fastMRI and sigpy store it) or at index 0 (fft). The sampling mask is --mask,
else the file's own, else where k-space is not zero in any coil. K-space has an arbitrary scale: it is divided by
--data-range, by default the 99.9 % quantile of the zero-filled magnitude (root sum of squares of the coils) over all
slices of the file, and the result is multiplied by it.

Axes are taken as they are stored: BART's dimensions; (slices, [coils,] H, W) of fastMRI's kspace; else (H, W), (coils,
H, W) with maps, or (slices, coils, H, W). Others need --layout, one letter per axis, such as hwc for MATLAB's (H, W,
coils). Axes whose energy shows that they are others are refused, and a mask that does not fit k-space: one that keeps
many samples that are exactly zero. It may leave out samples that were measured. Lines of ISMRMRD are sorted by their
counters: noise scans, navigators and the like are left out, averages and repetitions averaged, readout oversampling
removed; of several contrasts, phases or sets --select says which. Several slices go into a folder as one file each
(NAME_000.npy), or into one .npy, .cfl or .tif file as a stack.

With --trajectory FILE k-space lies off the grid (pip install finufft). FILE holds (n, m, 2), such as (spokes, samples,
2), for k-space whose last two axes are (n, m), or BART's (3, samples, spokes): cycles per field of view, from -H / 2 to
H / 2 along the rows' axis, then from -W / 2 to W / 2 along the columns', as sigpy and BART have it.
"""

import argparse
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from ...errors import ImageFileError, InputError
from ...types import MaskOf
from ...values import Range, stated_range
from ..arguments import UsageError, count
from ..parser import Rare
from . import Array, CaseOptions, Slice, Study, measured_study, quantile_range, trajectory
from .ct import size

if TYPE_CHECKING:
    from ...io import Kspace
    from ...operators import Operator

UNEXPLAINED = 0.2  # share of the signal that maps may leave, before others that leave half of that are looked for
INPUT, INPUT_HELP = "KSPACE", "k-space files or folders of them"
Order = Literal["centered", "fft"]
Image = Literal["complex", "real"]
ORDERS = get_args(Order)


@dataclass(frozen=True, kw_only=True)
class MriOptions(CaseOptions):
    """The arguments of `safi-fast reconstruct mri` that say what the measurements are."""

    variable: str | None
    layout: str | None
    select: tuple[tuple[str, int], ...] | None
    kspace_order: Order
    mask: str | None
    mask_order: Order | None
    maps: str | None
    estimate_maps: bool
    maps_layout: str | None
    maps_method: str
    calibration: int | None
    image: Image
    mask_of: MaskOf
    no_order_check: bool
    no_mask_check: bool
    trajectory: str | None
    size: tuple[int, int] | None

    @property
    def order(self) -> Order:
        """That of the mask."""
        return self.mask_order or self.kspace_order

    @property
    def files(self) -> tuple[str | None, ...]:
        """What may name files that are read beside the inputs."""
        return (self.mask, self.maps, self.trajectory)

    def open_study(self, path: Path) -> Study:
        """What one input holds."""
        return open_study(path, self)


OPTIONS = MriOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What only MRI needs."""
    parser.add_argument(
        "--variable", metavar="NAME", help=Rare("which array of a .mat, .npz or .h5 file (default: the only one)")
    )
    parser.add_argument(
        "--layout", metavar="LETTERS", help=Rare("axes of the file: s slices, c coils, h rows, w columns")
    )
    parser.add_argument(
        "--select",
        type=counters,
        metavar="NAME=N",
        help=Rare("lines of ISMRMRD by their counters, such as contrast=1,set=0 (default: all, averages averaged)"),
    )
    parser.add_argument(
        "--kspace-order", choices=ORDERS, default="centered", help=Rare("where frequency zero is (default: centered)")
    )
    parser.add_argument("--mask", metavar="FILE", help="sampling mask of 0 and 1, (H, W), or (W,) for columns")
    parser.add_argument("--mask-order", choices=ORDERS, help=Rare("of the mask (default: that of k-space)"))
    maps = parser.add_mutually_exclusive_group()
    maps.add_argument("--maps", metavar="FILE", help="coil sensitivity maps, images (coils, H, W)")
    maps.add_argument("--estimate-maps", action="store_true", help="estimate the maps from the centre of k-space")
    parser.add_argument(
        "--maps-layout", metavar="LETTERS", help=Rare("axes of the file of maps (default: chw or schw)")
    )
    parser.add_argument(
        "--maps-method", choices=("espirit", "low_resolution"), default="espirit", help=Rare("default: espirit")
    )
    parser.add_argument(
        "--calibration", type=count, metavar="N", help=Rare("side of the calibration region (default: found)")
    )
    parser.add_argument(
        "--image", choices=get_args(Image), default="complex", help="what the image is (default: complex)"
    )
    parser.add_argument(
        "--mask-of",
        choices=get_args(MaskOf),
        default="magnitude",
        help=Rare("complex images: one regularisation mask, or one each for real and imaginary part"),
    )
    parser.add_argument(
        "--no-order-check",
        action="store_true",
        help=Rare("accept masks and k-space that look as if in the other order, or with other axes"),
    )
    parser.add_argument(
        "--no-mask-check", action="store_true", help=Rare("accept a mask that keeps samples that are exactly zero")
    )
    parser.add_argument(
        "--trajectory", metavar="FILE", help=Rare("where k-space off the grid was sampled, in cycles per field of view")
    )
    parser.add_argument(
        "--size",
        type=size,
        metavar="N|HxW",
        help=Rare("of the image behind a trajectory, in pixels (default: the smallest square that holds it)"),
    )


def counters(text: str) -> tuple[tuple[str, int], ...]:
    """NAME=N,NAME=N."""
    try:
        found = tuple((name, int(number)) for name, number in (part.split("=") for part in text.split(",")))
    except ValueError:
        found = ()
    if not found or min(number for _, number in found) < 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=N, such as contrast=1 or contrast=1,set=0")
    return found


def list_inputs(paths: Iterable[str]) -> list[Path]:
    """Files of measurements."""
    from ...io import list_measurements

    return list_measurements(paths, (".cfl", ".npy", ".npz", ".mat", ".h5", ".hdf5"))


def open_study(path: Path, options: MriOptions) -> Study:
    """Read a file and its mask and maps, settle scale and box."""
    from ...io import read_kspace

    if options.image == "complex" and options.box:
        raise UsageError("--box bounds real images; complex ones have none: use --image real, or leave --box out")
    if options.trajectory:
        return trajectory.open_study(path, options)
    if options.size:
        raise UsageError("--size is for k-space off the grid; pass --trajectory FILE too, or leave it out")
    kspace = read_kspace(
        path,
        options.variable,
        options.layout,
        coils=bool(options.maps or options.estimate_maps),
        check_axes=not options.no_order_check,
        select=dict(options.select or ()),
    )
    maps = _maps(kspace, path, options)
    mask, source = _mask(kspace, path, options)
    _check_mask(kspace.array, mask, path, options)
    if maps is not None and not options.no_order_check:
        _check_maps(kspace.array[0], maps[0], options)
    meaning = _range(kspace, maps, mask, path, options)

    def make(number: int) -> Slice:
        return _slice(path, kspace.array[number], maps, number, mask, options)

    facts = {
        "layout": kspace.layout,
        "coils": kspace.array.shape[1],
        "kspace_order": options.kspace_order,
        "mask": source,
        "mask_order": options.order,
        "maps": options.maps or (options.maps_method if options.estimate_maps else None),
        "image_kind": options.image,
    }
    return measured_study(
        len(kspace.array),
        make,
        meaning,
        options,
        facts,
        start_name="Zero-filled",
        image=options.image,
        mask_of=options.mask_of,
    )


def _maps(kspace: "Kspace", path: Path, options: MriOptions) -> Array | None:
    """(slices or 1, coils, H, W) of --maps; None for one coil, or where they are estimated."""
    from ...io import read_maps

    slices, coils, height, width = kspace.array.shape
    if options.maps:
        maps: Array = read_maps(options.maps, options.maps_layout)
        if maps.shape[1:] != kspace.array.shape[1:] or len(maps) not in (1, slices):
            raise ImageFileError(
                f"{options.maps}: maps are (slices, coils, H, W) = {maps.shape}; expected 1 or {slices} slices of "
                f"{(coils, height, width)}, as the k-space of {path}"
            )
        return maps
    if coils > 1 and not options.estimate_maps:
        raise ImageFileError(
            f"{path}: has {coils} coils; pass their sensitivities with --maps FILE, or --estimate-maps"
        )
    if coils == 1 and options.estimate_maps:
        raise ImageFileError(f"{path}: has one coil, of shape {kspace.array.shape[2:]}: leave --estimate-maps out")
    return None


def _range(kspace: "Kspace", maps: Array | None, mask: Array | None, path: Path, options: MriOptions) -> Range:
    """--data-range, else that of the zero-filled magnitudes."""
    if options.data_range:
        meaning = stated_range(options.data_range)
        if meaning.low:
            raise UsageError(
                f"--data-range {meaning.low:g} {meaning.high:g}: black is 0 in MRI; pass one number, the "
                "magnitude of white"
            )
        return meaning
    magnitudes = [_magnitude(kspace.array[n], maps, n, mask, options) for n in range(len(kspace.array))]
    return quantile_range(path, "zero-filled magnitude", magnitudes)


def _mask(kspace: "Kspace", path: Path, options: MriOptions) -> tuple[Array | None, str]:
    """The mask (H, W) in its order, None: found slice by slice; and where it comes from."""
    from ...io import read_mask

    shape = kspace.array.shape[2:]
    mask, source = kspace.mask, "of the file"
    if options.mask:
        mask, source = read_mask(options.mask), options.mask
    elif mask is None:
        return None, "where k-space is not zero"
    if mask.ndim != 2 or any(n not in (1, side) for n, side in zip(mask.shape, shape, strict=True)):
        rows = f"; one of rows is ({shape[0]}, 1)" if mask.shape == (1, shape[0]) else ""
        raise ImageFileError(
            f"{options.mask or path}: the mask has shape {mask.shape}; expected {shape}, one of its sides 1, or "
            f"({shape[1]},){rows}"
        )
    mask = np.broadcast_to(mask, shape)
    if not options.mask:
        mask, source = _without_padding(mask, kspace.array, source)
    return mask, source


def _without_padding(mask: Array, kspace: Array, source: str) -> tuple[Array, str]:
    """fastMRI's masks count the columns of zeros around what was measured as sampled; here they are not."""
    measured = np.zeros(mask.shape[1], bool)
    for one in kspace:
        measured |= (one != 0).any(axis=(0, 1))
    if not measured.any():
        return mask, source
    first, last = np.flatnonzero(measured)[[0, -1]]
    inside = (np.arange(len(measured)) >= first) & (np.arange(len(measured)) <= last)
    padding = int(np.count_nonzero(mask.any(axis=0) & ~inside))
    return mask & inside, f"{source}, without {padding} columns of zeros around it" if padding else source


def _check_mask(kspace: Array, mask: Array | None, path: Path, options: MriOptions) -> None:
    """Refuse a mask that is not the one of the k-space (slices, coils, H, W), before any work. Raises InputError."""
    from ...operators.sampling import check_energy, check_samples, in_fft_order, sampling_mask

    if mask is None or options.no_mask_check:
        return
    order = options.order
    sampled = sampling_mask(mask, order, None, not options.no_order_check)
    advice = "leave --mask out to take what is not zero, or " if options.mask else ""
    for number, one in enumerate(kspace):
        if not options.no_order_check:
            check_energy("measurement", one, options.kspace_order)
        check_samples(
            f"k-space of {path}" + (f", slice {number}," if len(kspace) > 1 else ""),
            in_fft_order(one, options.kspace_order),
            sampled,
            leaves_out=True,
            advice=f"{advice}pass --no-mask-check if zeros were measured",
        )


def _check_maps(kspace: Array, maps: Array, options: MriOptions) -> None:
    """Refuse maps (C, H, W) that fit the middle of k-space much better with rows and columns, or the origin, exchanged.

    Raises ImageFileError.
    """
    from ...operators.fourier import centered_order, fft_order
    from ...operators.maps import explained

    turned = {"rows and columns exchanged (--maps-layout with w before h)": np.swapaxes(maps, 1, 2)}
    turned = turned if maps.shape[1] == maps.shape[2] else {}
    centered = options.kspace_order == "centered"
    place = "middle" if centered else "corner, at index 0,"
    turned[f"their origin moved to the {place} of the image, where this --kspace-order has it"] = (
        centered_order(maps) if centered else fft_order(maps)
    )
    found = explained(kspace, maps, options.kspace_order)
    for change, other in turned.items():
        better = explained(kspace, other, options.kspace_order)
        if found < 1 - UNEXPLAINED and 1 - better < (1 - found) / 2:
            raise ImageFileError(
                f"{options.maps}: the maps explain {100 * found:.0f} % of the signal in the middle of k-space, but "
                f"{100 * better:.0f} % with "
                f"{change}; pass them so, or --no-order-check if they are right as they are"
            )


def _measured(kspace: Array, mask: Array | None, options: MriOptions) -> tuple[Array, Array, Order]:
    """The mask, k-space in complex64, and the order of the mask."""
    y = np.asarray(kspace, np.complex64)
    if mask is None:
        return (y != 0).any(axis=0), y, options.kspace_order
    return mask, y, options.order


@contextmanager
def _order_named(mask: Array | None) -> Iterator[None]:
    """A mask that was found in k-space is in its order: --mask-order would change nothing."""
    try:
        yield
    except InputError as error:
        if mask is not None:
            raise
        raise InputError(str(error).replace("mask_order=", "kspace_order=")) from error


def _magnitude(kspace: Array, maps: Array | None, number: int, mask: Array | None, options: MriOptions) -> Array:
    """(pixels,) zero-filled magnitude: root sum of squares of the coils over that of the maps, where there are any."""
    from ...operators import FourierMRI

    sampled, y, order = _measured(kspace, mask, options)
    if not y.any():
        return np.zeros(1, np.float32)
    with _order_named(mask):
        transform = FourierMRI(
            sampled,
            mask_order=order,
            kspace_order=options.kspace_order,
            image="complex",
            check_order=not options.no_order_check,
            check_mask=False,  # done
        )
    total = np.sqrt((np.abs(transform.adjoint(transform.check_measurement(y))) ** 2).sum(0))
    if maps is None:
        return np.asarray(total)
    weight = np.sqrt((np.abs(maps[min(number, len(maps) - 1)]) ** 2).sum(0))
    seen = weight > 0.1 * weight.max()
    return np.asarray(total[seen] / weight[seen])


def _slice(
    path: Path, kspace: Array, maps: Array | None, number: int, mask: Array | None, options: MriOptions
) -> Slice:
    from ...operators import FourierMRI, SenseMRI, estimate_maps

    sampled, y, order = _measured(kspace, mask, options)
    settings: dict[str, Any] = {
        "mask_order": order,
        "kspace_order": options.kspace_order,
        "image": options.image,
        "check_order": not options.no_order_check,
        "check_mask": False,  # done
    }
    facts = {"sampled_share": float(np.mean(sampled))}
    operator: Operator
    if maps is None and not options.estimate_maps:
        y = y[0]
        with _order_named(mask):
            operator = FourierMRI(sampled, **settings)
    else:
        if maps is None:
            of = estimate_maps(
                y, kspace_order=options.kspace_order, method=options.maps_method, calibration=options.calibration
            )
            if not of.any():
                raise InputError(
                    f"no pixel of {path} fits its calibration region; try --maps-method low_resolution, another "
                    "--calibration, or --maps"
                )
        else:
            of = np.asarray(maps[min(number, len(maps) - 1)])
        with _order_named(mask):
            operator = SenseMRI(of, sampled, **settings)
    y = operator.check_measurement(y)
    return Slice(y, operator, operator.adjoint(y), None, facts)
