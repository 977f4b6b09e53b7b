// The windows of one block as the rows of a matrix: im2col, with the border by index and a cast.
//
// The matrix is (G, P, N), or (G, N, P) where positions run innermost, without gaps. P counts the
// positions (b, *o) of the block, N the elements of a row: (*k, c) or (c, *k), c in one group.
// Element [g, (b, o), (k, c)] is x[b, start + o * stride + k * dilation, g * C + c], and where that
// place lies outside x, a border as `einstride.geometry.padding_modes` defines it.
//
// One thread makes one element: neighbours in the matrix are neighbours in x along its own innermost
// axis (the caller chooses the order so), hence reads and writes are both coalesced. INDEX is int
// where every place and every element count fits, else long long.

#include "numbers.cuh"
#include "places.cuh"

#define MAX_RANK 12
#define THREADS 256

struct Axis {
    long long size, start, stride, dilation, step;  // step: of x, in elements
    Divisor out, taps;
};

struct Job {
    long long total, rank, mode, positions_inner, channels_inner;
    long long group_channels, channel_step, batch_step;
    Divisor inner, outer, row;  // of the matrix's last axis, of the one before it, inside a row
    Axis axes[MAX_RANK];
};

template <class IN, class OUT, class INDEX>
__global__ void __launch_bounds__(THREADS)
copy_rows(const IN *__restrict__ x, OUT *__restrict__ rows, const Job job) {
    const INDEX i = (INDEX)blockIdx.x * THREADS + (INDEX)threadIdx.x;
    if (i >= (INDEX)job.total) return;

    INDEX outer = quotient(i, job.inner);
    const INDEX inner = i - outer * (INDEX)job.inner.by;
    const INDEX group = quotient(outer, job.outer);
    outer -= group * (INDEX)job.outer.by;
    INDEX position = job.positions_inner ? inner : outer;
    const INDEX element = job.positions_inner ? outer : inner;
    const INDEX high = quotient(element, job.row);
    const INDEX low = element - high * (INDEX)job.row.by;
    const INDEX channel = job.channels_inner ? low : high;
    INDEX tap = job.channels_inner ? high : low;

    INDEX from = (group * (INDEX)job.group_channels + channel) * (INDEX)job.channel_step;
    bool zero = false;
    for (int a = (int)job.rank - 1; a >= 0; a--) {  // innermost first: what remains is for the rest
        const Axis &axis = job.axes[a];
        const INDEX p = quotient(position, axis.out), t = quotient(tap, axis.taps);
        INDEX at = (INDEX)axis.start
            + (position - p * (INDEX)axis.out.by) * (INDEX)axis.stride
            + (tap - t * (INDEX)axis.taps.by) * (INDEX)axis.dilation;
        if (at < 0 || at >= (INDEX)axis.size) at = border(at, (INDEX)axis.size, (int)job.mode);
        zero = zero || at < 0;
        from += at * (INDEX)axis.step;
        position = p;
        tap = t;
    }
    from += position * (INDEX)job.batch_step;
    rows[i] = zero ? OUT() : Cast<OUT>::of(x[from]);
}
