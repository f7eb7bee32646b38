"""Values made once, shared between threads, kept while they fit."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Slot(Generic[V]):
    """A value that one thread makes and others wait for."""

    def __init__(self) -> None:
        self._ready = threading.Event()
        self._value: V | None = None
        self._error: BaseException | None = None

    @property
    def is_ready(self) -> bool:
        return self._ready.is_set()

    def result(self) -> V:
        """Wait for it; raises what its maker met."""
        self._ready.wait()
        if self._error is not None:
            raise self._error
        assert self._value is not None
        return self._value

    def settle(self, value: V | None, error: BaseException | None = None) -> None:
        self._value, self._error = value, error
        self._ready.set()


class Shared(Generic[K, V]):
    """At most `budget_bytes` of finished values, the longest unused go first. Thread-safe.

    A claim must be followed by `fill` or `fail`. Who waits for a slot must have settled all of its own claims first:
    then no two threads ever wait for each other.
    """

    def __init__(self, budget_bytes: int, size: Callable[[V], int]) -> None:
        self._budget, self._size = budget_bytes, size
        self._slots: OrderedDict[K, Slot[V]] = OrderedDict()
        self._sizes: dict[K, int] = {}
        self._held = 0
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        return self._held

    def __contains__(self, key: K) -> bool:
        """Whether it is there or being made."""
        with self._lock:
            return key in self._slots

    def claim(self, key: K) -> tuple[Slot[V], bool]:
        """The slot of a key, and whether the caller is the one to fill it."""
        with self._lock:
            slot = self._slots.get(key)
            if slot is not None:
                self._slots.move_to_end(key)
                return slot, False
            slot = self._slots[key] = Slot()
            return slot, True

    def fill(self, key: K, value: V) -> None:
        with self._lock:
            slot = self._slots[key]
            self._sizes[key] = self._size(value)
            self._held += self._sizes[key]
            self._evict()
        slot.settle(value)

    def drop(self, key: K) -> None:
        """Forget a value that nobody asks for any more; one that is not made yet stays."""
        with self._lock:
            if key in self._sizes:
                del self._slots[key]
                self._held -= self._sizes.pop(key)

    def fail(self, key: K, error: BaseException) -> None:
        """Give the claim up: those who wait get `error`, who comes later may claim again."""
        with self._lock:
            slot = self._slots.pop(key)
        slot.settle(None, error)

    def get(self, key: K, make: Callable[[], V]) -> V:
        """The value, made by this thread where no other has or does."""
        slot, mine = self.claim(key)
        if mine:
            try:
                self.fill(key, make())
            except BaseException as error:
                if not slot.is_ready:
                    self.fail(key, error)
                raise
        return slot.result()

    def _evict(self) -> None:
        """With the lock held; pending slots stay, they hold nothing yet."""
        while self._held > self._budget and len(self._sizes) > 1:
            oldest = next(key for key in self._slots if key in self._sizes)
            del self._slots[oldest]
            self._held -= self._sizes.pop(oldest)
