"""The listener that Prometheus asks: loopback only, two paths, a few connections at once, none for long."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, HTTPServer
from ipaddress import ip_address
from typing import Any

from drkit.core.cancel import CancelToken
from drkit.core.errors import ConfigError
from drkit.daemon.api import Telling
from drkit.daemon.metrics import CONTENT_TYPE

CONNECTIONS = 8
CONNECTION_S = 10.0
AGAIN_S = 10.0
_POLL_S = 0.5


class MetricsServer:
    """A Part. text: makes the page, called in threads of its own.

    A port that another process has is told of and tried again: any user of the host can take one, and must not keep
    the daemon from archiving by that. Raises ConfigError: not a loopback address.
    """

    name = "metrics"

    def __init__(
        self,
        host: str,
        port: int,
        text: Callable[[], str],
        telling: Telling,
        *,
        connection_s: float = CONNECTION_S,
        again_s: float = AGAIN_S,
    ) -> None:
        if not ip_address(host).is_loopback:
            cure = "listen on 127.0.0.1 and put a proxy with TLS and a login in front of it"
            raise ConfigError("metrics are for this host alone", where="[daemon] metrics", why=host, cure=cure)
        self._where, self._telling, self._again_s = f"{host}:{port}", telling, again_s
        self._make: Callable[[], _Server] = lambda: _Server(host, port, text, connection_s)
        self._server: _Server | None = None
        self._has_port = threading.Event()

    def port(self) -> int:
        """Waits until it has one."""
        self._has_port.wait()
        assert self._server is not None
        return int(self._server.server_address[1])

    def run(self, token: CancelToken) -> None:
        self._server = self._bound(token)
        if self._server is None:
            return
        self._has_port.set()
        try:
            while not token.cancelled:
                self._server.handle_request()
        finally:
            self._server.server_close()

    def _bound(self, token: CancelToken) -> _Server | None:
        """None: `token` was cancelled."""
        told = False
        while not token.cancelled:
            try:
                server = self._make()
            except OSError as error:
                text = f"metrics cannot be asked for at {self._where}: {error}; does another process listen there?"
                self._telling.tell("metrics.away", "error", "", text)
                told = True
                token.wait(self._again_s)
                continue
            if told:
                self._telling.tell("metrics.back", "info", "", f"metrics can be asked for at {self._where}")
            return server
        return None


class _Server(HTTPServer):
    """One thread for each connection; those beyond `CONNECTIONS` are closed at once."""

    def __init__(self, host: str, port: int, text: Callable[[], str], connection_s: float) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.timeout = _POLL_S
        self.text, self.connection_s = text, connection_s
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        super().__init__((host, port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._free.acquire(blocking=False):
            self.shutdown_request(request)
            return
        threading.Thread(target=self._serve, args=(request, client_address), name="metrics client", daemon=True).start()

    def _serve(self, request: socket.socket, client_address: Any) -> None:
        """A connection that is not done in time is cut off, however busy it looks."""
        late = threading.Timer(self.connection_s, _cut, (request,))
        late.daemon = True
        late.start()
        try:
            with suppress(OSError):
                self.finish_request(request, client_address)
        finally:
            late.cancel()
            self.shutdown_request(request)
            self._free.release()


def _cut(request: socket.socket) -> None:
    with suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


class _Handler(BaseHTTPRequestHandler):
    """GET /metrics and /healthz, nothing else."""

    server: _Server
    server_version, sys_version = "drkit", ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            self._answer(200, CONTENT_TYPE, self.server.text())
        elif path == "/healthz":
            self._answer(200, "text/plain; charset=utf-8", "ok\n")
        else:
            self._answer(404, "text/plain; charset=utf-8", "there are /metrics and /healthz\n")

    def _answer(self, status: int, kind: str, text: str) -> None:
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Who asks every 15 s is no news."""
