"""Weights files: one safetensors file per model, without pickle, and proof against damage.

Tensors: `filters.0`, `filters.1`, ... (a cascade) or `filters` (composed); `mask.convolution.0..`, `mask.spline.0..`,
`mask.gain`, `mask.bias` (SAFI) or `mask.smoothing.0..`, `mask.profile`, `mask.scale` (MMR), all float32;
`strength.unrolled`, `strength.converged`, `noise_levels` and, where known, `lipschitz`, float64.
Version 2 adds `steps.size` and `steps.momentum`, a row of `mask.scale` per noise level, and filters and first mask
layers for several planes, (C, P, k, k); a model without them is written as version 1.
Metadata: the texts of HEADER, and any others, which become `Model.metadata`.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from .atomic import is_folder, reason, write_atomically
from .errors import ModelError
from .masks import FAMILIES, MmrMask, SafiMask
from .model import FilterBank, Model, Schedule, StepFactors, Strength, fingerprint_of

FORMAT = "safi_fast"
FORMAT_VERSIONS = ("1", "2")
IDENTITY = ("format", "format_version", "name", "family")
RULES = ("boundary", "mask_boundary", "mask_dilations", "schedule")
HEADER = {
    *IDENTITY,
    *RULES,
    "noise_range",
    "sha256",
}  # written from the model; noise_range is for people who list files
CHECKPOINT_SUFFIXES = (".pth", ".pt", ".ckpt")
CHECKPOINT_STARTS = (b"PK\x03\x04", b"\x80")


def save_model(model: Model, path: str | os.PathLike[str]) -> None:
    """Write `model` to `path`, which ends in .safetensors; an existing file is replaced at once or not at all.

    Raises ModelError.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ModelError(f"{path}: a weights file is written as .safetensors; choose such a name")
    taken = sorted(HEADER & model.metadata.keys())
    if taken:
        raise ModelError(
            f"the model's metadata has {', '.join(taken)}, which the weights file sets itself; leave them out"
        )
    _check_own(model, "tensors", "tensors", "mask.", np.ndarray)
    _check_own(model, "header", "texts", "mask_", str)
    write_atomically(path, save(model.tensors(), {**model.metadata, **_header(model)}), ModelError)


def read_model(path: str | os.PathLike[str]) -> Model:
    """Read and check a weights file of this package.

    Raises ModelError, which names the file and what is wrong: another kind of file, an unknown version, damage, a
    missing tensor, a wrong shape or dtype, values that are not finite, or tensors that do not match the SHA-256.
    """
    path = Path(path)
    try:
        return _model(*_read(path))
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def _header(model: Model) -> dict[str, str]:
    levels = model.noise_levels
    header = {
        "format": FORMAT,
        "format_version": format_version(model),
        "name": model.name,
        "family": model.family,
        "boundary": model.filters.boundary,
        "schedule": f"{model.schedule.name} {model.schedule.outer} {model.schedule.inner}",
        "noise_range": f"{levels[0]:.6g} to {levels[-1]:.6g}",
        "sha256": model.fingerprint,
    }
    return {**header, **model.mask.header()}


def _check_own(model: Model, method: str, what: str, start: str, kind: type) -> None:
    """What the mask adds to the file must not be taken for a part of another."""
    own = getattr(model.mask, method)()
    if not isinstance(own, dict):
        raise ModelError(f"{method} of the {model.family!r} mask gave {type(own).__name__}; expected a dict")
    if wrong := [str(key) for key in own if not str(key).startswith(start)]:
        raise ModelError(f"{method} of the {model.family!r} mask has {', '.join(wrong)}; its {what} begin with {start}")
    for key, value in own.items():
        if not isinstance(value, kind):
            raise ModelError(f"{key} of the {model.family!r} mask is {type(value).__name__}; expected {kind.__name__}")


def format_version(model: Model) -> str:
    """That of the file which `save_model` writes: the first one that can hold the model."""
    by_level = isinstance(model.mask, MmrMask) and model.mask.scale.ndim == 2
    return FORMAT_VERSIONS[model.steps is not None or by_level or model.filters.planes > 1]


def _read(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """All tensors and texts of a file of this format and version."""
    if is_folder(path):
        raise ModelError("is a folder; expected a weights file (.safetensors)")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            _check_format(metadata)
            return {name: _numbers(file, name) for name in file.keys()}, metadata  # noqa: SIM118
    except FileNotFoundError:
        raise ModelError(_why_missing(path)) from None
    except OSError as error:
        raise ModelError(f"cannot be read ({error})") from error
    except SafetensorError as error:
        if path.suffix in CHECKPOINT_SUFFIXES or _start(path).startswith(CHECKPOINT_STARTS):
            raise ModelError("is a PyTorch checkpoint; convert it with `safi-fast convert`") from None
        raise ModelError(f"is truncated, damaged or not a safetensors file ({error})") from error


def _why_missing(path: Path) -> str:
    """safetensors calls missing what it cannot reach, such as a loop of links."""
    try:
        path.stat()
    except FileNotFoundError:
        pass
    except OSError as error:
        return f"cannot be read ({reason(error)})"
    return "there is no such weights file"


def _start(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(4)


def _numbers(file: Any, name: str) -> NDArray[Any]:
    kind = file.get_slice(name).get_dtype()
    if kind not in ("F32", "F64"):  # asked first: NumPy has no bfloat16 to read it into
        raise ModelError(f"tensor {name} has dtype {kind}; expected F32 or F64")
    array: NDArray[Any] = file.get_tensor(name)
    return array


def _check_format(metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise ModelError("is a safetensors file, but not one of safi_fast (its metadata has no format 'safi_fast')")
    version = metadata.get("format_version")
    if version not in FORMAT_VERSIONS:
        raise ModelError(
            f"has format_version {version!r}; this version of safi_fast reads {' and '.join(FORMAT_VERSIONS)}"
        )


def _model(tensors: dict[str, NDArray[Any]], metadata: dict[str, str]) -> Model:
    left = _Source(tensors, metadata)
    family = _text(metadata, "family")
    layers = (left.take("filters"),) if "filters" in tensors else left.numbered("filters", at_least=2)
    filters = FilterBank(layers, _text(metadata, "boundary"))
    if family not in FAMILIES:
        known = " or ".join(FAMILIES)
        raise ModelError(f"family is {family!r}; expected {known} (import the module that adds another to FAMILIES)")
    mask = FAMILIES[family].read(left)
    strength = Strength(left.take("strength.unrolled", np.float64), left.take("strength.converged", np.float64))
    levels = left.take("noise_levels", np.float64)
    lipschitz = left.scalar("lipschitz") if "lipschitz" in left.tensors else None
    steps = None
    if metadata["format_version"] != "1" and any(name.startswith("steps.") for name in tensors):
        steps = StepFactors(left.take("steps.size"), left.take("steps.momentum"))
    left.check_nothing_left(
        "" if isinstance(mask, (SafiMask, MmrMask)) else f"; read of the {family!r} mask did not take() it"
    )
    further = {key: text for key, text in metadata.items() if key not in HEADER | mask.header().keys()}
    model = Model(
        _text(metadata, "name"), family, filters, mask, strength, levels, _schedule(metadata), further, lipschitz, steps
    )
    if format_version(model) > metadata["format_version"]:
        raise ModelError(
            f"has format_version {metadata['format_version']!r}, but tensors of version {format_version(model)}"
        )
    if fingerprint_of(tensors) != _text(metadata, "sha256"):
        raise ModelError("the tensors do not match the SHA-256 in the file: it was changed after it was written")
    return model


class _Source:
    """Hands out the tensors and texts of a file one by one, with an error for each that is not there or of another
    kind.
    """

    def __init__(self, tensors: dict[str, NDArray[Any]], metadata: dict[str, str]) -> None:
        self.tensors, self.metadata = dict(tensors), metadata

    def text(self, key: str) -> str:
        return _text(self.metadata, key)

    def integers(self, key: str) -> tuple[int, ...]:
        """Numbers between commas."""
        return _integers(self.metadata, key, self.text(key).split(","))

    def take(self, name: str, dtype: type[np.floating[Any]] = np.float32) -> NDArray[Any]:
        if name not in self.tensors:
            raise ModelError(f"tensor {name} is missing")
        array = self.tensors.pop(name)
        if array.dtype != dtype:
            raise ModelError(f"tensor {name} has dtype {array.dtype}; expected {np.dtype(dtype)}")
        return array

    def numbered(self, prefix: str, at_least: int) -> tuple[NDArray[Any], ...]:
        """`prefix`.0, `prefix`.1, ...: as many as there are, none left out."""
        count = max(at_least, sum(name.startswith(f"{prefix}.") for name in self.tensors))
        return tuple(self.take(f"{prefix}.{i}") for i in range(count))

    def scalar(self, name: str) -> float:
        array = self.take(name, np.float64)
        if array.shape != ():
            raise ModelError(f"tensor {name} has shape {array.shape}; expected ()")
        return float(array)

    def check_nothing_left(self, hint: str) -> None:
        if self.tensors:
            raise ModelError(f"tensor {min(self.tensors)} is unknown in a model of this kind{hint}")


def _text(metadata: dict[str, str], key: str) -> str:
    if key not in metadata:
        raise ModelError(f"the metadata has no {key}")
    return metadata[key]


def _integers(metadata: dict[str, str], key: str, words: list[str]) -> tuple[int, ...]:
    try:
        return tuple(int(word) for word in words)
    except ValueError:
        raise ModelError(f"the metadata's {key} is {metadata[key]!r}; expected integers") from None


def _schedule(metadata: dict[str, str]) -> Schedule:
    name, *steps = _text(metadata, "schedule").split() or [""]
    if len(steps) != 2:
        raise ModelError(f"the metadata's schedule is {metadata['schedule']!r}; expected for example 'unrolled 5 12'")
    return Schedule(name, *_integers(metadata, "schedule", steps))
