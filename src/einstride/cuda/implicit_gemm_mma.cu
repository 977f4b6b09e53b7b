// Implicit GEMM on tensor cores: for float16 and bfloat16, and for float32 rounded to TF32 if a call
// allows that; sums in float32. As in implicit_gemm.cu, tiles are in shared memory, and the next pair
// is loaded while one is multiplied. Each warp computes (WM, WN) of the block's tile (BM, BN).

#include "numbers.cuh"
#include "indexing.cuh"
#include "implicit_gemm.cuh"
#include "mma.cuh"

__device__ inline void mma(float (&d)[4], const unsigned (&a)[4], const unsigned *b, Float16) {
    mma_float16(d, a, b);
}
__device__ inline void mma(float (&d)[4], const unsigned (&a)[4], const unsigned *b, Bfloat16) {
    mma_bfloat16(d, a, b);
}
__device__ inline void mma(float (&d)[4], const unsigned (&a)[4], const unsigned *b, float) {
    mma_tf32(d, a, b);
}

// A tile of halves in shared memory, along the terms or along the rows as in x or f; matrix loads
// transpose if needed. The padding of 16 bytes lets eight lines be read without bank conflicts.
template <class IN, int ROWS, int K, bool ALONG_K> struct Shared {
    static const int STEP = 16;  // terms of one instruction
    __align__(16) IN cells[ALONG_K ? ROWS : K][(ALONG_K ? K : ROWS) + 8];

    template <int V> __device__ void keep(Run<IN, V> run, int row, int k) {
        *(Run<IN, V> *)(ALONG_K ? &cells[row][k] : &cells[k][row]) = run;
    }
    __device__ void rows(unsigned (&a)[4], int row, int k) const {  // 16 x 16
        const int lane = threadIdx.x % 32;
        if (ALONG_K) load_matrices(a, &cells[row + lane % 16][k + lane / 16 * 8]);
        else load_transposed(a, &cells[k + lane / 16 * 8 + lane % 8][row + lane / 8 % 2 * 8]);
    }
    __device__ void columns(unsigned (&b)[4], int column, int k) const {  // twice 16 x 8
        const int lane = threadIdx.x % 32;
        if (ALONG_K) load_matrices(b, &cells[column + lane / 16 * 8 + lane % 8][k + lane / 8 % 2 * 8]);
        else load_transposed(b, &cells[k + lane % 16][column + lane / 16 * 8]);
    }
};

// A tile of TF32 elements: these cannot be transposed by loads, so they always lie along the rows.
template <int ROWS, int K, bool ALONG_K> struct Shared<float, ROWS, K, ALONG_K> {
    static const int STEP = 8;
    __align__(16) unsigned cells[K][ROWS + 8];

    template <int V> __device__ void keep(Run<float, V> run, int row, int k) {
        Run<unsigned, V> rounded;
        #pragma unroll
        for (int v = 0; v < V; v++) rounded.v[v] = to_tf32(run.v[v]);
        if (!ALONG_K) *(Run<unsigned, V> *)&cells[k][row] = rounded;
        #pragma unroll
        for (int v = 0; v < V; v++)
            if (ALONG_K) cells[k + v][row] = rounded.v[v];
    }
    __device__ void rows(unsigned (&a)[4], int row, int k) const {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        #pragma unroll
        for (int i = 0; i < 4; i++) a[i] = cells[k + t + i / 2 * 4][row + g + i % 2 * 8];
    }
    __device__ void columns(unsigned (&b)[4], int column, int k) const {
        const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
        #pragma unroll
        for (int i = 0; i < 4; i++) b[i] = cells[k + t + i % 2 * 4][column + g + i / 2 * 8];
    }
};

template <class S, class TILE, class IN, int V>
__device__ inline void keep(const Run<IN, V> *held, TILE &tile) {
    #pragma unroll
    for (int i = 0; i < S::COUNT; i++)
        if (S::has_run(i)) tile.keep(held[i], S::row(i), S::k(i));
}

template <class IN, class OUT, class INDEX, int R, bool FILTER,
          int BM, int BN, int BK, int WM, int WN, int XV, bool X_ALONG_K, int FV, bool F_ALONG_K>
__global__ void __launch_bounds__(BM / WM * (BN / WN) * 32,
    at_least<INDEX, R>(BM / WM * (BN / WN) * 32, XV, FV))
implicit_gemm_mma(const IN *__restrict__ x, const IN *__restrict__ f, const void *__restrict__ bias,
                  OUT *__restrict__ y, const Job<R> job) {
    constexpr int THREADS = BM / WM * (BN / WN) * 32, MI = WM / 16, NI = WN / 8;
    typedef Share<BM, BK, THREADS, XV, X_ALONG_K> XShare;
    typedef Share<BN, BK, THREADS, FV, F_ALONG_K> FShare;
    typedef Shared<IN, BM, BK, X_ALONG_K> XTile;
    __shared__ XTile xs[2];
    __shared__ Shared<IN, BN, BK, F_ALONG_K> fs[2];

    const Block<INDEX> block(job, BM, BN);
    const INDEX start = block.part * (INDEX)job.split;
    const INDEX end = min(start + (INDEX)job.split, (INDEX)job.k);
    Gathered<IN, XShare, XV, FILTER, R, INDEX> from_x(
        x + block.group * (INDEX)job.x_group, block.row, job);
    Stepped<IN, FShare, FV, FILTER, R, INDEX> from_f(
        f + block.group * (INDEX)job.f_group, block.column, job);

    float sums[MI][NI][4];
    #pragma unroll
    for (int i = 0; i < MI * NI * 4; i++) sums[i / 4 / NI][i / 4 % NI][i % 4] = 0;

    const int warp = threadIdx.x / 32;
    const int warp_row = warp / (BN / WN) * WM, warp_column = warp % (BN / WN) * WN;
    from_x.load(start, end, job);
    from_f.load(start, end, job);
    keep<XShare>(from_x.held, xs[0]);
    keep<FShare>(from_f.held, fs[0]);
    __syncthreads();
    int now = 0;
    for (INDEX k = start; k < end; k += BK) {
        const bool more = k + BK < end;
        if (more) {
            from_x.load(k + BK, end, job);
            from_f.load(k + BK, end, job);
        }
        #pragma unroll
        for (int t = 0; t < BK; t += XTile::STEP) {
            unsigned a[MI][4], b[NI / 2][4];
            #pragma unroll
            for (int i = 0; i < MI; i++) xs[now].rows(a[i], warp_row + i * 16, t);
            #pragma unroll
            for (int j = 0; j < NI / 2; j++) fs[now].columns(b[j], warp_column + j * 16, t);
            #pragma unroll
            for (int i = 0; i < MI; i++)
                #pragma unroll
                for (int j = 0; j < NI; j++) mma(sums[i][j], a[i], b[j / 2] + j % 2 * 2, IN());
        }
        now ^= 1;
        if (more) {
            keep<XShare>(from_x.held, xs[now]);
            keep<FShare>(from_f.held, fs[now]);
        }
        __syncthreads();
    }

    OUT *const mine = y + block.part * (INDEX)job.y_part + block.group * (INDEX)job.y_group;
    const int g = threadIdx.x % 32 / 4, pair = threadIdx.x % 4 * 2;
    #pragma unroll
    for (int i = 0; i < MI * 2; i++) {
        const INDEX m = block.row + warp_row + i * 8 + g;
        if (m >= (INDEX)job.m) continue;
        const INDEX to = row_of_result<FILTER>(m, job);
        #pragma unroll
        for (int j = 0; j < NI; j++)
            put<2>(mine, to, (INDEX)(block.column + warp_column + j * 8 + pair),
                   sums[i / 2][j] + i % 2 * 2, bias, block.group, job);
    }
}
