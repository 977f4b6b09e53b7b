"""Make the windows of an array as a view, after checks of all arguments."""

from __future__ import annotations

from typing import Any

from einstride.arrays import backends, ops
from einstride.arrays.backends import Array
from einstride.geometry import keywords as parse
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Settings
from einstride.support.errors import bad_type


def windows(where: str, x: Array, kernel: Any, stride: Any, dilation: Any) -> Array:
    """Return the windows of x as a view; raise if they reach beyond x."""
    b = backends.of(where, ("x",), x)
    shape = tuple(x.shape)
    rank = max(len(shape) - 2, 1)
    sizes = parse.per_axis(where, "kernel_size", kernel, rank, 1)
    one = Settings(stride=stride, dilation=dilation)
    g = Geometry.of(where, shape, (*sizes, shape[-1] if shape else 0, 1), one, f"x {shape}")
    if getattr(x.dtype, "char", "") == "T":
        raise bad_type(
            where,
            "x must have elements of one size",
            f"dtype {x.dtype}",
            "convert it, e.g. to 'U9'",
        )
    with b.on(x):
        return ops.windows(x, g.kernel, g.stride, g.dilation, b)
