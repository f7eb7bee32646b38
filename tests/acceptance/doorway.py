"""A TCP port in front of a server that can be shut and opened again: a store that is away, and one that returns."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit


class Doorway:
    """Forwards connections to `endpoint` while it is open; while shut the port refuses, as a stopped server's does."""

    def __init__(self, endpoint: str) -> None:
        there = urlsplit(endpoint)
        self._behind = (there.hostname or "127.0.0.1", there.port or 80)
        self._port = 0
        self._listener: socket.socket | None = None
        self._live: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._allowed, self._seen = 0, set[bytes]()
        self._pattern: re.Pattern[bytes] | None = None
        self._to_break, self._breaking, self.broken = 0, 0, 0
        self.open()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        """Refuse new connections and break those that are there."""
        if self._listener is not None:
            with suppress(OSError):
                self._listener.shutdown(socket.SHUT_RDWR)
            self._listener.close()
            self._listener = None
        self._break_live()

    def _break_live(self) -> None:
        with self._lock:
            for one in self._live:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def shut_after(self, names: int, pattern: bytes, connections: int = 0) -> None:
        """Let requests for so many different names pass (the group of `pattern`), and shut at the next one.

        connections: rather than to shut, break what is there and so many further connections, and be open again.
        """
        with self._lock:
            self._allowed, self._pattern, self._seen = names, re.compile(pattern), set()
            self._to_break, self.broken = connections, 0

    def _passes(self, data: bytes) -> bool:
        with self._lock:
            found = self._pattern.search(data) if self._pattern else None
            if found is None:
                return True
            self._seen.add(found[1])
            if len(self._seen) <= self._allowed:
                return True
            self._pattern, self._breaking = None, self._to_break
        if self._breaking:
            self._break_live()
        else:
            self.shut()
        return False

    def _breaks(self) -> bool:
        with self._lock:
            if self._breaking == 0:
                return False
            self._breaking -= 1
            self.broken += 1
            return True

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
                if self._breaks():
                    client.close()
                    continue
                server = socket.create_connection(self._behind)
            except OSError:
                return
            with self._lock:
                self._live |= {client, server}
            for source, sink, asks in ((client, server, True), (server, client, False)):
                threading.Thread(target=self._pump, args=(source, sink, asks), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket, asks: bool) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                if asks and not self._passes(data):
                    break
                sink.sendall(data)
        for one in (source, sink):
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)


@contextmanager
def doorway(endpoint: str) -> Iterator[Doorway]:
    one = Doorway(endpoint)
    try:
        yield one
    finally:
        one.shut()
