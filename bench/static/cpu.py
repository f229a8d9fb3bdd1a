"""What the machine code of the CPU kernels says about processors that are not at hand.

    python -m bench.static.cpu [--output FILE.json] [--folder FOR_ASSEMBLY]

The LLVM code that Numba makes of a transform of one line, of as many lanes as it takes at a time there, and of a
register tile of the mask convolution, is compiled for each processor; counted are the vector instructions of the
function, one of each place in the code, however often it runs. `spilled` are those that move a vector to or from the
stack.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections import Counter
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import llvmlite.binding as llvm
import numba

from bench.report import measure
from safi_fast.bindings.cache import KERNELS, PACKAGE
from safi_fast.bindings.cpu_kernels import GROUP
from safi_fast.kernels.cpu import convolution

# processor: triple, features beyond its own, lanes that its transforms take at a time (NARROW in kernels/cpu/simd.py)
PROCESSORS = {
    "haswell": ("x86_64-unknown-linux-gnu", "", 8),
    "znver2": ("x86_64-unknown-linux-gnu", "", 8),
    "znver4": ("x86_64-unknown-linux-gnu", "-prefer-256-bit", 16),
    "sapphirerapids": ("x86_64-unknown-linux-gnu", "-prefer-256-bit", 16),
    "neoverse-n1": ("aarch64-unknown-linux-gnu", "", 4),
    "neoverse-v1": ("aarch64-unknown-linux-gnu", "", 4),
}
KINDS = {
    "fma": r"vf?n?m(?:add|sub)\d+ps|fml[as]\b",
    "add": r"vaddps|vsubps|fadd\b|fsub\b",
    "multiply": r"vmulps|fmul\b",
    "move": r"vmovu?a?ps|vmovdq\w+|ld[rp]\b|st[rp]\b|vbroadcastss|ld1r|dup\b",
    "call": r"callq?\s+\S*fma\S*|bl\s+fma\S*",
}
LINE = "transform of a line"
VECTOR = re.compile(r"%[yz]mm|\bv\d+\.4s|\bq\d+\b")
STACK = re.compile(r"\((?:%rsp|%rbp)|\[sp\b|\[x29\b")


def assembly(function: Any, processor: str) -> str:
    """The native function for this processor; Numba must have compiled it."""
    code = next(iter(function.inspect_llvm().values()))
    triple, features, _ = PROCESSORS[processor]
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


def functions() -> dict[tuple[str, int], Any]:
    """The hot loops, compiled: a transform of a line by the lanes that it takes, and register tiles of the mask
    convolution.
    """
    from safi_fast.bindings.aligned import zeros
    from safi_fast.kernels.cpu.arguments import Mixing, MixWork

    # made anew: Numba shows no code that it has from its cache
    anew = numba.njit(nogil=True, error_model="numpy")
    found = {}
    for lanes in (4, 8, 16):
        found[LINE, lanes] = line = anew(transforms(lanes).first_and_last.py_func)
        line(zeros(4096), zeros(4096), 0, 16, zeros(4096), 0)
    for name, kernel in (("six", convolution.mix_six), ("two", convolution.mix_two)):
        found[f"{name} pairs of a mask layer", 0] = tile = anew(kernel.py_func)
        work = MixWork(*(zeros(4096) for _ in range(4)))
        tile(0, GROUP, Mixing(zeros(1024), zeros(1024), 7, True), 0, 0, work, 0)
    return found


def transforms(lanes: int) -> ModuleType:
    """kernels/cpu/fft.py for a processor whose transforms take so many lanes at a time."""
    for name in ("simd", "fft"):
        path = KERNELS / f"{name}.py"
        text = re.sub(r"^NARROW = .*$", f"NARROW = {lanes}", path.read_text(), flags=re.MULTILINE)
        text = text.replace("from .simd import", f"from .simd_{lanes} import")
        module = ModuleType(f"{PACKAGE}.{name}_{lanes}")
        module.__package__, module.__file__ = PACKAGE, str(path)
        sys.modules[module.__name__] = module
        exec(compile(text, str(path), "exec"), vars(module))
    return module


@cache
def assemblies() -> dict[tuple[str, str], str]:
    """The code of every function for every processor."""
    return {
        (name, processor): assembly(function, processor)
        for (name, lanes), function in functions().items()
        for processor in PROCESSORS
        if lanes in (0, PROCESSORS[processor][2])
    }


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
