"""Ask a running daemon something on its socket."""

from __future__ import annotations

import array
import socket
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from drkit.core.errors import Unreachable
from drkit.daemon.protocol import MAX_ANSWER_BYTES, Answer, Join, Request


class NoDaemon(Unreachable):
    """Nobody listens there."""


def ask(path: Path, request: Request, *, descriptors: Sequence[int] = (), timeout_s: float = 10.0) -> Answer:
    """Send one request and wait for its answer.

    timeout_s: for each packet. Raises NoDaemon, Unreachable (this user may not, or no answer came in time) or Failed.
    """
    where = str(path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(timeout_s)
        try:
            connection.connect(where)
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError) as error:
            cure = "start it: drkit daemon"
            raise NoDaemon("no daemon listens", where=where, why=error.strerror or str(error), cure=cure) from error
        except OSError as error:
            cure = "ask as root, or as the user that runs the daemon"
            raise Unreachable("the daemon cannot be asked", where=where, why=str(error), cure=cure) from error
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        joined, answer = Join(), None
        try:
            with suppress(BrokenPipeError):  # it refused before it listened: its answer says why
                connection.sendmsg([request.packet()], rights)
            while answer is None:
                answer = joined.feed(connection.recv(MAX_ANSWER_BYTES + 64))
        except OSError as error:
            why, cure = str(error), "what does its log say?"
            raise Unreachable("the daemon did not answer", where=where, why=why, cure=cure) from error
    return answer
