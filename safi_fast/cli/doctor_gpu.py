"""`safi-fast doctor --gpu`: the GPU, its kernels beside the least that they can take, its results beside the CPU's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import SafiError
from .doctor import synthetic_image

if TYPE_CHECKING:
    from ..bindings.clock import Timer
    from ..bindings.device import CupyDevice

HEIGHT, WIDTH = 321, 481  # of the images whose kernels are timed
SIGMA = 25 / 255
# in any pixel, with the CPU: five mask layers enlarge the rounding of float32; an H200 had 1.3e-4 and 9.9e-4
AGREEMENT = {"denoise": 1e-3, "reconstruct": 5e-3}
LEAST_SHARE = 0.5  # of what a kernel could reach at most; below it falls short
STRENGTH, SCHEDULE = 1e-3, "fast"  # of the reconstruction


def report() -> dict[str, Any]:
    """Device, kernels, differences from the CPU, and what falls short; "passed" says whether results agree."""
    from ..bindings.gpu import examine

    finding = examine()
    if not finding.usable:
        return {"passed": False, "device": finding.sentence, "kernels": [], "parity": [], "short": []}
    from ..bindings.clock import event_timer
    from ..bindings.device import CupyDevice

    device = CupyDevice()
    kernels = time_kernels(device, event_timer(device.cupy))
    parity = [_difference(what) for what in AGREEMENT]
    agree = all(row.get("largest") is not None and row["largest"] <= row["bar"] for row in parity)
    return {
        "passed": agree, "device": finding.sentence, "kernels": kernels, "parity": parity,
        "short": shortcomings(kernels, parity),
    }  # fmt: skip


def time_kernels(device: CupyDevice, timer: Timer) -> list[dict[str, Any]]:
    """Microseconds of single launches on one image, beside the longer of arithmetic and traffic."""
    import numpy as np

    from ..bindings.clock import copy_bandwidth, least_seconds, peak
    from ..bindings.cuda import CudaBackend
    from ..models import load_model

    model = load_model()
    workspace = CudaBackend(device).prepare(model).workspace(1, HEIGHT, WIDTH)
    image, everyone = np.full((1, HEIGHT, WIDTH), 0.5, np.float32), np.arange(1)
    workspace.load(image, np.full(1, 0.01, np.float32), np.full(1, 1e-3, np.float32), (0.0, 1.0))
    workspace.clear_dual(everyone)
    ones = np.ones((1, workspace.weights.channels), np.float32)
    workspace.update_mask(everyone, ones, 0 * ones)
    workspace.refresh(everyone)
    bandwidth, flops = copy_bandwidth(device, timer), peak(device)
    sizes = (workspace.weights.channels, model.filters.support, HEIGHT * WIDTH)
    rows = []
    for name, launch in workspace.launches(everyone).items():
        least = least_seconds(name, *sizes, bandwidth, flops)
        rows.append({"kernel": name, "us": 1e6 * timer(launch), "least_us": None if least is None else 1e6 * least})
    return rows


def _difference(what: str) -> dict[str, Any]:
    """The largest of one image from the CPU, or what failed."""
    import numpy as np

    try:
        cuda, cpu = (solved(what, backend) for backend in ("cuda", "cpu"))
    except (SafiError, RuntimeError) as error:
        return {"what": what, "error": f"{type(error).__name__}: {error}"}
    return {"what": what, "largest": float(np.abs(cuda - cpu).max()), "bar": AGREEMENT[what]}


def solved(what: str, backend: str) -> Any:
    """A small image with noise, denoised, or from every third line of its Fourier transform."""
    import numpy as np

    from .. import Solver
    from ..operators import FourierMRI

    image, rng = synthetic_image(), np.random.default_rng(0)
    solver = Solver(backend=backend)
    if what == "denoise":
        noisy = image + SIGMA * rng.standard_normal(image.shape).astype(np.float32)
        return solver.denoise(noisy, SIGMA, data_range=1.0)
    lines = np.zeros(image.shape, bool)
    lines[:, ::3] = lines[:, :8] = lines[:, -8:] = True
    operator = FourierMRI(lines, mask_order="fft", check_order=False)
    return solver.reconstruct(operator.apply(image), operator, strength=STRENGTH, schedule=SCHEDULE).image


def shortcomings(kernels: list[dict[str, Any]], parity: list[dict[str, Any]]) -> list[str]:
    """Sentences."""
    found = [
        f"{row['kernel']} takes {row['us'] / row['least_us']:.1f} times the least that this GPU allows"
        for row in kernels
        if row["least_us"] is not None and row["least_us"] < LEAST_SHARE * row["us"]
    ]
    for row in parity:
        if "error" in row:
            found.append(f"{row['what']} failed: {row['error']}")
        elif not row["largest"] <= row["bar"]:
            found.append(f"{row['what']} differs from the CPU by {row['largest']:.2g}, more than {row['bar']:.2g}")
    return found


def lines(found: dict[str, Any]) -> list[tuple[str, str]]:
    """What is printed: labels and texts."""
    result = [("gpu", found["device"])]
    for row in found["kernels"]:
        least = "" if row["least_us"] is None else f", at least {row['least_us']:.1f} us by arithmetic and copies here"
        result.append((row["kernel"], f"{row['us']:.1f} us{least}"))
    for row in found["parity"]:
        text = row["error"] if "error" in row else f"{row['largest']:.2g} from the CPU, at most {row['bar']:.2g}"
        result.append((row["what"], text))
    result += [("falls short", text) for text in found["short"]]
    return result
