"""Finds masked stores in optimised kernels that LLVM would lower to stores of too many bytes.

LLVM up to 22.1 lowers a masked store of a vector of truncated integers to a store of one integer
that was not truncated, where the mask is a constant with one lane on. After the last pass of the
optimiser every mask that LLVM knows is a constant in the text: the fault is excluded if no masked
store of elements of less than 32 bits has a constant mask.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

MASKED = re.compile(
    r"call void @llvm\.masked\.(?:store|compressstore|scatter)\.v(\d+)(i8|i16|f16)[.\w]*\((.*)\)"
)


def wrong_stores(module: str) -> list[str]:
    """List the masked stores of elements below 32 bits in a module's text whose masks are
    constants.

    Masks with all lanes on, or none, are not listed: LLVM lowers their stores correctly.
    """
    found = []
    for line in module.splitlines():
        if match := MASKED.search(line):
            mask = re.search(r"<\d+ x i1> (.*)$", match[3])
            constant = mask is not None and not mask[1].lstrip().startswith(("%", "splat"))
            if constant and mask[1].count("i1 true") not in (0, int(match[1])):
                found.append(line.strip())
    return found


def optimised(text: str, target: Any) -> str:
    """Return a kernel's text after LLVM's passes."""
    from einstride.codegen import jit

    return str(jit._optimise(text, jit._llvm_target(target)))


class Reader:
    """Replace the compiler's last step: search each kernel for wrong stores, then compile it.

    Attributes
    ----------
    read : int
        Number of kernels that were searched.
    masked : int
        Number of masked stores of elements below 32 bits in these kernels.
    wrong : list of str
        The masked stores that LLVM would lower wrongly.
    """

    def __init__(self) -> None:
        self.read = self.masked = 0
        self.wrong: list[str] = []

    def __call__(self, compile_kernel: Callable[..., bytes], text: str, target: Any) -> bytes:
        module = optimised(text, target)
        self.read += 1
        self.masked += len(MASKED.findall(module))
        self.wrong += wrong_stores(module)
        return compile_kernel(text, target)
