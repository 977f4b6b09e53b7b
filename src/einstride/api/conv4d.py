"""Define conv4d_forward and its two gradients: convolution of images with "valid" padding.

Shapes are x (B, H, W, C), f (Fh, Fw, C, D) and s = (Sh, Sw). The names are those of the blog post
and of the project that einstride follows.
"""

from __future__ import annotations

from einstride.arrays import backends
from einstride.arrays.backends import Array
from einstride.dispatch import call_cache
from einstride.geometry import keywords as parse
from einstride.geometry.keywords import Keywords
from einstride.support.errors import bad_value


def conv4d_forward(x: Array, f: Array, s: tuple[int, int]) -> Array:
    """Convolve a batch of images: ``conv(x, f, stride=s)`` in two spatial dimensions.

    Parameters
    ----------
    x : array, shape (B, H, W, C)
        The images.
    f : array, shape (Fh, Fw, C, D)
        The filter.
    s : tuple of two ints
        The strides (Sh, Sw).

    Returns
    -------
    array, shape (B, 1 + (H - Fh) // Sh, 1 + (W - Fw) // Sw, D)
        The output, as TensorFlow's ``conv2d(padding='VALID')``.

    Raises
    ------
    ValueError, TypeError
        As in `conv`.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> x, f = np.ones((64, 28, 28, 3)), np.ones((6, 6, 3, 2))
    >>> es.conv4d_forward(x, f, (2, 2)).shape
    (64, 12, 12, 2)
    """
    where = "conv4d_forward"
    _check_rank(where, x=x, f=f)
    k = Keywords(stride=s)
    return call_cache.call(where, "forward", x, f, None, None, k, cache=None)


def conv4d_input_gradient(x: Array, f: Array, gy: Array, s: tuple[int, int]) -> Array:
    """Compute the gradient of `conv4d_forward` with respect to x.

    Parameters
    ----------
    x : array, shape (B, H, W, C)
        The images, of which only the shape is read.
    f : array, shape (Fh, Fw, C, D)
        The filter.
    gy : array, shape (B, 1 + (H - Fh) // Sh, 1 + (W - Fw) // Sw, D)
        The gradient of the output.
    s : tuple of two ints
        The strides (Sh, Sw).

    Returns
    -------
    array, shape (B, H, W, C)
        As `conv_input_grad`.

    Raises
    ------
    ValueError, TypeError
        As in `conv`.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> x, f = np.ones((64, 28, 28, 3)), np.ones((6, 6, 3, 2))
    >>> es.conv4d_input_gradient(x, f, np.ones((64, 12, 12, 2)), (2, 2)).shape
    (64, 28, 28, 3)
    """
    where = "conv4d_input_gradient"
    _check_rank(where, x=x, f=f, gy=gy)
    _check_equal(
        where, "channels", x.shape[3], "f", f.shape[2], f"x {tuple(x.shape)}, f {tuple(f.shape)}"
    )
    _check_equal(
        where,
        "examples",
        x.shape[0],
        "gy",
        gy.shape[0],
        f"x {tuple(x.shape)}, gy {tuple(gy.shape)}",
    )
    given = (*Keywords(stride=s), tuple(x.shape[1:3]))
    return call_cache.call(where, "input_grad", gy, f, None, None, given, parse.checked, cache=None)


def conv4d_filter_gradient(x: Array, f: Array, gy: Array, s: tuple[int, int]) -> Array:
    """Compute the gradient of `conv4d_forward` with respect to f.

    Parameters
    ----------
    x : array, shape (B, H, W, C)
        The images.
    f : array, shape (Fh, Fw, C, D)
        The filter, of which only the shape is read.
    gy : array, shape (B, 1 + (H - Fh) // Sh, 1 + (W - Fw) // Sw, D)
        The gradient of the output.
    s : tuple of two ints
        The strides (Sh, Sw).

    Returns
    -------
    array, shape (Fh, Fw, C, D)
        As `conv_filter_grad`.

    Raises
    ------
    ValueError, TypeError
        As in `conv`.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> x, f = np.ones((64, 28, 28, 3)), np.ones((6, 6, 3, 2))
    >>> es.conv4d_filter_gradient(x, f, np.ones((64, 12, 12, 2)), (2, 2)).shape
    (6, 6, 3, 2)
    """
    where = "conv4d_filter_gradient"
    _check_rank(where, x=x, f=f, gy=gy)
    got = f"x {tuple(x.shape)}, f {tuple(f.shape)}, gy {tuple(gy.shape)}"
    _check_equal(where, "channels", x.shape[3], "f", f.shape[2], got)
    _check_equal(where, "output channels", gy.shape[3], "f", f.shape[3], got)
    given = (*Keywords(stride=s), tuple(f.shape[:2]))
    return call_cache.call(
        where, "filter_grad", x, gy, None, None, given, parse.checked, cache=None
    )


def _check_rank(where: str, **arrays: Array) -> None:
    backends.of(where, tuple(arrays), *arrays.values())
    for name, a in arrays.items():
        if len(a.shape) != 4:
            raise bad_value(
                where,
                f"{name} must have four axes",
                f"{name} {tuple(a.shape)}",
                "use conv and its gradients for another number of axes",
            )


def _check_equal(where: str, what: str, first: int, name: str, second: int, got: str) -> None:
    if first != second:
        raise bad_value(
            where, f"{first} {what} here, but {name} has {second}", got, "make them agree"
        )
