"""Messages to the service manager (sd_notify(3), sd_watchdog_enabled(3)): datagrams to the socket that it names."""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress


class Supervisor:
    """Tells systemd, where it asked to be told; without it every call does nothing.

    watchdog_s: how often `alive` is expected at least, None where no watchdog runs.
    """

    def __init__(self, environment: Mapping[str, str], pid: int) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        wanted = environment.get("WATCHDOG_USEC", "")
        ours = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        self.watchdog_s = int(wanted) / 1e6 if self._address and ours and wanted.isdecimal() and int(wanted) else None

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={status}")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def stopping(self, status: str) -> None:
        self._send(f"STOPPING=1\nSTATUS={status}")

    def _send(self, text: str) -> None:
        """A manager that cannot be told is no reason to stop archiving."""
        if not self._address:
            return
        name = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
            channel.setblocking(False)
            channel.connect(name)
            channel.send(text.encode())


def hide(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment for children, which are not the service."""
    return {k: v for k, v in environment.items() if k not in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")}
