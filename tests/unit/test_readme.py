"""The examples of README.md and of the guides: Python runs, on smaller images and with few
steps, and commands parse.
"""

import re
import shlex

import numpy as np
import pytest
from conftest import ROOT
from skimage import data

import safi_fast
from safi_fast.cli.main import build_parser
from safi_fast.solver.result import STATUS_MESSAGES

PAGES = ("README.md", "docs/denoising.md", "docs/reconstruction.md", "docs/studies/holdout.md")
COMMANDS = ("README.md", "docs/command-line.md", "docs/reconstruction.md")
ONE_MASK = {"max_outer": 1}
FEW = ONE_MASK | {"max_iter": 12}  # steps in place of those of the examples, which want seconds to minutes


@pytest.fixture
def few_steps(monkeypatch):
    """A part of the photograph of the examples, and few steps."""
    camera, reconstruct, denoise = data.camera()[:192, :320], safi_fast.Solver.reconstruct, safi_fast.Solver.denoise
    monkeypatch.setattr(data, "camera", lambda: camera)
    monkeypatch.setattr(safi_fast.Solver, "reconstruct", lambda *args, **options: reconstruct(*args, **options | FEW))
    monkeypatch.setattr(safi_fast.Solver, "denoise", lambda *args, **options: denoise(*args, **options | ONE_MASK))


@pytest.mark.parametrize("page", PAGES)
def test_python_examples(page, few_steps, tmp_path, monkeypatch):
    """The examples of a page run one after the other."""
    monkeypatch.chdir(tmp_path)
    names = {}
    examples = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    assert examples, f"{page} has no Python example"
    for number, example in enumerate(examples):
        exec(compile(example, f"{page}, example {number}", "exec"), names)
    result = names.get("clean", names.get("image"))
    solution = names.get("solution")
    assert np.isfinite(result).all()
    assert solution is not None or page in ("README.md", "docs/studies/holdout.md")
    if solution is not None:
        assert np.isfinite(solution.image).all()
        assert solution.image.shape == result.shape
        assert solution.status in STATUS_MESSAGES


@pytest.mark.parametrize("page", COMMANDS)
def test_commands(page):
    """The commands of a page name arguments that there are. They are not run: their files are not here."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    commands = re.findall(r"^safi-fast (.+)$", "\n".join(blocks), re.MULTILINE)
    assert commands, f"{page} has no command"
    for command in commands:
        build_parser().parse_args(shlex.split(command, comments=True))


def test_the_commands_of_the_readme_are_targets():
    """`make NAME` in the pages for newcomers is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in ("README.md", "CONTRIBUTING.md"):
        named = re.findall(r"\bmake ([a-z-]+)", (ROOT / page).read_text(encoding="utf-8"))
        assert named
        assert set(named) <= targets, page


def test_the_readme_is_short():
    """What decides whether to use it, and no more."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert len(text.split()) < 800


# ------------------------------------------------------------------------------------------------------------ links

MARKDOWN = sorted(
    path
    for place in ("*.md", "docs/**/*.md", "bench/results/*.md", "bench/runs/*.md", "tests/emulator/*.md")
    for path in ROOT.glob(place)
)


def links_of(text):
    """The targets of links and pictures, outside of code."""
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)
    return re.findall(r"\]\(([^)\s]+)\)", prose)


def anchors_of(text):
    """What a link to a heading of a page may say after `#`."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.+)$", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def broken(page, text):
    """The links of a page that lead nowhere."""
    for link in links_of(text):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        known = {""}
        if anchor and (not name or target.suffix == ".md"):
            known = anchors_of(target.read_text(encoding="utf-8") if name else text)
        if not target.exists() or anchor not in known:
            yield link


def test_broken_links_are_found():
    text = "# A b: c\n[x](no.md) [y](#a-b-c) [z](#none) [w](README.md#safi_fast) ![p](https://a.b) `[q](r.md)`\n"
    assert list(broken(ROOT / "LICENSE", text)) == ["no.md", "#none"]


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    assert not list(broken(page, page.read_text(encoding="utf-8")))
