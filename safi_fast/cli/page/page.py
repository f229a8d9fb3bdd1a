"""What a run made, collected while it runs, and the page of it."""

from __future__ import annotations

import hashlib
import html
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import resources
from pathlib import Path
from typing import Any

from ... import __version__
from ...atomic import write_atomically
from ..arguments import UsageError
from ..output import scientific
from .curve import curve
from .pictures import View

MOST_BYTES = 60_000_000  # of pictures; what comes later is listed without
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"
BLOCK = "<!-- {kind} {key} -->{text}<!-- end {key} -->"  # of one output, by which a later run finds it again
SLIDER = """<figure><div class="compare" style="--at: 50%; aspect-ratio: {width} / {height}">
<img src="{after}" alt="{after_name}: {title}"><img class="before" src="{before}" alt="{before_name}: {title}">
<input type="range" min="0" max="100" value="50" data-before="{before_name}"
 aria-label="share of the width that shows {before_name}, of {title}"><span class="bar"></span>
<span class="tag left">{before_name}</span><span class="tag right">{after_name}</span></div>
<figcaption>{notes}</figcaption></figure>"""
MASK = """<figure class="mask"><img src="{mask}" alt="mean mask of {title}">
<figcaption>Mask, mean over the filters. White, {high:.1f}: smoothed more; black, {low:.1f}: left alone.</figcaption>
</figure>"""
PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title><style>
{style}</style></head><body>
<h1>{title}</h1>
{facts}
<main>
<div class="wide"><table class="list">
<thead><tr><th>output</th><th>status</th><th>relative gap</th><th>seconds</th></tr></thead>
<tbody>{rows}</tbody></table></div>
{sections}
</main><script>
{script}</script></body></html>
"""


@dataclass(frozen=True)
class Entry:
    """One image of an output. part: which of several, as "slice 3". history: (gap, change) of each outer step. facts:
    what the table of it says.
    """

    part: str
    view: View
    history: Sequence[tuple[float, float]]
    certificate: str
    facts: Mapping[str, str]


def check_name(option: str, path: Path) -> None:
    """Raises UsageError where no browser would take the file for a page."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UsageError(f"{option} {path}: unsupported extension {path.suffix!r}; a page is written as .html")


class Page:
    """The page of a run. Entries come from any thread; `write` is called once, at the end."""

    def __init__(self, path: Path):
        self.path = path
        self._entries: dict[str, list[Entry]] = {}
        self._bytes = 0

    def add(self, output: Path, *entries: Entry) -> None:
        """The images of an output; beyond MOST_BYTES their figures alone."""
        for entry in entries:
            self._bytes += entry.view.bytes
            if self._bytes > MOST_BYTES:
                said = (f"no pictures: those before it take {MOST_BYTES // 10**6} MB",)
                entry = replace(entry, view=replace(entry.view, before="", after="", mask=None, notes=said))
            self._entries.setdefault(str(output), []).append(entry)

    def write(self, command: str, facts: Mapping[str, str], records: Sequence[dict[str, Any]]) -> None:
        """Write it whole or not at all. records: of all outputs, as `--json` prints them; what an earlier page at this
        place shows of those that were skipped is kept.

        Raises ImageFileError.
        """
        earlier = _blocks(self.path)
        rows, sections = [], []
        for record in records:
            key = _key(record["output"])
            entries = self._entries.get(record["output"], [])
            row, section = _row(record, entries), "".join(_section(record, entries[i], i) for i in range(len(entries)))
            if record["status"] == "skipped":
                row, section = earlier.get(("row", key), row), earlier.get(("output", key), section)
            rows.append(BLOCK.format(kind="row", key=key, text=row))
            sections.append(BLOCK.format(kind="output", key=key, text=section))
        text = PAGE.format(
            policy=POLICY, title=f"safi-fast {_plain(command)}", style=_own("style.css"), script=_own("slider.js"),
            facts=_table({"version": f"safi_fast {__version__}", **facts}),
            rows="\n".join(rows), sections="\n".join(sections),
        )  # fmt: skip
        write_atomically(self.path, text.encode("utf-8", errors="backslashreplace"))


def _own(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


def _plain(text: str) -> str:
    """Text that a browser takes for text, in attributes too."""
    return html.escape(text, quote=True)


def _key(output: str) -> str:
    return hashlib.sha256(output.encode(errors="surrogateescape")).hexdigest()[:16]


def _blocks(path: Path) -> dict[tuple[str, str], str]:
    """The blocks of an earlier page by kind and key; none where there is no page of ours."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return {}
    found = re.finditer(r"<!-- (row|output) ([0-9a-f]{16}) -->(.*?)<!-- end \2 -->", text, re.DOTALL)
    return {(block[1], block[2]): block[3] for block in found}


def _row(record: dict[str, Any], entries: Sequence[Entry]) -> str:
    """The line of an output in the list, with a link to each image of it."""
    name, key = _plain(record["output"]), _key(record["output"])
    links = [f'<a href="#o{key}-{i}">{_plain(entry.part) or name}</a>' for i, entry in enumerate(entries)]
    parts = bool(entries and entries[0].part)
    shown = f"{name}: {', '.join(links)}" if parts else "".join(links) or name
    solved = record.get("solved", [record])
    gaps = [facts["relative_gap"] for facts in solved if facts.get("relative_gap") is not None]
    seconds = [facts["seconds"] for facts in solved if "seconds" in facts]
    status = record["status"]
    why = record.get("error") or record.get("reason")
    cells = (
        shown,
        f'<span class="{_plain(status)}">{_plain(f"{status}: {why}" if why else status)}</span>',
        scientific(max(gaps)) if gaps else "",
        f"{sum(seconds):.2f}" if seconds else "",
    )
    return f"<tr>{''.join(f'<td>{cell}</td>' for cell in cells)}</tr>"


def _section(record: dict[str, Any], entry: Entry, number: int) -> str:
    """What is shown of image `number` of an output."""
    seen, title = entry.view, _plain(f"{record['output']} {entry.part}".strip())
    notes = "; ".join([f"{seen.shape[0]} x {seen.shape[1]} pixels", *seen.notes])
    views = [f"<figure><figcaption>{_plain(notes)}</figcaption></figure>"]
    if seen.after:
        views = [
            SLIDER.format(
                width=seen.shape[1], height=seen.shape[0], before=seen.before, after=seen.after, title=title,
                before_name=_plain(seen.before_name), after_name=_plain(seen.after_name), notes=_plain(notes),
            )
        ]  # fmt: skip
    if seen.mask:
        views.append(MASK.format(mask=seen.mask, low=seen.mask_limits[0], high=seen.mask_limits[1], title=title))
    gaps, changes = [gap for gap, _ in entry.history], [change for _, change in entry.history]
    drawn = curve(gaps, changes, entry.certificate)
    if drawn:
        drawn = f"<figure>{drawn}<figcaption>How near each outer step came.</figcaption></figure>"
    views.append(f"<div>{drawn}{_table({'input': record['input'], **entry.facts})}</div>")
    place = f"o{_key(record['output'])}-{number}"
    return f'<section id="{place}"><h2>{title}</h2><div class="views">{"".join(views)}</div></section>'


def _table(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<tr><th>{_plain(name)}</th><td>{_plain(value)}</td></tr>" for name, value in facts.items())
    return f'<table class="figures">{rows}</table>'
