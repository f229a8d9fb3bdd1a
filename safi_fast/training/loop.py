"""The training loop: steps, validation, log, checkpoints and exports in one folder, until the budget is spent.

DIR/log.jsonl           one JSON object a line: what was started, losses, validations
DIR/checkpoint.pt       everything needed to go on, replaced every few minutes
DIR/model.safetensors   the averaged weights, as of the last validation
DIR/raw.safetensors     the weights themselves at that moment: with --init, a small file to go on from in another place
"""

import io
import json
import math
import re
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..atomic import append_line, prepare_folder, write_atomically
from ..errors import BackendError, InputError, ModelError
from ..model import Schedule
from ..weights import save_model
from .data import Image
from .settings import Settings
from .trainer import Trainer
from .validation import Validation

LOG, CHECKPOINT, MODEL, RAW = "log.jsonl", "checkpoint.pt", "model.safetensors", "raw.safetensors"


@dataclass(frozen=True)
class Progress:
    """Where a run is: step, seconds trained, share done, seconds left (None at first), mean loss of late, last
    validation.
    """

    step: int
    seconds: float
    share: float
    left: float | None
    loss: float
    validation: dict[str, float]


Report = Callable[[Progress], None]


class Run:
    """A trainer with its folder. `name` and `metadata` go into the exported model."""

    def __init__(
        self,
        trainer: Trainer,
        validation: Validation,
        folder: Path,
        *,
        name: str,
        metadata: dict[str, str],
        seconds: float = 0.0,
    ):
        prepare_folder(folder)
        self.trainer, self.validation, self.folder = trainer, validation, folder
        self.name, self.metadata = name, metadata
        self.seconds_before, self.started = seconds, time.monotonic()
        self.scores: dict[str, float] = {}
        self._forget_after(trainer.step_number)

    @property
    def seconds(self) -> float:
        """Wall-clock time spent in this run, in all its parts."""
        return self.seconds_before + time.monotonic() - self.started

    def finish(self, report: Report = lambda progress: None) -> dict[str, float]:
        """Train until the budget is spent; gives the last validation."""
        settings, trainer = self.trainer.settings, self.trainer
        self._log("start", settings=settings.record())
        self._validate()
        saved = validated = time.monotonic()
        losses: list[torch.Tensor] = []
        norms: list[torch.Tensor] = []
        recent = math.nan
        while (share := settings.progress(trainer.step_number, self.seconds)) < 1:
            loss, norm = trainer.step(share)
            losses = [*losses, loss.clone()][-settings.log_every :]
            norms = [*norms, norm.clone()][-settings.log_every :]
            if trainer.device == "cpu" or trainer.step_number % settings.log_every == 0:  # elsewhere it means to wait
                recent, highest = float(torch.stack(losses).mean()), float(torch.stack(norms).max())
                trainer.check(highest)
            if trainer.step_number % settings.log_every == 0:
                strength = trainer.network.log_strength.detach().exp().tolist()
                self._log("step", loss=recent, gradient_norm=highest, strength=strength, share=share)
            if time.monotonic() - validated > settings.validation_seconds:
                trainer.check(float(norm))
                self._validate()
                validated = time.monotonic()
            if time.monotonic() - saved > settings.checkpoint_seconds:
                trainer.check(float(norm))
                self.save()
                saved = time.monotonic()
            share = settings.progress(trainer.step_number, self.seconds)
            left = self.seconds * (1 - share) / share if share > 0 else None
            report(Progress(trainer.step_number, self.seconds, share, left, recent, self.scores))
        if norms:
            trainer.check(float(norms[-1]))
        self._validate()
        self.save()
        return self.scores

    def save(self) -> None:
        """Write the checkpoint."""
        stream = io.BytesIO()
        torch.save({**self.trainer.state_dict(), "seconds": self.seconds}, stream)
        write_atomically(self.folder / CHECKPOINT, stream.getvalue(), ModelError)

    def export(self) -> None:
        """Write the averaged weights as a model, and beside it the weights themselves."""
        settings = self.trainer.settings
        scores = ", ".join(f"{psnr:.2f} dB at sigma {level}" for level, psnr in self.scores.items())
        facts = {
            "scores": f"validation crops while training: {scores}",
            "training": f"{self.trainer.step_number} steps, {self.seconds:.0f} s",
        }
        schedule = Schedule("unrolled", settings.outer, settings.inner)
        averaged, raw = (
            network.to_model(self.name, schedule, {**self.metadata, **facts})
            for network in (self.trainer.averaged, self.trainer.network)
        )
        save_model(averaged, self.folder / MODEL)
        save_model(raw, self.folder / RAW)

    def _validate(self) -> None:
        settings = self.trainer.settings
        self.scores = self.validation.measure(self.trainer.averaged, settings.outer, settings.inner)
        self._log("validation", psnr=self.scores)
        self.export()

    def _log(self, kind: str, **facts: Any) -> None:
        line = {"kind": kind, "step": self.trainer.step_number, "seconds": round(self.seconds, 1), **facts}
        append_line(self.folder / LOG, json.dumps(line), ModelError)

    def _forget_after(self, step: int) -> None:
        """Drop what an earlier part of this run logged after its last checkpoint, and all of a run that this one
        replaces.
        """
        path = self.folder / LOG
        if path.exists():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _step_of(line) <= step]
            text = "".join(f"{line}\n" for line in kept) if step else ""
            write_atomically(path, text.encode(), ModelError)


def _step_of(line: str) -> float:
    """Of a line of the log; infinity where a kill left a part of a line."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, LookupError, TypeError):
        return math.inf


def check_device(device: str) -> None:
    """Refuse a device that torch does not have here. Raises InputError, BackendError."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise InputError(f"device is {device!r}; expected cpu, cuda or cuda:N")
    if device != "cpu" and not torch.cuda.is_available():
        raise BackendError(f"device is {device!r}, but torch finds no GPU here; use cpu")


def set_threads(count: int) -> None:
    """Run everything on `count` processor threads; a Trainer that is made afterwards takes over the number."""
    torch.set_num_threads(count)


def read_training_state(folder: Path) -> dict[str, Any]:
    """The content of DIR/checkpoint.pt. Raises ModelError where there is none or it is damaged."""
    path = folder / CHECKPOINT
    if not path.is_file():
        raise ModelError(f"{path}: there is no checkpoint to resume from; start without resuming")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage surfaces as many kinds of exception
        raise ModelError(f"{path}: is truncated, damaged or not a checkpoint ({type(error).__name__})") from error
    if not isinstance(state, dict) or not {"family", "network", "pool", "settings", "seconds"} <= state.keys():
        raise ModelError(f"{path}: is no checkpoint of a training run of safi_fast")
    return state


def resumed(folder: Path, images: Sequence[Image], settings: Settings, **options: Any) -> tuple[Trainer, float]:
    """The trainer of the run in `folder` and the seconds that it has trained; options as for `Trainer`."""
    state = read_training_state(folder)
    return Trainer.resume(state, images, settings, **options), float(state["seconds"])
