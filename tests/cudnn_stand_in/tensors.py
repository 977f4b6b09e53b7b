"""A tensor of a graph: chained setters, its memory order, its memory."""

from __future__ import annotations

import ctypes

import numpy as np

from cupy_host.faults import Misaligned, OutOfBounds, WrongDevice

from .names import TYPES, State, data_type


class tensor:  # noqa: N801 - its name there
    def __init__(self) -> None:
        self.dim: list[int] = []
        self.stride: list[int] = []
        self.type = data_type.NOT_SET
        self.uid, self.alignment, self.output = -1, 16, False

    def set_dim(self, arg0):
        self.dim = list(arg0)
        return self

    def set_stride(self, arg0):
        self.stride = list(arg0)
        return self

    def set_data_type(self, data_type=data_type.NOT_SET):
        self.type = data_type
        return self

    def set_uid(self, arg0):
        self.uid = arg0
        return self

    def set_alignment(self, arg0):
        self.alignment = arg0
        return self

    def set_output(self, arg0):
        self.output = arg0
        return self

    def orders(self) -> set[str]:
        """Of "last" and "first": the orders in which the memory is packed."""
        n = len(self.dim)
        found = set()
        for name, order in (("last", (0, *range(2, n), 1)), ("first", range(n))):
            step, packed = 1, True
            for axis in reversed(order):
                packed &= self.dim[axis] == 1 or self.stride[axis] == step
                step *= self.dim[axis]
            if packed:
                found.add(name)
        return found

    def array(self, address: int, state: State) -> np.ndarray:
        """The memory that it means, checked."""
        host = state.host
        name = TYPES[self.type.name]
        kind = np.dtype(name) if name != "bfloat16" else _bfloat16()
        if address % self.alignment:
            raise Misaligned(f"cuDNN was told {self.alignment} bytes for 0x{address:x}")
        size = sum((n - 1) * s for n, s in zip(self.dim, self.stride, strict=True)) + 1
        size *= kind.itemsize
        device = host.memory.device_of(address)
        if device != host.device:
            raise WrongDevice(f"cuDNN on device {host.device} gets memory of device {device}")
        if not host.core.host_memory_owned(address, size):
            raise OutOfBounds(f"cuDNN touches {size} bytes at {host.memory.describe(address)}")
        flat = np.frombuffer((ctypes.c_char * size).from_address(address), np.uint8)
        steps = [s * kind.itemsize for s in self.stride]
        return np.ndarray(self.dim, kind, flat, strides=steps)


def _bfloat16() -> np.dtype:
    import ml_dtypes

    return np.dtype(ml_dtypes.bfloat16)
