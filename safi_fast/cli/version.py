"""What is installed: this package, what it stands on, and the shipped weights with their hashes."""

import argparse
import platform
from importlib import metadata
from typing import Any, NoReturn

from .. import __version__
from .output import print_json
from .parser import Parser

PACKAGES = ("numpy", "scipy", "numba", "llvmlite", "safetensors", "scikit-image", "imagecodecs", "matplotlib", "torch")
CUPY_WHEELS = ("cupy-cuda13x", "cupy-cuda12x", "cupy")  # named after the CUDA version they are built for


class Version(argparse.Action):
    """Prints the version and ends; as JSON, with `installed`, where --json stands beside it."""

    def __init__(self, option_strings: list[str], dest: str):
        super().__init__(
            option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS,
            help="show the version and exit; with --json all that it was installed with, and the hashes of the weights",
        )  # fmt: skip

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        assert isinstance(parser, Parser)
        if "--json" in parser.given:
            print_json({**installed(), "models": weights()})
        else:
            print(f"safi-fast {__version__}")
        raise SystemExit(0)


def installed() -> dict[str, Any]:
    """Versions of the package, of Python and of other packages, None where they are not there."""
    return {
        "safi-fast": __version__,
        "python": f"{platform.python_version()} ({platform.system()} {platform.machine()})",
        "packages": _versions(),
    }


def weights() -> dict[str, dict[str, str]]:
    """By the name of each shipped model: the SHA-256 of its tensors, and the version of its file format."""
    from ..models import list_models, load_model
    from ..weights import format_version

    found = {name: load_model(name) for name in list_models()}
    return {name: {"sha256": model.fingerprint, "format": format_version(model)} for name, model in found.items()}


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _versions() -> dict[str, str | None]:
    found = {name: _version(name) for name in PACKAGES}
    cupy = {wheel: _version(wheel) for wheel in CUPY_WHEELS}
    found["cupy"] = next((f"{version} ({wheel})" for wheel, version in cupy.items() if version), None)
    return found
