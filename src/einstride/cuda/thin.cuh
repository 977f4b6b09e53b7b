// What the kernels of groups of few channels share: the job, its boxes, and a box in shared memory.

#define THREADS 256

#include "numbers.cuh"
#include "places.cuh"

template <class T, int N> struct __align__(sizeof(T) * N) Pack { T v[N]; };

struct Tile {  // a box of an array in shared memory; all steps are in elements
    long long size[3], step[3], channels, channel_step, batch_step, mode;
    long long slab, channels_inner, tile_step[3], tile_channel_step, words;
    Divisor length[3], slab_words;
};

struct Axis {
    long long count, box, boxes, move, start, den, taps, reach;
    long long tap_stride, tap_tile, out_step;  // to the next tap that is met, in taps, in the tile
};

struct Job {
    Axis axes[3];
    Tile x, y;  // y: of the filter gradient
    long long slabs, slab, channels, group_in, group_out, channel_step, batch_step, channels_inner;
    long long run_space, run_tile, packed, tile_offset;
    Divisor items[3];
    long long filter_step[3], filter_in, filter_out, filter_group;  // of f in memory
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

// The first place in x that a box sees on an axis.
template <class INDEX> __device__ inline INDEX origin(const Axis &axis, INDEX at) {
    const INDEX t = at * (INDEX)axis.move + (INDEX)axis.start, den = (INDEX)axis.den;
    return t / den + (t > 0 && t % den);
}

template <class T, class WORD, class INDEX>
__device__ inline void stage(
    const T *__restrict__ x, T *tile, const Tile &job, const INDEX *from, INDEX channel) {
    constexpr int PER_WORD = sizeof(WORD) / sizeof(T);
    for (int i = (int)threadIdx.x; i < (int)job.words; i += THREADS) {
        int rest = i, c = 0, place[3];
        if (job.channels_inner) {
            const int q = quotient(rest, job.slab_words);
            c = (rest - q * (int)job.slab_words.by) * PER_WORD;
            rest = q;
        }
        for (int a = 2; a >= 0; a--) {
            const int q = quotient(rest, job.length[a]);
            place[a] = rest - q * (int)job.length[a].by;
            rest = q;
        }
        if (!job.channels_inner) c = rest;
        bool zero = channel + c >= (INDEX)job.channels;
        INDEX offset = (channel + c) * (INDEX)job.channel_step;
        int to = c * (int)job.tile_channel_step;
        for (int a = 0; a < 3; a++) {
            INDEX at = from[a] + place[a];
            if (at < 0 || at >= (INDEX)job.size[a]) {
                at = border(at, (INDEX)job.size[a], (int)job.mode);
                zero = zero || at < 0 || at >= (INDEX)job.size[a];  // beyond what any output sees
            }
            offset += at * (INDEX)job.step[a];
            to += place[a] * (int)job.tile_step[a];
        }
        WORD word = WORD();
        if (!zero) word = *(const WORD *)(x + offset);
        *(WORD *)(tile + to) = word;
    }
}
