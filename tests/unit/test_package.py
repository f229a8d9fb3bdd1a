"""The package as such: what importing it costs, its public names, which way imports point, and the wheel."""

import ast
import os
import re
import shutil
import subprocess
import sys
import zipfile
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from models import random_model
from patience import PROCESS

import safi_fast
from safi_fast.bindings.cache import STAMP, discard_stale_kernels
from safi_fast.weights import save_model

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "cupy", "numba", "llvmlite", "scipy", "skimage", "matplotlib", "rich")
PUBLIC = [
    "BackendError",
    "Converged",
    "Fast",
    "Gap",
    "ImageFileError",
    "InputError",
    "Model",
    "ModelError",
    "OperatorError",
    "OutOfMemoryError",
    "Reconstruct",
    "SafiError",
    "Solution",
    "Solver",
    "SolverError",
    "Unrolled",
    "__version__",
    "denoise",
    "denoise_volume",
    "estimate_memory",
    "list_models",
    "load_model",
    "reconstruct",
    "tune_strength",
    "warmup",
]


def python(code, **options):
    """What a fresh interpreter prints; it may not write to stderr."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=PROCESS,
        **options,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


# ---------------------------------------------------------------------------------------------------- import and names


def test_import_is_fast():
    """Processor time, against that of NumPy, which every caller imports: a busy or slow machine changes neither's
    share.
    """
    code = "import time; t = time.process_time(); import {}; print(time.process_time() - t)"
    ours, numpy = (min(float(python(code.format(name))) for _ in range(3)) for name in ("safi_fast", "numpy"))
    assert ours < numpy / 3


@pytest.mark.parametrize(
    "statement",
    [
        "import safi_fast",
        "import safi_fast.errors",
        "import safi_fast.backend",
        "import safi_fast.cli.main",
        "import safi_fast.integrations",
    ],
)
def test_import_loads_nothing_heavy(statement):
    assert python(f"{statement}; import sys; print([name for name in {HEAVY} if name in sys.modules])") == "[]"


def test_operators_load_neither_torch_nor_other_libraries():
    others = ("torch", "cupy", "numba", "sigpy", "pylops", "deepinv", "mrpro", "matplotlib")
    code = f"import safi_fast.operators, sys; print([name for name in {others} if name in sys.modules])"
    assert python(code) == "[]"


def test_public_operators_are_documented():
    from safi_fast import operators

    assert sorted(operators.__all__) == operators.__all__
    for name in operators.__all__:
        public = getattr(operators, name)
        assert public.__doc__
        if isinstance(public, type):
            assert not [
                key for key, value in vars(public).items() if key[0] != "_" and callable(value) and not value.__doc__
            ]


def test_public_names():
    assert safi_fast.__all__ == PUBLIC
    assert dir(safi_fast) == PUBLIC
    for name in PUBLIC:
        assert getattr(safi_fast, name) is not None
    with pytest.raises(AttributeError, match="module 'safi_fast' has no attribute 'denoize'"):
        _ = safi_fast.denoize
    star = {}
    exec("from safi_fast import *", star)
    assert set(PUBLIC) <= set(star)


def test_public_functions_and_classes_are_documented():
    for name in PUBLIC:
        public = getattr(safi_fast, name)
        assert name == "__version__" or public.__doc__
        if isinstance(public, type):
            assert not [
                key for key, value in vars(public).items() if key[0] != "_" and callable(value) and not value.__doc__
            ]


# --------------------------------------------------------------------------------------------- imports point one way


def sources():
    """Every module of the package as (its dotted name, its imports), whichever folder it lies in."""
    for folder, name in ((ROOT / "safi_fast", "safi_fast"), (ROOT / "kernels", None), (ROOT / "bindings", None)):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            dotted = [*([] if name else ["safi_fast"]), *parts]
            package = dotted[:-1]
            yield ".".join(dotted).removesuffix(".__init__"), set(imports(ast.parse(path.read_text()), package))


def imports(tree, package):
    """Absolute names of all that a module imports, also inside functions and by importlib.import_module("...")."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "import_module":
            yield from (argument.value for argument in node.args if isinstance(argument, ast.Constant))


SOURCES = dict(sources())


def inside(name, *packages):
    return any(name == package or name.startswith(f"{package}.") for package in packages)


def imported_from(*packages):
    """(module, import) for all modules of these packages."""
    return [(module, name) for module, names in SOURCES.items() if inside(module, *packages) for name in sorted(names)]


def test_the_sources_are_found():
    assert "safi_fast.api" in SOURCES["safi_fast"] or "safi_fast.api.denoise" in SOURCES["safi_fast"]
    assert "safi_fast.kernels.cpu.fft.fft32" in SOURCES["safi_fast.kernels.cpu.tile"]
    assert "safi_fast.kernels.cpu.tile.GROUP" in SOURCES["safi_fast.bindings.cpu_kernels"]
    assert "safi_fast.bindings.cpu.CpuBackend" in SOURCES["safi_fast.backend"]
    assert len(SOURCES) > 30


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("kernels", ["kernels"]),
        ("bindings", ["atomic", "bindings", "kernels", "masks", "model", "errors", "varying", "warn"]),
        ("solver", ["solver", "operators", "backend", "errors", "model", "namespaces", "types"]),
        (
            "operators",
            ["arrays", "operators", "bindings", "kernels", "errors", "namespaces", "tensors", "values", "warn"],
        ),
        ("namespaces", []),
        ("errors", []),
        ("owners", []),
        ("atomic", ["errors", "owners"]),
        ("claims", ["atomic", "errors", "owners"]),
        ("turns", ["atomic", "claims", "errors"]),
        ("parts", ["errors"]),
        ("varying", ["model", "types"]),
        ("masks", ["errors", "parts"]),
        ("model", ["errors", "masks", "parts"]),
        ("arrays", ["errors", "tensors", "values"]),
        ("tensors", []),
        ("values", ["errors", "tensors"]),
        ("plausible", ["errors", "operators", "solver", "types", "values", "warn"]),
        ("explained", ["errors", "operators", "plausible", "solver", "values", "warn"]),
        ("color", ["errors"]),
        ("backend", ["errors", "model", "types", "varying", "bindings"]),  # bindings when a backend is chosen
        ("weights", ["errors", "masks", "model", "atomic"]),
        ("models", ["atomic", "errors", "model", "weights"]),
        ("types", ["solver"]),  # for type checkers alone
        ("warn", []),
        ("options", []),
        ("noise_level", ["namespaces", "values"]),
        ("anscombe", ["errors", "namespaces", "tensors", "values"]),
        ("images", ["arrays", "color", "errors", "memory", "model", "noise_level", "tensors", "types", "values"]),
        ("measured", ["errors", "operators", "types", "values"]),
        ("tuning", ["arrays", "errors", "measured", "operators", "solver", "types"]),
        (
            "denoising",
            [
                "anscombe",
                "arrays",
                "backend",
                "color",
                "errors",
                "images",
                "memory",
                "model",
                "noise_level",
                "options",
                "solver",
                "tiling",
                "types",
                "values",
                "varying",
                "warn",
            ],
        ),
        (
            "reconstructing",
            [
                "arrays",
                "backend",
                "errors",
                "explained",
                "measured",
                "memory",
                "model",
                "operators",
                "options",
                "plausible",
                "reconstruction_memory",
                "solver",
                "types",
                "values",
            ],
        ),
        (
            "differentiating",
            ["arrays", "backend", "color", "denoising", "errors", "images", "masks", "model", "solver", "types"],
        ),
        (
            "reconstruction_gradients",
            ["arrays", "backend", "errors", "model", "operators", "reconstructing", "solver", "types"],
        ),
        ("tiling", ["masks", "model"]),
        ("memory", ["backend", "errors", "model", "tiling"]),
        ("reconstruction_memory", ["backend", "errors", "memory", "operators"]),
        ("stream", ["arrays", "errors"]),
        ("volumes", ["arrays", "errors", "solver", "tensors"]),
        (
            "api",
            [
                "arrays",
                "backend",
                "denoising",
                "differentiating",
                "errors",
                "images",
                "memory",
                "model",
                "models",
                "noise_level",
                "options",
                "reconstructing",
                "reconstruction_gradients",
                "solver",
                "stream",
                "tuning",
                "values",
                "volumes",
            ],
        ),
        (
            "distributed",
            [
                "api",
                "arrays",
                "atomic",
                "backend",
                "bindings",
                "claims",
                "distributed",
                "errors",
                "io",
                "model",
                "models",
                "noise_level",
                "options",
                "solver",
                "tiling",
                "turns",
                "types",
                "values",
            ],
        ),
        ("startup", ["api", "bindings", "model", "models", "operators"]),
        (
            "integrations",
            [
                "api",
                "arrays",
                "errors",
                "integrations",
                "model",
                "models",
                "noise_level",
                "operators",
                "tensors",
                "warn",
                "training",
            ],
        ),
    ],
)
def test_imports_point_one_way(package, allowed):
    allowed = [f"safi_fast.{name}" for name in allowed]
    wrong = [
        f"{module} imports {name}"
        for module, name in imported_from(f"safi_fast.{package}")
        if inside(name, "safi_fast") and not inside(name, *allowed)
    ]
    assert not wrong


def test_only_training_and_integrations_import_torch():
    wrong = [
        f"{module} imports {name}"
        for module, name in imported_from("safi_fast")
        if inside(name, "torch") and not inside(module, "safi_fast.training", "safi_fast.integrations")
    ]
    assert not wrong


def test_only_kernels_and_bindings_import_numba():
    modules = {module for module, name in imported_from("safi_fast") if inside(name, "numba", "llvmlite")}
    elsewhere = {module for module in modules if not inside(module, "safi_fast.kernels", "safi_fast.bindings")}
    assert elsewhere <= {"safi_fast.backend", "safi_fast.cli.doctor"}  # which ask whether it is there


def test_hooks_are_the_commands_of_make_lint():
    """.pre-commit-config.yaml runs what `make lint` does, in its order."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    variables = dict(re.findall(r"^(\w+) [:?]?= (.+)$", makefile, re.MULTILINE))
    recipe = re.search(r"^lint:.*\n((?:\t.+\n)+)", makefile, re.MULTILINE)[1].splitlines()
    for _ in range(3):  # variables of variables
        recipe = [re.sub(r"\$\((\w+)\)", lambda match: variables[match[1]], line.strip()) for line in recipe]
    hooks = (ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8")
    assert re.findall(r"^ +entry: (.+)$", hooks, re.MULTILINE) == recipe
    assert hooks.count("language: system") == hooks.count("pass_filenames: false") == len(recipe)


def test_import_linter_passes():
    """On all three folders: the import that it ignores is one of bindings."""
    done = subprocess.run(
        [ROOT / ".ci" / "lint-imports", Path(sys.executable).parent],
        capture_output=True, text=True, check=False, timeout=PROCESS,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "(1 ignored import)" in done.stdout


# ------------------------------------------------------------------------------------------------------------ the wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the working tree, built from a copy so that nothing is left behind here."""
    pytest.importorskip("build", reason="building a wheel needs the package build (extra 'dev')")
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for folder in ("safi_fast", "kernels", "bindings", "tests", "bench"):
        shutil.copytree(ROOT / folder, source / folder, ignore=skip)
    for name in ("setup.py", "pyproject.toml", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", target, source]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False, timeout=PROCESS)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(target.glob("*.whl"))


def packaged():
    """The files that a wheel must hold, under the names they get in site-packages."""
    inside_package = (ROOT / "safi_fast").rglob("*")
    elsewhere = chain((ROOT / "kernels").rglob("*"), (ROOT / "bindings").rglob("*"))
    kept = {".py", ".pyi", ".typed", ".safetensors", ".cu", ".cuh", ".css", ".js", ".yaml"}
    names = [path.relative_to(ROOT).as_posix() for path in inside_package if path.suffix in kept]
    return set(names) | {f"safi_fast/{p.relative_to(ROOT).as_posix()}" for p in elsewhere if p.suffix in kept}


def test_wheel_holds_the_package_and_nothing_else(wheel):
    files = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert files == packaged()
    for name in ("kernels/cpu/tile.py", "bindings/cpu.py", "py.typed", "models/__init__.py"):
        assert f"safi_fast/{name}" in files


@pytest.mark.timeout(900)
def test_wheel_works_outside_the_repository(wheel, tmp_path):
    """Installed into a folder, it imports from there and denoises, with a model of its own and with one from a file."""
    site, model = tmp_path / "site", random_model(lipschitz=1.1)
    save_model(model, tmp_path / "random.safetensors")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--target", site, wheel]
    done = subprocess.run(
        [*install, "--disable-pip-version-check"], capture_output=True, text=True, check=False, timeout=PROCESS
    )
    assert done.returncode == 0, done.stdout + done.stderr
    image = np.random.default_rng(0).random((20, 22))
    np.save(tmp_path / "image.npy", image)
    code = (
        "import numpy as np, safi_fast, safi_fast.bindings.cpu as bindings, safi_fast.kernels as kernels\n"
        "image = np.load('image.npy')\n"
        "np.save('result.npy', safi_fast.denoise(image, 25 / 255, model='random.safetensors', max_outer=1))\n"
        "for name in safi_fast.list_models(): safi_fast.load_model(name)\n"
        "print(safi_fast.__file__, bindings.__file__, kernels.__file__)"
    )
    printed = python(code, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(site)})
    assert printed.count(str(site)) == 3
    expected = safi_fast.denoise(image, 25 / 255, model=model, max_outer=1)
    np.testing.assert_array_equal(np.load(tmp_path / "result.npy"), expected)


def test_kernels_compiled_from_other_sources_are_discarded(tmp_path):
    """Numba itself would go on running them after an update that changes only what a kernel imports."""
    (tmp_path / "__pycache__").mkdir()
    compiled = tmp_path / "__pycache__" / "kernel.nbc"
    (tmp_path / "kernel.py").write_text("one = 1")
    discard_stale_kernels(tmp_path)
    compiled.write_text("compiled")
    discard_stale_kernels(tmp_path)
    assert compiled.exists()
    (tmp_path / "kernel.py").write_text("one = 2")
    discard_stale_kernels(tmp_path)
    assert not compiled.exists()


def test_stale_kernels_in_a_folder_of_the_users_choice_are_discarded(tmp_path):
    """Named by NUMBA_CACHE_DIR. Numba reads the names of argument types there before it looks at the source."""
    code = "from safi_fast.bindings.cpu_kernels import set_image; print(set_image.stats.cache_path)"
    kept = Path(python(code, env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}))
    assert kept.is_relative_to(tmp_path)
    stale = kept / "image.set_image-1.py311.nbi"
    stale.write_text("of other sources")
    (kept / STAMP).write_text("those")
    assert python(code, env=os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}) == str(kept)
    assert not stale.exists()


def test_nothing_is_to_be_installed_under_a_name_that_is_not_ours_yet():
    """The name is not registered: whoever took it would be installed. Pages say `pip install ".[extra]"` in a clone."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    sources = [
        path for folder in ("safi_fast", "kernels", "bindings", "bench") for path in (ROOT / folder).rglob("*.py")
    ]
    wanted = re.compile(r"pip install (-\S+ )*[\"']?safi[-_]fast\b")
    assert not [path.name for path in (*pages, *sources) if wanted.search(path.read_text(encoding="utf-8"))]


def test_the_citation_names_this_version():
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {safi_fast.__version__}\n" in text
