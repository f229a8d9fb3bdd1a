"""How many instructions a warp issues: the longest way through a kernel's machine code, loops as often as the caller
says.

Of the two sides of a branch the longer one counts, so that this is an upper count of a warp whose lanes stay together.
Left out are calls (64-bit divisions of numbers above 2^32) and BRA.DIV (for lanes that have not come together where all
are expected).
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable

from .sass import Instruction, KernelCode, Loop, count_instructions

ASIDE = "BRA.DIV"  # to code for lanes that have not come together

Mix = Counter[str]  # instructions of a way, by class; fractions where loops have them
Trips = Callable[[Loop], float]


def longest_path(kernel: KernelCode, trips: Trips, forbidden: Callable[[Instruction], bool] = lambda _: False) -> Mix:
    """The instructions of the longest way from the first one to an EXIT that meets no forbidden one.

    Raises ValueError where there is no such way.
    """
    found = _walk(
        reachable(kernel), kernel.instructions[0].address, kernel.instructions[-1].address, trips, forbidden, None
    )
    if found is None:
        raise ValueError(f"{kernel.name}: every way meets a forbidden instruction")
    return found


def reachable(kernel: KernelCode) -> KernelCode:
    """Without what only BRA.DIV and calls lead to."""
    by_address = {i.address: i for i in kernel.instructions}
    following = dict(zip(by_address, list(by_address)[1:], strict=False))
    seen: set[int] = set()
    waiting = [kernel.instructions[0].address]
    while waiting:
        address = waiting.pop()
        if address in seen:
            continue
        seen.add(address)
        instruction = by_address[address]
        target = kernel.target(instruction)
        if target is not None and instruction.opcode != ASIDE:
            waiting.append(target)
        if _goes_on(instruction, target) and address in following:
            waiting.append(following[address])
    return KernelCode(kernel.name, tuple(i for i in kernel.instructions if i.address in seen), kernel.labels)


def _goes_on(instruction: Instruction, target: int | None) -> bool:
    """Whether the next instruction may follow."""
    leaves = instruction.name in ("EXIT", "RET") or (target is not None and instruction.opcode != ASIDE)
    return not leaves or bool(instruction.predicate) or _has_predicate(instruction)


def _walk(
    kernel: KernelCode,
    first: int,
    last: int,
    trips: Trips,
    forbidden: Callable[[Instruction], bool],
    around: Loop | None,
) -> Mix | None:
    """From `first` to an EXIT, or within the loop `around` to its last instruction."""
    inside = [i for i in kernel.instructions if first <= i.address <= last]
    following = {a.address: b.address for a, b in itertools.pairwise(inside)}
    loops = _outermost(kernel, around, first, last)
    best: dict[int, Mix] = {first: Counter()}
    end: Mix | None = None
    skip_to = first
    for instruction in inside:
        here = best.get(instruction.address)
        if here is None or instruction.address < skip_to:
            continue
        loop = loops.get(instruction.address)
        if loop is not None:
            skip_to = loop.last + 1
            body = _walk(kernel, loop.first, loop.last, trips, forbidden, loop)
            if body is None:
                continue
            after = _plus(here, {name: count * trips(loop) for name, count in body.items()})
            for target in _exits(kernel, loop, following):
                _offer(best, target, after)
            continue
        if forbidden(instruction):
            continue
        now = _plus(here, count_instructions((instruction,)))
        target = kernel.target(instruction)
        if instruction.name == "EXIT" or (around and instruction.address == last):
            end = now if end is None or now.total() > end.total() else end
        if target is not None and instruction.opcode != ASIDE and target > instruction.address:
            _offer(best, target, now)
        if _goes_on(instruction, target) and instruction.address in following:
            _offer(best, following[instruction.address], now)
    return end


def _outermost(kernel: KernelCode, around: Loop | None, first: int, last: int) -> dict[int, Loop]:
    """Loops in the region that lie in no other of it but `around`, by their first instruction."""
    region = [loop for loop in kernel.loops if loop != around and first <= loop.first and loop.last <= last]
    chosen = [a for a in region if not any(a != b and b.first <= a.first and a.last <= b.last for b in region)]
    return {loop.first: loop for loop in chosen}


def _exits(kernel: KernelCode, loop: Loop, following: dict[int, int]) -> list[int]:
    targets = [kernel.target(i) for i in loop.instructions if i.opcode != ASIDE]
    out = [t for t in targets if t is not None and t > loop.last]
    return [*out, *([following[loop.last]] if loop.last in following else [])]


def _has_predicate(instruction: Instruction) -> bool:
    """BRA P1, `(.L) has a second condition among its operands."""
    return instruction.name == "BRA" and instruction.operands.lstrip("!").startswith(("P", "UP"))


def _offer(best: dict[int, Mix], target: int, mix: Mix) -> None:
    if target not in best or mix.total() > best[target].total():
        best[target] = mix


def _plus(one: Mix, two: Counter[str] | dict[str, float]) -> Mix:
    total = Counter(one)
    for name, count in two.items():
        total[name] += count  # type: ignore[assignment]
    return total
