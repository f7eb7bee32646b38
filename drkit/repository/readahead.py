"""Ranges of packs on their way before they are wanted, so that the distance to a store costs no waiting."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from drkit.repository.sources import Sources
from drkit.repository.target import Target
from storage_backends.api import Key

AHEAD_BYTES = 48 << 20
AHEAD_RANGES = 8

FrameKey = tuple[bytes, int]
"""A pack's id and the number of a frame in it."""


@dataclass(frozen=True, slots=True)
class Span:
    """Where a sealed frame lies in its pack: bytes from `start` up to `stop`."""

    frame: FrameKey
    start: int
    stop: int


@dataclass(slots=True, eq=False)
class _Range:
    """Some frames that are read in one request. left: those that nobody took yet · error: what the read met."""

    target: Target
    key: Key
    start: int
    size_bytes: int
    spans: dict[FrameKey, Span]
    left: set[FrameKey]
    begun: bool = False
    data: memoryview = field(default_factory=lambda: memoryview(b""))
    error: BaseException | None = None
    ready: threading.Event = field(default_factory=threading.Event)


class ReadAhead:
    """Reads ranges in threads of its own, at most `at_once`. Thread-safe.

    Memory: at most `most_bytes` that are on their way or wait to be taken, or one range where that is larger; however
    many threads take them.
    """

    def __init__(self, sources: Sources, most_bytes: int = AHEAD_BYTES, at_once: int = AHEAD_RANGES) -> None:
        self._sources, self._most_bytes, self._at_once = sources, most_bytes, at_once
        self._lock = threading.Lock()
        self._ranges: dict[FrameKey, _Range] = {}
        self._waiting: deque[_Range] = deque()
        self._held_bytes = self._running = 0

    @property
    def held_bytes(self) -> int:
        """Of ranges that are on their way or wait to be taken."""
        with self._lock:
            return self._held_bytes

    def begin(self, target: Target, key: Key, parts: Iterable[Sequence[Span]]) -> None:
        """Have each part, whose spans are sorted, read in one request, after those begun before; never waits."""
        with self._lock:
            for part in parts:
                left = {span.frame for span in part if span.frame not in self._ranges}
                if not left:
                    continue
                spans = {span.frame: span for span in part if span.frame in left}
                start, stop = (next(iter(spans.values())).start, max(span.stop for span in spans.values()))
                one = _Range(target, key, start, stop - start, spans, left)
                self._ranges |= dict.fromkeys(left, one)
                self._waiting.append(one)
            self._pump()

    def take(self, target: Target, frame: FrameKey) -> memoryview | None:
        """The sealed frame, if it was read or is on its way from this target; waits for it. It is then forgotten.

        Raises what the read met.
        """
        with self._lock:
            one = self._ranges.get(frame)
            if one is None or one.target is not target:
                return None
            if not one.begun:  # who takes it reads it now: sooner than those before it in the queue would let it
                self._forget(one, frame)
                return None
        one.ready.wait()
        with self._lock:
            self._forget(one, frame)
        if one.error is not None:
            raise one.error
        span = one.spans[frame]
        return one.data[span.start - one.start : span.stop - one.start]

    def drop(self, frames: Iterable[FrameKey]) -> None:
        """Nobody will take these."""
        with self._lock:
            for frame in frames:
                one = self._ranges.get(frame)
                if one is not None:
                    self._forget(one, frame)

    def _forget(self, one: _Range, frame: FrameKey) -> None:
        """With the lock held."""
        if self._ranges.get(frame) is one:
            del self._ranges[frame]
        one.left.discard(frame)
        if one.left and not one.begun:
            one.start = min(one.spans[left].start for left in one.left)
            one.size_bytes = max(one.spans[left].stop for left in one.left) - one.start
        if one.left:
            return
        if not one.begun and one in self._waiting:
            self._waiting.remove(one)
        elif one.ready.is_set():
            self._release(one)

    def _release(self, one: _Range) -> None:
        """With the lock held: its bytes are taken, or nobody wants them."""
        if one.size_bytes:
            self._held_bytes -= one.size_bytes
            one.size_bytes = 0
            self._pump()

    def _pump(self) -> None:
        """With the lock held: start what may be under way now."""
        while self._running < self._at_once and (one := self._next()) is not None:
            self._running += 1
            threading.Thread(target=self._run, args=(one,), name="read-ahead", daemon=True).start()

    def _next(self) -> _Range | None:
        """With the lock held."""
        if not self._waiting:
            return None
        if self._held_bytes and self._held_bytes + self._waiting[0].size_bytes > self._most_bytes:
            return None
        one = self._waiting.popleft()
        one.begun = True
        self._held_bytes += one.size_bytes
        return one

    def _run(self, one: _Range | None) -> None:
        while one is not None:
            self._read(one)
            with self._lock:
                one = self._next()
                if one is None:
                    self._running -= 1

    def _read(self, one: _Range) -> None:
        try:
            one.data = memoryview(self._sources.read(one.target, one.key, one.start, one.size_bytes))
        except BaseException as error:  # noqa: BLE001  a thread root: raised to who takes the frames
            one.error = error
        with self._lock:
            one.ready.set()
            if not one.left:
                self._release(one)
