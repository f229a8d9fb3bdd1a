"""Tensors of torch as arguments, without importing torch."""

from __future__ import annotations

import sys
from typing import Any


def plain(value: Any) -> Any:
    """A torch tensor without gradient, its conjugation and negation carried out where it puts them off; all else as it
    is.
    """
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(value, torch.Tensor):
        return value
    return value.detach().resolve_conj().resolve_neg()
