"""List the targets that tests can compile for and run on this machine."""

from __future__ import annotations

from dataclasses import replace

from einstride.codegen.jit import Target, host_target

FEATURES = "+avx2,+fma,+f16c,+sse4.2"


def vector_widths() -> dict[str, Target]:
    """Return this machine's target and, if it has AVX2, targets with vectors of 32 and 16 bytes.

    The latter have the sixteen registers of AVX2. The function needs llvmlite.
    """
    host = host_target()
    found = {"native": host}
    if "avx2" in host.features:
        for size in (32, 16):
            found[f"{size} bytes"] = replace(
                host, name="x86-64-v3", features=FEATURES, vector_bytes=size, registers=16
            )
    return found
