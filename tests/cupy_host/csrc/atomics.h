/* Atomics: threads take turns, so a plain read and write is atomic; only the address is checked. */
#pragma once

template <class T>
HOST_UNCHECKED inline T *host_atomic(T *address) {
    /* Bounds only: an atomic does not race, so the shared-memory ledger must not see it. */
    host_check_atomic(address, sizeof(T));
    return address;
}

#define HOST_ATOMIC(name, T, result)                           \
    HOST_UNCHECKED inline T name(T *address, T value) {        \
        T *place = host_atomic(address), old = *place;         \
        *place = (result);                                     \
        return old;                                            \
    }                                                          \
    HOST_UNCHECKED inline T name##_block(T *address, T value) { return name(address, value); }

#define HOST_ATOMICS_ALL(T)                                    \
    HOST_ATOMIC(atomicAdd, T, old + value)                     \
    HOST_ATOMIC(atomicExch, T, value)

#define HOST_ATOMICS_INTEGER(T)                                \
    HOST_ATOMICS_ALL(T)                                        \
    HOST_ATOMIC(atomicSub, T, old - value)                     \
    HOST_ATOMIC(atomicAnd, T, old & value)                     \
    HOST_ATOMIC(atomicOr, T, old | value)                      \
    HOST_ATOMIC(atomicXor, T, old ^ value)                     \
    HOST_ATOMIC(atomicMin, T, value < old ? value : old)       \
    HOST_ATOMIC(atomicMax, T, value > old ? value : old)       \
    HOST_UNCHECKED inline T atomicCAS(T *address, T expected, T value) { \
        T *place = host_atomic(address), old = *place;         \
        if (old == expected) *place = value;                   \
        return old;                                            \
    }

HOST_ATOMICS_INTEGER(int)
HOST_ATOMICS_INTEGER(unsigned int)
HOST_ATOMICS_INTEGER(unsigned long long)
HOST_ATOMICS_ALL(float)
HOST_ATOMICS_ALL(double)
HOST_ATOMIC(atomicInc, unsigned int, old >= value ? 0u : old + 1u)
HOST_ATOMIC(atomicDec, unsigned int, old == 0u || old > value ? value : old - 1u)
HOST_ATOMIC(atomicMin, long long, value < old ? value : old)
HOST_ATOMIC(atomicMax, long long, value > old ? value : old)

HOST_UNCHECKED inline unsigned short atomicCAS(unsigned short *address, unsigned short expected,
                                               unsigned short value) {
    unsigned short *place = host_atomic(address), old = *place;
    if (old == expected) *place = value;
    return old;
}
