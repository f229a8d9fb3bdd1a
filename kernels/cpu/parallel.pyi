"""What a type checker sees of parallel.py."""

from collections.abc import Callable
from typing import Any, Concatenate, NamedTuple, ParamSpec

_Arguments = ParamSpec("_Arguments")

PART: dict[str, Any]

class Share(NamedTuple):
    number: int
    total: int

def shared(share: Share, items: int) -> range: ...
def kernel(work: Callable[Concatenate[Share, _Arguments], None]) -> Callable[_Arguments, None]: ...
