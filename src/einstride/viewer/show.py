"""Define `show`, which makes a page from a convolution's arrays or shapes."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

from einstride.api import open_batch
from einstride.arrays import backends
from einstride.dispatch import depthwise
from einstride.geometry import keywords as parse
from einstride.geometry import layout as layouts
from einstride.geometry.arithmetic import ITEMSIZE
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import DEPTHWISE, Keywords
from einstride.geometry.types import Groups, Ints, Padding, PaddingMode
from einstride.support.errors import bad_type, bad_value, shown

if TYPE_CHECKING:
    from einstride.arrays.backends import Array
    from einstride.viewer.page import Page

PASSES = ("forward", "input_grad", "filter_grad")
MOST_AXES = 3
"""Spatial axes that a page draws: rows, columns, and slices of them."""

MOST_ELEMENTS = 2**58
"""Elements of an array or a view, so that byte offsets of elements of 16 bytes are 64-bit integers,
as NumPy's are."""

LONGEST_TITLE = 200
"""Characters of a title; a longer one would not be one."""


def show(
    x: Array | tuple[int | None, ...],
    f: Array | tuple[int, ...],
    gy: Array | None = None,
    *,
    direction: str = "forward",
    dtype: str | None = None,
    at: Ints = 0,
    title: str | None = None,
    stride: Ints = 1,
    padding: Padding = "valid",
    dilation: Ints = 1,
    input_dilation: Ints = 1,
    groups: Groups = 1,
    padding_mode: PaddingMode = "zeros",
    fill: complex = 0,
    layout: str = "channels_last",
    flip: bool = False,
    algorithm: str = "auto",
    accuracy: str = "normwise",
    accumulate: str | None = None,
    batch_invariant: bool = False,
    max_workspace: int | None = None,
) -> Page:
    r"""Make a page that shows a convolution: windows, memory, sums, gradients and the plan.

    The page steps through

    .. math:: y_{b,o,d} = \sum_{k,c} v_{b,o,k,c} \, f_{k,c,d}

    and marks, for each output, its window in x, its bytes in memory, and the strides of the view v
    that holds all windows (`windows`). Its gradients and its plans are shown in the same way. The
    page is one HTML file that loads nothing from anywhere.

    Parameters
    ----------
    x : array, shape (B, *S, C), or tuple of ints
        The input, with 1 to 3 spatial axes, or its shape: small integers then stand for its
        elements. One axis fewer than f has means a batch of one; None for the batch means any:
        one example is drawn, and the plans are those of any batch.
    f : array, shape (*K, C // groups, D), or tuple of ints
        The filter or its shape.
    gy : array, shape (B, *O, D), optional
        The gradient of the output; by default small integers.
    direction : {"forward", "input_grad", "filter_grad"}
        The pass that the page shows first.
    dtype : str, optional
        The dtype of operands that are given as shapes, as in `plan`.
    at : int or tuple of N ints
        The first output that is drawn of an input that is too large to be drawn as a whole.
    title : str, optional
        The page's title; by default the shapes.
    stride, padding, dilation, input_dilation, groups : as in `conv`
        The hyperparameters.
    padding_mode, fill, layout, flip : as in `conv`
        The hyperparameters.
    algorithm, accuracy, accumulate, batch_invariant, max_workspace : as in `conv`
        The limits of the plans.

    Returns
    -------
    Page
        Displayed in a notebook; ``save(path)`` writes the file, ``open(path)`` shows it.

    Raises
    ------
    ValueError
        As in `conv`, and if there is nothing to draw or there are more than 3 spatial axes.
    TypeError
        As in `conv`, and if an array is not in the memory of the host.

    Notes
    -----
    A large input is drawn in part, and the page says which part. Its sums run over what is drawn;
    its offsets, strides and plans are those of the whole arrays.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> x, f = np.arange(36.0).reshape(1, 6, 6, 1), np.ones((3, 3, 1, 1))
    >>> es.show(x, f, stride=2, title="Sums of 3 x 3 pixels")
    <Page Sums of 3 x 3 pixels>
    """
    from einstride.viewer import data
    from einstride.viewer.page import Page

    where = "show"
    k = Keywords(
        stride, padding, dilation, input_dilation, groups, padding_mode, fill, layout, flip,
        algorithm=algorithm, accuracy=accuracy, accumulate=accumulate,
        batch_invariant=batch_invariant, max_workspace=max_workspace,
    )  # fmt: skip
    k = parse.plain(where, k)
    parse.choice(where, "direction", direction, PASSES)
    name = parse.optional(where, "dtype", dtype, parse.name)
    if name is not None and name not in ITEMSIZE:
        raise bad_value(where, "dtype is unknown", shown(name), f"use one of {tuple(ITEMSIZE)}")
    any_batch = isinstance(x, tuple | list) and None in x
    if any_batch:
        sizes = tuple(x), tuple(f if isinstance(f, tuple | list) else getattr(f, "shape", ()))
        open_batch.check(where, "forward", sizes, k.layout)
        x, _ = open_batch.of_one(sizes)
    x, f, known = _operands(where, x, f, name)
    if k.groups == DEPTHWISE:
        import numpy as np

        k, (_, wide), *_ = depthwise.resolve(where, "forward", (x.shape, f.shape), k, None)
        f = np.broadcast_to(f, wide)
    settings = parse.settings(where, k)
    rank = x.ndim - 2
    order = layouts.parse(where, k.layout, max(rank, 1))
    got = f"x {x.shape}, f {f.shape}"
    if x.ndim == f.ndim and rank >= 1:
        xc, fc = _permuted(x, order.x), _permuted(f, order.f)
        g = Geometry.of(where, xc.shape, fc.shape, settings, got)
    else:
        g = Geometry.of(where, x.shape, f.shape, settings, got)  # raises: the ranks do not fit
    if rank > MOST_AXES:
        raise bad_value(
            where, f"a page draws 1 to {MOST_AXES} spatial axes", f"{rank} ({got})",
            f"index the others: show a slice of {MOST_AXES}",
        )  # fmt: skip
    if 0 in (*g.given_shape, *g.f_shape, *g.y_shape):
        raise bad_value(
            where, "every array must have an element to draw", f"{got}, y {g.y_shape}",
            "give sizes of at least 1, and padding that leaves an output",
        )  # fmt: skip
    view = (g.batch, *g.out, *g.kernel, g.channels)
    if prod(view) > MOST_ELEMENTS:
        raise bad_value(
            where, "the view of all windows must have at most 2**58 elements", f"{view} ({got})",
            "use smaller shapes",
        )  # fmt: skip
    start = parse.per_axis(where, "at", parse.ints(where, "at", at), rank, 0)
    if any(i >= o for i, o in zip(start, g.out, strict=True)):
        raise bad_value(where, "at must be an output", f"{start}, outputs {g.out}", "lower it")
    if gy is not None:
        gy = _checked_gradient(where, gy, layouts.canonical(g.y_shape, layouts.inverse(order.y)))
    text = parse.optional(where, "title", title, parse.name)
    if text is not None and len(text) > LONGEST_TITLE:
        raise bad_value(
            where, f"a title has at most {LONGEST_TITLE} characters", len(text), "shorten it"
        )
    if text is not None and any("\ud800" <= c <= "\udfff" for c in text):
        raise bad_value(
            where, "a title must be text that UTF-8 can hold", ascii(text),
            "leave out single surrogates, e.g. text.encode(errors='replace').decode()",
        )  # fmt: skip
    return Page(data.collect(g, order, (xc, fc, gy), (*known, gy is not None), k, direction,
                             start, text, any_batch))  # fmt: skip


def _operands(
    where: str, x: Any, f: Any, name: str | None
) -> tuple[Array, Array, tuple[bool, bool]]:
    """Return x and f as arrays of NumPy, without memory if they are given as shapes."""
    from einstride.arrays.backends import numpy

    shapes = [isinstance(operand, tuple | list) for operand in (x, f)]
    arrays: list[Any] = [None if is_shape else _on_host(where, n, a)
              for n, a, is_shape in zip("xf", (x, f), shapes, strict=True)]  # fmt: skip
    other = next((numpy.dtype_name(a) for a in arrays if a is not None), "float32")
    axes = [len(x) if shapes[0] else x.ndim, len(f) if shapes[1] else f.ndim]
    if axes[0] == axes[1] - 1:  # no batch
        x = (1, *x) if shapes[0] else x
        arrays[0] = None if shapes[0] else arrays[0][None]
    for i, operand in enumerate((x, f)):
        if arrays[i] is None:
            shape = tuple(parse.integer(where, "a shape", n) for n in operand)
            if any(n < 0 for n in shape):
                raise bad_value(
                    where, "shapes must not be negative", shape, "give shapes of arrays"
                )
            if _elements(shape) > MOST_ELEMENTS:
                raise bad_value(
                    where, "an array must have at most 2**58 elements", shape, "use smaller shapes"
                )
            arrays[i] = numpy.unallocated(shape, name or other)
    return arrays[0], arrays[1], (not shapes[0], not shapes[1])


def _elements(shape: tuple[int, ...]) -> int:
    found = 1
    for n in shape:
        found *= max(n, 1)
    return found


def _on_host(where: str, name: str, array: Any) -> Array:
    """Return an array of NumPy on the memory of the caller's array."""
    import numpy as np

    b = backends.of(where, (name,), array)
    lent = array if b.exchange is None else b.exchange.lend(array)
    if not isinstance(lent, np.ndarray):
        raise bad_type(
            where,
            f"{name} must be in the memory of the host",
            f"{type(array).__module__}.{type(array).__qualname__}",
            "copy it to NumPy first",
        )
    if b.dtype_name(array) not in ITEMSIZE:
        raise bad_type(
            where,
            f"{name} must hold bools, integers, floats or complex numbers",
            f"dtype {lent.dtype}",
            "convert it first, e.g. x.astype('float32')",
        )
    return lent


def _permuted(a: Array, order: tuple[int, ...] | None) -> Array:
    return a if order is None else a.transpose(order)


def _checked_gradient(where: str, gy: Any, shape: tuple[int, ...]) -> Array:
    gy = _on_host(where, "gy", gy)
    if gy.shape != shape:
        raise bad_value(
            where, f"gy must have the shape of the output, {shape}", gy.shape, "reshape gy"
        )
    return gy
