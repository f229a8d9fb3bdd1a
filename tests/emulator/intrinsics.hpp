// Loads with hints, atomics, bit casts and arithmetic of the device that the C++ library does not have.
#pragma once
#include <cmath>
#include <cstring>
#include <type_traits>

#include "interface.hpp"

// ---------------------------------------------------------------------------------------------- loads, stores, atomics
template <class T>
inline T __ldg(const T* address) {
    return *address;
}
template <class T>
inline T __ldcs(const T* address) {
    return *address;
}
template <class T>
inline T __ldcg(const T* address) {
    return *address;
}
template <class T>
inline void __stcs(T* address, T value) {
    *address = value;
}
template <class T>
inline void __stcg(T* address, T value) {
    *address = value;
}

namespace cuda_emulator {
template <class T>
struct Same {
    using type = T;  // not deduced, so that atomicAdd(&count, 1) works for unsigned, as in CUDA
};
template <class T>
using Operand = typename Same<T>::type;

template <class T, class Update>
inline T atomic(T* address, Update update) {
    T old;
    read_atomic(address, &old, sizeof(T));
    T fresh = update(old);
    write_atomic(address, &fresh, sizeof(T));
    return old;
}
}  // namespace cuda_emulator

template <class T>
inline T atomicAdd(T* address, cuda_emulator::Operand<T> value) {
    return cuda_emulator::atomic(address, [=](T old) { return static_cast<T>(old + value); });
}
template <class T>
inline T atomicSub(T* address, cuda_emulator::Operand<T> value) {
    return cuda_emulator::atomic(address, [=](T old) { return static_cast<T>(old - value); });
}
template <class T>
inline T atomicMax(T* address, cuda_emulator::Operand<T> value) {
    return cuda_emulator::atomic(address, [=](T old) { return old > value ? old : value; });
}
template <class T>
inline T atomicMin(T* address, cuda_emulator::Operand<T> value) {
    return cuda_emulator::atomic(address, [=](T old) { return old < value ? old : value; });
}
template <class T>
inline T atomicOr(T* address, cuda_emulator::Operand<T> value) {
    return cuda_emulator::atomic(address, [=](T old) { return old | value; });
}
template <class T>
inline T atomicAnd(T* address, cuda_emulator::Operand<T> value) {
    return cuda_emulator::atomic(address, [=](T old) { return old & value; });
}
template <class T>
inline T atomicExch(T* address, cuda_emulator::Operand<T> value) {
    return cuda_emulator::atomic(address, [=](T) { return value; });
}
template <class T>
inline T atomicCAS(T* address, cuda_emulator::Operand<T> expected, cuda_emulator::Operand<T> value) {
    return cuda_emulator::atomic(address, [=](T old) { return old == expected ? value : old; });
}
inline unsigned atomicInc(unsigned* address, unsigned limit) {
    return cuda_emulator::atomic(address, [=](unsigned old) { return old >= limit ? 0u : old + 1u; });
}

// ----------------------------------------------------------------------------------------------------------- bit casts
namespace cuda_emulator {
template <class To, class From>
inline To bits_as(From value) {
    static_assert(sizeof(To) == sizeof(From), "a bit cast keeps the size");
    To bits;
    std::memcpy(&bits, &value, sizeof bits);
    return bits;
}
}  // namespace cuda_emulator

inline float __uint_as_float(uint32_t bits) { return cuda_emulator::bits_as<float>(bits); }
inline float __int_as_float(int bits) { return cuda_emulator::bits_as<float>(bits); }
inline uint32_t __float_as_uint(float value) { return cuda_emulator::bits_as<uint32_t>(value); }
inline int __float_as_int(float value) { return cuda_emulator::bits_as<int>(value); }
inline double __longlong_as_double(long long bits) { return cuda_emulator::bits_as<double>(bits); }
inline long long __double_as_longlong(double value) { return cuda_emulator::bits_as<long long>(value); }

// ---------------------------------------------------------------------------------------------------------- arithmetic
template <class A, class B>
inline std::common_type_t<A, B> min(A a, B b) {
    using Common = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<Common>) {
        return std::fmin(static_cast<Common>(a), static_cast<Common>(b));
    } else {
        return static_cast<Common>(a) < static_cast<Common>(b) ? static_cast<Common>(a) : static_cast<Common>(b);
    }
}
template <class A, class B>
inline std::common_type_t<A, B> max(A a, B b) {
    using Common = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<Common>) {
        return std::fmax(static_cast<Common>(a), static_cast<Common>(b));
    } else {
        return static_cast<Common>(a) < static_cast<Common>(b) ? static_cast<Common>(b) : static_cast<Common>(a);
    }
}

inline float __saturatef(float x) { return x >= 0.0f ? (x <= 1.0f ? x : 1.0f) : 0.0f; }  // NaN becomes 0, as on a GPU
inline float rsqrtf(float x) { return 1.0f / std::sqrt(x); }

// The fast versions are no less accurate here than the C++ library: a GPU may differ by a few units in the last place.
inline float __expf(float x) { return std::exp(x); }
inline float __logf(float x) { return std::log(x); }
inline float __sinf(float x) { return std::sin(x); }
inline float __cosf(float x) { return std::cos(x); }
inline float __powf(float x, float y) { return std::pow(x, y); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fsqrt_rn(float x) { return std::sqrt(x); }
inline float __frsqrt_rn(float x) { return static_cast<float>(1.0 / std::sqrt(static_cast<double>(x))); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fmaf_rn(float a, float b, float c) { return std::fma(a, b, c); }

// Out of range saturates and NaN becomes 0, as on a GPU; in C++ both are undefined.
inline int __float2int_rz(float x) {
    if (!(x > -2147483648.0f)) return x != x ? 0 : -2147483647 - 1;
    return x >= 2147483648.0f ? 2147483647 : static_cast<int>(x);
}
inline int __float2int_rn(float x) { return __float2int_rz(std::nearbyint(x)); }
inline int __float2int_rd(float x) { return __float2int_rz(std::floor(x)); }
inline int __float2int_ru(float x) { return __float2int_rz(std::ceil(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(static_cast<unsigned>(x)); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((uint64_t{a} * b) >> 32); }
