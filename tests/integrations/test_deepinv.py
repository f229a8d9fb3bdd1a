"""SafiDenoiser and SafiReconstructor, on the real deepinv where it is installed, else on stand-ins of its form."""

import copy
import importlib.util
import inspect
import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from models import random_model
from which_deepinv import the_package

import safi_fast
from safi_fast import InputError
from safi_fast.operators import FourierMRI, check_operator

torch = pytest.importorskip("torch", reason="deepinv is of torch")

SIGNATURES = Path(__file__).with_name("signatures.json")
REAL = importlib.util.find_spec("deepinv") is not None
B, H, W = 2, 24, 28
MODEL = random_model(levels=(5 / 255, 50 / 255))
FEW = {"max_outer": 1, "max_inner": 3}
STEPS = {"max_outer": 2, "max_iter": 20, "schedule": "fast"}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def picture(*shape, seed=0):
    return torch.rand(shape, generator=generator(seed))


def binary(*shape, seed=0):
    mask = (picture(*shape, seed=seed) > 0.4).float()
    mask[..., shape[-2] // 2, :] = 1
    return mask


def maps(*shape):
    return torch.complex(picture(*shape, seed=1) + 0.2, picture(*shape, seed=2))


@pytest.fixture(scope="session")
def deepinv():
    """The package, or its stand-in."""
    yield from the_package()


@pytest.fixture
def ours(deepinv):
    """Our module, of this deepinv."""
    from safi_fast.integrations import deepinv as module

    return module


def test_signatures(deepinv):
    """Names of parameters in their order, as those of deepinv 0.5 were written down."""
    found = {}
    for name in ("Denoiser", "Reconstructor"):
        for method in ("__init__", "forward"):
            found[f"models.{name}.{method}"] = list(
                inspect.signature(getattr(getattr(deepinv.models, name), method)).parameters
            )
    for name in ("MRI", "MultiCoilMRI", "Inpainting", "Blur", "BlurFFT", "Downsampling", "Tomography"):
        found[f"physics.{name}.__init__"] = list(inspect.signature(getattr(deepinv.physics, name).__init__).parameters)
    assert found == json.loads(SIGNATURES.read_text(encoding="utf-8"))


# --------------------------------------------------------------------------------------------------------- the denoiser


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_the_denoiser_is_ours(ours, channels):
    x = picture(B, channels, H, W)
    found = ours.SafiDenoiser(MODEL, **FEW)(x, torch.tensor([0.05, 0.1]))
    assert (found.shape, found.dtype, found.requires_grad) == (x.shape, torch.float32, False)
    options = {"model": MODEL, "box": None, **FEW} | ({} if channels == 1 else {"channel_axis": 1})
    expected = safi_fast.denoise(x.numpy(), [0.05, 0.1], **options)
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("sigma", [0.1, torch.tensor(0.1), torch.full((B,), 0.1), torch.full((B, 1, 1, 1), 0.1), [0.1]])
def test_sigma_as_deepinv_passes_it(ours, sigma):
    x, denoise = picture(B, 1, H, W), ours.SafiDenoiser(MODEL, **FEW)
    torch.testing.assert_close(denoise(x, sigma), denoise(x, 0.1))
    assert denoise(x.double(), sigma).dtype == torch.float64


def test_levels_beyond_the_model(ours):
    """No noise leaves the image, little goes a part of the way, much is taken away at less contrast."""
    x, denoise = picture(B, 1, H, W), ours.SafiDenoiser(MODEL, **FEW)
    torch.testing.assert_close(denoise(x, 0.0), x)
    least = denoise(x, 5 / 255)
    torch.testing.assert_close(denoise(x, 2.5 / 255), (x + least) / 2)
    torch.testing.assert_close(denoise(x, 100 / 255), 2 * denoise(x / 2, 50 / 255))


def test_values_outside_of_the_range_are_kept(ours):
    x = picture(1, 1, H, W) * 4 - 2
    denoise = ours.SafiDenoiser(MODEL, **FEW)
    assert denoise(x, 0.02).min() < -1
    clipped = ours.SafiDenoiser(MODEL, box=(0, 1), **FEW)(x, 0.02)
    assert (clipped.min(), clipped.max()) == (0, 1)


@pytest.mark.parametrize(
    ("x", "sigma", "message"),
    [
        (torch.zeros(H, W), 0.1, r"x is \(24, 28\); expected a tensor of floating-point numbers, \(B, C, H, W\)"),
        (np.zeros((1, 1, H, W)), 0.1, "x is ndarray; expected a tensor"),
        (picture(B, 1, H, W), -0.1, "sigma is -0.1; expected a number of at least 0, or 2 of them, one per image"),
        (picture(B, 1, H, W), [0.1, 0.1, 0.1], "expected a number of at least 0, or 2 of them"),
        (picture(B, 1, H, W), "much", "sigma is 'much'"),
    ],
)
def test_what_the_denoiser_refuses(ours, x, sigma, message):
    with pytest.raises(InputError, match=message):
        ours.SafiDenoiser(MODEL)(x, sigma)


# ------------------------------------------------------------------------------------------------------------- physics


def physics_of(deepinv):
    """(name, physics, channels, whether it is one of our operators, items)."""
    p, kernel = deepinv.physics, picture(1, 1, 5, 4, seed=3)
    yield "mri", p.MRI(mask=binary(H, W)), 2, True, 1
    yield "mri, a mask per image", p.MRI(mask=binary(B, 1, H, W)), 2, True, B
    yield "coils", p.MultiCoilMRI(mask=binary(H, W), coil_maps=maps(3, H, W)), 2, True, 1
    yield "coils, maps per image", p.MultiCoilMRI(mask=binary(H, W), coil_maps=maps(B, 3, H, W)), 2, True, B
    yield "inpainting", p.Inpainting((3, H, W), mask=binary(1, H, W)), 3, True, 1
    yield "inpainting of each", p.Inpainting((3, H, W), mask=binary(B, 3, H, W)), 3, True, 3 * B
    yield "inpainting, weights", p.Inpainting((1, H, W), mask=picture(1, H, W)), 1, False, 1
    for padding, exact in (("circular", True), ("constant", True), ("replicate", False), ("valid", False)):
        yield f"blur, {padding}", p.Blur(kernel, padding=padding), 1, exact, 1
    yield "blur of each", p.Blur(picture(B, 1, 3, 3), padding="reflect"), 1, False, B
    yield "blur of each, circular", p.Blur(picture(B, 1, 3, 3), padding="circular"), 3, True, 3 * B
    yield "blur by transforms", p.BlurFFT((3, H, W), kernel), 3, True, 1
    for factor in (2, 3, 4):
        yield f"downsampling, {factor}", p.Downsampling((1, H, W), kernel, factor), 1, W % factor == 0, 1
    yield "decimation", p.Downsampling((3, H, W), None, 2), 3, True, 1
    yield "downsampling, replicate", p.Downsampling((3, H, W), kernel, 2, padding="replicate"), 3, False, 1
    yield "tomography", p.Tomography(angles=2, img_width=H, normalize=True), 1, False, 1


def sides(physics):
    return (H, H) if type(physics).__name__ == "Tomography" else (H, W)


def test_every_physics_is_the_same_map(deepinv, ours):
    from safi_fast.integrations.physics import bridge

    for name, physics, channels, exact, items in physics_of(deepinv):
        x = picture(B, channels, *sides(physics)) - 0.3
        y = physics.A(x)
        found = bridge(physics, y)
        assert (found.ours, len(found.operators)) == (exact, items), name
        flat = torch.view_as_complex(x.moveaxis(1, -1).contiguous()) if found.complex else x.flatten(0, 1)
        torch.testing.assert_close(found.image(flat), x)
        measured = found.measured(y).numpy()
        for number, one in enumerate(flat.numpy()):
            operator = found.operators[number % items]
            np.testing.assert_allclose(operator.apply(one), measured[number], atol=2e-5, err_msg=name)
        for operator in found.operators:
            check_operator(operator)


def test_reconstructions_are_those_of_our_own_call(deepinv, ours):
    """For a complex image, channels with masks of their own, and a physics that is called."""
    mask = binary(H, W)
    x = picture(B, 2, H, W)
    y = deepinv.physics.MRI(mask=mask).A(x)
    reconstruct = ours.SafiReconstructor(1e-2, MODEL, **STEPS)
    found = reconstruct(y, deepinv.physics.MRI(mask=mask))
    operator = FourierMRI(mask.numpy(), mask_order="centered", image="complex", check_order=False)
    own = safi_fast.reconstruct(
        y[:, 0].numpy() + 1j * y[:, 1].numpy(), operator, strength=1e-2, model=MODEL, box=None, **STEPS
    )
    np.testing.assert_allclose(found.numpy(), np.stack([own.image.real, own.image.imag], 1), atol=1e-6)
    assert reconstruct.solution.relative_gap.shape == (B,)

    for physics in (
        deepinv.physics.Inpainting((2, H, W), mask=binary(B, 2, H, W)),
        deepinv.physics.Blur(picture(1, 1, 3, 3) / 9, padding="replicate"),
    ):
        y = physics.A(x)
        found = reconstruct(y, physics)
        assert found.shape == x.shape
        assert torch.linalg.norm(physics.A(found) - y) < 0.1 * torch.linalg.norm(y)


def test_an_image_of_a_batch_is_the_image_alone(deepinv, ours):
    physics, x = deepinv.physics.Blur(picture(1, 1, 3, 3) / 9, padding="circular"), picture(B, 1, H, W)
    y, reconstruct = physics.A(x), ours.SafiReconstructor(1e-3, MODEL, tol=3e-2, max_outer=3, max_iter=60)
    together = reconstruct(y, physics)
    for number in range(B):
        torch.testing.assert_close(reconstruct(y[number : number + 1], physics)[0], together[number])


def test_operators_are_kept_while_the_physics_is_the_same(deepinv, ours):
    physics, x = deepinv.physics.Inpainting((1, H, W), mask=binary(1, H, W)), picture(1, 1, H, W)
    reconstruct = ours.SafiReconstructor(1e-2, MODEL, **STEPS)
    reconstruct(physics.A(x), physics)
    first = reconstruct.operators
    reconstruct(physics.A(x), physics)
    assert reconstruct.operators is first
    physics.mask[..., :3] = 0
    reconstruct(physics.A(x), physics)
    assert not reconstruct.operators[0].mask[:, :3].any()


def test_modules_can_be_copied(deepinv, ours):
    physics, x = deepinv.physics.Inpainting((1, H, W), mask=binary(1, H, W)), picture(1, 1, H, W)
    reconstruct, denoise = ours.SafiReconstructor(1e-2, MODEL, **STEPS), ours.SafiDenoiser(MODEL, **FEW)
    expected = reconstruct(physics.A(x), physics)
    for copied in (copy.deepcopy(reconstruct), pickle.loads(pickle.dumps(reconstruct))):
        torch.testing.assert_close(copied(physics.A(x), physics), expected)
    torch.testing.assert_close(copy.deepcopy(denoise)(x, 0.1), denoise(x, 0.1))


def test_what_the_reconstructor_refuses(deepinv, ours):
    class Mixing(deepinv.physics.LinearPhysics):
        def A(self, x, **kwargs):  # noqa: N802
            return x.flip(1)

        def A_adjoint(self, y, **kwargs):  # noqa: N802
            return y.flip(1)

    reconstruct = ours.SafiReconstructor(1e-2, MODEL)
    with pytest.raises(InputError, match=r"physics is Mixing, which mixes the 3 channels of an image"):
        reconstruct(picture(1, 3, H, W), Mixing())
    with pytest.raises(InputError, match="physics is Linear; expected a LinearPhysics of deepinv"):
        reconstruct(picture(1, 3, H, W), torch.nn.Linear(2, 2))
    with pytest.raises(InputError, match="physics is int; expected a LinearPhysics of deepinv"):
        reconstruct(picture(1, 3, H, W), 3)
    with pytest.raises(InputError, match="y is a ndarray; expected a tensor"):
        reconstruct(np.zeros((1, 1, H, W)), Mixing())
    with pytest.raises(InputError, match="strength is 0; expected a positive number"):
        ours.SafiReconstructor(0)


# --------------------------------------------------------------------------------------------- deepinv's own algorithms


@pytest.mark.skipif(not REAL, reason="deepinv is not installed: make test-integrations")
def test_plug_and_play(deepinv, ours):
    """The examples of docs/integrations.md: our denoiser in half-quadratic splitting of deepinv, on a blurred image."""
    torch.manual_seed(0)
    page = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
    names = {}
    for example in page.split("```python\n")[1:]:
        exec(compile(example.split("```")[0], "docs/integrations.md", "exec"), names)
    psnr = deepinv.metric.PSNR() if hasattr(deepinv, "metric") else deepinv.loss.metric.PSNR()
    blurred, restored, pnp = (float(psnr(names[name], names["x"])[0]) for name in ("y", "restored", "pnp"))
    assert min(restored, pnp) > blurred + 4
