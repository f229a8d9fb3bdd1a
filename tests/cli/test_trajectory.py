"""`safi-fast reconstruct mri --trajectory`: k-space off the grid from files of NumPy and BART."""

import json

import numpy as np
import pytest

import safi_fast
from safi_fast.cli import main as cli
from safi_fast.io import write_cfl
from safi_fast.operators import NonCartesianMRI, radial

pytest.importorskip("finufft", reason="k-space off the grid needs finufft (extra 'nufft')")

SIDE = 24
SPOKES = radial(9, 2 * SIDE, reach=SIDE / 2)
MODEL = "safi-gray-fast"
STEPS = {"max_outer": 1, "max_iter": 5}


def phantom():
    rows, columns = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]
    return ((rows**2 + columns**2 < 0.7) * 0.5 + (abs(rows) + abs(columns - 0.2) < 0.4) * 0.4).astype(np.complex64)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("t.npy", SPOKES)

    def call(kspace, *more):
        words = ("--strength", "0.01", "--model", MODEL, "--max-outer", "1", "--max-iter", "5", "--backend", "cpu")
        return cli.main(["reconstruct", "mri", kspace, "-o", "x.npy", "--overwrite", *words, *more])

    return call


def test_it_is_the_api_whichever_way_it_is_stored(run, tmp_path):
    operator = NonCartesianMRI(SPOKES, (SIDE, SIDE))
    kspace = 7 * operator.apply(phantom())
    np.save("k.npy", kspace)
    assert run("k.npy", "--trajectory", "t.npy", "--report", "r.json") == 0
    record = json.loads((tmp_path / "r.json").read_text())["files"][0]
    assert (record["trajectory"], record["image_size"]) == ("t.npy", [SIDE, SIDE])
    assert record["data_range"] == pytest.approx(7, rel=0.25)
    direct = safi_fast.reconstruct(
        kspace, operator, strength=0.01, model=MODEL, backend="cpu", box=None, schedule="fast",
        data_range=record["data_range"], **STEPS,
    )  # fmt: skip
    found = np.load("x.npy")
    np.testing.assert_array_equal(found, direct.image)
    write_cfl("k.cfl", kspace.T[None])  # (1, samples, spokes)
    write_cfl("t.cfl", np.concatenate([SPOKES, np.zeros((*SPOKES.shape[:2], 1))], axis=-1).T)
    assert run("k.cfl", "--trajectory", "t.cfl") == 0
    np.testing.assert_allclose(np.load("x.npy"), found, atol=1e-3 * abs(found).max())


def test_coils_and_a_size(run):
    shape = SIDE, SIDE + 4
    rows = np.linspace(0, 1, SIDE)[:, None] * np.ones(shape)
    maps = np.stack([np.cos(rows), 1j * np.sin(rows)]).astype(np.complex64)
    image = np.pad(phantom(), ((0, 0), (2, 2)))
    np.save("maps.npy", maps)
    np.save("k.npy", NonCartesianMRI(SPOKES, shape, maps).apply(image))
    assert run("k.npy", "--trajectory", "t.npy", "--maps", "maps.npy", "--size", f"{shape[0]}x{shape[1]}") == 0
    assert np.load("x.npy").shape == shape


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--mask", "m.npy"), "--mask is for k-space on the Cartesian grid"),
        (("--estimate-maps",), "--estimate-maps is for k-space on the Cartesian grid"),
        (("--kspace-order", "fft"), "--kspace-order fft: the image behind --trajectory"),
        ((), "t.npy: has 9 x 48 places, but the k-space of k.npy has 5 x 48 samples"),
        (("--trajectory", "k.npy"), "k.npy: holds complex64 of shape (5, 48); expected real numbers (n, m, 2)"),
    ],
)
def test_it_says_what_is_wrong(run, capsys, words, message):
    np.save("k.npy", np.ones((5, 48), np.complex64))
    assert run("k.npy", "--trajectory", "t.npy", *words) != 0
    assert message in capsys.readouterr().err


def test_a_size_needs_a_trajectory(run, capsys):
    np.save("k.npy", np.ones((16, 16), np.complex64))
    assert run("k.npy", "--size", "16") != 0
    assert "--size is for k-space off the grid" in capsys.readouterr().err
