// Copies windows of x into the rows of a matrix (im2col), with padding and a cast.
//
// The matrix is (G, P, N), or (G, N, P) if positions run innermost, without gaps. P is the number of
// positions (b, *o), N that of elements of a row: (*k, c) or (c, *k), with c in one group.
// Element [g, (b, o), (k, c)] is x[b, start + o * stride + k * dilation, g * C + c]; if that position
// lies outside x, it is an element of the border as `einstride.geometry.padding_modes` defines it.
//
// One thread copies one element. The caller chooses the order of the matrix so that neighbours in it
// are neighbours in x along its innermost axis: loads and stores are coalesced. INDEX is int if all
// positions and offsets fit, else long long.

#include "numbers.cuh"
#include "indexing.cuh"

#define MAX_RANK 12
#define THREADS 256

struct Axis {
    long long size, start, stride, dilation, x_stride;  // x_stride: in elements
    Divisor out, taps;
};

struct Job {
    long long total, rank, mode, positions_inner, channels_inner;
    long long group_channels, channel_step, batch_step;
    Divisor inner, outer, row;  // lengths: last axis, axis before it, innermost digit of a row
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
    for (int a = (int)job.rank - 1; a >= 0; a--) {  // from the innermost axis
        const Axis &axis = job.axes[a];
        const INDEX p = quotient(position, axis.out), t = quotient(tap, axis.taps);
        INDEX at = (INDEX)axis.start
            + (position - p * (INDEX)axis.out.by) * (INDEX)axis.stride
            + (tap - t * (INDEX)axis.taps.by) * (INDEX)axis.dilation;
        if (at < 0 || at >= (INDEX)axis.size) at = border(at, (INDEX)axis.size, (int)job.mode);
        zero = zero || at < 0;
        from += at * (INDEX)axis.x_stride;
        position = p;
        tap = t;
    }
    from += position * (INDEX)job.batch_step;
    rows[i] = zero ? OUT() : Cast<OUT>::of(x[from]);
}
