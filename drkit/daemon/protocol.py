"""What is said on the daemon's socket. It is of type SOCK_SEQPACKET: a request is one packet, whole or not at all.

    request    drkit/1 <verb> <word> ...                one packet of at most 4096 bytes, ASCII, descriptors beside it
    answer     drkit/1 <status> <text>                  UTF-8; `more` packets of a long text come before the last one

    status     ok       done; for `push` and `get` nothing else means success
               absent   `get`: proven absent
               doubt    `get`: neither there nor proven absent
               failed   it was tried
               refused  it was not tried

A connection has one request. drkit/walclient.py has its own copy of this, as it may import nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum

from drkit.core.errors import Failed, UsageError

VERSION = b"drkit/1"
MAX_REQUEST_BYTES = 4096
MAX_ANSWER_BYTES = 32 << 10  # a packet must fit into the sender's buffer (net.core.wmem_default is 212992)
MAX_DESCRIPTORS = 8


class Malformed(UsageError):
    """A packet that says nothing that is known."""


class Status(StrEnum):
    OK = "ok"
    ABSENT = "absent"
    DOUBT = "doubt"
    FAILED = "failed"
    REFUSED = "refused"


_MORE = b"more"


@dataclass(frozen=True, slots=True)
class Request:
    verb: str
    words: tuple[str, ...] = ()

    def packet(self) -> bytes:
        return b" ".join([VERSION, *(word.encode("ascii") for word in (self.verb, *self.words))])


def parse_request(packet: bytes) -> Request:
    """Raises Malformed."""
    version, *rest = packet.split(b" ")
    if version != VERSION:
        raise Malformed(
            "another version of the protocol", why=f"{version[:20]!r}, this daemon speaks {VERSION.decode()}"
        )
    try:
        words = [word.decode("ascii") for word in rest]
    except UnicodeDecodeError:
        raise Malformed("a request is ASCII text") from None
    if not all(word.isprintable() and word for word in words) or not words:
        raise Malformed("a request is a verb and words, one space between them")
    return Request(words[0], tuple(words[1:]))


@dataclass(frozen=True, slots=True)
class Answer:
    status: Status
    text: str = ""

    def packets(self) -> Iterator[bytes]:
        data = self.text.encode("utf-8", "replace")
        while len(data) > MAX_ANSWER_BYTES:
            yield b" ".join([VERSION, _MORE, data[:MAX_ANSWER_BYTES]])
            data = data[MAX_ANSWER_BYTES:]
        yield b" ".join([VERSION, self.status.value.encode(), data])


class Join:
    """Packets of one answer, put together."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def feed(self, packet: bytes) -> Answer | None:
        """The answer, once this was its last packet. Raises Failed for one that ended early or makes no sense."""
        version, _, rest = packet.partition(b" ")
        status, _, text = rest.partition(b" ")
        if version != VERSION:
            why = "the daemon hung up" if not packet else f"it begins with {packet[:20]!r}"
            raise Failed("the daemon gave no answer", why=why, cure="is it running, and of this version? its log tells")
        self._parts.append(text)
        if status == _MORE:
            return None
        try:
            return Answer(Status(status.decode("ascii")), b"".join(self._parts).decode("utf-8"))
        except ValueError:
            raise Failed("the daemon's answer makes no sense", why=repr(packet[:40])) from None
