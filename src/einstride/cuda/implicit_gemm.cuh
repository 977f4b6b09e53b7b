// A convolution as a product of matrices that are never written down: what its kernels share.
//
// Two kinds of indices. A *position* is (b, *o), an *element* of a window is (*t, c), or (c, *t)
// unless channels run innermost. Their sum is a place in x: on each axis start + o * stride +
// t * dilation, and where that lies outside x, a border as `einstride.geometry.padding_modes` defines it.
//
// - forward          y[position, n] = sum over elements   x[position + element] * f[element, n]
// - input gradient   the same over gy, once for each phase, with steps of f that may be negative
// - filter gradient  y[element, n]  = sum over positions  x[position + element] * f[position, n]
//
// So x is gathered, while f (the filter, or gy) and y are arrays with one step for each digit of
// their index. FILTER tells the third line from the first. INDEX is int where every place and every
// count fits, else long long. R is the number of spatial axes.

struct Axis {
    long long size, start, stride, dilation;
    long long x, f, y;  // steps, in elements
    Divisor out, taps;
};

template <int R> struct Job {
    long long m, n, k;  // of one group's product: rows, columns, terms
    long long split;    // terms that one block adds up; the next part's block takes the next ones
    long long m_tiles, n_tiles, groups;
    long long mode, channels_inner, relu, bias, bias_step;
    long long x_batch, x_channel, x_group;
    long long f_plain, f_n, f_group, f_linear, f_k;  // plain: of the batch, or of the channels
    long long y_plain, y_n, y_group, y_linear, y_m, y_part, y_wide;
    Divisor row;  // inside an element: channels or taps, whichever run innermost
    Axis axes[R];
};

template <int R, class INDEX> struct Digits { INDEX plain, axis[R]; };

// A position as (b, *o), or an element as (c, *t).
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

// What a position, or an element, adds to a place in x.
template <int R, class INDEX> struct Place {
    INDEX base, at[R];
    bool there;
};

template <bool POSITION, int R, class INDEX>
__device__ inline Place<R, INDEX> place(INDEX i, INDEX end, const Job<R> &job) {
    Place<R, INDEX> found;
    found.there = i < end;
    const Digits<R, INDEX> digit = digits<POSITION>(found.there ? i : (INDEX)0, job);
    found.base = digit.plain * (INDEX)(POSITION ? job.x_batch : job.x_channel);
    #pragma unroll
    for (int a = 0; a < R; a++)
        found.at[a] = POSITION
            ? (INDEX)job.axes[a].start + digit.axis[a] * (INDEX)job.axes[a].stride
            : digit.axis[a] * (INDEX)job.axes[a].dilation;
    return found;
}

// Which numbers of a tile (ROWS, K) a thread brings: runs of V along one of its sides.
template <int ROWS, int K, int THREADS, int V, bool ALONG_K> struct Share {
    static const unsigned SIDE = (ALONG_K ? K : ROWS) / V, RUNS = ROWS * K / V;
    static const int COUNT = (RUNS + THREADS - 1) / THREADS;
    static const int ROW_PLACES = ALONG_K ? COUNT : 1, K_PLACES = ALONG_K ? 1 : COUNT;
    static_assert(THREADS % SIDE == 0, "all runs of a thread begin at one place of that side");

    __device__ static bool mine(int i) {
        return RUNS % THREADS == 0 || threadIdx.x + i * THREADS < RUNS;
    }
    __device__ static int row(int i) {
        return ALONG_K ? (threadIdx.x + i * THREADS) / SIDE : threadIdx.x % SIDE * V;
    }
    __device__ static int k(int i) {
        return ALONG_K ? threadIdx.x % SIDE * V : (threadIdx.x + i * THREADS) / SIDE;
    }
};

// Tiles of x: rows are positions and terms are elements, or the reverse.
template <class IN, class S, int V, bool FILTER, int R, class INDEX> struct Gathered {
    const IN *x;
    Place<R, INDEX> rows[S::ROW_PLACES];
    Run<IN, V> held[S::COUNT];

    __device__ Gathered(const IN *x, INDEX row, const Job<R> &job) : x(x) {
        #pragma unroll
        for (int i = 0; i < S::ROW_PLACES; i++)
            rows[i] = place<!FILTER>((INDEX)(row + S::row(i)), (INDEX)job.m, job);
    }

    __device__ void load(INDEX k, INDEX end, const Job<R> &job) {
        Place<R, INDEX> term;
        #pragma unroll
        for (int i = 0; i < S::COUNT; i++) {
            if (i < S::K_PLACES) term = place<FILTER>((INDEX)(k + S::k(i)), end, job);
            const Place<R, INDEX> &row = rows[i < S::ROW_PLACES ? i : 0];
            INDEX from = row.base + term.base;
            bool inside = row.there && term.there && S::mine(i);
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

// Tiles of f: rows are the columns of the product.
template <class IN, class S, int V, bool FILTER, int R, class INDEX> struct Stepped {
    const IN *f;
    INDEX column;
    Run<IN, V> held[S::COUNT];

    __device__ Stepped(const IN *f, INDEX column, const Job<R> &job) : f(f), column(column) {}

    __device__ void load(INDEX k, INDEX end, const Job<R> &job) {
        INDEX from = 0;
        bool there = false;
        #pragma unroll
        for (int i = 0; i < S::COUNT; i++) {
            if (i < S::K_PLACES) {
                const INDEX term = k + S::k(i);
                there = term < end;
                from = 0;
                if (job.f_linear) {
                    from = term * (INDEX)job.f_k;
                } else if (there) {
                    const Digits<R, INDEX> digit = digits<FILTER>(term, job);
                    from = digit.plain * (INDEX)job.f_plain;
                    #pragma unroll
                    for (int a = 0; a < R; a++) from += digit.axis[a] * (INDEX)job.axes[a].f;
                }
            }
            const INDEX n = column + S::row(i);
            held[i] = Run<IN, V>();
            if (there && n < (INDEX)job.n && S::mine(i))
                held[i] = *(const Run<IN, V> *)(f + from + n * (INDEX)job.f_n);
        }
    }
};

// Where a row of the product lies in y.
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

// The bias, the ReLU, one rounding, and V neighbours of a row in one write where that is possible.
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

// Blocks on one multiprocessor: as many as 128 registers a thread allow. Where numbers are brought one
// by one, or places take 64 bits or many axes, more registers are better than spilled ones: for how
// many axes 128 will do was found with NVRTC.
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

// Which tile of which part a block makes. Columns go fastest: neighbours read the same x.
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
