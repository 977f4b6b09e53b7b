"""Define the record that an adapter fills in for its array library: traits and functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from einstride.geometry.convolution import Direction, Geometry

_HERE = nullcontext()

Array = Any
"""An array of any supported library."""

Make = Callable[[], Callable[[Any], Any]]
"""A function that each thread calls once: it allocates the thread's buffers, and returns the
function that computes one block."""


@dataclass(frozen=True, eq=False)  # compared by identity, which is fast in cache keys
class Traits:
    """Hold the properties of an array library that plans depend on.

    Attributes
    ----------
    library : str
        The import name, for messages, plans and calibration. The other fields say what the library
        can do, so that nothing outside `einstride.arrays.backends` compares names.
    views : bool
        True if `as_strided` exists and windows are a view; otherwise windows are stacked slices.
    mutable : bool
        True if results may be written in place, block by block, and buffers reused.
    block_bytes : int
        Bytes that the copied windows of a block should have: the cache of one core, or enough work
        for a GPU.
    workspace : int
        The default limit of workspace, in bytes.
    half_sums : bool
        True if the library itself sums matrix products of float16 and bfloat16 in float32.
    max_rank : int
        The most spatial axes whose windows the library's arrays and einsum can index.
    kernels : {"cpu", "cuda"} or None
        The kernels of this project that can address the arrays: `einstride.cpu`, `einstride.cuda`
        or none.
    compiled : bool
        True if the kernels of `einstride.cpu` can address the arrays, and llvmlite, their compiler,
        is installed.
    on_host : bool
        True if the arrays are NumPy's, in host memory: its functions read and write them in place,
        and `Backend.run` computes blocks of them on several threads.
    einsum_copies : bool
        True if `Backend.einsum` copies an operand whose windows overlap, so that a view of windows
        costs as much memory as the windows themselves.
    has_fft : bool
        True if the namespace has Fourier transforms, ``xp.fft``, along any axis of any array.
    has_streams : bool
        True if calls enqueue their work on a stream of the device and return: reading a value of a
        result waits for the stream.
    capability : callable or None
        ``capability()``: ten times the compute capability of the current device, 0 without one. The
        call queries the driver and creates no context.
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
class Exchange:
    """Hold the functions of a library whose arrays lend their memory to arrays of NumPy or CuPy.

    A *plain* call, in which nothing but the values of the arrays matters, is computed on lent
    memory; any other call, which the library differentiates, transforms or traces, by `operator`:

        array --lend--> array on its memory --compute--> array --adopt--> array of the library

    Attributes
    ----------
    host : Backend
        The backend of NumPy with the library's name and threads, for memory of the CPU. Calls on
        arrays without values are planned for it.
    is_plain : callable
        ``is_plain(*arrays)``: True if the arrays, some of which may be None, have memory to lend on
        one device, and the library neither differentiates, transforms nor traces the call; then no
        other check of them is needed.
    lend : callable
        ``lend(x)``: an array on the memory of x, whose values alone matter; None of None.
    adopt : callable
        ``adopt(y, *operands)``: an array of the library, on the device of the operands, on the
        memory of `y`, which nobody else holds. It is a copy where the library cannot use the
        memory.
    has_values : callable
        ``has_values(x)``: False for arrays that have a shape and a dtype only.
    check : callable
        ``check(where, names, arrays)``: raise an error unless `operator` takes the operands and
        `out`, the last of the arrays.
    operator : callable
        ``operator(where, direction, first, second, bias, k, extra)``: compute a call with checked
        keywords `k` by an operator that the library differentiates, transforms and traces as a
        whole, by the functions of `einstride.arrays.backends.passes`.
    copy : callable
        ``copy(x)``: a copy of x through which gradients flow.
    computing : callable or None
        ``computing(where, x)``: the backend that computes on the memory of x, or an error; None if
        it is always `host`.
    on : callable
        ``with on(x):`` makes the device and the stream of x the current ones of the computing
        library.
    written : callable or None
        ``written(out)``: tell the library that the memory of `out` was written; None if its arrays
        are immutable, so that there is no `out`.
    refusal : callable
        ``refusal(dtype_name)``: the remedy for a user whose results would have a dtype that the
        library cannot hold at present; None if it can hold the dtype.
    one_library : bool
        False if arrays of other libraries may stand beside those of the library: `check` then says
        which.
    figures : callable or None
        ``figures(*call)``: what the tasks of a call to `operator` take, where calls are computed
        later and in parts; see `einstride.arrays.backends.dask.graph.Figures`.
    map_batches : callable or None
        ``map_batches(function, arrays, shape, dtype, rows)``: the array of the results of
        ``function(*batches)``, one for each chunk of the batch axis of the first array, computed
        later; a result has `shape` behind a batch axis of `rows`, by default that of its chunk.
    reduce_batches : callable or None
        ``reduce_batches(function, add, batches, scheduler)``: the sum of ``function(*batch)`` over
        the batches, by ``add(results)`` in an order that follows from their number alone. It is
        computed at once, by the library's scheduler or the given one.
    checked : callable or None
        ``checked(check, *arrays)``: the first of arrays of one shape, whose values are looked at
        by the tasks that compute it: each calls ``check(*blocks)``, which may raise.
    values : callable or None
        ``values(x, scheduler)``: the elements of x, computed by this scheduler.
    """

    host: Backend
    is_plain: Callable[..., bool]
    lend: Callable[[Array | None], Array | None]
    adopt: Callable[..., Array]
    has_values: Callable[[Array], bool]
    check: Callable[[str, tuple[str, ...], tuple[Array | None, ...]], None]
    operator: Callable[..., Array]
    copy: Callable[[Array], Array]
    computing: Callable[[str, Array], Backend] | None = None
    on: Callable[[Array], AbstractContextManager[Any]] = lambda x: _HERE
    written: Callable[[Array], None] | None = None
    refusal: Callable[[str], str | None] = lambda dtype_name: None
    one_library: bool = True
    figures: Callable[..., Any] | None = None
    map_batches: Callable[..., Array] | None = None
    reduce_batches: Callable[..., Any] | None = None
    checked: Callable[..., Array] | None = None
    values: Callable[[Array, Any], Array] | None = None


@dataclass(frozen=True)
class Backend:
    """Hold the functions of an adapter, and the library's array-API namespace `xp`.

    Attributes
    ----------
    xp : namespace
        The functions under the standard's names: ``permute_dims``, ``concat``, ``matmul``...
    traits : Traits
        The properties of the library.
    dtype_name : callable
        ``dtype_name(x)``: the name of the dtype, such as "float32".
    device : callable or None
        ``device(x)``: the device, comparable with ``==``; None for an array without a known device
        (a tracer, or an array distributed over several). The field is None for libraries with one
        device.
    on : callable
        ``with on(x):`` makes the array's device the current one.
    empty, zeros : callable
        ``empty(shape, dtype_name, like)``: a new array on the device of the array `like`.
    astype : callable
        ``astype(x, dtype_name)``: x converted, or x itself if it has the dtype. Conversion from
        float to int truncates.
    strides : callable or None
        ``strides(x)`` in the unit that `as_strided` takes; None without views.
    as_strided : callable or None
        ``as_strided(x, shape, strides)``: a view, unchecked. Only `ops.windows` calls it.
    einsum : callable
        ``einsum(equation, a, b, dtype_name, out)`` of two operands; `out` may be None.
    matmul : callable
        ``matmul(a, b, out)``; `out` may be None.
    run : callable
        ``run(make, boxes, threads)``: compute every block once, and return the results in order, or
        an empty list where blocks are written in place.
    threads : callable
        ``threads()``: the number of blocks that may run at once, now.
    overlap : callable
        ``overlap(a, b)``: True if the two arrays share memory.
    writeable : callable
        ``writeable(x)``: True if the array may be written.
    native : callable
        ``native(x)``: True if the array is in the machine's byte order.
    copied : callable
        ``copied(*arrays, contiguous=False)``: bytes of the copies that compiled kernels would make
        of the arrays, some of which may be None; with `contiguous`, of kernels that read contiguous
        arrays only.
    to_host : callable
        ``to_host(x)``: a NumPy array with the elements of x, which may share the memory of x.
    finish : callable
        ``finish(y)``: wait until y is computed, so that its time can be measured.
    tf32 : Backend or None
        A backend whose products may round their factors to TF32, for calls that allow TF32.
    copy_rows : callable or None
        A kernel that copies windows into the rows of a matrix and computes the border from indices,
        so that no padded copy is made: see `einstride.cuda.im2col.copy_rows`. It returns False for
        operands that it does not support.
    launch : callable or None
        ``launch(kernel, block, threads)``: run a compiled kernel of `einstride.cpu` on threads.
    launch_program : callable or None
        ``launch_program(program, block, threads, *arrays)``: run a compiled program of
        `einstride.cpu`, whose kernels use at most `threads` threads.
    result : callable or None
        ``result(shape, dtype_name, like)``: a new array for the result of a call that reads `like`;
        None where memory is equally fast at every address.
    frozen : callable or None
        ``frozen(x)``: a copy in memory that Python cannot write; None if there is no such memory.
    exchange : Exchange or None
        How the arrays lend their memory to NumPy or CuPy, whose backend then computes; None where
        this backend computes itself.
    convolve : callable or None
        ``convolve(geometry, direction, first, second)``: the library's own convolution of canonical
        arrays with a padding of zeros; bilinear, so that nothing is conjugated.
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
    copied: Callable[..., int] = lambda *arrays, contiguous=False: 0
    finish: Callable[[Array], object] = lambda x: None
    tf32: Backend | None = None
    copy_rows: Callable[..., bool] | None = None
    launch: Callable[[Callable[[int, int], None], Any, int], None] | None = None
    launch_program: Callable[..., None] | None = None
    result: Callable[[Sequence[int], str, Array], Array] | None = None
    frozen: Callable[[Array], Array] | None = None
    exchange: Exchange | None = None
    convolve: Callable[[Geometry, Direction, Array, Array], Array] | None = None
