"""Finds masked stores in optimised kernels that LLVM would lower to stores of too many bytes.

LLVM up to 22.1 lowers a masked store of a vector of truncated integers to a store of one integer
that was not truncated, where the mask is a constant with one lane on. After the last pass of the
optimiser every mask that LLVM knows is a constant in the text: the fault is excluded if no masked
store of elements of less than 32 bits has a constant mask.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
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


def joined(texts: Iterable[str]) -> str:
    """Return one module with the kernels of several texts, whose names must differ.

    To make LLVM's passes and the code generator for a module takes longer than to compile a small
    kernel.
    """
    from llvmlite import binding

    modules = map(binding.parse_assembly, texts)
    first = next(modules)
    for module in modules:
        first.link_in(module)
    return str(first)


def loaded(names: Iterable[str], text: str, target: Any) -> dict[str, Callable[[int, int], None]]:
    """Compile a module and return {name: kernel} of its kernels."""
    from einstride.codegen import jit

    first, *others = names
    kernels = {first: jit._load(first, jit._machine_code(text, target), target)}
    address = jit._engines[-1].get_function_address
    return kernels | {name: jit._SIGNATURE(address(name)) for name in others}


class Reader:
    """Replace LLVM's optimiser: optimise each kernel, and search it for wrong stores.

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

    def __call__(self, optimise: Callable[[str, Any], Any], text: str, target: Any) -> Any:
        module = optimise(text, target)
        optimised = str(module)
        self.read += 1
        self.masked += len(MASKED.findall(optimised))
        self.wrong += wrong_stores(optimised)
        return module
