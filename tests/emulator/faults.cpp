// A wild pointer, a division by zero or an endless loop ends the launch, not the Python process.
#include <pthread.h>
#include <sys/time.h>

#include <csignal>
#include <cstdio>

#include "state.hpp"

namespace cuda_emulator {

constexpr int TIME_IS_UP = SIGVTALRM;
constexpr int SIGNALS[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, TIME_IS_UP};
constexpr size_t COUNT = sizeof SIGNALS / sizeof SIGNALS[0];

// A fault may be the overflow of a fiber's stack, so the handler needs one of its own.
alignas(16) static unsigned char handler_stack[64 << 10];
static struct sigaction previous[COUNT];
static stack_t previous_stack;
static pthread_t launching_thread;

static const char* meaning(int signal, uintptr_t address) {
    if (signal == SIGFPE) return "integer division by zero";
    if (signal == SIGILL) return "illegal instruction: unreachable code was reached";
    if (in_guard_page(current->fiber, address)) return "stack overflow: local variables or recursion";
    return "out of bounds or misaligned: memory fault";
}

static void set_timer(double seconds) {
    itimerval timer = {};
    timer.it_value.tv_sec = static_cast<time_t>(seconds);
    timer.it_value.tv_usec = static_cast<suseconds_t>((seconds - static_cast<double>(timer.it_value.tv_sec)) * 1e6);
    setitimer(ITIMER_VIRTUAL, &timer, nullptr);
}

static void handle(int signal, siginfo_t* information, void* context) {
    if (signal == TIME_IS_UP && !pthread_equal(pthread_self(), launching_thread)) {
        pthread_kill(launching_thread, signal);
        return;
    }
    if (!current) {  // not in a kernel
        if (signal == TIME_IS_UP) {
            set_timer(0.01);  // again, when it is
        } else {
            std::signal(signal, SIG_DFL);  // what would have happened
        }
        return;
    }
    const auto* machine = static_cast<const ucontext_t*>(context);
    uintptr_t code = static_cast<uintptr_t>(machine->uc_mcontext.gregs[REG_RIP]);
    uintptr_t address = reinterpret_cast<uintptr_t>(information->si_addr);
    if (signal == TIME_IS_UP) fail_in_code("time limit: an endless loop, or a wait for another block?", code + 1);
    char text[160];
    std::snprintf(text, sizeof text, "%s at address %#lx", meaning(signal, address), static_cast<unsigned long>(address));
    fail_in_code(text, code + 1);
}

FaultGuard::FaultGuard(double time_limit) {
    listen_to_sanitizer(true);
    launching_thread = pthread_self();
    stack_t stack = {};
    stack.ss_sp = handler_stack;
    stack.ss_size = sizeof handler_stack;
    sigaltstack(&stack, &previous_stack);
    struct sigaction action = {};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
    for (size_t i = 0; i < COUNT; i++) sigaction(SIGNALS[i], &action, &previous[i]);
    set_timer(time_limit);
}

FaultGuard::~FaultGuard() {
    set_timer(0.0);
    listen_to_sanitizer(false);
    for (size_t i = 0; i < COUNT; i++) sigaction(SIGNALS[i], &previous[i], nullptr);
    sigaltstack(&previous_stack, nullptr);
}

}  // namespace cuda_emulator
