"""Reads kernels after LLVM's optimisation, for stores that LLVM would lower to wider ones.

LLVM up to 22.1 lowers a masked store of a vector of truncated integers to a store of one integer
that was not truncated, where the mask is a constant with one lane on. After the last pass of the
optimiser every mask that LLVM knows stands in the text as a constant; so it is enough that no
masked store of elements of less than 32 bits has one.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

MASKED = re.compile(
    r"call void @llvm\.masked\.(?:store|compressstore|scatter)\.v(\d+)(i8|i16|f16)[.\w]*\((.*)\)"
)


def wrong_stores(module: str) -> list[str]:
    """The masked stores of narrow elements in a module's text whose masks are constants.

    Masks with every lane on, or none, are right.
    """
    found = []
    for line in module.splitlines():
        if match := MASKED.search(line):
            mask = re.search(r"<\d+ x i1> (.*)$", match[3])
            known = mask is not None and not mask[1].lstrip().startswith(("%", "splat"))
            if known and mask[1].count("i1 true") not in (0, int(match[1])):
                found.append(line.strip())
    return found


def optimised(text: str, on: Any) -> str:
    """A kernel's text after LLVM's passes."""
    from einstride.codegen import jit

    return str(jit._optimised(text, jit._target(on)))


class Reader:
    """In the place of the compiler's last step: reads each kernel, then compiles it.

    Attributes
    ----------
    read : int
        How many kernels were read.
    masked : int
        How many masked stores of narrow elements they have.
    wrong : list of str
        Those that LLVM would lower wrongly.
    """

    def __init__(self) -> None:
        self.read = self.masked = 0
        self.wrong: list[str] = []

    def __call__(self, compile_kernel: Callable[..., bytes], text: str, on: Any) -> bytes:
        module = optimised(text, on)
        self.read += 1
        self.masked += len(MASKED.findall(module))
        self.wrong += wrong_stores(module)
        return compile_kernel(text, on)
