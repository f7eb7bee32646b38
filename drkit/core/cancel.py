"""Cancellation: one token per piece of work; a person, a signal, a deadline or a failed sibling ends it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from drkit.core.clock import Clock, SystemClock
from drkit.core.errors import Cancelled


class CancelToken:
    """Thread-safe. A child is cancelled with its parent, never the other way round.

    A deadline is passive: it is seen by `check`, `cancelled`, `wait` and by the waits of `flow`, at its time.
    """

    def __init__(
        self,
        *,
        deadline_s: float | None = None,
        clock: Clock | None = None,
        parent: CancelToken | None = None,
    ) -> None:
        self._clock: Clock = clock or SystemClock()
        self._lock = threading.RLock()
        self._event = threading.Event()
        self._reason = ""
        self._wakers: dict[int, Callable[[], None]] = {}
        self._next_waker = 0
        self._at = None if deadline_s is None else self._clock.monotonic() + deadline_s
        self._parent = parent
        self._leave_parent: Callable[[], None] = lambda: None
        if parent is not None:
            self._leave_parent = parent.on_cancel(lambda: self.cancel(parent.reason))

    @property
    def cancelled(self) -> bool:
        return self._event.is_set() or self._expired() is not None

    @property
    def reason(self) -> str:
        """Why it was cancelled, "" before."""
        return self._reason or (self._expired() or "")

    def _expired(self) -> str | None:
        token: CancelToken | None = self
        while token is not None:
            if token._at is not None and token._clock.monotonic() >= token._at:
                return "the deadline has passed"
            token = token._parent
        return None

    def cancel(self, reason: str = "cancelled") -> None:
        """Idempotent: the first reason stays. Every wait on this token and its children ends."""
        with self._lock:
            if self._event.is_set():
                return
            self._reason = reason
            self._event.set()
            wakers = list(self._wakers.values())
            self._wakers.clear()
        for wake in wakers:
            wake()

    def check(self) -> None:
        """Raises Cancelled when cancelled or past the deadline; cheap enough for every block of a copy."""
        if self.cancelled:
            raise Cancelled("cancelled", why=self.reason)

    def remaining_s(self) -> float | None:
        """Seconds to the nearest deadline of this token and its parents, at least 0.0; None without one."""
        left = None if self._at is None else max(0.0, self._at - self._clock.monotonic())
        above = self._parent.remaining_s() if self._parent is not None else None
        return min((s for s in (left, above) if s is not None), default=None)

    def wait(self, timeout_s: float | None = None) -> bool:
        """Sleep until cancelled, the deadline or `timeout_s`; returns whether it is cancelled now."""
        limits = [s for s in (timeout_s, self.remaining_s()) if s is not None]
        self._event.wait(min(limits) if limits else None)
        return self.cancelled

    def child(self, *, deadline_s: float | None = None) -> CancelToken:
        return CancelToken(deadline_s=deadline_s, clock=self._clock, parent=self)

    def on_cancel(self, wake: Callable[[], None]) -> Callable[[], None]:
        """Call `wake` once, in the cancelling thread (at once if already cancelled); returns its undoing.

        `wake` must be quick and must not raise. A deadline calls nobody.
        """
        with self._lock:
            if not self._event.is_set():
                number = self._next_waker
                self._next_waker += 1
                self._wakers[number] = wake
                return lambda: self._forget(number)
        wake()
        return lambda: None

    def _forget(self, number: int) -> None:
        with self._lock:
            self._wakers.pop(number, None)

    def close(self) -> None:
        """Leave the parent: a long-lived parent would otherwise keep every finished child."""
        self._leave_parent()


@contextmanager
def signals_cancel(
    token: CancelToken, *, signals: tuple[signal.Signals, ...] = (signal.SIGTERM, signal.SIGINT)
) -> Iterator[None]:
    """Within the block the first signal cancels `token`, the second ends the process with 128 + its number.

    Main thread only. The handler does nothing but write to a pipe that a thread reads: a handler that took
    a lock could meet that lock held by the very thread it interrupted.
    """
    read_fd, write_fd = os.pipe()
    os.set_blocking(write_fd, False)
    received = 0

    def on_signal(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received += 1
        if received > 1:
            os._exit(128 + number)
        os.write(write_fd, bytes([number]))

    def watch() -> None:
        number = os.read(read_fd, 1)
        if number and number[0]:
            token.cancel(f"{signal.Signals(number[0]).name} was received")

    watcher = threading.Thread(target=watch, name="signals", daemon=True)
    watcher.start()
    before = {number: signal.signal(number, on_signal) for number in signals}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.write(write_fd, b"\0")
        watcher.join()
        os.close(write_fd)
        os.close(read_fd)
