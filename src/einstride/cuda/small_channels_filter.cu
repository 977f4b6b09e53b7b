// Filter gradient of groups of few channels: a block loops over boxes, each with a tile of x (with
// its halo) and a tile of gy in shared memory, and keeps its sums in registers.
//
// parts[part, (*k, c, d)] = sum of conj(x) * gy over the boxes of a part, a partial sum for parts.cu.
// If channels are not innermost in memory, parts are (d, *k, c), so that the stores of a block are
// contiguous. A thread sums for one (k0, k2, c, d) and K1 taps of the middle axis; the last thread of
// that axis may have taps beyond the filter, whose sums are not stored.
//
// Only positions inside gy are summed: beyond them the tile of gy holds zeros, but zero times a NaN
// or infinity of x would be NaN.

#include "small_channels.cuh"

template <class A, class B, class ACC, class INDEX, class WORD, class WORD_Y, int K1, int SLIDE>
__global__ void __launch_bounds__(THREADS, 2)
small_channels_filter(
    const A *__restrict__ x, const B *__restrict__ gy, ACC *__restrict__ parts, const Job job) {
    extern __shared__ __align__(16) unsigned char memory[];
    A *tile = (A *)(memory + job.tile_offset);
    B *grads = (B *)(memory + job.y_offset);
    const Axis *axes = job.axes;
    const int slab = (int)job.slab, group_in = (int)job.group_in, group_out = (int)job.group_out;
    const INDEX block = (INDEX)blockIdx.x, slab_number = block % (INDEX)job.slabs;
    const INDEX split = block / (INDEX)job.slabs, boxes = (INDEX)job.batch * (INDEX)axes[0].boxes
        * (INDEX)axes[1].boxes * (INDEX)axes[2].boxes;

    const int taps1 = (int)axes[1].taps, taps2 = (int)axes[2].taps;
    const int columns = (taps1 + K1 - 1) / K1;
    int rest = (int)threadIdx.x;
    const int slice = rest / (int)job.pairs;
    rest -= slice * (int)job.pairs;
    const int o = rest % slab, c = rest / slab % group_in;
    rest /= slab * group_in;
    const int k2 = rest % taps2, k1 = rest / taps2 % columns, k0 = rest / taps2 / columns;
    const int step1 = (int)job.x.tile_stride[1], step_y = (int)job.y.tile_stride[1];
    const int row_step = (int)axes[1].output_step * step1, tap_step = (int)axes[1].tap_step * step1;
    const int at = (o / group_out * group_in + c) * (int)job.x.tile_channel_stride
        + k1 * K1 * tap_step
        + k0 * (int)axes[0].tap_step * (int)job.x.tile_stride[0]
        + k2 * (int)axes[2].tap_step * (int)job.x.tile_stride[2];

    ACC sums[K1] = {};
    for (INDEX number = split; number < boxes; number += (INDEX)job.splits) {
        const Box<INDEX> box = box_of(job, number);
        INDEX from[3];
        int inside[3];  // positions of the box that lie inside gy
        for (int a = 0; a < 3; a++) {
            from[a] = origin(axes[a], box.at[a]);
            const INDEX left = (INDEX)axes[a].count - box.at[a];
            inside[a] = left < (INDEX)axes[a].box ? (int)left : (int)axes[a].box;
        }
        __syncthreads();
        stage<A, WORD>(x + box.batch * (INDEX)job.x.batch_stride, tile, job.x, from,
                       slab_number * (INDEX)job.x.slab);
        stage<B, WORD_Y>(gy + box.batch * (INDEX)job.y.batch_stride, grads, job.y, box.at,
                         slab_number * slab);
        __syncthreads();
        if (slice >= (int)job.slices) continue;
        for (int p0 = 0; p0 < inside[0]; p0++)
            for (int p2 = slice; p2 < inside[2]; p2 += (int)job.slices) {
                const A *inputs = tile + at
                    + p0 * (int)axes[0].output_step * (int)job.x.tile_stride[0]
                    + p2 * (int)axes[2].output_step * (int)job.x.tile_stride[2];
                const B *grad = grads + o * (int)job.y.tile_channel_stride
                    + p0 * (int)job.y.tile_stride[0] + p2 * (int)job.y.tile_stride[2];
                const int rows = inside[1];
                if constexpr (SLIDE) {  // stride and dilation 1: each element is read once
                    ACC window[K1] = {};
                    for (int j = 0; j < rows + K1 - 1; j++) {
#pragma unroll
                        for (int k = K1 - 1; k > 0; k--) window[k] = window[k - 1];
                        window[0] = j < rows ? Cast<ACC>::of(grad[j * step_y]) : ACC();
                        const ACC value = conjugate(Cast<ACC>::of(inputs[j * step1]));
                        if (j >= K1 - 1 && j < rows) {
#pragma unroll
                            for (int k = 0; k < K1; k++)
                                sums[k] = plus_product(value, window[k], sums[k]);
                        } else {  // at both ends some taps have no position
#pragma unroll
                            for (int k = 0; k < K1; k++)
                                if (j >= k && j - k < rows)
                                    sums[k] = plus_product(value, window[k], sums[k]);
                        }
                    }
                } else
                    for (int p1 = 0; p1 < rows; p1++) {
                        const ACC g = Cast<ACC>::of(grad[p1 * step_y]);
#pragma unroll
                        for (int k = 0; k < K1; k++)
                            sums[k] = plus_product(
                                conjugate(Cast<ACC>::of(inputs[p1 * row_step + k * tap_step])), g,
                                sums[k]);
                    }
            }
    }
    // Adds the slices of a block in a fixed order, in the shared memory of the tiles.
    ACC *slice_sums = (ACC *)memory;  // (K1, slices, pairs)
    const int pairs = (int)job.pairs, slices = (int)job.slices;
    __syncthreads();
    if (slice < slices)
#pragma unroll
        for (int k = 0; k < K1; k++)
            slice_sums[(k * slices + slice) * pairs + (int)threadIdx.x - slice * pairs] = sums[k];
    __syncthreads();
    const INDEX d = slab_number * slab + o, channels = (INDEX)job.channels;
    const INDEX taps = (INDEX)axes[0].taps * taps1 * taps2;
    if (slice || d >= channels) return;
    parts += split * taps * group_in * channels;
    for (int k = 0; k < K1 && k1 * K1 + k < taps1; k++) {
        ACC sum = ACC();
        for (int i = 0; i < slices; i++)
            sum = added(sum, slice_sums[(k * slices + i) * pairs + (int)threadIdx.x]);
        const INDEX tap = (k0 * taps1 + k1 * K1 + k) * taps2 + k2;
        parts[job.channels_inner ? (tap * group_in + c) * channels + d
                                 : (d * taps + tap) * group_in + c] = sum;
    }
}
