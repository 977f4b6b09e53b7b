"""Infer the forward convolution of a gradient or of a transposed convolution from their shapes."""

from __future__ import annotations

from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Frozen, Settings, Shape, Transposed, per_axis
from einstride.geometry.padding import is_same, padding_pair, padding_pairs
from einstride.support.errors import bad_value, shown


def input_grad_geometry(
    where: str,
    gy_shape: Shape,
    f_shape: Shape,
    input_size: int | Shape,
    settings: Settings,
    got: str,
) -> Geometry:
    """Return the geometry of the forward pass from an x of `input_size` to gy."""
    rank = len(gy_shape) - 2
    if rank < 1 or len(f_shape) != len(gy_shape):
        raise bad_value(
            where, "gy and f need the same number of axes, at least 3", got, "reshape them"
        )
    size = per_axis(where, "input_size", input_size, rank, 0)
    if f_shape[-1] != gy_shape[-1]:
        raise bad_value(
            where,
            f"gy has {gy_shape[-1]} channels but f makes {f_shape[-1]}",
            got,
            "make them agree",
        )
    x_shape = (gy_shape[0], *size, f_shape[-2] * settings.groups)
    g = Geometry.of(where, x_shape, f_shape, settings, got)
    if g.out != gy_shape[1:-1]:
        raise bad_value(
            where,
            f"an input of size {size} has outputs of size {g.out}, not {gy_shape[1:-1]}",
            got,
            "pass the input_size and the hyperparameters of the forward call",
        )
    return g


def filter_grad_geometry(
    where: str,
    x_shape: Shape,
    gy_shape: Shape,
    kernel_size: int | Shape,
    settings: Settings,
    got: str,
) -> Geometry:
    """Return the geometry of the forward pass from x to gy with a filter of `kernel_size`."""
    rank = len(x_shape) - 2
    if rank < 1 or len(gy_shape) != len(x_shape):
        raise bad_value(
            where, "x and gy need the same number of axes, at least 3", got, "reshape them"
        )
    kernel = per_axis(where, "kernel_size", kernel_size, rank, 1)
    if x_shape[0] != gy_shape[0]:
        raise bad_value(
            where, f"x has batch {x_shape[0]} but gy has {gy_shape[0]}", got, "make them agree"
        )
    groups = settings.groups
    if x_shape[-1] % groups:
        raise bad_value(
            where,
            f"groups={groups} must divide the {x_shape[-1]} channels of x",
            got,
            "choose a divisor",
        )
    f_shape = (*kernel, x_shape[-1] // groups, gy_shape[-1])
    g = Geometry.of(where, x_shape, f_shape, settings, got)
    if g.out != gy_shape[1:-1]:
        raise bad_value(
            where,
            f"a kernel of size {kernel} has outputs of size {g.out}, not {gy_shape[1:-1]}",
            got,
            "pass the kernel_size and the hyperparameters of the forward call",
        )
    return g


def transposed_geometry(
    where: str,
    x_shape: Shape,
    f_shape: Shape,
    settings: Settings,
    got: str,
    wanted_size: Transposed,
) -> Geometry:
    """Return the geometry of the forward pass whose adjoint is ``conv_transpose(x, f)``."""
    rank = len(x_shape) - 2
    if rank < 1 or len(f_shape) != len(x_shape):
        raise bad_value(
            where, "x and f need the same number of axes, at least 3", got, "reshape them"
        )
    if settings.padding_mode not in ("zeros", ("zeros",) * rank):
        raise bad_value(
            where,
            'padding_mode must be "zeros" in a transposed convolution: its padding crops',
            shown(settings.padding_mode),
            "leave it out, or use conv_input_grad",
        )
    if settings.input_dilation not in (1, (1,) * rank):
        raise bad_value(
            where,
            "input_dilation must be 1 in a transposed convolution",
            settings.input_dilation,
            "leave it out, or use conv_input_grad",
        )
    if x_shape[-1] != f_shape[-1]:
        raise bad_value(
            where,
            f"x has {x_shape[-1]} channels but f makes {f_shape[-1]}",
            got,
            "x takes the place of the forward output: f has shape (*kernel, C // groups, D) and x "
            "has D channels",
        )
    strides = per_axis(where, "stride", settings.stride, rank, 1)
    dilation = per_axis(where, "dilation", settings.dilation, rank, 1)
    extra = per_axis(where, "output_padding", wanted_size.output_padding, rank, 0)
    wanted = wanted_size.output_size
    if wanted is not None:
        wanted = per_axis(where, "output_size", wanted, rank, 0)
    if wanted is not None and any(extra):
        raise bad_value(
            where,
            "output_padding and output_size say the same thing twice",
            f"output_padding={extra}, output_size={wanted}",
            "give one of them",
        )
    if any(k < 1 for k in f_shape[:-2]):
        raise bad_value(
            where,
            f"f has no taps on spatial axis {f_shape[:-2].index(0)}",
            got,
            "give every kernel axis at least one tap",
        )
    extent = tuple(d * (k - 1) + 1 for d, k in zip(dilation, f_shape[:-2], strict=True))
    padding = settings.padding
    entries = padding if isinstance(padding, tuple) else (padding,) * rank
    padding_pairs(where, padding, (1,) * rank, extent, strides)  # checks the entries alone
    size: list[int] = []
    pairs: list[Frozen] = []
    for axis, (n, e, s, d) in enumerate(zip(x_shape[1:-1], extent, strides, dilation, strict=True)):
        goal = None if wanted is None else wanted[axis]
        low, high, least = _transposed_axis(where, entries[axis], n, e, s, goal)
        if n == 0 and is_same(padding, axis) and not (extra[axis] or goal):
            size.append(0)  # a forward pass with "same" padding gives no outputs of no inputs
            pairs.append(entries[axis])
            continue
        more = extra[axis] if goal is None else goal - least
        if n == 0 or least + more < 0:
            raise bad_value(
                where,
                f"the padding crops more than the output has on spatial axis {axis}",
                f"x of size {n}, padding {(low, high)}, dilated filter {e}, stride {s}",
                "pad less",
            )
        limit = max(s, d) if goal is None else s
        if not 0 <= more < limit:
            if goal is None:
                raise bad_value(
                    where,
                    f"output_padding must lie in [0, max(stride, dilation)) = [0, {limit}) on"
                    f" spatial axis {axis}",
                    more,
                    "or pass output_size",
                )
            raise bad_value(
                where,
                f"output_size on spatial axis {axis} must lie in [{least}, {least + s - 1}]: "
                f"only these sizes have {n} outputs",
                goal,
                "or leave output_size out",
            )
        # From a stride on, the extra length has no output of its own: less high padding is enough.
        size.append(least + more)
        pairs.append((low, high if more < s else high - more))
    shape = (x_shape[0], *size, f_shape[-2] * settings.groups)
    return Geometry.of(where, shape, f_shape, settings._replace(padding=tuple(pairs)), got)


def _transposed_axis(
    where: str, entry: Frozen, n: int, extent: int, stride: int, goal: int | None
) -> tuple[int, int, int]:
    """Return low, high and the least input size of an axis whose forward pass has n outputs."""
    if entry in ("same", "same_lower"):  # sizes (n - 1) * stride + 1 ... n * stride
        size = n * stride if goal is None else goal
        low, high = padding_pair(where, entry, size, extent, stride)
        return low, high, (size if goal is None else max((n - 1) * stride + 1, 0))
    low, high = padding_pair(where, entry, 1, extent, stride)
    least = (n - 1) * stride + extent - low - high
    return low, high, least
