"""Requests and answers come out as they went in, and everything else is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drkit import walclient
from drkit.core.errors import Failed
from drkit.daemon import protocol
from drkit.daemon.protocol import MAX_ANSWER_BYTES, Answer, Join, Malformed, Request, Status, parse_request

_WORD = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=40)


@given(_WORD, st.lists(_WORD, max_size=4))
def test_a_request_is_read_as_it_was_written(verb: str, words: list[str]) -> None:
    request = Request(verb, tuple(words))
    assert parse_request(request.packet()) == request


@given(st.binary(max_size=200))
def test_any_other_packet_is_malformed_or_a_request(packet: bytes) -> None:
    try:
        request = parse_request(packet)
    except Malformed:
        return
    assert request.packet() == packet


@pytest.mark.parametrize(
    "packet",
    [
        b"",
        b"drkit/1",
        b"drkit/1 ",
        b"drkit/2 push 1 2",
        b"drkit/1 push  1",
        b"drkit/1 push\n",
        b"drkit/1 p\xff",
        b"GET /",
    ],
)
def test_these_are_malformed(packet: bytes) -> None:
    with pytest.raises(Malformed):
        parse_request(packet)


@given(st.sampled_from(Status), st.text(max_size=300), st.integers(1, 4))
def test_an_answer_of_any_length_comes_in_packets_that_fit(status: Status, text: str, times: int) -> None:
    text = text.encode("utf-8", "replace").decode() * (1 + times * MAX_ANSWER_BYTES // 1000)
    joined, packets = Join(), list(Answer(status, text).packets())
    assert all(len(packet) <= MAX_ANSWER_BYTES + 64 for packet in packets)
    assert [joined.feed(packet) for packet in packets] == [*[None] * (len(packets) - 1), Answer(status, text)]


@pytest.mark.parametrize("packet", [b"", b"drkit/2 ok ", b"drkit/1 fine ", b"ok", b"drkit/1 ok \xff"])
def test_an_answer_that_ends_early_or_makes_no_sense_is_a_failure(packet: bytes) -> None:
    joined = Join()
    joined.feed(b"drkit/1 more half of it")
    with pytest.raises(Failed):
        joined.feed(packet)


def test_the_client_has_the_same_default() -> None:
    from drkit.config.model import Daemon

    assert str(Daemon().socket) == walclient.SYSTEM_SOCKET
    assert protocol.VERSION == b"drkit/1"
