"""The gates for real GPUs: what compiles, what a kernel needs, what its machine code is
made of, how much of it fits.
"""

import textwrap

import pytest
from emulator import compile as compiling
from emulator.compile import (
    ARCHITECTURES,
    CompileError,
    Resources,
    SpillError,
    compile_cubin,
    compilers,
    parse_resources,
)
from emulator.occupancy import GPUS, occupancy
from emulator.samples import HERE, sample_source
from emulator.sass import DisassemblyError, count_instructions, format_sass, parse_sass, read_sass
from emulator.tools import find_tool

from safi_fast.bindings.module import KERNELS, inline_headers

STANDARD = ("-std=c++17",)

needs_compiler = pytest.mark.skipif(not compilers(), reason="needs nvcc, or pip install nvidia-cuda-nvrtc")
needs_disassembler = pytest.mark.skipif(not find_tool("nvdisasm"), reason="needs pip install nvidia-cuda-nvdisasm")


# ------------------------------------------------------------------------------------------------------------ compiling
@needs_compiler
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_samples_compile_without_spills(architecture):
    for compiler in compilers():
        cubin = compile_cubin(sample_source(), STANDARD, architecture=architecture, compiler=compiler)
        assert cubin.code.startswith(b"\x7fELF")
        assert cubin.architecture == architecture
        assert cubin.kernels["reverse"].static_shared >= 4 * 256
        assert cubin.kernels["reverse"].barriers == 1
        assert 0 < cubin.kernels["copy"].registers < cubin.kernels["matmul_bf16"].registers <= 128


@needs_compiler
def test_mistakes_are_valid_cuda():
    assert compile_cubin(inline_headers(HERE / "bugs.cu", (KERNELS,)), STANDARD, spills_allowed=True).kernels


LOCAL_MEMORY = """
    extern "C" __global__ void sort(const float* x, const int* order, float* y) {
        float local[32];
        for (int i = 0; i < 32; i++) local[order[i]] = x[i];
        for (int i = 0; i < 32; i++) y[i] = local[i];
    }
"""


@needs_compiler
def test_local_memory_is_refused():
    for compiler in compilers():
        with pytest.raises(SpillError, match=r"local memory is used on sm_90 by sort: .*stack=128"):
            compile_cubin(LOCAL_MEMORY, STANDARD, compiler=compiler)
        assert compile_cubin(LOCAL_MEMORY, STANDARD, compiler=compiler, spills_allowed=True).kernels["sort"].spills


@needs_compiler
def test_options_reach_the_compiler():
    source = (
        'extern "C" __global__ void f(float* y) { __shared__ float s[SIZE]; s[*(int*)y] = 1; '
        "__syncthreads(); *y = s[1]; }"
    )
    for compiler in compilers():
        cubin = compile_cubin(source, (*STANDARD, "-DSIZE=640"), compiler=compiler)
        assert 4 * 640 <= cubin.kernels["f"].static_shared <= 4 * 640 + 1024
        with pytest.raises(CompileError, match="SIZE"):
            compile_cubin(source, STANDARD, compiler=compiler)


def test_missing_compiler_is_explained(monkeypatch):
    monkeypatch.setattr(compiling, "compilers", lambda: ())
    with pytest.raises(CompileError, match="none of nvcc and nvrtc is here; put nvcc on PATH or `pip install"):
        compile_cubin(LOCAL_MEMORY)
    monkeypatch.setattr(compiling, "compilers", lambda: ("nvcc",))
    with pytest.raises(CompileError, match="compiler='nvrtc': nvcc of nvcc and nvrtc is here"):
        compile_cubin(LOCAL_MEMORY, compiler="nvrtc")


def test_log_of_ptxas_is_read():
    log = """
        ptxas info    : 0 bytes gmem
        ptxas info    : Compiling entry function 'large' for 'sm_90'
        ptxas info    : Function properties for large
            160 bytes stack frame, 24 bytes spill stores, 28 bytes spill loads
        ptxas info    : Used 255 registers, used 1 barriers, 160 bytes cumulative stack size, 4224 bytes smem, 400 bytes cmem[0]
        ptxas info    : Compile time = 12.3 ms
        ptxas info    : Compiling entry function 'small' for 'sm_90'
        ptxas info    : Function properties for small
            0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
        ptxas info    : Used 8 registers, 380 bytes cmem[0]
    """  # noqa: E501 - as ptxas writes it
    assert parse_resources(log) == {
        "large": Resources(255, static_shared=4224, stack=160, spill_stores=24, spill_loads=28, barriers=1),
        "small": Resources(8),
    }


# --------------------------------------------------------------------------------------------------------- machine code
SASS = """
//--------------------- .text.filter              --------------------------
    .section    .text.filter,"ax",@progbits
    .align    128
        .global         filter
        .type           filter,@function
        .size           filter,(.L_x_5 - filter)
        .other          filter,@"STO_CUDA_ENTRY STV_DEFAULT"
filter:
.text.filter:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/                   S2R R11, SR_TID.X ;
        /*0020*/                   LDC.64 R2, c[0x0][0x218] ;
        /*0030*/                   ULDC.64 UR8, c[0x0][0x208] ;
        /*0040*/                   S2UR UR5, SR_CgaCtaId ;
        /*0050*/                   LDC R0, c[0x0][0x228] ;
        /*0060*/                   IMAD.WIDE.U32 R2, R11, 0x4, R2 ;
        /*0070*/                   LDG.E R2, desc[UR8][R2.64] ;
        /*0080*/                   UMOV UR4, 0x400 ;
        /*0090*/                   HFMA2.MMA R9, -RZ, RZ, 0, 0 ;
        /*00a0*/                   ULEA UR5, UR5, UR4, 0x18 ;
        /*00b0*/                   ISETP.GE.AND P0, PT, R0, 0x1, PT ;
        /*00c0*/                   LEA R5, R11, UR5, 0x2 ;
        /*00d0*/                   STS [R5], R2 ;
        /*00e0*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*00f0*/              @!P0 BRA `(.L_x_0) ;
        /*0100*/                   MOV R9, RZ ;
        /*0110*/                   UMOV UR4, URZ ;
.L_x_2:
        /*0120*/                   LDC R0, c[0x0][0x228] ;
        /*0130*/                   LDC.64 R2, c[0x0][0x210] ;
        /*0140*/                   IMAD R5, R0, UR4, R11 ;
        /*0150*/                   IMAD.WIDE.U32 R2, R5, 0x4, R2 ;
        /*0160*/                   LDG.E R2, desc[UR8][R2.64] ;
        /*0170*/                   UIADD3 UR4, UR4, 0x1, URZ ;
        /*0180*/                   UMOV UR6, UR5 ;
        /*0190*/                   ISETP.LE.AND P1, PT, R0, UR4, PT ;
        /*01a0*/                   MOV R0, RZ ;
.L_x_1:
        /*01b0*/                   LDS.128 R4, [UR6] ;
        /*01c0*/                   IADD3 R0, R0, 0x4, RZ ;
        /*01d0*/                   UIADD3 UR6, UR6, 0x10, URZ ;
        /*01e0*/                   ISETP.GE.U32.AND P0, PT, R0, 0x40, PT ;
        /*01f0*/                   FFMA R4, R2, R4, R9 ;
        /*0200*/                   FFMA R5, R2, R5, R4 ;
        /*0210*/                   FFMA R6, R2, R6, R5 ;
        /*0220*/                   FFMA R9, R2, R7, R6 ;
        /*0230*/              @!P0 BRA `(.L_x_1) ;
        /*0240*/              @!P1 BRA `(.L_x_2) ;
.L_x_0:
        /*0250*/                   ULDC.64 UR4, c[0x0][0x220] ;
        /*0260*/                   LEA R2, P0, R11, UR4, 0x2 ;
        /*0270*/                   LEA.HI.X R3, R11, UR5, RZ, 0x2, P0 ;
        /*0280*/                   STG.E desc[UR8][R2.64], R9 ;
.L_x_4:
        /*0290*/                   EXIT ;
.L_x_3:
        /*02a0*/                   BRA `(.L_x_3);
        /*02b0*/                   NOP;
.L_x_5:


//--------------------- SYMBOLS --------------------------
"""


def test_sass_is_read():
    kernel = parse_sass(SASS)["filter"]
    assert len(kernel.instructions) == 42  # without the branch to itself and the padding
    assert kernel.instructions[-1].name == "EXIT"
    assert count_instructions(kernel.instructions) == {
        "FFMA": 4,
        "LDS": 1,
        "LDG": 2,
        "STS": 1,
        "STG": 1,
        "BAR": 1,
        "CONTROL": 4,
        "INTEGER": 13,
        "OTHER": 15,
    }


def test_loops_are_found():
    kernel = parse_sass(SASS)["filter"]
    inner, outer = kernel.loops
    assert (inner.first, inner.last, kernel.depth(inner)) == (0x1B0, 0x230, 1)
    assert (outer.first, outer.last, kernel.depth(outer)) == (0x120, 0x240, 0)
    assert kernel.innermost_loops == (inner,)
    assert count_instructions(inner.instructions) == {"FFMA": 4, "LDS": 1, "INTEGER": 3, "CONTROL": 1}
    assert sum(instruction.flops for instruction in inner.instructions) == 4 * 2 * 32


def test_sass_is_shown():
    assert format_sass(parse_sass(SASS)) == textwrap.dedent("""\
                                        all    FFMA     LDS     STS     LDG     STG     BAR INTEGER CONTROL   OTHER
        filter                           42       4       1       1       2       1       1      13       4      15
          loop 0x0120..0x0240            19       4       1       .       1       .       .       7       2       4
            loop 0x01b0..0x0230           9       4       1       .       .       .       .       3       1       .""")


@needs_compiler
@needs_disassembler
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90", "sm_120"])
def test_tensor_cores_are_used(architecture):
    kernels = read_sass(compile_cubin(sample_source(), STANDARD, architecture=architecture).code)
    assert set(kernels) == set(compile_cubin(sample_source(), STANDARD, architecture=architecture).kernels)
    mix = count_instructions(kernels["matmul_bf16"].instructions)
    assert mix["HMMA"] >= 8
    assert mix["LDSM"] > 0
    assert mix["LDGSTS"] > 0
    tiles = {instruction.flops for instruction in kernels["matmul_bf16"].instructions if instruction.kind == "HMMA"}
    assert tiles == {2 * 16 * 8 * 16}
    tiles = {instruction.flops for instruction in kernels["matmul_tf32"].instructions if instruction.kind == "HMMA"}
    assert tiles == {2 * 16 * 8 * 8}


def test_missing_disassembler_is_explained(monkeypatch):
    monkeypatch.setattr("emulator.sass.find_tool", lambda name: None)
    with pytest.raises(DisassemblyError, match="pip install nvidia-cuda-nvdisasm"):
        read_sass(b"")


# ------------------------------------------------------------------------------------------------------------ occupancy
@pytest.mark.parametrize(
    ("gpu", "threads", "registers", "shared", "blocks", "limit"),
    [
        ("A100", 256, 32, 0, 8, "threads"),
        ("A100", 256, 33, 0, 6, "registers"),
        ("A100", 32, 32, 0, 32, "blocks"),
        ("H100", 128, 64, 100 * 1024, 2, "shared"),
        ("H100", 360, 182, 2163, 0, "registers"),
        ("H100", 82, 191, 2284, 2, "registers"),
        ("RTX 4090", 256, 40, 16 * 1024, 5, "shared"),
        ("RTX 4090", 256, 40, 12 * 1024, 6, "threads"),
    ],
)
def test_occupancy(gpu, threads, registers, shared, blocks, limit):
    (chosen,) = (candidate for candidate in GPUS if candidate.name == gpu)
    result = occupancy(chosen, threads=threads, registers=registers, shared=shared)
    assert (result.blocks, result.limit) == (blocks, limit)
    assert result.warps == blocks * -(-threads // 32)
    assert result.share == result.warps * 32 / chosen.threads


def test_impossible_blocks_are_refused():
    with pytest.raises(ValueError, match="threads=1025; expected 1 to 1024"):
        occupancy(GPUS[0], threads=1025, registers=32, shared=0)
    with pytest.raises(ValueError, match="shared=200000; expected 0 to 166912 on A100"):
        occupancy(GPUS[0], threads=128, registers=32, shared=200_000)
