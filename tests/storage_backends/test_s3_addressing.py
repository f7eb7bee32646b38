"""Where the bucket stands in a request: in the path, or in front of the host.

The names are resolved to a server of our own: a machine without DNS for the bucket's host is the usual one.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Literal

import pytest

from storage_backends.api import key
from storage_backends.errors import StorageError
from storage_backends.s3 import S3Backend
from storage_backends.s3_settings import S3Settings


class _Recorder(BaseHTTPRequestHandler):
    """Says 404 to everything and notes what it was asked."""

    asked: list[tuple[str, str]]

    def _answer(self) -> None:
        self.asked.append((self.headers["Host"].partition(":")[0], self.path.partition("?")[0]))
        self.send_response(404)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET = _answer

    def log_message(self, format: str, *args: Any) -> None:
        return None


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, list[tuple[str, str]]]]:
    resolve, asked = socket.getaddrinfo, list[tuple[str, str]]()

    def to_us(host: str, *args: Any, **named: Any) -> Any:
        return resolve("127.0.0.1" if host.endswith("s3.test") else host, *args, **named)

    monkeypatch.setattr(socket, "getaddrinfo", to_us)
    server = HTTPServer(("127.0.0.1", 0), type("Handler", (_Recorder,), {"asked": asked}))
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port, asked
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("addressing", "host", "path"),
    [("path", "s3.test", "/vault/pre/t/one"), ("virtual", "vault.s3.test", "/pre/t/one")],
)
def test_the_bucket_stands_where_it_was_asked_to(
    recorder: tuple[int, list[tuple[str, str]]], addressing: Literal["path", "virtual"], host: str, path: str
) -> None:
    port, asked = recorder
    settings = S3Settings(
        endpoint=f"http://s3.test:{port}", region="x", addressing=addressing, access_key="a", secret_key="b"
    )
    backend = S3Backend("vault", "pre", settings)
    with pytest.raises(StorageError):
        backend.stat(key("t/one"))
    assert asked[0] == (host, path)
