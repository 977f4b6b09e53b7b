/* float16 for kernels. */
#pragma once
#include "half_bits.h"

#define T __half
#define T2 __half2
#define RAW __half_raw
#define RAW2 __half2_raw
#define FROM host_float_to_half
#define TO host_half_to_float
#include "half_template.h"
#undef T
#undef T2
#undef RAW
#undef RAW2
#undef FROM
#undef TO

typedef __half half;
typedef __half2 half2;
typedef __half nv_half;
typedef __half2 nv_half2;

inline __half __float2half(float v) { return __half(v); }
inline __half __float2half_rn(float v) { return __half(v); }
inline float __half2float(__half v) { return (float)v; }
inline __half __double2half(double v) { return __half(v); }
inline unsigned short __half_as_ushort(__half v) { return v.__x; }
inline short __half_as_short(__half v) { return (short)v.__x; }
inline __half __ushort_as_half(unsigned short v) { return __half(__half_raw{v}); }
inline __half __short_as_half(short v) { return __half(__half_raw{(unsigned short)v}); }
inline __half2 __floats2half2_rn(float a, float b) { return __half2(__half(a), __half(b)); }
inline __half2 __float2half2_rn(float a) { return __half2(__half(a), __half(a)); }
inline __half2 __half2half2(__half a) { return __half2(a, a); }
inline __half2 __halves2half2(__half a, __half b) { return __half2(a, b); }
inline __half2 make_half2(__half a, __half b) { return __half2(a, b); }
inline float2 __half22float2(__half2 v) { return make_float2((float)v.x, (float)v.y); }
