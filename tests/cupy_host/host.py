"""Defines the host: its log, faults and settings. `install` makes the only instance."""

from __future__ import annotations

import gc
import itertools
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from .core import load_core
from .events import Allocate, Event, Free
from .faults import DRIVER_TEXTS, CudaStatus, HostFault, Leak, NotProvided
from .memory import Block, DeviceMemory

DEVICES = 2
DEFAULT_CAPACITY = 16 << 30
LOG_LIMIT = 200_000
ORDERS = ("forward", "reverse", "shuffle")

if TYPE_CHECKING:
    from .graphs import Captures

E = TypeVar("E", bound=Event)


def runtime_error(status: int) -> Exception:
    """Return CuPy's exception for a status of the CUDA runtime."""
    from cupy_backends.cuda.api import runtime

    return runtime.CUDARuntimeError(status)


def driver_error(status: int) -> Exception:
    """Return CuPy's exception for a status of the CUDA driver."""
    from cupy_backends.cuda.api import driver

    # Made without its constructor, which would read the text from a real driver.
    text = DRIVER_TEXTS.get(status, f"CUDA_ERROR_{status}")
    error = driver.CUDADriverError.__new__(driver.CUDADriverError, text)
    error.status = status
    return error


class Recording(list[Event]):
    """Hold the events of a `with` block, and the bytes of arrays after each allocation."""

    def __init__(self, live: list[int]) -> None:
        super().__init__()
        self._before = list(live)
        self._live: list[list[int]] = [[] for _ in live]  # [device][allocation]

    def of(self, kind: type[E]) -> list[E]:
        """List the events of one kind."""
        return [event for event in self if isinstance(event, kind)]

    def note_live(self, device: int, live: int) -> None:
        """Record the bytes that arrays hold now."""
        self._live[device].append(live)

    def peak_growth(self, device: int = 0) -> int:
        """Return the most bytes that arrays held at once, minus those at the start of the block."""
        before = self._before[device]
        return max(before, *self._live[device], before) - before


class Host:
    """Emulate the CUDA devices that CuPy uses.

    Attributes
    ----------
    log : list of Event
        The newest 200,000 events since `clear`, oldest first.
    faults : list of BaseException
        Faults, and all other exceptions in handlers, since `clear`.
    memory : DeviceMemory
        Its `capacity` (bytes per device) may be set, to see CuPy run out of memory.
    fibre_order : str
        "vary" (the default: forward, reverse and shuffled in turn), or one of these three.
    seed : int
        Seed of the shuffled orders; the number of the launch is added.
    count_traffic : bool
        True if each launch is followed by a `Traffic` in the log.
    """

    def __init__(self) -> None:
        self.core = load_core()
        self.memory = DeviceMemory(self.core, DEVICES, DEFAULT_CAPACITY)
        self.log: list[Event] = []
        self.faults: list[BaseException] = []
        self.fibre_order = "vary"
        self.seed = 0
        self.count_traffic = False
        self._launches = itertools.count(1)
        self.captures: Captures
        self.on_new_thread: Callable[[], None] | None = None
        self._recordings: dict[int, Recording] = {}
        self._thread = threading.local()

    # ---- devices -------------------------------------------------------------------------------

    @property
    def device(self) -> int:
        """The calling thread's current device."""
        try:
            return self._thread.device
        except AttributeError:
            self._thread.device = 0
        if self.on_new_thread is not None:
            self.on_new_thread()
        return 0

    @device.setter
    def device(self, device: int) -> None:
        _ = self.device  # sets up the state of a new thread
        self._thread.device = device

    @property
    def pool_allocating(self) -> bool:
        """True while the memory pool allocates a chunk from the device in the calling thread."""
        return getattr(self._thread, "pool_allocating", False)

    @pool_allocating.setter
    def pool_allocating(self, value: bool) -> None:
        self._thread.pool_allocating = value

    # ---- log -----------------------------------------------------------------------------------

    def record(self, event: Event) -> None:
        """Appends to the log and to every open recording."""
        self.log.append(event)
        if len(self.log) > LOG_LIMIT * 3 // 2:
            del self.log[:-LOG_LIMIT]  # safe if two threads do this
        for recording in list(self._recordings.values()):
            recording.append(event)
            if isinstance(event, Allocate):
                recording.note_live(event.device, self.memory.live[event.device])

    def clear(self) -> None:
        """Clears log, faults and peaks; memory and settings stay."""
        self.log.clear()
        self.faults.clear()
        self.core.host_memory_forget_peaks()

    @contextmanager
    def recording(self) -> Iterator[Recording]:
        """Yields the list that the events of the block are appended to."""
        recording = Recording(self.memory.live)
        self._recordings[id(recording)] = recording
        try:
            yield recording
        finally:
            self._recordings.pop(id(recording))

    # ---- faults --------------------------------------------------------------------------------

    def check(self) -> None:
        """Raises the first fault since the last `clear` or `check`, and removes all of them.

        Call it after every test: a fault that the code under test caught is raised here again.
        """
        try:
            self.memory.verify_all()
        except HostFault as fault:
            self.faults.append(fault)
        met = list(self.faults)
        if met:
            del self.faults[: len(met)]  # keeps faults that other threads add now
            raise met[0]

    @contextmanager
    def expect(self, kind: type[BaseException]) -> Iterator[None]:
        """Checks that the block causes a fault of this kind, and removes the fault."""
        before = len(self.faults)
        try:
            yield
        except kind:
            pass
        except Exception:  # CuPy may raise its own error for the fault
            if not any(isinstance(f, kind) for f in self.faults[before:]):
                raise
        met = [f for f in self.faults[before:] if isinstance(f, kind)]
        if not met:
            raise AssertionError(f"the host met no {kind.__name__}; it met {self.faults[before:]}")
        del self.faults[before:]

    def guard(
        self,
        name: str,
        handler: Callable[..., object],
        cuda_error: Callable[[int], Exception] | None = None,
    ) -> Callable[..., object]:
        """Wraps a handler so that its exceptions are recorded, except a status of CUDA.

        `cuda_error` converts a status of CUDA to CuPy's exception.
        """

        def guarded(*args: object) -> object:
            try:
                return handler(*args)
            except CudaStatus as answer:
                raise (cuda_error or runtime_error)(answer.status) from None
            except BaseException as error:
                self.faults.append(error)
                raise

        guarded.__name__ = name
        return guarded

    def refusal(self, name: str) -> Callable[..., object]:
        """Returns a handler that raises `NotProvided` with the name of the function."""

        def refuse(*args: object, **keywords: object) -> object:
            raise NotProvided(name)

        return self.guard(name, refuse)

    # ---- memory --------------------------------------------------------------------------------

    def adopt(self, address: int, size: int, extent: int, device: int) -> None:
        """Records that an array got memory."""
        block = self.memory.adopt(address, size, extent, device)
        self.captures.allocated(block, self.memory.chunk_at(address))
        self.record(Allocate(device, size, address, "array", block.where))

    def abandon(self, address: int) -> None:
        """Records that an array freed its memory."""
        block = self.memory.abandon(address)
        if block is not None:
            self.record(Free(block.device, block.size, address, "array"))

    def live_bytes(self, device: int = 0) -> int:
        """Returns the bytes that arrays hold now."""
        return self.memory.live[device]

    def peak_bytes(self, device: int = 0) -> int:
        """Returns the most bytes that arrays held at once since `clear`."""
        return self.memory.peak[device]

    def reserved_bytes(self, device: int = 0) -> int:
        """Returns the bytes allocated from the device, by CuPy's pool or directly."""
        return self.memory.reserved[device]

    def live_arrays(self) -> list[Block]:
        """Lists the live arrays, after a garbage collection."""
        gc.collect()
        return list(self.memory.arrays.values())

    def leak_report(self) -> str:
        """Returns a line for each live array."""
        return "\n".join(f"leak: {block}" for block in self.live_arrays())

    @contextmanager
    def no_leaks(self) -> Iterator[None]:
        """Raises `Leak` if an array that the block made is alive at its end."""
        before = {id(block) for block in self.live_arrays()}
        gc.freeze()  # the collection at the end visits only objects that the block made
        yield
        left = [block for block in self.live_arrays() if id(block) not in before]
        if left:
            raise Leak("still alive: " + "; ".join(map(str, left)))

    # ---- fibre order ---------------------------------------------------------------------------

    def next_order(self) -> tuple[int, int]:
        """Returns (index into `ORDERS`, seed) for the next launch."""
        number = next(self._launches)
        if self.fibre_order == "vary":
            return number % len(ORDERS), self.seed + number
        return ORDERS.index(self.fibre_order), self.seed + number
