"""Filter a signal that arrives in blocks with a long filter, in the frequency domain.

The filter is cut into partitions of B taps. Spectra of the last blocks of B samples are kept, each
over 2 B samples, the block and the one before it; a block of outputs is the last half of

    irfft( sum over p of spectrum(block t - p) * spectrum(partition p) )

Each block is transformed once and each partition once, at the start: uniformly partitioned
overlap-save (Wefers, "Partitioned convolution algorithms for real-time auralization", 2015). Blocks
need not arrive whole: outputs follow from the samples so far, with zeros for the others, since no
output depends on later samples.

Error: normwise, as `fft` has it for transforms of 2 B samples, summed over the partitions; a NaN or
Inf reaches all outputs of the blocks whose spectra hold it.
"""

from __future__ import annotations

from copy import copy
from typing import Any

from einstride.arrays import backends
from einstride.arrays.backends import Array, Backend
from einstride.arrays.ops import is_complex


class Partitions:
    """Compute y[n] = sum of h[j] x[n - j] over j, for a signal x that arrives in parts.

    Parameters
    ----------
    f : array, shape (K, C // groups, D)
        The filter, as ``conv`` takes it: h[j] = f[K - 1 - j].
    groups : int
        The number of groups.
    length : int
        The taps of a partition, B.
    dtype : str
        The dtype of the sums: float32, float64, or complex.
    b : Backend
        The backend of the arrays.
    """

    def __init__(self, f: Array, groups: int, length: int, dtype: str, b: Backend) -> None:
        self._b, self._groups, self._length, self._dtype, self._f = b, groups, length, dtype, f
        self._history: Any = None
        self._transform()

    def _transform(self) -> None:
        """Transform the partitions of the filter."""
        b, f, groups, length, dtype = self._b, self._f, self._groups, self._length, self._dtype
        xp, taps, real = b.xp, f.shape[0], not is_complex(dtype)
        fft = xp.fft
        self._forward, self._back = (fft.rfft, fft.irfft) if real else (fft.fft, fft.ifft)
        count = -(-taps // length)
        h = b.zeros((count * length, *f.shape[1:]), dtype, f)
        h[:taps] = xp.flip(f, axis=0)
        h = xp.reshape(h, (count, length, f.shape[1], groups, f.shape[2] // groups))
        spectra = self._forward(h, n=2 * length, axis=1)  # (P, bins, C // G, G, D // G)
        ordered = xp.permute_dims(spectra, (1, 3, 0, 2, 4))  # (bins, G, P, C // G, D // G)
        # Slot j of `_history` meets partition (t - j) mod P: a slice of the sequence, twice.
        backwards = xp.concat([ordered[:, :, :1], xp.flip(ordered[:, :, 1:], axis=2)], axis=2)
        self._filter = xp.concat([backwards, backwards], axis=2)
        self._count = count

    def start(self, batch: int, channels: int, like: Array) -> None:
        """Forget all samples; the signal (batch, n, channels) begins with zeros."""
        b, bins = self._b, self._filter.shape[0]
        kind = "complex64" if self._dtype in ("float32", "complex64") else "complex128"
        inner = channels // self._groups
        shape = (bins, self._groups, batch, self._count, inner)
        self._history = b.zeros(shape, kind, like)
        self._samples = b.zeros((batch, 2 * self._length, channels), self._dtype, like)
        self._slot, self._held = 0, 0
        self._before: Any = 0

    def copy(self) -> Partitions:
        """Return a copy with samples of its own, and the same filter."""
        found = copy(self)
        if self._history is not None:
            asarray = self._b.xp.asarray
            found._history = asarray(self._history, copy=True)
            found._samples = asarray(self._samples, copy=True)
        return found

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without the filter's spectra, which an unpickled copy makes again."""
        state = {**self.__dict__, "_b": self._b.traits.library}
        return {k: v for k, v in state.items() if k not in ("_forward", "_back", "_filter")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Set the state of an unpickled copy."""
        self.__dict__.update(state)
        self._b = backends.by_name("Stream", state["_b"])
        self._transform()

    @property
    def missing(self) -> int:
        """Number of samples until the block is whole: the most that `push` takes."""
        return self._length - self._held

    def push(self, x: Array) -> Array:
        """Return the outputs of the next samples x (batch, n, channels), at most `missing`."""
        xp, n, length = self._b.xp, x.shape[1], self._length
        start = length + self._held
        self._samples[:, start : start + n] = x
        spectrum = self._spectrum()
        total = spectrum @ self._filter[:, :, 0] + self._before
        y = self._back(total, n=2 * length, axis=0)  # (2 B, G, batch, D // G)
        y = xp.reshape(
            xp.permute_dims(y[start : start + n], (2, 0, 1, 3)),
            (x.shape[0], n, self._groups * y.shape[-1]),
        )
        self._held += n
        if self._held == length:
            self._next_block(spectrum)
        return y

    def _spectrum(self) -> Array:
        """Return the spectrum of the samples, (bins, G, batch, C // G)."""
        xp, found = self._b.xp, self._forward(self._samples, axis=1)
        batch, bins, channels = found.shape
        found = xp.reshape(found, (batch, bins, self._groups, channels // self._groups))
        return xp.permute_dims(found, (1, 2, 0, 3))

    def _next_block(self, spectrum: Array) -> None:
        """Keep the spectrum of a whole block, and sum what older blocks add to the next one."""
        xp, length = self._b.xp, self._length
        self._history[:, :, :, self._slot] = spectrum
        self._slot = (self._slot + 1) % self._count
        self._samples[:, :length] = self._samples[:, length:]
        self._samples[:, length:] = 0
        self._held = 0
        self._history[:, :, :, self._slot] = 0  # the oldest block, which no partition meets now
        bins, groups, batch, count, inner = self._history.shape
        first = count - self._slot
        filters = self._filter[:, :, first : first + count]
        filters = xp.reshape(filters, (bins, groups, count * inner, filters.shape[-1]))
        history = xp.reshape(self._history, (bins, groups, batch, count * inner))
        self._before = history @ filters
