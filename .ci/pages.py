"""Hooks of mkdocs: pages that lie outside of docs/, the reference, folders in the navigation, links out of the site."""

import ast
import posixpath
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {  # in the repository, and in the site
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "bench/results/README.md": "results.md",
    "bench/runs/README.md": "runs.md",
    "tests/emulator/README.md": "emulator.md",
}
REFERENCE = {  # pages: a title, and packages or modules whose __all__ they show
    "api/safi_fast.md": ("safi_fast", ["safi_fast"]),
    "api/operators.md": ("Operators", ["safi_fast.operators"]),
    "api/distributed.md": ("Distributed", ["safi_fast.distributed"]),
    "api/integrations.md": (
        "Integrations",
        [
            f"safi_fast.integrations.{name}"
            for name in ("autograd", "deepinv", "monai", "mrpro", "napari", "sigpy", "skimage")
        ],
    ),
}
CODE_OR_LINK = re.compile(
    r"^```.*?^```|`[^`\n]*`|(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)", re.DOTALL | re.MULTILINE
)


def on_config(config):
    """Anchors as a forge makes them; a folder in the navigation is all pages in it."""
    from pymdownx.slugs import slugify

    config.mdx_configs["toc"]["slugify"] = slugify(case="lower")
    config.nav = [_expanded(entry) for entry in config.nav]
    return config


def on_files(files, config):
    """Add what lies outside of docs/ under its place in the site, and the reference."""
    from mkdocs.structure.files import File

    for source, target in OUTSIDE.items():
        files.append(File.generated(config, target, abs_src_path=str(ROOT / source)))
    for target, (title, modules) in REFERENCE.items():
        files.append(File.generated(config, target, content=_reference(title, modules)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links between pages, wherever these lie; others lead to the repository, if pyproject.toml says where it is."""
    place = page.file.src_uri
    source = next((path for path, target in OUTSIDE.items() if target == place), f"docs/{place}")

    def mended(match):
        picture, label, link = match.groups()
        if link is None or re.match(r"[a-z]+:|#", link):
            return match[0]
        name, _, anchor = link.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), name))
        target = _in_site(path, files)
        if target is None:  # what is nowhere is left to mkdocs, which says so
            return _outside(label, path) if (ROOT / path).exists() else match[0]
        there = posixpath.relpath(target, posixpath.dirname(place) or ".")
        return f"{picture}[{label}]({there}{f'#{anchor}' if anchor else ''})"

    return CODE_OR_LINK.sub(mended, markdown)


def _in_site(path, files):
    """What a file or folder of the repository is in the site; None where it is not there."""
    for candidate in (path, f"{path}/README.md"):
        target = OUTSIDE.get(candidate) or candidate.removeprefix("docs/")
        if (candidate in OUTSIDE or candidate.startswith("docs/")) and files.get_file_from_path(target):
            return target
    return None


def _outside(label, path):
    repository = _repository()
    if repository:
        return f"[{label}]({repository}/blob/main/{path})"
    return label if label.strip("`") == path else f"{label} (`{path}`)"


def _repository():
    """Its address, if pyproject.toml has one."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^Repository = "(.+)"$', text, re.MULTILINE)
    return found and found[1]


def _expanded(entry):
    if isinstance(entry, dict):
        return {
            title: _pages(below) if isinstance(below, str) else [_expanded(one) for one in below]
            for title, below in entry.items()
        }
    return entry


def _pages(below):
    """A page, or for FOLDER/* the pages of it, README.md first."""
    if not below.endswith("/*"):
        return below
    folder = below.removesuffix("/*")
    found = sorted((path.name for path in (ROOT / "docs" / folder).glob("*.md")), key=lambda n: (n != "README.md", n))
    made = [page for page in REFERENCE if posixpath.dirname(page) == folder]
    return [f"{folder}/{name}" for name in found] + made


def _reference(title, modules):
    text = [f"# {title}\n\nFrom the docstrings.\n"]
    for module in modules:
        if len(modules) > 1:
            text.append(f"## {module}\n")
        text += [f"::: {home}\n" for home in _public(module)]
    return "\n".join(text)


def _public(module):
    """Where the public names of a module live, by its source: nothing is imported."""
    path = ROOT.joinpath(*module.split("."))
    tree = ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text(encoding="utf-8"))
    homes = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module:
            homes |= {alias.name: f"{module}.{node.module}.{alias.name}" for alias in node.names}
    names = next(
        ast.literal_eval(n.value) for n in tree.body if isinstance(n, ast.Assign) and n.targets[0].id == "__all__"
    )
    shown = [name for name in names if not name.startswith("__")]
    shown.sort(key=lambda name: (name.endswith("Error"), name[0].isupper(), name))  # functions first
    return [homes.get(name, f"{module}.{name}") for name in shown]
