// Answers -fsanitize=undefined without its library, so that undefined behaviour fails the launch with its place in the
// source. Every handler gets data that begin with that place.
#include <cstdint>
#include <string>

#include "state.hpp"

struct SourceLocation {
    const char* file;
    uint32_t line;
    uint32_t column;
};

[[noreturn]] static void report(const void* data, const char* what) {
    const auto* location = static_cast<const SourceLocation*>(data);
    cuda_emulator::fail(what, {location->file ? location->file : "?", location->line});
}

#define HOOK extern "C" __attribute__((visibility("hidden")))
#define HANDLER(name, what)                                                                                  \
    HOOK void __ubsan_handle_##name(const void* data) { report(data, "undefined behaviour: " what); }        \
    HOOK void __ubsan_handle_##name##_abort(const void* data) { report(data, "undefined behaviour: " what); }

HANDLER(add_overflow, "signed overflow in an addition")
HANDLER(sub_overflow, "signed overflow in a subtraction")
HANDLER(mul_overflow, "signed overflow in a multiplication")
HANDLER(negate_overflow, "signed overflow in a negation")
HANDLER(divrem_overflow, "division by zero, or overflow in a division")
HANDLER(shift_out_of_bounds, "shift by too much or of a negative number")
HANDLER(out_of_bounds, "array index out of bounds")
HANDLER(pointer_overflow, "overflow of a pointer")
HANDLER(vla_bound_not_positive, "array of negative size")
HANDLER(load_invalid_value, "bool or enumeration with an impossible value")
HANDLER(nonnull_arg, "null for a parameter that may not be null")
HANDLER(builtin_unreachable, "unreachable code was reached")
HANDLER(missing_return, "function without the return it needs")

struct TypeMismatch {
    SourceLocation location;
    const void* type;
    uint8_t log_alignment;
    uint8_t kind;
};

static void report_mismatch(const TypeMismatch* data, uintptr_t address) {
    if (address == 0) report(data, "undefined behaviour: access through a null pointer");
    uintptr_t alignment = uintptr_t{1} << data->log_alignment;
    if (address % alignment) report(data, "undefined behaviour: misaligned access for its type");
    report(data, "undefined behaviour: access out of bounds of an object");
}

HOOK void __ubsan_handle_type_mismatch_v1(const TypeMismatch* data, uintptr_t address) { report_mismatch(data, address); }
HOOK void __ubsan_handle_type_mismatch_v1_abort(const TypeMismatch* data, uintptr_t address) {
    report_mismatch(data, address);
}
