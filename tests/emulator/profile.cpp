#include "profile.hpp"

#include <algorithm>
#include <map>
#include <tuple>
#include <unordered_map>
#include <vector>

#include "state.hpp"

namespace cuda_emulator {

constexpr uintptr_t SECTOR_BYTES = 32;
constexpr unsigned BANKS = 32;
constexpr unsigned BANK_BYTES = 4;
constexpr unsigned WAVEFRONT_BYTES = BANKS * BANK_BYTES;

static bool enabled = false;

struct Access {
    uintptr_t code;
    uintptr_t address;
    uint32_t turn;  // how often this thread had come to this code since the barrier: one request is one turn of a warp
    uint16_t warp;
    uint8_t lane;
    bool is_write;
    bool is_shared;
    unsigned bytes;
};

// Read by profile.py.
struct Row {
    uint64_t code;  // offset in the library
    uint64_t is_shared;
    uint64_t is_write;
    uint64_t bytes;     // per lane
    uint64_t requests;  // of a warp
    uint64_t moved;     // sectors, or wavefronts
    uint64_t ideal;     // the fewest that could hold the same bytes
};

static std::vector<Access> accesses;
static std::vector<std::unordered_map<uintptr_t, uint32_t>> turns;  // by thread, by code
static std::map<std::tuple<uintptr_t, bool, unsigned>, Row> rows;   // by code, is_shared, bytes

void profile_begins_launch() {
    accesses.clear();
    rows.clear();
    turns.assign(enabled ? threads.size() : 0, {});
}

void profile_sees(uintptr_t code, uintptr_t address, unsigned bytes, bool is_write, bool is_shared) {
    if (!enabled) return;
    uint32_t turn = turns[current->number][code]++;
    accesses.push_back({code, address, turn, current->warp, current->lane, is_write, is_shared, bytes});
}

using Iterator = std::vector<Access>::iterator;

// A request to global memory, sorted by address: the sectors it touches, and how many its bytes would fill.
static void count_sectors(Row& row, Iterator first, Iterator last) {
    uintptr_t next_sector = 0;
    uintptr_t next_byte = 0;
    uintptr_t distinct_bytes = 0;
    for (Iterator access = first; access != last; ++access) {
        uintptr_t end = access->address + access->bytes;
        uintptr_t from_sector = std::max(next_sector, access->address / SECTOR_BYTES);
        uintptr_t end_sector = (end - 1) / SECTOR_BYTES + 1;
        if (end_sector > from_sector) row.moved += end_sector - from_sector;
        next_sector = std::max(next_sector, end_sector);
        uintptr_t from_byte = std::max(next_byte, access->address);
        if (end > from_byte) distinct_bytes += end - from_byte;
        next_byte = std::max(next_byte, end);
    }
    row.ideal += (distinct_bytes + SECTOR_BYTES - 1) / SECTOR_BYTES;
}

// Lanes that are served together: all, half of them with 8 bytes a lane, a quarter with 16.
static unsigned lanes_together(unsigned bytes) {
    if (bytes <= BANK_BYTES) return WARP;
    return std::max(1u, WAVEFRONT_BYTES / bytes);
}

// A bank gives one word a wavefront, to any number of lanes.
static void count_wavefronts(Row& row, Iterator first, Iterator last) {
    unsigned together = lanes_together(first->bytes);
    for (unsigned lane = 0; lane < WARP; lane += together) {
        std::vector<uintptr_t> words;
        for (Iterator access = first; access != last; ++access) {
            if (access->lane < lane || access->lane >= lane + together) continue;
            uintptr_t end_word = (access->address + access->bytes - 1) / BANK_BYTES;
            for (uintptr_t word = access->address / BANK_BYTES; word <= end_word; word++) words.push_back(word);
        }
        if (words.empty()) continue;
        std::sort(words.begin(), words.end());
        words.erase(std::unique(words.begin(), words.end()), words.end());
        unsigned words_of_bank[BANKS] = {};
        unsigned most = 0;
        for (uintptr_t word : words) most = std::max(most, ++words_of_bank[word % BANKS]);
        row.moved += most;
        row.ideal += (words.size() + BANKS - 1) / BANKS;
    }
}

static bool same_request(const Access& a, const Access& b) {
    return a.code == b.code && a.is_shared == b.is_shared && a.bytes == b.bytes && a.warp == b.warp && a.turn == b.turn;
}

static void add_request(Iterator first, Iterator last) {
    Row& row = rows[{first->code, first->is_shared, first->bytes}];
    row.code = offset_in_library(first->code);
    row.is_shared = first->is_shared;
    row.is_write = first->is_write;
    row.bytes = first->bytes;
    row.requests++;
    if (first->is_shared) {
        count_wavefronts(row, first, last);
    } else {
        count_sectors(row, first, last);
    }
}

void profile_adds_up() {
    if (!enabled) return;
    std::sort(accesses.begin(), accesses.end(), [](const Access& a, const Access& b) {
        return std::tie(a.code, a.is_shared, a.bytes, a.warp, a.turn, a.address) <
               std::tie(b.code, b.is_shared, b.bytes, b.warp, b.turn, b.address);
    });
    for (Iterator first = accesses.begin(); first != accesses.end();) {
        Iterator last = first;
        while (last != accesses.end() && same_request(*first, *last)) ++last;
        add_request(first, last);
        first = last;
    }
    accesses.clear();
    for (auto& of_thread : turns) of_thread.clear();
}

}  // namespace cuda_emulator

// ---------------------------------------------------------------------------------------------- called through ctypes
#define EXPORTED extern "C" __attribute__((visibility("default")))

EXPORTED void emulator_enable_profile(int enable) { cuda_emulator::enabled = enable != 0; }

// The rows of the latest launch: writes up to `capacity` of them and returns how many there are.
EXPORTED size_t emulator_profile(cuda_emulator::Row* out, size_t capacity) {
    size_t count = 0;
    for (const auto& [key, row] : cuda_emulator::rows) {
        if (count < capacity) out[count] = row;
        count++;
    }
    return count;
}
