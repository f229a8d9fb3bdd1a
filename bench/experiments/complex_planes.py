"""Complex images: what a mask that both parts share leaves, and whether a model of two planes or a joint bound gains.

    python -m bench.experiments.complex_planes train --data DIR --validation DIR --out DIR --time-budget 40m
    python -m bench.experiments.complex_planes measure [--model DIR/model.safetensors] [--output FILE.json]

Rivals, all with ||W|| = 1 and a mask from the magnitude, or from both planes:

    parts     what `reconstruct` does: grey filters on both parts, |u| <= lambda for each
    joint     grey filters on both parts, ||(u_re, u_im)||_2 <= lambda: isotropic in phase
    aligned   as `parts`, of the image without the phase that is left of it after a Gaussian filter of ALIGNED pixels
    planes    --model, filters that read two planes, trained on grey photographs times smooth random phases; it sees
              (1 + re) / 2 and (1 + im) / 2

Complex heads (peak 1, the middle SIDE x SIDE pixels): noise alone, and MRI of one coil from a quarter of the lines.
lambda of each rival is the best of a list on another head. PSNR over both parts. The phase is turned by 0, 37 and 90
degrees, noise with it. Everything in torch, with the schedules written out here: times are not compared.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench import RESULTS
from bench.data.problems import DATA, line_mask, middle
from bench.report import measure
from safi_fast.cli.output import print_table
from safi_fast.cli.train import duration

GRAY, SIDE = "safi-gray-fast", 128
TUNED, TESTED = "lsq21", ("lsq1", "lsq41", "lsq101", "lsq161")
ALIGNED = 4.0
LEVELS = (5.0, 15.0, 25.0)  # of 255, of each part
TURNS = (0, 37, 90)
OUTER, INNER = 4, 12
FACTORS = (0.5, 0.7, 1.0, 1.4, 2.0, 2.8)  # of the model's lambda
STRENGTHS = (3e-5, 1e-4, 3e-4, 1e-3)
MRI_STEPS, MRI_SIGMA, TAU = 60, 5.0, 50.0  # steps of each mask; level whose mask is used; step size of the image
ACCELERATION, CENTRE, MRI_NOISE = 4, 0.08, 0.002
PHASE_WIDTH = (20.0, 80.0)  # pixels over which a random phase changes


def threads() -> int:
    """THREADS of the bench, or as many as this process may use."""
    return min(measure.THREADS, len(os.sched_getaffinity(0)))


def complex_head(name: str) -> np.ndarray:
    """A siat head, peak 1, complex64, its middle SIDE x SIDE pixels."""
    from scipy.io import loadmat

    image = loadmat(DATA / "mri" / "siat" / f"{name}.mat")["Img"]
    return middle((image / np.abs(image).max()).astype(np.complex64), (SIDE, SIDE))


def with_phase(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Planes (2, H, W) on [0, 1] of a grey image times a smooth random phase."""
    from scipy.ndimage import gaussian_filter

    smooth = gaussian_filter(rng.standard_normal(image.shape), rng.uniform(*PHASE_WIDTH))
    phase = rng.uniform(0, 2 * np.pi) + rng.uniform(0.2, 2) * smooth / max(float(np.abs(smooth).max()), 1e-12)
    turned = image * np.exp(1j * phase)
    return np.stack([(1 + turned.real) / 2, (1 + turned.imag) / 2]).astype(np.float32)


def train(args: argparse.Namespace) -> None:
    """A model of two planes."""
    from safi_fast import load_model
    from safi_fast.cli.evaluate import clean_image
    from safi_fast.io import list_images, read_image
    from safi_fast.training.data import NoiseRange
    from safi_fast.training.growth import with_planes
    from safi_fast.training.loop import Run, resumed, set_threads
    from safi_fast.training.network import network_of
    from safi_fast.training.settings import Settings
    from safi_fast.training.trainer import Trainer
    from safi_fast.training.validation import Validation

    set_threads(threads())
    rng = np.random.default_rng(0)
    trained, kept = (
        [with_phase(clean_image(path, read_image(path), None)[0], rng) for path in list_images(folders)]
        for folders in (args.data, [args.validation])
    )
    settings = Settings(
        NoiseRange(1, 50, (2.5, 7.5, 12.5, 12.5)), seconds=args.time_budget, outer=OUTER, inner=INNER, steady=0.45,
        optimizer="muon", autocast=True, validation_seconds=600,
    )  # fmt: skip
    if (args.out / "checkpoint.pt").exists():
        trainer, seconds = resumed(args.out, trained, settings)
    else:
        trainer, seconds = Trainer(network_of(with_planes(load_model(args.init), 2)), trained, settings), 0.0
    validation = Validation(kept, settings.noise.focus[:3])
    print(Run(trainer, validation, args.out, name="complex", metadata={}, seconds=seconds).finish())


class Regulariser:
    """Masks and steps of a rival on (B, P, H, W): two grey images, or one of two planes."""

    def __init__(self, model: Any, *, joint: bool = False, aligned: bool = False):
        from safi_fast.training.filters import FilterOperator
        from safi_fast.training.network import network_of

        self.network, self.joint, self.aligned = network_of(model), joint, aligned
        self.turn: Any = 1.0
        self.planes = self.network.planes
        self.operator = FilterOperator(self.network.composed(), (SIDE, SIDE), "symmetric")

    def align(self, z: Any) -> None:
        """From now on without the smooth phase of z."""
        import torch
        from scipy.ndimage import gaussian_filter

        if self.aligned:
            smooth = gaussian_filter(z.numpy(), ALIGNED)
            self.turn = torch.from_numpy(np.exp(1j * np.angle(smooth)).astype(np.complex64))

    def seen(self, z: Any) -> Any:
        """(H, W) complex as what W is applied to."""
        import torch

        z = z / self.turn
        parts = torch.stack([z.real, z.imag])
        return ((1 + parts) / 2)[None] if self.planes == 2 else parts[:, None]

    def analysis(self, z: Any) -> Any:
        """W z, of norm 1: filters of zero mean do not see that planes are moved, only that they are halved."""
        return self.operator.analysis(self.seen(z)) / self.contrast

    def adjoint(self, u: Any) -> Any:
        """Complex (H, W)."""
        import torch

        parts = self.operator.synthesis(u).reshape(2, SIDE, SIDE)
        return self.turn * torch.complex(parts[0].contiguous(), parts[1].contiguous())

    @property
    def contrast(self) -> float:
        """Of what W is applied to."""
        return 0.5 if self.planes == 2 else 1.0

    def conditions(self, sigma: float) -> Any:
        """The tables at sigma of 255."""
        import torch

        return self.network.at(torch.tensor([sigma / 255 * self.contrast]))

    def mask(self, z: Any, conditions: Any) -> Any:
        """From the magnitude, or from both planes."""
        seen = self.seen(z) if self.planes == 2 else z.abs()[None, None]
        return self.network.mask(seen, conditions, self.operator)

    def clip(self, u: Any) -> Any:
        """The bound on u / lambda."""
        return u / u.square().sum(0, keepdim=True).sqrt().clamp(min=1) if self.joint else u.clamp(-1, 1)


def denoised(rival: Regulariser, y: Any, sigma: float, factor: float) -> Any:
    """The unrolled schedule, without a box."""
    from safi_fast.solver.momentum import fista

    rival.align(y)
    conditions, mask = rival.conditions(sigma), 1.0
    strength = factor * conditions.strength / rival.contrast
    v = rival.analysis(y) / strength
    u = v

    def image(dual: Any) -> Any:
        return y - strength[0, 0] * rival.adjoint(dual * mask)

    for outer in range(OUTER):
        if outer:
            mask = rival.mask(image(u), conditions)
            u = v
        momenta = fista()
        for _ in range(INNER):
            made = rival.clip(v + mask * rival.analysis(image(v)) / strength)
            u, v = made, made + next(momenta) * (made - u)
    return image(u)


def reconstructed(rival: Regulariser, kspace: Any, lines: Any, strength: float) -> Any:
    """The primal-dual iteration with the data term solved in k-space; masks as at MRI_SIGMA."""
    import torch

    conditions, mask = rival.conditions(MRI_SIGMA), 1.0
    ahead = z = torch.fft.ifft2(kspace, norm="ortho")
    rival.align(z)
    u = torch.zeros_like(rival.analysis(z))
    for outer in range(OUTER):
        if outer:
            mask = rival.mask(z, conditions)
        for _ in range(MRI_STEPS):
            u = rival.clip(u + mask * rival.analysis(ahead) / (TAU * strength))
            spectrum = torch.fft.fft2(z - TAU * strength * rival.adjoint(mask * u), norm="ortho")
            spectrum = torch.where(lines, (spectrum + TAU * kspace) / (1 + TAU), spectrum)
            following = torch.fft.ifft2(spectrum, norm="ortho")
            ahead, z = 2 * following - z, following
    return z


def psnr(found: Any, truth: Any) -> float:
    """In dB, of both parts, white being 1."""
    return float(-10 * (0.5 * (found - truth).abs().square().mean()).log10())


def problems() -> dict[str, tuple[Callable[..., Any], tuple[float, ...], Any]]:
    """Name: what solves, parameters to try, what makes the measurements of (image, seed) with the turn in them."""
    import torch

    def noisy(level: float, truth: Any, seed: int, turn: Any) -> tuple[Any, ...]:
        rng = np.random.default_rng([seed, round(10 * level)])
        noise = rng.standard_normal((2, SIDE, SIDE)).astype(np.float32) * np.float32(level / 255)
        return (turn * (truth + torch.complex(*torch.from_numpy(noise))), level)

    def scanned(truth: Any, seed: int, turn: Any) -> tuple[Any, ...]:
        rng = np.random.default_rng(seed)
        lines = torch.from_numpy(np.fft.ifftshift(line_mask((SIDE, SIDE), ACCELERATION, CENTRE, rng)))
        noise = torch.from_numpy(rng.standard_normal((2, SIDE, SIDE)).astype(np.float32) * np.float32(MRI_NOISE))
        return (turn * lines * (torch.fft.fft2(truth, norm="ortho") + torch.complex(*noise)), lines)

    found: dict[str, Any] = {f"noise of {level:g}": (denoised, FACTORS, partial(noisy, level)) for level in LEVELS}
    found["MRI, one coil, 4x"] = (reconstructed, STRENGTHS, scanned)
    return found


def row(name: str, kind: str, rival: Regulariser, heads: list[Any]) -> dict[str, Any]:
    """PSNR at each turn, means over all heads but the first, which lambda is tuned on."""
    import torch

    solve, tried, make = problems()[name]

    def score(truth: Any, seed: int, degrees: float, value: float) -> float:
        turn = torch.polar(torch.tensor(1.0), torch.tensor(np.deg2rad(degrees), dtype=torch.float32))
        return psnr(solve(rival, *make(truth, seed, turn), value), turn * truth)

    scores = [score(heads[0], 0, 37, value) for value in tried]
    best = int(np.argmax(scores))
    means = {}
    for degrees in TURNS:
        scores = [score(head, seed, degrees, tried[best]) for seed, head in enumerate(heads[1:], 1)]
        means[f"turned by {degrees}"] = float(np.mean(scores))
    found = {"problem": name, "rival": kind, "lambda": tried[best], "edge": best in (0, len(tried) - 1), **means}
    print(found, flush=True)
    return found


def compare(args: argparse.Namespace) -> None:
    """Measure, print and record."""
    import torch

    from safi_fast import load_model

    before = measure.machine()
    torch.set_num_threads(threads())
    heads = [torch.from_numpy(complex_head(name)) for name in (TUNED, *TESTED)]
    gray = load_model(GRAY)
    rivals = {
        "parts": Regulariser(gray), "joint": Regulariser(gray, joint=True), "aligned": Regulariser(gray, aligned=True),
    }  # fmt: skip
    if args.model:
        rivals["planes"] = Regulariser(load_model(args.model))
    with torch.no_grad():
        rows = [row(name, kind, rival, heads) for name in problems() for kind, rival in rivals.items()]
    print_table(
        ["problem", "rival", *(f"{t} degrees" for t in TURNS)],
        [[r["problem"], r["rival"], *(f"{r[f'turned by {t}']:.2f}" for t in TURNS)] for r in rows],
    )
    measure.write(args.output, rows, before)


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(dest="what", required=True)
    training = what.add_parser("train", help="a model of two planes")
    training.add_argument("--data", type=Path, action="append", required=True)
    training.add_argument("--validation", type=Path, required=True)
    training.add_argument("--out", type=Path, required=True)
    training.add_argument("--time-budget", type=duration, required=True)
    training.add_argument("--init", default=GRAY)
    training.set_defaults(run=train)
    measuring = what.add_parser("measure", help="the rivals")
    measuring.add_argument("--model", type=Path)
    measuring.add_argument("--output", type=Path, default=RESULTS / "complex_planes.json")
    measuring.set_defaults(run=compare)
    args = parser.parse_args()
    args.run(args)


if __name__ == "__main__":
    main()
