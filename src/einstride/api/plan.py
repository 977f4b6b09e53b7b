"""Define `plan`, which plans a call from its arrays, or from shapes and a dtype."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from einstride.api import open_batch
from einstride.api.plan_parts import Parts
from einstride.api.saved_plan import DIRECTIONS, LIBRARIES, Plan, extra_of, make_plan
from einstride.arrays import backends
from einstride.arrays.backends import Array
from einstride.dispatch import depthwise
from einstride.geometry import keywords as parse
from einstride.geometry.keywords import Keywords
from einstride.geometry.types import (
    Accumulate,
    Accuracy,
    Algorithm,
    Groups,
    Ints,
    Padding,
    PaddingMode,
)
from einstride.support.errors import bad_value


def plan(
    first: Array | Sequence[int | None],
    second: Array | Sequence[int | None],
    *,
    direction: str = "forward",
    dtype: str | None = None,
    library: str = "numpy",
    input_size: Ints | None = None,
    kernel_size: Ints | None = None,
    output_padding: Ints = 0,
    output_size: Ints | None = None,
    per_example: bool = False,
    stride: Ints = 1,
    padding: Padding = "valid",
    dilation: Ints = 1,
    input_dilation: Ints = 1,
    groups: Groups = 1,
    padding_mode: PaddingMode = "zeros",
    fill: complex = 0,
    layout: str = "channels_last",
    flip: bool = False,
    algorithm: Algorithm = "auto",
    accuracy: Accuracy = "normwise",
    accumulate: Accumulate | None = None,
    batch_invariant: bool = False,
    max_workspace: int | None = None,
) -> Plan:
    """Plan a call: which algorithm it takes, why, and the predicted cost of every candidate.

    A plan follows from shapes, dtypes and the library alone, never from values.

    Parameters
    ----------
    first, second : array, or sequence of ints
        The two operands of the direction (x and f, gy and f, x and gy), or their shapes. A batch of
        None stands for any batch: the plan is made for a batch of one, so that its workspace and
        its times are those of one example, and runs with each.
    direction : {"forward", "input_grad", "filter_grad", "transpose"}
        `conv`, `conv_input_grad`, `conv_filter_grad` or `conv_transpose`.
    dtype : str, optional
        The dtype of operands that are given as shapes; by default the dtype of the other operand if
        that is an array, else float32.
    library : str
        The library of operands that are given as shapes: "numpy", "cupy", "torch", "jax", "dask" or
        "array_api_strict".
    input_size, kernel_size, output_padding, output_size, per_example : as in their functions
        The arguments of the direction's function.
    stride, padding, dilation, input_dilation, groups, padding_mode, fill : as in `conv`
        The hyperparameters.
    layout, flip, algorithm, accuracy, accumulate : as in `conv`
        The same.
    batch_invariant, max_workspace : as in `conv`
        The same.

    Returns
    -------
    Plan
        ``print(p)`` shows the costs; ``p(first, second)`` runs the plan. The plan of Dask arrays
        is that of the whole arrays; its `parts` are the figures of the graph and of its tasks.

    Raises
    ------
    ValueError, TypeError
        As in `conv`.

    Examples
    --------
    >>> import einstride as es
    >>> es.plan((1, 8, 8, 3), (3, 3, 3, 4)).output_shape
    (1, 6, 6, 4)
    """
    k = Keywords(
        stride, padding, dilation, input_dilation, groups, padding_mode, fill, layout, flip,
        algorithm, accuracy, accumulate, batch_invariant, max_workspace,
    )  # fmt: skip
    sizes = DirectionArguments(input_size, kernel_size, output_padding, output_size, per_example)
    return plan_for("plan", first, second, direction, dtype, library, sizes, k)


def plan_for(
    where: str,
    first: Any,
    second: Any,
    direction: str,
    dtype: str | None,
    library: str,
    sizes: DirectionArguments,
    k: Keywords,
) -> Plan:
    """Plan a call as `plan` does; errors name `where`."""
    given = arguments(where, first, second, direction, dtype, library, sizes, k)
    return make_plan(where, given, k, _parts(where, first, second, given, k))


def _parts(where: str, first: Any, second: Any, given: dict[str, Any], k: Keywords) -> Parts | None:
    """Return the figures of a call that is computed in parts, as on chunked arrays, or None."""
    if isinstance(first, tuple | list) or isinstance(second, tuple | list):
        return None
    b = backends.of(where, ("the first operand",), first)
    if b.exchange is None or b.exchange.figures is None:
        return None
    direction, extra = extra_of(where, given)
    k = parse.plain(where, k)
    if isinstance(k.groups, str):
        first, second, found = depthwise.operands(where, direction, first, second, k, extra)
        k, extra = found.k, found.extra
    call = (where, direction, first, second, None, k, extra)
    return Parts.of(where, b.exchange.figures(*call), given["dtypes"], b)


class DirectionArguments(NamedTuple):
    """Hold the arguments of `plan` that only some directions take."""

    input_size: Ints | None = None
    kernel_size: Ints | None = None
    output_padding: Ints = 0
    output_size: Ints | None = None
    per_example: bool = False


def arguments(
    where: str,
    first: Any,
    second: Any,
    direction: str,
    dtype: str | None,
    library: str,
    sizes: DirectionArguments,
    keywords: Keywords,
) -> dict[str, Any]:
    """Return a plan's arguments in the form that JSON holds, after checks that need no plan."""
    parse.choice(where, "direction", direction, DIRECTIONS)
    parse.choice(where, "library", library, LIBRARIES)
    extra: Any = {
        "forward": None,
        "input_grad": parse.optional(where, "input_size", sizes.input_size, parse.ints),
        "filter_grad": parse.optional(where, "kernel_size", sizes.kernel_size, parse.ints),
        "transpose": (
            parse.ints(where, "output_padding", sizes.output_padding),
            parse.optional(where, "output_size", sizes.output_size, parse.ints),
        ),
    }[direction]
    if direction in ("input_grad", "filter_grad") and extra is None:
        name = "input_size" if direction == "input_grad" else "kernel_size"
        raise bad_value(where, f"{direction} needs {name}", f"{name}=None", f"pass {name}")
    if parse.flag(where, "per_example", sizes.per_example):
        if direction != "filter_grad":
            raise bad_value(where, "per_example belongs to filter_grad", direction, "leave it out")
        extra = ("per_example", extra)
    name = parse.optional(where, "dtype", dtype, parse.name)
    arrays = [a for a in (first, second) if not isinstance(a, tuple | list)]
    if arrays:
        names = ("the first operand", "the second operand")[: len(arrays)]
        b = backends.of(where, names[:1], arrays[0])
        if b.exchange is None or b.exchange.one_library:
            backends.of(where, names, *arrays)
        else:
            b.exchange.check(where, names, tuple(arrays))
        library, name = b.traits.library, name or b.dtype_name(arrays[0])
    shapes, dtypes = [], []
    for operand in (first, second):
        if isinstance(operand, tuple | list):
            shapes.append(
                tuple(n if n is None else parse.integer(where, "a shape", n) for n in operand)
            )
            dtypes.append(name or "float32")
        else:
            shapes.append(tuple(operand.shape))
            dtypes.append(b.dtype_name(operand))
    if any(n is not None and n < 0 for s in shapes for n in s):
        raise bad_value(where, "shapes must not be negative", shapes, "give shapes of arrays")
    open_batch.check(where, direction, shapes, keywords.layout)
    return {
        "direction": direction,
        "shapes": shapes,
        "dtypes": dtypes,
        "library": library,
        "keywords": parse.for_json(where, keywords)._asdict(),
        "extra": extra,
    }
