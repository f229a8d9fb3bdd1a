"""What callers may pass, right or wrong: arrays of every kind, operators, and values for every argument."""

import numpy as np
from hypothesis import strategies as st
from models import coil_maps

from safi_fast.operators import Blur, Downsample, FourierMRI, Identity, Mask, ParallelBeamCT, SenseMRI, from_functions

DTYPES = ("u1", "u2", "i2", "i4", "i8", "f2", "f4", "f8", ">f4", ">u2", "?", "c8", "c16", "U3", "O")
ODD_VALUES = (np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-40, -1.0, 255.0, 1e308)
SIDES = (0, 1, 2, 7, 13, 14, 21, 24)
SHAPE = (21, 24)

whole = st.integers(-3, 6)
sides = st.one_of(st.sampled_from(SIDES), st.just(21))


@st.composite
def shapes(draw):
    """Mostly those of images and stacks, also none, flat, empty and too many dimensions."""
    if draw(st.booleans()):
        front = draw(st.sampled_from([(), (1,), (2,), (2, 1), (3,)]))
        return (*front, *SHAPE, *draw(st.sampled_from([(), (), (3,)])))
    return tuple(draw(st.lists(sides, max_size=5)))


@st.composite
def arrays(draw, shape=None, dtype=None):
    """Of this shape and dtype or of any: with odd values, in any order of memory, as list, masked array or torch
    tensor.
    """
    shape = draw(shapes()) if shape is None else shape
    dtype = np.dtype(draw(st.sampled_from(DTYPES)) if dtype is None else dtype)
    rng = np.random.default_rng(draw(st.integers(0, 9)))
    values = rng.random(shape)
    if dtype.kind in "iu":
        values = 200 * values
    if dtype.kind == "c":
        values = values + 1j * rng.random(shape)
    with np.errstate(all="ignore"):
        array = np.array(values).astype(dtype)
        if dtype.kind in "fc" and array.size and draw(st.integers(0, 6)) == 4:
            array.flat[draw(st.integers(0, array.size - 1))] = draw(st.sampled_from(ODD_VALUES))
    return draw(st.sampled_from([_as_it_is, _fortran, _backwards, _read_only, _as_list, _masked, _tensor, _trained]))(
        array
    )


def _as_it_is(array):
    return array


def _fortran(array):
    return np.asfortranarray(array)


def _backwards(array):
    return array[..., ::-1] if array.ndim else array


def _read_only(array):
    array.flags.writeable = False
    return array


def _as_list(array):
    return array.tolist()


def _masked(array):
    return np.ma.masked_array(array)


def _tensor(array):
    try:
        import torch

        return torch.tensor(array)
    except (ImportError, TypeError, ValueError, RuntimeError):  # torch has not this dtype
        return array


def _trained(array):
    tensor = _tensor(array)
    if hasattr(tensor, "requires_grad") and tensor.is_floating_point():
        tensor.requires_grad_(True)
    return tensor


def mostly(right, wrong):
    """Of five draws four are right, so that many calls give a result.

    Hypothesis favours the ends of a range: the wrong ones are in its middle.
    """
    return st.integers(0, 4).flatmap(lambda n: wrong if n == 2 else right)


def images():
    """Mostly one, or a few, that can be solved."""
    right = st.sampled_from([SHAPE, (2, *SHAPE), (1, 1, *SHAPE)]).flatmap(
        lambda shape: st.sampled_from(["f4", "f8", ">f4", "f2"]).flatmap(lambda dtype: arrays(shape, dtype))
    )
    return mostly(right, arrays())


def numbers():
    """For an argument that should be a positive number, or one per image."""
    odd = [
        0,
        -1,
        np.nan,
        np.inf,
        "0.1",
        None,
        [],
        {},
        object(),
        10**400,
        1 + 1j,
        True,
        np.float32(0.1),
        np.array([[0.1]]),
    ]
    lists = st.lists(st.sampled_from([0.1, 0.05, -1.0, np.nan]), max_size=3)
    return mostly(st.sampled_from([0.1, 25 / 255, 0.05]), st.one_of(st.sampled_from(odd), lists, arrays(shape=(2,))))


def counts():
    return mostly(st.integers(1, 3), st.sampled_from([0, -1, 1.5, "2", None, True, np.int64(2), object()]))


def boxes():
    odd = [None, (1, 0), (0, np.nan), (-np.inf, np.inf), (0,), "01", 3, (object(), 1), (0.0, 0.0), (-1, 2)]
    return mostly(st.just((0.0, 1.0)), st.sampled_from(odd))


@st.composite
def some_of(draw, **strategies):
    """Keywords, each of them in one draw of six."""
    return {name: draw(strategy) for name, strategy in strategies.items() if draw(st.integers(0, 5)) == 3}


def denoise_options():
    return some_of(
        data_range=numbers(), channel_axis=st.one_of(whole, st.just("c")),
        schedule=st.sampled_from(["gap", "converged", "x", 1]), box=boxes(),
        strength=numbers(), lipschitz=numbers(), tol=numbers(), color=st.sampled_from(["separate", "luma-chroma", 1]),
        max_memory=numbers(), return_solution=st.booleans(),
    )  # fmt: skip


def reconstruct_options():
    return some_of(
        noise_level=numbers(), data_range=numbers(), box=boxes(), x0=arrays(), tol=numbers(),
        return_masks=st.booleans(),
        mask_of=st.sampled_from(["parts", "magnitude", 3]),
    )  # fmt: skip


def _broken(kind):
    """An operator that lies: a wrong adjoint, another shape than it says, NaN, an argument written to, an exception of
    ours to come.
    """

    def write(x):
        x *= 2
        return x

    functions = {
        "adjoint": (lambda x: np.cumsum(x, 0), lambda y: np.cumsum(y, 0)),
        "shape": (lambda x: x[:-1], lambda y: y),
        "nan": (lambda x: x * np.nan, lambda y: y * np.nan),
        "writes": (write, write),
        "affine": (lambda x: x + 1, lambda y: y),
        "zero": (lambda x: 0 * x, lambda y: 0 * y),
        "complex": (lambda x: 1j * x, lambda y: -1j * y),
        "right": (lambda x: 2 * x, lambda y: 2 * y),
    }
    return from_functions(*functions[kind], shape_in=SHAPE, shape_out=SHAPE)


@st.composite
def operators(draw):
    """Every kind of operator on 21 x 24 pixels, and some that are wrong."""
    rng = np.random.default_rng(draw(st.integers(0, 5)))
    image = draw(st.sampled_from(["real", "complex"]))
    kind = draw(st.sampled_from(["identity", "blur", "mask", "reduced", "mri", "sense", "ct", "broken"]))
    if kind == "broken":
        return _broken(
            draw(st.sampled_from(["adjoint", "shape", "nan", "writes", "affine", "zero", "complex", "right"]))
        )
    if kind == "blur":
        return Blur(
            rng.random(draw(st.sampled_from([(1, 1), (3, 5), (4, 4)]))),
            SHAPE,
            draw(st.sampled_from(["zero", "circular"])),
        )
    if kind == "reduced":
        return Downsample(3, SHAPE)
    if kind == "ct":
        return ParallelBeamCT(SHAPE, np.linspace(0, np.pi, draw(st.integers(1, 12)), endpoint=False), 33)
    if kind in ("mri", "sense"):
        options = {"mask_order": draw(st.sampled_from(["fft", "centered"])), "image": image, "check_order": False}
        lines = np.ones((SHAPE[0], 1)) * (rng.random((1, SHAPE[1])) < 0.6)
        lines[:, 0] = 1
        return FourierMRI(lines, **options) if kind == "mri" else SenseMRI(coil_maps(3, *SHAPE), lines, **options)
    return Identity(SHAPE, image=image) if kind == "identity" else Mask(rng.random(SHAPE) < 0.7, image=image)
