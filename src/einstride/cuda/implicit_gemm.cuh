// Shared code of the implicit GEMM kernels: convolution as a product of matrices that are not stored.
//
// There are two kinds of indices. A *position* is (b, *o), an *element* of a window is (*t, c), or
// (c, *t) unless channels run innermost. Together they give an index of x: start + o * stride +
// t * dilation on each axis; outside x is a border as in `einstride.geometry.padding_modes`.
//
// - forward          y[position, n] = sum over elements   x[position + element] * f[element, n]
// - input gradient   as forward, with gy for x, for each phase; strides of f may be negative
// - filter gradient  y[element, n]  = sum over positions  x[position + element] * f[position, n]
//
// So x is gathered, while f (the filter, or gy) and y are arrays with one stride for each digit of
// their index. FILTER is true for a filter gradient. INDEX is int if all indices and offsets fit,
// else long long. R is the number of spatial axes.

struct Axis {
    long long size, start, stride, dilation;
    long long x, f, y;  // strides, in elements
    Divisor out, taps;
};

template <int R> struct Job {
    long long m, n, k;  // of one group's product: rows, columns, terms
    long long split;    // terms of one partial sum
    long long m_tiles, n_tiles, groups;
    long long mode, channels_inner, relu, bias, bias_step;
    long long x_batch, x_channel, x_group;
    long long f_plain, f_n, f_group, f_linear, f_k;  // plain: batch or channels
    long long y_plain, y_n, y_group, y_linear, y_m, y_part, y_wide;
    Divisor row;  // innermost digit of an element: channels or taps
    Axis axes[R];
};

template <int R, class INDEX> struct Digits { INDEX plain, axis[R]; };

// Splits the number of a position into (b, *o), or that of an element into (c, *t).
template <bool POSITION, int R, class INDEX>
__device__ inline Digits<R, INDEX> digits(INDEX i, const Job<R> &job) {
    Digits<R, INDEX> found;
    if (!POSITION) {
        const INDEX high = quotient(i, job.row), low = i - high * (INDEX)job.row.by;
        found.plain = job.channels_inner ? low : high;
        i = job.channels_inner ? high : low;
    }
    #pragma unroll
    for (int a = R - 1; a >= 0; a--) {
        const Divisor &d = POSITION ? job.axes[a].out : job.axes[a].taps;
        const INDEX rest = quotient(i, d);
        found.axis[a] = i - rest * (INDEX)d.by;
        i = rest;
    }
    if (POSITION) found.plain = i;
    return found;
}

// The contribution of a position, or of an element, to an index of x.
template <int R, class INDEX> struct Contribution {
    INDEX base, at[R];  // offset of batch or channel; positions on the spatial axes
    bool exists;
};

template <bool POSITION, int R, class INDEX>
__device__ inline Contribution<R, INDEX> contribution(INDEX i, INDEX end, const Job<R> &job) {
    Contribution<R, INDEX> found;
    found.exists = i < end;
    const Digits<R, INDEX> digit = digits<POSITION>(found.exists ? i : (INDEX)0, job);
    found.base = digit.plain * (INDEX)(POSITION ? job.x_batch : job.x_channel);
    #pragma unroll
    for (int a = 0; a < R; a++)
        found.at[a] = POSITION
            ? (INDEX)job.axes[a].start + digit.axis[a] * (INDEX)job.axes[a].stride
            : digit.axis[a] * (INDEX)job.axes[a].dilation;
    return found;
}

// The elements of a tile (ROWS, K) that a thread loads: runs of V along one of its sides.
template <int ROWS, int K, int THREADS, int V, bool ALONG_K> struct Share {
    static const unsigned SIDE = (ALONG_K ? K : ROWS) / V, RUNS = ROWS * K / V;
    static const int COUNT = (RUNS + THREADS - 1) / THREADS;
    static const int ROW_COUNT = ALONG_K ? COUNT : 1, K_COUNT = ALONG_K ? 1 : COUNT;
    static_assert(THREADS % SIDE == 0, "all runs of a thread begin at one index of that side");

    __device__ static bool has_run(int i) {
        return RUNS % THREADS == 0 || threadIdx.x + i * THREADS < RUNS;
    }
    __device__ static int row(int i) {
        return ALONG_K ? (threadIdx.x + i * THREADS) / SIDE : threadIdx.x % SIDE * V;
    }
    __device__ static int k(int i) {
        return ALONG_K ? threadIdx.x % SIDE * V : (threadIdx.x + i * THREADS) / SIDE;
    }
};

// Loads tiles of x: rows are positions and terms are elements, or the reverse.
template <class IN, class S, int V, bool FILTER, int R, class INDEX> struct Gathered {
    const IN *x;
    Contribution<R, INDEX> rows[S::ROW_COUNT];
    Run<IN, V> held[S::COUNT];

    __device__ Gathered(const IN *x, INDEX row, const Job<R> &job) : x(x) {
        #pragma unroll
        for (int i = 0; i < S::ROW_COUNT; i++)
            rows[i] = contribution<!FILTER>((INDEX)(row + S::row(i)), (INDEX)job.m, job);
    }

    __device__ void load(INDEX k, INDEX end, const Job<R> &job) {
        Contribution<R, INDEX> term;
        #pragma unroll
        for (int i = 0; i < S::COUNT; i++) {
            if (i < S::K_COUNT) term = contribution<FILTER>((INDEX)(k + S::k(i)), end, job);
            const Contribution<R, INDEX> &row = rows[i < S::ROW_COUNT ? i : 0];
            INDEX from = row.base + term.base;
            bool inside = row.exists && term.exists && S::has_run(i);
            #pragma unroll
            for (int a = 0; a < R; a++) {
                INDEX at = row.at[a] + term.at[a];
                const INDEX size = (INDEX)job.axes[a].size;
                if (at < 0 || at >= size) at = border(at, size, (int)job.mode);
                inside = inside && at >= 0;
                from += at * (INDEX)job.axes[a].x;
            }
            held[i] = Run<IN, V>();
            if (inside) held[i] = *(const Run<IN, V> *)(x + from);
        }
    }
};

// Loads tiles of f, whose rows are the columns of the product.
template <class IN, class S, int V, bool FILTER, int R, class INDEX> struct Stepped {
    const IN *f;
    INDEX column;
    Run<IN, V> held[S::COUNT];

    __device__ Stepped(const IN *f, INDEX column, const Job<R> &job) : f(f), column(column) {}

    __device__ void load(INDEX k, INDEX end, const Job<R> &job) {
        INDEX from = 0;
        bool exists = false;
        #pragma unroll
        for (int i = 0; i < S::COUNT; i++) {
            if (i < S::K_COUNT) {
                const INDEX term = k + S::k(i);
                exists = term < end;
                from = 0;
                if (job.f_linear) {
                    from = term * (INDEX)job.f_k;
                } else if (exists) {
                    const Digits<R, INDEX> digit = digits<FILTER>(term, job);
                    from = digit.plain * (INDEX)job.f_plain;
                    #pragma unroll
                    for (int a = 0; a < R; a++) from += digit.axis[a] * (INDEX)job.axes[a].f;
                }
            }
            const INDEX n = column + S::row(i);
            held[i] = Run<IN, V>();
            if (exists && n < (INDEX)job.n && S::has_run(i))
                held[i] = *(const Run<IN, V> *)(f + from + n * (INDEX)job.f_n);
        }
    }
};

// The offset in y of a row of the product.
template <bool FILTER, int R, class INDEX>
__device__ inline INDEX row_of_result(INDEX m, const Job<R> &job) {
    if (job.y_linear) return m * (INDEX)job.y_m;
    const Digits<R, INDEX> digit = digits<!FILTER>(m, job);
    INDEX to = digit.plain * (INDEX)job.y_plain;
    #pragma unroll
    for (int a = 0; a < R; a++) to += digit.axis[a] * (INDEX)job.axes[a].y;
    return to;
}

enum { NO_BIAS, FLOAT32, FLOAT64, FLOAT16, BFLOAT16 };

template <class SUM>
__device__ inline SUM bias_of(const void *bias, long long i, int kind) {
    if (kind == FLOAT32) return (SUM)((const float *)bias)[i];
    if (kind == FLOAT64) return (SUM)((const double *)bias)[i];
    if (kind == FLOAT16) return (SUM)number(((const Float16 *)bias)[i]);
    return (SUM)number(((const Bfloat16 *)bias)[i]);
}

// Stores V neighbours of a row, in one store if possible, after bias, ReLU and one rounding.
template <int V, class SUM, class OUT, int R, class INDEX>
__device__ inline void put(
    OUT *y, INDEX to, INDEX n, const SUM *sums, const void *bias, INDEX group, const Job<R> &job) {
    Run<OUT, V> run;
    #pragma unroll
    for (int j = 0; j < V; j++) {
        SUM sum = sums[j];
        if (job.bias && n + j < (INDEX)job.n)
            sum += bias_of<SUM>(bias, (group * job.n + n + j) * job.bias_step, (int)job.bias);
        if (job.relu) sum = sum < 0 ? (SUM)0 : sum;  // a NaN stays
        run.v[j] = Cast<OUT>::of(sum);
    }
    if (job.y_wide) {
        if (n < (INDEX)job.n) *(Run<OUT, V> *)(y + to + n) = run;
        return;
    }
    #pragma unroll
    for (int j = 0; j < V; j++)
        if (n + j < (INDEX)job.n) y[to + (n + j) * (INDEX)job.y_n] = run.v[j];
}

// The fewest blocks on one multiprocessor: as many as 128 registers per thread allow. If elements are
// loaded one by one, indices take 64 bits or there are many axes, 128 registers do not suffice, so
// there is no such bound. For how many axes 128 suffice was measured with NVRTC.
template <class INDEX, int R> __device__ constexpr int at_least(int threads, int x_run, int f_run) {
#if __CUDA_ARCH__ >= 1200
    constexpr int axes = 0;
#elif __CUDA_ARCH__ >= 900
    constexpr int axes = 3;
#elif __CUDA_ARCH__ >= 800
    constexpr int axes = 2;
#else
    constexpr int axes = 0;
#endif
    return sizeof(INDEX) == 4 && R <= axes && x_run > 1 && f_run > 1 ? 512 / threads : 1;
}

// The tile and part that a block computes. Columns run fastest: neighbours read the same x.
template <class INDEX> struct Block {
    INDEX row, column, group, part;

    template <int R>
    __device__ Block(const Job<R> &job, int rows, int columns) {
        INDEX at = (INDEX)blockIdx.x;
        column = at % (INDEX)job.n_tiles * columns;
        at /= (INDEX)job.n_tiles;
        row = at % (INDEX)job.m_tiles * rows;
        at /= (INDEX)job.m_tiles;
        group = at % (INDEX)job.groups;
        part = at / (INDEX)job.groups;
    }
};
