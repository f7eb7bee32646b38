"""`drkit status` on a real server: in which order it looks."""

from __future__ import annotations

import json
import socket
import threading
from dataclasses import replace
from datetime import timedelta

import pytest

from drkit.cli.status_text import show
from drkit.daemon.seen import Seen
from drkit.daemon.status import DaemonView, judge_status
from policies.objectives import Promises
from policies.sights import ClusterSeen, ServerSeen
from tests.cli.promises import kept_promise
from tests.daemon.facts import NOW
from tests.policies.test_protection import target
from tests.real.postgres import give


def test_a_window_ends_at_a_time_of_a_zone_or_at_a_position(capsys: pytest.CaptureFixture[str]) -> None:
    timed = target("timed")
    placed = replace(target("placed"), windows=tuple(replace(one, end=None) for one in timed.windows))
    cluster = ClusterSeen("orders", ServerSeen(True), (timed, placed), Promises())
    show(judge_status(NOW, DaemonView(False), [Seen(cluster, 7, timedelta(0), None, NOW)]), color=False)
    told = capsys.readouterr().out.splitlines()
    by_time, by_place = (next(one for one in told if f"{name}, timeline" in one) for name in ("timed", "placed"))
    assert by_time.endswith(" UTC, without a gap")
    assert by_place.endswith(f" UTC to LSN {timed.windows[0].end_lsn}, without a gap")


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
