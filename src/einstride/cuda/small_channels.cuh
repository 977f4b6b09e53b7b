// Shared code of the kernels for groups of few channels: arguments, boxes, tiles in shared memory.

#define THREADS 256

#include "numbers.cuh"
#include "indexing.cuh"

template <class T, int N> struct __align__(sizeof(T) * N) Pack { T v[N]; };

struct Tile {  // a box of an array in shared memory; all strides are in elements
    long long size[3], stride[3], channels, channel_stride, batch_stride, mode;
    long long slab, channels_inner, tile_stride[3], tile_channel_stride, words;
    Divisor length[3], slab_words;
};

struct Axis {  // index map and boxes of an axis: see `AxisMap` in axis_map.py
    long long count, box, boxes, output_step, start, denominator, taps, tap_step;
    long long tap_stride, tap_tile;  // between taps of a phase: in taps, in elements of the tile
    long long out_step;              // between outputs, in elements of `out`
};

struct Job {
    Axis axes[3];
    Tile x, y;  // y: of the filter gradient
    long long slabs, slab, channels, group_in, group_out, channel_stride, batch_stride;
    long long channels_inner;
    long long run_space, run_step, packed, tile_offset;
    Divisor items[3];
    long long filter_stride[3], filter_in, filter_out, filter_group;  // of f in memory
    long long batch, splits, pairs, slices, y_offset;
};

template <class INDEX> struct Box { INDEX batch, at[3]; };

template <class INDEX> __device__ inline Box<INDEX> box_of(const Job &job, INDEX number) {
    Box<INDEX> box;
    for (int a = 2; a >= 0; a--) {
        const INDEX rest = number / (INDEX)job.axes[a].boxes;
        box.at[a] = (number - rest * (INDEX)job.axes[a].boxes) * (INDEX)job.axes[a].box;
        number = rest;
    }
    box.batch = number;
    return box;
}

// The first position of x that a box of outputs reads on an axis.
template <class INDEX> __device__ inline INDEX origin(const Axis &axis, INDEX at) {
    const INDEX t = at * (INDEX)axis.output_step + (INDEX)axis.start;
    const INDEX den = (INDEX)axis.denominator;
    return t / den + (t > 0 && t % den);
}

// Copies a box of an array, from position `from` and channel `channel` on, to a tile in shared
// memory: positions outside the array are its border, and channels beyond it zeros.
template <class T, class WORD, class INDEX>
__device__ inline void stage(
    const T *__restrict__ x, T *tile, const Tile &job, const INDEX *from, INDEX channel) {
    constexpr int PER_WORD = sizeof(WORD) / sizeof(T);
    for (int i = (int)threadIdx.x; i < (int)job.words; i += THREADS) {
        int rest = i, c = 0, position[3];
        if (job.channels_inner) {
            const int q = quotient(rest, job.slab_words);
            c = (rest - q * (int)job.slab_words.by) * PER_WORD;
            rest = q;
        }
        for (int a = 2; a >= 0; a--) {
            const int q = quotient(rest, job.length[a]);
            position[a] = rest - q * (int)job.length[a].by;
            rest = q;
        }
        if (!job.channels_inner) c = rest;
        bool zero = channel + c >= (INDEX)job.channels;
        INDEX offset = (channel + c) * (INDEX)job.channel_stride;
        int to = c * (int)job.tile_channel_stride;
        for (int a = 0; a < 3; a++) {
            INDEX at = from[a] + position[a];
            if (at < 0 || at >= (INDEX)job.size[a]) {
                at = border(at, (INDEX)job.size[a], (int)job.mode);
                zero = zero || at < 0 || at >= (INDEX)job.size[a];  // in no output's window
            }
            offset += at * (INDEX)job.stride[a];
            to += position[a] * (int)job.tile_stride[a];
        }
        WORD word = WORD();
        if (!zero) word = *(const WORD *)(x + offset);
        *(WORD *)(tile + to) = word;
    }
}
