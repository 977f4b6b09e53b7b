// Halves without CUDA's headers, which a user may not have: their bits, to float32 and back.

struct Float16 { unsigned short bits; };
struct Bfloat16 { unsigned short bits; };

// Exact, also for subnormals.
__device__ inline float number(Float16 v) {
    float scaled = __uint_as_float((unsigned)(v.bits & 0x7fff) << 13) * 5.192296858534828e33f;  // 2**112
    unsigned magnitude = __float_as_uint(scaled);
    if ((v.bits & 0x7c00) == 0x7c00) magnitude |= 0x7f800000u;  // infinities and NaNs
    return __uint_as_float(magnitude | (unsigned)(v.bits & 0x8000) << 16);
}
__device__ inline float number(Bfloat16 v) { return __uint_as_float((unsigned)v.bits << 16); }
template <class T> __device__ inline T number(T v) { return v; }

// Rounded to the nearest, ties to even.
template <class T> struct Rounded {
    template <class S> __device__ static T of(S v) { return (T)v; }
};
template <> struct Rounded<Bfloat16> {
    __device__ static Bfloat16 of(float v) {
        const unsigned bits = __float_as_uint(v);
        if ((bits & 0x7fffffffu) > 0x7f800000u) return {(unsigned short)(bits >> 16 | 0x40u)};
        return {(unsigned short)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
    }
};
template <> struct Rounded<Float16> {
    __device__ static Float16 of(float v) {
        const unsigned bits = __float_as_uint(v), sign = bits >> 16 & 0x8000u;
        const unsigned magnitude = bits & 0x7fffffffu;
        if (magnitude > 0x7f800000u) return {(unsigned short)(sign | 0x7e00u)};
        if (magnitude >= 0x477ff000u) return {(unsigned short)(sign | 0x7c00u)};  // 65520 and more
        if (magnitude < 0x38800000u) {  // below 2**-14: an addition rounds off what does not fit
            const float aligned = __uint_as_float(magnitude) + 0.5f;
            return {(unsigned short)(sign | (__float_as_uint(aligned) - 0x3f000000u))};
        }
        const unsigned even = magnitude + 0xfffu + (magnitude >> 13 & 1u);
        return {(unsigned short)(sign | ((even - 0x38000000u) >> 13))};
    }
};

// Several numbers that are read or written at once.
template <class T, int V> struct __align__(V * sizeof(T)) Run { T v[V]; };
