"""What the machine code of a kernel is made of: instructions by class, of the whole kernel and of its innermost loops.

Needs nvdisasm, from PATH or from the pip package nvidia-cuda-nvdisasm; no GPU.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from .tools import find_tool

# Classes of instructions, by the part of their name before the first dot. What is not listed is OTHER: moves,
# constants, ...
CLASSES = {
    "FFMA": "FFMA FFMA2 FFMA32I",
    "FLOAT": "FADD FADD2 FADD32I FMUL FMUL2 FMUL32I FMNMX FMNMX3 FSEL FSET FSETP FCHK FSWZADD",
    "HMMA": "HMMA IMMA DMMA QMMA",
    "MUFU": "MUFU",
    "LDS": "LDS",
    "LDSM": "LDSM",
    "STS": "STS",
    "LDG": "LDG LD",
    "LDGSTS": "LDGSTS",
    "STG": "STG ST",
    "LOCAL": "LDL STL",
    "ATOMIC": "ATOM ATOMG ATOMS RED REDG REDUX",
    "SHFL": "SHFL VOTE VOTEU MATCH",
    "BAR": "BAR WARPSYNC DEPBAR LDGDEPBAR SYNCS MEMBAR ERRBAR",
    "INTEGER": "IMAD IADD IADD3 LEA LOP LOP3 SHF SHL SHR ISETP IMNMX VIMNMX VIMNMX3 VIADD VIADDMNMX IABS SEL "
    "PRMT SGXT BMSK "
    "POPC FLO PLOP3 XMAD IDP I2F I2FP F2I F2F F2FP I2I UIMAD UIADD3 ULEA ULOP3 USHF UISETP USEL UPRMT USGXT "
    "UPLOP3 UFLO UPOPC",
    "CONTROL": "BRA BRX BRXU EXIT RET CALL BSSY BSYNC BREAK NANOSLEEP YIELD WARPGROUP",
}
OTHER = "OTHER"
_CLASS_OF = {opcode: name for name, opcodes in CLASSES.items() for opcode in opcodes.split()}
_COLUMNS = (*CLASSES, OTHER)

LANES = 32
_MMA_SHAPE = re.compile(r"^(?:HMMA|IMMA|DMMA|QMMA)\.(16|8)(8|16)(4|8|16|32|64)\b")


class DisassemblyError(RuntimeError):
    """nvdisasm is not here, or cannot read the code."""


@dataclass(frozen=True)
class Instruction:
    """One line of SASS."""

    address: int
    opcode: str  # with its suffixes
    operands: str
    predicate: str = ""  # such as "@!P0"

    @property
    def name(self) -> str:
        return self.opcode.split(".")[0]

    @property
    def kind(self) -> str:
        return _CLASS_OF.get(self.name, OTHER)

    @property
    def flops(self) -> int:
        """Floating-point operations of a warp: a fused multiply-add is two."""
        if self.kind == "FFMA":
            return 2 * LANES * (2 if self.name.endswith("2") else 1)
        if self.name.startswith(("FADD", "FMUL")):
            return LANES * (2 if self.name.endswith("2") else 1)
        if match := _MMA_SHAPE.match(self.opcode):
            m, n, k = map(int, match.groups())
            return 2 * m * n * k
        return 0


@dataclass(frozen=True)
class Loop:
    """The instructions from the target of a backward branch to that branch, those of inner loops among them."""

    instructions: tuple[Instruction, ...]

    @property
    def first(self) -> int:
        return self.instructions[0].address

    @property
    def last(self) -> int:
        return self.instructions[-1].address


@dataclass(frozen=True)
class KernelCode:
    """The instructions of a kernel, without the padding after its end."""

    name: str
    instructions: tuple[Instruction, ...]
    labels: Mapping[str, int]

    @property
    def loops(self) -> tuple[Loop, ...]:
        """All of them, in the order of their ends."""
        found = []
        for instruction in self.instructions:
            target = self.target(instruction)
            if target is None or target >= instruction.address:
                continue
            inside = tuple(i for i in self.instructions if target <= i.address <= instruction.address)
            found.append(Loop(inside))
        return tuple(found)

    def depth(self, loop: Loop) -> int:
        """How many other loops it lies in."""
        return sum(other != loop and other.first <= loop.first and loop.last <= other.last for other in self.loops)

    @property
    def innermost_loops(self) -> tuple[Loop, ...]:
        loops = self.loops
        return tuple(
            loop
            for loop in loops
            if not any(other != loop and loop.first <= other.first and other.last <= loop.last for other in loops)
        )

    def target(self, instruction: Instruction) -> int | None:
        """Where a branch goes, None for anything else."""
        if instruction.name != "BRA":
            return None
        match = re.search(r"`\((\.L_x_\d+)\)", instruction.operands)
        return self.labels.get(match[1]) if match else None


def count_instructions(instructions: Iterable[Instruction]) -> Counter[str]:
    """How many there are of each class; classes without any are absent."""
    return Counter(instruction.kind for instruction in instructions)


def read_sass(cubin: bytes) -> dict[str, KernelCode]:
    """The kernels of a cubin, disassembled."""
    nvdisasm = find_tool("nvdisasm")
    if nvdisasm is None:
        raise DisassemblyError("nvdisasm is not here; put it on PATH or `pip install nvidia-cuda-nvdisasm`")
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(cubin)
        file.flush()
        done = subprocess.run([nvdisasm, "--print-code", file.name], capture_output=True, text=True, check=False)
    if done.returncode:
        raise DisassemblyError(f"nvdisasm failed: {done.stderr.strip()}")
    return parse_sass(done.stdout)


# -------------------------------------------------------------------------------------------------------------- parsing
_SECTION = re.compile(r"^\.text\.(\w+):")
_OTHER_SECTION = re.compile(r"^\s*\.section\s+(\S+?),")
_LABEL = re.compile(r"^(\.L_x_\d+):")
_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]+)\*/\s+(@!?U?P\w+\s+)?([A-Z][A-Z0-9_.]*)\s*([^;]*);")


def parse_sass(text: str) -> dict[str, KernelCode]:
    """The output of `nvdisasm --print-code`."""
    kernels: dict[str, KernelCode] = {}
    name: str | None = None
    instructions: list[Instruction] = []
    labels: dict[str, int] = {}
    waiting: list[str] = []  # labels whose instruction is still to come

    def finish() -> None:
        if name is not None:
            kernels[name] = KernelCode(name, _without_padding(instructions, labels), dict(labels))

    for line in text.splitlines():
        if match := _SECTION.match(line):
            name, instructions, labels, waiting = match[1], [], {}, []
        elif _OTHER_SECTION.match(line):
            finish()
            name = None
        elif name is None:
            continue
        elif match := _LABEL.match(line):
            waiting.append(match[1])
        elif match := _INSTRUCTION.match(line):
            address = int(match[1], 16)
            labels.update((label, address) for label in waiting)
            waiting = []
            instructions.append(Instruction(address, match[3], match[4].strip(), (match[2] or "").strip()))
    finish()
    return kernels


def _without_padding(instructions: list[Instruction], labels: Mapping[str, int]) -> tuple[Instruction, ...]:
    """Kernels end with a branch to itself, which nothing reaches, and NOPs."""
    end = len(instructions)
    while end and instructions[end - 1].name == "NOP":
        end -= 1
    if end and instructions[end - 1].name == "BRA":
        last = instructions[end - 1]
        if any(address == last.address and label in last.operands for label, address in labels.items()):
            end -= 1
    return tuple(instructions[:end])


# ----------------------------------------------------------------------------------------------------------- for people
def format_sass(kernels: Mapping[str, KernelCode], smallest_loop: int = 8) -> str:
    """A table of instruction counts: one row per kernel, one per loop of at least `smallest_loop` instructions."""
    rows = []
    for kernel in kernels.values():
        rows.append((kernel.name, kernel.instructions))
        for loop in sorted(kernel.loops, key=lambda loop: (loop.first, -loop.last)):
            if len(loop.instructions) >= smallest_loop:
                indent = "  " * (1 + kernel.depth(loop))
                rows.append((f"{indent}loop {loop.first:#06x}..{loop.last:#06x}", loop.instructions))
    counts = [count_instructions(instructions) for _, instructions in rows]
    used = [column for column in _COLUMNS if any(count[column] for count in counts)]
    lines = [f"{'':28} {'all':>6} " + " ".join(f"{column:>7}" for column in used)]
    for (title, instructions), count in zip(rows, counts, strict=True):
        cells = " ".join(f"{count[column] or '.':>7}" for column in used)
        lines.append(f"{title:28} {len(instructions):6} {cells}")
    return "\n".join(lines)
