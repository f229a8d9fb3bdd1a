"""Reads the PyTorch checkpoints of the published MMR and SAFI code (arXiv 2407.06608) and converts them.

What the published network does to its parameters before it uses them is done here once, in float64: the kernels of W
get zero mean; those of G become non-negative with sum one; phi keeps only its slopes, clamped to at most 0, and starts
at phi(0) = 1 whatever its first coefficient is; c becomes |c|. The kernels of the SAFI mask are used as they are, with
their means. `cs` of SAFI and the transposed copies (`...W1T...`, `...W1sT...`) are not used by it and not read.
"""

import hashlib
import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import BackendError, InputError, ModelError
from ..masks import MmrMask, SafiMask
from ..model import FilterBank, Model, Schedule, Strength
from ..weights import save_model

PUBLISHED_SCHEDULE = Schedule("unrolled", outer=5, inner=12)
SMALLEST_STRENGTH = 1e-12  # the published code clamps lambda to this
UNUSED = re.compile(r"W\d\.(W1T|W1sT\.\d+)\.weight")

Array = NDArray[np.float64]


def read_checkpoint(
    path: str | os.PathLike[str], *, converged_strength: float | None = None, name: str | None = None
) -> Model:
    """The model in a published checkpoint (.pth): zero boundary, one noise level, schedule unrolled 5 x 12.

    Where the first layers of W and of the SAFI mask take P planes, it is a model of P planes.
    converged_strength: lambda tuned for the converged schedule, which no checkpoint holds; the trained lambda if None.
    name: of the model; the file's name without its suffix if None.
    The file is read without running any code in it. Raises ModelError where it is not such a checkpoint, InputError
    for a strength that is not positive, BackendError without PyTorch.
    """
    if converged_strength is not None and not 0 < converged_strength < np.inf:
        raise InputError(f"converged_strength is {converged_strength}; expected a positive finite number")
    path = Path(path)
    try:
        content = _load(path)
        return _model(content, converged_strength, path, name or path.stem)
    except ModelError as error:
        raise ModelError(f"{path}: {error}") from error


def convert(
    in_path: str | os.PathLike[str],
    out_path: str | os.PathLike[str],
    *,
    converged_strength: float | None = None,
    name: str | None = None,
    overwrite: bool = False,
) -> Model:
    """Read the checkpoint `in_path` as `read_checkpoint` does, write it to `out_path` (.safetensors) and return it.

    An existing `out_path` is replaced only with `overwrite`. Raises what `read_checkpoint` and `save_model` raise.
    """
    if not overwrite and Path(out_path).exists():
        raise ModelError(f"{Path(out_path)}: exists already; choose another name or allow overwriting")
    model = read_checkpoint(in_path, converged_strength=converged_strength, name=name)
    save_model(model, out_path)
    return model


def _load(path: Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError as error:
        raise BackendError("reading a checkpoint needs PyTorch: pip install torch") from error
    if not path.is_file():
        raise ModelError(
            "is a folder; expected a checkpoint (.pth)" if path.is_dir() else "there is no such checkpoint"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on how the file was pickled, which its reader cannot change
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damage surfaces as RuntimeError, EOFError, KeyError, UnpicklingError, OSError, ...
        if "global" in str(error).lower():
            raise ModelError("holds Python objects that only running its code could load; that is not done") from error
        raise ModelError(f"is truncated, damaged or not a PyTorch checkpoint ({type(error).__name__})") from error
    if not isinstance(content, dict) or not isinstance(content.get("state_dict"), dict):
        raise ModelError("has no 'state_dict'; expected a checkpoint of the published MMR or SAFI code")
    return content


def _model(content: dict[str, Any], converged_strength: float | None, path: Path, name: str) -> Model:
    state = _State(content["state_dict"])
    family = state.family()
    channels, kernel, depth, sigma = _config(content)
    filters = tuple(
        weights - weights.mean((2, 3), keepdims=True) for weights in state.cascade("W1", channels, kernel, depth)
    )
    strength = max(float(state.take("lmbda", 1, 1)[0, 0]), SMALLEST_STRENGTH)
    planes = filters[0].shape[1]
    mask = _safi_mask(state, channels, planes) if family == "safi" else _mmr_mask(state, channels, kernel, depth)
    state.check_nothing_left()
    return Model(
        name,
        family,
        FilterBank(_float32(*filters), "zero"),
        mask,
        Strength(np.array([strength]), np.array([converged_strength or strength])),
        np.array([sigma / 255]),
        PUBLISHED_SCHEDULE,
        {"source": f"checkpoint {path.name}, SHA-256 {hashlib.sha256(path.read_bytes()).hexdigest()}"},
    )


def _safi_mask(state: "_State", channels: int, planes: int) -> SafiMask:
    first = state.take("W4.W1.weight", channels, planes, None, None)
    rest = [state.take(f"{layer}.W1.weight", channels, channels, None, None) for layer in ("W2", "W3")]
    splines = [state.take(f"phigrad_spline{i}.coefficients", channels, None) for i in (1, 2, 3)]
    state.ignore("cs")
    ones, zeros = np.ones((1, channels), np.float32), np.zeros((1, channels), np.float32)
    return SafiMask(_float32(first, *rest), (1, 1, 1), _float32(*splines), ones, zeros, "zero")


def _mmr_mask(state: "_State", channels: int, kernel: int, depth: int) -> MmrMask:
    smoothing = []
    for weights in state.cascade("W2", channels, kernel, depth, depthwise=True):
        sums = abs(weights).sum((2, 3), keepdims=True)
        if (sums == 0).any():
            raise ModelError("entries W2.* have a kernel of zeros, which cannot be made to sum to one")
        smoothing.append(abs(weights) / sums)
    steps = np.diff(state.take("phigrad_spline.coefficients", channels, None), axis=1)
    profile = np.cumsum(np.hstack([np.ones((channels, 1)), np.minimum(steps, 0)]), axis=1)
    scale = abs(state.take("cs", 1, channels, 1, 1)).reshape(channels)
    return MmrMask(_float32(*smoothing), *_float32(profile, scale))


def _config(content: dict[str, Any]) -> tuple[int, int, int, float]:
    """Number of filters, kernel size, layers of W, and sigma on the 8-bit scale."""
    config = content.get("config")
    parameters = config.get("model_params") if isinstance(config, dict) else None
    if not isinstance(config, dict) or not isinstance(parameters, dict):
        raise ModelError("has no 'config' with 'model_params'; expected a checkpoint of the published MMR or SAFI code")
    sizes: dict[str, Any] = {key: parameters.get(key) for key in ("n_filter", "kernel_size", "n_layer")}
    for key, size in sizes.items():
        if type(size) is not int or size < 1:
            raise ModelError(f"config has {key} = {size!r}; expected a positive integer")
    sigma = config.get("sigma")
    if not isinstance(sigma, (int, float)) or not 0 < sigma <= 255:
        raise ModelError(f"config has sigma = {sigma!r}; expected a noise level on the 8-bit scale")
    return sizes["n_filter"], sizes["kernel_size"], sizes["n_layer"], float(sigma)


class _State:
    """Hands out the entries of a state_dict as float64 arrays, with an error for each that is missing or wrong."""

    def __init__(self, entries: dict[str, Any]) -> None:
        self.entries = {key: value for key, value in entries.items() if not UNUSED.fullmatch(str(key))}

    def family(self) -> str:
        if "phigrad_spline.coefficients" in self.entries:
            return "mmr"
        if "phigrad_spline1.coefficients" in self.entries:
            return "safi"
        raise ModelError("has no entry phigrad_spline...; it is neither an MMR nor a SAFI checkpoint")

    def take(self, key: str, *shape: int | None) -> Array:
        """The entry as an array of this shape, where None stands for any size."""
        import torch

        if key not in self.entries:
            raise ModelError(f"entry {key} is missing")
        entry = self.entries.pop(key)
        if not isinstance(entry, torch.Tensor) or not entry.is_floating_point() or entry.layout != torch.strided:
            raise ModelError(f"entry {key} is not a plain tensor of floating point numbers")
        array: Array = entry.detach().to(torch.float64).numpy()
        if array.ndim != len(shape) or any(want not in (None, n) for want, n in zip(shape, array.shape, strict=True)):
            expected = ", ".join("any" if want is None else str(want) for want in shape)
            raise ModelError(f"entry {key} has shape {array.shape}; expected ({expected})")
        if not np.isfinite(array).all():
            raise ModelError(f"entry {key} has values that are not finite (NaN or infinity)")
        return array

    def cascade(self, name: str, channels: int, kernel: int, depth: int, *, depthwise: bool = False) -> list[Array]:
        """The kernels of a published LinearLayer: `name`.W1, then `name`.W1s.0, .1, ... up to `depth` layers.

        The first takes any number of planes, but that of a depthwise one.
        """
        inner = 1 if depthwise else channels
        first = self.take(f"{name}.W1.weight", channels, 1 if depthwise else None, kernel, kernel)
        rest = [self.take(f"{name}.W1s.{i}.weight", channels, inner, kernel, kernel) for i in range(depth - 1)]
        return [first, *rest]

    def ignore(self, key: str) -> None:
        self.entries.pop(key, None)

    def check_nothing_left(self) -> None:
        if self.entries:
            raise ModelError(f"entry {min(map(str, self.entries))} is unknown in a published checkpoint")


def _float32(*arrays: Array) -> tuple[NDArray[np.float32], ...]:
    return tuple(array.astype(np.float32) for array in arrays)
