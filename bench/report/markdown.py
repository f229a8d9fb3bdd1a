"""Pages that a program writes, laid out as mdformat does, so that `make lint` accepts them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any

WIDTH = 120  # `wrap` of .mdformat.toml
WORD = re.compile(r"(?:`[^`]*`|[^\s`])+")  # what a line may not be broken in: code spans, and all that touches them
DASHES = re.compile(r"(:?)-+(:?)")


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A table with one line for each row."""
    lines = [header, ["--"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def tidy(text: str) -> str:
    """The page with paragraphs and items wrapped, and tables without padding; headings, code
    and comments as they are.
    """
    return "\n".join(_lines(text.splitlines())).rstrip() + "\n"


def with_tables(text: str, results: dict[str, Any], tables: dict[str, Callable[[dict[str, Any]], str]]) -> str:
    """A document with the tables between its marks written again. Raises ValueError where a mark is missing."""
    for name, make in tables.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        _, mark, after = rest.partition(end)
        if not mark:
            raise ValueError(f"the document has no {begin.strip()} ... {end}")
        text = f"{before}{begin}\n{tidy(make(results))}\n{end}{after}"
    return text


def _lines(lines: list[str]) -> Iterator[str]:
    paragraph: list[str] = []
    fenced = False
    for line in lines:
        fence = line.lstrip().startswith("```")
        literal = fenced or fence or not line.strip() or line.lstrip().startswith(("#", "<!--", "|"))
        if literal or line.lstrip().startswith("- "):
            yield from _wrapped(paragraph)
            paragraph = []
        if literal:
            yield line if fenced or not line.lstrip().startswith("|") else _row(line)
        else:
            paragraph.append(line)
        fenced ^= fence
    yield from _wrapped(paragraph)


def _row(line: str) -> str:
    """A line of a table; between its head and its body two dashes for each column."""
    cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip())[1:-1]]
    if all(DASHES.fullmatch(cell) for cell in cells):
        cells = [DASHES.sub(lambda match: match[1] + "-" * (2 - len(match[1] + match[2])) + match[2], c) for c in cells]
    return " " * (len(line) - len(line.lstrip())) + "| " + " | ".join(cells) + " |"


def _wrapped(paragraph: list[str]) -> Iterator[str]:
    """The lines of a paragraph or of an item, filled one after the other."""
    if not paragraph:
        return
    indent = re.match(r" *(- )?", paragraph[0])[0]  # type: ignore[index]
    line, after = indent, " " * len(indent)
    for word in WORD.findall(" ".join(paragraph)[len(indent) :]):
        if line.strip(" -") and len(line) + 1 + len(word) > WIDTH:
            yield line
            line = after + word
        else:
            line += word if line == indent and not line.strip(" -") else f" {word}"
    yield line
