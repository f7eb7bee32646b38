"""Channels stay bounded and end; groups join all, cancel on the first error and keep every cause."""

import threading

import pytest

from drkit.core.cancel import CancelToken
from drkit.core.errors import Cancelled, Failed
from drkit.core.flow import Channel, Closed, Group
from tests.core.clocks import HandClock


def test_what_goes_in_comes_out_once_and_in_order() -> None:
    token = CancelToken()
    numbers: Channel[int] = Channel(3, token)
    doubled: Channel[int] = Channel(2, token)
    got: list[int] = []

    def produce() -> None:
        for number in range(1000):
            numbers.put(number)
        numbers.close()

    def double() -> None:
        for number in numbers:
            doubled.put(2 * number)
        doubled.close()

    with Group(token) as group:
        group.start("produce", produce)
        group.start("double", double)
        group.start("collect", lambda: got.extend(doubled))
    assert got == [2 * number for number in range(1000)]


def test_many_producers_and_consumers_lose_nothing() -> None:
    token = CancelToken()
    channel: Channel[int] = Channel(4, token)
    seen: list[list[int]] = [[], [], []]

    def produce(start: int) -> None:
        for number in range(start, start + 1000):
            channel.put(number)

    def consume(into: list[int]) -> None:
        into.extend(channel)

    with Group(token, name="consumers") as consumers:
        for bucket in seen:
            consumers.start("consumer", consume, bucket)
        with Group(token, name="producers") as producers:
            for start in (0, 1000, 2000):
                producers.start("producer", produce, start)
        channel.close()
    assert sorted(n for bucket in seen for n in bucket) == list(range(3000))


def test_a_channel_never_holds_more_than_its_capacity() -> None:
    channel: Channel[int] = Channel(2, CancelToken())
    channel.put(1)
    channel.put(2)
    assert channel.offer(3, timeout_s=0) is False
    assert len(channel) == 2
    assert channel.get() == 1
    assert channel.offer(3, timeout_s=0) is True


def test_closed_drains_then_ends() -> None:
    channel: Channel[int] = Channel(2, CancelToken())
    channel.put(1)
    channel.close()
    with pytest.raises(Closed):
        channel.put(2)
    assert list(channel) == [1]
    with pytest.raises(Closed):
        channel.get()


@pytest.mark.parametrize("how", ["token", "parent", "channel"])
@pytest.mark.parametrize("side", ["put", "get"])
def test_cancelling_ends_a_wait(how: str, side: str) -> None:
    parent = CancelToken()
    token = parent.child()
    channel: Channel[int] = Channel(1, token)
    if side == "put":
        channel.put(0)
    caught: list[BaseException] = []
    ready = threading.Event()

    def wait() -> None:
        ready.set()
        try:
            channel.put(1) if side == "put" else channel.get()
        except Cancelled as error:
            caught.append(error)

    thread = threading.Thread(target=wait)
    thread.start()
    ready.wait()
    {"token": token.cancel, "parent": parent.cancel, "channel": channel.cancel}[how]("enough")
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert [str(error.why) for error in caught if isinstance(error, Cancelled)] == ["enough"]


def test_a_deadline_ends_a_wait() -> None:
    clock = HandClock()
    token = CancelToken(deadline_s=5, clock=clock)
    channel: Channel[int] = Channel(1, token)
    clock.advance(5)
    with pytest.raises(Cancelled, match="deadline"):
        channel.get()
    short: Channel[int] = Channel(1, CancelToken(deadline_s=0.01))
    with pytest.raises(Cancelled, match="deadline"):
        short.get()


def test_the_first_error_cancels_the_others_and_all_are_joined() -> None:
    token = CancelToken()
    never: Channel[int] = Channel(1, token)
    ended: list[str] = []
    group = Group(token, name="copy")
    channel: Channel[int] = Channel(1, group.token)

    def waiting() -> None:
        try:
            channel.get()
        finally:
            ended.append("waiting")

    def failing() -> None:
        raise Failed("the disk broke")

    with pytest.raises(Failed, match="the disk broke"), group:
        group.start("reader", waiting)
        group.start("writer", failing)
    assert ended == ["waiting"]
    assert not token.cancelled, "the rest of the program goes on"
    assert never.offer(1, timeout_s=0)


def test_every_cause_is_kept() -> None:
    both = threading.Barrier(2)

    def fail(text: str) -> None:
        both.wait()
        raise Failed(text)

    group = Group(CancelToken(), name="copy")
    with pytest.raises(Failed) as caught, group:
        group.start("a", fail, "first disk")
        group.start("b", fail, "second disk")
    told = " ".join([str(caught.value), *caught.value.__notes__])
    assert "first disk" in told
    assert "second disk" in told
    assert {name for name, _ in group.errors} == {"a", "b"}


def test_an_error_of_the_body_cancels_the_threads() -> None:
    group = Group(CancelToken())
    with pytest.raises(ZeroDivisionError), group:
        group.start("wait", group.token.wait)
        raise ZeroDivisionError


def test_cancelled_from_outside_is_cancelled() -> None:
    token = CancelToken()
    group = Group(token)
    channel: Channel[int] = Channel(1, group.token)
    with pytest.raises(Cancelled) as caught, group:
        group.start("wait", channel.get)
        token.cancel("SIGTERM was received")
    assert "SIGTERM" in str(caught.value)
