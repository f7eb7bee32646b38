"""Bounded flow between threads: channels that never grow, groups whose threads end together."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from types import TracebackType
from typing import Generic, ParamSpec, TypeVar

from drkit.core.cancel import CancelToken
from drkit.core.errors import Cancelled

MOST_WORKERS = 256
"""So many threads may be asked for: more than any disk or store serves at once, and far from what a host refuses."""

T = TypeVar("T")
P = ParamSpec("P")


class Closed(Exception):
    """The channel was closed: nothing more comes out (get), nothing more goes in (put)."""


class Channel(Generic[T]):
    """A queue of at most `capacity` items between any number of threads; first in, first out.

    Every wait ends with Cancelled when `token` is cancelled or its deadline passes.
    """

    def __init__(self, capacity: int, token: CancelToken, *, name: str = "channel") -> None:
        if capacity < 1:
            raise ValueError("a channel holds at least one item")
        self.name = name
        self._capacity = capacity
        self._token = token
        self._items: deque[T] = deque()
        self._changed = threading.Condition()
        self._closed = False
        self._cancelled = ""
        self._leave_token = token.on_cancel(self._wake)

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        """Wait for room. Raises Closed after `close`, Cancelled after `cancel` or by the token."""
        with self._changed:
            self._until(lambda: self._closed or len(self._items) < self._capacity, None)
            self._append(item)

    def offer(self, item: T, timeout_s: float) -> bool:
        """As `put`, but gives up after `timeout_s` and returns False: for a consumer that fell behind."""
        with self._changed:
            if not self._until(lambda: self._closed or len(self._items) < self._capacity, timeout_s):
                return False
            self._append(item)
            return True

    def _append(self, item: T) -> None:
        if self._closed:
            raise Closed(self.name)
        self._items.append(item)
        self._changed.notify_all()

    def get(self) -> T:
        """Wait for an item. Raises Closed once the channel is closed and empty, Cancelled as `put`."""
        with self._changed:
            self._until(lambda: bool(self._items) or self._closed, None)
            if not self._items:
                raise Closed(self.name)
            item = self._items.popleft()
            self._changed.notify_all()
            return item

    def __iter__(self) -> Iterator[T]:
        """The items until the channel is closed and empty; several threads may share one channel so."""
        while True:
            try:
                item = self.get()
            except Closed:
                return
            yield item

    def close(self) -> None:
        """No more puts; what is inside is still got. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._leave_token()

    def cancel(self, reason: str = "the channel was cancelled") -> None:
        """Drop what is inside; every put and get, waiting or later, raises Cancelled. Idempotent."""
        with self._changed:
            self._cancelled = self._cancelled or reason
            self._items.clear()
            self._changed.notify_all()
        self._leave_token()

    def _until(self, ready: Callable[[], bool], timeout_s: float | None) -> bool:
        """With the lock held: wait until `ready`; False when `timeout_s` went by first."""
        wanted = self._token.child(deadline_s=timeout_s) if timeout_s is not None else None
        try:
            while True:
                if self._cancelled:
                    raise Cancelled(f"{self.name} was cancelled", why=self._cancelled)
                self._token.check()
                if ready():
                    return True
                if wanted is not None and wanted.cancelled:
                    return False
                self._changed.wait((wanted or self._token).remaining_s())
        finally:
            if wanted is not None:
                wanted.close()


class Group:
    """Threads that end together. The first error cancels the others; leaving the block joins them all.

    On leaving, the first error is raised as it was; every other one, with its thread's name, is a note on it
    and stands in `errors`. Cancellations that merely follow from the first error are not counted as causes.
    The group's `token` is a child: a failed group leaves its parent's other work alone.
    """

    def __init__(self, token: CancelToken, *, name: str = "group") -> None:
        self.name = name
        self.token = token.child()
        self.errors: list[tuple[str, BaseException]] = []
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    def start(self, name: str, target: Callable[P, object], *args: P.args, **kwargs: P.kwargs) -> None:
        """Run `target` in a thread of its own, named `group/name`."""

        def root() -> None:
            try:
                target(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001  a thread root: every cause is kept
                self._failed(name, error)

        thread = threading.Thread(target=root, name=f"{self.name}/{name}", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _failed(self, name: str, error: BaseException) -> None:
        with self._lock:
            self.errors.append((name, error))
        self.token.cancel(f"{self.name}/{name} failed: {error}")

    def __enter__(self) -> Group:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._failed("main", error)
        for thread in self._threads:
            self._join(thread)
        self.token.close()
        if not self.errors:
            return
        causes = [entry for entry in self.errors if not isinstance(entry[1], Cancelled)] or self.errors[:1]
        first = causes[0][1]
        for name, other in causes[1:]:
            first.add_note(f"also in {self.name}/{name}: {type(other).__name__}: {other}")
        if first is not error:
            raise first

    def _join(self, thread: threading.Thread) -> None:
        while thread.is_alive():
            try:
                thread.join()
            except KeyboardInterrupt as interrupt:
                self._failed("main", interrupt)
