"""The commands behind the figures of docs/models: each on a small model and small images."""

import dataclasses
import json
import sys

import numpy as np
import pytest
from models import random_model
from skimage.io import imsave

from bench import ROOT
from bench.data import images
from bench.experiments import release, start_model, study, tune
from bench.methods import starts, strength
from safi_fast import Solver, load_model
from safi_fast.errors import ModelError
from safi_fast.metrics import psnr
from safi_fast.model import Strength
from safi_fast.weights import save_model

SIGMA = 25.0


@pytest.fixture(scope="module")
def solver():
    return Solver(random_model(boundary="symmetric", composed=True), backend="cpu")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two small images with an edge."""
    folder = tmp_path_factory.mktemp("images")
    rows, columns = np.mgrid[:32, :36]
    for index in range(2):
        clean = 0.4 + 0.2 * np.sin(rows / (4 + index)) + 0.2 * (columns > 17)
        imsave(folder / f"{index}.png", np.round(255 * clean).astype(np.uint8), check_contrast=False)
    return folder


def test_scores_are_those_of_evaluate(folder, solver, tmp_path, capsys):
    from safi_fast.cli.main import main

    save_model(solver.model, tmp_path / "model.safetensors")
    words = ["evaluate", "--data", str(folder), "--sigma", "25", "--model", str(tmp_path / "model.safetensors")]
    assert main([*words, "--backend", "cpu", "--json"]) == 0
    expected = json.loads(capsys.readouterr().out)["psnr"]
    clean = images.load(folder)
    assert images.score(solver, clean, images.noisy(clean, SIGMA), SIGMA) == pytest.approx(expected, abs=1e-9)


def test_operations_are_counted_convolution_by_convolution():
    safi = random_model()  # 4 filters of 7 x 7; mask layers 5 x 5 from one channel, then twice 3 x 3 from four
    product, mask = 4 * 49, 4 * 25 + 2 * 4 * 4 * 9
    assert images.operations(safi, 1, 1) == product * (1 + 1 + 2)
    assert images.operations(safi, 3, 7) == product * (1 + 3 + 2 * 21) + 2 * mask
    mmr = random_model("mmr")  # |W x|, then two depthwise layers and their adjoints
    assert images.operations(mmr, 2, 1) == product * (1 + 2 + 4) + product + 2 * 4 * (25 + 9)


def test_an_affine_map_of_the_reference_fits_perfectly():
    rng = np.random.default_rng(0)
    reference = rng.random((20, 30))
    assert study.fitted_psnr(reference, 3 * reference - 1) > 200
    noisy = reference + 0.1 * rng.standard_normal(reference.shape)
    assert study.fitted_psnr(reference, 0.5 * noisy + 2) == pytest.approx(study.fitted_psnr(reference, noisy), abs=1e-6)
    assert study.fitted_psnr(reference, noisy) > psnr(reference, noisy)


def test_all_starts_end_where_the_gap_schedule_does(folder, solver):
    clean = images.load(folder, 1)
    y = images.noisy(clean, SIGMA)[0]
    ends = starts.end_points(solver, y, SIGMA, outer=25)
    expected = solver.denoise(y, SIGMA / 255, schedule="gap", tol=2e-5)
    assert ends.images.shape == (3, *y.shape)
    assert ends.distance < 1e-3
    assert np.linalg.norm(ends.images[0] - expected) < 1e-3 * np.linalg.norm(expected)
    few = starts.end_points(solver, y, SIGMA, outer=1)
    assert few.distance > 10 * ends.distance


def test_the_tuned_strength_is_the_best_of_a_grid(folder, solver):
    clean = images.load(folder)
    found = strength.best_strength(solver, clean, SIGMA, max_outer=2, max_inner=10)
    own = solver.model.at(SIGMA / 255, strength_given=False).strength_unrolled
    observed = images.noisy(clean, SIGMA)

    def value(factor):
        return images.score(solver, clean, observed, SIGMA, strength=factor * own, max_outer=2, max_inner=10)

    assert value(found) >= max(value(np.exp(exponent)) for exponent in np.linspace(-0.2, 0.2, 5)) - 0.01


def test_tuning_changes_only_the_converged_strength(folder, solver, tmp_path):
    save_model(solver.model, tmp_path / "a.safetensors")
    words = ["--model", str(tmp_path / "a.safetensors"), "--data", str(folder), "--crop", "24"]
    tune.main([*words, "--output", str(tmp_path / "b.safetensors")])
    before, after = solver.model.tensors(), load_model(tmp_path / "b.safetensors").tensors()
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert changed == ["strength.converged"]


@pytest.mark.parametrize("name", ["seeds", "schedules", "convergence", "updates", "starts"])
def test_studies_write_rows_without_paths(name, folder, solver, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(study, "SCHEDULES", ((5, 12), (2, 3)))
    monkeypatch.setattr(study, "UPDATES", (0, 1))
    monkeypatch.setattr(study, "CROP", 24)
    save_model(solver.model, tmp_path / "model.safetensors")
    monkeypatch.setattr(sys, "argv", [str(ROOT / "bench" / "experiments" / "study.py"), name, "--data", str(folder)])
    words = [
        name,
        "--data",
        str(folder),
        "--limit",
        "1",
        "--outer",
        "2",
        "--model",
        str(tmp_path / "model.safetensors"),
    ]
    study.main([*words, "--output", str(tmp_path / "result.json")])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["model_sha256"] == solver.model.fingerprint
    assert result["command"] == f"python -m bench.experiments.study {name} --data {folder.name}"
    assert len(result["rows"]) >= 1
    assert str(tmp_path) not in (tmp_path / "result.json").read_text()
    assert len(capsys.readouterr().out.splitlines()) == len(result["rows"]) + 2


def test_a_release_has_the_scores_of_its_own_weights_only(solver):
    score = {
        "model_sha256": solver.model.fingerprint,
        "sigma": 25.0,
        "psnr": 28.8,
        "images": 68,
        "schedule": "unrolled",
    }
    facts = {"licence": "MIT", "training_data": "some", "training": "an hour"}
    model = release.released(solver.model, "good", **facts, evaluations=[score])
    assert model.metadata["scores"].startswith("BSD68 (68 images), unrolled 5 x 12: 28.80 dB at sigma 25 (safi-fast")
    assert model.fingerprint == solver.model.fingerprint
    unrolled = solver.model.strength.unrolled
    tuned = dataclasses.replace(solver.model, strength=Strength(unrolled, 2 * unrolled))
    trained = dataclasses.replace(solver.model, strength=Strength(unrolled, unrolled))
    score["model_sha256"] = trained.fingerprint
    assert release.released(tuned, "good", **facts, evaluations=[score]).fingerprint == tuned.fingerprint
    for wrong in ({**score, "model_sha256": "0"}, {**score, "schedule": "converged"}):
        with pytest.raises(ModelError, match="the score at sigma 25 is that of other weights; evaluate these"):
            release.released(tuned, "bad", **facts, evaluations=[wrong])


def test_the_start_of_safi_training_has_the_mask_layers_asked_for():
    source = random_model(channels=6, boundary="symmetric", composed=True, levels=(5 / 255, 50 / 255))
    image = np.random.default_rng(0).random((40, 40), np.float32)
    models = {layers: start_model.safi_model(source, 4, layers) for layers in (1, 2, 3, 4)}
    sides = {layers: [v.shape[-1] for v in model.mask.convolutions] for layers, model in models.items()}
    assert sides == {1: [5, 1], 2: [5, 3], 3: [5, 3, 3], 4: [5, 3, 3, 3]}
    results = {layers: Solver(model, backend="cpu").denoise(image, SIGMA / 255) for layers, model in models.items()}
    np.testing.assert_allclose(results[4], results[3], atol=1e-6)
    np.testing.assert_array_equal(models[1].mask.convolutions[1][..., 0, 0], np.eye(4))
    np.testing.assert_allclose(
        models[1].mask.splines[1], np.linspace(-1, 1, models[1].mask.splines[1].shape[1])[None].repeat(4, 0), atol=1e-7
    )
    assert abs(results[1] - results[2]).max() > 1e-6


def test_a_study_of_files_needs_data(capsys):
    with pytest.raises(SystemExit):
        study.main(["seeds"])
    assert "seeds needs --data" in capsys.readouterr().err


def test_the_start_of_mmr_training_denoises_already(folder):
    source = random_model(channels=6, boundary="symmetric", composed=True, levels=(5 / 255, 50 / 255))
    model = start_model.mmr_model(source, 4, 25 / 255)
    assert (model.family, model.filters.channels, model.noise_levels.tolist()) == ("mmr", 4, [25 / 255])
    sizes = [np.sort((each.filters.composed() ** 2).sum((1, 2, 3))) for each in (model, source)]
    np.testing.assert_allclose(sizes[0] / sizes[0][-1], sizes[1][-4:] / sizes[1][-1], rtol=1e-5)
    clean = images.load(folder)
    observed = images.noisy(clean, SIGMA)
    before = np.mean([psnr(x, y) for x, y in zip(clean, observed, strict=True)])
    assert images.score(Solver(model, backend="cpu"), clean, observed, SIGMA) > before + 0.2
