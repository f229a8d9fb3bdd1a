"""`safi-fast`: picks the command, turns the library's errors into one line and an exit status."""

import argparse
import errno
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, NoReturn

from ..errors import SafiError
from . import convert, demo, denoise, doctor, evaluate, inspect, models, reconstruct, train
from .arguments import UsageError, join_ranges
from .output import first_sentence, message_of, print_error
from .parser import USAGE, Parser
from .version import Version

COMMANDS = {
    "denoise": denoise,
    "reconstruct": reconstruct,
    "evaluate": evaluate,
    "models": models,
    "inspect": inspect,
    "convert": convert,
    "doctor": doctor,
    "demo": demo,
    "train": train,
}
SUCCESS, FAILURE, INTERRUPTED, TERMINATED = 0, 1, 130, 143


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = Parser(prog="safi-fast", description="Image reconstruction with solution-adaptive learned regularisers.")
    parser.add_argument("--version", action=Version)
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        sentence = first_sentence(module.__doc__)
        command = commands.add_parser(name, help=sentence, description=module.__doc__)
        module.add_arguments(command)
        command.set_defaults(run=module.run, parser=command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    lost = _open_streams()
    try:
        status = _run(argv)
        if lost:
            print_error("standard output is closed; what should be printed is lost")
            status = status or FAILURE
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        status = FAILURE
    except OSError as error:
        print_error(_unexpected(error))
        status = FAILURE
    except KeyboardInterrupt:
        status = INTERRUPTED
    for stream in (sys.stdout, sys.stderr):
        _settle(stream)
    return status


def _open_streams() -> bool:
    """Open what is closed, or the next file would take its number, and let names of files through that the terminal
    cannot show.

    True where standard output was closed.
    """
    lost = sys.stdout is None
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            place = os.open(os.devnull, os.O_WRONLY)
            if place != number:
                os.dup2(place, number)
            setattr(sys, name, os.fdopen(number, "w", closefd=False))
    if getattr(sys.stdout, "errors", None) == "strict" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")
    return lost


def _settle(stream: Any) -> None:
    """Flush; where that fails, what is left goes nowhere, for Python would try again at its end and complain."""
    try:
        stream.flush()
    except (OSError, ValueError):
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _unexpected(error: OSError) -> str:
    """What the system refused, in one line: a file by its name, else standard output."""
    said = (error.strerror or str(error) or type(error).__name__).lower()
    if error.filename is not None:
        return f"{os.fsdecode(error.filename)}: {said}"
    output = error.errno in (errno.ENOSPC, errno.EBADF, errno.EIO, errno.EDQUOT, errno.EFBIG)
    return f"standard output cannot be written ({said})" if output else f"the system refused: {said}"


def _run(argv: Sequence[str] | None) -> int:
    try:
        args = build_parser().parse_args(join_ranges(sys.argv[1:] if argv is None else argv))
        with _terminate_cleanly():
            status: int = args.run(args)
        return status
    except UsageError as error:
        print_error(str(error))
        return USAGE
    except (SafiError, MemoryError) as error:
        print_error(message_of(error))
        return FAILURE
    except KeyboardInterrupt:
        with suppress(OSError, ValueError):
            print("safi-fast: interrupted; every output that exists is complete", file=sys.stderr)
        return INTERRUPTED
    except SystemExit as exit_:  # argparse: --help, --version and its own errors; SIGTERM
        return exit_.code if isinstance(exit_.code, int) else SUCCESS


@contextmanager
def _terminate_cleanly() -> Iterator[None]:
    """Let SIGTERM unwind as Ctrl-C does, so that a file being written is cleaned up."""

    def terminate(signum: int, frame: FrameType | None) -> NoReturn:
        raise SystemExit(TERMINATED)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    previous = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, previous)


if __name__ == "__main__":
    raise SystemExit(main())
