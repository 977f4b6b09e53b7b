"""What einstride needs of an array library: one record of facts and functions, no base class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Literal

Array = Any
"""An array of whichever library the caller uses."""

Make = Callable[[], Callable[[Any], Any]]
"""Called once by every worker: allocates its buffers and gives the function that does one block."""


@dataclass(frozen=True, eq=False)  # compared by identity: a quick key of caches
class Traits:
    """Facts about a library that decide plans.

    Attributes
    ----------
    library : str
        Its import name: for messages, plans and figures. What the library can do is said by the
        other fields, so that nothing outside `einstride.arrays.backends` compares names.
    views : bool
        `as_strided` exists, so windows are a view; otherwise they are stacked slices.
    mutable : bool
        Results may be written in place, block by block, and buffers reused.
    block_bytes : int
        The size that a block's copied windows should have: what fits the cache of one core, or
        fills a GPU.
    workspace : int
        The default ceiling of workspace, in bytes.
    half_sums : bool
        Matrix products of float16 and bfloat16 are summed in float32 by the library itself.
    max_rank : int
        The most spatial axes whose windows the library's arrays and einsum can index.
    kernels : {"cpu", "cuda"} or None
        Which kernels of this project can address the arrays: those of `einstride.cpu`, those of
        `einstride.cuda`, or none.
    compiled : bool
        The kernels of `einstride.cpu` can address the arrays, and their compiler is installed.
    on_host : bool
        The arrays are NumPy's: its functions read and write them where they are, in the memory of
        the host, and `Backend.run` computes blocks of them on several threads.
    einsum_copies : bool
        `Backend.einsum` copies an operand whose windows overlap, so that a view of windows costs as
        much memory as the windows themselves.
    has_fft : bool
        The namespace has Fourier transforms, ``xp.fft``, that work along any axis of any array.
    has_streams : bool
        Calls put their work into a queue of the device and return: whoever looks at a number of a
        result waits until the device has come so far.
    capability : callable or None
        ``capability()``: ten times the compute capability of the current device, 0 without one. It
        asks the driver for a number and makes no context.
    """

    library: str
    views: bool
    mutable: bool
    block_bytes: int
    workspace: int
    half_sums: bool
    max_rank: int
    kernels: Literal["cpu", "cuda"] | None = None
    compiled: bool = False
    on_host: bool = False
    einsum_copies: bool = True
    has_fft: bool = True
    has_streams: bool = False
    capability: Callable[[], int] | None = None


@dataclass(frozen=True)
class Backend:
    """The functions an adapter brings. `xp` is the library's array-API namespace.

    Attributes
    ----------
    xp : namespace
        With the standard's names: ``permute_dims``, ``concat``, ``matmul``, ``astype``...
    traits : Traits
        The facts above.
    dtype_name : callable
        ``dtype_name(x)``: the dtype as a plain name, "float32".
    device : callable or None
        ``device(x)``, comparable with ``==``; None for an array that is on no device that is known
        (a tracer, or an array spread over several). None instead of a function for libraries with
        one device.
    on : callable
        ``with on(x):`` makes the array's device the current one.
    empty, zeros : callable
        ``empty(shape, dtype_name, like)``: on the device of the array `like`.
    astype : callable
        ``astype(x, dtype_name)``; x itself if nothing is to do. float to int truncates.
    strides : callable or None
        ``strides(x)`` in the unit that `as_strided` takes; None without views.
    as_strided : callable or None
        ``as_strided(x, shape, strides)``: a view, unchecked. Only `ops.windows` calls it.
    einsum : callable
        ``einsum(equation, a, b, dtype_name, out)`` of two operands; `out` may be None.
    matmul : callable
        ``matmul(a, b, out)``; `out` may be None.
    run : callable
        ``run(make, boxes, threads)``: every block once; their results in order, or none where
        blocks are written in place.
    threads : callable
        ``threads()``: how many blocks may run at once, now.
    overlap : callable
        ``overlap(a, b)``: do the two arrays share memory?
    writeable : callable
        ``writeable(x)``: may the array be written?
    native : callable
        ``native(x)``: is it in the machine's byte order?
    copied : callable
        ``copied(*arrays)``: bytes of the copies that compiled kernels would need of these arrays,
        of which some may be None.
    to_host : callable
        ``to_host(x)``: a NumPy array with the elements of x, which may share the memory of x.
    finish : callable
        ``finish(y)``: wait until the array is there, for those who measure time.
    coarse : Backend or None
        The same with products that may round their factors to TF32, for calls that allow it.
    copy_rows : callable or None
        A kernel that copies windows into a matrix, with the border by index, so that no padded copy
        is needed: see `einstride.cuda.im2col.copy_rows`. It returns False for what it cannot do.
    launch : callable or None
        ``launch(kernel, block, threads)``: a compiled kernel of `einstride.cpu` on the pool.
    result : callable or None
        As `empty`, for what is returned to the caller, made of the array `like`; None where memory
        is as quick anywhere.
    frozen : callable or None
        ``frozen(x)``: a copy in memory that nothing in Python can write; None where there is none.
    """

    xp: Any
    traits: Traits
    dtype_name: Callable[[Array], str]
    device: Callable[[Array], Any] | None
    on: Callable[[Array], AbstractContextManager[Any]]
    empty: Callable[[Sequence[int], str, Array], Array]
    zeros: Callable[[Sequence[int], str, Array], Array]
    astype: Callable[[Array, str], Array]
    strides: Callable[[Array], tuple[int, ...]] | None
    as_strided: Callable[[Array, Sequence[int], Sequence[int]], Array] | None
    einsum: Callable[[str, Array, Array, str, Array | None], Array]
    matmul: Callable[[Array, Array, Array | None], Array]
    run: Callable[[Make, Sequence[Any], int], list[Any]]
    threads: Callable[[], int]
    overlap: Callable[[Array, Array], bool]
    writeable: Callable[[Array], bool]
    native: Callable[[Array], bool]
    to_host: Callable[[Array], Any]
    copied: Callable[..., int] = lambda *arrays: 0
    finish: Callable[[Array], object] = lambda x: None
    coarse: Backend | None = None
    copy_rows: Callable[..., bool] | None = None
    launch: Callable[[Callable[[int, int], None], Any, int], None] | None = None
    result: Callable[[Sequence[int], str, Array], Array] | None = None
    frozen: Callable[[Array], Array] | None = None
