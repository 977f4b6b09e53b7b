// Implicit GEMM without tensor cores: a block computes a tile (BM, BN) of the product in steps of BK
// terms. While it multiplies one pair of tiles in shared memory, it loads the next pair from global
// memory into registers. Each thread keeps TM x TN sums.
//
// The terms of every sum are added in ascending order, so that bits depend on neither batch nor tile.
// IN is the type of x and f, SUM that of sums and shared memory, OUT that of y.

#include "numbers.cuh"
#include "indexing.cuh"
#include "implicit_gemm.cuh"

// Stores the elements that a thread has loaded to a tile (K, ROWS) in shared memory.
template <class S, int V, bool ALONG_K, class SUM, int PITCH, class IN>
__device__ inline void keep(const Run<IN, V> *held, SUM (*tile)[PITCH]) {
    constexpr int W = V * sizeof(SUM) > 16 ? 16 / sizeof(SUM) : V;  // elements of one store
    #pragma unroll
    for (int i = 0; i < S::COUNT; i++) {
        if (!S::has_run(i)) continue;
        #pragma unroll
        for (int v = 0; v < V; v += ALONG_K ? 1 : W) {
            if (ALONG_K) {
                tile[S::k(i) + v][S::row(i)] = (SUM)number(held[i].v[v]);
            } else {
                Run<SUM, W> run;
                #pragma unroll
                for (int j = 0; j < W; j++) run.v[j] = (SUM)number(held[i].v[v + j]);
                *(Run<SUM, W> *)&tile[S::k(i)][S::row(i) + v] = run;
            }
        }
    }
}

// Loads four elements of a tile's line, at most 16 bytes at once.
template <class SUM> __device__ inline void read4(const SUM *line, SUM *to) {
    constexpr int W = 16 / sizeof(SUM) < 4 ? 16 / sizeof(SUM) : 4;
    #pragma unroll
    for (int v = 0; v < 4; v += W) {
        const Run<SUM, W> run = *(const Run<SUM, W> *)(line + v);
        #pragma unroll
        for (int j = 0; j < W; j++) to[v + j] = run.v[j];
    }
}

template <class IN, class SUM, class OUT, class INDEX, int R, bool FILTER,
          int BM, int BN, int BK, int TM, int TN, int XV, bool X_ALONG_K, int FV, bool F_ALONG_K>
__global__ void __launch_bounds__(BM / TM * (BN / TN),
    at_least<INDEX, R>(BM / TM * (BN / TN), XV, FV))
implicit_gemm(const IN *__restrict__ x, const IN *__restrict__ f, const void *__restrict__ bias,
              OUT *__restrict__ y, const Job<R> job) {
    constexpr int THREADS = BM / TM * (BN / TN), PAD = 16 / sizeof(SUM);
    __shared__ __align__(16) SUM xs[2][BK][BM + PAD], fs[2][BK][BN + PAD];
    typedef Share<BM, BK, THREADS, XV, X_ALONG_K> XShare;
    typedef Share<BN, BK, THREADS, FV, F_ALONG_K> FShare;

    const Block<INDEX> block(job, BM, BN);
    const INDEX start = block.part * (INDEX)job.split;
    const INDEX end = min(start + (INDEX)job.split, (INDEX)job.k);
    Gathered<IN, XShare, XV, FILTER, R, INDEX> from_x(
        x + block.group * (INDEX)job.x_group, block.row, job);
    Stepped<IN, FShare, FV, FILTER, R, INDEX> from_f(
        f + block.group * (INDEX)job.f_group, block.column, job);

    SUM sums[TM][TN];
    #pragma unroll
    for (int i = 0; i < TM; i++)
        #pragma unroll
        for (int j = 0; j < TN; j++) sums[i][j] = 0;

    const int tx = threadIdx.x % (BN / TN), ty = threadIdx.x / (BN / TN);
    from_x.load(start, end, job);
    from_f.load(start, end, job);
    keep<XShare, XV, X_ALONG_K>(from_x.held, xs[0]);
    keep<FShare, FV, F_ALONG_K>(from_f.held, fs[0]);
    __syncthreads();
    int now = 0;
    for (INDEX k = start; k < end; k += BK) {
        const bool more = k + BK < end;
        if (more) {
            from_x.load(k + BK, end, job);
            from_f.load(k + BK, end, job);
        }
        #pragma unroll
        for (int t = 0; t < BK; t++) {
            SUM a[TM], b[TN];
            #pragma unroll
            for (int i = 0; i < TM; i += 4) read4(&xs[now][t][i * (BM / TM) + ty * 4], a + i);
            #pragma unroll
            for (int j = 0; j < TN; j += 4) read4(&fs[now][t][j * (BN / TN) + tx * 4], b + j);
            #pragma unroll
            for (int i = 0; i < TM; i++)
                #pragma unroll
                for (int j = 0; j < TN; j++) sums[i][j] += a[i] * b[j];
        }
        now ^= 1;
        if (more) {
            keep<XShare, XV, X_ALONG_K>(from_x.held, xs[now]);
            keep<FShare, FV, F_ALONG_K>(from_f.held, fs[now]);
        }
        __syncthreads();
    }

    OUT *const mine = y + block.part * (INDEX)job.y_part + block.group * (INDEX)job.y_group;
    #pragma unroll
    for (int i = 0; i < TM; i++) {
        const INDEX m = block.row + i / 4 * 4 * (BM / TM) + ty * 4 + i % 4;
        if (m >= (INDEX)job.m) continue;
        const INDEX to = row_of_result<FILTER>(m, job);
        #pragma unroll
        for (int j = 0; j < TN; j += 4)
            put<4>(mine, to, (INDEX)(block.column + j * (BN / TN) + tx * 4), sums[i] + j, bias,
                   block.group, job);
    }
}

// Adds the partial sums of a filter gradient in a fixed order.
template <class SUM, class OUT, class INDEX, int R>
__global__ void __launch_bounds__(256)
add_parts(const SUM *__restrict__ parts, OUT *__restrict__ y, const Job<R> job) {
    const INDEX i = (INDEX)blockIdx.x * 256 + (INDEX)threadIdx.x;
    const INDEX total = (INDEX)job.groups * (INDEX)job.m * (INDEX)job.n;
    if (i >= total) return;
    SUM sum = 0;
    for (INDEX part = 0; part < (INDEX)job.split; part++) sum += parts[part * total + i];
    const INDEX row = i / (INDEX)job.n, group = row / (INDEX)job.m;
    const INDEX to = row_of_result<true>((INDEX)(row - group * (INDEX)job.m), job);
    y[group * (INDEX)job.y_group + to + (i - row * (INDEX)job.n) * (INDEX)job.y_n] =
        Cast<OUT>::of(sum);
}
