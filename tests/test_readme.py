"""The examples of README.md and docs/reconstruction.md: Python runs, on smaller images and with few steps, and commands parse."""

import re
import shlex

import numpy as np
import pytest
from conftest import ROOT
from skimage import data

import safi_fast
from safi_fast.cli.main import build_parser
from safi_fast.solver.result import STATUS_MESSAGES

PAGES = ("README.md", "docs/reconstruction.md")
FEW = {"max_outer": 1, "max_iter": 12}  # steps in place of those of the examples, which want seconds to minutes


@pytest.fixture
def few_steps(monkeypatch):
    """A part of the photograph of the examples, and reconstructions of few steps."""
    camera, reconstruct = data.camera()[:192, :320], safi_fast.Solver.reconstruct
    monkeypatch.setattr(data, "camera", lambda: camera)
    monkeypatch.setattr(safi_fast.Solver, "reconstruct", lambda *args, **options: reconstruct(*args, **options | FEW))


@pytest.mark.parametrize("page", PAGES)
def test_python_examples(page, few_steps, tmp_path, monkeypatch):
    """The examples of a page run one after the other."""
    monkeypatch.chdir(tmp_path)
    names = {}
    examples = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert examples, f"{page} has no Python example"
    for number, example in enumerate(examples):
        exec(compile(example, f"{page}, example {number}", "exec"), names)
    solution = names["solution"]
    assert np.isfinite(solution.image).all()
    assert solution.image.shape == names["image"].shape
    assert solution.status in STATUS_MESSAGES


@pytest.mark.parametrize("page", PAGES)
def test_reconstruct_commands(page):
    """The commands of a page name arguments that there are. They are not run: their files are not here."""
    text = (ROOT / page).read_text(encoding="utf-8")
    commands = re.findall(r"^ {4}safi-fast (reconstruct \w+ [^|\n]+)$", text, re.MULTILINE)
    assert commands, f"{page} has no command of reconstruct"
    for command in commands:
        build_parser().parse_args(shlex.split(command, comments=True))
