"""Make the windows of an array as a view, after checks of all arguments."""

from __future__ import annotations

from typing import Any

from einstride.arrays import backends, ops
from einstride.arrays.backends import Array
from einstride.geometry import keywords as parse
from einstride.geometry.arithmetic import check_fill
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Settings
from einstride.support.errors import bad_type


def windows(where: str, x: Array, kernel: Any, settings: Settings) -> Array:
    """Return the windows of x with its border as a view; raise if they reach beyond it."""
    b = backends.of(where, ("x",), x)
    shape = tuple(x.shape)
    rank = max(len(shape) - 2, 1)
    sizes = parse.per_axis(where, "kernel_size", kernel, rank, 1)
    f_shape = (*sizes, shape[-1] if shape else 0, 1)
    g = Geometry.of(where, shape, f_shape, settings, f"x {shape}")
    if getattr(x.dtype, "char", "") == "T":
        raise bad_type(
            where,
            "x must have elements of one size",
            f"dtype {x.dtype}",
            "convert it, e.g. to 'U9'",
        )
    fill = 0 if g.border is None else g.border.fill
    if fill != 0:
        check_fill(where, fill, b.dtype_name(x))
    with b.on(x):
        x = ops.pad(x, g.padding, g.modes, b, fill)
        return ops.windows(x, g.kernel, g.stride, g.dilation, b)
