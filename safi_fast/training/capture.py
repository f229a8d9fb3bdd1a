"""A computation that is recorded once as a CUDA graph and then replayed: one launch in place of a thousand."""

from __future__ import annotations

from collections.abc import Callable

import torch

Compute = Callable[..., tuple[torch.Tensor, ...]]
WARM_UPS = 3  # libraries choose algorithms and make plans, which a capture may not


class Captured:
    """`compute`, recorded at the first call, on inputs of the shapes that come then.

    It may use only what lies on the GPU and keeps its place, must not wait for the GPU, and what it leaves behind
    (gradients) is written anew at every replay. The outputs are overwritten by the next call.
    """

    def __init__(self, compute: Compute):
        self._compute = compute
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self._graph is None:
            self._record(inputs)
        for own, value in zip(self._inputs, inputs, strict=True):
            own.copy_(value)
        assert self._graph is not None
        self._graph.replay()
        return self._outputs

    def _record(self, inputs: tuple[torch.Tensor, ...]) -> None:
        self._inputs = [value.clone() for value in inputs]
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(WARM_UPS):
                self._compute(*self._inputs)
        torch.cuda.current_stream().wait_stream(side)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._outputs = self._compute(*self._inputs)


class InGroups:
    """`compute` on any number of rows, by calls on `size` of them; the last call repeats a row to be full."""

    def __init__(self, compute: Compute, size: int):
        self._compute, self.size = compute, size

    def __call__(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        rows, parts = len(inputs[0]), []
        for first in range(0, rows, self.size):
            group = [value[first : first + self.size] for value in inputs]
            missing = self.size - len(group[0])
            full = [torch.cat([value, value[-1:].expand(missing, *value.shape[1:])]) for value in group]
            parts.append([value[: self.size - missing].clone() for value in self._compute(*full)])
        return tuple(torch.cat(column) for column in zip(*parts, strict=True))
