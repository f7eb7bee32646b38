"""Counting is exact from any thread; events are few."""

from drkit.core.cancel import CancelToken
from drkit.core.clock import SystemClock
from drkit.core.flow import Group
from drkit.core.progress import Event, Tally
from tests.core.clocks import HandClock


class Recorder:
    def __init__(self) -> None:
        self.events: list[Event] = []

    def emit(self, event: Event) -> None:
        self.events.append(event)


def test_events_are_rationed_and_the_end_is_always_told() -> None:
    clock, recorder = HandClock(), Recorder()
    tally = Tally(recorder, "copy", clock=clock, total_bytes=100)
    for _ in range(100):
        tally.add(1)
        clock.advance(0.01)
    tally.finish("done")
    assert recorder.events[0] == Event("copy", 0, 100)
    assert recorder.events[-1] == Event("copy", 100, 100, "done", finished=True)
    assert len(recorder.events) <= 6


def test_no_byte_is_lost_between_threads() -> None:
    tally = Tally(Recorder(), "copy", clock=SystemClock())

    def count() -> None:
        for _ in range(5000):
            tally.add(3)

    with Group(CancelToken()) as group:
        for _ in range(4):
            group.start("add", count)
    assert tally.done_bytes == 60_000
