"""Model cards and the layout of pages that a program writes."""

import json
import re

import pytest

from bench import ROOT
from bench.report import cards, markdown
from safi_fast import list_models


@pytest.mark.parametrize("name", list_models())
def test_cards_are_those_of_the_results(name):
    page = (ROOT / "docs" / "models" / f"{name}.md").read_text(encoding="utf-8")
    assert page == cards.card(name), f"docs/models/{name}.md is out of date: python -m bench.report.cards"
    headings = re.findall(r"^## (.+)$", page, re.MULTILINE)
    assert headings == ["Data", "Teachers", "Hours", "Scores", "Studies", "Where it fails"]


def test_a_card_without_words_says_which(tmp_path, monkeypatch):
    with pytest.raises(SystemExit, match=r"cards/unknown\.md is not there; write what the card says: use, data"):
        cards.card("unknown")
    monkeypatch.setattr(cards, "TEMPLATES", tmp_path)
    monkeypatch.setattr(cards, "ROOT", tmp_path)
    (tmp_path / "cards").mkdir()
    (tmp_path / "cards" / "mine.md").write_text("# use\nx\n# data\ny\n", encoding="utf-8")
    with pytest.raises(SystemExit, match="heading 'failures'; expected use, data, teachers"):
        cards.words("mine")


def test_a_card_without_scores_says_what_to_run(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "RESULTS", tmp_path)
    with pytest.raises(SystemExit, match=r"no bsd68_safi_gray_sigma\*\.json; run safi-fast evaluate --json"):
        cards.scores("safi-gray")
    assert cards.curve("safi-gray") == "The log of the training was not kept."


def test_a_curve_is_kept_from_a_log(tmp_path, monkeypatch):
    monkeypatch.setattr(cards, "RESULTS", tmp_path)
    lines = [{"kind": "start", "step": 0}]
    lines += [{"kind": "validation", "step": n, "seconds": 60.0 * n, "psnr": {"25": 28 + n / 100}} for n in range(31)]
    log = tmp_path / "log.jsonl"
    log.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    cards.keep_curve(log, "safi-gray")
    rows = cards.curve("safi-gray").splitlines()[4:]
    assert len(rows) == cards.CURVE_ROWS
    assert rows[0] == "| 0 | 0 | 28.000 |"
    assert rows[-1] == "| 30 | 30 | 28.300 |"
    log.write_text(json.dumps(lines[0]), encoding="utf-8")
    with pytest.raises(SystemExit, match="holds no validation"):
        cards.keep_curve(log, "safi-gray")


def test_pages_are_wrapped():
    item = "- " + "word " * 40 + "`a span that is not broken` end"
    text = (
        f"# Heading {'x ' * 80}\n\nshort\nlines\n\n{item}\n- next\n\n|a | b|\n| --- | ---: |\n| | x "
        f"|\n\n```sh\n{'y ' * 80}\n```\n"
    )
    lines = markdown.tidy(text).splitlines()
    assert lines[0].startswith("# Heading")
    assert lines[2] == "short lines"
    first = lines.index(next(line for line in lines if line.startswith("- word")))
    assert all(len(line) <= markdown.WIDTH for line in lines[first : first + 2])
    assert lines[first + 1].startswith("  word")
    assert "`a span that is not broken`" in "".join(lines[first + 1])
    assert lines[first + 2] == "- next"
    assert lines[first + 4 : first + 7] == ["| a | b |", "| -- | -: |", "|  | x |"]
    assert ("y " * 80).strip() in [line.strip() for line in lines]
    assert markdown.tidy("- x\n\n  | a |\n  | --- |\n") == "- x\n\n  | a |\n  | -- |\n"
    assert markdown.tidy("\n".join(lines)) == "\n".join(lines).rstrip() + "\n"
