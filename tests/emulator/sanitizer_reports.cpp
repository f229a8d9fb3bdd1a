// Reports of AddressSanitizer become failures of the launch. The process must run with halt_on_error=0: a report is made
// while the sanitizer holds a lock, so the thread goes on until it next waits. Nothing in the other builds.
#include <cstring>
#include <string>

#include "state.hpp"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace cuda_emulator {

#if defined(__SANITIZE_ADDRESS__)

static std::string line_at(const char* text) { return std::string(text, std::strcspn(text, "\n")); }

// Of "==1==ERROR: AddressSanitizer: <what>", "READ of size 4 at ..." and frames "    #0 <address> in <function> <place>".
static void record_report(const char* report) {
    const char* what = std::strstr(report, "AddressSanitizer: ");
    if (!what) return;
    std::string message = "out of bounds: " + line_at(what);
    for (const char* access : {"READ of size", "WRITE of size"}) {
        if (const char* found = std::strstr(what, access)) message += ", " + line_at(found);
    }
    if (const char* frame = std::strstr(what, "#0 ")) message += ", " + line_at(frame);
    record_failure(message);
}

void listen_to_sanitizer(bool listen) { __asan_set_error_report_callback(listen ? record_report : nullptr); }

#else

void listen_to_sanitizer(bool) {}

#endif

}  // namespace cuda_emulator
