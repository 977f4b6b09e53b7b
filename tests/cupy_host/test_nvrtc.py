"""`nvrtc` compiles for every architecture, and reports registers and spills."""

from __future__ import annotations

import pytest

from cupy_host import nvrtc

SOURCE = """
#include <cuda_fp16.h>
extern "C" __global__ void __launch_bounds__(256) tile(const __half *x, float *y) {
    __shared__ float kept[256];
    kept[threadIdx.x] = __half2float(x[threadIdx.x]);
    __syncthreads();
    y[threadIdx.x] = kept[255 - threadIdx.x];
}
template <class T> __global__ void scale(T *x, T by) { x[threadIdx.x] *= by; }
"""
# A thread of a block of 1024 may have 64 registers; this kernel needs more.
SPILLING = """
extern "C" __global__ void __launch_bounds__(1024, 2) spill(const float *x, float *y) {
    float v[96];
    for (int i = 0; i < 96; i++) v[i] = x[i * 1024 + threadIdx.x];
    __syncthreads();
    for (int k = 0; k < 96; k++) {
        float sum = 0;
        for (int i = 0; i < 96; i++) sum += v[i] * v[(i * 7 + k) % 96];
        y[k * 1024 + threadIdx.x] = sum;
    }
}
"""


@pytest.fixture(autouse=True)
def installed():
    reason = nvrtc.unavailable_reason()
    if reason:
        pytest.skip(reason)


@pytest.mark.parametrize("architecture", nvrtc.ARCHITECTURES)
def test_registers_and_spills(architecture):
    made = nvrtc.compile_for(SOURCE, architecture, expressions=["scale<double>"])
    assert made.cubin.startswith(b"\x7fELF")
    uses = {use.kernel: use for use in made.kernels}
    assert len(uses) == 2
    tile = uses["tile"]
    assert tile.architecture == architecture
    assert 0 < tile.registers <= 64
    assert tile.spilled == 0
    assert tile.shared >= 1024


def test_spills_are_seen():
    [use] = nvrtc.compile_for(SPILLING, "80").kernels
    assert use.spilled + use.stack > 0


def test_errors_tell_the_line():
    with pytest.raises(nvrtc.NvrtcError, match=r"kernel.cu\(2\)"):
        nvrtc.compile_for('extern "C" __global__ void k() {\n nonsense; }', "90")


def test_an_instruction_of_a_later_architecture_is_refused():
    source = """
    extern "C" __global__ void copy(unsigned s, const void *g) {
        asm volatile("cp.async.ca.shared.global [%0], [%1], 16;" :: "r"(s), "l"(g));
    }
    """
    nvrtc.compile_for(source, "80")
    with pytest.raises(nvrtc.NvrtcError, match=r"sm_80"):
        nvrtc.compile_for(source, "75")
