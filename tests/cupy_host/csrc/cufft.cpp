/* The part of cuFFT that cupy.fft uses: plans of any rank and length, real and complex. Computed in
 * double precision, by mixed radix, whatever the plan's own precision. */
#include <cmath>
#include <complex>
#include <map>
#include <mutex>
#include <vector>

#include "core.h"

typedef std::complex<double> Z;
typedef std::complex<float> C;

enum Status { SUCCESS = 0, INVALID_PLAN = 1, INVALID_TYPE = 3, INVALID_VALUE = 4, EXEC_FAILED = 6,
              INVALID_SIZE = 8, NOT_SUPPORTED = 16 };
enum Kind { C2C = 0x29, R2C = 0x2A, C2R = 0x2C, Z2Z = 0x69, D2Z = 0x6A, Z2D = 0x6C };

/* Told to Python before an execution; mirrored in cufft.py. */
struct FftReport {
    const char *routine;
    int device;
    uint64_t stream;
    int rank;
    int64_t lengths[3], batch;
    int fault;
    const char *operand;
    uint64_t address, size;
};

namespace {

struct Side { /* how an array lies in memory, in elements */
    std::vector<int64_t> sizes, embed;
    int64_t step, distance;

    int64_t count() const {
        int64_t n = 1;
        for (int64_t s : sizes) n *= s;
        return n;
    }
    /* Where the i-th element (in row-major order) of batch b lies. */
    int64_t at(int64_t b, int64_t i) const {
        int64_t offset = 0, scale = 1;
        for (int axis = (int)sizes.size() - 1; axis >= 0; axis--) {
            offset += i % sizes[axis] * scale;
            i /= sizes[axis];
            scale *= embed[axis];
        }
        return b * distance + offset * step;
    }
};

struct Plan {
    int device = 0, kind = 0, rank = 0;
    int64_t n[3] = {0, 0, 0}, batch = 0;
    size_t work_size = 0;
    void *stream = nullptr, *work = nullptr;
    Side in, out;
};

std::map<int, Plan> plans; /* nodes of a map stay where they are */
std::mutex plans_lock;     /* CuPy calls without Python's lock; a plan is one thread's at a time */
int next_plan = 1;

Plan *plan_of(int handle) {
    std::lock_guard<std::mutex> held(plans_lock);
    auto found = plans.find(handle);
    return found == plans.end() ? nullptr : &found->second;
}

bool is_double(int kind) { return kind >= Z2Z; }
bool is_real_in(int kind) { return kind == R2C || kind == D2Z; }
bool is_real_out(int kind) { return kind == C2R || kind == Z2D; }

/* out[0..n) = transform of in[0], in[step], ...; `turn` is the unit of the twiddle table. */
void transform(Z *out, const Z *in, int64_t n, int64_t step, const std::vector<Z> &twiddles,
               int64_t turn) {
    if (n == 1) {
        out[0] = in[0];
        return;
    }
    int64_t p = 2;
    while (n % p && p * p <= n) p++;
    if (n % p) p = n;
    int64_t part = n / p, full = (int64_t)twiddles.size();
    for (int64_t r = 0; r < p; r++)
        transform(out + r * part, in + r * step, part, step * p, twiddles, turn * p);
    std::vector<Z> column(p);
    for (int64_t k = 0; k < part; k++) {
        for (int64_t r = 0; r < p; r++) column[r] = out[r * part + k];
        for (int64_t q = 0; q < p; q++) {
            Z sum = 0;
            for (int64_t r = 0; r < p; r++)
                sum += column[r] * twiddles[(k + q * part) * r % n * turn % full];
            out[q * part + k] = sum;
        }
    }
}

std::vector<Z> twiddle_table(int64_t n, int direction) {
    std::vector<Z> table(n);
    for (int64_t k = 0; k < n; k++) table[k] = std::polar(1.0, direction * 2 * M_PI * k / n);
    return table;
}

/* Along one axis of a dense row-major array. */
void along(std::vector<Z> &data, const std::vector<int64_t> &sizes, int axis, int direction) {
    int64_t n = sizes[axis], inner = 1;
    for (size_t i = axis + 1; i < sizes.size(); i++) inner *= sizes[i];
    std::vector<Z> table = twiddle_table(n, direction), line(n);
    for (int64_t first = 0; first < (int64_t)data.size(); first += n * inner)
        for (int64_t i = 0; i < inner; i++) {
            transform(line.data(), &data[first + i], n, inner, table, 1);
            for (int64_t k = 0; k < n; k++) data[first + i + k * inner] = line[k];
        }
}

template <class Real>
void execute_batch(const Plan &p, const void *from, void *to, int64_t b, int direction) {
    typedef std::complex<Real> Complex;
    std::vector<Z> data(p.in.count());
    for (int64_t i = 0; i < (int64_t)data.size(); i++) {
        int64_t at = p.in.at(b, i);
        data[i] = is_real_in(p.kind) ? Z(((const Real *)from)[at]) : Z(((const Complex *)from)[at]);
    }
    int last = p.rank - 1;
    int64_t n = p.n[last], half = n / 2 + 1;
    if (is_real_out(p.kind)) { /* the other axes first, on half of the last one */
        for (int axis = 0; axis < last; axis++) along(data, p.in.sizes, axis, direction);
        std::vector<Z> full(p.out.count());
        for (int64_t row = 0; row < (int64_t)full.size() / n; row++)
            for (int64_t k = 0; k < n; k++)
                full[row * n + k] = k < half ? data[row * half + k]
                                             : std::conj(data[row * half + n - k]);
        along(full, p.out.sizes, last, direction);
        for (int64_t i = 0; i < (int64_t)full.size(); i++)
            ((Real *)to)[p.out.at(b, i)] = (Real)full[i].real();
        return;
    }
    for (int axis = 0; axis <= last; axis++) along(data, p.in.sizes, axis, direction);
    int64_t kept = p.out.sizes[last];
    for (int64_t i = 0; i < p.out.count(); i++)
        ((Complex *)to)[p.out.at(b, i)] = Complex(data[i / kept * n + i % kept]);
}

}  // namespace

extern "C" {
int (*host_fft_report)(const FftReport *);
int (*host_fft_create)(void);
void (*host_fft_refuse)(const char *);
}

namespace {

int execute(const char *name, int handle, int kind, const void *from, void *to, int direction) {
    const Plan *found = plan_of(handle);
    if (!found) return INVALID_PLAN;
    const Plan &p = *found;
    if (p.kind != kind) return INVALID_TYPE;
    FftReport r = {name, p.device, (uint64_t)p.stream, p.rank, {p.n[0], p.n[1], p.n[2]}, p.batch,
                   0, nullptr, 0, 0};
    int64_t real = is_double(kind) ? 8 : 4;
    auto check = [&](const char *operand, const void *pointer, uint64_t size) {
        if (r.fault || !size) return;
        int verdict = host_memory_verdict((uint64_t)pointer, size, p.device);
        if (verdict == HOST_OK) return;
        r.fault = verdict < 0 ? HOST_HOST_POINTER : verdict;
        r.operand = operand, r.address = (uint64_t)pointer, r.size = size;
    };
    auto extent = [&](const Side &s, bool is_real) {
        return (s.at(p.batch - 1, s.count() - 1) + 1) * real * (is_real ? 1 : 2);
    };
    check("the input", from, extent(p.in, is_real_in(kind)));
    check("the output", to, extent(p.out, is_real_out(kind)));
    check("the work area", p.work, p.work_size);
    if (host_fft_report(&r) || r.fault) return EXEC_FAILED;
    for (int64_t b = 0; b < p.batch; b++)
        is_double(kind) ? execute_batch<double>(p, from, to, b, direction)
                        : execute_batch<float>(p, from, to, b, direction);
    return SUCCESS;
}

Side side(int rank, const int64_t *n, bool halved, const int *embed, int step, int distance) {
    Side s;
    s.sizes.assign(n, n + rank);
    if (halved) s.sizes[rank - 1] = n[rank - 1] / 2 + 1;
    s.embed = s.sizes;
    s.step = 1;
    s.distance = s.count();
    if (embed) { /* otherwise cuFFT ignores step and distance, too */
        s.embed.assign(embed, embed + rank);
        s.step = step;
        s.distance = distance;
    }
    return s;
}

}  // namespace

extern "C" {

int cufftGetVersion(int *version) { return *version = 11400, SUCCESS; }
int cufftCreate(int *handle) {
    int device = host_fft_create(); /* takes Python's lock: not under ours */
    std::lock_guard<std::mutex> held(plans_lock);
    plans[*handle = next_plan++].device = device;
    return SUCCESS;
}
int cufftDestroy(int handle) {
    std::lock_guard<std::mutex> held(plans_lock);
    return plans.erase(handle) ? SUCCESS : INVALID_PLAN;
}
int cufftSetAutoAllocation(int handle, int) { return plan_of(handle) ? SUCCESS : INVALID_PLAN; }
int cufftSetStream(int handle, void *stream) {
    Plan *p = plan_of(handle);
    if (!p) return INVALID_PLAN;
    return p->stream = stream, SUCCESS;
}
int cufftSetWorkArea(int handle, void *work) {
    Plan *p = plan_of(handle);
    if (!p) return INVALID_PLAN;
    return p->work = work, SUCCESS;
}
int cufftMakePlanMany(int handle, int rank, int *n, int *inembed, int istride, int idist,
                      int *onembed, int ostride, int odist, int kind, int batch, size_t *work) {
    Plan *found = plan_of(handle);
    if (!found) return INVALID_PLAN;
    if (rank < 1 || rank > 3 || batch < 1) return INVALID_VALUE;
    Plan &p = *found;
    p.kind = kind, p.rank = rank, p.batch = batch;
    int64_t count = batch;
    for (int i = 0; i < rank; i++) {
        if (n[i] < 1) return INVALID_SIZE;
        count *= p.n[i] = n[i];
    }
    p.in = side(rank, p.n, is_real_out(kind), inembed, istride, idist);
    p.out = side(rank, p.n, is_real_in(kind), onembed, ostride, odist);
    *work = p.work_size = (size_t)count * (is_double(kind) ? 16 : 8);
    return SUCCESS;
}
int cufftMakePlan1d(int handle, int n, int kind, int batch, size_t *work) {
    return cufftMakePlanMany(handle, 1, &n, nullptr, 1, 0, nullptr, 1, 0, kind, batch, work);
}

int cufftExecC2C(int h, C *i, C *o, int d) { return execute("cufftExecC2C", h, C2C, i, o, d); }
int cufftExecZ2Z(int h, Z *i, Z *o, int d) { return execute("cufftExecZ2Z", h, Z2Z, i, o, d); }
int cufftExecR2C(int h, float *i, C *o) { return execute("cufftExecR2C", h, R2C, i, o, -1); }
int cufftExecD2Z(int h, double *i, Z *o) { return execute("cufftExecD2Z", h, D2Z, i, o, -1); }
int cufftExecC2R(int h, C *i, float *o) { return execute("cufftExecC2R", h, C2R, i, o, 1); }
int cufftExecZ2D(int h, Z *i, double *o) { return execute("cufftExecZ2D", h, Z2D, i, o, 1); }

#define REFUSE(name) \
    int name(void) { return host_fft_refuse(#name), NOT_SUPPORTED; }
REFUSE(cufftXtExec)
REFUSE(cufftXtExecDescriptorC2C)
REFUSE(cufftXtExecDescriptorZ2Z)
REFUSE(cufftXtMakePlanMany)
REFUSE(cufftXtMemcpy)
REFUSE(cufftXtSetGPUs)
REFUSE(cufftXtSetWorkArea)
}
