"""Define the types of the keywords that all public functions share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

ArrayT = TypeVar("ArrayT")
"""The type of the first array, which results have: its library's own. Its dtype may be another."""

Ints = int | Sequence[int]
Groups = int | Literal["depthwise"]
PaddingName = Literal["valid", "same", "same_lower", "full", "causal"]
Padding = int | PaddingName | Sequence[int | PaddingName | tuple[int, int]]
ModeName = Literal["zeros", "reflect", "replicate", "circular", "symmetric", "constant"]
PaddingMode = ModeName | Sequence[ModeName]
Algorithm = Literal[
    "auto", "strided", "gemm", "direct", "winograd", "implicit_gemm", "fft", "cudnn"
]
Accuracy = Literal["normwise", "elementwise", "tf32"]
Accumulate = Literal["int32", "int64", "uint64", "float32", "float64", "complex64", "complex128"]
