// Answers the calls that GCC makes for every access to memory under -fsanitize=thread (the library of that sanitizer is not
// linked), and decides for each:
//   bounds, alignment   it lies in one buffer of the launch, shared memory, constants or the thread's own stack
//   initialised         nothing is read that was not written by the host or a kernel; in shared memory, by this block
//   race                of two threads at one place, one writing, one comes before the other (order.hpp)
#include <cstdlib>
#include <string>

#include "checker.hpp"
#include "order.hpp"
#include "profile.hpp"
#include "state.hpp"

namespace cuda_emulator {

enum class Kind { read, write, atomic };

// What is remembered of a few bytes: the latest write and read, and whether others are not ordered before those.
struct Cell {
    Moment write;
    Moment read;
    uint32_t read_lanes;  // of the warp of read.thread, since when no order is known between them
    bool write_was_atomic;
    bool other_warps_read;    // in the epoch of `read`
    bool other_blocks_read;   // in this launch
    bool other_warps_added;   // atomics in the epoch of `write`
    bool other_blocks_added;  // atomics in this launch
    bool copy_pending;        // cp.async has not arrived
};

struct Region {
    std::string name;
    uintptr_t begin = 0;
    uintptr_t end = 0;
    bool is_shared = false;
    unsigned char* written = nullptr;  // global memory: one byte per byte, kept by the host between launches
    Cell* cells = nullptr;
    unsigned granule = 4;  // bytes per cell; less after the first smaller access
};

static std::vector<Region> buffers;
static Region static_region;
static Region dynamic_region;

// ------------------------------------------------------------------------------------------------------------- regions
static size_t cell_count(const Region& region) { return (region.end - region.begin) / region.granule + 1; }

static void make_cells(Region& region) {
    region.granule = 4;
    region.cells = static_cast<Cell*>(std::calloc(cell_count(region), sizeof(Cell)));  // zero pages until touched
}

static void drop_cells(Region& region) {
    std::free(region.cells);
    region.cells = nullptr;
}

static void make_shared_region(Region& region, const char* name, Span span) {
    region.name = name;
    region.begin = span.begin;
    region.end = span.end;
    region.is_shared = true;
    make_cells(region);
}

static void refine(Region& region, unsigned granule) {
    Cell* coarse = region.cells;
    unsigned parts = region.granule / granule;
    region.granule = granule;
    region.cells = static_cast<Cell*>(std::calloc(cell_count(region), sizeof(Cell)));
    for (size_t i = 0; i < cell_count(region); i++) region.cells[i] = coarse[i / parts];
    std::free(coarse);
}

static Region* find_buffer(uintptr_t address) {
    static size_t latest = 0;
    if (latest < buffers.size() && address - buffers[latest].begin < buffers[latest].end - buffers[latest].begin) {
        return &buffers[latest];
    }
    for (size_t i = 0; i < buffers.size(); i++) {
        if (address - buffers[i].begin >= buffers[i].end - buffers[i].begin) continue;
        latest = i;
        return &buffers[i];
    }
    return nullptr;
}

// ------------------------------------------------------------------------------------------------------------ messages
static const char* name_of(Kind kind) {
    switch (kind) {
        case Kind::read: return "read";
        case Kind::write: return "write";
        default: return "atomic";
    }
}

static std::string bytes_of(unsigned bytes, Kind kind) { return std::to_string(bytes) + "-byte " + name_of(kind); }

static std::string offset_in(const Region& region, uintptr_t address) {
    return region.name + " + " + std::to_string(address - region.begin) + " bytes";
}

static std::string describe_outside(uintptr_t address) {
    constexpr uintptr_t NEAR = 4096;
    const Region* nearest = nullptr;
    uintptr_t distance = NEAR;
    bool past_end = false;
    auto consider = [&](const Region& region) {
        if (address >= region.end && address - region.end < distance) {
            nearest = &region;
            distance = address - region.end;
            past_end = true;
        }
        if (address < region.begin && region.begin - address < distance) {
            nearest = &region;
            distance = region.begin - address;
            past_end = false;
        }
    };
    for (const Region& region : buffers) consider(region);
    consider(static_region);
    consider(dynamic_region);
    if (!nearest) return "no memory of this launch";
    return std::to_string(distance) + " bytes " + (past_end ? "past the end of " : "before ") + nearest->name;
}

static std::string describe_other(const Moment& moment) {
    if (!in_this_block(moment)) return "another block";
    if (moment.thread == current->number) return "several threads";  // this one is only the latest of them
    const uint3& index = threads[moment.thread].index;
    return "thread (" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

[[noreturn]] static void report_race(const char* later, const char* earlier, const Moment& moment, const Region& region,
                                     uintptr_t address, uintptr_t code) {
    fail_in_code(std::string("race: ") + later + " after " + earlier + " by " + describe_other(moment) + " at " +
                     offset_in(region, address),
                 code);
}

// --------------------------------------------------------------------------------------------------------------- races
static bool writes_come_before_now(const Cell& cell, uintptr_t address) {
    if (!in_this_launch(cell.write)) return true;
    bool other_blocks = !in_this_block(cell.write) || cell.other_blocks_added;
    if (cell.write_was_atomic && other_blocks) return counter_is_final(address);
    if (in_this_epoch(cell.write) && cell.other_warps_added) return false;
    return comes_before_now(cell.write);
}

static void check_against_writes(const Cell& cell, Kind kind, const Region& region, uintptr_t address, uintptr_t code) {
    if (kind == Kind::atomic && cell.write_was_atomic) return;
    if (writes_come_before_now(cell, address)) return;
    const char* earlier = cell.write_was_atomic ? "atomic" : "write";
    report_race(name_of(kind), earlier, cell.write, region, address, code);
}

static void check_against_reads(const Cell& cell, Kind kind, const Region& region, uintptr_t address, uintptr_t code) {
    bool unordered;
    if (!in_this_launch(cell.read)) {
        return;
    } else if (!in_this_epoch(cell.read)) {
        unordered = !comes_before_now(cell.read) || cell.other_blocks_read;
    } else if (cell.other_warps_read || cell.other_blocks_read) {
        unordered = true;
    } else if (cell.read.thread / WARP != current->warp) {
        unordered = true;
    } else {
        unordered = lanes_not_before_now(cell.read, cell.read_lanes) != 0;
    }
    if (unordered) report_race(name_of(kind), "read", cell.read, region, address, code);
}

static void remember_write(Cell& cell, Kind kind) {
    bool is_atomic = kind == Kind::atomic;
    if (is_atomic && cell.write_was_atomic && in_this_launch(cell.write)) {
        if (!in_this_block(cell.write)) cell.other_blocks_added = true;
        bool same_epoch = in_this_epoch(cell.write);
        cell.other_warps_added = same_epoch && (cell.other_warps_added || !comes_before_now(cell.write));
    } else {
        cell.other_warps_added = false;
        cell.other_blocks_added = false;
    }
    cell.write = now();
    cell.write_was_atomic = is_atomic;
    cell.copy_pending = false;
}

static void remember_read(Cell& cell) {
    Moment moment = now();
    uint32_t my_lane = 1u << current->lane;
    if (!in_this_launch(cell.read)) {
        cell.other_blocks_read = false;
    } else if (!in_this_block(cell.read) && !comes_before_now(cell.read)) {
        cell.other_blocks_read = true;
    }
    if (cell.read.epoch != moment.epoch) {
        cell.other_warps_read = false;
        cell.read_lanes = my_lane;
    } else if (cell.read.thread / WARP != current->warp) {
        cell.other_warps_read = true;
        cell.read_lanes = my_lane;
    } else {
        cell.read_lanes = lanes_not_before_now(cell.read, cell.read_lanes) | my_lane;
    }
    cell.read = moment;
}

// Cells of shared memory belong to one block: what an earlier one did is forgotten.
static void forget_earlier_block(Cell& cell) {
    bool stale = (cell.write.epoch && !in_this_block(cell.write)) || (cell.read.epoch && !in_this_block(cell.read));
    if (stale) cell = Cell{};
}

static void check_cell(Cell& cell, Kind kind, const Region& region, uintptr_t address, uintptr_t code) {
    if (region.is_shared) forget_earlier_block(cell);
    if (cell.copy_pending) {
        fail_in_code(std::string("cp.async: ") + name_of(kind) + " before its target has arrived (no wait), at " +
                         offset_in(region, address),
                     code);
    }
    bool uninitialised = region.is_shared && kind != Kind::write && cell.write.epoch == 0;
    if (uninitialised) fail_in_code("uninitialised: read of " + offset_in(region, address), code);
    check_against_writes(cell, kind, region, address, code);
    if (kind != Kind::read) check_against_reads(cell, kind, region, address, code);
    if (kind != Kind::read) remember_write(cell, kind);
    if (kind == Kind::read) remember_read(cell);
}

// ------------------------------------------------------------------------------------------------------------- accesses
static void check_initialised(const Region& region, uintptr_t address, unsigned bytes, Kind kind, uintptr_t code) {
    unsigned char* written = region.written + (address - region.begin);
    for (unsigned i = 0; i < bytes; i++) {
        if (kind != Kind::write && !written[i]) {
            fail_in_code("uninitialised: read of " + offset_in(region, address), code);
        }
        if (kind != Kind::read) written[i] = 1;
    }
}

static bool is_power_of_two(unsigned n) { return (n & (n - 1)) == 0; }

// The buffer or shared memory that holds the address; null for memory that needs no check.
static Region* region_of(uintptr_t address, unsigned bytes, Kind kind, uintptr_t code) {
    if (in_library(address)) {  // constants, and variables of the emulator such as threadIdx
        if (address >= static_region.begin && address < static_region.end) return &static_region;
        if (kind == Kind::read) return nullptr;
        fail_in_code("write to a constant, or to a variable outside of all kernels", code);
    }
    if (address >= dynamic_region.begin && address < dynamic_region.end) return &dynamic_region;
    Region* region = find_buffer(address);
    if (!region) fail_in_code("out of bounds: " + bytes_of(bytes, kind) + ", " + describe_outside(address), code);
    return region;
}

static Region* check_place(uintptr_t address, unsigned bytes, Kind kind, uintptr_t code) {
    Region* region = region_of(address, bytes, kind, code);
    if (!region) return nullptr;
    if (address + bytes > region->end) {
        fail_in_code("out of bounds: " + bytes_of(bytes, kind) + " across the end of " + region->name, code);
    }
    constexpr unsigned WIDEST = 16;
    if (bytes <= WIDEST && is_power_of_two(bytes) && address % bytes) {
        fail_in_code("misaligned: " + bytes_of(bytes, kind) + " at " + offset_in(*region, address), code);
    }
    return region;
}

static void access(uintptr_t address, unsigned bytes, Kind kind, uintptr_t code) {
    if (!current || bytes == 0 || on_stack(current->fiber, address)) return;
    Region* region = check_place(address, bytes, kind, code);
    if (!region) return;
    if (!region->is_shared) check_initialised(*region, address, bytes, kind, code);
    while (region->granule > bytes || (address - region->begin) % region->granule) refine(*region, region->granule / 2);
    uintptr_t first = address - region->begin;
    for (uintptr_t offset = first; offset < first + bytes; offset += region->granule) {
        check_cell(region->cells[offset / region->granule], kind, *region, region->begin + offset, code);
    }
    if (kind != Kind::atomic) profile_sees(code, address, bytes, kind == Kind::write, region->is_shared);
}

static uintptr_t number(const void* pointer) { return reinterpret_cast<uintptr_t>(pointer); }

void checker_sees_read(const void* address, unsigned bytes, const void* code) {
    access(number(address), bytes, Kind::read, number(code));
}

void checker_sees_write(void* address, unsigned bytes, const void* code) {
    access(number(address), bytes, Kind::write, number(code));
}

void checker_sees_atomic(void* address, unsigned bytes, const void* code) {
    access(number(address), bytes, Kind::atomic, number(code));
    order_passes_atomic(number(address));
}

void checker_sees_copy_begin(void* shared, unsigned bytes, const void* code) {
    access(number(shared), bytes, Kind::write, number(code));
    Region* region = region_of(number(shared), bytes, Kind::write, number(code));
    size_t first = (number(shared) - region->begin) / region->granule;
    for (size_t i = 0; i < bytes / region->granule; i++) region->cells[first + i].copy_pending = true;
}

void checker_sees_copy_end(void* shared, unsigned bytes, const void* code) {
    Region* region = region_of(number(shared), bytes, Kind::write, number(code));
    size_t first = (number(shared) - region->begin) / region->granule;
    for (size_t i = 0; i < bytes / region->granule; i++) {
        Cell& cell = region->cells[first + i];
        cell.copy_pending = false;
        check_cell(cell, Kind::write, *region, number(shared) + i * region->granule, number(code));
    }
}

// -------------------------------------------------------------------------------------------------------------- events
void checker_begins_launch() {
    order_begins_launch();
    make_shared_region(static_region, "static shared memory", static_shared());
    make_shared_region(dynamic_region, "dynamic shared memory", dynamic_shared_span());
    for (Region& region : buffers) make_cells(region);
    profile_begins_launch();
}

void checker_begins_block() { order_begins_block(); }

void checker_passes_barrier() {
    order_passes_barrier();
    profile_adds_up();
}

void checker_passes_warp_barrier(unsigned warp, uint32_t mask) { order_passes_warp_barrier(warp, mask); }

void checker_passes_fence() { order_passes_fence(); }

void checker_ends_block() { profile_adds_up(); }

void checker_ends_launch() {
    drop_cells(static_region);
    drop_cells(dynamic_region);
    for (Region& region : buffers) drop_cells(region);
}

}  // namespace cuda_emulator

// ---------------------------------------------------------------------------------------------- called through ctypes
#define EXPORTED extern "C" __attribute__((visibility("default")))

// The buffers of the next launches. `written` has one byte per byte of the buffer.
EXPORTED void emulator_add_buffer(void* memory, size_t bytes, unsigned char* written, const char* name) {
    cuda_emulator::Region region;
    region.name = name;
    region.begin = reinterpret_cast<uintptr_t>(memory);
    region.end = region.begin + bytes;
    region.written = written;
    cuda_emulator::buffers.push_back(region);
}

EXPORTED void emulator_forget_buffers() { cuda_emulator::buffers.clear(); }

// --------------------------------------------------------------------------------------------- called by instrumentation
#define HOOK extern "C" __attribute__((visibility("hidden")))
#define ACCESS(address, bytes, kind)                                                     \
    cuda_emulator::access(reinterpret_cast<uintptr_t>(address), bytes, cuda_emulator::Kind::kind, \
                          reinterpret_cast<uintptr_t>(__builtin_return_address(0)))
#define HOOKS_OF_SIZE(bytes)                                                              \
    HOOK void __tsan_read##bytes(void* address) { ACCESS(address, bytes, read); }            \
    HOOK void __tsan_write##bytes(void* address) { ACCESS(address, bytes, write); }          \
    HOOK void __tsan_unaligned_read##bytes(void* address) { ACCESS(address, bytes, read); }  \
    HOOK void __tsan_unaligned_write##bytes(void* address) { ACCESS(address, bytes, write); }

HOOKS_OF_SIZE(1)
HOOKS_OF_SIZE(2)
HOOKS_OF_SIZE(4)
HOOKS_OF_SIZE(8)
HOOKS_OF_SIZE(16)
HOOK void __tsan_read_range(void* address, size_t bytes) { ACCESS(address, static_cast<unsigned>(bytes), read); }
HOOK void __tsan_write_range(void* address, size_t bytes) { ACCESS(address, static_cast<unsigned>(bytes), write); }
HOOK void __tsan_init() {}
HOOK void __tsan_func_entry(void*) {}
HOOK void __tsan_func_exit() {}
