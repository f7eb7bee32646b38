"""Read ahead: the same content, several ranges under way, no more in memory than said, and no failure lost."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drkit.core.cancel import CancelToken
from drkit.repository.content import ContentReader
from drkit.repository.readahead import ReadAhead, Span
from drkit.repository.repository import Problem
from drkit.repository.sources import Sources
from drkit.repository.target import Target
from storage_backends.api import Key, Reader, StorageBackend, Traits
from storage_backends.errors import Unavailable
from storage_backends.memory import MemoryBackend
from storage_backends.passthrough import Passthrough
from tests.repository.test_content import LAYOUT, SIZES, Counting, Sample

SAMPLE = Sample(seed=5)


class Far(Counting):
    """A store whose requests are dear. meet: reads of packs wait until so many are under way."""

    def __init__(self, inner: StorageBackend, meet: int = 1) -> None:
        super().__init__(inner)
        self._meeting = threading.Barrier(meet)
        self.down = False

    @property
    def traits(self) -> Traits:
        return replace(super().traits, range_read_min_bytes=512 * 1024)

    def open(self, key: Key, start: int = 0, length: int | None = None) -> Reader:
        reader = super().open(key, start, length)
        if "/packs/" in key:
            if self.down:
                raise Unavailable(f"open {key}", where=self.url, why="it is away")
            self._meeting.wait(timeout=60)
        return reader


def places(numbers: list[int]) -> list[tuple[bytes, int]]:
    return [(SAMPLE.placed[i].map_id, SAMPLE.placed[i].index) for i in numbers]


def far_reader(far: StorageBackend, *others: Target, report: list[str] | None = None) -> ContentReader:
    def note(target: Target, key: str, problem: Problem) -> None:
        if report is not None:
            report.append(target.name)

    sources = Sources([Target("far", far, "there", "object"), *others], LAYOUT, SAMPLE.ring, note)
    return ContentReader(SAMPLE.ring, LAYOUT, sources, chunk_bytes=SIZES.chunk)


def left_bytes(reader: ContentReader) -> int:
    """What nobody took, once all that was under way has come."""
    for thread in threading.enumerate():
        if thread.name == "read-ahead":
            thread.join(timeout=60)
    return reader.ahead_bytes


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_what_was_read_ahead_is_what_is_read(data: st.DataObject) -> None:
    numbers = data.draw(st.lists(st.integers(0, len(SAMPLE.placed) - 1), min_size=1, max_size=20, unique=True))
    size = data.draw(st.integers(1, len(numbers)))
    batches = [numbers[at : at + size] for at in range(0, len(numbers), size)]
    early = data.draw(st.integers(0, len(batches)))
    reader = far_reader(Far(SAMPLE.stores["a"]))
    reader.expect(places(numbers), CancelToken())
    for batch in batches[:early]:
        reader.ahead(places(batch))
    for batch in batches:
        assert [bytes(one.data) for one in reader.read(places(batch))] == [SAMPLE.data[i] for i in batch]
    assert left_bytes(reader) == 0


def test_threads_take_from_one_another_and_leave_nothing() -> None:
    everything = list(range(len(SAMPLE.placed)))
    reader = far_reader(Far(SAMPLE.stores["a"]))
    reader.expect(places(everything), CancelToken())
    found: dict[int, bytes] = {}

    def read(number: int) -> None:
        found[number] = bytes(reader.read(places([number]))[0].data)

    for number in everything:
        reader.ahead(places([number]))
    threads = [threading.Thread(target=read, args=(number,)) for number in everything]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == dict(enumerate(SAMPLE.data)) and left_bytes(reader) == 0


def test_ranges_of_one_read_are_under_way_together() -> None:
    """The store answers none before three are there: one after the other they would never come."""
    ranged = Far(SAMPLE.stores["a"])
    far_reader(ranged).read(places(list(range(len(SAMPLE.placed)))))
    packs = sum("/packs/" in key for key, _ in ranged.reads)
    meet = next(n for n in (3, 2, 5, 7) if packs % n == 0 and packs >= n)
    found = far_reader(Far(SAMPLE.stores["a"], meet)).read(places(list(range(len(SAMPLE.placed)))))
    assert [bytes(one.data) for one in found] == SAMPLE.data


def test_a_target_that_goes_away_is_told_once_and_the_next_one_serves() -> None:
    far, report = Far(SAMPLE.stores["a"]), list[str]()
    near = Target("near", SAMPLE.stores["b"], "here", "disk")
    reader = far_reader(far, near, report=report)
    everything = list(range(len(SAMPLE.placed)))
    reader.expect(places(everything), CancelToken())
    far.down = True
    reader.ahead(places(everything))
    assert [bytes(one.data) for one in reader.read(places(everything))] == SAMPLE.data
    assert report == ["far"] and max(far.reads.values()) == 1 and left_bytes(reader) == 0


class Waiting(Passthrough):
    """Counts the bytes that were asked for and not yet allowed to come."""

    def __init__(self, inner: StorageBackend) -> None:
        super().__init__(inner)
        self.go, self.asked = threading.Semaphore(0), threading.Semaphore(0)

    def open(self, key: Key, start: int = 0, length: int | None = None) -> Reader:
        self.asked.release()
        assert self.go.acquire(timeout=60)
        return super().open(key, start, length)


@pytest.mark.parametrize(("most_bytes", "at_once", "under_way"), [(250, 8, 2), (10_000, 3, 3), (10, 8, 1)])
def test_no_more_is_held_than_was_said(most_bytes: int, at_once: int, under_way: int) -> None:
    store = MemoryBackend()
    target = Target("a", store, "here", "disk")
    target.write(Key("pack"), [bytes(range(250)) * 4], 1000)
    waiting = Waiting(store)
    target = Target("a", waiting, "here", "disk")
    ahead = ReadAhead(Sources([target], LAYOUT, SAMPLE.ring), most_bytes, at_once)
    spans = [Span((b"pack", number), number * 100, number * 100 + 100) for number in range(10)]
    ahead.begin(target, Key("pack"), [[span] for span in spans])
    for _ in range(under_way):
        assert waiting.asked.acquire(timeout=60)
    assert not waiting.asked.acquire(blocking=False) and ahead.held_bytes == 100 * under_way
    assert ahead.take(target, spans[-1].frame) is None, "what is not under way is not waited for"
    for _ in spans[:-1]:
        waiting.go.release()
    for number, span in enumerate(spans[:-1]):
        sealed = ahead.take(target, span.frame)
        assert sealed is not None or number >= under_way
        assert sealed is None or sealed == (bytes(range(250)) * 4)[span.start : span.stop]
    assert ahead.held_bytes == 0 and ahead.take(target, spans[0].frame) is None
