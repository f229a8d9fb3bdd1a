"""Report what is installed, which backend would run and why, and denoise a small image as a self-check."""

import argparse
import math
import os
import platform
import time
from pathlib import Path
from typing import Any

from ..errors import SafiError
from . import session as sessions
from .arguments import add_json_argument
from .output import print_json, scientific
from .version import installed

SIDE = 96
LEAST_GAIN = 1.0  # dB; any working model gains several on this image


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The arguments of `safi-fast doctor`."""
    add_json_argument(parser)
    parser.add_argument(
        "--gpu", action="store_true", help="time the kernels on the GPU and compare its results with the CPU"
    )


def run(args: argparse.Namespace) -> int:
    """Print the report; 1 if the self-check fails."""
    from ..backend import describe_backends

    check = self_check()
    report: dict[str, Any] = {
        **installed(),
        "cpu": processor_name(),
        "cores": _cores(),
        "threads": _threads(),
        "caches": _caches(),
        "backends": [
            {"name": name, "available": available, "reason": reason} for name, available, reason in describe_backends()
        ],
        "self_check": check,
    }
    if args.gpu:
        from . import doctor_gpu

        report["gpu"] = doctor_gpu.report()
    if args.json:
        print_json(report)
    else:
        _print(report)
    return 0 if check["passed"] and report.get("gpu", check)["passed"] else 1


def self_check() -> dict[str, Any]:
    """Denoise a small synthetic image with the default model."""
    from ..metrics import psnr
    from .noise import add_noise

    try:
        session = sessions.make_session()
        sigma = float(session.model.noise_levels[len(session.model.noise_levels) // 2]) * sessions.EIGHT_BIT
        clean = synthetic_image()
        noisy = add_noise(clean, sigma / sessions.EIGHT_BIT, seed=0)
        start = time.perf_counter()
        solution = session.denoise(noisy, sigma)
        seconds = time.perf_counter() - start
        before, after = psnr(clean, noisy), psnr(clean, solution.image)
    except (SafiError, ImportError, RuntimeError) as error:
        return {"passed": False, "message": f"{type(error).__name__}: {error}"}
    facts = sessions.summary(solution)
    problem = _problem(before, after, facts["relative_gap"])
    return {
        "passed": problem is None,
        "message": problem or "passed",
        "model": session.model.name,
        "backend": session.solver.backend.name,
        "sigma": sigma,
        "seconds": seconds,
        "psnr_noisy": before,
        "psnr": after,
        **facts,
    }


def synthetic_image() -> Any:
    """A ramp with a disc and a striped square: smooth parts, edges and texture, on [0, 1]."""
    import numpy as np

    rows, columns = np.mgrid[:SIDE, :SIDE] / (SIDE - 1)
    image = 0.2 + 0.4 * columns
    image[(rows - 0.35) ** 2 + (columns - 0.35) ** 2 < 0.05] = 0.85
    square = (rows > 0.6) & (columns > 0.6)
    image[square] = 0.5 + 0.3 * np.sign(np.sin(40 * rows[square]))
    return image.astype(np.float32)


def _problem(before: float, after: float, relative_gap: float | None) -> str | None:
    if after < before + LEAST_GAIN:
        return f"denoising changed the PSNR from {before:.2f} to {after:.2f} dB, far less than it should"
    if relative_gap is not None and not (math.isfinite(relative_gap) and relative_gap > -1e-6):
        return f"the relative duality gap is {relative_gap}, which is impossible"
    return None


def processor_name() -> str:
    """The processor as the system calls it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _cores() -> int:
    """Cores this process may use, which on a shared machine are fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _threads() -> int | None:
    from ..bindings.threads import threads_to_use

    try:
        return int(threads_to_use(None))
    except (ImportError, SafiError):  # the report of the backend says why
        return None


def _caches() -> dict[str, Any]:
    """Bytes of the caches, and the tile pairs in a set that follow from them."""
    from ..bindings import blocking

    try:
        pairs: dict[str, Any] = {f"pairs_of_{channels}": blocking.pairs_of(channels) for channels in (32, 64)}
    except SafiError as error:
        pairs = {"pairs": str(error)}
    return {**blocking.caches()._asdict(), **pairs}


def _print(report: dict[str, Any]) -> None:
    lines = [("safi-fast", report["safi-fast"]), ("python", report["python"])]
    lines += [(name, version or "not installed") for name, version in report["packages"].items()]
    lines += [("cpu", report["cpu"]), ("cores", str(report["cores"])), ("threads", str(report["threads"]))]
    caches = report["caches"]
    sizes = " + ".join(f"{caches[name] // 1024}" for name in ("first", "second", "third"))
    pairs = ", ".join(str(value) for name, value in caches.items() if name.startswith("pairs"))
    lines.append(("caches", f"{sizes} KB a CPU ({caches['source']}); tile pairs of a mask convolution: {pairs}"))
    for backend in report["backends"]:
        lines.append((f"backend {backend['name']}", f"{'yes' if backend['available'] else 'no'}: {backend['reason']}"))
    check = report["self_check"]
    text = check["message"]
    if "seconds" in check:
        text += f": {check['psnr_noisy']:.2f} to {check['psnr']:.2f} dB with {check['model']} on {check['backend']}"
        text += f" in {check['seconds']:.2f} s (compilation included), relative gap {scientific(check['relative_gap'])}"
    lines.append(("self-check", text))
    if "gpu" in report:
        from . import doctor_gpu

        lines += doctor_gpu.lines(report["gpu"])
    for label, value in lines:
        print(f"{label:13}  {value}")
