"""kernel and PART: how the functions of this folder are compiled, and how a kernel shares its work out among threads.

    @kernel
    def scale(share: Share, values: Floats, factor: float) -> None:
        for item in shared(share, len(values)):
            values[item] *= factor

    scale(values, factor)   # on as many threads as numba.set_num_threads says

The arrays of a kernel must not overlap where it writes. What a kernel calls is compiled with it, once, and never alone.
(Numba's `parallel=True` optimises such a loop four times over, and makes machine code of every function that it calls
that nobody runs, more than half of the time of a first run.) The threads are Numba's own, and have to be started
(numba.get_num_threads does it) before a kernel that was compiled by another process is called.
"""

# What a type checker sees of this module stands in parallel.pyi.

from types import FunctionType
from typing import NamedTuple

import numpy as np
from llvmlite import ir
from numba import get_num_threads, njit, types
from numba.core import cgutils
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.extending import intrinsic

_BYTE = ir.IntType(8)
_BYTES, _LONG = _BYTE.as_pointer(), ir.IntType(64)


class _Unbound:
    """Stands for the code generator of a `_PartLibrary`, none of whose functions has an address."""

    def set_env(self, name, environment):
        """Nothing: without Python objects there is nothing to set."""


class _PartLibrary(JITCodeLibrary):
    """LLVM code that is optimised, and becomes machine code, only as a part of what it is linked into."""

    codegen = _Unbound()

    def finalize(self):
        """Link what it calls; no more."""
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._finalized = True

    def get_pointer_to_function(self, name):
        """0: there is no machine code."""
        self._ensure_finalized()
        return 0


class _PartCompiler(Compiler):
    """Numba's compiler into a library of this kind."""

    def __init__(self, typingctx, targetctx, library, *rest):
        super().__init__(typingctx, targetctx, library or _PartLibrary(targetctx.codegen(), "part"), *rest)


class _WorkCompiler(_PartCompiler):
    """The same for what a kernel runs on its threads: arrays do not overlap, as in loops that Numba shares out."""

    def __init__(self, typingctx, targetctx, library, args, return_type, flags, *rest):
        flags.noalias = True
        super().__init__(typingctx, targetctx, library, args, return_type, flags, *rest)


# Options of what is compiled as a part of a kernel alone: nobody calls it from Python, and it makes no arrays.
PART = {
    "nogil": True,
    "error_model": "numpy",
    "no_cpython_wrapper": True,
    "no_cfunc_wrapper": True,
    "_nrt": False,  # without counts of references to its arrays, whose atomic additions cost more than a row of a tile
    "pipeline_class": _PartCompiler,
}
_WORK = PART | {"_nrt": True, "pipeline_class": _WorkCompiler}
_LAUNCH = {"cache": True, "nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}


class Share(NamedTuple):
    """What one thread does: the `number`-th of `total` equal shares of the items. Both are unsigned."""

    number: int
    total: int


@njit(**PART)
def shared(share, items):
    """The numbers of 0 .. items - 1 that are in the share.

    Unsigned: then LLVM knows that no index is negative.
    """
    number, total, every = share.number, share.total, np.uintp(items)
    return range(every * number // total, every * (number + np.uintp(1)) // total)


@intrinsic
def _on_threads(typing_context, work, arguments):
    """work(share, *arguments) on all threads; whether one of them failed."""
    get_num_threads()  # starts the threads, and tells LLVM where the functions are that start them on something
    share = types.NamedTuple((types.uintp, types.uintp), Share)
    resolved = work.get_call_type(typing_context, (share, *arguments.types), {})
    compiled = work.dispatcher.get_compile_result(resolved)

    def emit(context, builder, sig, args):
        context.add_linking_libs([compiled.library])
        count = builder.call(_declared(builder.module, "get_num_threads", _LONG, []), [])
        fields = [args[1], count, _BYTE(0)]
        given = cgutils.alloca_once(builder, ir.LiteralStructType([field.type for field in fields]))
        for number, field in enumerate(fields):
            builder.store(field, cgutils.gep_inbounds(builder, given, 0, number))
        worker = _worker(context, builder.module, compiled.fndesc, given.type)
        _parallel_for(builder, worker, given, count)
        return builder.icmp_unsigned("!=", builder.load(cgutils.gep_inbounds(builder, given, 0, 2)), _BYTE(0))

    return types.boolean(work, arguments), emit


def _declared(module, name, result, parameters):
    return cgutils.get_or_insert_function(module, ir.FunctionType(result, parameters), name)


def _parallel_for(builder, worker, given, count):
    """Numba's threads run `worker` on shares 0 .. count - 1.

    They take it for a gufunc of one array that begins at address 0 and has elements of one byte: the address that each
    gets is the number of its first share.
    """
    first = cgutils.alloca_once_value(builder, ir.Constant(_BYTES, None))
    size, step = (cgutils.alloca_once_value(builder, value) for value in (count, _LONG(1)))
    run = _declared(builder.module, "numba_parallel_for", ir.VoidType(), [_BYTES] * 5 + [_LONG] * 3)
    pointers = [builder.bitcast(pointer, _BYTES) for pointer in (worker, first, size, step, given)]
    builder.call(run, [*pointers, _LONG(0), _LONG(1), count])


def _worker(context, module, descriptor, given_type):
    """void worker(char **first, intp *count, intp *step, void *given): `count` shares from the first on."""
    kind = ir.FunctionType(ir.VoidType(), [_BYTES.as_pointer(), _LONG.as_pointer(), _LONG.as_pointer(), _BYTES])
    worker = ir.Function(module, kind, name=module.get_unique_name("share"))
    worker.linkage = "internal"
    builder = ir.IRBuilder(worker.append_basic_block())
    first = builder.ptrtoint(builder.load(worker.args[0]), _LONG)
    given = builder.bitcast(worker.args[3], given_type)
    arguments, count = (builder.load(cgutils.gep_inbounds(builder, given, 0, number)) for number in (0, 1))
    function = context.declare_function(module, descriptor)
    with cgutils.for_range(builder, builder.load(worker.args[1])) as loop:
        share = cgutils.pack_struct(builder, [builder.add(first, loop.index), count])
        unpacked = [share, *cgutils.unpack_tuple(builder, arguments)]
        status, _ = context.call_conv.call_function(
            builder, function, descriptor.restype, descriptor.argtypes, unpacked
        )
        with cgutils.if_unlikely(builder, status.is_error):
            builder.store(_BYTE(1), cgutils.gep_inbounds(builder, given, 0, 2))
    builder.ret_void()
    return worker


def _launch(*arguments):
    if _on_threads(_work, arguments):  # noqa: F821 - each copy of this function has its own
        raise MemoryError("a thread of a kernel found no memory")


def kernel(work):
    """The function of the other arguments of `work` that runs it on all threads, each with its share.

    It returns when all have ended. MemoryError where one of them failed, which needs that there is no memory.
    """
    own = work.__code__
    code = _launch.__code__.replace(co_name=own.co_name, co_filename=own.co_filename, co_firstlineno=own.co_firstlineno)
    names = {"_on_threads": _on_threads, "_work": njit(**_WORK)(work), "__builtins__": __builtins__}
    launch = FunctionType(code, names | {"__name__": work.__module__}, work.__name__)
    launch.__module__, launch.__qualname__, launch.__doc__ = work.__module__, work.__qualname__, work.__doc__
    launch.is_kernel = True
    return njit(**_LAUNCH)(launch)
