"""Define `Stream`, which convolves a signal that arrives in blocks, and `conv` of the whole."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from einstride.algorithms.fft.partitions import Partitions
from einstride.api.conv_layer import Conv
from einstride.arrays import backends
from einstride.arrays.backends import Array, Backend
from einstride.dispatch import array_checks, call_cache
from einstride.dispatch.filter_cache import Prepared
from einstride.geometry import keywords as parse
from einstride.geometry import layout as layouts
from einstride.geometry.arithmetic import INTEGERS, promote
from einstride.geometry.keywords import Keywords
from einstride.geometry.padding import padding_pair
from einstride.geometry.types import Ints, Padding
from einstride.support.errors import bad_type, bad_value, shown

LONG_FILTER = 1024
"""Taps from which `algorithm="auto"` filters in the frequency domain: for blocks of 128 to 1024
samples it takes less time than sums from about here on, measured on an x86 core."""

PARTITIONS = (128, 8192)
"""Least and most taps of a partition, the power of two that holds the first block. Shorter ones
are many products, longer ones more work in every block that is shorter still."""


class Stream:
    r"""Convolve a signal that arrives in blocks along one axis, as `conv` would the whole.

    .. math:: conv(concat(x_1, x_2, ...)) = concat(push(x_1), push(x_2), ..., flush())

    Blocks may have any lengths. Each call of `push` returns the outputs whose windows are complete,
    and keeps the last samples, fewer than one window. With ``accuracy="elementwise"`` the outputs
    have the bits that `conv` gives for the whole with that keyword (see there for its limits);
    otherwise they lie within the error bound, and their last bits may depend on the blocks.

    Parameters
    ----------
    f : array, shape (*K, C // groups, D)
        The filter, which the stream copies: NumPy's or CuPy's.
    bias : array, shape (D,), optional
        Added to every output position.
    axis : int
        The spatial axis along which blocks arrive; 0 is the first one.
    stride : as in `conv`
        The step of the windows.
    padding : int, name or pairs
        As in `conv`. On the streamed axis ``(extent - 1 - a, a)`` looks `a` samples ahead; the
        padding before it is in the first outputs, the one after it in those of `flush`. "same"
        needs a stride of 1 there.
    dilation, groups, layout, flip : as in `conv`
        The same.
    algorithm : str
        As in `conv`; "fft" filters in the frequency domain, by partitions as long as the first
        block (to the next power of two, 128 to 8192): the filter must have one spatial axis, and
        stride and dilation 1. "auto" takes it from 1024 taps on, unless accuracy is "elementwise".
        Outputs of any block follow at once all the same.
    accuracy, accumulate : as in `conv`
        The same.

    Raises
    ------
    ValueError, TypeError
        As in `conv`.

    Notes
    -----
    A copy (``copy.copy``, ``pickle``) goes on by itself from the same samples. One thread at a time
    may use a stream.

    Examples
    --------
    >>> import numpy as np, einstride as es
    >>> stream = es.Stream(np.ones((3, 1, 1)))  # padding="causal": as many outputs as samples
    >>> stream.push(np.ones((1, 4, 1)))[0, :, 0]
    array([1., 2., 3., 3.])
    >>> stream.push(np.ones((1, 2, 1)))[0, :, 0]
    array([3., 3.])
    """

    def __init__(
        self,
        f: Array,
        bias: Array | None = None,
        *,
        axis: int = 0,
        stride: Ints = 1,
        padding: Padding = "causal",
        dilation: Ints = 1,
        groups: int = 1,
        layout: str = "channels_last",
        flip: bool = False,
        algorithm: str = "auto",
        accuracy: str = "normwise",
        accumulate: str | None = None,
    ) -> None:
        where = "Stream"
        b = backends.of(where, ("f", "bias"), f, bias)
        if not b.traits.mutable or b.exchange is not None:
            raise bad_type(
                where, "f must be an array of NumPy or CuPy", shown(type(f)), "convert it"
            )
        groups = parse.integer(where, "groups", groups)
        k = Keywords(
            stride, padding, dilation, groups=groups, layout=layout, flip=flip,
            algorithm=algorithm, accuracy=accuracy, accumulate=accumulate,
        )  # fmt: skip
        array_checks.layer(where, f, bias, k)
        rank = f.ndim - 2
        axis = parse.integer(where, "axis", axis)
        if not 0 <= axis < rank:
            raise bad_value(where, f"axis must lie in [0, {rank})", axis, "count spatial axes only")
        k = parse.plain(where, k)
        order = layouts.parse(where, k.layout, rank)
        f_shape = layouts.canonical(tuple(f.shape), order.f)
        self._stride = parse.per_axis(where, "stride", k.stride, rank, 1)[axis]
        gaps = parse.per_axis(where, "dilation", k.dilation, rank, 1)[axis]
        self._extent = gaps * (f_shape[axis] - 1) + 1
        entries = k.padding if isinstance(k.padding, tuple) else (k.padding,) * rank
        if entries[axis] in ("same", "same_lower") and self._stride > 1:
            raise bad_value(
                where, 'padding "same" needs the length of the whole where the stride is not 1',
                f"{entries[axis]!r}, stride {self._stride}", "give a (low, high) pair",
            )  # fmt: skip
        self._low, self._high = padding_pair(where, entries[axis], 1, self._extent, 1)
        inside = (*entries[:axis], (0, 0), *entries[axis + 1 :])
        self._keywords = k._replace(padding=inside)
        self._place = axis + 1 if order.x is None else order.x[axis + 1]
        self._out_place = axis + 1 if order.y is None else order.y[axis + 1]
        self._layer = Conv(f, bias, **self._layer_keywords())
        self._partitioned = self._filters_spectra(f_shape, gaps, order)
        self.reset()

    def _layer_keywords(self) -> dict[str, Any]:
        found = self._keywords._asdict()
        if found["algorithm"] == "fft":
            found["algorithm"] = "auto"  # that of `conv` is another
        return found

    def _filters_spectra(self, f_shape: tuple[int, ...], gaps: int, order: Any) -> bool:
        """True if the stream is computed in the frequency domain; raise if it was asked for."""
        k = self._keywords
        possible = len(f_shape) == 3 and self._stride == gaps == 1 and k.accumulate is None
        possible = possible and k.accuracy != "elementwise"
        kind = self._backend.dtype_name(self._layer.f)
        possible = possible and kind in ("float32", "float64", "complex64", "complex128")
        if k.algorithm == "fft" and not possible:
            raise bad_value(
                "Stream",
                'algorithm="fft" needs one spatial axis, stride and dilation 1, floats, and an '
                'accuracy other than "elementwise"',
                f"f {tuple(self._layer.f.shape)} of {kind}, stride {self._stride}, dilation {gaps},"
                f" accuracy {k.accuracy!r}, accumulate {k.accumulate!r}",
                'use algorithm="auto"',
            )
        return possible and (
            k.algorithm == "fft" or (k.algorithm == "auto" and f_shape[0] >= LONG_FILTER)
        )

    @property
    def _backend(self) -> Backend:
        return backends.of("Stream", ("f",), self._layer.f)

    def reset(self) -> None:
        """Forget all samples: the next block is the first of another signal."""
        self._kept: Array | None = None  # the samples that later windows hold
        self._like: tuple[Any, ...] | None = None
        self._skip = 0  # samples before the next window
        self._ready: _Ready | None = None
        self._last_shape: tuple[int, ...] = ()
        self._spectra: _Spectra | None = None

    def push(self, block: Array) -> Array:
        """Return the outputs that the samples of a block complete.

        Parameters
        ----------
        block : array, shape (B, *S, C)
            Any number of samples on the streamed axis; the other sizes and the dtype are those of
            the first block.

        Returns
        -------
        array, shape (B, *O, D)
            As many outputs as windows have become complete, perhaps none.
        """
        ready = self._ready
        if (
            ready is not None
            and type(block) is ready.kind
            and block.shape == ready.shape
            and block.dtype == ready.dtype
        ):
            ready.new[...] = block
            y = ready.convolve(ready.whole)
            ready.kept[...] = ready.last
            return y
        return self._pushed("Stream.push", block)

    def flush(self) -> Array:
        """Return the outputs of the windows that reach into the padding after the end, and reset.

        Returns
        -------
        array, shape (B, *O, D)
            The last outputs of the signal, perhaps none.
        """
        if self._like is None or self._kept is None:
            raise bad_value("Stream.flush", "there is no signal", "no block", "push a block first")
        shape = list(self._like[1])
        shape[self._place] = max(self._high, 0)
        zeros = self._backend.zeros(tuple(shape), self._like[2], self._kept)
        y = self._pushed("Stream.flush", zeros)
        self.reset()
        return y

    def __getstate__(self) -> dict[str, Any]:
        """Return the state of a copy: the filter, and the samples that later windows hold."""
        state = {**self.__dict__, "_ready": None}
        if self._kept is not None:
            state["_kept"] = self._backend.xp.asarray(self._kept, copy=True)
        if self._spectra is not None:
            state["_spectra"] = self._spectra.copy()
        return state

    def _pushed(self, where: str, block: Array) -> Array:
        """Check a block, and compute the outputs that its samples complete."""
        b, place = self._backend, self._place
        held = max(-self._high, 0)  # the last samples, which the padding may crop
        self._check(where, block, b)
        if self._kept is None:
            shape = list(block.shape)
            shape[place] = max(self._low, 0)
            self._kept = b.zeros(tuple(shape), b.dtype_name(block), block)
            self._skip = max(-self._low, 0)
            self._like = self._described(block, b)
        if self._partitioned and b.dtype_name(block) not in INTEGERS:
            return self._by_spectra(where, block, b, held)
        n = block.shape[place]
        data = b.xp.concat([self._kept, block], axis=place)
        dropped = min(self._skip, data.shape[place])
        data, skip = data[self._from(dropped)], self._skip - dropped
        usable = data.shape[place] - held
        count = (usable - self._extent) // self._stride + 1 if usable >= self._extent else 0
        count = 0 if skip else count
        if count:
            y = self._layer(data[self._from(0, (count - 1) * self._stride + self._extent)])
        else:
            y = self._no_outputs(data, b)
        used = count * self._stride
        dropped = min(used, data.shape[place])
        kept = b.xp.asarray(data[self._from(dropped)], copy=True)
        steady = kept.shape == self._kept.shape and not (self._skip or skip or used > dropped)
        repeated = block.shape == self._last_shape
        self._kept, self._skip, self._ready = kept, skip + used - dropped, None
        self._last_shape = block.shape
        if steady and repeated and count and n and not held:
            self._make_ready(block, b)
        return y

    def _from(self, start: int, stop: int | None = None) -> tuple[slice, ...]:
        return (*(slice(None),) * self._place, slice(start, stop))

    def _check(self, where: str, block: Array, b: Backend) -> None:
        backends.of(where, ("f", "block"), self._layer.f, block)
        if block.ndim != self._layer.f.ndim:
            raise bad_value(
                where, f"a block needs {self._layer.f.ndim} axes", tuple(block.shape),
                "add axes of length 1",
            )  # fmt: skip
        if self._like is not None and self._described(block, b) != self._like:
            raise bad_value(
                where,
                "all blocks of a signal must have one dtype, and one shape but for the streamed "
                f"axis {self._place}",
                f"{tuple(block.shape)} of {b.dtype_name(block)} after {self._like[1]} of "
                f"{self._like[2]}",
                "reset the stream, or make another one",
            )

    def _described(self, block: Array, b: Backend) -> tuple[Any, ...]:
        shape = list(block.shape)
        shape[self._place] = 0
        return (type(block), tuple(shape), b.dtype_name(block))

    def _no_outputs(self, data: Array, b: Backend) -> Array:
        """Return no outputs, in the shape and dtype of the others."""
        shape = list(data.shape)
        shape[self._place] = self._extent
        y = self._layer(b.zeros(tuple(shape), b.dtype_name(data), data))
        return y[(*(slice(None),) * self._out_place, slice(0, 0))]

    def _make_ready(self, block: Array, b: Backend) -> None:
        """Prepare for blocks like this one, which leave as many samples as they found."""
        kept, place = self._kept, self._place
        if kept is None:
            return
        left, n = kept.shape[place], block.shape[place]
        shape = list(block.shape)
        shape[place] = left + n
        whole = b.empty(tuple(shape), b.dtype_name(block), block)
        self._kept = whole[self._from(0, left)]
        self._kept[...] = kept
        count = (left + n - self._extent) // self._stride + 1
        seen = whole[self._from(0, (count - 1) * self._stride + self._extent)]
        f, kept_filter = self._layer._filter
        convolve = call_cache.bound(
            "Stream.push", seen, f, self._layer._bias,
            Keywords(**self._layer_keywords()), kept_filter or Prepared(),
        )  # fmt: skip
        self._ready = _Ready(
            type(block), block.shape, block.dtype, whole[self._from(left)], seen, convolve,
            self._kept, whole[self._from(n)],
        )  # fmt: skip

    # In the frequency domain

    def _by_spectra(self, where: str, block: Array, b: Backend, held: int) -> Array:
        order = layouts.parse(where, self._keywords.layout, 1)
        x = block if order.x is None else b.xp.permute_dims(block, order.x)
        if self._spectra is None:
            f, bias = self._layer.f, self._layer.bias
            name = promote(b.dtype_name(block), b.dtype_name(f))
            f = f if order.f is None else b.xp.permute_dims(f, order.f)
            f = b.xp.flip(f, axis=0) if self._keywords.flip else f
            self._no_outputs(block, b)  # its checks
            least, most = PARTITIONS
            length = min(max(1 << max(x.shape[1] - 1, 0).bit_length(), least), most)
            partitions = Partitions(f, self._keywords.groups, length, name, b)
            partitions.start(x.shape[0], x.shape[2], block)
            skip = self._extent - 1 - self._low
            self._spectra = _Spectra(partitions, bias, skip, x[:, :0])
            if skip < 0:
                zeros = b.zeros((x.shape[0], -skip, x.shape[2]), b.dtype_name(block), block)
                self._spectra.skip = 0
                x = b.xp.concat([zeros, x], axis=1)
        y = self._spectra.push(x, b, held)
        back = layouts.inverse(order.y)
        return y if back is None else b.xp.permute_dims(y, back)


class _Ready(NamedTuple):
    """Hold what `push` needs for blocks of one shape: views of one buffer, and a function."""

    kind: type[Any]
    shape: tuple[int, ...]
    dtype: Any
    new: Array
    whole: Array
    convolve: Callable[[Array], Array]
    kept: Array
    last: Array


class _Spectra:
    """Hold the state of a stream that is computed in the frequency domain.

    Attributes
    ----------
    partitions : Partitions
        The filter, and the spectra of the last samples.
    bias : array or None
        Added to every output.
    skip : int
        First outputs of the causal filter that are none of the stream's.
    waiting : array
        The last samples, which a negative padding at the end may crop.
    """

    def __init__(self, partitions: Partitions, bias: Array | None, skip: int, waiting: Array):
        self.partitions, self.bias, self.skip, self.waiting = partitions, bias, skip, waiting

    def copy(self) -> _Spectra:
        return _Spectra(self.partitions.copy(), self.bias, self.skip, self.waiting)

    def push(self, x: Array, b: Backend, held: int) -> Array:
        """Return the outputs of all samples (batch, n, channels) but the last `held`."""
        x = b.xp.concat([self.waiting, x], axis=1)
        usable = max(x.shape[1] - held, 0)
        self.waiting = b.xp.asarray(x[:, usable:], copy=True)
        found: list[Array] = []
        start = 0
        while start < usable or not found:
            stop = min(start + self.partitions.missing, usable)
            found.append(self.partitions.push(x[:, start:stop]))
            start = stop
        y = found[0] if len(found) == 1 else b.xp.concat(found, axis=1)
        dropped = min(self.skip, y.shape[1])
        self.skip -= dropped
        y = y[:, dropped:]
        return y if self.bias is None else y + b.astype(self.bias, b.dtype_name(y))
