"""`safi-fast`: picks the command, turns the library's errors into one line and an exit status."""

import argparse
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

from .. import __version__
from ..errors import SafiError
from . import convert, demo, denoise, doctor, evaluate, inspect, models, reconstruct, train
from .arguments import UsageError, join_ranges
from .output import message_of, print_error

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
SUCCESS, FAILURE, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors begin like all others of this program."""

    def error(self, message: str) -> NoReturn:
        """Print how to call the command and what was wrong."""
        self.print_usage(sys.stderr)
        print_error(message)
        raise SystemExit(USAGE)


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    parser = Parser(prog="safi-fast", description="Image reconstruction with solution-adaptive learned regularisers.")
    parser.add_argument("--version", action="version", version=f"safi-fast {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, module in COMMANDS.items():
        sentence = (module.__doc__ or "").strip().splitlines()[0]
        command = commands.add_parser(
            name, help=sentence, description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(command)
        command.set_defaults(run=module.run)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status."""
    try:
        status = _run(argv)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILURE


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
