"""An HTTP proxy in front of a server that stands for the distance to it: every answer begins later, and none is slower.

It keeps what passed: each request with its verb, and when it was under way.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate
from urllib.parse import urlsplit

_BUFFER_BYTES = 256 * 1024
_HEAD_END = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Request:
    """One that was answered. verb: the method, or LIST · path: with its query · span: of `Range`, "" for the whole
    began, ended: monotonic seconds, from its head's last byte to the answer's."""

    verb: str
    path: str
    span: str
    status: int
    began: float
    ended: float


def most_at_once(requests: Iterable[Request]) -> int:
    """How many of them were under way at one moment."""
    turns = sorted(turn for one in requests for turn in ((one.began, 1), (one.ended, -1)))
    return max(accumulate(step for _, step in turns), default=0)


class Distance:
    """Forwards HTTP/1.1 to `endpoint`, each connection to one of its own, kept as long as both sides keep it.

    delay_s: how much later an answer's first byte comes, that of `100 Continue` as well; may be changed at any time.
    """

    def __init__(self, endpoint: str, delay_s: float = 0.0) -> None:
        there = urlsplit(endpoint)
        self._behind = (there.hostname or "127.0.0.1", there.port or 80)
        self.delay_s = delay_s
        self._lock = threading.Lock()
        self._live: set[socket.socket] = set()
        self._requests: list[Request] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def forget(self) -> None:
        """Count from here on."""
        with self._lock:
            self._requests.clear()

    @property
    def requests(self) -> list[Request]:
        """In the order in which they ended."""
        with self._lock:
            return list(self._requests)

    @property
    def verbs(self) -> Counter[str]:
        return Counter(one.verb for one in self.requests)

    def close(self) -> None:
        with self._lock:
            live = [self._listener, *self._live]
        for one in live:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError, EOFError), client, socket.create_connection(self._behind) as server:
            with self._lock:
                self._live |= {client, server}
            try:
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                asking, answering = _Stream(client), _Stream(server)
                while self._exchange(asking, answering):
                    pass
            finally:
                with self._lock:
                    self._live -= {client, server}

    def _exchange(self, asking: _Stream, answering: _Stream) -> bool:
        """One request and its answer; whether the connection goes on."""
        head = asking.head()
        began = time.monotonic()
        method, path = head.split(b" ", 2)[:2]
        verb = "LIST" if method == b"GET" and b"list-type=2" in path else method.decode()
        answering.send(head)
        if b"100-continue" not in _field(head, b"expect").lower():
            asking.pass_on(answering, int(_field(head, b"content-length") or 0))
        answer = answering.head()
        time.sleep(self.delay_s)
        if answer.startswith(b"HTTP/1.1 100"):
            asking.send(answer)
            asking.pass_on(answering, int(_field(head, b"content-length") or 0))
            answer = answering.head()
            time.sleep(self.delay_s)
        asking.send(answer)
        status = int(answer.split(b" ", 2)[1])
        if method != b"HEAD" and status not in (204, 304):
            _pass_body(answer, answering, asking)
        span = _field(head, b"range").decode()
        with self._lock:
            self._requests.append(Request(verb, path.decode(), span, status, began, time.monotonic()))
        return b"close" not in _field(answer, b"connection").lower()


class _Stream:
    """A socket that is read by heads and bodies."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._held = connection, bytearray()
        self._buffer = memoryview(bytearray(_BUFFER_BYTES))

    def send(self, data: bytes | bytearray | memoryview) -> None:
        self._connection.sendall(data)

    def head(self) -> bytes:
        return self.until(_HEAD_END)

    def until(self, mark: bytes) -> bytes:
        """What comes up to and with `mark`; raises EOFError where the other side has ended."""
        while (end := self._held.find(mark)) < 0:
            self._receive()
        data = bytes(self._held[: end + len(mark)])
        del self._held[: len(data)]
        return data

    def pass_on(self, to: _Stream, size_bytes: int) -> None:
        while size_bytes:
            if self._held:
                piece = memoryview(bytes(self._held[:size_bytes]))
                del self._held[: len(piece)]
            else:
                count = self._connection.recv_into(self._buffer[: min(size_bytes, _BUFFER_BYTES)])
                if not count:
                    raise EOFError
                piece = self._buffer[:count]
            to.send(piece)
            size_bytes -= len(piece)

    def _receive(self) -> None:
        count = self._connection.recv_into(self._buffer)
        if not count:
            raise EOFError
        self._held += self._buffer[:count]


def _field(head: bytes, name: bytes) -> bytes:
    """A header's value, b"" where there is none."""
    found = re.search(rb"(?im)^" + name + rb":[ \t]*([^\r\n]*)", head)
    return found[1] if found else b""


def _pass_body(answer: bytes, answering: _Stream, asking: _Stream) -> None:
    if b"chunked" not in _field(answer, b"transfer-encoding").lower():
        answering.pass_on(asking, int(_field(answer, b"content-length") or 0))
        return
    while True:
        line = answering.until(b"\r\n")
        asking.send(line)
        size = int(line.split(b";")[0], 16)
        answering.pass_on(asking, size + 2)
        if not size:
            return


@contextmanager
def distance(endpoint: str, delay_s: float = 0.0) -> Iterator[Distance]:
    one = Distance(endpoint, delay_s)
    try:
        yield one
    finally:
        one.close()
