"""The exceptions of safi_fast, on one page.

SafiError
├── InputError        (ValueError)         an argument is wrong: names it, what came, what was expected
├── ModelError        (ValueError)         a weights file or model name cannot be used
├── OperatorError     (ValueError)         a forward operator is wrong: its adjoint, its norm, or it measures nothing
├── ImageFileError    (OSError)            an image file cannot be read or written
└── BackendError      (RuntimeError)       the requested backend cannot run here
"""


class SafiError(Exception):
    """Base of every exception that safi_fast raises on purpose."""


class InputError(SafiError, ValueError):
    """An argument has a wrong value, shape or dtype."""


class ModelError(SafiError, ValueError):
    """A model is unknown, or its weights file is damaged, tampered with or of another kind."""


class OperatorError(SafiError, ValueError):
    """A forward operator contradicts itself: wrong adjoint, under-estimated norm, no measurements."""


class ImageFileError(SafiError, OSError):
    """An image file cannot be read or written."""


class BackendError(SafiError, RuntimeError):
    """The requested backend is not available on this machine."""
