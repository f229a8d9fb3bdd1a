"""Sizes that keep the code readable: lines of a module and of a function, and parameters of a signature."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE, FUNCTION, PARAMETERS = 450, 60, 10

# What is larger, and why. A name that is no longer needed here has to go.
LARGE: dict[str, str] = {}
WIDE = {}


def functions(tree, prefix=""):
    """(dotted name, function) of all functions and methods, those inside functions too."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            name = f"{prefix}{node.name}"
            if not isinstance(node, ast.ClassDef):
                yield name, node
            yield from functions(node, f"{name}.")
        else:
            yield from functions(node, prefix)


def docstring_lines(node):
    """Of its own docstring."""
    doc = node.body[0] if ast.get_docstring(node) is not None else None
    return doc.end_lineno - doc.lineno + 1 if doc else 0


def lines(function):
    """Of the definition without decorators and docstring."""
    return function.end_lineno - function.lineno + 1 - docstring_lines(function)


def lines_of_module(text, tree):
    """Without any docstring."""
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    return len(text.splitlines()) - sum(docstring_lines(n) for n in ast.walk(tree) if isinstance(n, documented))


def parameters(function):
    """All but `self`."""
    a = function.args
    named = [p.arg for p in (*a.posonlyargs, *a.args, *a.kwonlyargs) if p.arg not in ("self", "cls")]
    return len(named) + (a.vararg is not None) + (a.kwarg is not None)


def is_entry_point(function):
    """Whether it is a kernel that bindings launch."""
    return any(isinstance(d, ast.Name) and d.id == "kernel" for d in function.decorator_list)


def found(paths):
    """Names of what is over the bars: (large, wide)."""
    large, wide = set(), set()
    for path in paths:
        name, text = path.relative_to(ROOT).as_posix(), path.read_text()
        tree = ast.parse(text)
        if lines_of_module(text, tree) > MODULE:
            large.add(name)
        for function, node in functions(tree):
            if lines(node) > FUNCTION:
                large.add(f"{name}: {function}")
            if parameters(node) > PARAMETERS and not is_entry_point(node):
                wide.add(f"{name}: {function}")
    return large, wide


@pytest.fixture(scope="module")
def house():
    folders = (ROOT / "safi_fast", ROOT / "bindings", ROOT / "kernels" / "cpu")
    paths = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
    assert len(paths) > 100
    return found(paths)


def test_modules_and_functions_are_small(house):
    assert sorted(house[0]) == sorted(LARGE)


def test_signatures_are_narrow(house):
    assert sorted(house[1]) == sorted(WIDE)


def test_the_bars_are_measured(monkeypatch, tmp_path):
    """A module of one line too many, a long function and a wide one; a kernel may be wide."""
    monkeypatch.setattr(f"{__name__}.ROOT", tmp_path)
    arguments = ", ".join(f"a{i}" for i in range(PARAMETERS + 1))
    wide = f"class A:\n    def wide({arguments}): pass\n@kernel\ndef convolve({arguments}): pass\n"
    body = "    '''One\n    two.'''\n" + "    pass\n" * (FUNCTION - 1)
    (tmp_path / "one.py").write_text(wide + "def just(): \n" + body + "def long():\n" + body + "    pass\n")
    (tmp_path / "two.py").write_text("pass\n" * (MODULE + 1))
    (tmp_path / "three.py").write_text("pass\n" * MODULE)
    assert found(sorted(tmp_path.glob("*.py"))) == ({"two.py", "one.py: long"}, {"one.py: A.wide"})
