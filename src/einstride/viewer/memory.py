"""State where the windows lie in memory: the strides of the view, as `windows` makes it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from einstride.arrays.backends import Array
from einstride.arrays.backends.numpy import dtype_name, unallocated
from einstride.dispatch import windowed
from einstride.geometry.convolution import Geometry
from einstride.geometry.keywords import Settings


@dataclass(frozen=True)
class Memory:
    """Hold the bytes that a convolution reads by its windows.

    Attributes
    ----------
    copied : bool
        True if the view is one of a copy of x with its border and the zeros of its dilation; False
        if it is a view of x itself.
    shape : tuple of int
        The shape of the array that the view is made of: (B, *S, C), S with the border of a copy.
    strides : tuple of int
        The bytes between neighbours on each axis of this array.
    windows_shape, windows_strides : tuple of int
        Shape (B, *O, *K, C) and strides in bytes of the view of all windows.
    base : int
        Bytes from the first element of the array to the first element of the first window; not
        zero if negative padding crops x.
    itemsize : int
        Bytes of one element.
    """

    copied: bool
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    windows_shape: tuple[int, ...]
    windows_strides: tuple[int, ...]
    base: int
    itemsize: int


def memory(x: Array, g: Geometry) -> Memory:
    """Make the view of all windows of x, whose axes are in canonical order, and read its strides.

    No element is read: a copy with a border is represented by an array without memory.
    """
    copied = bool(g.input_dilation) or any(max(pads) > 0 for pads in g.padding)
    base = 0
    array = x
    if copied:
        array = unallocated(g.extended.x_shape, dtype_name(x))
    elif any(low or high for low, high in g.padding):
        cropped = tuple(
            slice(-low, size + high) for size, (low, high) in zip(g.size, g.padding, strict=True)
        )
        base = sum(-low * x.strides[a] for a, (low, _) in enumerate(g.padding, start=1))
        view = x[(slice(None), *cropped)]
        return replace(memory(view, g.extended), shape=x.shape, strides=x.strides, base=base)
    settings = Settings(g.stride, "valid", g.dilation)
    view = windowed.windows("show", array, g.kernel, settings)
    return Memory(
        copied, array.shape, array.strides, view.shape, view.strides, base, array.itemsize
    )
