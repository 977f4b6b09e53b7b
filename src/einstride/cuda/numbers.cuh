// Element types of all dtypes, with their casts and arithmetic. Needs no header of CUDA.

template <class T> struct __align__(2 * sizeof(T)) Complex { T real, imag; };
struct Float16 { unsigned short bits; };
struct Bfloat16 { unsigned short bits; };

// V elements that are loaded or stored at once.
template <class T, int V> struct __align__(V * sizeof(T)) Run { T v[V]; };

// A half as a float: exact, also for subnormals; done on bits, so that no header is needed.
__device__ inline float number(Float16 v) {
    float scaled = __uint_as_float((unsigned)(v.bits & 0x7fff) << 13) * 5.192296858534828e33f;  // 2**112
    unsigned magnitude = __float_as_uint(scaled);
    if ((v.bits & 0x7c00) == 0x7c00) magnitude |= 0x7f800000u;  // infinities and NaNs
    return __uint_as_float(magnitude | (unsigned)(v.bits & 0x8000) << 16);
}
__device__ inline float number(Bfloat16 v) { return __uint_as_float((unsigned)v.bits << 16); }
template <class T> __device__ inline T number(T v) { return v; }

template <class OUT> struct Cast {
    template <class IN> __device__ static OUT of(IN v) { return (OUT)number(v); }
    __device__ static OUT of(OUT v) { return v; }
};
template <class T> struct Cast<Complex<T>> {
    template <class IN> __device__ static Complex<T> of(IN v) { return {(T)number(v), T(0)}; }
    template <class S> __device__ static Complex<T> of(Complex<S> v) {
        return {(T)v.real, (T)v.imag};
    }
};

// Rounds to the nearest half, ties to even.
__device__ inline Float16 half_of(float v) {
    const unsigned bits = __float_as_uint(v), sign = bits >> 16 & 0x8000u, size = bits & 0x7fffffffu;
    unsigned found;
    if (size > 0x7f800000u) found = 0x7e00u;        // a NaN
    else if (size >= 0x477ff000u) found = 0x7c00u;  // rounds to 2**16 or more
    else if (size < 0x38800000u)                    // subnormal: 0.5 has just its last bit
        found = __float_as_uint(__uint_as_float(size) + 0.5f) - 0x3f000000u;
    else found = (size - 0x38000000u + 0xfffu + (size >> 13 & 1u)) >> 13;
    return {(unsigned short)(sign | found)};
}
__device__ inline Bfloat16 bhalf_of(float v) {
    const unsigned bits = __float_as_uint(v);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return {(unsigned short)(bits >> 16 | 0x40u)};
    return {(unsigned short)((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16)};
}
// A double rounded to float before it is rounded to a half: to odd, which avoids double rounding.
__device__ inline float narrowed(double v) {
    const float near = (float)v;
    if ((double)near == v || v != v) return near;
    const unsigned bits = __float_as_uint(near);
    if (bits & 1u) return near;
    const bool too_far = v > 0 ? (double)near > v : (double)near < v;
    return __uint_as_float(too_far ? bits - 1 : bits + 1);
}
__device__ inline float narrowed(float v) { return v; }
template <> struct Cast<Float16> {
    template <class IN> __device__ static Float16 of(IN v) { return half_of(narrowed(v)); }
};
template <> struct Cast<Bfloat16> {
    template <class IN> __device__ static Bfloat16 of(IN v) { return bhalf_of(narrowed(v)); }
};

// sum + a * b
template <class T> __device__ inline T plus_product(T a, T b, T sum) { return sum + a * b; }
template <class T>
__device__ inline Complex<T> plus_product(Complex<T> a, Complex<T> b, Complex<T> sum) {
    sum.real += a.real * b.real;
    sum.real -= a.imag * b.imag;
    sum.imag += a.real * b.imag;
    sum.imag += a.imag * b.real;
    return sum;
}
template <class T> __device__ inline T added(T a, T b) { return a + b; }
template <class T> __device__ inline Complex<T> added(Complex<T> a, Complex<T> b) {
    return {a.real + b.real, a.imag + b.imag};
}
template <class T> __device__ inline T conjugate(T v) { return v; }
template <class T> __device__ inline Complex<T> conjugate(Complex<T> v) { return {v.real, -v.imag}; }
