"""Kernels of every family compile for targets that this machine is not, as NEON; see kernel_texts.

LLVM compiles them as its cross targets do. Nothing runs: what is checked is that the machine code
exists, that it calls no function of another library, as it would for a multiply-add on a CPU
without that instruction, and that it computes in vectors of the target's width.
"""

import re

import pytest

pytest.importorskip("llvmlite", reason="llvmlite, the extra fast, is missing")

from llvmlite import binding

from einstride.codegen import jit
from kernel_texts import capture, generate

TRIPLES = {"neon": "aarch64-unknown-linux-gnu"}
"""LLVM's triples of targets with another instruction set than x86-64."""

CALLED = re.compile(r"^\s+(?:movabsq\s+\$([a-zA-Z_]\w*)|bl\s+(\w+)|callq?\s+(\w+))", re.MULTILINE)
"""The name of a function whose address is called, on x86-64 and on aarch64."""

DEFINED = re.compile(r'^define [^@]*@"?(\w+)"?\(', re.MULTILINE)
"""The name of a function that a kernel's text defines: its routines call each other."""

LIBRARY = {"memset", "memcpy"}
"""Functions of the C library that every process has."""

REGISTERS = {
    "avx512": "%zmm", "vnni": "%zmm", "amx": "%zmm", "avx2": "%ymm", "sse": "%xmm",
    "neon": r"\bv\d+\.",
}  # fmt: skip
"""How the vector registers of a target are written in its assembly language."""


def chosen():
    """Return the name of one specification for each target, family and pass."""
    found = {}
    for name, spec in generate.specifications().items():
        family = name.partition(".")[0]
        found.setdefault((spec.target, family, spec.direction), name)
    return sorted(found.values())


@pytest.fixture(scope="module")
def llvm():
    jit.host_target()  # initialises LLVM for this machine
    binding.initialize_all_targets()
    binding.initialize_all_asmprinters()


def assembly(text, target):
    """Compile LLVM IR to assembly language."""
    triple = TRIPLES.get(target, "x86_64-unknown-linux-gnu")
    described = capture.TARGETS[target]
    llvm_target = binding.Target.from_triple(triple).create_target_machine(
        cpu=described.name, features=described.features, opt=3, jit=True
    )
    return llvm_target.emit_assembly(jit._optimise(text, llvm_target))


@pytest.mark.parametrize("name", chosen())
def test_kernels_compile_and_call_nothing(name, llvm):
    """A kernel compiles for its target, in vectors, without a call of a library function."""
    spec = generate.specifications()[name]
    texts = generate.texts(spec)
    assert texts
    wide = 0
    for kernel, text in texts.items():
        code = assembly(text, spec.target)
        called = {name for names in CALLED.findall(code) for name in names if name}
        assert called <= LIBRARY | set(DEFINED.findall(text)), (kernel, called)
        wide += bool(re.search(REGISTERS[spec.target], code))
    assert wide
