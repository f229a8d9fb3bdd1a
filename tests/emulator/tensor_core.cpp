// mma.sync and ldmatrix, by the register layouts of the PTX manual (device.cuh repeats them). Sums are made in float, in the
// order of k; a tensor core keeps fewer bits of each product's alignment, so last digits differ.
#include <cstring>

#include "checker.hpp"
#include "state.hpp"

namespace cuda_emulator {

constexpr unsigned ROWS = 16;
constexpr unsigned COLUMNS = 8;
constexpr uint32_t TF32_BITS = 0xffffe000u;  // a tensor core ignores the others

struct Fragments {
    uint32_t a[4];
    uint32_t b[2];
    float d[4];
};

static float from_bits(uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

template <unsigned DEPTH>
struct Tile {
    float a[ROWS][DEPTH];
    float b[DEPTH][COLUMNS];
};

static void unpack_tf32(Tile<8>& tile, const Fragments& fragments, unsigned group, unsigned quad) {
    for (unsigned i = 0; i < 4; i++) tile.a[group + 8 * (i % 2)][quad + 4 * (i / 2)] = from_bits(fragments.a[i] & TF32_BITS);
    for (unsigned i = 0; i < 2; i++) tile.b[quad + 4 * i][group] = from_bits(fragments.b[i] & TF32_BITS);
}

static void unpack_bf16(Tile<16>& tile, const Fragments& fragments, unsigned group, unsigned quad) {
    for (unsigned half = 0; half < 2; half++) {
        unsigned shift = half ? 0 : 16;  // a bfloat16 is the upper half of a float
        for (unsigned i = 0; i < 4; i++) {
            float value = from_bits(fragments.a[i] << shift & 0xffff0000u);
            tile.a[group + 8 * (i % 2)][2 * quad + 8 * (i / 2) + half] = value;
        }
        for (unsigned i = 0; i < 2; i++) {
            tile.b[2 * quad + 8 * i + half][group] = from_bits(fragments.b[i] << shift & 0xffff0000u);
        }
    }
}

template <unsigned DEPTH, void (*UNPACK)(Tile<DEPTH>&, const Fragments&, unsigned, unsigned)>
static void multiply(Meeting& meeting) {
    Tile<DEPTH> tile;
    Fragments fragments[WARP];
    for (unsigned lane = 0; lane < WARP; lane++) {
        std::memcpy(&fragments[lane], meeting.brought[lane], sizeof(Fragments));
        UNPACK(tile, fragments[lane], lane / 4, lane % 4);
    }
    float product[ROWS][COLUMNS] = {};
    for (unsigned row = 0; row < ROWS; row++) {
        for (unsigned k = 0; k < DEPTH; k++) {
            for (unsigned column = 0; column < COLUMNS; column++) {
                product[row][column] += tile.a[row][k] * tile.b[k][column];
            }
        }
    }
    for (unsigned lane = 0; lane < WARP; lane++) {
        for (unsigned i = 0; i < 4; i++) fragments[lane].d[i] += product[lane / 4 + 8 * (i / 2)][2 * (lane % 4) + i % 2];
        std::memcpy(meeting.brought[lane], &fragments[lane], sizeof(Fragments));
    }
}

static void multiply_add(float* d, const uint32_t* a, const uint32_t* b, const char* name, Where where,
                         void (*finish)(Meeting&)) {
    Fragments fragments;
    static_assert(sizeof fragments <= sizeof(Meeting::brought[0]));
    std::memcpy(fragments.a, a, sizeof fragments.a);
    std::memcpy(fragments.b, b, sizeof fragments.b);
    std::memcpy(fragments.d, d, sizeof fragments.d);
    Meeting* meeting;
    meet(meeting, ALL_LANES, name, &fragments, sizeof fragments, where, finish);
    std::memcpy(&fragments, meeting->brought[current->lane], sizeof fragments);
    std::memcpy(d, fragments.d, sizeof fragments.d);
    depart(meeting);
}

void mma_tf32(float* d, const uint32_t* a, const uint32_t* b, Where where) {
    multiply_add(d, a, b, "mma m16n8k8 tf32", where, multiply<8, unpack_tf32>);
}

void mma_bf16(float* d, const uint32_t* a, const uint32_t* b, Where where) {
    multiply_add(d, a, b, "mma m16n8k16 bf16", where, multiply<16, unpack_bf16>);
}

void load_matrices(uint32_t* result, unsigned matrices, bool transposed, const void* row, Where where) {
    constexpr unsigned ROW_BYTES = 16;
    unsigned char brought[ROW_BYTES] = {};
    if (current->lane < 8 * matrices) {
        uintptr_t address = reinterpret_cast<uintptr_t>(row);
        if (address % ROW_BYTES) fail("misaligned ldmatrix: a row starts at a multiple of 16 bytes", where);
        if (!static_shared().holds(address, ROW_BYTES) && !dynamic_shared_span().holds(address, ROW_BYTES)) {
            fail("out of bounds: ldmatrix does not read from shared memory", where);
        }
        checker_sees_read(row, ROW_BYTES, __builtin_return_address(0));
        std::memcpy(brought, row, ROW_BYTES);
    }
    Meeting* meeting;
    meet(meeting, ALL_LANES, transposed ? "ldmatrix.trans" : "ldmatrix", brought, ROW_BYTES, where);
    unsigned group = current->lane / 4;
    unsigned quad = current->lane % 4;
    for (unsigned matrix = 0; matrix < matrices; matrix++) {
        uint16_t pair[2];
        for (unsigned i = 0; i < 2; i++) {
            unsigned from_row = transposed ? 2 * quad + i : group;
            unsigned from_column = transposed ? group : 2 * quad + i;
            std::memcpy(&pair[i], meeting->brought[8 * matrix + from_row] + 2 * from_column, sizeof pair[i]);
        }
        std::memcpy(&result[matrix], pair, sizeof pair);
    }
    depart(meeting);
}

}  // namespace cuda_emulator
