// CUDA_EMULATOR_EXPORT(reverse, 256) makes the kernel `reverse`, of __launch_bounds__(256), callable from outside:
// emulated_reverse(void** arguments) unpacks pointers to its arguments, as cuLaunchKernel does; emulated_reverse_types()
// and emulated_reverse_bounds() describe it. The builder appends one such line per kernel to the text.
#pragma once
#include <type_traits>
#include <utility>

#include "interface.hpp"

namespace cuda_emulator {

template <class T>
inline T argument(void** arguments, size_t number) {
    T value;
    copy_argument(&value, arguments, number, sizeof(T));
    return value;
}

template <class... Types, size_t... I>
inline void call(void (*kernel)(Types...), void** arguments, std::index_sequence<I...>) {
    kernel(argument<std::remove_cv_t<Types>>(arguments, I)...);
}

template <class... Types>
inline void call(void (*kernel)(Types...), void** arguments) {
    call(kernel, arguments, std::index_sequence_for<Types...>{});
}

// The scalar that an array of T is made of: float for float4, else T itself.
template <class T, class = void>
struct Element {
    using type = T;
};
template <class T>
struct Element<T, std::void_t<typename T::cuda_emulator_scalar>> {
    using type = typename T::cuda_emulator_scalar;
};

template <class T>
constexpr ParameterType describe_value() {
    if constexpr (std::is_void_v<T>) {
        return {'?', false, false, 0};
    } else if constexpr (std::is_floating_point_v<T>) {
        return {'f', false, false, sizeof(T)};
    } else if constexpr (std::is_integral_v<T>) {
        return {std::is_signed_v<T> ? 'i' : 'u', false, false, sizeof(T)};
    } else {
        return {'s', false, false, sizeof(T)};
    }
}

template <class T>
constexpr ParameterType describe() {
    if constexpr (std::is_pointer_v<T>) {
        using Pointee = std::remove_pointer_t<T>;
        ParameterType type = describe_value<typename Element<std::remove_cv_t<Pointee>>::type>();
        type.is_pointer = true;
        type.is_const = std::is_const_v<Pointee>;
        return type;
    } else {
        return describe_value<T>();
    }
}

template <class... Types>
inline const ParameterType* parameter_types(void (*)(Types...)) {
    static constexpr ParameterType types[] = {describe<std::remove_cv_t<Types>>()..., {0, false, false, 0}};
    return types;
}

}  // namespace cuda_emulator

#define CUDA_EMULATOR_VISIBLE extern "C" __attribute__((visibility("default")))

#define CUDA_EMULATOR_EXPORT(kernel, ...)                                                                               \
    CUDA_EMULATOR_VISIBLE void emulated_##kernel(void** arguments) { cuda_emulator::call(&kernel, arguments); }        \
    CUDA_EMULATOR_VISIBLE const cuda_emulator::ParameterType* emulated_##kernel##_types() {                            \
        return cuda_emulator::parameter_types(&kernel);                                                                \
    }                                                                                                                   \
    CUDA_EMULATOR_VISIBLE unsigned emulated_##kernel##_bounds() {                                                      \
        constexpr unsigned bounds[] = {__VA_ARGS__};                                                                   \
        return bounds[0];                                                                                              \
    }
