/* Warp shuffles and votes. */
#pragma once

template <class T>
inline T host_shuffle(unsigned mask, T value, int source) {
    static_assert(sizeof(T) <= 8, "a shuffle moves at most 8 bytes");
    uint64_t bits = 0;
    memcpy(&bits, &value, sizeof(T));
    bits = host_exchange(mask, bits, source);
    memcpy(&value, &bits, sizeof(T));
    return value;
}

inline int host_lane() {
    return (int)((threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z)) % 32);
}

template <class T>
inline T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
    return host_shuffle(mask, value, (host_lane() & ~(width - 1)) | (source & (width - 1)));
}
template <class T>
inline T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = host_lane(), from = lane - (int)delta;
    return host_shuffle(mask, value, from < (lane & ~(width - 1)) ? lane : from);
}
template <class T>
inline T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32) {
    int lane = host_lane(), from = lane + (int)delta;
    return host_shuffle(mask, value, from > (lane | (width - 1)) ? lane : from);
}
template <class T>
inline T __shfl_xor_sync(unsigned mask, T value, int lanes, int width = 32) {
    int lane = host_lane(), from = lane ^ lanes;
    return host_shuffle(mask, value, from > (lane | (width - 1)) ? lane : from);
}

inline unsigned __ballot_sync(unsigned mask, int p) { return host_vote(mask, p); }
inline int __any_sync(unsigned mask, int p) { return host_vote(mask, p) != 0; }
inline int __all_sync(unsigned mask, int p) { return host_vote(mask, !p) == 0; }
inline unsigned __activemask() { return host_active_mask(); }
