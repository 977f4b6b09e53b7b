"""Generate discrete Fourier transforms of a few numbers, as unrolled vector arithmetic.

A complex number is a pair of vectors, its real and its imaginary parts; None is a zero that is
known when the kernel is generated, and costs no instruction. Lanes are independent signals: no
transform needs a shuffle.

    X(q) = sum over j of a(j) exp(sign 2 pi i q j / n)
"""

from __future__ import annotations

from collections.abc import Sequence
from math import cos, pi, sin, sqrt
from typing import Any

from llvmlite import ir

from einstride.codegen.function_builder import Value

Real = Value | None
Complex = tuple[Real, Real]

ZERO: Complex = (None, None)
FUSED = ("nsz", "contract")
"""Flags of LLVM's fast-math: signs of zeros may change, a product and a sum may become one FMA."""

ROOT_HALF = sqrt(0.5)


def add(a: Real, b: Real) -> Real:
    """Add two real numbers."""
    if a is None or b is None:
        return b if a is None else a
    return Value(a.code, a.code.builder.fadd(a.ir, b.ir, flags=FUSED))


def sub(a: Real, b: Real) -> Real:
    """Subtract b from a."""
    if b is None:
        return a
    if a is None:
        return Value(b.code, b.code.builder.fneg(b.ir))
    return Value(a.code, a.code.builder.fsub(a.ir, b.ir, flags=FUSED))


def mul(a: Real, b: Real) -> Real:
    """Multiply two real numbers."""
    if a is None or b is None:
        return None
    return Value(a.code, a.code.builder.fmul(a.ir, b.ir, flags=FUSED))


def times(a: Real, number: float) -> Real:
    """Multiply by a number that is known when the kernel is generated."""
    if a is None or number == 1:
        return a
    kind: Any = a.ir.type
    constant = ir.Constant(kind, [number] * kind.count)
    return mul(a, Value(a.code, constant))


def plus(a: Complex, b: Complex) -> Complex:
    """Return the sum of two complex numbers."""
    return add(a[0], b[0]), add(a[1], b[1])


def minus(a: Complex, b: Complex) -> Complex:
    """Return the difference of two complex numbers."""
    return sub(a[0], b[0]), sub(a[1], b[1])


def product(a: Complex, b: Complex) -> Complex:
    """Return the product of two complex numbers."""
    return sub(mul(a[0], b[0]), mul(a[1], b[1])), add(mul(a[0], b[1]), mul(a[1], b[0]))


def product_conjugate(a: Complex, b: Complex) -> Complex:
    """Return the product of a and of b's conjugate."""
    return add(mul(a[0], b[0]), mul(a[1], b[1])), sub(mul(a[1], b[0]), mul(a[0], b[1]))


def rotated(a: Complex, part: int, whole: int) -> Complex:
    """Multiply `a` by exp(2 pi i part / whole)."""
    part %= whole
    quarters, remainder = divmod(4 * part, whole)
    if remainder == 0:
        x, y = a
        return [(x, y), (sub(None, y), x), (sub(None, x), sub(None, y)), (y, sub(None, x))][
            quarters
        ]
    if 2 * remainder == whole:
        x, y = times(a[0], ROOT_HALF), times(a[1], ROOT_HALF)
        return rotated((sub(x, y), add(x, y)), quarters, 4)
    c, s = cos(2 * pi * part / whole), sin(2 * pi * part / whole)
    return sub(times(a[0], c), times(a[1], s)), add(times(a[0], s), times(a[1], c))


def dft(values: Sequence[Complex], sign: int) -> list[Complex]:
    """Generate the transform X(0), X(1), ... of `values`, split by the smallest radices."""
    n = len(values)
    if n == 1 or all(v == ZERO for v in values):
        return list(values)
    if n == 2:
        return [plus(*values), minus(*values)]
    first = 4 if n % 4 == 0 and n > 4 else next(r for r in range(2, n + 1) if n % r == 0)
    if first == n:
        return _transform_prime(values, sign)
    second = n // first
    inner = [dft(values[k::second], sign) for k in range(second)]
    spectrum = [ZERO] * n
    for q in range(first):
        column = [rotated(inner[k][q], sign * k * q, n) for k in range(second)]
        spectrum[q::first] = dft(column, sign)
    return spectrum


def _transform_prime(values: Sequence[Complex], sign: int) -> list[Complex]:
    """Transform a prime length, by sums and differences of a(j) and a(n - j).

    Their factors are real: cosines for the sums, sines for the differences.
    """
    n, zero = len(values), values[0]
    sums = [plus(values[j], values[n - j]) for j in range(1, n // 2 + 1)]
    differences = [minus(values[j], values[n - j]) for j in range(1, n // 2 + 1)]
    spectrum = [ZERO] * n
    spectrum[0] = zero
    for s in sums:
        spectrum[0] = plus(spectrum[0], s)
    for q in range(1, n // 2 + 1):
        even, odd = zero, ZERO
        for j, (s, d) in enumerate(zip(sums, differences, strict=True), 1):
            angle = 2 * pi * (q * j % n) / n
            cosine, sine = cos(angle), sign * sin(angle)
            even = plus(even, (times(s[0], cosine), times(s[1], cosine)))
            odd = plus(odd, (times(d[0], sine), times(d[1], sine)))
        rotated_odd = (sub(None, odd[1]), odd[0])
        spectrum[q], spectrum[n - q] = plus(even, rotated_odd), minus(even, rotated_odd)
    return spectrum
