"""The gallery: what says that it runs as it is does, the other code is Python, commands parse, pages are short."""

import re
import shlex

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image

from safi_fast.cli.main import build_parser

GALLERY = ROOT / "docs" / "examples"
PAGES = sorted(path.stem for path in GALLERY.glob("*.md") if path.name != "README.md")
LIST = (GALLERY / "README.md").read_text(encoding="utf-8")
RUN = re.findall(r"\]\(([\w-]+)\.md\) \|.*\| yes \|$", LIST, re.MULTILINE)
LONGEST = 60  # lines


def text_of(page):
    return (GALLERY / f"{page}.md").read_text(encoding="utf-8")


def code_of(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", text_of(page), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("page", RUN)
def test_examples_run(page, tmp_path, monkeypatch, capsys):
    """As they stand. What is printed last says by how much the result is better."""
    if "zarr" in page:
        pytest.importorskip("zarr", reason="needs the extra distributed")
    monkeypatch.chdir(tmp_path)
    names = {}
    for number, code in enumerate(code_of(page, "python")):
        exec(compile(code, f"{page}, code {number}", "exec"), names)
    before, after = map(float, re.findall(r"([\d.]+)(?: dB)? (?:before|after)", capsys.readouterr().out))
    assert after > before + 2 if before > 1 else after < before / 2
    for picture in tmp_path.glob("*.png"):
        with Image.open(picture) as drawn, Image.open(ROOT / f"docs/images/example-{picture.name}") as shown:
            assert abs(drawn.width / drawn.height - shown.width / shown.height) < 0.05  # a copy of smaller size


@pytest.mark.parametrize("page", PAGES)
def test_pages(page):
    """They are short and listed; code that does not run here is Python at least, and its names are ours."""
    text = text_of(page)
    assert len(text.splitlines()) <= LONGEST
    assert f"({page}.md)" in LIST
    for code in code_of(page, "python"):
        compile(code, page, "exec")
        for line in re.findall(r"^from safi_fast.*$", code, re.MULTILINE):
            if "integrations" not in line:  # which import torch and more; tests/integrations have them
                exec(line, {})
    for command in re.findall(r"^safi-fast (.+)$", "\n".join(code_of(page, "sh")), re.MULTILINE):
        build_parser().parse_args(shlex.split(command, comments=True))


def test_some_run():
    assert len(RUN) == 6
    assert np.isin(RUN, PAGES).all()
