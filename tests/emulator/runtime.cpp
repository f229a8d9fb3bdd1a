// The scheduler: runs a launch block by block, a block warp by warp, each thread as a fiber until it waits or returns.
#include "interface.hpp"

#include <xmmintrin.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <memory>
#include <numeric>

#include "checker.hpp"
#include "state.hpp"

#if defined(__SANITIZE_ADDRESS__)
#define NOT_SANITIZED __attribute__((no_sanitize("address"), noinline))
#else
#define NOT_SANITIZED
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// Set by the linker: the ends of the shared variables (shared.ld) and of the whole library.
extern "C" {
extern char cuda_emulator_shared_begin[] __attribute__((visibility("hidden")));
extern char cuda_emulator_shared_end[] __attribute__((visibility("hidden")));
extern char __ehdr_start[] __attribute__((visibility("hidden")));
extern char _end[] __attribute__((visibility("hidden")));
}

namespace cuda_emulator {

constexpr unsigned FLUSH_DENORMALS = 0x8040;  // MXCSR: results and operands; CuPy compiles with -ftz=true

std::vector<Thread> threads;
std::vector<Warp> warps;
Thread* current = nullptr;
Failure failure;

static void (*kernel_entry)(void**);
static void** kernel_arguments;

static std::unique_ptr<unsigned char[]> dynamic_memory;
static size_t dynamic_bytes;

static BlockVote barrier_vote;
static int barrier_result;

// ------------------------------------------------------------------------------------------------------------ failures
std::string text_of(Where where) { return std::string(where.file) + ":" + std::to_string(where.line); }

static std::string text_of(const uint3& index) {
    return "(" + std::to_string(index.x) + ", " + std::to_string(index.y) + ", " + std::to_string(index.z) + ")";
}

void record_failure(const std::string& message, uintptr_t code) {
    if (failure.happened()) return;
    failure.message = message + " [block " + text_of(blockIdx);
    if (current) failure.message += ", thread " + text_of(current->index);
    failure.message += "]";
    failure.code = code ? offset_in_library(code) : 0;
}

bool in_library(uintptr_t address) {
    return offset_in_library(address) < offset_in_library(reinterpret_cast<uintptr_t>(_end));
}

uintptr_t offset_in_library(uintptr_t address) { return address - reinterpret_cast<uintptr_t>(__ehdr_start); }

void fail_in_code(const std::string& message, uintptr_t code) {
    record_failure(message, code);
    leave_for_good(current->fiber);
}

void fail(const char* what, Where where) {
    record_failure(text_of(where) + ": " + what);
    leave_for_good(current->fiber);
}

// ------------------------------------------------------------------------------------------------------- shared memory
Span static_shared() {
    return {reinterpret_cast<uintptr_t>(cuda_emulator_shared_begin),
            reinterpret_cast<uintptr_t>(cuda_emulator_shared_end)};
}

Span dynamic_shared_span() {
    uintptr_t begin = reinterpret_cast<uintptr_t>(dynamic_memory.get());
    return {begin, begin + dynamic_bytes};
}

void* dynamic_shared() { return dynamic_memory.get(); }

// Between the variables lie red zones of AddressSanitizer, which an instrumented loop or memset may not touch.
NOT_SANITIZED static void poison_shared() {
    volatile char* end = cuda_emulator_shared_end;
    for (volatile char* byte = cuda_emulator_shared_begin; byte < end; byte++) *byte = static_cast<char>(POISON);
    std::memset(dynamic_memory.get(), POISON, dynamic_bytes);
}

// -------------------------------------------------------------------------------------------------------------- threads
static void thread_body() {
    entered();
    kernel_entry(kernel_arguments);
    current->status = Status::exited;
    leave_for_good(current->fiber);
}

static void run(Thread& thread) {
    if (!thread.fiber.stack) start(thread.fiber, thread_body);
    current = &thread;
    threadIdx = thread.index;
    resume(thread.fiber);
    current = nullptr;
    if (thread.status == Status::exited) recycle(thread.fiber);
}

void wait(Status status, Where where) {
    current->status = status;
    current->waiting_at = where;
    leave(current->fiber);
}

unsigned lane() { return current->lane; }

void copy_argument(void* value, void** arguments, size_t number, size_t bytes) {
    std::memcpy(value, arguments[number], bytes);
}

int block_barrier(bool predicate, BlockVote vote, Where where) {
    current->predicate = predicate;
    barrier_vote = vote;
    wait(Status::at_barrier, where);
    return barrier_result;
}

// --------------------------------------------------------------------------------------------------------------- order
class Random {
public:
    void seed(uint64_t seed) { state_ = seed * 0x9e3779b97f4a7c15ull | 1; }
    uint64_t below(uint64_t limit) {
        state_ ^= state_ << 13;
        state_ ^= state_ >> 7;
        state_ ^= state_ << 17;
        return state_ % limit;
    }
    template <class Iterator>
    void shuffle(Iterator first, Iterator last) {
        for (auto count = last - first; count > 1; count--) std::swap(first[count - 1], first[below(count)]);
    }

private:
    uint64_t state_ = 1;
};

static Random random_source;
static bool shuffled;  // seed 0 keeps blocks, warps and lanes in their order
static std::vector<unsigned> warp_order;
static std::vector<unsigned> thread_order;  // lanes of warp w at 32 w ...

static void reset_order() {
    warp_order.resize(warps.size());
    std::iota(warp_order.begin(), warp_order.end(), 0);
    thread_order.resize(threads.size());
    std::iota(thread_order.begin(), thread_order.end(), 0);
}

static size_t first_of(unsigned warp) { return size_t{warp} * WARP; }
static size_t end_of(unsigned warp) { return std::min(threads.size(), first_of(warp + 1)); }

static void shuffle_order() {
    random_source.shuffle(warp_order.begin(), warp_order.end());
    for (unsigned warp = 0; warp < warps.size(); warp++) {
        random_source.shuffle(thread_order.begin() + first_of(warp), thread_order.begin() + end_of(warp));
    }
}

// Visits all blocks once, starting anywhere, in steps that have no common divisor with their number.
struct BlockOrder {
    uint64_t count, first = 0, step = 1;

    explicit BlockOrder(uint64_t blocks) : count(blocks) {
        if (!shuffled) return;
        first = random_source.below(count);
        step = random_source.below(count) | 1;
        while (std::gcd(step, count) != 1) step += 2;
    }
    uint64_t at(uint64_t i) const { return (first + i * step) % count; }
};

// --------------------------------------------------------------------------------------------------------------- block
// Runs every thread until it waits at a barrier of the block, waits in vain in a warp operation, or has returned.
static bool run_until_all_wait() {
    if (shuffled) shuffle_order();
    for (unsigned warp : warp_order) {
        for (bool progress = true; progress;) {
            progress = false;
            for (size_t i = first_of(warp); i < end_of(warp); i++) {
                Thread& thread = threads[thread_order[i]];
                if (thread.status != Status::ready) continue;
                progress = true;
                run(thread);
                if (failure.happened()) return false;
            }
        }
    }
    return true;
}

static void describe_deadlock(const Thread& stuck) {
    unsigned at_barrier = 0, in_warp = 0, exited = 0;
    for (const Thread& thread : threads) {
        at_barrier += thread.status == Status::at_barrier;
        in_warp += thread.status == Status::in_warp_operation;
        exited += thread.status == Status::exited;
    }
    char counts[160];
    std::snprintf(counts, sizeof counts, "deadlock: %u threads at a barrier, %u in warp operations, %u returned; ",
                  at_barrier, in_warp, exited);
    record_failure(counts + ("thread " + text_of(stuck.index)) + " waits at " + text_of(stuck.waiting_at));
}

// Whether all threads wait at the same barrier; the failure says why not.
static bool barrier_is_complete() {
    const Thread* first = nullptr;
    unsigned exited = 0;
    for (const Thread& thread : threads) {
        if (thread.status == Status::in_warp_operation) {
            describe_deadlock(thread);
            return false;
        }
        if (thread.status == Status::exited) {
            exited++;
            continue;
        }
        if (!first) first = &thread;
        if (thread.waiting_at.line != first->waiting_at.line) {
            record_failure("threads of the block wait at different barriers: " + text_of(first->waiting_at) + " and " +
                           text_of(thread.waiting_at));
            return false;
        }
    }
    if (exited) {
        record_failure(text_of(first->waiting_at) + ": barrier while " + std::to_string(exited) +
                       " threads of the block have returned");
        return false;
    }
    return true;
}

static void release_barrier() {
    unsigned votes = 0;
    for (Thread& thread : threads) {
        votes += thread.predicate;
        thread.status = Status::ready;
    }
    if (barrier_vote == BlockVote::count) barrier_result = votes;
    if (barrier_vote == BlockVote::all) barrier_result = votes == threads.size();
    if (barrier_vote == BlockVote::any) barrier_result = votes > 0;
    checker_passes_barrier();
}

static bool all_exited() {
    return std::all_of(threads.begin(), threads.end(), [](const Thread& t) { return t.status == Status::exited; });
}

static void run_block() {
    for (Warp& warp : warps) warp.meetings.clear();
    for (Thread& thread : threads) {
        thread.status = Status::ready;
        thread.copy_groups.clear();
    }
    poison_shared();
    checker_begins_block();
    while (run_until_all_wait()) {
        if (all_exited()) break;
        if (!barrier_is_complete()) return;
        release_barrier();
    }
    if (!failure.happened()) checker_ends_block();
}

// -------------------------------------------------------------------------------------------------------------- launch
struct Launch {
    void (*entry)(void**);
    void** arguments;
    uint64_t seed;
    double time_limit;  // seconds
    uint32_t grid[3];
    uint32_t block[3];
    uint32_t dynamic_shared_bytes;
};

static void set_up(const Launch& launch) {
    failure = Failure{};
    kernel_entry = launch.entry;
    kernel_arguments = launch.arguments;
    shuffled = launch.seed != 0;
    random_source.seed(launch.seed);
    gridDim = {launch.grid[0], launch.grid[1], launch.grid[2]};
    blockDim = {launch.block[0], launch.block[1], launch.block[2]};

    dynamic_bytes = launch.dynamic_shared_bytes;
    dynamic_memory.reset(new unsigned char[dynamic_bytes]);  // new aligns to 16 bytes

    for (Thread& thread : threads) abandon(thread.fiber);  // of an earlier launch that failed
    unsigned count = blockDim.x * blockDim.y * blockDim.z;
    threads.resize(count);
    warps.resize((count + WARP - 1) / WARP);
    for (unsigned i = 0; i < count; i++) {
        Thread& thread = threads[i];
        thread.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / (blockDim.x * blockDim.y)};
        thread.number = static_cast<uint16_t>(i);
        thread.warp = static_cast<uint16_t>(i / WARP);
        thread.lane = static_cast<uint8_t>(i % WARP);
    }
    reset_order();
}

static void run_blocks() {
    BlockOrder order(uint64_t{gridDim.x} * gridDim.y * gridDim.z);
    for (uint64_t i = 0; i < order.count && !failure.happened(); i++) {
        uint64_t block = order.at(i);
        blockIdx.x = static_cast<unsigned>(block % gridDim.x);
        blockIdx.y = static_cast<unsigned>(block / gridDim.x % gridDim.y);
        blockIdx.z = static_cast<unsigned>(block / (uint64_t{gridDim.x} * gridDim.y));
        run_block();
    }
}

}  // namespace cuda_emulator

// ---------------------------------------------------------------------------------------------- called through ctypes
#define EXPORTED extern "C" __attribute__((visibility("default")))

// 0, or 1 after a failure: emulator_message() then says which, emulator_code() where.
EXPORTED int emulator_launch(const cuda_emulator::Launch* launch) {
    using namespace cuda_emulator;
    set_up(*launch);
    checker_begins_launch();
    unsigned control = _mm_getcsr();
    _mm_setcsr(control | FLUSH_DENORMALS);
    {
        FaultGuard guard(launch->time_limit);
        run_blocks();
    }
    _mm_setcsr(control);
    checker_ends_launch();
    return failure.happened();
}

EXPORTED const char* emulator_message() { return cuda_emulator::failure.message.c_str(); }
EXPORTED uintptr_t emulator_code() { return cuda_emulator::failure.code; }
