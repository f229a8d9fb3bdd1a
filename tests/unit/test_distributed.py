"""Dask and Zarr arrays, OME-Zarr images and many files: equal to `denoise`, resumed, shared, whole or not at all."""

import json
import os
import pickle
import re
import signal
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
from models import random_model
from patience import wait_until

import safi_fast
from safi_fast import BackendError, ImageFileError, InputError, SafiError, Solver, atomic
from safi_fast.claims import Claims
from safi_fast.cli import main as cli
from safi_fast.distributed import (
    denoise_array,
    denoise_volume,
    local_cluster,
    multiscale,
    process_files,
    recipe,
    slurm_options,
    urls,
    workers,
)
from safi_fast.distributed import work as working
from safi_fast.distributed.layout import below, whole_planes
from safi_fast.distributed.multiscale import Shrink, factors_between
from safi_fast.distributed.recipe import Planes, Recipe, share_of_worker, stored
from safi_fast.distributed.urls import copier
from safi_fast.distributed.volumes import Blocks
from safi_fast.io import packages, read_image
from safi_fast.tiling import Grid, halo_of, spans_of_chunks

da = pytest.importorskip("dask.array", reason="needs the extra `distributed`")
dask = pytest.importorskip("dask")
zarr = pytest.importorskip("zarr", reason="Zarr needs Python 3.11 and the extra `distributed`")

SIGMA = 25 / 255
MODEL = random_model(lipschitz=1.1)
STEPS = {"model": MODEL, "backend": "cpu", "schedule": "unrolled", "max_outer": 2, "max_inner": 3}
HALO = halo_of(MODEL)
RNG = np.random.default_rng(5)


def noisy(*shape):
    return (0.5 + SIGMA * RNG.standard_normal(shape)).astype(np.float32)


def solved(planes, sigma=SIGMA, **options):
    """Each plane as a whole, by `denoise`."""
    solver, settings = Solver(MODEL, backend="cpu"), {**STEPS, **options}
    steps = {name: settings[name] for name in settings if name not in ("model", "backend")}
    levels = np.broadcast_to(sigma, planes.shape[:-2])
    result = np.empty(planes.shape, np.float32)
    for index in np.ndindex(planes.shape[:-2]):
        result[index] = solver.denoise(planes[index], float(levels[index]), **steps)
    return result


def volume(path, values, chunks, **options):
    array = zarr.create_array(path, shape=values.shape, chunks=chunks, dtype=values.dtype, **options)
    array[...] = values
    return array


def left_beside(path):
    return [found.name for found in path.parent.iterdir() if found.name.startswith(".safi-fast")]


# ------------------------------------------------------------------------------------------------------------- geometry


@pytest.mark.parametrize(("length", "core"), [(70, 16), (64, 64), (65, 64), (30, 100)])
def test_windows_around_chunks(length, core):
    found = spans_of_chunks(length, core, 7)
    assert [pixel for span in found for pixel in range(span.first, span.last)] == list(range(length))
    for span in found:
        assert span.first % core == 0
        assert span.start == max(0, span.first - 7)
        assert span.stop == min(length, span.last + 7)


def test_blocks_are_whole_chunks_that_fit_and_cover_the_array_once():
    solver, shape, unit = Solver(MODEL, backend="cpu"), (3, 100, 130), (2, 16, 32)
    whole = below(1e9, shape, unit, 4, 100, solver)
    assert not whole.is_cut
    layout = below(0.95 * solver.estimate_memory(shape[-2:]), shape, unit, 4, 100, solver)
    assert layout.is_cut
    filled = np.zeros(shape, int)
    for number in range(len(layout)):
        block = layout.block(number)
        assert all(part.start % side == 0 for part, side in zip(block.core, unit, strict=True))
        filled[block.core] += 1
    assert (filled == 1).all()
    assert len(whole_planes(shape, unit)) == 2
    with pytest.raises(InputError, match=r"max_memory is 1000 bytes, but a block of one chunk, \(2, 16, 32\)"):
        below(1000, shape, unit, 4, 100, solver)


# ---------------------------------------------------------------------------------------------------------------- Dask


def test_a_dask_array_stays_lazy_and_its_planes_are_those_of_denoise():
    values, sigma = noisy(2, 2, 40, 48), np.array([SIGMA, 0.99 * SIGMA])
    array = da.from_array(values, chunks=(1, 2, 40, 48))
    result = denoise_array(array, sigma, **STEPS)
    assert (result.chunks, result.dtype) == (array.chunks, array.dtype)
    with dask.config.set(scheduler="synchronous"):
        np.testing.assert_array_equal(result.compute(), solved(values, sigma))


def test_chunks_of_a_plane_overlap_as_windows_of_zarr_do(tmp_path):
    """Bit for bit the same windows; away from their cuts the whole plane."""
    values = noisy(2, 96, 64)
    array = da.from_array(values, chunks=(1, 48, 64))
    with dask.config.set(scheduler="synchronous"):
        lazily = denoise_array(array, SIGMA, **STEPS).compute()
    source, solver = volume(tmp_path / "in", values, (1, 48, 64)), Solver(MODEL, backend="cpu")
    grid = Grid(spans_of_chunks(96, 48, HALO), spans_of_chunks(64, 64, 0))
    enough = solver.estimate_memory(grid.window) + 10 * 2 * 48 * 64 * 4 + 4 * (grid.window[0] + 2 * 48) * 64
    out = denoise_array(source, SIGMA, out=tmp_path / "out", max_memory=enough, **STEPS)
    assert out.attrs["safi_fast"]["blocks"] == [2, 2, 1]
    np.testing.assert_array_equal(out[...], lazily)
    whole = solved(values)
    assert 0 < abs(lazily - whole).max() < 0.05
    np.testing.assert_allclose(lazily[:, :10], whole[:, :10], atol=1e-3)


def test_what_a_dask_array_cannot_have():
    array = da.from_array(noisy(1, 96, 64), chunks=(1, 48, 64))
    with pytest.raises(InputError, match="out was passed, but array is a Dask array"):
        denoise_array(array, SIGMA, out="out", **STEPS)
    with pytest.raises(InputError, match=rf"schedule is 'gap', but planes of array are cut into windows .* by {HALO}"):
        denoise_array(array, SIGMA, **{**STEPS, "schedule": "gap"})
    with pytest.raises(InputError, match="sigma is 'estimate', but planes of array are cut"):
        denoise_array(array, "estimate", **STEPS)


# ---------------------------------------------------------------------------------------------------------------- Zarr


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_zarr_array_with_its_codecs(tmp_path, zarr_format):
    values = np.zeros((3, 40, 48), np.uint16)
    values[[0, 2]] = np.clip(4095 * noisy(2, 40, 48), 0, 4095)
    codec = zarr.codecs.BloscCodec(cname="lz4") if zarr_format == 3 else __import__("numcodecs").Blosc(cname="lz4")
    options = {"attributes": {"unit": "counts"}, "compressors": codec, "zarr_format": zarr_format, "fill_value": 0}
    source = volume(tmp_path / "in.zarr", values, (2, 16, 16), **options)
    out = denoise_array(source, 4095 * SIGMA, out=tmp_path / "out.zarr", data_range=4095, **STEPS)
    assert (out.dtype, out.chunks, out.attrs["unit"]) == (values.dtype, source.chunks, "counts")
    assert (out.compressors, out.metadata.zarr_format) == (source.compressors, zarr_format)
    expected = solved(values[[0, 2]], 4095 * SIGMA, data_range=4095)
    np.testing.assert_array_equal(out[...][[0, 2]], np.clip(np.rint(expected), 0, 65535).astype(np.uint16))
    assert not out[1].any()
    assert out.nchunks_initialized == source.nchunks_initialized
    assert out.attrs["safi_fast"]["complete"]
    assert not left_beside(tmp_path / "in.zarr")


def test_black_stays_black_bit_for_bit():
    """What empty planes rest on."""
    solver, black = Solver("safi-gray-fast", backend="cpu"), np.zeros((32, 40), np.float32)
    assert not solver.denoise(black, SIGMA, max_outer=2, max_inner=3).any()
    planes = Planes.of("array", (2, 32, 40), np.float32, SIGMA, Recipe.of("f", STEPS))
    window = np.full((1, 32, 40), np.nan, np.float32)
    assert np.isnan(planes.solve(window, (slice(0, 1),), (slice(0, 9), slice(0, 9)), np.float32("nan"))).all()


def killed_at(monkeypatch, number):
    """The process "is killed" before it writes that block."""
    make = Blocks.make

    def unless(work, at):
        if at == number:
            raise KeyboardInterrupt
        return make(work, at)

    monkeypatch.setattr(Blocks, "make", unless)
    return lambda: monkeypatch.setattr(Blocks, "make", make)


def test_a_run_that_was_stopped_goes_on_where_it_was(tmp_path, monkeypatch):
    values = noisy(4, 24, 32)
    source, target = volume(tmp_path / "in", values, (1, 24, 32)), tmp_path / "out"
    reference = denoise_array(source, SIGMA, out=tmp_path / "reference", **STEPS)[...]
    mend = killed_at(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        denoise_array(source, SIGMA, out=target, **STEPS)
    mend()
    begun = zarr.open_array(target)
    assert begun.attrs["safi_fast"]["complete"] is False
    assert begun.nchunks_initialized == 2
    (tmp_path / "out" / "c" / "3" / "0").mkdir(parents=True)
    (tmp_path / "out" / "c" / "3" / "0" / "0.0123.partial").write_bytes(b"half a chunk")
    with pytest.raises(ImageFileError, match=r"out: the output exists, made with another sigma; choose another"):
        denoise_array(source, 0.99 * SIGMA, out=target, **STEPS)
    made, make = [], Blocks.make
    monkeypatch.setattr(Blocks, "make", lambda work, number: made.append(number) or make(work, number))
    out = denoise_array(source, SIGMA, out=target, **STEPS)
    assert made == [2, 3]
    np.testing.assert_array_equal(out[...], reference)
    assert not left_beside(target)
    assert not list(target.rglob("*.partial"))
    denoise_array(source, SIGMA, out=target, **STEPS)  # complete: nothing to do
    assert made == [2, 3]
    denoise_array(source, SIGMA, out=target, overwrite=True, **STEPS)
    assert made == [2, 3, 0, 1, 2, 3]


def test_a_block_that_fails_does_not_stop_the_others(tmp_path):
    values = noisy(3, 24, 32)
    values[1, 3, 3] = np.nan
    source, target = volume(tmp_path / "in", values, (1, 24, 32)), tmp_path / "out"
    with pytest.raises(SafiError, match=r"block \[1:2, 0:24, 0:32\] could not be made: plane \(0,\) of it: .*NaN"):
        denoise_array(source, SIGMA, out=target, **STEPS)
    source[1] = values[0]
    out = denoise_array(source, SIGMA, out=target, **STEPS)
    np.testing.assert_array_equal(out[1], out[0])
    assert out.attrs["safi_fast"]["complete"]


def test_runs_share_an_array_and_a_block_has_one_writer(tmp_path, monkeypatch):
    values = noisy(4, 24, 32)
    source, target = volume(tmp_path / "in", values, (1, 24, 32)), tmp_path / "out"
    mend = killed_at(monkeypatch, 0)
    with pytest.raises(KeyboardInterrupt):
        denoise_array(source, SIGMA, out=target, **STEPS)
    mend()
    made, make = [], Blocks.make
    monkeypatch.setattr(Blocks, "make", lambda work, number: made.append(number) or make(work, number))
    state = tmp_path / ".safi-fast.out.run"
    with Claims() as other:
        assert other.take(state / "1.done")
        with pytest.raises(ImageFileError, match="another run is writing it, with other settings"):
            denoise_array(source, 0.99 * SIGMA, out=target, overwrite=True, **STEPS)
        run = threading.Thread(target=lambda: denoise_array(source, SIGMA, out=target, **STEPS))
        run.start()
        assert wait_until(lambda: len(made) == 3)
        time.sleep(0.1)
        assert made == [0, 2, 3]
    run.join()
    assert made == [0, 2, 3, 1]
    np.testing.assert_array_equal(zarr.open_array(target)[...], solved(values))


def test_an_array_of_the_callers_keeps_its_chunks(tmp_path):
    values = noisy(2, 24, 32)
    source = volume(tmp_path / "in", values, (1, 24, 32))
    target = zarr.create_array(tmp_path / "g", name="a/b", shape=values.shape, chunks=(2, 12, 32), dtype="f4")
    out = denoise_array(source, SIGMA, out=target, **STEPS)
    assert (out.chunks, out.attrs["safi_fast"]["blocks"]) == ((2, 12, 32), [1, 1, 1])
    np.testing.assert_array_equal(zarr.open_array(tmp_path / "g", path="a/b")[...], solved(values))
    with pytest.raises(InputError, match=r"out has shape \(2, 24, 32\) .* expected those of array, \(1, 24, 32\)"):
        denoise_array(volume(tmp_path / "one", values[:1], (1, 24, 32)), SIGMA, out=target, **STEPS)
    with pytest.raises(InputError, match=r"out is a Array in memory://.*expected a path, or a Zarr array in a folder"):
        denoise_array(source, SIGMA, out=zarr.create_array({}, shape=values.shape, dtype="f4"), **STEPS)


def test_what_is_refused(tmp_path):
    def refused(values, match, sigma=SIGMA, error=InputError, **options):
        source = volume(tmp_path / "in", values, values.shape, overwrite=True)
        with pytest.raises(error, match=match):
            denoise_array(source, sigma, **{"out": tmp_path / "out", **STEPS, **options})

    image = noisy(24, 32)
    refused((4095 * image).astype("u2"), "array has dtype uint16, and its values are not looked at beforehand")
    refused(image.astype("i8"), "array has dtype int64; expected float16 to float64, or integers")
    refused(image[:5], "array has planes of 5 x 32 pixels; expected 7 x 7 or more")
    refused(image, "sigma is -1; expected a positive number", sigma=-1)
    refused(image[None], r"sigma is \[.*; expected a positive number, or one for each plane, of shape \(1,\)", [1, 2])
    refused(image, "out is None; expected the folder", out=None)
    refused(image, "which is the array itself", out=tmp_path / "in")
    refused(image, "client is 5; expected a distributed.Client", client=5)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").write_text("dear")
    refused(image, "full: the output exists and is no Zarr array", out=tmp_path / "full", error=ImageFileError)
    volume(tmp_path / "theirs", image, image.shape)
    refused(image, "theirs: the output exists, made by another program", out=tmp_path / "theirs", error=ImageFileError)
    with pytest.raises(InputError, match="array is a ndarray; expected a Dask array or a Zarr array"):
        denoise_array(image, SIGMA, **STEPS)
    with pytest.raises(TypeError, match="unexpected keyword argument 'colour'"):
        denoise_array(image, SIGMA, colour=1)
    assert not left_beside(tmp_path / "in")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"local_cluster needs distributed; .* pip install distributed"):
        local_cluster(1)


def test_integers_are_rounded_and_clipped():
    values = np.array([-3.0, 0.4, 1.5, 254.6, 300.0])
    assert stored(values, np.dtype(np.uint8)).tolist() == [0, 0, 2, 255, 255]
    assert stored(values, np.dtype(np.int16)).tolist() == [-3, 0, 2, 255, 300]
    assert stored(values, np.dtype(np.float16)).dtype == np.float16


# ------------------------------------------------------------------------------------------------------------ OME-Zarr


def image_of(path, values, zarr_format):
    """An OME-Zarr image of three sizes, the second by means over 2 x 2, rounded up, the third of no whole factor."""
    sizes = [values.shape, (*values.shape[:-2], 20, 17), (*values.shape[:-2], 12, 17)]
    scales = [{"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": [1, 2**n, 2**n]}]}
              for n in range(3)]  # fmt: skip
    axes = [{"name": "z", "type": "space"}, {"name": "y", "type": "space"}, {"name": "x", "type": "space"}]
    multiscales = {"multiscales": [{"name": "cells", "axes": axes, "datasets": scales}]}
    attributes = {"ome": {"version": "0.5", **multiscales}} if zarr_format == 3 else multiscales
    group = zarr.create_group(path, attributes={**attributes, "by": "us"}, zarr_format=zarr_format)
    for number, shape in enumerate(sizes):
        array = group.create_array(str(number), shape=shape, chunks=(1, 16, 16), dtype=values.dtype)
        if number == 0:
            array[...] = values
    group.create_array("thumbnail", shape=(3, 3), dtype="u1")
    return group


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_ome_zarr_image_with_its_sizes(tmp_path, zarr_format):
    values, said = noisy(2, 40, 33), []
    source = image_of(tmp_path / "in.zarr", values, zarr_format)
    denoise_volume(tmp_path / "in.zarr", tmp_path / "out.zarr", SIGMA, say=said.append, **STEPS)
    out = zarr.open_group(tmp_path / "out.zarr", mode="r")
    assert sorted(name for name, _ in out.members()) == ["0", "1"]
    clean = out["0"][...]
    np.testing.assert_array_equal(clean, solved(values))
    means = np.pad(clean, [(0, 0), (0, 0), (0, 1)], mode="edge").reshape(2, 20, 2, 17, 2).mean(axis=(2, 4))
    np.testing.assert_allclose(out["1"][...], means, rtol=1e-6)
    expected = source.attrs.asdict()
    expected.get("ome", expected)["multiscales"][0]["datasets"].pop()
    assert out.attrs.asdict() == expected
    assert [sentence.partition(": ")[2] for sentence in said] == [
        "left out, since no whole factors lead to them: 2",
        "left out, since they are no part of the image: thumbnail",
    ]
    assert not left_beside(tmp_path / "out.zarr")
    denoise_volume(tmp_path / "in.zarr", tmp_path / "out.zarr", SIGMA, **STEPS)


def with_labels(path, values, zarr_format):
    group = image_of(path, values, zarr_format)
    labels = group.create_group("labels", attributes={"labels": ["cells"]})
    cells = labels.create_group("cells", attributes={"image-label": {"source": {"image": "../../"}}})
    cells.create_array("0", shape=(1, 40, 33), chunks=(1, 40, 33), dtype="u4")[...] = 7
    return group


def files_in(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_labels_are_copied_byte_for_byte(tmp_path, monkeypatch, zarr_format):
    """With codecs, metadata and sizes of their own. What stands in the result from an earlier run stays."""
    said = []
    with_labels(tmp_path / "in.zarr", noisy(1, 40, 33), zarr_format)
    source, out = tmp_path / "in.zarr" / "labels", tmp_path / "out.zarr" / "labels"

    def stopped(target):
        copier(source)(target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(multiscale, "copier", lambda source: stopped)
        with pytest.raises(KeyboardInterrupt):
            denoise_volume(tmp_path / "in.zarr", tmp_path / "out.zarr", SIGMA, **STEPS)
    assert not out.exists()
    for _ in range(2):
        denoise_volume(tmp_path / "in.zarr", tmp_path / "out.zarr", SIGMA, say=said.append, **STEPS)
        assert files_in(out) == files_in(source)
    assert not [sentence for sentence in said if "labels" in sentence.partition(": ")[2]]
    assert zarr.open_array(tmp_path / "out.zarr", path="labels/cells/0", mode="r")[0, 0, 0] == 7
    assert not left_beside(tmp_path / "out.zarr")
    (tmp_path / "in.zarr" / "labels" / "cells").rename(tmp_path / "in.zarr" / "labels" / "other")
    denoise_volume(tmp_path / "in.zarr", tmp_path / "out.zarr", SIGMA, **STEPS)
    assert (out / "cells").exists()
    with pytest.raises(ImageFileError, match=r"x/labels: cannot be copied \(no such file or directory\)"):
        atomic.copy_folder(copier(tmp_path / "none"), tmp_path / "x" / "labels")


def test_a_volume_in_another_store(tmp_path, memory):
    """Sizes and labels too; arrays are opened by Zarr, labels copied by fsspec."""
    with_labels(tmp_path / "in.zarr", noisy(1, 40, 33), 3)
    memory.put(f"{tmp_path / 'in.zarr'}/", "/in.zarr/", recursive=True)
    denoise_volume("memory://in.zarr", tmp_path / "out.zarr", SIGMA, **STEPS)
    denoise_volume(f"file://{tmp_path}/in.zarr", f"file://{tmp_path}/beside.zarr", SIGMA, **STEPS)
    assert files_in(tmp_path / "out.zarr" / "labels") == files_in(tmp_path / "in.zarr" / "labels")
    ours, beside = files_in(tmp_path / "out.zarr"), files_in(tmp_path / "beside.zarr")
    assert ours.keys() == beside.keys()
    assert {name: data for name, data in ours.items() if name.name != "zarr.json"} == {
        name: data for name, data in beside.items() if name.name != "zarr.json"
    }  # the metadata say where it came from
    array = zarr.open_array("memory://in.zarr", path="0", mode="r")
    np.testing.assert_array_equal(
        denoise_array(array, SIGMA, out=tmp_path / "array.zarr", **STEPS)[...],
        zarr.open_array(tmp_path / "out.zarr", path="0")[...],
    )
    with pytest.raises(ImageFileError, match=r"memory://none\.zarr: no Zarr array or group"):
        denoise_volume("memory://none.zarr", tmp_path / "none", SIGMA, **STEPS)
    for out in ("s3://b/out.zarr", "memory://out.zarr"):
        with pytest.raises(InputError, match=r"out is '.*zarr'; expected a folder of a file system"):
            denoise_volume(tmp_path / "in.zarr", out, SIGMA, **STEPS)
        with pytest.raises(InputError, match=r"out is '.*zarr'; expected a folder of a file system"):
            denoise_array(array, SIGMA, out=out, **STEPS)


def test_factors():
    assert factors_between((5, 40, 33), (5, 20, 17)) == (1, 2, 2)
    assert factors_between((40, 33), (20, 16)) == (2, 2)
    assert factors_between((40, 33), (30, 33)) is None
    assert factors_between((40, 33), (33,)) is None
    layout = whole_planes((1, 2), (1, 2))
    found = Shrink((2, 2), np.dtype(np.uint8)).block(np.array([[0, 1, 4], [2, 2, 6]]), layout.block(0))
    assert found.tolist() == [[1, 5]]


def test_groups_that_are_no_images(tmp_path):
    zarr.create_group(tmp_path / "g").create_array("a", shape=(20, 20), dtype="f4")
    with pytest.raises(ImageFileError, match="g: a Zarr group without multiscales; name one of its arrays: a"):
        denoise_volume(tmp_path / "g", tmp_path / "out", SIGMA, **STEPS)
    zarr.create_group(tmp_path / "series", attributes={"bioformats2raw.layout": 3}).create_group("0")
    with pytest.raises(ImageFileError, match="series: a Zarr group without multiscales; name one of its groups: 0"):
        denoise_volume(tmp_path / "series", tmp_path / "out", SIGMA, **STEPS)
    with pytest.raises(ImageFileError, match="nothing: no Zarr array or group"):
        denoise_volume(tmp_path / "nothing", tmp_path / "out", SIGMA, **STEPS)
    image_of(tmp_path / "i", noisy(1, 40, 33), 3)
    with pytest.raises(ImageFileError, match="i: is the input"):
        denoise_volume(tmp_path / "i", tmp_path / "i", SIGMA, **STEPS)
    group = zarr.open_group(tmp_path / "i")
    ome = group.attrs["ome"]
    ome["multiscales"][0]["axes"].reverse()
    group.attrs["ome"] = ome
    with pytest.raises(ImageFileError, match="i: its axes are x, y, z; expected y and x as the last two"):
        denoise_volume(tmp_path / "i", tmp_path / "out", SIGMA, **STEPS)


def test_the_command_line(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    values = np.clip(255 * noisy(2, 40, 33), 0, 255).astype(np.uint8)
    image_of(tmp_path / "in.zarr", values, 3)
    steps = ["--sigma", "25", "--model", "safi-gray-fast", "--max-outer", "1", "--max-inner", "2", "--backend", "cpu"]
    assert cli.main(["denoise", "in.zarr", "-o", "out/", "--json", *steps]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["output"] == "out/in.zarr"
    assert "left out" in captured.err
    solver = Solver("safi-gray-fast", backend="cpu")
    expected = solver.denoise(values[0], 25.0, schedule="unrolled", max_outer=1, max_inner=2)
    np.testing.assert_array_equal(zarr.open_array("out/in.zarr", path="0")[0], np.rint(expected))
    assert cli.main(["denoise", "in.zarr", "in.zarr", "-o", "out", *steps]) == 2
    assert cli.main(["denoise", "in.zarr", "-o", "out", "--noise", "poisson"]) == 2
    assert "--noise poisson is for image files" in capsys.readouterr().err
    for places in (["s3://bucket/in.zarr", "-o", "out"], ["in.zarr", "-o", "s3://bucket/out.zarr"]):
        assert cli.main(["denoise", *places, *steps]) == 2
        assert "zarr' is a URL; expected a path" in capsys.readouterr().err
    mend = killed_at(monkeypatch, 1)
    assert cli.main(["denoise", "in.zarr", "-o", "stopped.zarr", *steps]) == 130
    assert "stopped.zarr is not complete, and the same command goes on" in capsys.readouterr().err
    mend()
    assert cli.main(["denoise", "in.zarr", "-o", "stopped.zarr", *steps]) == 0


# --------------------------------------------------------------------------------------------------------------- files


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(4):
        np.save(folder / f"{number}.npy", np.clip(255 * noisy(24, 32), 0, 255).astype(np.uint8))
    (folder / "2.npy").write_bytes(b"no array")
    return folder


def test_files_without_workers(pictures, tmp_path):
    out = tmp_path / "out"
    records = process_files(pictures, out, SIGMA, **STEPS)
    assert [record.status for record in records] == ["denoised", "denoised", "failed", "denoised"]
    assert "is truncated, damaged or not a NPY file" in records[2].error
    assert records[0].seconds > 0
    expected = Solver(MODEL, backend="cpu").denoise(
        read_image(pictures / "0.npy").array, 255 * SIGMA, schedule="unrolled", max_outer=2, max_inner=3
    )
    np.testing.assert_array_equal(np.load(out / "0.npy"), np.rint(expected))
    again = process_files([f"file://{pictures}/0.npy", str(pictures / "1.npy")], out, SIGMA, **STEPS)
    assert [(record.status, record.seconds) for record in again] == [("skipped", None)] * 2
    (record,) = process_files([pictures / "0.npy"], out, SIGMA, overwrite=True, **STEPS)
    assert record.status == "denoised"
    assert sorted(path.name for path in out.iterdir()) == ["0.npy", "1.npy", "3.npy"]


def test_files_that_are_refused(pictures, tmp_path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "0.npy").write_bytes(b"")
    with pytest.raises(InputError, match=r"in/0\.npy and .*more/0\.npy, which would both be written to"):
        process_files([pictures, tmp_path / "more"], tmp_path / "out", SIGMA, **STEPS)
    with pytest.raises(InputError, match=r"where 0\.npy is an input and would be overwritten"):
        process_files([pictures], pictures, SIGMA, **STEPS)
    with pytest.raises(InputError, match=r"urls has 'file://other/a\.png', which is on another machine"):
        process_files(["file://other/a.png"], tmp_path / "out", SIGMA, **STEPS)
    with pytest.raises(InputError, match="urls has 3; expected paths or URLs"):
        process_files([3], tmp_path / "out", SIGMA, **STEPS)
    with pytest.raises(InputError, match=r"sigma .* accepts|sigma is"):
        process_files([pictures], tmp_path / "out", 0.9, **STEPS)


@pytest.fixture
def memory():
    """A store of fsspec that is no file system, empty before and after."""
    system = pytest.importorskip("fsspec").filesystem("memory")
    yield system
    system.rm("/", recursive=True)


def test_files_of_another_store(pictures, tmp_path, memory):
    memory.put(f"{pictures}/", "/photos/", recursive=True)
    memory.pipe("/photos/notes.txt", b"no image")
    records = process_files(["memory://photos"], tmp_path / "out", SIGMA, **STEPS)
    assert [record.path for record in records] == [f"memory:///photos/{number}.npy" for number in range(4)]
    assert [record.status for record in records] == ["denoised", "denoised", "failed", "denoised"]
    assert records[2].error.startswith("memory:///photos/2.npy: is truncated, damaged or not a NPY file")
    (beside,) = process_files([pictures / "0.npy"], tmp_path / "beside", SIGMA, **STEPS)
    assert records[0].output.read_bytes() == beside.output.read_bytes()
    (lost,) = process_files(["memory://photos/9.npy"], tmp_path / "out", SIGMA, **STEPS)
    assert lost.error == "memory://photos/9.npy: there is no such file or folder"
    memory.mkdir("/empty")
    for places, kind, message in (
        (["memory://empty"], ImageFileError, "memory://empty: there are no images"),
        (["memory://nowhere"], ImageFileError, "memory://nowhere: there is no such file or folder"),
        (["nosuch://a.png"], InputError, "nosuch://a.png: protocol not known: nosuch"),
        (["memory://photos/0.npy", pictures / "0.npy"], InputError, "would both be written to"),
    ):
        with pytest.raises(kind, match=re.escape(message)):
            process_files(places, tmp_path / "out", SIGMA, **STEPS)
    with pytest.raises(InputError, match=r"out is 'memory://out'; expected a folder of a file system"):
        process_files([pictures], "memory://out", SIGMA, **STEPS)


def test_names_of_urls():
    names = ["s3://b/a/x.png", "https://h/a/x%20y.png?key=/1#z", "zip://in/x.tif::s3://b/all.zip", "memory://x.npy"]
    assert [urls.name_of(name) for name in names] == ["x.png", "x y.png", "x.tif", "x.npy"]


def test_a_package_that_a_url_needs_is_named(monkeypatch, tmp_path):
    registry = pytest.importorskip("fsspec.registry")
    monkeypatch.setitem(registry.known_implementations, "far", {"class": "no.Such", "err": "Install no-such"})
    with pytest.raises(BackendError, match=r"far://a\.png: Install no-such"):
        process_files(["far://a.png"], tmp_path, SIGMA, **STEPS)
    with pytest.raises(BackendError, match=r"far://v\.zarr: Install no-such"):
        denoise_volume("far://v.zarr", tmp_path / "out", SIGMA, **STEPS)
    monkeypatch.setattr(packages, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"s3:// needs fsspec\.core; install it with pip install fsspec"):
        process_files(["s3://bucket/a.png"], tmp_path, SIGMA, **STEPS)


def test_the_examples_of_the_page(tmp_path, monkeypatch):
    """The second is the script of a process that starts workers: its imports alone run here."""
    page = (Path(__file__).parents[2] / "docs" / "large-images.md").read_text(encoding="utf-8")
    section = page[page.index("## Arrays larger than memory") : page.index("## Threads")]
    examples = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    assert len(examples) == 2
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    with dask.config.set(scheduler="synchronous"):
        for example in examples:
            exec(example, names)
    np.testing.assert_array_equal(names["stored"][...], names["clean"])
    (command,) = re.findall(r"^safi-fast (.+)$", section, re.MULTILINE)
    cli.build_parser().parse_args(command.split())


# ------------------------------------------------------------------------------------------------------------- workers


@dataclass(frozen=True)
class Deadly:
    """Work whose item "once" kills its process the first time, and "always" every time."""

    folder: Path
    overwrite: bool = False

    def target(self, item):
        return self.folder / f"{item}.done"

    def make(self, item):
        seen = self.folder / f"{item}.seen"
        if item == "always" or (item == "once" and not seen.exists()):
            seen.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)
        self.target(item).write_text(f"{os.getpid()} {os.environ['NUMBA_NUM_THREADS']} {share_of_worker()}")


def test_two_workers(pictures, tmp_path):
    """One cluster for all that needs real processes: files, blocks, and workers that are killed."""
    distributed = pytest.importorskip("distributed")
    values = noisy(4, 24, 32)
    source = volume(tmp_path / "in.zarr", values, (1, 24, 32))
    with local_cluster(2, threads=1, folder=tmp_path) as cluster, distributed.Client(cluster) as client:
        client.wait_for_workers(2)
        records = process_files([pictures], tmp_path / "out", SIGMA, client=client, **STEPS)
        out = denoise_array(source, SIGMA, out=tmp_path / "out.zarr", client=client, **STEPS)
        items = ["a", "once", "b", "c"]
        done = {one.item: one for one in working.run(Deadly(tmp_path / "deadly"), items, client)}
    assert [record.status for record in records] == ["denoised", "denoised", "failed", "denoised"]
    alone = process_files([pictures], tmp_path / "alone", SIGMA, **STEPS)
    for one, other in zip(records, alone, strict=True):
        assert one.status == "failed" or one.output.read_bytes() == other.output.read_bytes()
    np.testing.assert_array_equal(out[...], solved(values))
    assert [done[item].status for item in items] == ["made"] * 4
    facts = [(tmp_path / "deadly" / f"{item}.done").read_text().split() for item in items]
    assert str(os.getpid()) not in [pid for pid, *_ in facts]
    assert {(threads, share) for _, threads, share in facts} == {("1", "None")}
    assert not [path for path in (tmp_path / "deadly").iterdir() if path.name.startswith(".")]


class Futures:
    """A client whose tasks run at once; those with "always" in them have killed their workers."""

    loop = None

    def __init__(self):
        self.tasks, self.cancelled = [], []

    def nthreads(self):
        return {"tcp://a": 1, "tcp://b": 1}

    def submit(self, function, work, items, begun, pure):
        self.tasks.append(list(items))
        killed = "always" in items
        return Future(None if killed else function(pickle.loads(pickle.dumps(work)), items, begun))

    def cancel(self, futures):
        self.cancelled += futures


@dataclass(eq=False)
class Future:
    value: object

    def exception(self):
        from distributed.scheduler import KilledWorker

        return KilledWorker("task", None, 3) if self.value is None else None

    def result(self):
        return self.value

    def done(self):
        return True


def test_items_of_a_task_that_kills_its_workers_are_tried_alone(tmp_path, monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.setattr(distributed, "as_completed", lambda futures, loop: list(futures))
    monkeypatch.setenv("NUMBA_NUM_THREADS", "1")
    client, items = Futures(), [f"{n}" for n in range(40)] + ["always", "last"]
    done = {one.item: one for one in working.run(Deadly(tmp_path), items, client)}
    assert list(map(len, client.tasks)) == [2] * 21 + [1, 1]
    assert [one.status for one in done.values()] == ["made"] * 40 + ["failed", "made"]
    assert done["always"].error == "its worker was killed, each time that it was tried"
    (again,) = working.run(Deadly(tmp_path), ["last"], client)
    assert (again.status, len(client.tasks)) == ("skipped", 23)


def test_each_worker_has_its_share_of_the_threads_or_a_gpu(monkeypatch):
    def threads(*arguments):
        return [spec["NUMBA_NUM_THREADS"] for spec in workers.worker_specs(*arguments)]

    assert threads(None, None, None, 4) == ["1"] * 4
    assert threads(3, None, None, 8) == ["2"] * 3
    assert threads(2, 5, None, 4) == ["5"] * 2
    assert threads(8, None, None, 4) == ["1"] * 8
    monkeypatch.setattr(workers, "gpu_count", lambda: 3)
    cards = [spec["CUDA_VISIBLE_DEVICES"] for spec in workers.worker_specs(None, None, "all", 16)]
    assert cards == ["0", "1", "2"]
    assert [s["CUDA_VISIBLE_DEVICES"] for s in workers.worker_specs(None, None, [2, "GPU-ab"], 4)] == ["2", "GPU-ab"]
    with pytest.raises(InputError, match="workers is 4, but gpus has 3"):
        workers.worker_specs(4, None, "all", 16)
    monkeypatch.setattr(workers, "gpu_count", lambda: 0)
    with pytest.raises(BackendError, match="gpus is 'all', but there is none that can be used here"):
        workers.worker_specs(None, None, "all", 16)
    with pytest.raises(InputError, match="expected different numbers"):
        workers.worker_specs(None, None, [1, 1], 16)
    with pytest.raises(InputError, match="workers is 0"):
        workers.worker_specs(0, None, None, 16)


def test_threads_in_a_worker_that_is_not_ours(monkeypatch):
    distributed = pytest.importorskip("distributed")
    monkeypatch.delenv("NUMBA_NUM_THREADS", raising=False)
    assert share_of_worker() is None
    worker = type("Worker", (), {"state": type("State", (), {"nthreads": 3})})
    monkeypatch.setattr(distributed, "get_worker", lambda: worker)
    monkeypatch.setattr(recipe, "usable_cpus", lambda: 2)
    assert share_of_worker() == 2
    monkeypatch.setenv("NUMBA_NUM_THREADS", "4")
    assert share_of_worker() is None


def test_jobs_of_slurm():
    slurm = pytest.importorskip("dask_jobqueue.slurm", reason="dask-jobqueue is not installed")
    job = slurm.SLURMJob("tcp://scheduler:1", "worker", memory="16GB", walltime="01:00:00", **slurm_options(8))
    script = job.job_script()
    assert "#SBATCH --cpus-per-task=8" in script
    assert "export NUMBA_NUM_THREADS=8" in script
    assert "--nthreads 1" in script


def test_a_solver_is_made_once_in_a_process(tmp_path):
    one, other = (pickle.loads(pickle.dumps(Recipe.of("f", STEPS))) for _ in range(2))
    assert one.solver() is other.solver()
    safi_fast.weights.save_model(MODEL, tmp_path / "m.safetensors")
    by_path = Recipe.of("f", {**STEPS, "model": tmp_path / "m.safetensors"})
    assert by_path.facts() == one.facts()
    assert Path(by_path.model).is_absolute()


def test_a_folder_in_an_archive_is_listed_with_the_archive(tmp_path):
    pytest.importorskip("fsspec")
    with ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in ("in/a.npy", "in/b.npy", "c.npy"):
            archive.writestr(name, b"")
    listed = urls.sources("files", [f"zip://in::{tmp_path / 'all.zip'}"])
    assert listed == [f"zip://in/{name}.npy::{tmp_path / 'all.zip'}" for name in "ab"]
    with pytest.raises(ImageFileError, match="there is no such file or folder"):
        urls.sources("files", [f"zip://a.png::{tmp_path / 'none.zip'}"])
