/* float16 and bfloat16 as bit patterns, rounded to nearest even: for C, C++ and kernels alike. */
#ifndef CUPY_HOST_HALF_BITS_H
#define CUPY_HOST_HALF_BITS_H

#include <stdint.h>
#include <string.h>

static inline uint32_t host_float_bits(float value) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    return bits;
}

static inline float host_bits_float(uint32_t bits) {
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static inline float host_half_to_float(uint16_t half) {
    uint32_t sign = (uint32_t)(half & 0x8000u) << 16;
    uint32_t exponent = half >> 10 & 31u, fraction = half & 1023u;
    if (exponent == 31u) return host_bits_float(sign | 0x7F800000u | fraction << 13);
    if (exponent) return host_bits_float(sign | (exponent + 112u) << 23 | fraction << 13);
    float tiny = (float)fraction * 0x1p-24f; /* zero and subnormal */
    return sign ? -tiny : tiny;
}

static inline uint16_t host_float_to_half(float value) {
    uint32_t bits = host_float_bits(value), sign = bits >> 16 & 0x8000u;
    uint32_t magnitude = bits & 0x7FFFFFFFu;
    if (magnitude > 0x7F800000u) return (uint16_t)(sign | 0x7E00u); /* NaN */
    if (magnitude >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u); /* overflows: infinity */
    if (magnitude < 0x38800000u) { /* subnormal: adding 0.5 rounds at the last place of 2^-24 */
        float shifted = host_bits_float(magnitude) + 0.5f;
        return (uint16_t)(sign | (host_float_bits(shifted) - 0x3F000000u));
    }
    magnitude += 0xFFFu + (magnitude >> 13 & 1u);
    return (uint16_t)(sign | (magnitude - 0x38000000u) >> 13);
}

static inline float host_bfloat_to_float(uint16_t bfloat) {
    return host_bits_float((uint32_t)bfloat << 16);
}

static inline uint16_t host_float_to_bfloat(float value) {
    uint32_t bits = host_float_bits(value);
    if ((bits & 0x7FFFFFFFu) > 0x7F800000u) return (uint16_t)(bits >> 16 | 0x40u);
    return (uint16_t)((bits + 0x7FFFu + (bits >> 16 & 1u)) >> 16);
}

/* TF32: float32's range with 10 fraction bits, the rounding that tensor cores ask for. */
static inline float host_round_tf32(float value) {
    uint32_t bits = host_float_bits(value);
    if ((bits & 0x7F800000u) == 0x7F800000u) return value;
    return host_bits_float((bits + 0xFFFu + (bits >> 13 & 1u)) & 0xFFFFE000u);
}

#endif
