// Index arithmetic: division by one multiplication, and positions of a padded axis.

struct Divisor {  // see `divisor` in im2col.py
    long long by, multiplier, shift;
};

__device__ inline int quotient(int n, const Divisor &d) {
    return (int)((unsigned long long)(unsigned)n * (unsigned)d.multiplier >> (int)d.shift);
}

__device__ inline long long quotient(long long n, const Divisor &d) {
    return (long long)(__umul64hi((unsigned long long)n << 1, (unsigned long long)d.multiplier)
                       >> (int)d.shift);
}

enum { ZEROS, REFLECT, REPLICATE, CIRCULAR };

// The position whose element stands at a position outside [0, size) of a padded axis; -1: a zero.
template <class INDEX> __device__ inline INDEX border(INDEX at, INDEX size, int mode) {
    if (mode == REFLECT) return at < 0 ? -at : 2 * (size - 1) - at;
    if (mode == REPLICATE) return at < 0 ? 0 : size - 1;
    if (mode == CIRCULAR) return at % size + (at % size < 0 ? size : 0);
    return -1;
}
