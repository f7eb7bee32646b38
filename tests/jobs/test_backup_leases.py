"""A backup's leases while it does not copy: an expirer must not take one that waits for its WAL for dead."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tests.acceptance.scene import DRKIT_WAL
from tests.faults.two_hosts import Ended, Scene
from tests.real.postgres import new_server, require
from tests.real.wal_archive import until

pytestmark = pytest.mark.real
LEASE_S = 3


@pytest.fixture
def scene() -> Iterator[Scene]:
    require(15)
    server = new_server(15, segment_mb=1)
    try:
        made = Scene(server, None)
        made.start()
        yield made
    finally:
        server.close()


def test_leases_are_renewed_for_as_long_as_wal_is_awaited(scene: Scene) -> None:
    lane = scene.lane("anna", "lane", LEASE_S)
    assert lane.run("-q", "backup").status == 0
    gate, ended = scene.root / "gate", list[Ended]()
    push = f"while ! test -e {gate}; do sleep 0.1; done; {DRKIT_WAL} push --config {scene.root}/anna.toml %p"
    scene.server.set(archive_command=push)
    scene.server.query("select pg_reload_conf()")
    thread = threading.Thread(target=lambda: ended.append(lane.run("-q", "--json", "backup")))
    thread.start()
    folder = scene.layout.folder("leases")

    def renewals(name: str) -> int:
        return max((int(info.key[-8:], 16) for info in scene.backends[name].list(folder)), default=0)

    try:
        until(lambda: all(renewals(name) > 2 * LEASE_S for name in scene.names), scene.server)
    finally:
        gate.touch()
        thread.join()
        lane.close()
    (done,) = ended
    assert done.status == 0, done.err
    answer = done.answer()["backup"]
    assert answer["parent"] and {one["state"] for one in answer["targets"]} == {"good"}
