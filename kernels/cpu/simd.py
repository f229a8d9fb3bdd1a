"""A vector of 16 float32 lanes as a Numba type.

Numba's loop vectoriser gives up on butterflies and register tiles, so the kernels say what they mean: `load`,
`store`, `fma` and the operators + - * / act on 16 lanes at once. LLVM maps them to one AVX-512 register, two AVX or
four NEON ones. Arrays are flat float32; offsets count elements.
"""

import operator
import platform

from llvmlite import binding, ir
from numba import config, types
from numba.core import cgutils
from numba.core.typing.templates import AbstractTemplate, infer_global, signature
from numba.extending import intrinsic, lower_builtin, models, register_model

LANES = 16
# Whether the processor keeps 32 such vectors, which takes AVX-512: loops that hold sums in registers go by it.
WIDE = bool(
    binding.get_host_cpu_features().get("avx512f") if config.CPU_FEATURES is None else "+avx512f" in config.CPU_FEATURES
)
# Lanes that transforms take at a time: with 16, the 16 numbers of a butterfly of 8 would go through memory where the
# processor has 16 registers of 8 lanes, or 32 of 4.
NARROW = 16 if WIDE else 4 if platform.machine() in ("aarch64", "arm64") else 8
_VECTOR = ir.VectorType(ir.FloatType(), LANES)
_INDEX = ir.IntType(32)


class Float32Lanes(types.Type):
    """The Numba type of a vector."""

    def __init__(self, count):
        self.count = count
        super().__init__(name=f"Float32x{count}")


float32x16, narrow = Float32Lanes(LANES), Float32Lanes(NARROW)
Vector = Float32Lanes  # of the annotations; what a type checker sees of this module stands in simd.pyi


@register_model(Float32Lanes)
class _Float32LanesModel(models.PrimitiveModel):
    def __init__(self, manager, numba_type):
        super().__init__(manager, numba_type, ir.VectorType(ir.FloatType(), numba_type.count))


def _define_operator(function, emit):
    class Template(AbstractTemplate):
        def generic(self, args, kwargs):
            if len(args) == 2 and isinstance(args[0], Float32Lanes) and args[0] == args[1]:
                return signature(args[0], *args)
            return None

    infer_global(function)(Template)

    @lower_builtin(function, Float32Lanes, Float32Lanes)
    def lower(context, builder, sig, args):
        return emit(builder, *args)


_define_operator(operator.add, lambda builder, a, b: builder.fadd(a, b))
_define_operator(operator.sub, lambda builder, a, b: builder.fsub(a, b))
_define_operator(operator.mul, lambda builder, a, b: builder.fmul(a, b))
_define_operator(operator.truediv, lambda builder, a, b: builder.fdiv(a, b))


def _address(context, builder, array_type, array, offset, vector=_VECTOR):
    data = context.make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [offset]), vector.as_pointer())


def _define_load(kind):
    @intrinsic
    def load(typing_context, array, offset):
        def emit(context, builder, sig, args):
            vector = context.get_value_type(kind)
            return builder.load(_address(context, builder, sig.args[0], *args, vector), align=4)

        return kind(array, types.intp), emit

    return load


load = _define_load(float32x16)  # array[offset : offset + 16] of a flat float32 array
load_narrow = _define_load(narrow)  # array[offset : offset + NARROW]


@intrinsic
def store(typing_context, array, offset, value):
    """array[offset : offset + lanes] = value."""

    def emit(context, builder, sig, args):
        builder.store(args[2], _address(context, builder, sig.args[0], *args[:2], args[2].type), align=4)
        return context.get_dummy_value()

    return types.void(array, types.intp, value), emit


def _in_all_lanes(builder, value, kind):
    first = builder.insert_element(
        ir.Constant(ir.VectorType(ir.FloatType(), kind.count), ir.Undefined), value, ir.Constant(_INDEX, 0)
    )
    return builder.shuffle_vector(first, first, ir.Constant(ir.VectorType(_INDEX, kind.count), [0] * kind.count))


def _define_splat(kind):
    @intrinsic
    def splat(typing_context, value):
        def emit(context, builder, sig, args):
            return _in_all_lanes(builder, args[0], kind)

        return kind(types.float32), emit

    return splat


splat = _define_splat(float32x16)  # the scalar in all lanes
splat_narrow = _define_splat(narrow)


def _define_spread(kind):
    @intrinsic
    def spread(typing_context, array, offset):
        def emit(context, builder, sig, args):
            data = context.make_array(sig.args[0])(context, builder, args[0]).data
            return _in_all_lanes(builder, builder.load(builder.gep(data, [args[1]]), align=4), kind)

        return kind(array, types.intp), emit

    return spread


# array[offset] in all lanes. Unlike splat(array[offset]) they do not ask whether the offset is negative.
spread = _define_spread(float32x16)
spread_narrow = _define_spread(narrow)


def _call(builder, name, result, args):
    function_type = ir.FunctionType(result, [arg.type for arg in args])
    return builder.call(cgutils.get_or_insert_function(builder.module, function_type, name), args)


@intrinsic
def fma(typing_context, a, b, c):
    """a * b + c, rounded once."""

    def emit(context, builder, sig, args):
        return _call(builder, f"llvm.fma.v{a.count}f32", args[0].type, args)

    return (a(a, a, a), emit) if a == b == c else None


@intrinsic
def negative(typing_context, a):
    """-a."""

    def emit(context, builder, sig, args):
        return builder.fneg(args[0])

    return a(a), emit


@intrinsic
def lanes_up(typing_context):
    """0, 1, ... 15."""

    def emit(context, builder, sig, args):
        return ir.Constant(_VECTOR, [float(lane) for lane in range(LANES)])

    return float32x16(), emit


@intrinsic
def floor(typing_context, a):
    """The largest whole number that is not above a."""

    def emit(context, builder, sig, args):
        return _call(builder, f"llvm.floor.v{LANES}f32", _VECTOR, args)

    return float32x16(float32x16), emit


@intrinsic
def interpolate(typing_context, array, offset, whole, share):
    """left + share (right - left) with left = array[offset + whole], right = array[offset + whole + 1] in each lane."""

    def emit(context, builder, sig, args):
        array, offset, whole, share = args
        long, double = ir.IntType(64), ir.VectorType(ir.IntType(64), LANES)
        start = builder.gep(context.make_array(sig.args[0])(context, builder, array).data, [offset])
        numbers = builder.fptosi(whole, ir.VectorType(_INDEX, LANES))
        pairs = ir.Constant(double, ir.Undefined)
        for lane in range(LANES):  # a pair of neighbours is one load of 64 bits, which beats two hardware gathers
            position = ir.Constant(_INDEX, lane)
            number = builder.sext(builder.extract_element(numbers, position), long)
            address = builder.bitcast(builder.gep(start, [number]), long.as_pointer())
            pairs = builder.insert_element(pairs, builder.load(address, align=4), position)
        floats = builder.bitcast(pairs, ir.VectorType(ir.FloatType(), 2 * LANES))
        left, right = (
            builder.shuffle_vector(
                floats,
                ir.Constant(floats.type, ir.Undefined),
                ir.Constant(ir.VectorType(_INDEX, LANES), list(range(side, 2 * LANES, 2))),
            )
            for side in (0, 1)
        )
        return _call(builder, f"llvm.fma.v{LANES}f32", _VECTOR, [share, builder.fsub(right, left), left])

    return float32x16(array, types.intp, float32x16, float32x16), emit


@intrinsic
def absolute(typing_context, a):
    """|a|."""

    def emit(context, builder, sig, args):
        return _call(builder, f"llvm.fabs.v{LANES}f32", _VECTOR, args)

    return float32x16(float32x16), emit


def _define_selection(comparison):
    @intrinsic
    def select(typing_context, a, b):
        def emit(context, builder, sig, args):
            return builder.select(builder.fcmp_ordered(comparison, *args), *args)

        return float32x16(float32x16, float32x16), emit

    return select


minimum = _define_selection("<")
maximum = _define_selection(">")


@intrinsic
def where_below(typing_context, a, b, x, y):
    """x in the lanes where a < b, else y."""

    def emit(context, builder, sig, args):
        return builder.select(builder.fcmp_ordered("<", args[0], args[1]), args[2], args[3])

    return float32x16(float32x16, float32x16, float32x16, float32x16), emit


@intrinsic
def lane_sum(typing_context, a):
    """The sum of the 16 lanes, added pairwise."""

    def emit(context, builder, sig, args):
        value, width = args[0], LANES
        while width > 1:
            width //= 2
            halves = [
                builder.shuffle_vector(
                    value,
                    ir.Constant(value.type, ir.Undefined),
                    ir.Constant(ir.VectorType(_INDEX, width), list(range(start, start + width))),
                )
                for start in (0, width)
            ]
            value = builder.fadd(*halves)
        return builder.extract_element(value, ir.Constant(_INDEX, 0))

    return types.float32(float32x16), emit


def _shuffled(builder, a, b, lanes):
    """The lanes of a (0 ..) and b (LANES ..) by number."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(_INDEX, LANES), lanes))


def _rows(context, builder, array_type, array, offset, pitch):
    """Addresses of 16 vectors, `pitch` floats apart."""
    places = [builder.add(offset, builder.mul(pitch, ir.Constant(pitch.type, row))) for row in range(LANES)]
    return [_address(context, builder, array_type, array, place) for place in places]


@intrinsic
def lane_sums(typing_context, array, offset):
    """Lane i is the `lane_sum` of array[offset + 16 i : offset + 16 i + 16], added in the same order."""

    def emit(context, builder, sig, args):
        pitch = ir.Constant(args[1].type, LANES)
        vectors = [builder.load(address, align=4) for address in _rows(context, builder, sig.args[0], *args, pitch)]
        width = LANES
        while width > 1:
            half = width // 2
            left = [lane for lane in range(2 * LANES) if lane % width < half]
            right = [lane for lane in range(2 * LANES) if lane % width >= half]
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [builder.fadd(_shuffled(builder, *p, left), _shuffled(builder, *p, right)) for p in pairs]
            width = half
        return vectors[0]

    return float32x16(array, types.intp), emit


@intrinsic
def transpose(typing_context, source, first, target, to, pitch):
    """target[to + i pitch + k] = source[first + k pitch + i] for i, k < 16."""

    def emit(context, builder, sig, args):
        source, first, target, to, pitch = args
        rows = [builder.load(a, align=4) for a in _rows(context, builder, sig.args[0], source, first, pitch)]
        side = LANES // 2
        while side:  # swap the off-diagonal blocks of this side
            low = [lane if not lane & side else lane - side + LANES for lane in range(LANES)]
            high = [lane + side if not lane & side else lane + LANES for lane in range(LANES)]
            for i in (row for row in range(LANES) if not row & side):
                a, b = rows[i], rows[i + side]
                rows[i], rows[i + side] = _shuffled(builder, a, b, low), _shuffled(builder, a, b, high)
            side //= 2
        for row, address in zip(rows, _rows(context, builder, sig.args[2], target, to, pitch), strict=True):
            builder.store(row, address, align=4)
        return context.get_dummy_value()

    return types.void(source, types.intp, target, types.intp, types.intp), emit


SATURATION = 30.0  # masks below 1e-13 act like 0, but their products would be denormal numbers, which are slow
_LOG2_E = 1.4426950408889634
# exp2 on [-1/2, 1/2]: the Taylor coefficients ln(2)^n / n!, relative error below 2e-7
_EXP2 = [1.0, 0.6931471805599453, 0.2402265069591007, 0.05550410866482158, 0.009618129107628477, 0.0013333558146428443,
         0.00015403530393381608]  # fmt: skip


@intrinsic
def sigmoid(typing_context, a):
    """1 / (1 + exp(-a)), relative error below 1e-6; saturates beyond |a| = SATURATION."""

    def emit(context, builder, sig, args):
        def constant(value):
            return ir.Constant(_VECTOR, [value] * LANES)

        def clip(value, comparison, limit):
            return builder.select(builder.fcmp_ordered(comparison, value, constant(limit)), value, constant(limit))

        limited = clip(clip(args[0], ">", -SATURATION), "<", SATURATION)
        power = builder.fmul(limited, constant(-_LOG2_E))
        whole = _call(builder, f"llvm.rint.v{LANES}f32", _VECTOR, [power])
        rest = builder.fsub(power, whole)
        value = constant(_EXP2[-1])
        for coefficient in reversed(_EXP2[:-1]):
            value = _call(builder, f"llvm.fma.v{LANES}f32", _VECTOR, [value, rest, constant(coefficient)])
        integers = ir.VectorType(_INDEX, LANES)
        exponent = builder.shl(builder.fptosi(whole, integers), ir.Constant(integers, [23] * LANES))
        exponential = builder.bitcast(builder.add(builder.bitcast(value, integers), exponent), _VECTOR)
        return builder.fdiv(constant(1.0), builder.fadd(constant(1.0), exponential))

    return float32x16(float32x16), emit
