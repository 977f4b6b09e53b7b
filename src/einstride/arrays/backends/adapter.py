"""Define the record that an adapter fills in for its array library: traits and functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from einstride.geometry.convolution import Direction, Geometry

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
    host : Backend or None
        The backend of NumPy under the name of the library, for which calls are planned. Given if
        and only if `borrow` is.
    borrow : callable or None
        ``borrow(*arrays)``: NumPy arrays on the memory of the arrays, some of which may be None.
        The result is None if the memory is not that of the host, or if an array has no values (a
        tracer). The field is None if calls always compute with the library's own functions.
    adopt : callable or None
        ``adopt(y, *operands)``: an array of the library, on the device of the operands, on the
        memory of a new NumPy array if the library can use it, otherwise a copy. Given together with
        `borrow`.
    apply : callable or None
        ``apply(op, first, second)``: compute a `Bilinear` operation as one step that the library's
        derivatives, vectorisation and compilation know. Given together with `borrow`.
    convolve : callable or None
        ``convolve(geometry, direction, first, second)``: the library's own convolution of canonical
        arrays with a padding of zeros; bilinear, so that nothing is conjugated.
    refusal : callable or None
        ``refusal(dtype_name)``: the remedy for a user whose results would have a dtype that the
        library cannot hold at present; None if it can hold the dtype.
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
    host: Backend | None = None
    borrow: Callable[..., tuple[Any, ...] | None] | None = None
    adopt: Callable[..., Array] | None = None
    apply: Callable[[Bilinear, Array, Array], Array] | None = None
    convolve: Callable[[Geometry, Direction, Array, Array], Array] | None = None
    refusal: Callable[[str], str | None] | None = None


class Bilinear(Protocol):
    """Describe a function of two arrays that is linear in each, for libraries that trace functions.

    Equal operations are equal as keys of a dictionary.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result."""

    @property
    def dtype(self) -> str:
        """Name of the dtype of the result."""

    @property
    def per_example(self) -> bool:
        """True if the result holds one array for each example, on its first axis."""

    def transposed(self, operand: int) -> tuple[Bilinear, bool]:
        """Return the operation that is the adjoint in one operand, without conjugation.

        Its arguments are the cotangent and the other operand, exchanged if the second value is
        True.
        """

    def canonical(self) -> tuple[Bilinear, Orders]:
        """Return the operation on canonical arrays, and the permutations that lead there."""

    def of_one_example(self) -> Bilinear:
        """Return the operation on one of the examples, as a batch of one, without `per_example`."""

    def batched(self, count: int, first: bool, second: bool) -> tuple[Bilinear, Places]:
        """Return the operation that computes `count` results at once, of canonical arrays.

        `first` and `second` are True for operands that differ between the results. The places say
        where the axis of results is merged into the operands, and found in the result.
        """

    def on_host(self, first: Any, second: Any) -> Any:
        """Compute the result of NumPy arrays with the kernels and algorithms for NumPy."""

    def on_device(self, b: Backend, first: Array, second: Array) -> Array:
        """Compute the result with functions of the library of `b`."""

    def prefers_host(self, b: Backend) -> bool:
        """True if `on_host`, called back from compiled code, is needed or predicted faster."""


Orders = tuple[tuple[int, ...] | None, tuple[int, ...] | None, tuple[int, ...] | None]
"""Permutations of the first operand, the second and the result into canonical order."""

Place = tuple[int, int]
"""Where an axis is merged into another one: that axis, and the extent of its part before it."""

Places = tuple[Place | None, Place | None, Place | None]
"""The places in the first operand, the second and the result; None where the axis is the first."""
