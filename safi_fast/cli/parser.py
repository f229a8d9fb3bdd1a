"""The parser of the command line: help on one screen, all of it with --help-all, and errors that name the nearest
option.
"""

import argparse
import sys
from collections.abc import Sequence
from contextlib import suppress
from difflib import get_close_matches
from typing import Any, NoReturn

from .output import print_error

USAGE = 2


class Rare(str):
    """Help of an option that few need: --help-all shows it."""

    __slots__ = ()


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors begin like all others of this program.

    --help shows the first paragraph of the description and the options whose help is not `Rare`, --help-all everything.
    """

    def __init__(self, **options: Any):
        options.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(**options)
        self.add_argument("--help-all", action=_HelpAll, help="show every option and all that is to say, and exit")

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse does; an option that is unknown is answered with the one that is most like it."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            leaf: Parser = getattr(found, "parser", self)
            leaf.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse does; `error` looks at what was given."""
        self.given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self.given, namespace)

    def error(self, message: str) -> NoReturn:
        """Print how to call the command and what was wrong."""
        with suppress(OSError, ValueError):
            self.print_usage(sys.stderr)
        print_error(f"{message}{self._meant()}")
        raise SystemExit(USAGE)

    def format_usage(self) -> str:
        """The arguments that must be there, in one line."""
        if self._subparsers is not None:
            return super().format_usage()
        must = [a for a in self._actions if a.required and a.option_strings] + self._get_positional_actions()
        formatter = self._get_formatter()
        formatter.add_usage(None, must, [])
        return formatter.format_help().rstrip().replace(self.prog, f"{self.prog} [options]", 1) + "\n"

    def format_help(self) -> str:
        """On one screen."""
        hidden = {action: action.help for action in self._actions if isinstance(action.help, Rare)}
        kept = self.description, self.epilog, self.usage
        try:
            if self._subparsers is None:
                self.usage = self.format_usage().removeprefix("usage: ").strip()
            for action in hidden:
                action.help = argparse.SUPPRESS
            self.description, _, more = (self.description or "").strip().partition("\n\n")
            self.epilog = "--help-all shows more options and explains more." if hidden or more or self.epilog else None
            return super().format_help()
        finally:
            for action, words in hidden.items():
                action.help = words
            self.description, self.epilog, self.usage = kept

    def format_help_all(self) -> str:
        """Every option, description and epilog."""
        return super().format_help()

    def _meant(self) -> str:
        """A question for the options that were meant by those that are none, or nothing."""
        known = [option for action in self._actions for option in action.option_strings]
        given = [word.partition("=")[0] for word in self.given if word.startswith("--") and word != "--"]
        unknown = [word for word in given if not any(option.startswith(word) for option in known)]
        near = [get_close_matches(word, known, 1, 0.7) for word in unknown]
        found = [names[0] for names in near if names]
        return f"; did you mean {' and '.join(found)}?" if found else ""


class _HelpAll(argparse.Action):
    def __init__(self, option_strings: Sequence[str], dest: str, help: str):
        super().__init__(option_strings, dest=argparse.SUPPRESS, default=argparse.SUPPRESS, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        assert isinstance(parser, Parser)
        print(parser.format_help_all(), end="")
        raise SystemExit(0)
