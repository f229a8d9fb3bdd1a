"""The models that come with the package: weights files in this folder, found by name."""

import difflib
import functools
import os
from importlib.resources import as_file, files
from pathlib import Path

from ..atomic import real
from ..errors import InputError, ModelError
from ..model import Model
from ..weights import CHECKPOINT_SUFFIXES, read_model

DEFAULT_MODEL = "safi-gray"
DEFAULT_COLOR_MODEL = "safi-color"  # of red, green and blue, where it is there and no model or `color` is asked for
SUFFIX = ".safetensors"


def list_models() -> list[str]:
    """The names of the models that come with the package, sorted."""
    return sorted(entry.name.removesuffix(SUFFIX) for entry in files(__name__).iterdir() if entry.name.endswith(SUFFIX))


def load_model(name_or_path: str | os.PathLike[str] = DEFAULT_MODEL) -> Model:
    """A model by its name (see `list_models`) or from a weights file (.safetensors).

    A model is read once and then shared; a file that has changed is read again. A text is taken as a path where it is
    no such name and ends like a weights file, has a folder in it, or is an existing file. Raises ModelError for an
    unknown name or an unusable file, InputError for anything but text or a path.
    """
    if isinstance(name_or_path, os.PathLike):
        return _from_file(Path(name_or_path))
    if not isinstance(name_or_path, str):
        raise InputError(
            f"name_or_path is a {type(name_or_path).__name__}; expected a model's name or the path of a file"
        )
    available = list_models()
    if name_or_path in available:
        return _shipped(name_or_path)
    path = Path(name_or_path)
    if path.suffix in (SUFFIX, *CHECKPOINT_SUFFIXES) or path.name != name_or_path or path.exists():
        return _from_file(path)
    nearest = difflib.get_close_matches(name_or_path, available, 1)
    hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
    raise ModelError(f"there is no model {name_or_path!r}{hint} (available: {', '.join(available) or 'none'})")


def resolve(model: Model | str | os.PathLike[str] | None) -> Model:
    """A model as it is, else the one of that name or path; None: the default. Raises as `load_model`."""
    if isinstance(model, Model):
        return model
    return load_model(DEFAULT_MODEL if model is None else model)


def describe(model: Model) -> dict[str, str]:
    """What a person wants to know of a model, as short texts by heading; sigma on the 8-bit scale."""
    levels = [f"{255 * level:.4g}" for level in model.noise_levels]
    filters, schedule = model.filters, model.schedule
    layers = "composed" if len(filters.layers) == 1 else f"{len(filters.layers)} layers"
    side = filters.support
    planes = f" for {filters.planes} planes together" if filters.planes > 1 else ""
    return {
        "name": model.name,
        "family": model.family.upper(),
        "noise levels": ", ".join(levels),
        "filters": f"{filters.channels} of {side} x {side}{planes}, {layers}, {filters.boundary} boundary",
        "schedule": f"{schedule.name}, {schedule.outer} outer x {schedule.inner} inner steps",
        "strength unrolled": ", ".join(f"{value:.4g}" for value in model.strength.unrolled),
        "strength converged": ", ".join(f"{value:.4g}" for value in model.strength.converged),
        "training data": model.metadata.get("training_data", "not stated"),
        "licence": model.metadata.get("licence", "not stated"),
        "scores": model.metadata.get("scores", "not measured"),
        "fingerprint": model.fingerprint,
    }


@functools.cache
def _shipped(name: str) -> Model:
    with as_file(files(__name__) / f"{name}{SUFFIX}") as path:
        return read_model(path)


def _from_file(path: Path) -> Model:
    try:
        state = path.stat()
    except OSError:
        return read_model(path)  # says what is wrong
    return _read_state(real(path), state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=8)
def _read_state(path: Path, modified: int, size: int) -> Model:
    return read_model(path)
