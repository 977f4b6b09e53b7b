"""Register einstride's passes as operators of PyTorch, which differentiates and transforms them.

`torch.ops.einstride` has `conv`, `conv_input_grad`, `conv_filter_grad` and `conv_transpose`. Each
has an implementation, a fake kernel for shapes without values (`torch.compile`, `torch.export`), a
rule for `torch.func.vmap`, and an autograd function with its backward pass and its tangents. The
passes are linear in each operand and each is an adjoint of the others (`ADJOINTS`), so derivatives
of any order are calls of these operators.

The autograd functions derive from the class that PyTorch's own rules for operators under
`torch.func` use (`_SingleLevelFunction`), as `torch.library.custom_op` does not support these.
"""

from __future__ import annotations

from ast import literal_eval
from collections.abc import Callable
from typing import Any

import torch
from torch._functorch.autograd_function import enable_single_level_autograd_function
from torch.autograd import forward_ad
from torch.autograd.forward_ad import _set_fwd_grad_enabled
from torch.autograd.function import _SingleLevelFunction

from einstride.arrays.backends import torch_vmap
from einstride.arrays.backends.adapter import Array
from einstride.arrays.backends.passes import PASSES
from einstride.geometry import keywords as parse
from einstride.geometry import layout as layouts
from einstride.geometry.convolution import ADJOINTS, Direction
from einstride.geometry.infer_shapes import transposed_geometry
from einstride.geometry.keywords import Keywords, PerExample, Transposed
from einstride.support.caches import cached

_C: Any = torch._C

_SETTINGS = (
    "int[] stride=[1], str padding='valid', int[] dilation=[1], int[] input_dilation=[1], "
    "int groups=1, str padding_mode='zeros', Scalar fill=0, str layout='channels_last', "
    "bool flip=False, str algorithm='auto', str accuracy='normwise', str? accumulate=None, "
    "bool batch_invariant=False, int? max_workspace=None"
)
_DEFAULTS = ([1], "valid", [1], [1], 1, "zeros", 0, "channels_last", False, "auto", "normwise",
             None, False, None)  # fmt: skip

SCHEMAS = {
    "conv": "Tensor x, Tensor f, Tensor? bias",
    "conv_input_grad": "Tensor gy, Tensor f, SymInt[] input_size",
    "conv_filter_grad": "Tensor x, Tensor gy, SymInt[] kernel_size, bool per_example",
    "conv_transpose": (
        "Tensor x, Tensor f, Tensor? bias, int[] output_padding, SymInt[]? output_size"
    ),
}
"""The operators and their own arguments; `_SETTINGS` follow."""

_OWN = {name: schema.count(",") - 1 for name, schema in SCHEMAS.items()}
"""How many arguments of each operator lie between the two operands and the settings."""

_DIRECTIONS: dict[str, Direction] = {
    "conv": "forward",
    "conv_input_grad": "input_grad",
    "conv_filter_grad": "filter_grad",
    "conv_transpose": "input_grad",
}


def call(
    where: str,
    direction: Direction,
    first: Array,
    second: Array,
    bias: Array | None,
    k: Keywords,
    extra: Any,
) -> Array:
    """Call the operator for a pass with checked keywords; under autocast operands are cast."""
    name = "conv_transpose" if isinstance(extra, Transposed) else _NAMES[direction]
    forward = name in ("conv", "conv_transpose")
    device = first.device.type
    if forward and torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        to = torch.get_autocast_dtype(device)
        first, second, bias = (_autocast(t, to) for t in (first, second, bias))
    if torch.compiler.is_compiling():
        return _call(name, first, second, bias, k, extra)
    try:
        return _call(name, first, second, bias, k, extra)
    except (ValueError, TypeError):  # raised anew, it names the function that was called
        PASSES[0].infer(where, direction, first, second, bias, k, extra)
        raise


_NAMES: dict[Direction, str] = {
    "forward": "conv",
    "input_grad": "conv_input_grad",
    "filter_grad": "conv_filter_grad",
}


def _autocast(t: Array | None, to: Any) -> Array | None:
    """Convert a tensor as PyTorch's own convolutions do under autocast: floats but float64."""
    if t is None or not t.is_floating_point() or t.dtype is torch.float64:
        return t
    return t.to(to)


def _own_arguments(name: str, bias: Array | None, extra: Any, rank: int) -> tuple[Any, ...]:
    """Return the arguments that lie between an operator's operands and its settings."""
    if name == "conv":
        return (bias,)
    if name == "conv_input_grad":
        return (_per_axis(extra, rank),)
    if name == "conv_filter_grad":
        per_example = isinstance(extra, PerExample)
        return _per_axis(extra.kernel_size if per_example else extra, rank), per_example
    size = extra.output_size
    sizes = None if size is None else _per_axis(size, rank)
    return bias, _per_axis(extra.output_padding, rank), sizes


def _per_axis(value: Any, rank: int) -> list[Any]:
    return list(value) if isinstance(value, tuple | list) else [value] * rank


def _settings(k: Keywords) -> tuple[Any, ...]:
    """Return keywords in the types of the operators' schema: lists of ints, and a text."""
    padding, mode = (v if isinstance(v, str) else repr(v) for v in (k.padding, k.padding_mode))
    lists = (_per_axis(value, 1) for value in (k.stride, k.dilation, k.input_dilation))
    stride, dilation, input_dilation = lists
    return (stride, padding, dilation, input_dilation, k.groups, mode, *tuple(k)[6:])


def _keywords(settings: tuple[Any, ...]) -> Keywords:
    """Return the keywords that `_settings` was given; PyTorch leaves trailing defaults away."""
    values: list[Any] = [*settings, *_DEFAULTS[len(settings) :]]
    for i in (0, 2, 3):  # stride, dilation, input_dilation
        values[i] = _int_or_tuple(values[i])
    for i in (1, 5):  # padding, padding_mode
        values[i] = _name_or_tuple(values[i])
    return Keywords._make(values)


def _int_or_tuple(values: Any) -> Any:
    return values[0] if len(values) == 1 else tuple(values)


@cached(256)
def _name_or_tuple(text: str) -> Any:
    return text if text.replace("_", "").isalpha() else literal_eval(text)


def _unpack(name: str, arguments: tuple[Any, ...]) -> tuple[Any, Any, Any, Keywords, Any]:
    """Split an operator's arguments into (first, second, bias, keywords, extra)."""
    first, second, *rest = arguments
    own, settings = rest[: _OWN[name]], tuple(rest[_OWN[name] :])
    k = _keywords(settings)
    bias: Any = None
    extra: Any = None
    if name == "conv":
        (bias,) = own
    elif name == "conv_input_grad":
        extra = tuple(own[0])
    elif name == "conv_filter_grad":
        size, per_example = own
        extra = PerExample(tuple(size)) if per_example else tuple(size)
    else:
        bias, more, size = own
        extra = Transposed(tuple(more), None if size is None else tuple(size))
    return first, second, bias, k, extra


def _kernel(name: str) -> Callable[..., Array]:
    def kernel(*arguments: Any) -> Array:
        first, second, bias, k, extra = _unpack(name, arguments)
        return PASSES[0].compute(name, _DIRECTIONS[name], first, second, bias, k, extra)

    return kernel


def _fake(name: str) -> Callable[..., Array]:
    def fake(*arguments: Any) -> Array:
        first, second, bias, k, extra = _unpack(name, arguments)
        shape, dtype = PASSES[0].infer(name, _DIRECTIONS[name], first, second, bias, k, extra)
        return first.new_empty(shape, dtype=getattr(torch, dtype))

    return fake


def _batched(name: str) -> Callable[..., tuple[Array, int]]:
    def batched(info: Any, dims: Any, *arguments: Any) -> tuple[Array, int]:
        first, second, bias, k, extra = _unpack(name, arguments)
        of_bias = dims[2] if bias is not None else None
        result = torch_vmap.batched(
            lambda *given: _call(name, *given), _DIRECTIONS[name], info.batch_size,
            (dims[0], dims[1], of_bias), (first, second, bias), k, extra,
        )  # fmt: skip
        return result, 0

    return batched


def _call(
    name: str, first: Array, second: Array, bias: Array | None, k: Keywords, extra: Any
) -> Array:
    own = _own_arguments(name, bias, extra, len(first.shape) - 2)
    result: Array = getattr(torch.ops.einstride, name)(first, second, *own, *_settings(k))
    return result


def _differentiable(name: str) -> Callable[..., Array]:
    """Return the operator's autograd kernel, which records `_function` where it is needed."""
    operator = getattr(torch.ops.einstride, name).default
    function = _function(name, operator)

    def kernel(keyset: Any, *arguments: Any) -> Array:
        tensors = [a for a in arguments[:3] if isinstance(a, torch.Tensor)]
        tracked = _C.is_grad_enabled() and _C._any_requires_grad(*tensors)
        if tracked or forward_ad._current_level >= 0:
            with enable_single_level_autograd_function():
                result: Array = function.apply(keyset, *arguments)
            return result
        with _C._AutoDispatchBelowAutograd():
            result = operator.redispatch(keyset & _C._after_autograd_keyset, *arguments)
        return result

    return kernel


def _function(name: str, operator: Any) -> Any:
    """Make the autograd function of an operator."""

    def forward(ctx: Any, keyset: Any, *arguments: Any) -> Array:
        first, second, bias, k, extra = _unpack(name, arguments)
        ctx.k, ctx.extra, ctx.given = k, extra, len(arguments)
        ctx.shapes = tuple(first.shape), tuple(second.shape)
        ctx.dtypes = first.dtype, second.dtype, None if bias is None else bias.dtype
        if forward_ad._current_level >= 0:
            ctx.save_for_forward(first, second)
            ctx.save_for_backward(first, second)
        else:  # each operand is needed for the gradient of the other
            needs = ctx.needs_input_grad
            ctx.save_for_backward(first if needs[2] else None, second if needs[1] else None)
        # A function turns both modes off here, but derivatives around this one need them.
        with torch.enable_grad(), _set_fwd_grad_enabled(True), _C._AutoDispatchBelowAutograd():
            result: Array = operator.redispatch(keyset & _C._after_autograd_keyset, *arguments)
        ctx.dtype, ctx.shape = result.dtype, tuple(result.shape)
        return result

    def backward(ctx: Any, grad: Array) -> tuple[Any, ...]:
        first, second = ctx.saved_tensors
        needs, k = ctx.needs_input_grad, ctx.k._replace(algorithm="auto")
        found: list[Any] = [None] * (1 + ctx.given)
        if ctx.dtypes[2] is not None and needs[3]:
            axes = [i for i in range(grad.ndim) if i != _channel_axis(name, k, grad.ndim)]
            found[3] = _like(grad.sum(axes), ctx.dtypes[2])
        order = _Adjoint(name, k, ctx.shapes, ctx.extra)
        first, second, grad = order.views(first, second, grad)
        if needs[1]:
            gradient = _gradient(name, 0, grad, second, order.k, ctx.shapes[0], ctx.extra)
            found[1] = _like(order.first_back(gradient), ctx.dtypes[0])
        if needs[2]:
            shape = order.second_shape(ctx.shapes[1])
            gradient = _gradient(name, 1, grad, first, order.k, shape, ctx.extra)
            found[2] = _like(order.second_back(gradient), ctx.dtypes[1])
        return tuple(found)

    def jvp(ctx: Any, keyset: Any, d_first: Any, d_second: Any, *others: Any) -> Array:
        first, second = ctx.saved_tensors
        k, total = ctx.k, None
        terms = ((d_first, second, k._replace(fill=0)), (first, d_second, k))  # `fill` stands in x
        for a, b, own in terms:
            if a is not None and b is not None:
                term = _call(name, a, b, None, own, ctx.extra)
                total = term if total is None else total + term
        if ctx.dtypes[2] is not None and others and others[0] is not None:
            shape = [1] * len(ctx.shape)
            shape[_channel_axis(name, k, len(shape))] = -1
            term = others[0].reshape(shape).expand(ctx.shape)
            total = term.clone() if total is None else total + term
        return _like(total, ctx.dtype)

    members = {
        "forward": staticmethod(forward),
        "backward": staticmethod(backward),
        "jvp": staticmethod(jvp),
    }
    return type(f"einstride_{name}", (_SingleLevelFunction,), members)


class _Adjoint:
    """Hold the keywords of an operator's gradients, and bring its operands into their order.

    Gradients exchange the roles of input and result. So a transposed convolution whose two parts of
    the layout differ is differentiated in channels-last order, and its padding is that of the
    forward convolution, which output_padding or output_size may shorten. Other operators stay as
    they are.
    """

    def __init__(self, name: str, k: Keywords, shapes: Any, extra: Any) -> None:
        self.k = k
        self._first = self._second = self._result = None
        if name != "conv_transpose":
            return
        layout = layouts.parse(name, k.layout, len(shapes[0]) - 2)
        first, second = (
            layouts.canonical(shapes[0], layout.x),
            layouts.canonical(shapes[1], layout.f),
        )
        g = transposed_geometry(name, first, second, parse.settings(name, k), "", extra)
        self.k = k._replace(padding=g.padding)
        if layout.x != layout.y:
            self.k = self.k._replace(layout="channels_last")
            self._first, self._second, self._result = layout.x, layout.f, layout.y

    def views(self, first: Any, second: Any, result: Any) -> tuple[Any, Any, Any]:
        orders = (self._first, self._second, self._result)
        return tuple(
            t if t is None or order is None else t.permute(order)
            for t, order in zip((first, second, result), orders, strict=True)
        )

    def first_back(self, gradient: Array) -> Array:
        """Return the gradient of the first operand in the order of the caller."""
        return _back(gradient, self._first)

    def second_back(self, gradient: Array) -> Array:
        """Return the gradient of the second operand in the order of the caller."""
        return _back(gradient, self._second)

    def second_shape(self, shape: tuple[Any, ...]) -> tuple[Any, ...]:
        """Return the shape of the second operand in the common order."""
        return layouts.canonical(shape, self._second)


def _back(t: Array, order: Any) -> Array:
    back = layouts.inverse(order)
    return t if back is None else t.permute(back)


def _like(t: Any, dtype: Any) -> Any:
    """Convert a gradient to the dtype of its operand; a real operand takes the real part."""
    if t.is_complex() and not dtype.is_complex:
        t = t.real
    return t.to(dtype)


def _channel_axis(name: str, k: Keywords, rank: int) -> int:
    """Return the axis of the channels in the result of an operator that adds a bias."""
    order = layouts.parse(name, k.layout, rank - 2).y
    return rank - 1 if order is None else order[-1]


def _spatial(name: str, k: Keywords, shape: tuple[Any, ...], part: str) -> tuple[Any, ...]:
    """Return the spatial sizes of x or f (`part`) in the layout of the keywords."""
    layout = layouts.parse(name, k.layout, len(shape) - 2)
    sizes = layouts.canonical(shape, layout.f if part == "f" else layout.x)
    return sizes[:-2] if part == "f" else sizes[1:-1]


def _gradient(
    name: str, operand: int, grad: Array, other: Array, k: Keywords, shape: Any, extra: Any
) -> Array:
    """Compute the gradient of an operand of a shape, from `grad` and the other operand."""
    direction, other_first = ADJOINTS[_DIRECTIONS[name]][operand]
    size: Any = None
    if _DIRECTIONS[name] == "input_grad":  # `other` or `grad` takes the place of x
        k = k._replace(fill=0)
    if direction == "input_grad":
        size = _spatial(name, k, shape, "x")
    elif direction == "filter_grad":
        size = _spatial(name, k, shape, "f")
        k = k._replace(batch_invariant=False)  # which no sum over a batch keeps

    def call(a: Array, b: Array) -> Array:
        return _call(_NAMES[direction], a, b, None, k, size)

    if isinstance(extra, PerExample):
        return _each(call, k, "xy" if operand else "yx", other, grad)
    return call(other, grad) if other_first else call(grad, other)


def _each(
    function: Callable[[Array, Array], Array], k: Keywords, parts: str, batch: Array, filters: Array
) -> Array:
    """Join ``function`` of each example and its own filter; `parts` name the arrays' layouts."""
    layout = layouts.parse("conv_filter_grad", k.layout, batch.ndim - 2)
    axes = {p: 0 if (o := getattr(layout, p)) is None else o[0] for p in "xy"}
    examples = batch.split(1, axes[parts[0]])
    return torch.cat(
        [function(a, g) for a, g in zip(examples, filters, strict=True)], axes[parts[1]]
    )


def _register() -> Any:
    """Define the operators, give PyTorch their kernels, and return PyTorch's handle."""
    library = torch.library.Library("einstride", "DEF")
    for name, own in SCHEMAS.items():
        library.define(f"{name}({own}, {_SETTINGS}) -> Tensor", tags=(torch.Tag.pt2_compliant_tag,))
        for device in ("CPU", "CUDA"):
            library.impl(name, _kernel(name), device)
        torch.library.register_fake(f"einstride::{name}", _fake(name), lib=library)
        torch.library.register_vmap(f"einstride::{name}", _batched(name), lib=library)
        library.impl(name, _differentiable(name), "Autograd", with_keyset=True)
    return library


LIBRARY = _register()
"""PyTorch's handle of the operators, which vanish with it."""
