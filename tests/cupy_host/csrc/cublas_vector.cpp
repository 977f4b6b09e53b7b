/* Vectors, and matrices with vectors. */
#include <algorithm>
#include <cmath>
#include <vector>

#include "cublas.h"

namespace {

/* BLAS walks a vector of negative step from its far end. */
template <class T> struct Vector {
    T *first;
    int64_t step;
    Vector(T *x, int64_t n, int64_t step) : first(step < 0 ? x - (n - 1) * step : x), step(step) {}
    T &operator[](int64_t i) const { return first[i * step]; }
};

template <class T> double absolute(T v) { return std::abs(v); }
template <class T> double absolute1(T v) { return std::abs(std::real(v)) + std::abs(std::imag(v)); }

template <class T>
int gemv(const char *name, const Handle *h, int op, int m, int n, const T *alpha, const T *A,
         int lda, const T *x, int ix, const T *beta, T *y, int iy) {
    Call call(name, h);
    int64_t in = op == OP_N ? n : m, out = op == OP_N ? m : n;
    call.m = m, call.n = n, call.operations[0] = op, call.ld[0] = lda;
    call.types[0] = call.types[1] = call.types[2] = TypeOf<T>::code;
    call.require(is_operation(op) && m >= 0 && n >= 0 && ix && iy && lda >= at_least_one(m));
    call.scalar("alpha", h, alpha, sizeof(T));
    call.scalar("beta", h, beta, sizeof(T));
    call.matrix("A", A, m, n, lda, sizeof(T));
    call.vector("x", x, in, ix, sizeof(T));
    call.vector("y", y, out, iy, sizeof(T));
    if (int status = call.report()) return status;
    Vector<const T> vx(x, in, ix);
    Vector<T> vy(y, out, iy);
    for (int64_t i = 0; i < out; i++) {
        T sum = 0;
        for (int64_t l = 0; l < in; l++) {
            T a = op == OP_N ? A[i + l * (int64_t)lda] : A[l + i * (int64_t)lda];
            sum += (op == OP_C ? conjugate(a) : a) * vx[l];
        }
        vy[i] = *alpha * sum + (*beta != T(0) ? *beta * vy[i] : T(0));
    }
    return SUCCESS;
}

template <class T>
int ger(const char *name, const Handle *h, int m, int n, const T *alpha, const T *x, int ix,
        const T *y, int iy, T *A, int lda, bool conj) {
    Call call(name, h);
    call.m = m, call.n = n, call.ld[0] = lda;
    call.types[0] = call.types[1] = call.types[2] = TypeOf<T>::code;
    call.require(m >= 0 && n >= 0 && ix && iy && lda >= at_least_one(m));
    call.scalar("alpha", h, alpha, sizeof(T));
    call.matrix("A", A, m, n, lda, sizeof(T));
    call.vector("x", x, m, ix, sizeof(T));
    call.vector("y", y, n, iy, sizeof(T));
    if (int status = call.report()) return status;
    Vector<const T> vx(x, m, ix), vy(y, n, iy);
    for (int64_t j = 0; j < n; j++)
        for (int64_t i = 0; i < m; i++)
            A[i + j * (int64_t)lda] += *alpha * vx[i] * (conj ? conjugate(vy[j]) : vy[j]);
    return SUCCESS;
}

/* Calls of one or two vectors: checks, then `body(x, y)`. */
template <class T, class Body>
int vectors(const char *name, const Handle *h, int n, const void *scalar, int64_t scalar_size,
            T *x, int ix, T *y, int iy, Body body) {
    Call call(name, h);
    call.n = n;
    call.types[0] = call.types[1] = TypeOf<typename std::remove_const<T>::type>::code;
    call.scalar("the scalar", h, scalar, scalar_size);
    call.vector("x", x, n, ix, sizeof(T));
    if (y) call.vector("y", y, n, iy, sizeof(T));
    if (int status = call.report()) return status;
    body(Vector<T>(x, n, ix), Vector<T>(y, n, iy));
    return SUCCESS;
}

template <class T>
int dot(const char *name, const Handle *h, int n, const T *x, int ix, const T *y, int iy, T *out,
        bool conj) {
    return vectors<const T>(name, h, n, out, sizeof(T), x, ix, y, iy, [=](auto vx, auto vy) {
        T sum = 0;
        for (int64_t i = 0; i < n; i++) sum += (conj ? conjugate(vx[i]) : vx[i]) * vy[i];
        *out = sum;
    });
}

template <class T>
int axpy(const char *name, const Handle *h, int n, const T *alpha, const T *x, int ix, T *y,
         int iy) {
    return vectors<T>(name, h, n, alpha, sizeof(T), const_cast<T *>(x), ix, y, iy,
                      [=](auto vx, auto vy) {
        for (int64_t i = 0; i < n; i++) vy[i] += *alpha * vx[i];
    });
}

template <class T, class A>
int scal(const char *name, const Handle *h, int n, const A *alpha, T *x, int ix) {
    return vectors<T>(name, h, n, alpha, sizeof(A), x, ix, (T *)nullptr, 0, [=](auto vx, auto) {
        for (int64_t i = 0; i < n; i++) vx[i] *= *alpha;
    });
}

template <class T, class R>
int norm(const char *name, const Handle *h, int n, const T *x, int ix, R *out, bool squares) {
    return vectors<const T>(name, h, n, out, sizeof(R), x, ix, (const T *)nullptr, 0,
                            [=](auto vx, auto) {
        double sum = 0;
        for (int64_t i = 0; i < n; i++)
            sum += squares ? absolute(vx[i]) * absolute(vx[i]) : absolute1(vx[i]);
        *out = (R)(squares ? std::sqrt(sum) : sum);
    });
}

template <class T>
int extreme(const char *name, const Handle *h, int n, const T *x, int ix, int *out, bool largest) {
    return vectors<const T>(name, h, n, out, sizeof(int), x, ix, (const T *)nullptr, 0,
                            [=](auto vx, auto) {
        int best = 0;
        for (int i = 1; i < n; i++) {
            double v = absolute1(vx[i]), b = absolute1(vx[best]);
            if (largest ? v > b : v < b) best = i;
        }
        *out = n > 0 ? best + 1 : 0; /* counted from one */
    });
}

typedef std::complex<float> c32;
typedef std::complex<double> c64;

}  // namespace

#define COMMON(X, T)                                                                             \
    int cublas##X##gemv_v2(Handle *h, int op, int m, int n, const T *alpha, const T *A, int lda, \
                           const T *x, int ix, const T *beta, T *y, int iy) {                    \
        return gemv<T>("cublas" #X "gemv", h, op, m, n, alpha, A, lda, x, ix, beta, y, iy);      \
    }                                                                                            \
    int cublas##X##axpy_v2(Handle *h, int n, const T *alpha, const T *x, int ix, T *y, int iy) { \
        return axpy<T>("cublas" #X "axpy", h, n, alpha, x, ix, y, iy);                           \
    }                                                                                            \
    int cublas##X##scal_v2(Handle *h, int n, const T *alpha, T *x, int ix) {                     \
        return scal<T, T>("cublas" #X "scal", h, n, alpha, x, ix);                               \
    }

#define EXTREMES(X, T)                                                                           \
    int cublasI##X##amax_v2(Handle *h, int n, const T *x, int ix, int *out) {                    \
        return extreme<T>("cublasI" #X "amax", h, n, x, ix, out, true);                          \
    }                                                                                            \
    int cublasI##X##amin_v2(Handle *h, int n, const T *x, int ix, int *out) {                    \
        return extreme<T>("cublasI" #X "amin", h, n, x, ix, out, false);                         \
    }
#define DOT(name, T, conj)                                                                       \
    int name##_v2(Handle *h, int n, const T *x, int ix, const T *y, int iy, T *out) {            \
        return dot<T>(#name, h, n, x, ix, y, iy, out, conj);                                     \
    }
#define GER(name, T, conj)                                                                       \
    int name##_v2(Handle *h, int m, int n, const T *alpha, const T *x, int ix, const T *y,       \
                  int iy, T *A, int lda) {                                                       \
        return ger<T>(#name, h, m, n, alpha, x, ix, y, iy, A, lda, conj);                        \
    }
#define NORM(name, T, R, squares)                                                                \
    int name##_v2(Handle *h, int n, const T *x, int ix, R *out) {                                \
        return norm<T, R>(#name, h, n, x, ix, out, squares);                                     \
    }

extern "C" {
COMMON(S, float)
COMMON(D, double)
COMMON(C, c32)
COMMON(Z, c64)
EXTREMES(s, float)
EXTREMES(d, double)
EXTREMES(c, c32)
EXTREMES(z, c64)
DOT(cublasSdot, float, false)
DOT(cublasDdot, double, false)
DOT(cublasCdotu, c32, false)
DOT(cublasZdotu, c64, false)
DOT(cublasCdotc, c32, true)
DOT(cublasZdotc, c64, true)
GER(cublasSger, float, false)
GER(cublasDger, double, false)
GER(cublasCgeru, c32, false)
GER(cublasZgeru, c64, false)
GER(cublasCgerc, c32, true)
GER(cublasZgerc, c64, true)
NORM(cublasSnrm2, float, float, true)
NORM(cublasDnrm2, double, double, true)
NORM(cublasScnrm2, c32, float, true)
NORM(cublasDznrm2, c64, double, true)
NORM(cublasSasum, float, float, false)
NORM(cublasDasum, double, double, false)
NORM(cublasScasum, c32, float, false)
NORM(cublasDzasum, c64, double, false)

int cublasCsscal_v2(Handle *h, int n, const float *alpha, c32 *x, int ix) {
    return scal<c32, float>("cublasCsscal", h, n, alpha, x, ix);
}
int cublasZdscal_v2(Handle *h, int n, const double *alpha, c64 *x, int ix) {
    return scal<c64, double>("cublasZdscal", h, n, alpha, x, ix);
}
}
