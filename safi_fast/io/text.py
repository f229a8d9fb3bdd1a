"""Text files: UTF-8 with or without a byte-order mark, or UTF-16 with one, as Windows and spreadsheets write them."""

import codecs
from pathlib import Path

from ..atomic import reason
from ..errors import ImageFileError

ENCODINGS = {codecs.BOM_UTF8: "utf-8-sig", codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}


def read_text(path: Path) -> str:
    """The text of a file. Raises ImageFileError, also for what is no text."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be read ({reason(error)})") from error
    encoding = next((name for mark, name in ENCODINGS.items() if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        raise ImageFileError(
            f"{path}: is no text ({error.reason}); expected UTF-8, or UTF-16 with a byte-order mark"
        ) from error
    if "\0" in text:
        raise ImageFileError(
            f"{path}: is no text (it holds zero bytes); expected UTF-8, or UTF-16 with a byte-order mark"
        )
    return text
