// cp.async at its latest: the copy happens at the wait, and its target is poisoned until then.
#include <cstring>

#include "checker.hpp"
#include "state.hpp"

namespace cuda_emulator {

void device_fence() { checker_passes_fence(); }

void read_atomic(const void* address, void* value, unsigned bytes) {
    checker_sees_atomic(const_cast<void*>(address), bytes, __builtin_return_address(0));
    std::memcpy(value, address, bytes);
}

void write_atomic(void* address, const void* value, unsigned bytes) { std::memcpy(address, value, bytes); }

static bool is_shared(const void* address, unsigned bytes) {
    uintptr_t begin = reinterpret_cast<uintptr_t>(address);
    return static_shared().holds(begin, bytes) || dynamic_shared_span().holds(begin, bytes);
}

void async_copy(void* shared, const void* global, unsigned bytes, bool valid, Where where) {
    if (reinterpret_cast<uintptr_t>(shared) % bytes) fail("misaligned cp.async: the address in shared memory", where);
    if (reinterpret_cast<uintptr_t>(global) % bytes) fail("misaligned cp.async: the address in global memory", where);
    if (!is_shared(shared, bytes)) fail("out of bounds: cp.async does not write to shared memory", where);
    if (is_shared(global, 1)) fail("cp.async reads from shared memory", where);
    const void* code = __builtin_return_address(0);
    if (valid) checker_sees_read(global, bytes, code);
    checker_sees_copy_begin(shared, bytes, code);
    std::memset(shared, POISON, bytes);
    if (current->copy_groups.empty()) current->copy_groups.emplace_back();
    current->copy_groups.back().push_back({shared, global, bytes, valid});
}

void async_commit() {
    if (current->copy_groups.empty()) current->copy_groups.emplace_back();
    current->copy_groups.emplace_back();
}

static void perform(const AsyncCopy& copy, const void* code) {
    if (copy.valid) {
        std::memcpy(copy.shared, copy.global, copy.bytes);
    } else {
        std::memset(copy.shared, 0, copy.bytes);
    }
    checker_sees_copy_end(copy.shared, copy.bytes, code);
}

void async_wait(unsigned pending_groups) {
    const void* code = __builtin_return_address(0);
    auto& groups = current->copy_groups;
    while (groups.size() > pending_groups + 1) {
        for (const AsyncCopy& copy : groups.front()) perform(copy, code);
        groups.erase(groups.begin());
    }
}

}  // namespace cuda_emulator
