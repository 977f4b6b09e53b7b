// Convolution of groups of few channels, e.g. depthwise: memory is the limit, so each element of x is
// read from it once. A block copies a tile of x, a box with its halo for a slab of whole groups, to
// shared memory, including the border; the loops over taps then need no bounds checks.
//
// Forward pass and input gradient (where x stands for gy) have one index map: output p reads
//
//     x[(p * output_step + start + k * tap_step) / denominator]
//
// for the taps k for which this is an integer; (output_step, denominator) is (stride, 1) or
// (1, stride). All layouts are given by strides of x, f and y. A thread computes RUN positions of the
// middle axis for VEC channels. Sums are of type ACC.

#include "small_channels.cuh"

template <class A, class B, class ACC, class OUT, class INDEX, class WORD,
          int VEC, int RUN, int K1, int CONJUGATED>
__global__ void __launch_bounds__(THREADS, 2)
small_channels_correlate(
    const A *__restrict__ x, const B *__restrict__ f, const ACC *__restrict__ bias,
    OUT *__restrict__ out, const Job job) {
    extern __shared__ __align__(16) unsigned char memory[];
    ACC *weights = (ACC *)memory;  // (taps, channels in, slab)
    A *tile = (A *)(memory + job.tile_offset);
    const Axis *axes = job.axes;
    const int slab = (int)job.slab, group_in = (int)job.group_in, group_out = (int)job.group_out;
    const int thread = (int)threadIdx.x;

    const INDEX block = (INDEX)blockIdx.x, slab_number = block % (INDEX)job.slabs;
    const Box<INDEX> box = box_of(job, block / (INDEX)job.slabs);
    const INDEX first = slab_number * slab;
    INDEX from[3];
    int base[3];  // numerator of the first position, relative to the tile: <= 0
    for (int a = 0; a < 3; a++) {
        from[a] = origin(axes[a], box.at[a]);
        base[a] = (int)(box.at[a] * (INDEX)axes[a].output_step + (INDEX)axes[a].start
                        - from[a] * (INDEX)axes[a].denominator);
    }
    stage<A, WORD>(x + box.batch * (INDEX)job.x.batch_stride, tile, job.x, from,
                   slab_number * (INDEX)job.x.slab);

    const int taps0 = (int)axes[0].taps, taps1 = (int)axes[1].taps, taps2 = (int)axes[2].taps;
    for (int i = thread; i < taps0 * taps1 * taps2 * group_in * slab; i += THREADS) {
        int rest = i / slab;
        const INDEX o = first + (i - rest * slab);
        const INDEX c = rest % group_in;
        rest /= group_in;
        const int k2 = rest % taps2, k1 = rest / taps2 % taps1, k0 = rest / taps2 / taps1;
        ACC value = ACC();
        if (o < (INDEX)job.channels)
            value = Cast<ACC>::of(
                f[k0 * (INDEX)job.filter_stride[0] + k1 * (INDEX)job.filter_stride[1]
                  + k2 * (INDEX)job.filter_stride[2] + c * (INDEX)job.filter_in
                  + (o % group_out) * (INDEX)job.filter_out
                  + o / group_out * (INDEX)job.filter_group]);
        weights[i] = CONJUGATED ? conjugate(value) : value;
    }
    __syncthreads();

    const int units = slab / VEC, box0 = (int)axes[0].box, box2 = (int)axes[2].box;
    const int items = units * box0 * box2 * ((int)axes[1].box / RUN);
    const int step1 = (int)job.x.tile_stride[1], weight_row = taps2 * group_in * slab;
    for (int item = thread; item < items; item += THREADS) {
        int digit[4], rest = item;  // channels and two axes in memory order, then the third axis
        for (int i = 0; i < 3; i++) {
            const int q = quotient(rest, job.items[i]);
            digit[i] = rest - q * (int)job.items[i].by;
            rest = q;
        }
        digit[3] = rest;
        const bool inner = job.channels_inner;
        const int o = (inner ? digit[0] : digit[3]) * VEC, p2 = inner ? digit[1] : digit[0];
        const int run = inner ? digit[2] : digit[1], p0 = inner ? digit[3] : digit[2];
        const int space = (int)job.run_space, high = run / space;
        const int p1 = high * space * RUN + run - high * space;

        int tap[3], at = o / group_out * group_in * (int)job.x.tile_channel_stride;
        const int p[3] = {p0, p1, p2};
        for (int a = 0; a < 3; a++) {
            const int t = base[a] + p[a] * (int)axes[a].output_step, den = (int)axes[a].denominator;
            tap[a] = 0;
            if (den > 1)
                while (tap[a] < axes[a].taps && (t + tap[a] * (int)axes[a].tap_step) % den) tap[a]++;
            at += (t + tap[a] * (int)axes[a].tap_step) / den * (int)job.x.tile_stride[a];
        }

        ACC sums[RUN][VEC] = {};
        for (int k0 = tap[0], at0 = at; k0 < taps0;
             k0 += (int)axes[0].tap_stride, at0 += (int)axes[0].tap_tile)
            for (int k2 = tap[2], at2 = at0; k2 < taps2;
                 k2 += (int)axes[2].tap_stride, at2 += (int)axes[2].tap_tile)
                for (int c = 0; c < group_in; c++) {
                    const A *inputs = tile + at2 + c * (int)job.x.tile_channel_stride;
                    const ACC *weight =
                        weights + ((k0 * taps1 * taps2 + k2) * group_in + c) * slab + o;
                    if constexpr (K1 > 0) {  // stride and dilation 1: outputs share elements
                        ACC w[K1][VEC];
#pragma unroll
                        for (int k = 0; k < K1; k++)
#pragma unroll
                            for (int v = 0; v < VEC; v++) w[k][v] = weight[k * weight_row + v];
#pragma unroll
                        for (int j = 0; j < RUN + K1 - 1; j++) {
                            const Pack<A, VEC> pack = *(const Pack<A, VEC> *)(inputs + j * step1);
#pragma unroll
                            for (int v = 0; v < VEC; v++) {
                                const ACC value = Cast<ACC>::of(pack.v[v]);
#pragma unroll
                                for (int k = 0; k < K1; k++)
                                    if (j - k >= 0 && j - k < RUN)
                                        sums[j - k][v] = plus_product(value, w[k][v], sums[j - k][v]);
                            }
                        }
                    } else {
                        for (int k = tap[1]; k < taps1;
                             k += (int)axes[1].tap_stride, inputs += (int)axes[1].tap_tile)
#pragma unroll
                            for (int r = 0; r < RUN; r++) {
                                const Pack<A, VEC> pack =
                                    *(const Pack<A, VEC> *)(inputs + r * (int)job.run_step);
#pragma unroll
                                for (int v = 0; v < VEC; v++)
                                    sums[r][v] = plus_product(Cast<ACC>::of(pack.v[v]),
                                                              weight[k * weight_row + v], sums[r][v]);
                            }
                    }
                }

        const INDEX outer = box.at[0] + p0, last = box.at[2] + p2;
        if (outer >= (INDEX)axes[0].count || last >= (INDEX)axes[2].count) continue;
        if (first + o >= (INDEX)job.channels) continue;
        OUT *to = out + box.batch * (INDEX)job.batch_stride + (first + o) * (INDEX)job.channel_stride
            + outer * (INDEX)axes[0].out_step + last * (INDEX)axes[2].out_step;
#pragma unroll
        for (int r = 0; r < RUN; r++) {
            const INDEX row = box.at[1] + p1 + r * space;
            if (row >= (INDEX)axes[1].count) continue;
            Pack<OUT, VEC> made;
#pragma unroll
            for (int v = 0; v < VEC; v++) {
                const bool biased = bias && first + o + v < (INDEX)job.channels;
                made.v[v] = Cast<OUT>::of(
                    biased ? added(sums[r][v], bias[first + o + v]) : sums[r][v]);
            }
            OUT *target = to + row * (INDEX)axes[1].out_step;
            if (VEC > 1 && job.packed) *(Pack<OUT, VEC> *)target = made;
            else
#pragma unroll
                for (int v = 0; v < VEC; v++)
                    if (first + o + v < (INDEX)job.channels)
                        target[v * (INDEX)job.channel_stride] = made.v[v];
        }
    }
}
