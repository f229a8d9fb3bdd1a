// A wild pointer or a division by zero ends the launch, not the Python process.
#include <csignal>
#include <cstdio>

#include "state.hpp"

namespace cuda_emulator {

constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL};
constexpr size_t COUNT = sizeof SIGNALS / sizeof SIGNALS[0];

// A fault may be the overflow of a fiber's stack, so the handler needs one of its own.
alignas(16) static unsigned char handler_stack[64 << 10];
static struct sigaction previous[COUNT];
static stack_t previous_stack;

static const char* meaning(int signal, uintptr_t address) {
    if (signal == SIGFPE) return "integer division by zero";
    if (signal == SIGILL) return "illegal instruction: unreachable code was reached";
    if (in_guard_page(current->fiber, address)) return "stack overflow: local variables or recursion";
    return "out of bounds or misaligned: memory fault";
}

static void handle(int signal, siginfo_t* information, void* context) {
    if (!current) {  // not in a kernel: back to what would have happened
        std::signal(signal, SIG_DFL);
        return;
    }
    const auto* machine = static_cast<const ucontext_t*>(context);
    uintptr_t code = static_cast<uintptr_t>(machine->uc_mcontext.gregs[REG_RIP]);
    uintptr_t address = reinterpret_cast<uintptr_t>(information->si_addr);
    char text[160];
    std::snprintf(text, sizeof text, "%s at address %#lx", meaning(signal, address), static_cast<unsigned long>(address));
    fail_in_code(text, code + 1);
}

FaultGuard::FaultGuard() {
    listen_to_sanitizer(true);
    stack_t stack = {};
    stack.ss_sp = handler_stack;
    stack.ss_size = sizeof handler_stack;
    sigaltstack(&stack, &previous_stack);
    struct sigaction action = {};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (size_t i = 0; i < COUNT; i++) sigaction(SIGNALS[i], &action, &previous[i]);
}

FaultGuard::~FaultGuard() {
    listen_to_sanitizer(false);
    for (size_t i = 0; i < COUNT; i++) sigaction(SIGNALS[i], &previous[i], nullptr);
    sigaltstack(&previous_stack, nullptr);
}

}  // namespace cuda_emulator
