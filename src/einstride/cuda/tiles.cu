// Convolution as a matrix product whose left factor is gathered from x: windows are not stored.
//
//     out[row, n] = bias[n] + sum over terms of x[row + term] * other[term, n]
//
// for each group. Rows and terms are lists of index tuples: positions (b, *o), and elements (*k, c)
// of the filter. In forward pass and input gradient rows are positions and terms are elements; in a
// filter gradient rows are elements and terms are positions, and the terms may be split among blocks,
// each of which writes a partial sum for parts.cu. Positions are ordered box by box, so that the
// windows of a block overlap as much as possible. Positions outside x are a border as in rows.cu.
//
// An input gradient with a stride has several phases (see output_phases.py), each with its own rows
// and terms. A block computes the same box of several phases, one after the other: they read the same
// elements of x, which are then in the cache, and write interleaved elements of the result.
//
// A block computes BM rows and BN columns with 128 threads, TM x TN results each. INDEX is int if all
// positions and offsets fit, else long long; sums are of type ACC.

#define THREADS 128
#define TABLE 64  // terms whose positions are in shared memory at a time

#include "numbers.cuh"
#include "indexing.cuh"

struct Digit {  // an axis of a list: length, side of a box, boxes; coefficients of its positions
    long long count, box, boxes, position_step, start, other_stride;
};

template <int AXES> struct List {  // batch and spatial axes, then the channels of one group
    long long total, box;          // entries, those of a box
    Digit digits[AXES + 1];
};

struct Phase {  // of one spatial axis: its digits of both lists, and offsets in `other` and `out`
    long long count, start, taps, other, out;
};

template <int AXES, int PHASES> struct Job {  // PHASES: capacity for each axis
    long long size[AXES], stride[AXES], mode;  // of x; strides in elements
    long long columns, groups, column_tiles, terms_inner, columns_inner;
    long long x_group, other_group, other_column, out_group, out_column;
    long long terms_of_a_part, part_step;
    List<AXES> rows, terms;
    long long phases[AXES - 1];
    Phase phase[AXES - 1][PHASES];
};

// Makes the lists of one phase in shared memory (by thread 0), and its offsets (in all threads).
template <class INDEX, int AXES, int PHASES>
__device__ __forceinline__ void select_phase(
    const Job<AXES, PHASES> &job, int number, List<AXES> *lists, INDEX &other, INDEX &out) {
    const bool writes = threadIdx.x == 0;
    if (writes) lists[0] = job.rows, lists[1] = job.terms;
    long long terms = job.terms.digits[AXES].count;
    for (int a = AXES - 2; a >= 0; a--) {
        const Phase &phase = job.phase[a][number % (int)job.phases[a]];
        number /= (int)job.phases[a];
        other += (INDEX)phase.other, out += (INDEX)phase.out;
        terms *= phase.taps;
        if (!writes) continue;
        lists[0].digits[a + 1].count = phase.count;
        lists[0].digits[a + 1].start = phase.start;
        lists[1].digits[a + 1].count = lists[1].digits[a + 1].boxes = phase.taps;
    }
    if (writes) lists[1].total = terms;
}

// Decoded entries of a list: contributions to positions in x, to offsets in x and in `other`.
template <class INDEX, int AXES, int N> struct Entries { INDEX at[AXES][N], from[N], other[N]; };

template <class INDEX, int AXES, int N>
__device__ inline void decode(
    const List<AXES> &list, INDEX entry, INDEX end, Entries<INDEX, AXES, N> &to, int slot) {
    INDEX outer = entry / (INDEX)list.box, inner = entry - outer * (INDEX)list.box, other = 0;
    bool inside = entry < end;
#pragma unroll
    for (int a = AXES; a >= 0; a--) {
        const Digit &d = list.digits[a];
        const INDEX high = outer / (INDEX)d.boxes, low = inner / (INDEX)d.box;
        const INDEX n = (outer - high * (INDEX)d.boxes) * (INDEX)d.box + inner - low * (INDEX)d.box;
        outer = high, inner = low;
        inside = inside && n < (INDEX)d.count;
        other += n * (INDEX)d.other_stride;
        const INDEX at = n * (INDEX)d.position_step + (INDEX)d.start;
        if (a == AXES) to.from[slot] = at;
        else to.at[a][slot] = at;
    }
    to.other[slot] = other;
    // a negative index of the batch marks a missing entry
    if (!inside) to.at[0][slot] = -(INDEX)1 << (8 * sizeof(INDEX) - 3);
}

template <class INDEX, int AXES, int N> __device__ inline bool is_missing(
    const Entries<INDEX, AXES, N> &entries, int slot) {
    return entries.at[0][slot] < 0;
}

// CONJUGATED: 0 neither factor, 1 the other, 2 x. BM = 128 / COLUMNS * TM, BN = COLUMNS * TN.
template <class A, class B, class ACC, class OUT, class INDEX,
          int AXES, int TM, int TN, int COLUMNS, int CONJUGATED, class JOB>
__device__ __forceinline__ void make_tile(
    const A *__restrict__ x, const B *__restrict__ other, const ACC *__restrict__ bias,
    OUT *__restrict__ out, const JOB &job, const List<AXES> &row_list,
    const List<AXES> &term_list, INDEX part) {
    constexpr int ROWS = THREADS / COLUMNS, BM = ROWS * TM, BN = COLUMNS * TN;
    constexpr int BK = sizeof(ACC) > 8 ? 2 : sizeof(ACC) > 4 ? 4 : 8;
    __shared__ Entries<INDEX, AXES, BM> rows;
    __shared__ Entries<INDEX, AXES, TABLE> terms;
    __shared__ ACC left[BK][BM + 4], right[BK][BN];

    INDEX tile = (INDEX)blockIdx.x;
    const INDEX column = tile % (INDEX)job.column_tiles * BN;
    tile /= (INDEX)job.column_tiles;
    const INDEX group = tile % (INDEX)job.groups, row = tile / (INDEX)job.groups * BM;
    x += group * (INDEX)job.x_group;
    other += group * (INDEX)job.other_group;

    const int thread = (int)threadIdx.x, tx = thread % COLUMNS, ty = thread / COLUMNS;
    for (int i = thread; i < BM; i += THREADS)
        decode(row_list, row + (INDEX)i, (INDEX)row_list.total, rows, i);

    const INDEX first = part * (INDEX)job.terms_of_a_part;
    INDEX last = first + (INDEX)job.terms_of_a_part;
    if (last > (INDEX)term_list.total) last = (INDEX)term_list.total;

    ACC sums[TM][TN] = {};
    for (INDEX start = first; start < last; start += TABLE) {
        if (thread < TABLE) decode(term_list, start + (INDEX)thread, last, terms, thread);
        __syncthreads();
        for (int begin = 0; begin < TABLE && start + begin < last; begin += BK) {
            for (int i = thread; i < BK * BM; i += THREADS) {
                const int k = job.terms_inner ? i % BK : i / BM;
                const int m = job.terms_inner ? i / BK : i % BM;
                INDEX from = rows.from[m] + terms.from[begin + k];
                bool zero = false;
#pragma unroll
                for (int a = 0; a < AXES; a++) {
                    INDEX at = rows.at[a][m] + terms.at[a][begin + k];
                    if (at < 0 || at >= (INDEX)job.size[a])
                        at = a ? border(at, (INDEX)job.size[a], (int)job.mode) : -1;
                    zero = zero || at < 0;
                    from += at * (INDEX)job.stride[a];
                }
                ACC value = ACC();
                if (!zero) value = Cast<ACC>::of(x[from]);
                left[k][m] = CONJUGATED == 2 ? conjugate(value) : value;
            }
            for (int i = thread; i < BK * BN; i += THREADS) {
                const int k = job.columns_inner ? i / BN : i % BK;
                const int n = job.columns_inner ? i % BN : i / BK;
                ACC value = ACC();
                if (column + n < (INDEX)job.columns && !is_missing(terms, begin + k))
                    value = Cast<ACC>::of(
                        other[terms.other[begin + k] + (column + n) * (INDEX)job.other_column]);
                right[k][n] = CONJUGATED == 1 ? conjugate(value) : value;
            }
            __syncthreads();
#pragma unroll
            for (int k = 0; k < BK; k++) {
                ACC a[TM], b[TN];
#pragma unroll
                for (int i = 0; i < TM; i++) a[i] = left[k][ty + i * ROWS];
#pragma unroll
                for (int j = 0; j < TN; j++) b[j] = right[k][tx + j * COLUMNS];
#pragma unroll
                for (int i = 0; i < TM; i++)
#pragma unroll
                    for (int j = 0; j < TN; j++) sums[i][j] = plus_product(a[i], b[j], sums[i][j]);
            }
            __syncthreads();
        }
    }
    if (first >= last) __syncthreads();  // no terms: `rows` must be complete before it is read

    out += group * (INDEX)job.out_group + part * (INDEX)job.part_step;
#pragma unroll
    for (int i = 0; i < TM; i++) {
        const int m = ty + i * ROWS;
        if (is_missing(rows, m)) continue;
#pragma unroll
        for (int j = 0; j < TN; j++) {
            const INDEX n = column + tx + j * COLUMNS;
            if (n >= (INDEX)job.columns) continue;
            ACC value = sums[i][j];
            if (bias) value = added(value, bias[group * (INDEX)job.columns + n]);
            out[rows.other[m] + n * (INDEX)job.out_column] = Cast<OUT>::of(value);
        }
    }
}

template <class A, class B, class ACC, class OUT, class INDEX,
          int AXES, int TM, int TN, int COLUMNS, int CONJUGATED, int PHASES>
__global__ void __launch_bounds__(THREADS, AXES > 4 ? 1 : 0)  // else some spill
tile_product(const A *__restrict__ x, const B *__restrict__ other, const ACC *__restrict__ bias,
             OUT *__restrict__ out, const Job<AXES, PHASES> job) {
    if constexpr (PHASES == 1) {
        make_tile<A, B, ACC, OUT, INDEX, AXES, TM, TN, COLUMNS, CONJUGATED>(
            x, other, bias, out, job, job.rows, job.terms, (INDEX)blockIdx.y);
    } else {
        __shared__ List<AXES> lists[2];
        int phases = 1;
        for (int a = 0; a < AXES - 1; a++) phases *= (int)job.phases[a];
        for (int phase = (int)blockIdx.y; phase < phases; phase += (int)gridDim.y) {
            INDEX from = 0, to = 0;
            select_phase(job, phase, lists, from, to);
            __syncthreads();  // all have written their tile of the phase before
            make_tile<A, B, ACC, OUT, INDEX, AXES, TM, TN, COLUMNS, CONJUGATED>(
                x, other + from, bias, out + to, job, lists[0], lists[1], (INDEX)0);
        }
    }
}
