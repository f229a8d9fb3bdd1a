"""`safi-fast denoise --sigma-map`: noise that varies over the image, as a file."""

import json

import numpy as np
import pytest
from models import random_model

import safi_fast.cli.session as sessions
from safi_fast import Solver
from safi_fast.cli import main as cli
from safi_fast.io import ImageFile, read_image, write_image

MODEL = random_model("safi", 4, boundary="symmetric", levels=(5 / 255, 25 / 255, 50 / 255), lipschitz=1.0)
LEVELS = np.linspace(6, 40, 30 * 34).reshape(30, 34).astype(np.float32)


@pytest.fixture(autouse=True)
def session(monkeypatch):
    made = sessions.Session(MODEL, Solver(MODEL, backend="cpu"))
    monkeypatch.setattr(sessions, "make_session", lambda *_: made)
    return made


def save(path, array):
    write_image(path, array, ImageFile(array, None, None, "npy"))
    return array


@pytest.fixture
def image(tmp_path):
    return save(tmp_path / "in.png", np.random.default_rng(0).integers(60, 190, (30, 34), dtype=np.uint8))


def denoise(tmp_path, *arguments):
    return cli.main(["denoise", str(tmp_path / "in.png"), "-o", str(tmp_path / "out.npy"), *map(str, arguments)])


@pytest.mark.parametrize("name", ["map.npy", "map.png", "map.tif"])
def test_the_map_is_on_the_scale_of_sigma(tmp_path, session, image, capsys, name):
    levels = save(tmp_path / name, LEVELS if name == "map.npy" else LEVELS.astype(np.uint8))
    page = tmp_path / "page.html"
    assert denoise(tmp_path, "--sigma-map", tmp_path / name, "--json", "--html", page) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["sigma"] == str(tmp_path / name)
    assert told["denoised"] == 1
    wanted = session.solver.denoise(image, levels.astype(float))
    np.testing.assert_allclose(read_image(tmp_path / "out.npy").array, wanted, rtol=0, atol=0.51)
    assert f"map {name}" in page.read_text()


@pytest.mark.parametrize(
    ("levels", "arguments", "message"),
    [
        (LEVELS, ("--sigma", 25), "--sigma-map does not go with --sigma"),
        (LEVELS, ("--noise", "poisson"), "--sigma-map does not go with --noise poisson"),
        (LEVELS - 6, (), "has values that are zero, negative or not finite"),
        (LEVELS + 90, (), "--sigma-map is 96, on the scale 0 to 255"),
        (np.stack([LEVELS] * 3, -1), (), "has colours; expected one value a pixel"),
    ],
)
def test_what_does_not_go(tmp_path, image, capsys, levels, arguments, message):
    path = tmp_path / "map.npy"
    np.save(path, levels)
    assert denoise(tmp_path, "--sigma-map", path, *arguments) in (1, 2)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out.npy").exists()


def test_the_map_is_not_overwritten(tmp_path, image, capsys):
    np.save(tmp_path / "out.npy", LEVELS)
    assert denoise(tmp_path, "--sigma-map", tmp_path / "out.npy", "--overwrite") == 2
    assert "out.npy" in capsys.readouterr().err
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), LEVELS)


def test_a_map_of_another_size_fails_that_file_alone(tmp_path, image, capsys):
    np.save(tmp_path / "map.npy", LEVELS)
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, side in (("a.png", 34), ("b.png", 33)):
        save(folder / name, np.full((30, side), 100, np.uint8))
    status = cli.main(
        ["denoise", str(folder), "-o", str(tmp_path / "results"), "--sigma-map", str(tmp_path / "map.npy")]
    )
    assert status == 1
    assert "has shape (30, 34); expected that of the image, (30, 33)" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "results").iterdir()] == ["a.png"]
