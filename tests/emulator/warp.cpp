// Operations of a warp: the lanes of a mask meet, the last to come does the work, all leave.
#include <algorithm>
#include <cstring>

#include "checker.hpp"
#include "state.hpp"

namespace cuda_emulator {

static std::vector<Meeting*> spare_meetings;

static Meeting* open_meeting(Warp& warp, uint32_t mask, const char* operation) {
    for (Meeting* meeting : warp.meetings) {
        if (meeting->mask == mask && meeting->arrived != mask) return meeting;
    }
    if (spare_meetings.empty()) spare_meetings.push_back(new Meeting);
    Meeting* meeting = spare_meetings.back();
    spare_meetings.pop_back();
    meeting->mask = mask;
    meeting->arrived = 0;
    meeting->departed = 0;
    meeting->operation = operation;
    warp.meetings.push_back(meeting);
    return meeting;
}

static void wake_lanes(const Meeting& meeting) {
    size_t first = size_t{current->warp} * WARP;
    size_t end = std::min(threads.size(), first + WARP);
    for (size_t i = first; i < end; i++) {
        Thread& thread = threads[i];
        bool takes_part = meeting.mask >> thread.lane & 1u;
        if (takes_part && thread.status == Status::in_warp_operation) thread.status = Status::ready;
    }
}

void meet(Meeting*& meeting, uint32_t mask, const char* operation, const void* brought, size_t bytes, Where where,
          void (*finish)(Meeting&)) {
    uint32_t my_bit = 1u << current->lane;
    if (!(mask & my_bit)) fail("the calling lane is not in the mask of the warp operation", where);
    meeting = open_meeting(warps[current->warp], mask, operation);
    if (meeting->operation != operation) fail("the lanes of one mask meet in different warp operations", where);
    if (bytes) std::memcpy(meeting->brought[current->lane], brought, bytes);
    meeting->arrived |= my_bit;
    if (meeting->arrived == mask) {
        if (finish) finish(*meeting);
        wake_lanes(*meeting);
    }
    while (meeting->arrived != mask) wait(Status::in_warp_operation, where);
}

void depart(Meeting* meeting) {
    meeting->departed |= 1u << current->lane;
    if (meeting->departed != meeting->mask) return;
    std::vector<Meeting*>& meetings = warps[current->warp].meetings;
    meetings.erase(std::find(meetings.begin(), meetings.end(), meeting));
    spare_meetings.push_back(meeting);
}

void warp_barrier(uint32_t mask, Where where) {
    Meeting* meeting;
    meet(meeting, mask, "__syncwarp", nullptr, 0, where,
         [](Meeting& complete) { checker_passes_warp_barrier(current->warp, complete.mask); });
    depart(meeting);
}

void warp_shuffle(uint32_t mask, const void* value, void* result, unsigned bytes, unsigned source_lane, Where where) {
    Meeting* meeting;
    meet(meeting, mask, "shuffle", value, bytes, where);
    if (!(mask >> source_lane & 1u)) fail("a shuffle reads from a lane outside its mask", where);
    std::memcpy(result, meeting->brought[source_lane], bytes);
    depart(meeting);
}

uint32_t warp_ballot(uint32_t mask, bool predicate, Where where) {
    Meeting* meeting;
    meet(meeting, mask, "vote", &predicate, sizeof predicate, where);
    uint32_t votes = 0;
    for (unsigned lane = 0; lane < WARP; lane++) {
        if (mask >> lane & 1u && meeting->brought[lane][0]) votes |= 1u << lane;
    }
    depart(meeting);
    return votes;
}

}  // namespace cuda_emulator
