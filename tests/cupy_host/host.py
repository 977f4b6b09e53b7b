"""The host: its log, its faults, its knobs. `install` makes the one instance."""

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
    """CuPy's exception for a status of the CUDA runtime."""
    from cupy_backends.cuda.api import runtime

    return runtime.CUDARuntimeError(status)


def driver_error(status: int) -> Exception:
    """CuPy's exception for a status of the CUDA driver."""
    from cupy_backends.cuda.api import driver

    # Not through its constructor, which would ask a real driver for the text.
    text = DRIVER_TEXTS.get(status, f"CUDA_ERROR_{status}")
    error = driver.CUDADriverError.__new__(driver.CUDADriverError, text)
    error.status = status
    return error


class Recording(list[Event]):
    """The events of a `with` block, and how far memory grew in it."""

    def __init__(self, live: list[int]) -> None:
        super().__init__()
        self._before = list(live)
        self._live: list[list[int]] = [[] for _ in live]  # by device, after each allocation

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind."""
        return [event for event in self if isinstance(event, kind)]

    def note_live(self, device: int, live: int) -> None:
        """Keeps what arrays hold now."""
        self._live[device].append(live)

    def peak_growth(self, device: int = 0) -> int:
        """Most bytes that arrays held at once, beyond what they held when the block began."""
        before = self._before[device]
        return max(before, *self._live[device], before) - before


class Host:
    """What CuPy takes for CUDA.

    Attributes
    ----------
    log : list of Event
        Everything asked of the devices since `clear`, oldest first (the newest 200,000).
    faults : list of BaseException
        Every fault, and every other exception that a handler met, since `clear`.
    memory : DeviceMemory
        Its `capacity` (bytes per device) may be set, to see CuPy run out of memory.
    fibre_order : str
        "vary" (the default: forward, reverse and shuffled in turn), or one of these three.
    seed : int
        Of the shuffles; a launch adds its number to it.
    count_traffic : bool
        Whether every launch is followed by a `Traffic` in the log.
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
        _ = self.device  # a new thread is greeted first
        self._thread.device = device

    @property
    def pool_allocating(self) -> bool:
        """Whether the calling thread's memory pool is taking a chunk from the device just now."""
        return getattr(self._thread, "pool_allocating", False)

    @pool_allocating.setter
    def pool_allocating(self, value: bool) -> None:
        self._thread.pool_allocating = value

    # ---- log -----------------------------------------------------------------------------------

    def record(self, event: Event) -> None:
        """Appends to the log and to every open recording."""
        self.log.append(event)
        if len(self.log) > LOG_LIMIT * 3 // 2:
            del self.log[:-LOG_LIMIT]  # twice does no more than once
        for recording in list(self._recordings.values()):
            recording.append(event)
            if isinstance(event, Allocate):
                recording.note_live(event.device, self.memory.live[event.device])

    def clear(self) -> None:
        """Forgets log, faults and peaks; memory and knobs stay."""
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
        """Raises the first fault recorded since the last `clear` or `check`, and forgets them all.

        Call it after every test: a fault that the code under test caught is raised here again.
        """
        try:
            self.memory.verify_all()
        except HostFault as fault:
            self.faults.append(fault)
        met = list(self.faults)
        if met:
            del self.faults[: len(met)]  # and none that another thread meets now
            raise met[0]

    @contextmanager
    def expect(self, kind: type[BaseException]) -> Iterator[None]:
        """The block must meet a fault of this kind, which is then forgotten."""
        before = len(self.faults)
        try:
            yield
        except kind:
            pass
        except Exception:  # CuPy may answer the fault with an error of its own
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
        """The handler, with every exception recorded that is not an answer of CUDA's.

        `cuda_error` makes CuPy's exception for such an answer.
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
        """A handler that refuses, by name."""

        def refuse(*args: object, **keywords: object) -> object:
            raise NotProvided(name)

        return self.guard(name, refuse)

    # ---- memory --------------------------------------------------------------------------------

    def adopt(self, address: int, size: int, extent: int, device: int) -> None:
        """An array got memory."""
        block = self.memory.adopt(address, size, extent, device)
        self.captures.allocated(block, self.memory.chunk_at(address))
        self.record(Allocate(device, size, address, "array", block.where))

    def abandon(self, address: int) -> None:
        """An array gave memory back."""
        block = self.memory.abandon(address)
        if block is not None:
            self.record(Free(block.device, block.size, address, "array"))

    def live_bytes(self, device: int = 0) -> int:
        """Bytes that arrays hold now."""
        return self.memory.live[device]

    def peak_bytes(self, device: int = 0) -> int:
        """Most bytes that arrays held at once since `clear`."""
        return self.memory.peak[device]

    def reserved_bytes(self, device: int = 0) -> int:
        """Bytes taken from the device, by CuPy's pool or directly."""
        return self.memory.reserved[device]

    def live_arrays(self) -> list[Block]:
        """What arrays hold now, after a garbage collection."""
        gc.collect()
        return list(self.memory.arrays.values())

    def leak_report(self) -> str:
        """One line per array that is alive; empty if there is none."""
        return "\n".join(f"leak: {block}" for block in self.live_arrays())

    @contextmanager
    def no_leaks(self) -> Iterator[None]:
        """The block must leave no array alive that it made; else `Leak`."""
        before = {id(block) for block in self.live_arrays()}
        yield
        left = [block for block in self.live_arrays() if id(block) not in before]
        if left:
            raise Leak("still alive: " + "; ".join(map(str, left)))

    # ---- fibre order ---------------------------------------------------------------------------

    def next_order(self) -> tuple[int, int]:
        """Number (of `ORDERS`) and seed of the next launch's order."""
        number = next(self._launches)
        if self.fibre_order == "vary":
            return number % len(ORDERS), self.seed + number
        return ORDERS.index(self.fibre_order), self.seed + number
