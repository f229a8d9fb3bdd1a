"""The training of every shipped model, from its start file in bench/runs: `make train-safi-gray` and its sisters.

    python -m bench.experiments.train safi-gray --photographs DIR --out run [--device cuda]

`RECIPES` has the words of `safi-fast train` for each stage of each model; a stage goes on from the raw weights of the
one before. A run that was cut goes on from its last checkpoint when the same command is given again. Images and
teachers are those of the shared data folder (SAFI_FAST_DATA), photographs those of bench/data/photographs.py. Colour
models begin with a grey one, and train on what bench/data/held_out.py leaves them.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

from bench import ROOT
from bench.data.held_out import split
from bench.data.problems import DATA
from safi_fast.cli.main import main as safi_fast

RUNS = ROOT / "bench" / "runs"
IMAGES = ("bsds500/train", "bsds500/test")
GRAY_TEACHERS, COLOR_TEACHERS = ("fdncnn_gray", "ffdnet_gray"), ("fdncnn_color", "ffdnet_color")
COMMON = "--batch 32 --pool 1024 --rate 1.4 --optimizer muon --average 0.999 --licence MIT"
COLOR = "--batch 8 --pool 256 --optimizer muon --average 0.998 --autocast --licence MIT --teacher-until 0.85"
ALL_LEVELS = "--sigma-range 1 75 --focus 5 5 15 25 25 50"
RECIPES = {
    "safi-gray": (f"--schedule 4x12 {ALL_LEVELS} --steps 21755 --steady 0.4 --teacher-until 0.7 --seed 21",),
    "safi-gray-fast": (
        f"--schedule 4x11 {ALL_LEVELS} --steps 18720 --steady 0.5 --teacher-until 0.7 --seed 41",
        f"--schedule 4x11 {ALL_LEVELS} --steps 18990 --steady 0.2 --teacher-until 0.6 --seed 51",
    ),
    "mmr-gray": (
        "--schedule 5x12 --sigma-range 5 50 --focus 5 15 25 --steps 5615 --steady 0.5 --teacher-until 0.7 --seed 42",
    ),
    "safi-color": (f"--schedule 4x12 {ALL_LEVELS} --steps 3300 --steady 0.65",),
    "safi-color-fast": (f"--schedule 4x10 {ALL_LEVELS} --steps 3403 --steady 0.45",),
}
GREY_STARTS = {"safi-color": "safi-gray", "safi-color-fast": "safi-gray-fast"}  # of colour models


def stages(name: str, out: Path, where: list[str]) -> Iterator[list[str]]:
    """The arguments of `safi-fast` for each stage; where: those that name data, teachers and device."""
    if name in GREY_STARTS:
        common, begin = COLOR, ["--init", GREY_STARTS[name], "--planes", "3"]
    else:
        common, begin = COMMON, ["--init", str(RUNS / name / "start.safetensors")]
    for number, words in enumerate(RECIPES[name], 1):
        folder = out / str(number)
        if (folder / "checkpoint.pt").exists():
            begin = ["--resume"]
        yield ["train", *where, *common.split(), *words.split(), "--name", name, "--out", str(folder), *begin]
        begin = ["--init", str(folder / "raw.safetensors")]


def inputs(name: str, out: Path) -> Iterator[str]:
    """The words for images and teachers of the shared data."""
    if name in GREY_STARTS:
        trained, crops = split(DATA / "bsds500", out)
        folders, validation, teachers = [trained], crops, COLOR_TEACHERS
    else:
        folders, validation, teachers = [DATA / folder for folder in IMAGES], DATA / "set12", GRAY_TEACHERS
    for option, places in (
        ("--data", folders), ("--validation", [validation]),
        ("--teacher", [DATA / "teachers" / f"{teacher}.safetensors" for teacher in teachers]),
    ):  # fmt: skip
        for place in places:
            yield from (option, str(place))


def main(words: list[str] | None = None) -> int:
    """Train, stage by stage; the last model.safetensors ships, once `tune` and `release` have been run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=tuple(RECIPES))
    parser.add_argument("--photographs", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--device", default="cpu", metavar="cpu|cuda")
    args = parser.parse_args(words)
    where = ["--device", args.device, "--data", str(args.photographs), *inputs(args.name, args.out)]
    for stage in stages(args.name, args.out, where):
        if code := safi_fast(stage):
            return code
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
