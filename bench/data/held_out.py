"""The colour images of BSDS500 that models are trained on, and twelve of its test folder that they are not.

The twelve are validated on, in their middle SIDE x SIDE pixels. CBSD68 is in neither: it is a part of other images.
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

SIDE = 128
FIRST, EACH, COUNT = 5, 17, 12  # of test, by name
SUFFIXES = (".png", ".jpg")


def pictures(folder: Path) -> list[Path]:
    """By name."""
    return sorted(path for path in folder.iterdir() if path.suffix in SUFFIXES)


def held_out(bsds500: Path) -> list[Path]:
    """The twelve."""
    return pictures(bsds500 / "test")[FIRST::EACH][:COUNT]


def split(bsds500: Path, out: Path) -> tuple[Path, Path]:
    """Folders of links to what is trained on, and of the twelve crops; what is there stays as it is."""
    kept = set(held_out(bsds500))
    trained, crops = out / "colour", out / "crops"
    trained.mkdir(parents=True, exist_ok=True)
    crops.mkdir(exist_ok=True)
    for path in pictures(bsds500 / "train") + pictures(bsds500 / "test"):
        if path not in kept and not (trained / path.name).is_symlink():
            (trained / path.name).symlink_to(path.resolve())
    for path in kept:
        with Image.open(path) as file:
            image = file.convert("RGB")
        left, top = ((size - SIDE) // 2 for size in image.size)
        image.crop((left, top, left + SIDE, top + SIDE)).save(crops / f"{path.stem}.png")
    return trained, crops
