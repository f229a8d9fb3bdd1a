"""SafiReconstruction and SafiDenoise, on the real MRpro where it is installed, else on a stand-in of its form."""

import copy
import importlib.util
import inspect
import json
import pickle
import sys
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
from models import random_model
from which_deepinv import forget_ours

import safi_fast
from safi_fast import InputError
from safi_fast.operators import FourierMRI, SenseMRI, check_operator, radial

torch = pytest.importorskip("torch", reason="MRpro is of torch")

SIGNATURES = Path(__file__).with_name("signatures_mrpro.json")
REAL = importlib.util.find_spec("mrpro") is not None
N, C, H, W = 2, 3, 20, 24
MODEL = random_model(levels=(5 / 255, 50 / 255))
STEPS = {"max_outer": 2, "max_iter": 20, "schedule": "fast", "model": MODEL}
MORE = {**STEPS, "max_iter": 100}
LINES, OTHERS = ([0, 3, 5, 8, 9, 10, 11, 12, 15, 18], [1, 2, 6, 8, 9, 10, 11, 13, 14, 17])


@pytest.fixture(scope="module")
def mrpro():
    """The package, or its stand-in."""
    patch = pytest.MonkeyPatch()
    if not REAL:
        import stand_in_mrpro

        forget_ours()
        stand_in_mrpro.install(patch)
    for name in ("mrpro.algorithms.reconstruction", "mrpro.data", "mrpro.operators"):
        importlib.import_module(name)
    yield sys.modules["mrpro"]
    patch.undo()
    if not REAL:
        forget_ours()


@pytest.fixture
def ours(mrpro):
    """Our module, of this MRpro."""
    from safi_fast.integrations import mrpro as module

    return module


def random(*shape, seed=0):
    values = np.random.default_rng(seed).standard_normal((2, *shape))
    return torch.tensor(values[0] + 1j * values[1], dtype=torch.complex64)


def picture(count=1):
    """Complex images (count, 1, 1, H, W) of magnitude up to about 1."""
    height, width = np.mgrid[:H, :W] / max(H, W)
    magnitude = 0.2 + 0.8 * ((height - 0.4) ** 2 + (width - 0.5) ** 2 < 0.1)
    turned = [magnitude * np.exp(1j * (height + number * width)) for number in range(count)]
    return torch.tensor(np.array(turned), dtype=torch.complex64)[:, None, None]


def maps(count=1):
    values = random(count, C, 1, 1, 1, seed=3) + random(count, C, 1, H, 1, seed=4) / 4 + random(count, C, 1, 1, W) / 4
    return torch.nn.functional.normalize(values, dim=1)


def cartesian(mrpro, *lines, columns=W):
    """Rows of k-space, those of each slice."""
    ky = torch.tensor(np.array(lines), dtype=torch.float32)[:, None, None, :, None] - H // 2
    kx = (torch.arange(columns, dtype=torch.float32) - columns // 2).expand(1, 1, 1, 1, -1)
    return mrpro.data.KTrajectory(torch.zeros(1, 1, 1, 1, 1), ky, kx)


def spokes(mrpro, *turns):
    places = torch.tensor(radial(12, H), dtype=torch.float32)
    each = [
        places @ torch.tensor([[np.cos(t), np.sin(t)], [-np.sin(t), np.cos(t)]], dtype=torch.float32) for t in turns
    ]
    ky, kx = torch.stack(each)[:, None, None].unbind(-1)
    return mrpro.data.KTrajectory(torch.zeros(1, 1, 1, 1, 1), ky, kx)


def kdata(mrpro, trajectory, csm, *, count=None, encoded=(H, W)):
    """Measurements without noise, MRpro's own."""
    size = mrpro.data.SpatialDimension
    header = mrpro.data.KHeader(size(1, H, W), size(1, *encoded), size(0.01, 1.0, 1.0), size(0.01, 1.0, 1.0))
    operator = mrpro.operators.FourierOp(header.recon_matrix, header.encoding_matrix, trajectory)
    image = picture(count or len(trajectory.ky))
    (y,) = operator(image if csm is None else csm * image)
    return mrpro.data.KData(header, y, trajectory)


CASES = {  # trajectory, maps, encoded size, class of the operators, their number
    "lines": (lambda m: cartesian(m, LINES), 1, (H, W), "SenseMRI", 1),
    "each with the same lines": (lambda m: cartesian(m, LINES), 1, (H, W), "SenseMRI", 1),
    "lines of each": (lambda m: cartesian(m, LINES, OTHERS), 1, (H, W), "SenseMRI", 2),
    "maps of each": (lambda m: cartesian(m, LINES, LINES), 2, (H, W), "SenseMRI", 2),
    "without maps": (lambda m: cartesian(m, LINES, OTHERS), None, (H, W), "FourierMRI", 2),
    "oversampled": (lambda m: cartesian(m, LINES, columns=2 * W), 1, (H, 2 * W), "AdaptedOperator", 1),
    "oversampled, lines of each": (
        lambda m: cartesian(m, LINES, OTHERS, columns=2 * W), 1, (H, 2 * W), "AdaptedOperator", 2,
    ),
    "lines that come twice": (lambda m: cartesian(m, [*LINES, *LINES[:2]]), 1, (H, W), "NonCartesianMRI", 1),
    "spokes": (lambda m: spokes(m, 0.0), 1, (H, W), "NonCartesianMRI", 1),
    "spokes of each": (lambda m: spokes(m, 0.0, 0.3), None, (H, W), "NonCartesianMRI", 2),
    "spokes, oversampled": (lambda m: spokes(m, 0.0, 0.3), 2, (H + 4, W + 4), "AdaptedOperator", 2),
}  # fmt: skip


def test_signatures(mrpro):
    """Names of parameters in their order, as those of MRpro 0.26 were written down."""
    expected = json.loads(SIGNATURES.read_text(encoding="utf-8"))
    found = {name: reduce(getattr, name.split("."), mrpro) for name in expected}
    assert {name: list(inspect.signature(what).parameters) for name, what in found.items()} == expected
    header = list(inspect.signature(mrpro.data.KHeader).parameters)
    assert header[:4] == ["recon_matrix", "encoding_matrix", "recon_fov", "encoding_fov"]


@pytest.mark.parametrize("name", CASES)
def test_operators_measure_what_mrpro_does(mrpro, ours, name):
    trajectory, count, encoded, kind, number = CASES[name]
    if kind == "NonCartesianMRI":
        pytest.importorskip("finufft", reason="which makes it")
    csm = None if count is None else maps(count)
    given = kdata(mrpro, trajectory(mrpro), csm, count=N if "each" in name else None, encoded=encoded)
    if count is None:  # images of two coils
        given = mrpro.data.KData(given.header, torch.cat([given.data, 2 * given.data], -4), given.traj)
        number *= 2
    from safi_fast.integrations.acquisition import acquisition

    sensitivity = None if csm is None else mrpro.operators.SensitivityOp(csm)
    found = acquisition(mrpro.operators.FourierOp.from_kdata(given), sensitivity, None, given)
    assert (type(found.operators[0]).__name__, len(found.operators)) == (kind, number)
    images = picture(len(given.data))
    images = images if count is not None else torch.cat([images, 2 * images], 1)
    assert found.shape == images.shape
    for index, image in enumerate(images.reshape(-1, H, W).numpy()):
        operator = found.operators[index % len(found.operators)]
        np.testing.assert_allclose(operator.apply(image), found.measured[index], atol=3e-5)
    check_operator(found.operators[-1])
    assert found.white == pytest.approx(float(images.abs().max()), rel=0.4)


def test_reconstructions_are_those_of_our_own_call(mrpro, ours):
    csm = maps()
    given = kdata(mrpro, cartesian(mrpro, LINES), csm, count=N)
    options = {"strength": 1e-3, "data_range": 0.9, **STEPS}
    reconstruct = ours.SafiReconstruction(given, csm=mrpro.operators.SensitivityOp(csm), **options)
    found = reconstruct(given)
    assert isinstance(found, mrpro.data.IData)
    assert found.data.shape == (2, 1, 1, H, W)
    kspace = np.zeros((2, C, H, W), np.complex64)
    kspace[:, :, LINES] = given.data[:, :, 0]
    operator = SenseMRI(csm[0, :, 0].numpy(), kspace[0, 0] != 0, mask_order="centered", check_order=False)
    own = safi_fast.reconstruct(kspace, operator, box=None, **options)
    np.testing.assert_allclose(found.data[:, 0, 0], own.image, atol=1e-5)
    assert reconstruct.solution.relative_gap.shape == (2,)


def test_one_coil_and_units(mrpro, ours):
    """Without maps, in other units: the same image in these."""
    given = kdata(mrpro, cartesian(mrpro, LINES), None)
    reconstruct = ours.SafiReconstruction(given, csm=None, strength=1e-3, **STEPS)
    found = reconstruct(given)
    assert isinstance(reconstruct.operators[0], FourierMRI)
    larger = reconstruct(mrpro.data.KData(given.header, 4096 * given.data, given.traj))
    torch.testing.assert_close(larger.data, 4096 * found.data, rtol=1e-3, atol=0.1)


def test_what_is_called_is_solved(mrpro, ours):
    csm = maps()
    given = kdata(mrpro, cartesian(mrpro, LINES, columns=2 * W), csm, encoded=(H, 2 * W))
    reconstruct = ours.SafiReconstruction(given, csm=mrpro.operators.SensitivityOp(csm), strength=1e-4, **MORE)
    found = reconstruct(given).data
    (y,) = mrpro.operators.FourierOp.from_kdata(given)(csm * found)
    assert torch.linalg.norm(y - given.data) < 0.05 * torch.linalg.norm(given.data)


def test_maps_are_estimated_and_noise_is_whitened(mrpro, ours):
    """A weight of all samples only changes the maps and where the solver's range is looked for."""
    given = kdata(mrpro, cartesian(mrpro, range(H)), maps())
    mixing = torch.eye(C) + 0.5 * random(C, C, seed=6).tril(-1)
    mixed = mrpro.data.KData(given.header, torch.einsum("cd,odzyx->oczyx", mixing, given.data), given.traj)
    noise = mrpro.data.KNoise(torch.einsum("cd,odzyx->oczyx", mixing, random(1, C, 1, 1, 20000, seed=7)))
    white = mrpro.algorithms.prewhiten_kspace(mixed, noise)
    options = {"strength": 1e-3, **STEPS}
    found = ours.SafiReconstruction(mixed, noise=noise, **options)(mixed)
    fixed = ours.SafiReconstruction(mixed, noise=noise, csm=None, **options)(mixed)
    assert (found.data.shape, fixed.data.shape) == ((1, 1, 1, H, W), (1, C, 1, H, W))
    torch.testing.assert_close(fixed.data, ours.SafiReconstruction(white, csm=None, **options)(white).data)
    weighted = [
        ours.SafiReconstruction(
            white, csm=None, dcf=mrpro.operators.DensityCompensationOp(torch.full((1, 1, 1, H, W), weight)), **options
        )(white)
        for weight in (1.0, 0.5)
    ]
    torch.testing.assert_close(weighted[0].data, weighted[1].data, rtol=1e-3, atol=1e-5)


def test_modules_can_be_copied(mrpro, ours):
    given = kdata(mrpro, cartesian(mrpro, LINES), None)
    reconstruct = ours.SafiReconstruction(given, csm=None, strength=1e-3, **STEPS)
    expected = reconstruct(given).data
    copies = [copy.deepcopy(reconstruct)] + ([pickle.loads(pickle.dumps(reconstruct))] if REAL else [])
    for copied in copies:
        torch.testing.assert_close(copied(given).data, expected)


def test_what_is_refused(mrpro, ours):
    from safi_fast.integrations.acquisition import white

    csm = maps()
    sensitivity, given = mrpro.operators.SensitivityOp(csm), kdata(mrpro, cartesian(mrpro, LINES), csm)
    with pytest.raises(InputError, match="strength is 0; expected a positive number"):
        ours.SafiReconstruction(given, csm=sensitivity, strength=0)
    with pytest.raises(InputError, match=r"data of shape \(1, 1, 1, 20, 24\) has no magnitude to scale by"):
        white(torch.zeros(1, 1, 1, H, W))
    with pytest.raises(ValueError, match="Either kdata or fourier_op needs to be defined"):
        ours.SafiReconstruction(strength=1e-3)

    class Mixing(mrpro.operators.LinearOperator):
        """Exchanges the images."""

        def forward(self, x):
            return (x.flip(0),)

        adjoint = forward

    two = kdata(mrpro, cartesian(mrpro, LINES), csm, count=N)
    mixed = mrpro.operators.FourierOp.from_kdata(two) @ Mixing()
    with pytest.raises(InputError, match="fourier_op does not treat its 2 images each for itself"):
        ours.SafiReconstruction(fourier_op=mixed, csm=sensitivity, strength=1e-3)(two)

    class Thick(Mixing):
        """Images of one plane from k-space of them, and two more planes."""

        def forward(self, x):
            return (x[..., :1, :, :],)

        def adjoint(self, x):
            return (torch.cat([x, 0 * x, 0 * x], -3),)

    volume = mrpro.operators.FourierOp.from_kdata(given) @ Thick()
    with pytest.raises(InputError, match="images have 3 planes along z; expected 1"):
        ours.SafiReconstruction(fourier_op=volume, csm=None, strength=1e-3)(given)


# --------------------------------------------------------------------------------------------------------- the denoiser


def test_real_and_imaginary_part_are_denoised(mrpro, ours):
    given = kdata(mrpro, cartesian(mrpro, LINES), None)
    noisy = 3 * picture(2) + 0.1 * random(2, 1, 1, H, W)
    idata = mrpro.data.IData.from_tensor_and_kheader(noisy, given.header)
    few = {"max_outer": 1, "max_inner": 3, "model": MODEL}
    found = ours.SafiDenoise(0.2, **few)(idata)
    white = float(np.quantile(noisy.abs(), 0.999))
    for part in ("real", "imag"):
        wanted = safi_fast.denoise(getattr(noisy, part)[:, 0, 0], 0.2, data_range=white, box=None, **few)
        torch.testing.assert_close(getattr(found.data, part)[:, 0, 0], wanted)
    assert (found.data.dtype, found.header is idata.header) == (torch.complex64, True)
    magnitude = ours.SafiDenoise(0.2, **few)(mrpro.data.IData(noisy.abs() + 0j, idata.header)).data
    assert not magnitude.imag.any()
    torch.testing.assert_close(ours.SafiDenoise(0.2, **few)(mrpro.data.IData(noisy.abs(), 3)).data, magnitude.real)
    with pytest.raises(InputError, match="idata is Tensor; expected an IData of mrpro"):
        ours.SafiDenoise(0.2, **few)(noisy)
    with pytest.raises(InputError, match="sigma is 'guess'; expected a number or 'estimate'"):
        ours.SafiDenoise("guess")


# ------------------------------------------------------------------------------------------------------- the real MRpro


@pytest.mark.skipif(not REAL, reason="MRpro is not installed: make test-integrations")
def test_the_example(mrpro):
    """That of docs/integrations.md, on MRpro's phantom."""
    page = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
    names = {}
    for example in page.split("\n## MRpro\n")[1].split("\n## ")[0].split("```python\n")[1:]:
        exec(compile(example.split("```")[0], "docs/integrations.md", "exec"), names)
    truth = names["phantom_image"].abs()

    def error(idata):
        return float(torch.linalg.norm(idata.data.abs() - truth) / torch.linalg.norm(truth))

    assert error(names["safi"]) < 0.5 * error(names["sense"])
    assert error(names["clean"]) < error(names["sense"])
