"""What killed drills left is removed by a child, at the start and whenever a drill has ended."""

from __future__ import annotations

import threading

import pytest

from drkit.core.cancel import CancelToken
from drkit.daemon.children import Ended, Order
from drkit.daemon.remains import Remains
from tests.daemon.wal_host import Told

ROW = {"folder": "/s/drkit-drill-1", "drill": "1", "cluster": "orders", "processes": 7, "schema_left": ""}


class Tidy:
    """The child: what it answers, and that it was asked."""

    def __init__(self, ended: Ended) -> None:
        self.ended, self.asked, self.times = ended, threading.Event(), 0

    def run(self, order: Order, token: CancelToken) -> Ended:
        assert order.words == ("drill", "tidy")
        self.times += 1
        self.asked.set()
        return self.ended


@pytest.mark.parametrize(
    ("ended", "kinds"),
    [
        (Ended(0, answer={"removed": []}), []),
        (Ended(0, answer={"removed": [ROW]}), [("remains.removed", "orders")]),
        (Ended(1, why="processes of the sandbox do not end"), [("remains.left", "")]),
        (Ended(0), [("remains.left", "")]),
    ],
)
def test_what_was_done_and_what_could_not_be_is_told(ended: Ended, kinds: list[tuple[str, str]]) -> None:
    told = Told()
    Remains(Tidy(ended), told).remove(CancelToken())
    assert told.kinds == kinds


def test_it_is_done_at_the_start_and_after_each_drill() -> None:
    child, token = Tidy(Ended(0, answer={"removed": []})), CancelToken()
    part = Remains(child, Told())
    thread = threading.Thread(target=part.run, args=(token,))
    thread.start()
    assert child.asked.wait(60)
    child.asked.clear()
    part.nudge()
    assert child.asked.wait(60)
    token.cancel()
    thread.join(60)
    assert not thread.is_alive() and child.times == 2
