"""The hooks of the site: links lead to pages of it or say where they lead in the repository, all pages have a place."""

import importlib.util
import re
import sys

import pytest
from conftest import ROOT

CODE = "`[a](../x.md)`\n```md\n[b](../x.md)\n```\n"
PAGES = ROOT / ".ci" / "pages.py"


@pytest.fixture(scope="module")
def site():
    if not PAGES.exists():
        pytest.skip("the hooks of the site are not part of an sdist")
    spec = importlib.util.spec_from_file_location("site_pages", PAGES)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Files:
    """All pages and pictures of docs/, and those that are added."""

    def __init__(self, site):
        self.added = {*site.OUTSIDE.values(), *site.REFERENCE}

    def get_file_from_path(self, path):
        return path in self.added or (ROOT / "docs" / path).is_file()


class Page:
    def __init__(self, place):
        self.file = self
        self.src_uri = place


@pytest.mark.parametrize(
    ("place", "link", "expected"),
    [
        ("index.md", "![a](docs/images/mri.png)", "![a](images/mri.png)"),
        ("index.md", "[a](docs/denoising.md#scores)", "[a](denoising.md#scores)"),
        ("index.md", "[decisions](docs/adr)", "[decisions](adr/README.md)"),
        ("index.md", "[CONTRIBUTING.md](CONTRIBUTING.md)", "[CONTRIBUTING.md](contributing.md)"),
        ("gpu.md", "[a](../bench/results)", "[a](results.md)"),
        ("results/mri.md", "[a](../../bench/results) [b](../gpu.md)", "[a](../results.md) [b](../gpu.md)"),
        ("results.md", "[a](../../docs/results/mri.md)", "[a](results/mri.md)"),
        ("gpu.md", "[a](#b) [c](https://d.e) [f](denoising.md)", "[a](#b) [c](https://d.e) [f](denoising.md)"),
        ("gpu.md", CODE, CODE),
        ("gpu.md", "[a](nowhere.md)", "[a](nowhere.md)"),
        ("gpu.md", "[the loop](../safi_fast/api.py)", "the loop (`safi_fast/api.py`)"),
        ("gpu.md", "[`api.py`](../safi_fast/api.py)", "`api.py` (`safi_fast/api.py`)"),
    ],
)
def test_links(site, monkeypatch, place, link, expected):
    monkeypatch.setattr(site, "_repository", lambda: None)
    assert site.on_page_markdown(link, Page(place), None, Files(site)) == expected


def test_links_to_the_repository(site, monkeypatch):
    monkeypatch.setattr(site, "_repository", lambda: "https://a.b/c")
    made = site.on_page_markdown("[x](../safi_fast/api.py)", Page("gpu.md"), None, Files(site))
    assert made == "[x](https://a.b/c/blob/main/safi_fast/api.py)"


def test_all_pages_have_a_place(site):
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = re.findall(r": ([\w/*.-]+)$", nav, re.MULTILINE)
    pages = [site._pages(entry) for entry in named]
    places = {place for found in pages for place in ([found] if isinstance(found, str) else found)}
    there = {path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")}
    assert places == there | {*site.OUTSIDE.values(), *site.REFERENCE}


def test_the_reference_is_of_the_public_names(site):
    import safi_fast

    shown = site._public("safi_fast")
    assert sorted(name.rpartition(".")[2] for name in shown) == sorted(set(safi_fast.__all__) - {"__version__"})
    assert shown[0] == "safi_fast.api.denoise"
    assert "safi_fast.distributed.arrays.denoise_array" in site._public("safi_fast.distributed")
    assert "mkdocs" not in sys.modules
