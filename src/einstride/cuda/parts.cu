// Adds partial sums in a fixed order: out[i] = sum over p of parts[p, i], with parts (P, N) dense and
// `out` of any strides.
//
// A block adds 32 columns with 8 threads each: thread t adds parts t, t + 8, ..., and thread 0 then
// adds the sums of the eight threads.

#define WIDTH 32
#define HEIGHT 8
#define MAX_AXES 14

#include "numbers.cuh"

struct Job {
    long long parts, total, axes;
    long long length[MAX_AXES], stride[MAX_AXES];  // of `out`, outermost first
};

template <class ACC, class OUT>
__global__ void __launch_bounds__(WIDTH *HEIGHT)
sum_parts(const ACC *__restrict__ parts, OUT *__restrict__ out, const Job job) {
    __shared__ ACC sums[HEIGHT][WIDTH];
    const int lane = (int)threadIdx.x % WIDTH, slice = (int)threadIdx.x / WIDTH;
    const long long column = (long long)blockIdx.x * WIDTH + lane;
    ACC sum = ACC();
    if (column < job.total) {
#pragma unroll 4
        for (long long p = slice; p < job.parts; p += HEIGHT)
            sum = added(sum, parts[p * job.total + column]);
    }
    sums[slice][lane] = sum;
    __syncthreads();
    if (slice || column >= job.total) return;
#pragma unroll
    for (int t = 1; t < HEIGHT; t++) sum = added(sum, sums[t][lane]);
    long long rest = column, at = 0;
    for (int a = (int)job.axes - 1; a >= 0; a--) {
        at += rest % job.length[a] * job.stride[a];
        rest /= job.length[a];
    }
    out[at] = Cast<OUT>::of(sum);
}
