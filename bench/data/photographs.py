"""Clean photographs of other kinds than BSDS, from packages of Debian 12, free to use (CC BY, CC BY-SA, CC0).

apt-get download lomiri-wallpapers-16.04 lomiri-wallpapers-20.04 plasma-workspace-wallpapers
for file in *.deb; do dpkg-deb -x $file unpacked; done
python -m bench.data.photographs unpacked photographs

Each is reduced to a third, so that neither JPEG nor the sensor's noise is left, and cut into pieces of 480 x 320 pixels
or less. `safi-fast train --data photographs` takes the folder.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

LOMIRI = (
    "Bridge_by_Sander_Klootwijk", "Dragonfly_by_Bolly", "Picture_0B_by_freespace", "Picture_1A_by_freespace",
    "Wine_by_Jakkub_Mede", "aitzgorri_by_Aitzol_Berasategi", "friends_by_Aitzol_Berasategi",
    "life_by_Aitzol_Berasategi", "picosdeeuropa_by_Aitzol_Berasategi", "seeding_by_Clements_Engelhardt",
    "sunset_by_Aitzol_Berasategi", "Kleiber_by_Lukas_Baubkus",
)  # fmt: skip
PLASMA = ("BytheWater", "ColorfulCups", "EveningGlow", "FallenLeaf", "Grey", "Kite", "OneStandsOut", "Path", "Volna")
REDUCTION = 3
PIECE = (480, 320)  # width, height in pixels


def photographs(folder: Path) -> list[Path]:
    """The files, in the order of the lists. Raises SystemExit where one is missing."""
    shared = folder / "usr" / "share"
    found = [shared / "backgrounds" / f"{name}.jpg" for name in LOMIRI]
    for name in PLASMA:
        images = sorted((shared / "wallpapers" / name / "contents" / "images").glob("*.jpg"))
        found += [max((path for path in images if not path.is_symlink()), key=lambda path: path.stat().st_size)]
    missing = [path.name for path in found if not path.is_file()]
    if missing:
        raise SystemExit(f"{folder} lacks {', '.join(missing)}; unpack the three packages into it")
    return found


def pieces(image: Image.Image) -> list[Image.Image]:
    """The image reduced and cut, without what is left over at the right and the lower side."""
    small = image.convert("RGB").reduce(REDUCTION)
    width, height = (min(side, limit) for side, limit in zip(small.size, PIECE, strict=True))
    corners = [
        (x, y) for y in range(0, small.height - height + 1, height) for x in range(0, small.width - width + 1, width)
    ]
    return [small.crop((x, y, x + width, y + height)) for x, y in corners]


def main(words: list[str] | None = None) -> None:
    """Write the pieces as PNG."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("unpacked", type=Path)
    parser.add_argument("output", type=Path)
    args = parser.parse_args(words)
    args.output.mkdir(parents=True, exist_ok=True)
    count = 0
    for path in photographs(args.unpacked):
        with Image.open(path) as image:
            name = path.parents[2].name if path.parent.name == "images" else path.stem
            for i, piece in enumerate(pieces(image)):
                piece.save(args.output / f"{name}-{i:02d}.png")
                count += 1
    print(f"{args.output}: {count} pieces of {len(LOMIRI) + len(PLASMA)} photographs")


if __name__ == "__main__":
    main()
