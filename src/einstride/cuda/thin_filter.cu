// The filter gradient of groups of few channels: a block keeps a box of x, with its halo, and one of
// gy in shared memory, and goes on to its next box with the same sums.
//
// parts[part, (*k, c, d)] = the sum of conj(x) * gy over the boxes of a part: parts.cu adds them up.
// Where channels are not innermost in memory, parts are (d, *k, c), so that what a block writes lies
// together. A thread has one (k0, k2, c, d) and K1 taps of the middle axis; where that axis has more,
// its last thread also sums for taps that there are not, and these are dropped.
//
// Only positions that exist are summed. What a box has beyond them is zeros of gy, but a zero times a
// NaN or an infinity of x would be a NaN.

#include "thin.cuh"

template <class A, class B, class ACC, class INDEX, class WORD, class WORD_Y, int K1, int SLIDE>
__global__ void __launch_bounds__(THREADS, 2)
thin_filter(const A *__restrict__ x, const B *__restrict__ gy, ACC *__restrict__ parts,
            const Job job) {
    extern __shared__ __align__(16) unsigned char memory[];
    A *tile = (A *)(memory + job.tile_offset);
    B *grads = (B *)(memory + job.y_offset);
    const Axis *axes = job.axes;
    const int slab = (int)job.slab, group_in = (int)job.group_in, group_out = (int)job.group_out;
    const INDEX block = (INDEX)blockIdx.x, slab_number = block % (INDEX)job.slabs;
    const INDEX split = block / (INDEX)job.slabs, boxes = (INDEX)job.batch * (INDEX)axes[0].boxes
        * (INDEX)axes[1].boxes * (INDEX)axes[2].boxes;

    const int taps1 = (int)axes[1].taps, taps2 = (int)axes[2].taps, turns = (taps1 + K1 - 1) / K1;
    int rest = (int)threadIdx.x;
    const int slice = rest / (int)job.pairs;
    rest -= slice * (int)job.pairs;
    const int o = rest % slab, c = rest / slab % group_in;
    rest /= slab * group_in;
    const int k2 = rest % taps2, k1 = rest / taps2 % turns, k0 = rest / taps2 / turns;
    const int step1 = (int)job.x.tile_step[1], step_y = (int)job.y.tile_step[1];
    const int move1 = (int)axes[1].move * step1, reach1 = (int)axes[1].reach * step1;
    const int at = (o / group_out * group_in + c) * (int)job.x.tile_channel_step + k1 * K1 * reach1
        + k0 * (int)axes[0].reach * (int)job.x.tile_step[0]
        + k2 * (int)axes[2].reach * (int)job.x.tile_step[2];

    ACC sums[K1] = {};
    for (INDEX number = split; number < boxes; number += (INDEX)job.splits) {
        const Box<INDEX> box = box_of(job, number);
        INDEX from[3];
        int here[3];  // positions of this box that there are
        for (int a = 0; a < 3; a++) {
            from[a] = origin(axes[a], box.at[a]);
            const INDEX left = (INDEX)axes[a].count - box.at[a];
            here[a] = left < (INDEX)axes[a].box ? (int)left : (int)axes[a].box;
        }
        __syncthreads();
        stage<A, WORD>(x + box.batch * (INDEX)job.x.batch_step, tile, job.x, from,
                       slab_number * (INDEX)job.x.slab);
        stage<B, WORD_Y>(gy + box.batch * (INDEX)job.y.batch_step, grads, job.y, box.at,
                         slab_number * slab);
        __syncthreads();
        if (slice >= (int)job.slices) continue;
        for (int p0 = 0; p0 < here[0]; p0++)
            for (int p2 = slice; p2 < here[2]; p2 += (int)job.slices) {
                const A *seen = tile + at + p0 * (int)axes[0].move * (int)job.x.tile_step[0]
                    + p2 * (int)axes[2].move * (int)job.x.tile_step[2];
                const B *grad = grads + o * (int)job.y.tile_channel_step
                    + p0 * (int)job.y.tile_step[0] + p2 * (int)job.y.tile_step[2];
                const int rows = here[1];
                if constexpr (SLIDE) {  // stride 1, taps side by side: each number is read once
                    ACC window[K1] = {};
                    for (int j = 0; j < rows + K1 - 1; j++) {
#pragma unroll
                        for (int k = K1 - 1; k > 0; k--) window[k] = window[k - 1];
                        window[0] = j < rows ? Cast<ACC>::of(grad[j * step_y]) : ACC();
                        const ACC value = conjugate(Cast<ACC>::of(seen[j * step1]));
                        if (j >= K1 - 1 && j < rows) {
#pragma unroll
                            for (int k = 0; k < K1; k++)
                                sums[k] = plus_product(value, window[k], sums[k]);
                        } else {  // at both ends some taps meet no position
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
                                conjugate(Cast<ACC>::of(seen[p1 * move1 + k * reach1])), g, sums[k]);
                    }
            }
    }
    // The slices of a block are added up in order; what was staged is not needed any more.
    ACC *found = (ACC *)memory;  // (K1, slices, pairs)
    const int pairs = (int)job.pairs, slices = (int)job.slices;
    __syncthreads();
    if (slice < slices)
#pragma unroll
        for (int k = 0; k < K1; k++)
            found[(k * slices + slice) * pairs + (int)threadIdx.x - slice * pairs] = sums[k];
    __syncthreads();
    const INDEX d = slab_number * slab + o, channels = (INDEX)job.channels;
    const INDEX taps = (INDEX)axes[0].taps * taps1 * taps2;
    if (slice || d >= channels) return;
    parts += split * taps * group_in * channels;
    for (int k = 0; k < K1 && k1 * K1 + k < taps1; k++) {
        ACC sum = ACC();
        for (int i = 0; i < slices; i++)
            sum = added(sum, found[(k * slices + i) * pairs + (int)threadIdx.x]);
        const INDEX tap = (k0 * taps1 + k1 * K1 + k) * taps2 + k2;
        parts[job.channels_inner ? (tap * group_in + c) * channels + d
                                 : (d * taps + tap) * group_in + c] = sum;
    }
}
