/* One 16-bit float type, its pair and their intrinsics; included once for each, with
 *   T, T2, RAW, RAW2     its names (__half, __half2, __half_raw, __half2_raw)
 *   FROM, TO             its conversions from and to float (bits)
 * Arithmetic is done in float32 and rounded once, as the hardware's is for these operations. */

struct RAW { unsigned short x; };
struct RAW2 { unsigned short x, y; };

struct __attribute__((aligned(2))) T {
    unsigned short __x;
    T() = default;
    T(const RAW &raw) : __x(raw.x) {}
    T(float v) : __x(FROM(v)) {}
    T(double v) : __x(FROM((float)v)) {}
    template <class I, class = typename std::enable_if<std::is_integral<I>::value>::type>
    T(I v) : __x(FROM((float)v)) {}
    operator float() const { return TO(__x); }
    operator RAW() const { return RAW{__x}; }
    T &operator+=(T o) { return *this = T((float)*this + (float)o); }
    T &operator-=(T o) { return *this = T((float)*this - (float)o); }
    T &operator*=(T o) { return *this = T((float)*this * (float)o); }
    T &operator/=(T o) { return *this = T((float)*this / (float)o); }
};

inline T operator+(T a, T b) { return T((float)a + (float)b); }
inline T operator-(T a, T b) { return T((float)a - (float)b); }
inline T operator*(T a, T b) { return T((float)a * (float)b); }
inline T operator/(T a, T b) { return T((float)a / (float)b); }
inline T operator-(T a) { return T(RAW{(unsigned short)(a.__x ^ 0x8000u)}); }
inline bool operator==(T a, T b) { return (float)a == (float)b; }
inline bool operator!=(T a, T b) { return (float)a != (float)b; }
inline bool operator<(T a, T b) { return (float)a < (float)b; }
inline bool operator>(T a, T b) { return (float)a > (float)b; }
inline bool operator<=(T a, T b) { return (float)a <= (float)b; }
inline bool operator>=(T a, T b) { return (float)a >= (float)b; }

inline T __hadd(T a, T b) { return a + b; }
inline T __hsub(T a, T b) { return a - b; }
inline T __hmul(T a, T b) { return a * b; }
inline T __hdiv(T a, T b) { return a / b; }
inline T __hneg(T a) { return -a; }
inline T __habs(T a) { return T(RAW{(unsigned short)(a.__x & 0x7FFFu)}); }
inline T __hfma(T a, T b, T c) { return T(fmaf((float)a, (float)b, (float)c)); }
inline T __hmax(T a, T b) { return T(fmaxf((float)a, (float)b)); }
inline T __hmin(T a, T b) { return T(fminf((float)a, (float)b)); }
inline bool __heq(T a, T b) { return a == b; }
inline bool __hne(T a, T b) { return a != b; }
inline bool __hlt(T a, T b) { return a < b; }
inline bool __hgt(T a, T b) { return a > b; }
inline bool __hle(T a, T b) { return a <= b; }
inline bool __hge(T a, T b) { return a >= b; }
inline bool __hisnan(T a) { return std::isnan((float)a); }
inline int __hisinf(T a) { return std::isinf((float)a) ? ((float)a > 0 ? 1 : -1) : 0; }
inline T hsqrt(T a) { return T(sqrtf((float)a)); }
inline T hexp(T a) { return T(expf((float)a)); }

struct __attribute__((aligned(4))) T2 {
    T x, y;
    T2() = default;
    T2(T x, T y) : x(x), y(y) {}
};
inline T __low2half(T2 v) { return v.x; }
inline T __high2half(T2 v) { return v.y; }
inline float __low2float(T2 v) { return (float)v.x; }
inline float __high2float(T2 v) { return (float)v.y; }
inline T2 operator+(T2 a, T2 b) { return T2(a.x + b.x, a.y + b.y); }
inline T2 operator-(T2 a, T2 b) { return T2(a.x - b.x, a.y - b.y); }
inline T2 operator*(T2 a, T2 b) { return T2(a.x * b.x, a.y * b.y); }
inline T2 __hadd2(T2 a, T2 b) { return a + b; }
inline T2 __hsub2(T2 a, T2 b) { return a - b; }
inline T2 __hmul2(T2 a, T2 b) { return a * b; }
inline T2 __hfma2(T2 a, T2 b, T2 c) { return T2(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)); }

/* CUDA's own atomicAdd; CuPy's template handles its float16 and bfloat16 classes. */
HOST_UNCHECKED inline T atomicAdd(T *address, T value) {
    T *place = host_atomic(address), old = *place;
    place->__x = T((float)old + (float)value).__x;
    return old;
}
