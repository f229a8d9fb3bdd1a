"""The exceptions of safi_fast, on one page.

SafiError
├── InputError        (ValueError)         an argument is wrong: names it, what came, what was expected
├── ModelError        (ValueError)         a weights file or model name cannot be used
├── OperatorError     (ValueError)         a forward operator is wrong: adjoint, norm, it measures nothing, or gives NaN
├── SolverError       (ArithmeticError)    a solve came to values that are not finite, by no fault of an operator
├── ImageFileError    (OSError)            an image file cannot be read or written
└── BackendError      (RuntimeError)       the requested backend cannot run here
    └── OutOfMemoryError  (MemoryError)    it has no memory for as little as one image at once
"""

import re
from typing import Any

LONGEST = 100  # characters of a value in a message


class SafiError(Exception):
    """Base of every exception that safi_fast raises on purpose."""


class InputError(SafiError, ValueError):
    """An argument has a wrong value, shape or dtype."""


class ModelError(SafiError, ValueError):
    """A model is unknown, or its weights file is damaged, tampered with or of another kind."""


class OperatorError(SafiError, ValueError):
    """A forward operator contradicts itself: wrong adjoint, under-estimated norm, no measurements, values that are not
    finite.

    image: where `reconstruct` was under way, what the last complete outer step gave, in the shape and range of a
    result; None before that, and for a batch that is solved in several parts.
    """

    image: Any = None


class SolverError(SafiError, ArithmeticError):
    """A solve came to values that are not finite. image: as of OperatorError; None from `denoise`."""

    image: Any = None


class ImageFileError(SafiError, OSError):
    """An image file cannot be read or written."""


class BackendError(SafiError, RuntimeError):
    """The requested backend is not available on this machine."""


class OutOfMemoryError(BackendError, MemoryError):
    """There is no memory, on the GPU or the host, for as few images as can be solved at once."""


def shown(value: Any) -> str:
    """A value of any kind as part of a message: its repr on one line, cut, without the address of an object."""
    try:
        text = repr(value)
    except Exception:  # what a caller's class may raise
        text = f"<{type(value).__name__}>"
    text = " ".join(re.sub(r" at 0x[0-9a-fA-F]+", "", text).split())
    return text if len(text) <= LONGEST else f"{text[: LONGEST // 2]} ... {text[-LONGEST // 4 :]}"
