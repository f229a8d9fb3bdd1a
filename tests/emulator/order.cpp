#include "order.hpp"

#include <algorithm>
#include <unordered_map>

namespace cuda_emulator {

static uint32_t epoch = 1;
static uint32_t launch_epoch = 1;
static uint32_t block_epoch = 1;

// ---------------------------------------------------------------------------------------------------------- __syncwarp
// Ticks never go back, so a barrier of the block need not reset them.
struct WarpOrder {
    uint32_t tick = 0;
    uint32_t known[WARP][WARP] = {};  // [i][j]: accesses of lane j before this tick come before what lane i does now
};
static std::vector<WarpOrder> warp_orders;

void order_passes_warp_barrier(unsigned warp, uint32_t mask) {
    WarpOrder& order = warp_orders[warp];
    order.tick++;
    uint32_t joined[WARP] = {};
    for (unsigned j = 0; j < WARP; j++) {
        for (unsigned i = 0; i < WARP; i++) {
            if (mask >> i & 1u) joined[j] = std::max(joined[j], order.known[i][j]);
        }
        if (mask >> j & 1u) joined[j] = order.tick;
    }
    for (unsigned i = 0; i < WARP; i++) {
        if (mask >> i & 1u) std::copy(joined, joined + WARP, order.known[i]);
    }
}

// --------------------------------------------------------------------------------------------- fences and atomics
// Up to where a block made its accesses visible through a counter.
struct Release {
    uint32_t fence_epoch;   // of the last fence of the block
    uint32_t atomic_epoch;  // of the atomic after it
    uint16_t thread;        // that did the atomic
};
// The same, and when the block that runs now learnt of it.
struct Acquisition {
    Release release;
    Moment when;
};
struct Counter {
    std::unordered_map<size_t, Release> releases;  // by number of the block
    Moment latest;                                 // atomic
    bool without_fence = false;                    // some block added to it without a fence before
};
static std::vector<uint32_t> block_starts;                    // first epoch of each block of this launch, in order
static std::unordered_map<size_t, Acquisition> acquisitions;  // by number of the releasing block
static std::unordered_map<uintptr_t, Counter> counters;       // by address
static uint32_t last_fence_epoch;

static size_t block_of(uint32_t some_epoch) {
    auto after = std::upper_bound(block_starts.begin(), block_starts.end(), some_epoch);
    return static_cast<size_t>(after - block_starts.begin()) - 1;
}

void order_passes_fence() { last_fence_epoch = epoch; }

void order_passes_atomic(uintptr_t address) {
    Counter& counter = counters[address];
    size_t this_block = block_starts.size() - 1;
    for (const auto& [block, release] : counter.releases) {
        if (block != this_block) acquisitions[block] = {release, now()};
    }
    counter.latest = now();
    if (last_fence_epoch >= block_epoch) {
        counter.releases[this_block] = {last_fence_epoch, epoch, current->number};
    } else {
        counter.without_fence = true;
    }
}

static bool reaches_me(const Moment& when) { return when.thread == current->number || when.epoch < epoch; }

bool counter_is_final(uintptr_t address) {
    const Counter& counter = counters[address];
    return !counter.without_fence && in_this_block(counter.latest) && reaches_me(counter.latest);
}

static bool is_acquired(const Moment& moment) {
    auto found = acquisitions.find(block_of(moment.epoch));
    if (found == acquisitions.end()) return false;
    const Release& release = found->second.release;
    bool before_atomic = moment.epoch < release.atomic_epoch || moment.thread == release.thread;
    return reaches_me(found->second.when) && before_atomic && moment.epoch <= release.fence_epoch;
}

// -------------------------------------------------------------------------------------------------------------- moments
Moment now() { return {epoch, warp_orders[current->warp].tick, current->number}; }

bool in_this_launch(const Moment& moment) { return moment.epoch >= launch_epoch; }

bool in_this_block(const Moment& moment) { return moment.epoch >= block_epoch; }

bool in_this_epoch(const Moment& moment) { return moment.epoch == epoch; }

uint32_t lanes_not_before_now(const Moment& moment, uint32_t lanes) {
    const WarpOrder& order = warp_orders[current->warp];
    if (moment.tick == order.tick) return lanes & ~(1u << current->lane);  // no __syncwarp since
    uint32_t unordered = 0;
    for (uint32_t left = lanes; left; left &= left - 1) {
        unsigned lane = static_cast<unsigned>(__builtin_ctz(left));
        bool is_me = lane == current->lane;
        if (!is_me && order.known[current->lane][lane] <= moment.tick) unordered |= 1u << lane;
    }
    return unordered;
}

bool comes_before_now(const Moment& moment) {
    if (!in_this_launch(moment)) return true;
    if (!in_this_block(moment)) return is_acquired(moment);
    if (moment.epoch != epoch || moment.thread == current->number) return true;
    if (moment.thread / WARP != current->warp) return false;
    return lanes_not_before_now(moment, 1u << moment.thread % WARP) == 0;
}

// -------------------------------------------------------------------------------------------------------------- events
void order_begins_launch() {
    launch_epoch = ++epoch;
    block_starts.clear();
    counters.clear();
    warp_orders.assign(warps.size(), WarpOrder{});
}

void order_begins_block() {
    block_epoch = ++epoch;
    block_starts.push_back(block_epoch);
    acquisitions.clear();
    last_fence_epoch = 0;
}

void order_passes_barrier() { epoch++; }

}  // namespace cuda_emulator
