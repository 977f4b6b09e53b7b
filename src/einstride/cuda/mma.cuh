// Tensor core instructions as inline PTX, for compute capability 8.0 and later. Which lane of a warp
// holds which elements is in "Matrix Fragments" of the PTX manual. All 32 lanes must call together.
// The host emulation of the tests, which has no PTX, defines functions of these names.
#ifndef CUPY_HOST

// Loads four 8 x 8 matrices of 16-bit elements from shared memory: lane l passes the address of row
// l % 8 of matrix l / 8, and gets elements 2 * (l % 4) and 2 * (l % 4) + 1 of row l / 4 of each.
__device__ inline void load_matrices(unsigned (&to)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}

// Loads four matrices as `load_matrices` does, and transposes each.
__device__ inline void load_transposed(unsigned (&to)[4], const void *row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(to[0]), "=r"(to[1]), "=r"(to[2]), "=r"(to[3])
                 : "r"((unsigned)__cvta_generic_to_shared(row)) : "memory");
}

// Adds to d (16 x 8) the product a (16 x 16) b (16 x 8) of halves, or a (16 x 8) b (8 x 8) of TF32,
// in float32.
#define MMA(name, shape)                                                                        \
    __device__ inline void name(float (&d)[4], const unsigned (&a)[4], const unsigned *b) {     \
        asm volatile("mma.sync.aligned." shape                                                  \
                     " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"         \
                     : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                           \
                     : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));       \
    }
MMA(mma_float16, "m16n8k16.row.col.f32.f16.f16.f32")
MMA(mma_bfloat16, "m16n8k16.row.col.f32.bf16.bf16.f32")
MMA(mma_tf32, "m16n8k8.row.col.f32.tf32.tf32.f32")
#undef MMA

// Rounds to TF32, which has 10 fraction bits; ties away from zero.
__device__ inline unsigned to_tf32(float v) {
    unsigned bits;
    asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(v));
    return bits;
}

#endif
