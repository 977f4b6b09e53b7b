/* CUDA's small vectors, with their alignments. */
#pragma once

#define HOST_VECTOR(name, T, align2, align4)                                               \
    struct name##1 { T x; };                                                               \
    struct __attribute__((aligned(align2))) name##2 { T x, y; };                           \
    struct name##3 { T x, y, z; };                                                         \
    struct __attribute__((aligned(align4))) name##4 { T x, y, z, w; };                     \
    static inline name##1 make_##name##1(T x) { return {x}; }                              \
    static inline name##2 make_##name##2(T x, T y) { return {x, y}; }                      \
    static inline name##3 make_##name##3(T x, T y, T z) { return {x, y, z}; }              \
    static inline name##4 make_##name##4(T x, T y, T z, T w) { return {x, y, z, w}; }

typedef signed char host_schar;
typedef unsigned char host_uchar;
typedef unsigned short host_ushort;
typedef unsigned int host_uint;
typedef unsigned long host_ulong;
typedef long long host_longlong;
typedef unsigned long long host_ulonglong;

HOST_VECTOR(char, host_schar, 2, 4)
HOST_VECTOR(uchar, host_uchar, 2, 4)
HOST_VECTOR(short, short, 4, 8)
HOST_VECTOR(ushort, host_ushort, 4, 8)
HOST_VECTOR(int, int, 8, 16)
HOST_VECTOR(uint, host_uint, 8, 16)
HOST_VECTOR(long, long, 16, 16)
HOST_VECTOR(ulong, host_ulong, 16, 16)
HOST_VECTOR(longlong, host_longlong, 16, 16)
HOST_VECTOR(ulonglong, host_ulonglong, 16, 16)
HOST_VECTOR(float, float, 8, 16)
HOST_VECTOR(double, double, 16, 16)

struct dim3 {
    unsigned x, y, z;
    constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};
