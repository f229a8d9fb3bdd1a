"""The training loop: data, pool, resume, validation, files, command line."""

import dataclasses
import json

import numpy as np
import pytest

from safi_fast import load_model
from safi_fast.cli.main import main
from safi_fast.errors import InputError, ModelError, SolverError
from safi_fast.io import read_image

torch = pytest.importorskip("torch", reason="training needs PyTorch (extra 'train')")

from safi_fast.training import inner  # noqa: E402
from safi_fast.training.data import NoiseRange, draw_patch, load_images, stacked  # noqa: E402
from safi_fast.training.filters import FilterOperator  # noqa: E402
from safi_fast.training.loop import Run, read_training_state, resumed  # noqa: E402
from safi_fast.training.network import fresh_network, level_table  # noqa: E402
from safi_fast.training.pool import Pool  # noqa: E402
from safi_fast.training.settings import Settings  # noqa: E402
from safi_fast.training.trainer import Trainer  # noqa: E402
from safi_fast.training.validation import Validation  # noqa: E402

NOISE = NoiseRange(2, 50, (5, 25), 0.5)
SMALL = Settings(NOISE, steps=4, outer=2, inner=4, trained=3, batch=2, side=24, crop=4, pool=6, log_every=1, warm_up=2)


@pytest.fixture(scope="module")
def images():
    """Six smooth images with edges, (40, 48), on [0, 1]."""
    rng = np.random.default_rng(0)
    rows, columns = np.mgrid[:40, :48]
    return [
        (0.5 + 0.3 * np.sin(rows / rng.uniform(3, 9) + k) + 0.2 * (columns > 24)).clip(0, 1).astype(np.float32)
        for k in range(6)
    ]


def trainer(images, settings=SMALL, family="safi"):
    return Trainer(fresh_network(family, 4, level_table(2, 50), seed=1), images, settings)


def weights(one):
    return {name: values.clone() for name, values in one.state_dict()["network"].items()}


def write_images(folder, images):
    from skimage.io import imsave

    folder.mkdir()
    for index, image in enumerate(images):
        imsave(folder / f"{index}.png", np.round(255 * image).astype(np.uint8), check_contrast=False)
    return folder


# --------------------------------------------------------------------------------------------------------------- steps


@pytest.mark.parametrize("family", ["safi", "mmr"])
def test_a_chain_is_differentiated_through_its_images(images, family):
    """Two outer steps against torch's own graph of them, in which only the dual variable is cut."""
    one = trainer(images, dataclasses.replace(SMALL, chain=2), family)
    network, generator = one.network, torch.Generator().manual_seed(0)
    clean = torch.stack([torch.from_numpy(image[:24, :24]) for image in images[:2]])[:, None]
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=generator)
    sigma, dual = torch.full((2,), 0.1), 0.1 * torch.randn((2, 4, 24, 24), generator=generator)
    _, _, end, v = one.differentiate(noisy, clean, sigma, torch.full((2,), 1e-3), noisy, dual)
    ours = {name: parameter.grad.clone() for name, parameter in network.named_parameters() if parameter.requires_grad}
    one.optimizer.zero_grad()
    operator = FilterOperator(network.composed(), (24, 24))
    conditions, x, state = network.at(sigma), noisy, inner.DualState(dual, dual)
    for _ in range(2):
        mask = network.mask(x, conditions, operator)
        with torch.no_grad():
            begun = inner.dual_steps(operator, noisy, state, mask, conditions.strength, one.factors[:1])
        made = inner.dual_steps(operator, noisy, begun, mask, conditions.strength, one.factors[1:])
        x = inner.primal(operator, noisy, made.u, mask, conditions.strength)
        state = inner.DualState(made.v.detach(), made.v.detach())
    torch.testing.assert_close((end, v), (x.detach(), state.v), rtol=0, atol=1e-5)
    ((x - clean)[..., 4:-4, 4:-4].square().mean((1, 2, 3)) / 1e-3).mean().backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), SMALL.clip)
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            size = float(parameter.grad.abs().max())
            torch.testing.assert_close(ours[name], parameter.grad, rtol=0, atol=2e-5 * size + 1e-9, msg=name)


def test_a_chain_counts_as_so_many_outer_steps(images):
    one = trainer(images, dataclasses.replace(SMALL, chain=3, visits_beyond=4))
    one.step(0.0)
    assert sorted(set(one.pool.visits.tolist())) == [-1, 3]


@pytest.mark.parametrize("family", ["safi", "mmr"])
def test_training_lowers_the_validation_error(images, family):
    settings = dataclasses.replace(SMALL, steps=30, average=0.5)
    one, validation = trainer(images, settings, family), Validation(images[:2], [25], side=32)
    before = validation.measure(one.averaged, 2, 4)["25"]
    for step in range(30):
        one.step(step / 30)
    after = validation.measure(one.averaged, 2, 4)["25"]
    assert after > before + 0.1


def test_four_steps_equal_two_and_two_after_a_resume(images, tmp_path):
    whole = trainer(images)
    for step in range(4):
        whole.step(step / 4)
    first = Run(trainer(images), Validation(images[:1], [25], side=24), tmp_path, name="half", metadata={})
    for step in range(2):
        first.trainer.step(step / 4)
    first.save()
    second, seconds = resumed(tmp_path, images, SMALL)
    assert second.step_number == 2
    assert seconds > 0
    for step in range(2, 4):
        second.step(step / 4)
    for name, values in weights(whole).items():
        torch.testing.assert_close(weights(second)[name], values, rtol=0, atol=0, msg=name)
    for ours, expected in zip(second.averaged.parameters(), whole.averaged.parameters(), strict=True):
        torch.testing.assert_close(ours, expected, rtol=0, atol=0)
    assert second.rng.bit_generator.state == whole.rng.bit_generator.state
    torch.testing.assert_close(second.pool.state_dict(), whole.pool.state_dict(), rtol=0, atol=0)


def test_resuming_drops_what_was_logged_after_the_checkpoint(images, tmp_path):
    def log_with(step):
        one = trainer(images)
        one.step_number = step
        Run(one, Validation(images[:1], [25], side=24), tmp_path, name="log", metadata={})
        return [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()]

    (tmp_path / "log.jsonl").write_text(
        "".join(json.dumps({"step": step}) + "\n" for step in (0, 1, 2, 3)) + '{"kind": "st'
    )
    assert log_with(2) == [0, 1, 2]
    assert log_with(0) == [], "a new run in the folder of an old one"


def test_the_rate_rises_and_falls(images):
    one = trainer(images)
    rates = []
    for share in (0.0, 0.1, 0.5, 1.0):
        one.step(share)
        rates.append(
            next(group["lr"] for group in one.optimizer.param_groups if group["params"][0] is one.network.layers[0])
        )
    expected = np.array([0.5 * 1, (1 + np.cos(0.1 * np.pi)) / 2, 0.5, 0.01]) * SMALL.filter_rate
    np.testing.assert_allclose(rates, expected)
    late = dataclasses.replace(SMALL, steady=0.8)
    assert [late.rate(9, share) for share in (0.1, 0.8, 0.9, 1.0)] == pytest.approx([1, 1, 0.5, 0.01])


def test_a_gradient_that_is_not_finite_ends_the_training(images):
    one = trainer([image * np.nan for image in images])
    with pytest.raises(SolverError, match="gradient of step 0 is not finite"):
        one.step(0.0)


# ---------------------------------------------------------------------------------------------------------------- pool


def test_pool_replaces_what_is_through_and_keeps_the_rest():
    pool, rng = Pool(8, 2, 4), np.random.default_rng(0)
    made = []

    def new_patch():
        made.append(1)
        return torch.full((4, 4), 0.1 * len(made)), 0.5, torch.ones(4, 4)

    def begin(noisy, clean, sigma):
        return clean, noisy - sigma[:, None, None, None], torch.ones(len(noisy), 2, 4, 4)

    places = pool.draw(2, rng)
    assert len(set(places.tolist())) == 2
    for visit in range(3):
        pool.renew(places, 3, new_patch, begin)
        assert pool.visits[places].tolist() == [visit, visit]
        pool.store(places, pool.x[places] + 1, 2 * torch.ones(2, 2, 4, 4))
    assert len(made) == 2
    torch.testing.assert_close(pool.x[places], pool.clean[places] + 3)
    pool.renew(places, 3, new_patch, begin)
    assert len(made) == 4
    torch.testing.assert_close(pool.noisy[places], pool.clean[places] + 0.5)
    assert (pool.dual[places] == 1).all()


def test_patches_and_levels_are_seeded_and_within_bounds(images):
    tensors = [stacked(image, 1) for image in images]
    draws = [draw_patch(tensors, 24, np.random.default_rng(seed)) for seed in (3, 3, 4)]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
    assert draws[0].shape == (1, 24, 24)
    rng = np.random.default_rng(0)
    sigma = 255 * np.array([NOISE.draw(rng) for _ in range(2000)])
    assert sigma.min() >= 2
    assert sigma.max() <= 50
    near = [np.mean(abs(sigma / level - 1) <= 0.1) for level in (5, 25)]
    assert min(near) > 0.23, "half of the draws are near one of two levels"


def test_settings_are_checked(images):
    for wrong, match in (
        ({"steps": None}, "expected either seconds or steps"),
        ({"seconds": 1.0}, "expected either seconds or steps"),
        ({"batch": 0}, "batch is 0; expected a positive number"),
        ({"outer": 1}, "outer is 1"),
        ({"chain": 0}, "chain is 0; expected a positive number"),
        ({"trained": 9}, "trained is 9, but an outer step has only 4"),
        ({"crop": 12}, "crop is 12; nothing of a patch of 24 x 24"),
        ({"pool": 1}, "pool is 1; expected at least one batch"),
        ({"steady": 1.0}, "steady is 1; expected a share of the run"),
        ({"optimizer": "sgd"}, "optimizer is 'sgd'; expected one of adam, muon"),
    ):
        with pytest.raises(InputError, match=match):
            dataclasses.replace(SMALL, **wrong)
    with pytest.raises(InputError, match="focus has 60, outside of the sigma range 2 to 50"):
        NoiseRange(2, 50, (60,))
    with pytest.raises(InputError, match="expected 0 < low <= high"):
        NoiseRange(5, 2)
    with pytest.raises(InputError, match="spread is 2; expected a probability"):
        NoiseRange(2, 5, (), 2)
    with pytest.raises(InputError, match=r"x\.png: the image has 40 x 48 pixels; patches need 64 x 64"):
        load_images(["x.png"], lambda path: images[0], 64)


def test_other_settings_cannot_be_resumed(images):
    state = trainer(images).state_dict()
    Trainer.resume(state, images, dataclasses.replace(SMALL, steps=9, log_every=7))
    with pytest.raises(InputError, match="inner is 6, but the run to resume has 4"):
        Trainer.resume(state, images, dataclasses.replace(SMALL, inner=6))
    del state["settings"]["fixed"]  # a run of before there was this setting
    Trainer.resume(state, images, SMALL)
    with pytest.raises(InputError, match=r"fixed is \['gain'\], but the run to resume has \[\]"):
        Trainer.resume(state, images, dataclasses.replace(SMALL, fixed=("gain",)))


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("safi", "convolutions.1"),
        ("safi", "layers.0"),
        ("safi", "log_strength"),
        ("mmr", "smoothing.0"),
        ("mmr", "layers.0"),
    ],
)
def test_fixed_parameters_stay_as_they_are(images, family, name):
    settings = dataclasses.replace(SMALL, fixed=(name,))
    one = trainer(images, settings, family)
    before = weights(one)
    for step in range(2):
        one.step(step / 4)
    one = Trainer.resume(one.state_dict(), images, settings)
    one.step(0.5)
    after = weights(one)
    torch.testing.assert_close(after[name], before[name], rtol=0, atol=0)
    torch.testing.assert_close(one.averaged.state_dict()[name], before[name], rtol=0, atol=0)
    assert any(not torch.equal(after[other], before[other]) for other in after)


def test_what_cannot_be_fixed_is_refused(images):
    every = tuple(name for name, _ in trainer(images).network.named_parameters())
    for fixed, message in (
        (("V2",), r"fixed has 'V2'; expected names among .*convolutions\.1"),
        (every, "fixed names every parameter"),
    ):
        with pytest.raises(InputError, match=message):
            trainer(images, dataclasses.replace(SMALL, fixed=fixed))
    with pytest.raises(InputError, match="fixed is 'gain'; expected a sequence of names"):
        dataclasses.replace(SMALL, fixed="gain")


# -------------------------------------------------------------------------------------------------------- command line


@pytest.fixture
def folders(images, tmp_path):
    data, clean = write_images(tmp_path / "data", images[:4]), write_images(tmp_path / "clean", images[4:])
    out = tmp_path / "out"
    return [
        "train", "--data", str(data), "--validation", str(clean), "--sigma-range", "0", "30", "--out", str(out),
        "--schedule", "2x3", "--batch", "2", "--pool", "4", "--patch", "24",
    ]  # fmt: skip


def test_train_writes_everything_and_resumes(folders, tmp_path, capsys):
    out = tmp_path / "out"
    assert main([*folders, "--steps", "2", "--channels", "4", "--licence", "MIT", "--name", "tiny"]) == 0
    printed = capsys.readouterr()
    assert "step 2, validation " in printed.out
    assert "dB at 15" in printed.out
    model = load_model(out / "model.safetensors")
    assert (model.name, model.schedule.outer, model.schedule.inner, model.lipschitz) == ("tiny", 2, 3, 1.0)
    assert model.metadata["training_data"] == "data"
    assert model.metadata["licence"] == "MIT"
    assert main([*folders, "--steps", "4"]) == 2
    assert "holds a run already; go on with it (--resume)" in capsys.readouterr().err
    assert main([*folders, "--steps", "4", "--resume", "--name", "tiny"]) == 0
    assert "this run has ended" not in capsys.readouterr().err
    rows = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [row["kind"] for row in rows].count("start") == 2
    assert rows[-1]["step"] == 4
    assert set(rows[-1]["psnr"]) == {"5", "15", "25"}
    assert load_model(out / "model.safetensors").fingerprint != model.fingerprint
    assert read_image(out / "curve.png").array.std() > 0
    assert main([*folders, "--steps", "4", "--resume", "--name", "tiny"]) == 0
    assert "this run has ended, at step 4; it is only exported again: raise --steps to go on" in capsys.readouterr().err
    raw = load_model(out / "raw.safetensors")
    assert 0 < abs(raw.strength.unrolled / load_model(out / "model.safetensors").strength.unrolled - 1).max() < 0.1


def test_train_from_weights(folders, tmp_path, capsys):
    assert main([*folders, "--steps", "1", "--init", "safi-gray"]) == 0
    shipped, model = load_model("safi-gray"), load_model(tmp_path / "out" / "model.safetensors")
    assert model.mask.dilations == shipped.mask.dilations
    np.testing.assert_allclose(model.noise_levels, shipped.noise_levels)
    assert 0 < np.abs(model.filters.composed() - shipped.filters.composed()).max() < 1e-2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--steps", "1", "--resume"], "there is no checkpoint to resume from"),
        (["--steps", "1", "--resume", "--channels", "4"], "--channels has no meaning with --resume"),
        (["--steps", "1", "--init", "safi-gray", "--family", "mmr"], "--family has no meaning with --init"),
        (["--steps", "1", "--init", "safi-gray", "--mask-dilations", "3", "1"], "expected those of the model"),
        (["--steps", "1", "--resume", "--mask-dilations", "1", "1"], "--mask-dilations has no meaning with --resume"),
        (["--steps", "1", "--family", "mmr", "--mask-dilations", "1", "1"], "a mask of the family mmr has none"),
        (["--steps", "1", "--teacher-share", "0.5"], "--teacher-share has no meaning without --teacher"),
        (["--steps", "1", "--teacher", "x.safetensors"], "there is no such teacher"),
        (["--steps", "1", "--device", "mps"], "expected cpu, cuda or cuda:N"),
        (["--steps", "1", "--patch", "64"], "patches need 64 x 64"),
        (["--time-budget", "2x"], "'2x' is not a duration"),
        (["--steps", "1", "--schedule", "5*12"], "'5*12' is not a schedule"),
    ],
)
def test_train_refuses(folders, capsys, arguments, words):
    assert main([*folders, *arguments]) in (1, 2)
    assert words in capsys.readouterr().err


def test_train_without_torch_says_what_to_install(folders, capsys, monkeypatch):
    monkeypatch.setattr("safi_fast.cli.train.find_spec", lambda name: None)
    assert main([*folders, "--steps", "1"]) == 1
    assert "pip install torch" in capsys.readouterr().err


def test_a_damaged_checkpoint_is_refused(tmp_path):
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 nothing")
    with pytest.raises(ModelError, match=r"checkpoint\.pt: is truncated, damaged or not a checkpoint"):
        read_training_state(tmp_path)
    torch.save({"family": "safi"}, tmp_path / "checkpoint.pt")
    with pytest.raises(ModelError, match="is no checkpoint of a training run"):
        read_training_state(tmp_path)


def test_spoilt_weights_are_never_written(images, tmp_path, monkeypatch):
    """On a GPU norms are read now and then; before something is written, the last one is."""
    one = trainer(images, dataclasses.replace(SMALL, log_every=1000, checkpoint_seconds=1e-9))
    one.device = "cuda"  # as far as the loop can tell

    def spoilt_step(progress):
        one.step_number += 1
        return torch.tensor(1.0), torch.tensor(np.nan)

    monkeypatch.setattr(one, "step", spoilt_step)
    run = Run(one, Validation(images, [25], side=24), tmp_path, name="small", metadata={})
    with pytest.raises(SolverError, match="gradient of step 1 is not finite"):
        run.finish()
    assert not (tmp_path / "checkpoint.pt").exists()
