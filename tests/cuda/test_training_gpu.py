"""The CUDA kernels of training in the emulator: what torch computes, and its gradients."""

import pytest
from emulator.compile import ARCHITECTURES, compile_cubin, compilers
from emulator.device import EmulatedDevice

from safi_fast.bindings.device import STANDARD
from safi_fast.bindings.module import source

torch = pytest.importorskip("torch", reason="training needs PyTorch (extra 'train')")

from safi_fast.training import gpu, inner  # noqa: E402
from safi_fast.training.filters import FilterOperator  # noqa: E402
from safi_fast.training.spline import spline, use_torch  # noqa: E402


def emulated(mode="plain"):
    """The kernels on CPU tensors: they go to the emulator and come back."""
    device = EmulatedDevice(mode)

    def run(name, launch, arguments):
        sent = []

        def argument(tensor):
            if tensor is None:
                return None
            array = tensor.detach().numpy()
            sent.append((array, device.upload(array)))
            return sent[-1][1]

        gpu.launched_by(device, argument)(name, launch, arguments)
        for array, on_device in sent:
            array[...] = on_device

    return gpu.Kernels(run)


@pytest.fixture(params=["plain", "check"])
def kernels(request):
    return emulated(request.param)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("shape", [(2, 3, 9, 7), (1, 5, 17, 20)])
@pytest.mark.parametrize("low", [-1.0, 0.0])
def test_spline_and_its_gradient(kernels, generator, shape, low):
    x = 1.5 * torch.randn(shape, generator=generator)
    values = torch.randn((shape[1], 6), generator=generator)
    found = []
    for ours in (True, False):
        own = [x.clone().requires_grad_(), values.clone().requires_grad_()]
        with gpu.use(kernels) if ours else use_torch():
            out = spline(*own, low)
            found.append((out, *torch.autograd.grad(out.square().sum(), own)))
    for ours, theirs in zip(*found, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


def solved(generator, momentum):
    """x and its gradients for mask, filters and strength, after two steps without and three with gradient."""
    y = torch.rand((2, 1, 18, 16), generator=generator)
    filters = (0.1 * torch.randn((3, 1, 5, 5), generator=generator)).requires_grad_()
    mask = torch.rand((2, 3, 18, 16), generator=generator).requires_grad_()
    strength = torch.full((2, 1, 1, 1), 0.05, requires_grad=True)
    factors = [inner.Step(1.0, momentum * i) for i in range(5)]
    operator = FilterOperator(filters, (18, 16))
    with torch.no_grad():
        state = inner.start(operator, y, strength)
        state = inner.dual_steps(operator, y, state, mask, strength, factors[:2])
    x, state = inner.trained_steps(operator, y, state, mask, strength, factors[2:])
    gradients = torch.autograd.grad((x - y.flip(2)).square().sum(), (mask, filters, strength))
    return (x, state.u, state.v, *gradients)


@pytest.mark.parametrize("momentum", [0.0, 0.2])
def test_dual_steps_and_their_gradient(kernels, momentum):
    with gpu.use(kernels):
        ours = solved(torch.Generator().manual_seed(3), momentum)
    theirs = solved(torch.Generator().manual_seed(3), momentum)
    for one, other in zip(ours, theirs, strict=True):
        assert other.abs().max() > 1e-3
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5)


def test_float64_goes_by_torch(kernels):
    with gpu.use(kernels):
        assert gpu.kernels_for(torch.zeros(1, dtype=torch.float64)) is None
        assert gpu.kernels_for(torch.zeros(1)) is kernels
    assert gpu.kernels_for(torch.zeros(1)) is None


@pytest.mark.skipif(not compilers(), reason="needs nvcc, or pip install nvidia-cuda-nvrtc")
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_compiles_without_local_memory(architecture):
    """By every compiler that is there; spilled registers are refused."""
    for compiler in compilers():
        kernels = compile_cubin(source("training"), (STANDARD,), architecture=architecture, compiler=compiler).kernels
        assert set(kernels) >= {"spline", "spline_gradient", "contract", "correlate", "extrapolate"}
        assert max(needs.registers for needs in kernels.values()) <= 64
