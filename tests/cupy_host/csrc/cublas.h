/* What the files of the cuBLAS stand-in share. */
#ifndef CUPY_HOST_CUBLAS_H
#define CUPY_HOST_CUBLAS_H

#include <complex>
#include <cstdint>

#include "core.h"
#include "half_bits.h"

enum Status { SUCCESS = 0, NOT_INITIALIZED = 1, INVALID_VALUE = 7, EXECUTION_FAILED = 13,
              NOT_SUPPORTED = 15 };
enum Operation { OP_N = 0, OP_T = 1, OP_C = 2 };
enum Type { R_32F = 0, R_64F = 1, R_16F = 2, C_32F = 4, C_64F = 5, R_16BF = 14 };
enum Compute { COMPUTE_32F = 68, COMPUTE_32F_PEDANTIC = 69, COMPUTE_64F = 70,
               COMPUTE_64F_PEDANTIC = 71, COMPUTE_32F_FAST_16F = 74, COMPUTE_32F_FAST_16BF = 75,
               COMPUTE_32F_FAST_TF32 = 77 };
enum MathMode { TF32_TENSOR_OP_MATH = 3 };

struct Handle {
    int device;
    int pointer_mode; /* 0: scalars on the host, 1: on the device */
    int math_mode;
    void *stream;
};

/* Told to Python before a call computes; an answer other than 0 stops it. Mirrored in cublas.py. */
struct BlasReport {
    const char *routine;
    int device;
    uint64_t stream;
    int64_t m, n, k, batch, ld[3];
    int operations[2], types[3], compute;
    int status;           /* of the argument checks */
    int fault;            /* of the memory checks: a host_fault_kind */
    const char *operand;  /* that the fault is about */
    uint64_t address, size;
};
extern "C" int (*host_blas_report)(const BlasReport *);
const int CAPTURED = -1; /* an answer: the stream is captured, keep the call */
extern "C" void (*host_blas_captured)(int); /* told the number of a kept call, -1 for none */
extern "C" int (*host_blas_create)(void); /* the current device */
extern "C" void (*host_blas_refuse)(const char *);

template <class T> struct TypeOf;
template <> struct TypeOf<float> { static const Type code = R_32F; };
template <> struct TypeOf<double> { static const Type code = R_64F; };
template <> struct TypeOf<std::complex<float>> { static const Type code = C_32F; };
template <> struct TypeOf<std::complex<double>> { static const Type code = C_64F; };

inline int64_t size_of(int type) {
    switch (type) {
        case R_16F: case R_16BF: return 2;
        case R_32F: return 4;
        case R_64F: case C_32F: return 8;
        case C_64F: return 16;
    }
    return 0;
}

/* One call: gathers what is checked, then asks Python once. */
struct Call : BlasReport {
    Call(const char *name, const Handle *handle) : BlasReport() {
        routine = name;
        batch = 1;
        types[0] = types[1] = types[2] = compute = -1;
        if (!handle) { status = NOT_INITIALIZED; device = -1; return; }
        device = handle->device;
        stream = (uint64_t)handle->stream;
    }
    void require(bool condition) { if (!condition && !status) status = INVALID_VALUE; }
    void memory(const char *name, const void *pointer, int64_t bytes) {
        if (status || fault || bytes <= 0) return;
        int verdict = host_memory_verdict((uint64_t)pointer, (uint64_t)bytes, device);
        if (verdict == HOST_OK) return;
        fault = verdict < 0 ? HOST_HOST_POINTER : verdict;
        operand = name, address = (uint64_t)pointer, size = (uint64_t)bytes;
    }
    /* A scalar (alpha, beta, a result): on the host or on the device, as the handle says. */
    void scalar(const char *name, const Handle *handle, const void *pointer, int64_t bytes) {
        require(pointer != nullptr);
        if (handle && handle->pointer_mode == 1) memory(name, pointer, bytes);
        else if (!status && !fault && host_memory_device((uint64_t)pointer) >= 0) {
            fault = HOST_HOST_POINTER;
            operand = name, address = (uint64_t)pointer, size = (uint64_t)bytes;
        }
    }
    void vector(const char *name, const void *pointer, int64_t count, int64_t step, int64_t item) {
        if (count > 0) memory(name, pointer, ((count - 1) * (step < 0 ? -step : step) + 1) * item);
    }
    /* Column-major, `rows` of each column used. */
    void matrix(const char *name, const void *pointer, int64_t rows, int64_t columns, int64_t lead,
                int64_t item) {
        if (rows > 0 && columns > 0) memory(name, pointer, ((columns - 1) * lead + rows) * item);
    }
    int report() {
        if (device < 0) return status;
        int answer = host_blas_report(this);
        return status ? status : answer ? answer : fault ? EXECUTION_FAILED : SUCCESS;
    }
};

inline int64_t at_least_one(int64_t v) { return v > 1 ? v : 1; }
inline bool is_operation(int op) { return op >= OP_N && op <= OP_C; }

inline float conjugate(float v) { return v; }
inline double conjugate(double v) { return v; }
inline std::complex<float> conjugate(std::complex<float> v) { return std::conj(v); }
inline std::complex<double> conjugate(std::complex<double> v) { return std::conj(v); }

#endif
