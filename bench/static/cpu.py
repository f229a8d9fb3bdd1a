"""What the machine code of the CPU kernels says about processors that are not at hand.

    python -m bench.static.cpu [--output FILE.json] [--folder FOR_ASSEMBLY]

The LLVM code that Numba makes of a transform of one line, and of a register tile of the mask convolution, is compiled
for each processor; counted are the vector instructions of the function, one of each place in the code, however often it
runs. `spilled` are those that move a vector to or from the stack.
"""

from __future__ import annotations

import argparse
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba

from bench.report import measure
from safi_fast.bindings.cpu_kernels import GROUP
from safi_fast.kernels.cpu import convolution, fft

# processor: triple, features beyond its own
PROCESSORS = {
    "haswell": ("x86_64-unknown-linux-gnu", ""),
    "znver2": ("x86_64-unknown-linux-gnu", ""),
    "znver4": ("x86_64-unknown-linux-gnu", "-prefer-256-bit"),
    "sapphirerapids": ("x86_64-unknown-linux-gnu", "-prefer-256-bit"),
    "neoverse-n1": ("aarch64-unknown-linux-gnu", ""),
    "neoverse-v1": ("aarch64-unknown-linux-gnu", ""),
}
KINDS = {
    "fma": r"vf?n?m(?:add|sub)\d+ps|fml[as]\b",
    "add": r"vaddps|vsubps|fadd\b|fsub\b",
    "multiply": r"vmulps|fmul\b",
    "move": r"vmovu?a?ps|vmovdq\w+|ld[rp]\b|st[rp]\b|vbroadcastss|ld1r|dup\b",
    "call": r"callq?\s+\S*fma\S*|bl\s+fma\S*",
}
VECTOR = re.compile(r"%[yz]mm|\bv\d+\.4s|\bq\d+\b")
STACK = re.compile(r"\((?:%rsp|%rbp)|\[sp\b|\[x29\b")


def assembly(function: Any, processor: str) -> str:
    """The native function for this processor; Numba must have compiled it."""
    code = next(iter(function.inspect_llvm().values()))
    triple, features = PROCESSORS[processor]
    target = llvm.Target.from_triple(triple)
    machine = target.create_target_machine(cpu=processor, features=features, opt=3, reloc="pic", codemodel="small")
    module = llvm.parse_assembly(re.sub(r'target triple = ".*"', f'target triple = "{triple}"', code))
    name = function.py_func.__name__
    defined = [f for f in module.functions if not f.is_declaration]
    entry = next(f.name for f in defined if name in f.name and not re.search("cpython|cfunc", f.name))
    for other in defined:  # wrappers, and what counts references, by instructions of this machine
        other.linkage = "external" if other.name == entry else "internal"
    _drop_unused(module, machine)
    text = machine.emit_assembly(module)
    body = text[text.index(f"\n{entry}:") :] if f"\n{entry}:" in text else text[text.index(f'"{entry}":') :]
    return body[: body.index("\t.size\t")]


def _drop_unused(module: Any, machine: Any) -> None:
    """Leave what the one external function needs."""
    builder = llvm.create_pass_builder(machine, llvm.create_pipeline_tuning_options(speed_level=0))
    passes = llvm.create_new_module_pass_manager()
    passes.add_global_dead_code_eliminate_pass()
    passes.run(module, builder)


def count(text: str) -> dict[str, int]:
    """Instructions by kind."""
    found: Counter[str] = Counter(dict.fromkeys((*KINDS, "spilled", "vector"), 0))
    for line in text.splitlines():
        if not line.startswith("\t") or line.startswith("\t."):
            continue
        if VECTOR.search(line):
            found["vector"] += 1
            found["spilled"] += bool(STACK.search(line))
        found.update(kind for kind, pattern in KINDS.items() if re.match(rf"\t(?:{pattern})", line))
    return dict(found)


def functions() -> dict[str, Any]:
    """The hot loops, compiled: a transform of a line and a register tile of the mask convolution."""
    from safi_fast.bindings.aligned import zeros
    from safi_fast.kernels.cpu.arguments import Mixing, MixWork

    # made anew: Numba shows no code that it has from its cache
    kernels = fft.fft32, convolution.mix_six, convolution.mix_two
    line, six, two = (numba.njit(nogil=True, error_model="numpy")(kernel.py_func) for kernel in kernels)
    values = zeros(4096)
    line(values, values.copy(), 0, 16, values.copy(), 0)
    work = MixWork(*(zeros(4096) for _ in range(4)))
    for tile in (six, two):
        tile(0, GROUP, Mixing(zeros(1024), zeros(1024), 7, True), 0, 0, work, 0)
    return {"transform of a line": line, "six pairs of a mask layer": six, "two pairs of a mask layer": two}


@cache
def assemblies() -> dict[tuple[str, str], str]:
    """The code of every function for every processor."""
    return {(n, processor): assembly(f, processor) for n, f in functions().items() for processor in PROCESSORS}


def rows() -> list[dict[str, Any]]:
    """Counts of every function for every processor."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    return [
        {"function": name, "processor": processor} | count(text) for (name, processor), text in assemblies().items()
    ]


def main() -> None:
    """Print, and record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    before, found = measure.machine(), rows()
    for row in found:
        print(", ".join(f"{value} {key}" if isinstance(value, int) else str(value) for key, value in row.items()))
    if arguments.folder:
        for (name, processor), text in assemblies().items():
            (arguments.folder / f"{name.split()[0]}_{processor}.s").write_text(text)
    measure.write(arguments.output, found, before)


if __name__ == "__main__":
    main()
