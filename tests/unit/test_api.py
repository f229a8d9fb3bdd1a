"""What a caller may pass to denoise() and Solver, what comes back, and in which words the rest is refused."""

import subprocess
import sys
from functools import cache

import numpy as np
import pytest
from models import random_mmr_mask, random_model, random_safi_mask
from patience import PROCESS

import safi_fast
from safi_fast import BackendError, InputError, ModelError, Solver, denoise
from safi_fast.arrays import as_array
from safi_fast.bindings.cpu import CpuBackend
from safi_fast.weights import save_model

SIGMA = 25 / 255
QUICK = {"max_outer": 2, "max_inner": 3}  # a mask, momentum, and little work
# float32 inside: an input off by one rounding moves the result by a few
CLOSE = 2e-6


@cache
def solver():
    return Solver(random_model())


def picture(*shape, seed=0):
    return np.random.default_rng(seed).random(shape)


def run(image, sigma=SIGMA, **options):
    return solver().denoise(image, sigma, **(QUICK | options))


PICTURE = picture(20, 22)


def refused(error, message, image=PICTURE, sigma=SIGMA, **options):
    """`denoise` with one thing wrong raises `error`."""
    with pytest.raises(error, match=message):
        denoise(image, sigma, **({"model": solver().model} | options))


# ------------------------------------------------------------------------------------------------------------- shapes


@pytest.mark.parametrize("shape", [(19, 23), (1, 19, 23), (3, 19, 23), (3, 1, 19, 23), (1, 1, 19, 23)])
def test_shapes(shape):
    """Every image of a stack comes back where it was."""
    stack = picture(*shape)
    result = run(stack)
    assert result.shape == shape
    for image, one in zip(stack.reshape(-1, 19, 23), result.reshape(-1, 19, 23), strict=True):
        np.testing.assert_array_equal(one, run(image))


@pytest.mark.parametrize(("dimensions", "axis"), [(3, -1), (3, 0), (3, 1), (4, -1), (4, 0), (4, 1), (4, -3)])
def test_channel_axis(dimensions, axis):
    """Channels are denoised one by one where asked for, wherever their axis is; sigma and strength may be given per
    image.
    """
    batch, channels = (1 if dimensions == 3 else 2), 3
    planes, several = picture(batch, channels, 18, 21), Solver(random_model(levels=(15 / 255, 35 / 255)))
    sigma, strength = np.array([20, 30][:batch]) / 255, 0.03 * np.arange(1, batch + 1)
    image = np.moveaxis(planes if dimensions == 4 else planes[0], -3, axis)
    result = several.denoise(image, sigma, strength=strength, channel_axis=axis, color="separate", **QUICK)
    assert result.shape == image.shape
    assert result.flags.c_contiguous
    back = np.moveaxis(result, axis, -3).reshape(planes.shape)
    for b, c in np.ndindex(batch, channels):
        one = several.denoise(planes[b, c], sigma[b], strength=strength[b], **QUICK)
        np.testing.assert_array_equal(back[b, c], one)


def test_solution_of_colour_has_a_value_per_channel():
    solution = run(picture(18, 21, 3), channel_axis=-1, return_solution=True)
    assert solution.image.shape == (18, 21, 3)
    assert solution.gap.shape == (3,)


def test_smallest_image():
    support = solver().model.filters.support
    assert run(picture(support, support)).shape == (support, support)


def test_smallest_image_of_a_model_with_a_wide_mask():
    """An image is at least as large as the filters, and as the part of it that a mask kernel
    reads beyond its border.
    """
    rng = np.random.default_rng(0)
    safi = random_safi_mask(rng, kernels=(9, 3, 3), dilations=(1, 2, 1), boundary="symmetric")
    mmr = random_mmr_mask(rng, kernels=(3, 9))
    for family, mask in (("safi", safi), ("mmr", mmr)):
        model = random_model(family, kernels=(3,), boundary="symmetric", mask=mask)
        assert model.smallest_side == 4
        denoise(picture(4, 9), SIGMA, model=model, **QUICK)
        refused(
            InputError,
            "image is 9 x 3 pixels; the filters of this model need 4 x 4 or more",
            picture(9, 3),
            model=model,
        )


# ------------------------------------------------------------------------------------------------------ dtypes, layout


@pytest.mark.parametrize(
    ("dtype", "white", "returned"),
    [
        (np.uint8, 255, np.float32),
        (np.uint16, 65535, np.float32),
        (np.float16, 1, np.float32),
        (np.float32, 1, np.float32),
        (np.float64, 1, np.float64),
        (">f4", 1, np.float32),
        (">f8", 1, np.float64),
        (">u2", 65535, np.float32),
    ],
)
def test_dtypes(dtype, white, returned):
    """The range follows from the dtype; the result has the caller's range in float32, or float64 for float64."""
    image = (picture(20, 22) * white).astype(dtype)
    result = run(image, SIGMA * white)
    assert result.dtype == returned
    assert result.dtype.isnative
    expected = white * run(image.astype(float) / white)
    np.testing.assert_allclose(result, expected, rtol=0, atol=CLOSE * white)
    assert result.max() > white / 2


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64, np.uint32, np.float16, np.float32, float])
def test_data_range_is_the_value_of_white(dtype):
    image = (100 * picture(20, 22)).astype(dtype)
    result = run(image, 100 * SIGMA, data_range=100)
    expected = 100 * run(image.astype(float) / 100)
    np.testing.assert_allclose(result, expected, rtol=0, atol=100 * CLOSE)


def test_half_precision_with_a_range_that_it_cannot_hold():
    image = (60_000 * picture(20, 22)).astype(np.float16)
    result = run(image, 100_000 * SIGMA, data_range=100_000)
    np.testing.assert_allclose(result, run(image.astype(float), 1e5 * SIGMA, data_range=1e5), rtol=0, atol=1e5 * CLOSE)


@pytest.mark.parametrize("schedule", ["unrolled", "converged", "gap"])
def test_scaling_law(schedule):
    """denoise(255 y, 25, data_range=255) = 255 denoise(y, 25 / 255), with strength and box in their units as well."""
    y = picture(24, 26) * 1.2 - 0.1
    for options in ({}, {"box": (0.1, 0.8)}, {"box": None}):
        one = run(y, schedule=schedule, strength=0.03, **options)
        many = run(255 * y, 25, schedule=schedule, strength=255 * 0.03, data_range=255, **options)
        np.testing.assert_allclose(many, 255 * one, rtol=0, atol=255 * CLOSE)


@pytest.mark.parametrize(
    "change",
    [
        np.asfortranarray,
        lambda image: np.repeat(np.repeat(image, 2, 0), 3, 1)[::2, ::3],
        lambda image: image[::-1, ::-1].copy()[::-1, ::-1],
        lambda image: np.ascontiguousarray(image.T).T,
        lambda image: np.broadcast_to(image, (2, *image.shape))[1],
        np.ndarray.tolist,
    ],
    ids=["Fortran", "strided", "negative strides", "transposed", "broadcast", "list"],
)
def test_memory_layout_does_not_matter(change):
    image = picture(20, 22)
    np.testing.assert_array_equal(run(change(image)), run(image))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_read_only_input_stays_as_it_is_and_output_is_new(dtype):
    image = (picture(20, 22) * 200).astype(dtype)
    before = image.copy()
    image.flags.writeable = False
    result = run(image, 255 * SIGMA, data_range=255)
    np.testing.assert_array_equal(image, before)
    assert not np.shares_memory(result, image)
    assert result.flags.writeable
    assert result.flags.c_contiguous


# --------------------------------------------------------------------------------------------------------------- torch


def test_torch_tensors_in_and_out():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    image = picture(2, 1, 20, 22)
    for dtype in (torch.float32, torch.float64):
        tensor = torch.tensor(image, dtype=dtype)
        result = run(tensor)
        assert isinstance(result, torch.Tensor)
        assert (result.dtype, result.device, result.shape) == (dtype, tensor.device, tensor.shape)
        np.testing.assert_array_equal(result.numpy(), run(tensor.numpy()))
    assert run((255 * torch.tensor(image)).to(torch.uint8), 25).dtype == torch.float32
    assert run(torch.tensor(image).half()).dtype == torch.float32
    trained = torch.tensor(image, requires_grad=True)
    assert not run(trained).requires_grad
    swapped = torch.tensor(image).transpose(2, 3)
    np.testing.assert_array_equal(run(swapped).numpy(), run(image.swapaxes(2, 3)))
    assert isinstance(run(tensor, return_solution=True).image, torch.Tensor)


def test_torch_tensors_are_not_copied_on_the_way():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    tensor = torch.rand(20, 22)
    array, kind = as_array("image", tensor)
    assert array.ctypes.data == tensor.data_ptr()
    values = picture(20, 22)
    assert kind.wrap(values).data_ptr() == values.ctypes.data


def test_torch_tensors_that_numpy_cannot_hold_are_refused():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed")
    refused(
        InputError,
        r"image has dtype torch\.bfloat16, .* do not have; pass image\.float\(\)",
        torch.rand(20, 22).bfloat16(),
    )
    refused(
        InputError, r"image is a tensor of layout .*_coo; .* pass image\.to_dense\(\)", torch.rand(20, 22).to_sparse()
    )
    refused(InputError, "image is complex", torch.rand(20, 22) + 0j)
    refused(BackendError, r"image lies on meta; .* pass image\.cpu\(\)", torch.empty(20, 22, device="meta"))


def test_arrays_on_a_gpu_are_refused():
    class OnGpu:
        __cuda_array_interface__ = {"shape": (20, 22)}  # noqa: RUF012

    refused(BackendError, "image lies on a GPU, but backend='cpu' computes in host memory", OnGpu(), backend="cpu")


def test_torch_is_not_imported_for_a_caller_without_it(tmp_path):
    save_model(random_model(), tmp_path / "random.safetensors")
    code = (
        "import sys, numpy as np, safi_fast\n"
        f"safi_fast.denoise(np.full((20, 20), 0.5), 25 / 255, model={str(tmp_path / 'random.safetensors')!r}, "
        "max_outer=1)\n"
        "print([name for name in ('torch', 'cupy', 'skimage', 'matplotlib', 'rich') if name in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PROCESS, check=False)
    assert (done.stdout.strip(), done.stderr) == ("[]", "")


# ------------------------------------------------------------------------------------------- the two ways in, the model


@pytest.mark.parametrize("schedule", ["unrolled", "converged", "gap", None])
def test_denoise_is_solver_denoise(schedule):
    image, model = picture(2, 20, 22), solver().model
    options = {"schedule": schedule, "max_outer": 2, "strength": [0.02, 0.04], "box": (0.1, 1.0), "lipschitz": 1.3}
    np.testing.assert_array_equal(
        denoise(image, SIGMA, model=model, **options), run(image, **{"max_inner": None} | options)
    )
    solution = denoise(image, SIGMA, model=model, return_solution=True, **options)
    np.testing.assert_array_equal(solution.image, denoise(image, SIGMA, model=model, **options))


def test_callback_reaches_denoise():
    seen = []
    denoise(picture(20, 22), SIGMA, model=solver().model, callback=seen.append)
    assert [state.outer for state in seen] == [0, 1, 2, 3, 4]


def test_schedule_none_is_the_one_of_the_model():
    image = picture(20, 22)
    for name, limits in (("unrolled", (3, 4)), ("converged", (2, 30)), ("gap", (4, 50))):
        model = random_model(schedule=safi_fast.model.Schedule(name, *limits))
        own = denoise(image, SIGMA, model=model, return_solution=True)
        named = denoise(image, SIGMA, model=model, schedule=name, return_solution=True)
        np.testing.assert_array_equal(own.image, named.image)
        assert own.outer_iterations <= limits[0]
    assert own.status in ("converged", "max_iterations")


def test_model_by_path(tmp_path):
    path, image = tmp_path / "some.safetensors", picture(20, 22)
    save_model(solver().model, path)
    expected = denoise(image, SIGMA, model=solver().model)
    for model in (path, str(path)):
        np.testing.assert_array_equal(denoise(image, SIGMA, model=model), expected)
        np.testing.assert_array_equal(Solver(model).denoise(image, SIGMA), expected)


def test_sigma_may_be_any_kind_of_number():
    image = picture(20, 22)
    for sigma in (np.float64(SIGMA), np.array(SIGMA), np.array([SIGMA]), [SIGMA]):
        np.testing.assert_array_equal(run(image, sigma), run(image))


def test_shipped_model_is_the_default():
    image, options = 0.5 + 0.1 * picture(20, 22), {"strength": 0.01, **QUICK}
    np.testing.assert_array_equal(denoise(image, SIGMA, **options), denoise(image, SIGMA, model="safi-gray", **options))
    np.testing.assert_array_equal(Solver().denoise(image, SIGMA, **options), denoise(image, SIGMA, **options))


# -------------------------------------------------------------------------------------------------------------- batches


def test_denoise_batch_takes_images_of_any_shape():
    images = [picture(20, 22), (255 * picture(2, 18, 19)).astype(np.uint8), picture(30, 17).astype(np.float32)]
    sigmas, strengths = [SIGMA, 25, SIGMA], [0.02, 5.0, 0.03]
    results = list(solver().denoise_batch(images, sigmas, strength=strengths, **QUICK))
    assert [result.dtype for result in results] == [np.float64, np.float32, np.float32]
    for image, sigma, strength, result in zip(images, sigmas, strengths, results, strict=True):
        np.testing.assert_array_equal(result, run(image, sigma, strength=strength))


def test_denoise_batch_of_solutions_and_of_nothing():
    solutions = solver().denoise_batch([picture(20, 22)] * 2, SIGMA, return_solution=True, **QUICK)
    assert [solution.outer_iterations for solution in solutions] == [2, 2]
    assert list(solver().denoise_batch([], SIGMA)) == []
    assert len(list(solver().denoise_batch((picture(20, 22) for _ in range(2)), SIGMA, **QUICK))) == 2


@pytest.mark.parametrize(
    ("images", "options", "message"),
    [
        ([(20, 22), (5, 22)], {}, r"images\[1\]: image is 5 x 22 pixels"),
        ([(20, 22)] * 2, {"sigma": [SIGMA] * 3}, r"sigma has shape \(3,\); expected a positive number or 2 of them"),
        ([(20, 22)] * 2, {"strength": [0.1, -1]}, r"strength is \[0.1, -1\]; expected a positive number or 2 of them"),
        ([(20, 22)] * 2, {"sigma": [SIGMA, 0.5]}, r"images\[1\]: sigma is 0.5 \(127.5 on the 8-bit scale\)"),
    ],
)
def test_denoise_batch_names_the_image(images, options, message):
    with pytest.raises(InputError, match=message):
        list(solver().denoise_batch([picture(*shape) for shape in images], **({"sigma": SIGMA} | QUICK | options)))


# ------------------------------------------------------------------------------------------------------------ bad input


def holed(value, dtype=float):
    image = picture(20, 22).astype(dtype)
    image[3, 4:6] = value
    return image


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (holed(np.nan), "image has 2 values that are NaN or infinite; expected finite ones"),
        (holed(np.inf, np.float32), "image has 2 values that are NaN or infinite"),
        (holed(-np.inf, np.float16), "image has 2 values that are NaN or infinite"),
        (np.zeros((0, 20)), r"image is empty: its shape is \(0, 20\)"),
        (np.zeros((0, 20, 20)), r"image is empty: its shape is \(0, 20, 20\)"),
        ([], r"image is empty: its shape is \(0,\)"),
        (
            0.5,
            r"image has shape \(\); expected \(H, W\), \(B, H, W\) or \(B, 1, H, W\), or channel_axis=... for colour",
        ),
        (picture(20), r"image has shape \(20,\); expected \(H, W\)"),
        (picture(2, 3, 20, 22), r"image has shape \(2, 3, 20, 22\); expected .* channel_axis=... for colour"),
        (picture(1, 1, 1, 20, 22), r"image has shape \(1, 1, 1, 20, 22\); expected \(H, W\)"),
        (picture(20, 22) + 0j, r"image is complex \(complex128\); expected real numbers: denoise its real and"),
        (picture(20, 22) > 0.5, "image has dtype bool; expected integers or floating-point numbers"),
        (picture(20, 22).astype(object), "image has dtype object; expected integers or floating-point numbers"),
        ("photo.png", "image has dtype <U9; expected integers or floating-point numbers"),
        (None, "image has dtype object; expected integers"),
        ([[1.0, 2.0], [3.0]], "image is no array of numbers"),
        (
            np.ones((20, 22), np.int32),
            "image has dtype int32, whose range is not known; pass data_range=..., the value of",
        ),
        (np.ones((20, 22), np.uint64), "image has dtype uint64, whose range is not known"),
        (
            255 * picture(20, 22),
            r"image has values from .* to 2[0-9]{2}.*, but floating-point images .* pass data_range=",
        ),
        (picture(6, 22), "image is 6 x 22 pixels; the filters of this model need 7 x 7 or more"),
        (picture(3, 22, 6), "image is 22 x 6 pixels; the filters of this model need 7 x 7"),
    ],
)
def test_images_that_are_refused(image, message):
    refused(InputError, message, image)


@pytest.mark.parametrize(
    ("sigma", "message"),
    [
        (0, "sigma is 0; expected a positive number"),
        (-0.1, "sigma is -0.1; expected a positive number"),
        (np.nan, "sigma is nan; expected a positive number"),
        (np.inf, "sigma is inf; expected a positive number"),
        (None, "sigma is None; expected a positive number"),
        ("much", "sigma is 'much'; expected a positive number"),
        ([SIGMA, SIGMA], r"sigma has shape \(2,\); expected a positive number"),
        ([[SIGMA]], r"sigma has shape \(1, 1\); expected a positive number"),
        (
            25,
            r"sigma is 25 \(6375 on the 8-bit scale\), but model 'random-safi' is for 0.09804 \(25 on the 8-bit "
            r"scale\) only",
        ),
        (SIGMA * 1.02, "sigma is 0.1 .* pass that level"),
    ],
)
def test_sigmas_that_are_refused(sigma, message):
    refused(InputError, message, sigma=sigma)


def test_sigmas_per_image_that_are_refused():
    stack = picture(3, 20, 22)
    refused(
        InputError,
        r"sigma has shape \(2,\); expected a positive number or 3 of them, one per image",
        stack,
        [SIGMA] * 2,
    )
    refused(InputError, "expected a positive number or 3 of them", stack, [SIGMA, np.nan, SIGMA])
    refused(InputError, r"strength has shape \(2,\)", stack, strength=[0.1, 0.1])


def test_nan_in_a_stack_is_numbered():
    stack = picture(4, 20, 22).copy()
    stack[2, 3, 4:6] = np.nan
    refused(InputError, r"image\[2\] has 2 values that are NaN or infinite; expected finite ones", stack)
    stack[3, 0, 0] = np.inf
    refused(InputError, r"image\[2\] and 1 more have 3 values that are NaN or infinite", stack)
    refused(InputError, r"^image has 3 values", stack[1:], channel_axis=0)


def test_sigma_outside_the_range_of_a_model_for_several_levels():
    model = random_model(levels=(5 / 255, 50 / 255))
    accepted = r"but model 'random-safi' accepts 0.01961 \(5 on the 8-bit scale\) to 0.1961 \(50 on the 8-bit scale\)"
    for sigma in (55 / 255, 4 / 255):
        refused(InputError, rf"sigma is .* {accepted}", sigma=sigma, model=model)
        refused(InputError, accepted, sigma=sigma, model=model, strength=0.1)  # the mask still needs a level
    for sigma in (50.4 / 255, 4.96 / 255):
        denoise(picture(20, 22), sigma, model=model, **QUICK)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"schedule": "fast"},
            "schedule is 'fast'; expected one of unrolled, converged, gap, a value of one of these kinds, or None",
        ),
        ({"box": (1, 0)}, r"box is \(1, 0\); expected low < high"),
        ({"box": (0, np.nan)}, r"box is \(0, nan\); expected low < high"),
        ({"box": 1.0}, r"box is 1.0; expected two numbers \(low, high\) or None"),
        ({"box": (0, 1, 2)}, r"box is \(0, 1, 2\); expected two numbers"),
        ({"box": (0, None)}, r"box is \(0, None\); expected two numbers"),
        ({"strength": 0}, "strength is 0; expected a positive number"),
        ({"strength": np.nan}, "strength is nan; expected a positive number"),
        ({"strength": [0.1, 0.2]}, r"strength has shape \(2,\); expected a positive number"),
        ({"lipschitz": -1}, "lipschitz is -1; expected a positive number"),
        ({"lipschitz": np.inf}, "lipschitz is inf; expected a positive number"),
        (
            {"lipschitz": 0.2},
            r"lipschitz is 0.2, but \|\|W\|\|\^2 is at least [01]\.\d+ for .*: below [0-9.]+ the solve would diverge",
        ),
        ({"lipschitz": [1, 2]}, r"lipschitz has shape \(2,\); expected a positive number"),
        ({"data_range": 0}, "data_range is 0; expected a positive number"),
        ({"data_range": "8 bit"}, "data_range is '8 bit'; expected a positive number"),
        ({"max_outer": 0}, "max_outer is 0; expected a whole number of at least 1"),
        ({"max_outer": True}, "max_outer is True; expected a whole number"),
        ({"max_inner": 1.5}, "max_inner is 1.5; expected a whole number of at least 1"),
        ({"max_inner": "many"}, "max_inner is 'many'; expected a whole number"),
        ({"tol": 1e-3}, "tol has no meaning for schedule='unrolled', which makes a fixed number of steps; use"),
        ({"tol": 0, "schedule": "gap"}, "tol is 0; expected a positive number"),
        ({"tol": np.nan, "schedule": "converged"}, "tol is nan; expected a positive number"),
        ({"backend": "gpu"}, "backend is 'gpu'; expected 'auto', 'cpu' or 'cuda'"),
        ({"channel_axis": 0}, r"image has shape \(20, 22\); with channel_axis=0 expected three or four dimensions"),
        ({"model": 25}, "name_or_path is a int; expected a model's name or the path of a file"),
    ],
)
def test_options_that_are_refused(options, message):
    refused(InputError, message, **options)


@pytest.mark.parametrize("axis", [3, -4, 1.0, True, "last"])
def test_channel_axes_that_are_refused(axis):
    message = rf"channel_axis is {axis!r}; expected an axis of an image of shape \(3, 20, 22\)"
    refused(InputError, message, picture(3, 20, 22), channel_axis=axis)


def test_backend_that_is_not_here():
    refused(BackendError, "backend='cuda' cannot run: .* use backend='cpu'", backend="cuda")
    np.testing.assert_array_equal(
        denoise(picture(20, 22), SIGMA, model=solver().model, backend="cpu"),
        denoise(picture(20, 22), SIGMA, model=solver().model),
    )


def test_precision():
    with pytest.raises(InputError, match="precision is 'float64'; expected 'float32', 'tf32' or 'bf16x3'"):
        Solver(solver().model, precision="float64")
    with pytest.raises(InputError, match="precision is 'tf32', but the CPU computes in float32 only"):
        Solver(solver().model, backend="cpu", precision="tf32")


def test_a_backend_of_ones_own():
    """It is taken as it is; its class and other objects are refused."""
    own = CpuBackend()
    mine = Solver(solver().model, backend=own)
    assert mine.backend is own
    np.testing.assert_array_equal(
        mine.denoise(picture(20, 22), SIGMA),
        denoise(picture(20, 22), SIGMA, model=solver().model, backend="cpu"),
    )
    with pytest.raises(
        InputError, match="precision is 'tf32', but backend is a Backend and has its own; leave precision out"
    ):
        Solver(solver().model, backend=own, precision="tf32")
    for wrong in (3, CpuBackend, ["cpu"]):
        with pytest.raises(InputError, match=r"backend is .*; expected 'auto', 'cpu' or 'cuda'"):
            Solver(solver().model, backend=wrong)


def test_wrong_model_names(monkeypatch):
    monkeypatch.setattr(safi_fast.models, "list_models", lambda: ["mmr-gray", "safi-gray"])
    refused(ModelError, "there is no model 'safi-grey'; did you mean 'safi-gray'", model="safi-grey")
    refused(ModelError, r"there is no model 'x' \(available: mmr-gray, safi-gray\)", model="x")
    refused(ModelError, "gone.safetensors: there is no such weights file", model="gone.safetensors")


def test_errors_are_also_the_builtin_ones():
    """A caller may catch ValueError or RuntimeError without knowing this package."""
    refused(ValueError, "sigma is 0", sigma=0)
    refused(ValueError, "there is no model", model="nothing like it")
    refused(RuntimeError, "backend='cuda' cannot run", backend="cuda")
    refused(safi_fast.SafiError, "sigma is 0", sigma=0)


# --------------------------------------------------------------------------------------------- what users run into


def test_an_image_on_the_8_bit_scale_is_recognised_before_its_sigma():
    refused(InputError, r"image has values from .* pass data_range=", image=255 * picture(40, 40), sigma=25)


def test_a_colour_image_without_channel_axis_is_recognised():
    refused(InputError, r"\(40, 40, 3\) is a colour image, pass channel_axis=-1", image=picture(40, 40, 3))


def test_values_beyond_float32_are_refused():
    image = picture(20, 22)
    image[3, 4] = 1e39
    refused(InputError, "image has values up to 1e.39, which float32 cannot hold", image=image, data_range=1.0)


def test_a_masked_array_is_refused():
    refused(InputError, r"image is a masked array.*image\.filled", image=np.ma.masked_less(PICTURE, 0.1))


def test_channel_axis_may_be_a_numpy_integer():
    image = picture(20, 22, 3)
    np.testing.assert_array_equal(run(image, channel_axis=np.int64(2)), run(image, channel_axis=2))


def test_a_model_file_is_read_once_until_it_changes(tmp_path):
    path = tmp_path / "model.safetensors"
    save_model(random_model(seed=1), path)
    first = safi_fast.load_model(path)
    assert safi_fast.load_model(str(path)) is first
    save_model(random_model(seed=2, channels=5), path)
    assert safi_fast.load_model(path).filters.channels == 5


def test_an_installation_that_cannot_be_written_says_what_to_do(tmp_path):
    """Numba stores compiled kernels; where it can store nothing, the error names the way out."""
    code = (
        "import numba.core.caching as c\n"
        "c.CacheImpl._locator_classes = []\n"
        "from safi_fast import BackendError\n"
        "from safi_fast.backend import select\n"
        "try:\n    select('cpu')\nexcept BackendError as error:\n    print(error)"
    )
    output = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path
    ).stdout
    assert "set NUMBA_CACHE_DIR to a folder that can be written" in output
