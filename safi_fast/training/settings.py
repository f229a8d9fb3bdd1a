"""What a training run is told, in one checked value."""

import math
from dataclasses import asdict, dataclass, fields, is_dataclass
from typing import Any

from ..errors import InputError, shown
from .data import NoiseRange
from .optimizers import OPTIMIZERS
from .teachers import DEFAULT_SHARE, Share

MAY_CHANGE = (  # when a run is resumed
    "seconds", "steps", "steady", "share", "average", "checkpoint_seconds", "validation_seconds", "log_every",
    "autocast",
)  # fmt: skip


@dataclass(frozen=True)
class Settings:
    """One run.

    Exactly one of seconds (wall-clock time spent training) and steps ends it; the learning rate follows it down.

    outer, inner: the unrolled schedule that is trained. trained: how many of the inner steps of an outer step, the last
    ones, are differentiated. chain: outer steps that a step of training makes one after the other; the gradient goes
    through the images between them, not through the dual variable, and the loss is that of the last. batch, side:
    patches of a step and their side in pixels; crop: their border that the loss leaves out, because it is continued
    periodically. pool: patches under way. visits_beyond: outer steps that a patch makes after the last of the schedule,
    so that the iteration stays good beyond it.
    filter_rate, strength_rate, mask_rate: Adam's learning rates at their highest, after `warm_up` steps; they stay
    there for the share `steady` of the run, then fall with a cosine to `last_rate` of that. average: the exponential
    average of the weights keeps this share at each step. clip: largest norm of a gradient.
    fixed: parameters of the network (names as torch has them, like convolutions.1) that keep the values they start
        with.
    optimizer: "adam", or "muon" for the mask layers with as many inputs as outputs and Adam for the rest.
    share: how much of the target is that of teachers, where the run has some.
    autocast: the mask layers in bfloat16.
    Raises InputError.
    """

    noise: NoiseRange
    seconds: float | None = None
    steps: int | None = None
    outer: int = 5
    inner: int = 12
    trained: int = 6
    chain: int = 1
    batch: int = 8
    side: int = 72
    crop: int = 8
    pool: int = 256
    visits_beyond: int = 2
    filter_rate: float = 1e-3
    strength_rate: float = 3e-3
    mask_rate: float = 7e-4
    warm_up: int = 100
    last_rate: float = 0.01
    steady: float = 0.0
    average: float = 0.998
    clip: float = 10.0
    fixed: tuple[str, ...] = ()
    optimizer: str = "adam"
    share: Share = DEFAULT_SHARE
    autocast: bool = False
    seed: int = 0
    checkpoint_seconds: float = 300.0
    validation_seconds: float = 600.0
    log_every: int = 50

    def __post_init__(self) -> None:
        if (self.seconds is None) == (self.steps is None):
            raise InputError("expected either seconds or steps to end the training with, and not both")
        for name in ("seconds", "steps", "outer", "inner", "trained", "chain", "batch", "side", "pool", "log_every"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise InputError(f"{name} is {value}; expected a positive number")
        if self.outer < 2:
            raise InputError(f"outer is {self.outer}; the mask is trained from the second outer step on, so expected 2")
        if self.trained > self.inner:
            raise InputError(f"trained is {self.trained}, but an outer step has only {self.inner} inner steps")
        if not 0 <= 2 * self.crop < self.side:
            raise InputError(f"crop is {self.crop}; nothing of a patch of {self.side} x {self.side} would be left")
        if isinstance(self.fixed, str):
            raise InputError(f"fixed is {shown(self.fixed)}; expected a sequence of names")
        if not 0 <= self.steady < 1:
            raise InputError(f"steady is {self.steady:g}; expected a share of the run, at least 0 and below 1")
        if self.optimizer not in OPTIMIZERS:
            raise InputError(f"optimizer is {shown(self.optimizer)}; expected one of {', '.join(OPTIMIZERS)}")
        if self.pool < self.batch:
            raise InputError(f"pool is {self.pool}; expected at least one batch, {self.batch}")

    @property
    def visits(self) -> int:
        """Outer steps with a mask that a patch makes before it is replaced."""
        return self.outer - 1 + self.visits_beyond

    def progress(self, step: int, seconds: float) -> float:
        """The share of the run that is done, 0 to 1."""
        done = step / self.steps if self.steps is not None else seconds / (self.seconds or 1)
        return min(1.0, done)

    def rate(self, step: int, progress: float) -> float:
        """The learning rate of this step at this share of the run, as a share of its highest."""
        late = max(0.0, progress - self.steady) / (1 - self.steady)
        return max(self.last_rate, (1 + math.cos(math.pi * late)) / 2) * min(1.0, (step + 1) / self.warm_up)

    def record(self) -> dict[str, Any]:
        """Everything by name, for a checkpoint."""
        return asdict(self)

    def check_resumable(self, record: dict[str, Any]) -> None:
        """Raise InputError where a run with the settings `record` cannot go on with these."""
        unsaid = {field.name: field.default for field in fields(self)}  # settings younger than the run
        for name, value in self.record().items():
            earlier = _plain(record.get(name, unsaid[name]))
            if name not in MAY_CHANGE and earlier != _plain(value):
                raise InputError(
                    f"{name} is {_plain(value)}, but the run to resume has {earlier}; "
                    f"pass what it was started with, or train in another folder"
                )


def _plain(value: Any) -> Any:
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
