/* Matrix products. Operands are packed into the compute type, transposed and conjugated as asked,
 * and multiplied in blocks; column-major throughout, as in BLAS. */
#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <vector>

#include "cublas.h"

namespace {

struct Half { uint16_t bits; };
struct Bfloat { uint16_t bits; };

template <class T, class S> T load(S v) { return T(v); }
template <> float load<float, Half>(Half v) { return host_half_to_float(v.bits); }
template <> float load<float, Bfloat>(Bfloat v) { return host_bfloat_to_float(v.bits); }

template <class S, class T> S store(T v) { return S(v); }
template <> Half store<Half, float>(float v) { return {host_float_to_half(v)}; }
template <> Bfloat store<Bfloat, float>(float v) { return {host_float_to_bfloat(v)}; }

float round_tf32(float v) { return host_round_tf32(v); }
std::complex<float> round_tf32(std::complex<float> v) {
    return {host_round_tf32(v.real()), host_round_tf32(v.imag())};
}
double round_tf32(double v) { return v; }
std::complex<double> round_tf32(std::complex<double> v) { return v; }

struct Product {
    int ta, tb;
    int64_t m, n, k, lda, ldb, ldc;
    bool tf32;
};

/* packed[outer * inner_size + inner], where (inner, outer) walks op(X) down its columns if
 * `step` is 1, else along its rows. */
template <class T, class S>
void pack(T *packed, const S *from, int64_t inner_size, int64_t outer_size, int64_t inner_step,
          int64_t outer_step, bool conj, bool tf32) {
    for (int64_t o = 0; o < outer_size; o++)
        for (int64_t i = 0; i < inner_size; i++) {
            T v = load<T>(from[i * inner_step + o * outer_step]);
            if (conj) v = conjugate(v);
            packed[o * inner_size + i] = tf32 ? round_tf32(v) : v;
        }
}

const int64_t ROWS = 256;

/* sums (m x n) = a (m x k, columns contiguous) * b (k x n, columns contiguous). */
template <class T>
void multiply(T *sums, const T *a, const T *b, int64_t m, int64_t n, int64_t k) {
    for (int64_t row = 0; row < m; row += ROWS) {
        int64_t rows = std::min(ROWS, m - row), j = 0;
        for (; j + 4 <= n; j += 4) {
            T *c0 = sums + j * m + row, *c1 = c0 + m, *c2 = c1 + m, *c3 = c2 + m;
            for (int64_t l = 0; l < k; l++) {
                const T *p = a + l * m + row;
                T b0 = b[j * k + l], b1 = b[(j + 1) * k + l], b2 = b[(j + 2) * k + l],
                  b3 = b[(j + 3) * k + l];
                for (int64_t i = 0; i < rows; i++) {
                    T v = p[i];
                    c0[i] += v * b0;
                    c1[i] += v * b1;
                    c2[i] += v * b2;
                    c3[i] += v * b3;
                }
            }
        }
        for (; j < n; j++)
            for (int64_t l = 0; l < k; l++)
                for (int64_t i = 0; i < rows; i++)
                    sums[j * m + row + i] += a[l * m + row + i] * b[j * k + l];
    }
}

template <class T, class SA, class SC>
void gemm(const Product &p, T alpha, const SA *A, const SA *B, T beta, SC *C) {
    std::vector<T> a(p.m * p.k), b(p.k * p.n), sums(p.m * p.n);
    if (alpha != T(0)) {
        bool na = p.ta == OP_N, nb = p.tb == OP_N;
        pack(a.data(), A, p.m, p.k, na ? 1 : p.lda, na ? p.lda : 1, p.ta == OP_C, p.tf32);
        pack(b.data(), B, p.k, p.n, nb ? 1 : p.ldb, nb ? p.ldb : 1, p.tb == OP_C, p.tf32);
        multiply(sums.data(), a.data(), b.data(), p.m, p.n, p.k);
    }
    for (int64_t j = 0; j < p.n; j++)
        for (int64_t i = 0; i < p.m; i++) {
            SC &c = C[i + j * p.ldc];
            T v = alpha * sums[j * p.m + i];
            if (beta != T(0)) v += beta * load<T>(c); /* beta 0: C may be uninitialised */
            c = store<SC>(v);
        }
}

struct Operands { /* as cuBLAS's entry points get them */
    const void *alpha, *A, *B, *beta;
    void *C;
    int at, bt, ct;
    long long sa, sb, sc; /* elements between matrices of a batch */
    const void *const *As, *const *Bs; /* or an array of pointers to each */
    void *const *Cs;
};

template <class T, class SA, class SC>
void run_batch(const Product &p, const Operands &o, int64_t batch) {
    T alpha = *(const T *)o.alpha, beta = *(const T *)o.beta;
    for (int64_t i = 0; i < batch; i++)
        gemm<T, SA, SC>(p, alpha, o.As ? (const SA *)o.As[i] : (const SA *)o.A + i * o.sa,
                        o.Bs ? (const SA *)o.Bs[i] : (const SA *)o.B + i * o.sb, beta,
                        o.Cs ? (SC *)o.Cs[i] : (SC *)o.C + i * o.sc);
}

typedef void (*Runner)(const Product &, const Operands &, int64_t);

/* The combinations of types that cuBLAS documents for these compute types. */
Runner runner(int compute, int a, int b, int c) {
    typedef std::complex<float> C32;
    typedef std::complex<double> C64;
    if (a != b) return nullptr;
    bool f64 = compute == COMPUTE_64F || compute == COMPUTE_64F_PEDANTIC;
    bool f32 = compute == COMPUTE_32F || compute == COMPUTE_32F_PEDANTIC;
    bool fast = compute == COMPUTE_32F_FAST_TF32;
    if (f64 && a == R_64F && c == R_64F) return run_batch<double, double, double>;
    if (f64 && a == C_64F && c == C_64F) return run_batch<C64, C64, C64>;
    if ((f32 || fast) && a == R_32F && c == R_32F) return run_batch<float, float, float>;
    if ((f32 || fast) && a == C_32F && c == C_32F) return run_batch<C32, C32, C32>;
    if (f32 && a == R_16F && c == R_16F) return run_batch<float, Half, Half>;
    if (f32 && a == R_16F && c == R_32F) return run_batch<float, Half, float>;
    if (f32 && a == R_16BF && c == R_16BF) return run_batch<float, Bfloat, Bfloat>;
    if (f32 && a == R_16BF && c == R_32F) return run_batch<float, Bfloat, float>;
    return nullptr;
}

void check_batch(Call &call, const Product &p, const Operands &o, int64_t batch) {
    int64_t rows_a = p.ta == OP_N ? p.m : p.k, columns_a = p.ta == OP_N ? p.k : p.m;
    int64_t rows_b = p.tb == OP_N ? p.k : p.n, columns_b = p.tb == OP_N ? p.n : p.k;
    int64_t ia = size_of(o.at), ib = size_of(o.bt), ic = size_of(o.ct);
    if (o.As) {
        call.memory("the array of A's pointers", o.As, batch * 8);
        call.memory("the array of B's pointers", o.Bs, batch * 8);
        call.memory("the array of C's pointers", o.Cs, batch * 8);
    }
    for (int64_t i = 0; i < batch && !call.fault && !call.status; i++) {
        const char *a = o.As ? (const char *)o.As[i] : (const char *)o.A + i * o.sa * ia;
        const char *b = o.Bs ? (const char *)o.Bs[i] : (const char *)o.B + i * o.sb * ib;
        const char *c = o.Cs ? (const char *)o.Cs[i] : (const char *)o.C + i * o.sc * ic;
        call.matrix("A", a, rows_a, columns_a, p.lda, ia);
        call.matrix("B", b, rows_b, columns_b, p.ldb, ib);
        call.matrix("C", c, p.m, p.n, p.ldc, ic);
    }
}

/* Calls on a captured stream, with their scalars; they are made at every launch of the graph. */
std::deque<std::function<int()>> captured; /* a deque: those in use stay where they are */
std::mutex captured_lock; /* CuPy calls without Python's lock */

int run_gemm(const char *name, const Handle *h, Product p, const Operands &o, int batch,
             int compute);

int keep(const char *name, const Handle *h, Product p, Operands o, int batch, int compute,
          int64_t scalar) {
    std::array<char, 16> alpha{}, beta{};
    if (h->pointer_mode == 0) {
        memcpy(alpha.data(), o.alpha, scalar);
        memcpy(beta.data(), o.beta, scalar);
    }
    Handle handle = *h;
    std::lock_guard<std::mutex> held(captured_lock);
    captured.push_back([=]() mutable {
        if (handle.pointer_mode == 0) o.alpha = alpha.data(), o.beta = beta.data();
        return run_gemm(name, &handle, p, o, batch, compute);
    });
    return (int)captured.size() - 1;
}

int run_gemm(const char *name, const Handle *h, Product p, const Operands &o, int batch,
             int compute) {
    Call call(name, h);
    call.m = p.m, call.n = p.n, call.k = p.k, call.batch = batch, call.compute = compute;
    call.operations[0] = p.ta, call.operations[1] = p.tb;
    call.ld[0] = p.lda, call.ld[1] = p.ldb, call.ld[2] = p.ldc;
    call.types[0] = o.at, call.types[1] = o.bt, call.types[2] = o.ct;
    call.require(is_operation(p.ta) && is_operation(p.tb));
    call.require(p.m >= 0 && p.n >= 0 && p.k >= 0 && batch >= 0);
    call.require(p.lda >= at_least_one(p.ta == OP_N ? p.m : p.k));
    call.require(p.ldb >= at_least_one(p.tb == OP_N ? p.k : p.n));
    call.require(p.ldc >= at_least_one(p.m));
    Runner run = runner(compute, o.at, o.bt, o.ct);
    if (!run && !call.status) call.status = NOT_SUPPORTED;
    int64_t scalar = compute == COMPUTE_64F || compute == COMPUTE_64F_PEDANTIC ? 8 : 4;
    if (o.ct == C_32F || o.ct == C_64F) scalar *= 2;
    call.scalar("alpha", h, o.alpha, scalar);
    call.scalar("beta", h, o.beta, scalar);
    bool empty = p.m == 0 || p.n == 0 || batch == 0;
    if (!call.status && !empty) check_batch(call, p, o, batch);
    int status = call.report();
    if (status == CAPTURED) {
        host_blas_captured(empty ? -1 : keep(name, h, p, o, batch, compute, scalar));
        return SUCCESS;
    }
    if (status || empty) return status;
    p.tf32 = compute == COMPUTE_32F_FAST_TF32 ||
             (compute == COMPUTE_32F && h->math_mode == TF32_TENSOR_OP_MATH);
    run(p, o, batch);
    return SUCCESS;
}

template <class T>
int plain(const char *name, const Handle *h, int ta, int tb, int m, int n, int k, const void *alpha,
          const void *A, int lda, long long sa, const void *B, int ldb, long long sb,
          const void *beta, void *C, int ldc, long long sc, int batch, bool pointers) {
    Type t = TypeOf<T>::code;
    Operands o = {alpha, A, B, beta, C, t, t, t, sa, sb, sc, nullptr, nullptr, nullptr};
    if (pointers) o.As = (const void *const *)A, o.Bs = (const void *const *)B,
                  o.Cs = (void *const *)C;
    int compute = t == R_64F || t == C_64F ? COMPUTE_64F : COMPUTE_32F;
    return run_gemm(name, h, {ta, tb, m, n, k, lda, ldb, ldc, false}, o, batch, compute);
}

}  // namespace

#define GEMM(X, T)                                                                             \
    int cublas##X##gemm_v2(Handle *h, int ta, int tb, int m, int n, int k, const void *alpha,  \
                           const void *A, int lda, const void *B, int ldb, const void *beta,   \
                           void *C, int ldc) {                                                 \
        return plain<T>("cublas" #X "gemm", h, ta, tb, m, n, k, alpha, A, lda, 0, B, ldb, 0,   \
                        beta, C, ldc, 0, 1, false);                                            \
    }                                                                                          \
    int cublas##X##gemmStridedBatched(Handle *h, int ta, int tb, int m, int n, int k,          \
                                      const void *alpha, const void *A, int lda, long long sa, \
                                      const void *B, int ldb, long long sb, const void *beta,  \
                                      void *C, int ldc, long long sc, int batch) {             \
        return plain<T>("cublas" #X "gemmStridedBatched", h, ta, tb, m, n, k, alpha, A, lda,   \
                        sa, B, ldb, sb, beta, C, ldc, sc, batch, false);                       \
    }                                                                                          \
    int cublas##X##gemmBatched(Handle *h, int ta, int tb, int m, int n, int k,                 \
                               const void *alpha, const void *A, int lda, const void *B,       \
                               int ldb, const void *beta, void *C, int ldc, int batch) {       \
        return plain<T>("cublas" #X "gemmBatched", h, ta, tb, m, n, k, alpha, A, lda, 0, B,    \
                        ldb, 0, beta, C, ldc, 0, batch, true);                                 \
    }

extern "C" {
int host_blas_replay(int number) {
    std::function<int()> *call;
    {
        std::lock_guard<std::mutex> held(captured_lock);
        call = &captured[number];
    }
    return (*call)();
}

GEMM(S, float)
GEMM(D, double)
GEMM(C, std::complex<float>)
GEMM(Z, std::complex<double>)

int cublasGemmEx(Handle *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *A,
                 int at, int lda, const void *B, int bt, int ldb, const void *beta, void *C, int ct,
                 int ldc, int compute, int) {
    Operands o = {alpha, A, B, beta, C, at, bt, ct, 0, 0, 0, nullptr, nullptr, nullptr};
    return run_gemm("cublasGemmEx", h, {ta, tb, m, n, k, lda, ldb, ldc, false}, o, 1, compute);
}

int cublasSgemmEx(Handle *h, int ta, int tb, int m, int n, int k, const void *alpha, const void *A,
                  int at, int lda, const void *B, int bt, int ldb, const void *beta, void *C,
                  int ct, int ldc) {
    Operands o = {alpha, A, B, beta, C, at, bt, ct, 0, 0, 0, nullptr, nullptr, nullptr};
    return run_gemm("cublasSgemmEx", h, {ta, tb, m, n, k, lda, ldb, ldc, false}, o, 1,
                    COMPUTE_32F);
}

int cublasGemmStridedBatchedEx(Handle *h, int ta, int tb, int m, int n, int k, const void *alpha,
                               const void *A, int at, int lda, long long sa, const void *B, int bt,
                               int ldb, long long sb, const void *beta, void *C, int ct, int ldc,
                               long long sc, int batch, int compute, int) {
    Operands o = {alpha, A, B, beta, C, at, bt, ct, sa, sb, sc, nullptr, nullptr, nullptr};
    return run_gemm("cublasGemmStridedBatchedEx", h, {ta, tb, m, n, k, lda, ldb, ldc, false}, o,
                    batch, compute);
}
}
