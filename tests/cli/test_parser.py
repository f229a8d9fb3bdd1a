"""Help on one screen, all of it with --help-all, and errors that name the nearest option."""

import types
from dataclasses import fields
from pathlib import Path
from typing import Literal, Union, get_args, get_origin, get_type_hints

import pytest

from safi_fast.cli import denoise, evaluate, reconstruct, train
from safi_fast.cli.main import COMMANDS, build_parser, main
from safi_fast.cli.options import made
from safi_fast.cli.reconstruct_options import PROBLEMS

SCREEN = 48  # lines
CALLS = [[name] for name in COMMANDS] + [["reconstruct", problem] for problem in PROBLEMS]


@pytest.mark.parametrize("call", CALLS, ids=" ".join)
def test_help_fits_on_a_screen_and_help_all_has_the_rest(call, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert main([*call, "--help"]) == 0
    short = capsys.readouterr().out
    assert short.startswith(f"usage: safi-fast {' '.join(call)} ")
    assert len(short.splitlines()) <= SCREEN
    assert main([*call, "--help-all"]) == 0
    every = capsys.readouterr().out

    def options(text):
        return {word.strip(",") for word in text.split() if word.startswith("--")}

    assert options(short) <= options(every)
    hidden = "--help-all shows more" in short
    assert hidden or options(every) == options(short)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("denoise", "in.png", "-o", "out.png", "--sigam", "25"), "--sigam 25; did you mean --sigma?"),
        (("denoise", "in.png", "-o", "a.png", "--sigma", "5", "--overwriet"), "--overwriet; did you mean --overwrite?"),
        (("reconstruct", "mri", "k.npy", "-o", "a", "--stength=1"), "--stength=1; did you mean --strength?"),
        (("models", "--jsno"), "unrecognized arguments: --jsno; did you mean --json?"),
    ],
)  # fmt: skip
def test_the_nearest_option_is_named(capsys, arguments, message):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.splitlines()[0].startswith(f"usage: safi-fast {arguments[0]} ")


def test_no_option_is_named_where_none_is_near(capsys):
    assert main(["models", "--quiet-please"]) == 2
    assert "did you mean" not in capsys.readouterr().err


SOLVER = "--model m --schedule gap --strength 1 --backend cpu --precision tf32 --data-range 255"
STEPS = "--max-outer 2 --tol 1e-3"
BOX = "--box 0 1"
RUN = "--candidates 1:2:3 --noise-level 5 --max-iter 9 --plot p.png --html h --report r --json --model m"
CASES = {
    "denoise": (
        "a.png -o b --sigma 5",
        f"{SOLVER} {STEPS} {BOX} --max-inner 3 --color separate --max-memory 4GB --devices 0 1 --html h",
    ),
    "evaluate": ("--data d --sigma 5", f"{SOLVER} --no-box --limit 3 --seed 2 --per-image --json"),
    "train": (
        "--data d --validation v --out o --sigma-range 0 50 --steps 2",
        "--data e --focus 5 15 --schedule 5x12 --family mmr --channels 4 --init m --mask-dilations 1 2 --teacher t "
        "--teacher-share 0.5 --teacher-until 1 --name n --licence l --fixed a b --checkpoint-every 5m --threads 2",
    ),
    "reconstruct mri": (
        "k.npy -o x --noise-std 1",
        f"--variable v --layout hw --select set=1,phase=0 --mask m --mask-order fft --maps n --maps-layout chw "
        f"--calibration 24 --slices 1:2 --trajectory t --size 9x8 --format cfl {STEPS} {BOX} {RUN} --data-range 2",
    ),
    "reconstruct ct": (
        "s.npy -o x --angles 0:180:9 --geometry fan --holdout 0.1",
        f"--angle-unit degrees --centre 3.5 --source-origin 5 --source-detector 9 --pixel-size 0.5 --size 9x8 "
        f"{STEPS} {RUN}",
    ),
    "reconstruct deblur": ("a.png -o x --kernel k --strength 1", f"--boundary zero {BOX} {RUN}"),
    "reconstruct inpaint": ("a.png -o x --mask m --tune-reference t.png", f"--invert-mask --no-box {RUN}"),
    "reconstruct superres": ("a.png -o x --factor 2 --strength 1", f"--kernel k --boundary zero {RUN}"),
}  # fmt: skip
OPTIONS = {"denoise": denoise.Options, "evaluate": evaluate.Options, "train": train.Options}


def options_of(command, arguments):
    """The Options (two of `reconstruct`) and the Namespace that they are made of."""
    args = build_parser().parse_args([*command.split(), *arguments.replace("--data-range ", "--data-range=").split()])
    if command in OPTIONS:
        return [made(OPTIONS[command], args)], args
    options = reconstruct.options_of(args)
    return [options, options.case], args


def fits(value, hint):
    """Whether `value` is of the type that an annotation says."""
    kind, parts = get_origin(hint), get_args(hint)
    if kind in (Union, types.UnionType):
        return any(fits(value, part) for part in parts)
    if kind is Literal:
        return value in parts
    if kind is tuple:
        hints = parts[:1] * len(value) if parts[-1] is ... and isinstance(value, tuple) else parts
        return isinstance(value, tuple) and len(value) == len(hints) and all(map(fits, value, hints))
    return type(value) is hint if hint in (int, float) else isinstance(value, kind or hint)


@pytest.mark.parametrize("command", CASES)
def test_options_are_the_arguments_and_of_their_types(command):
    """With what must be given, and with more."""
    must, more = CASES[command]
    for arguments in (must, f"{must} {more}"):
        found, args = options_of(command, arguments)
        named = {(field.name, options) for options in found for field in fields(options) if field.name != "case"}
        assert sorted(name for name, _ in named) == sorted(vars(args).keys() - {"command", "parser", "run"})
        for name, options in named:
            value, hint = getattr(options, name), get_type_hints(type(options))[name]
            assert fits(value, hint), (name, value, hint)


def test_types_that_do_not_fit_are_told():
    assert fits((1, 2), tuple[int, ...])
    assert fits((), tuple[int, ...])
    assert fits((1.0, 2.0), tuple[float, float] | None)
    wrong = [([1], tuple[int, ...]), ((1.0,), tuple[int, ...]), ((1.0,), tuple[float, float]), ("a", Literal["b"])]
    wrong += [(1, float), (True, int), ("a", Path), ("a", int | None)]
    assert not any(fits(value, hint) for value, hint in wrong)


def test_the_schedules_are_those_of_the_solver():
    """Named twice, so that --help does not import the solver."""
    from safi_fast.cli.arguments import SCHEDULES
    from safi_fast.solver import schedules

    assert set(SCHEDULES) == set(schedules.KINDS)
