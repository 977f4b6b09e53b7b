/* Arithmetic and bit intrinsics of CUDA that C++ lacks. */
#pragma once

template <class To, class From>
inline To host_bits(From from) {
    static_assert(sizeof(To) == sizeof(From), "same size");
    To to;
    memcpy(&to, &from, sizeof to);
    return to;
}

inline int __float_as_int(float v) { return host_bits<int>(v); }
inline float __int_as_float(int v) { return host_bits<float>(v); }
inline unsigned __float_as_uint(float v) { return host_bits<unsigned>(v); }
inline float __uint_as_float(unsigned v) { return host_bits<float>(v); }
inline long long __double_as_longlong(double v) { return host_bits<long long>(v); }
inline double __longlong_as_double(long long v) { return host_bits<double>(v); }
inline int __double2hiint(double v) { return (int)(host_bits<uint64_t>(v) >> 32); }
inline int __double2loint(double v) { return (int)host_bits<uint64_t>(v); }
inline double __hiloint2double(int high, int low) {
    return host_bits<double>((uint64_t)(unsigned)high << 32 | (unsigned)low);
}

inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __clz(int v) { return v ? __builtin_clz((unsigned)v) : 32; }
inline int __clzll(long long v) { return v ? __builtin_clzll((unsigned long long)v) : 64; }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __ffsll(long long v) { return __builtin_ffsll(v); }
inline unsigned __brev(unsigned v) {
    unsigned r = 0;
    for (int i = 0; i < 32; i++) r |= (v >> i & 1u) << (31 - i);
    return r;
}

inline int __mulhi(int a, int b) { return (int)((long long)a * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) {
    return (unsigned)((unsigned long long)a * b >> 32);
}
inline long long __mul64hi(long long a, long long b) { return (long long)((__int128)a * b >> 64); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
    return (unsigned long long)((unsigned __int128)a * b >> 64);
}
inline int __mul24(int a, int b) { return a * b; }

inline float rsqrtf(float v) { return 1.0f / sqrtf(v); }
inline double rsqrt(double v) { return 1.0 / sqrt(v); }
inline float rsqrt(float v) { return rsqrtf(v); }
inline float __saturatef(float v) { return v > 0 ? (v < 1 ? v : 1.0f) : 0.0f; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __expf(float v) { return expf(v); }
inline float __logf(float v) { return logf(v); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __frcp_rn(float v) { return 1.0f / v; }
inline float __fsqrt_rn(float v) { return sqrtf(v); }
inline float __int2float_rn(int v) { return (float)v; }
inline int __float2int_rn(float v) { return (int)nearbyintf(v); }
inline int __float2int_rd(float v) { return (int)floorf(v); }
inline int __float2int_rz(float v) { return (int)v; }
inline double sinpi(double v) { return sin(M_PI * fmod(v, 2.0)); }
inline double cospi(double v) { return cos(M_PI * fmod(v, 2.0)); }
inline float sinpif(float v) { return (float)sinpi(v); }
inline float cospif(float v) { return (float)cospi(v); }

template <class T> inline T __ldg(const T *p) { return *p; }
template <class T> inline T __ldcs(const T *p) { return *p; }
template <class T> inline T __ldcg(const T *p) { return *p; }
template <class T> inline void __stcs(T *p, T v) { *p = v; }
template <class T> inline void __stcg(T *p, T v) { *p = v; }
