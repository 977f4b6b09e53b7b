/* Tensor cores: the functions of einstride's mma.cuh, with the fragments of the PTX manual ("Matrix
 * Fragments for mma.m16n8k16", "... mma.m16n8k8", "ldmatrix"). A warp's lanes show each other their
 * registers between two warp barriers. Sums are made in float32, one term after the other; tensor
 * cores round otherwise. */
#pragma once

/* Register `r` of lane `l` is all[l].r: where an element of A (16 x k) or B (k x 8) lies. */
struct host_fragments { unsigned a[4], b[2]; };

template <class ELEMENT>
HOST_UNCHECKED inline void host_mma(float (&d)[4], const unsigned (&a)[4], const unsigned *b,
                                    int depth, ELEMENT element) {
    host_fragments mine = {{a[0], a[1], a[2], a[3]}, {b[0], b[1]}}, all[32];
    host_gather(&mine, sizeof mine, all);
    const int lane = host_lane();
    for (int i = 0; i < 4; i++) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        float sum = d[i];
        for (int k = 0; k < depth; k++) {
            /* In both shapes four lanes hold a row's first half, a register of its own the second. */
            const int half = depth / 2, from = k % half * 4 / half, part = k % half % (half / 4);
            const unsigned left = all[row % 8 * 4 + from].a[row / 8 + k / half * 2];
            const unsigned right = all[column * 4 + from].b[k / half];
            sum += element(left, part) * element(right, part);
        }
        d[i] = sum;
    }
}

HOST_UNCHECKED inline float host_float16(unsigned pair, int part) {
    _Float16 v;
    const unsigned short bits = (unsigned short)(pair >> part * 16);
    memcpy(&v, &bits, sizeof v);
    return (float)v;
}
HOST_UNCHECKED inline float host_bfloat16(unsigned pair, int part) {
    return host_bits<float>((pair >> part * 16 & 0xFFFFu) << 16);
}
HOST_UNCHECKED inline float host_tf32(unsigned bits, int) {
    return host_bits<float>(bits & 0xFFFFE000u); /* the units do not see the other bits */
}

inline void mma_float16(float (&d)[4], const unsigned (&a)[4], const unsigned *b) {
    host_mma(d, a, b, 16, host_float16);
}
inline void mma_bfloat16(float (&d)[4], const unsigned (&a)[4], const unsigned *b) {
    host_mma(d, a, b, 16, host_bfloat16);
}
inline void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned *b) {
    host_mma(d, a, b, 8, host_tf32);
}

inline unsigned to_tf32(float v) {
    const unsigned bits = host_bits<unsigned>(v);
    return (bits & 0x7F800000u) == 0x7F800000u ? bits : (bits + 0x1000u) & 0xFFFFE000u;
}

/* Where each lane's row begins. What is then read of shared memory is checked as any other read. */
inline void host_rows(const unsigned short *(&rows)[32], const void *row) {
    if ((uint64_t)row & 15) host_abort(4 /* HOST_MISALIGNED */, (uint64_t)row, 16, 0, -1);
    host_gather(&row, sizeof row, rows);
}
inline void load_matrices(unsigned (&to)[4], const void *row) {
    const unsigned short *rows[32];
    host_rows(rows, row);
    for (int i = 0; i < 4; i++)
        to[i] = *(const unsigned *)(rows[i * 8 + host_lane() / 4] + host_lane() % 4 * 2);
}
inline void load_transposed(unsigned (&to)[4], const void *row) {
    const unsigned short *rows[32];
    host_rows(rows, row);
    for (int i = 0; i < 4; i++) {
        const unsigned short *const *pair = rows + i * 8 + host_lane() % 4 * 2;
        to[i] = pair[0][host_lane() / 4] | (unsigned)pair[1][host_lane() / 4] << 16;
    }
}
