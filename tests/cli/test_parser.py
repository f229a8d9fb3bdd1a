"""Help on one screen, all of it with --help-all, and errors that name the nearest option."""

import pytest

from safi_fast.cli.main import COMMANDS, main
from safi_fast.cli.reconstruct_job import PROBLEMS

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
        (("denoise", "in.png", "-o", "out.png", "--sigam", "25"), "required: --sigma; did you mean --sigma?"),
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
