"""`drkit status` on a real server: in which order it looks."""

from __future__ import annotations

import json
import socket
import threading

import pytest

from tests.cli.promises import kept_promise
from tests.real.postgres import give


@pytest.mark.real
def test_what_the_daemon_says_is_done_is_then_seen_on_the_targets() -> None:
    """The daemon is asked first: here a target's folder comes back at the moment when it is asked."""
    with kept_promise() as promise, socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as daemon:
        path, away = promise.server.root / "daemon.sock", promise.vault / "away"
        promise.promise(more=f'socket = "{path}"')
        (promise.vault / "vault").rename(away)
        daemon.bind(str(path))
        give(path)
        daemon.listen()
        daemon.settimeout(30)

        def answer() -> None:
            connection, _ = daemon.accept()
            away.rename(promise.vault / "vault")
            connection.close()

        asked = threading.Thread(target=answer)
        asked.start()
        _, text = promise.drkit("status", "--json")
        asked.join()
    (cluster,) = json.loads(text)["clusters"]
    assert {one["name"]: one["error"] for one in cluster["targets"]} == {"local": "", "vault": ""}
