"""A real HTTP server that receives events, and may refuse, redirect or never answer."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DRIP = 1


@dataclass
class Receiver:
    """statuses: for the next requests, then 200; 0: no answer until `release`; DRIP: one that never ends."""

    url: str = ""
    statuses: list[int] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    seen: threading.Condition = field(default_factory=threading.Condition)
    release: threading.Event = field(default_factory=threading.Event)
    asked: int = 0

    def take(self, handler: BaseHTTPRequestHandler) -> int:
        data = handler.rfile.read(int(handler.headers["Content-Length"]))
        with self.seen:
            self.asked += 1
            status = self.statuses.pop(0) if self.statuses else 200
            if status == 200:
                self.events.append(json.loads(data))
                self.headers.append(dict(handler.headers.items()))
            self.seen.notify_all()
        if status == 0:
            self.release.wait(60)
        return status

    def drip(self, handler: BaseHTTPRequestHandler) -> None:
        """A byte now and then, so that no time-out between two of them ever ends it."""
        with suppress(OSError):
            handler.wfile.write(b"HTTP/1.0 200 OK\r\nX: ")
            while not self.release.wait(0.02):
                handler.wfile.write(b"x")

    def wait(self, count: int) -> list[dict[str, Any]]:
        """The events, once there are so many."""
        with self.seen:
            assert self.seen.wait_for(lambda: len(self.events) >= count, 60), self.events
            return list(self.events)

    def find(self, kind: str, state: str) -> dict[str, Any]:
        """The first event of that kind and state, once it is there."""

        def found() -> dict[str, Any] | None:
            return next((one for one in self.events if (one["kind"], one["state"]) == (kind, state)), None)

        with self.seen:
            event = self.seen.wait_for(found, 120)
            assert event is not None, self.events
            return event

    def wait_asked(self, count: int) -> None:
        with self.seen:
            assert self.seen.wait_for(lambda: self.asked >= count, 60)


@contextmanager
def receiver() -> Iterator[Receiver]:
    one = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            status = one.take(self)
            if status == DRIP:
                one.drip(self)
            elif status:
                self.send_response(status)
                if status == 302:
                    self.send_header("Location", f"{one.url}elsewhere")
                self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            return None

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    one.url = f"http://127.0.0.1:{server.server_port}/hook/s3cret"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield one
    finally:
        one.release.set()
        server.shutdown()
        thread.join()
        server.server_close()
