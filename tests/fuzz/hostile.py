"""Lists invalid values of keywords, which must raise a ValueError or TypeError with the function's
name."""

from __future__ import annotations

from typing import Any

HOSTILE: tuple[tuple[str, Any], ...] = (
    ("stride", 0), ("stride", -1), ("stride", 1.0), ("stride", True), ("stride", "1"),
    ("stride", None), ("stride", (1,) * 9), ("stride", (0,)), ("stride", 2.5), ("stride", {}),
    ("dilation", 0), ("dilation", -3), ("dilation", "2"), ("dilation", 1.5), ("dilation", ()),
    ("input_dilation", 0), ("input_dilation", -1), ("input_dilation", None),
    ("groups", 0), ("groups", -1), ("groups", 1.0), ("groups", "1"), ("groups", None),
    ("groups", 997), ("groups", (1,)), ("padding", "sam"), ("padding", None), ("padding", 1.5),
    ("padding", (1,) * 9), ("padding", ((1, 2, 3),)), ("padding", object()), ("padding", "SAME"),
    ("padding", -(10**6)), ("padding_mode", "constant "), ("padding_mode", None),
    ("padding_mode", 0), ("layout", "channels"), ("layout", 3), ("layout", None), ("layout", ""),
    ("layout", "NC,OI->NC"), ("layout", "NHHC,HHIO->NHHC"), ("layout", "->"), ("flip", 1),
    ("flip", None), ("flip", "yes"), ("algorithm", "foo"), ("algorithm", None), ("algorithm", 1),
    ("algorithm", "cudnn"), ("algorithm", "implicit_gemm"), ("accuracy", "exact"),
    ("accuracy", None), ("accuracy", 1), ("accumulate", "float16"), ("accumulate", 1),
    ("accumulate", "int8"), ("accumulate", ""), ("batch_invariant", 1), ("batch_invariant", None),
    ("max_workspace", -1), ("max_workspace", 1.5), ("max_workspace", "1"),
    ("max_workspace", True), ("first", None), ("first", [[[1.0]]]), ("first", "x"),
    ("first", 3.0), ("first", "flat"), ("first", "objects"), ("first", "longdouble"),
    ("first", "dates"), ("first", "text"), ("second", None), ("second", [[[1.0]]]),
    ("second", "flat"), ("second", "objects"), ("second", "no taps"), ("second", "more axes"),
    ("out", "wrong shape"), ("out", "wrong dtype"), ("out", "read-only"), ("out", "overlapping"),
    ("out", "itself"), ("out", []), ("out", "swapped"), ("bias", "wrong length"), ("bias", [1.0]),
    ("unknown", 1),
)  # fmt: skip
"""(keyword, invalid value). Strings for "first", "second", "bias" and "out" describe arrays: see
`calls`."""
