"""A bucket far away: few requests, and those that need not wait for each other under way together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from storage_backends.api import key
from storage_backends.s3 import S3Backend
from storage_backends.s3_settings import S3Settings
from tests.acceptance.scene import Scene, newest_major, stop_strays
from tests.acceptance.stores import s3_target
from tests.real.distance import Distance, Request, distance, most_at_once
from tests.real.postgres import new_server
from tests.real.rgw import RgwServer

pytestmark = pytest.mark.real

DELAY_S = 0.05
MEBIBYTE = 1024 * 1024

BACKUP_REQUESTS = 60
"""Of a first backup of a new server and 36 MiB more: some 50, of which a third are packs, maps and fingerprints."""
RESTORE_REQUESTS = 45


@dataclass
class FarScene:
    scene: Scene
    way: Distance
    backup: dict[str, dict[str, int]]


@pytest.fixture(scope="module")
def far(rgw: RgwServer) -> Iterator[FarScene]:
    server = new_server(newest_major())
    try:
        with distance(rgw.endpoint, DELAY_S) as way:
            one = Scene(server, [s3_target(rgw, server.root, "cloud", way)])
            one.start()
            server.query(
                "create table noise as select n, string_agg(uuid_send(gen_random_uuid()), '') from "
                "generate_series(1, 20000) n, generate_series(1, 120) k group by n"
            )
            way.forget()
            answer = one.answer("backup")
            yield FarScene(one, way, answer["requests"])
    finally:
        stop_strays(server.root)
        server.close()


def asked(requests: dict[str, dict[str, int]], target: str) -> int:
    """Without `stat`: how often a backup looks whether its last WAL is there hangs on how fast that is archived."""
    return sum(requests[target][verb] for verb in ("create", "open", "list", "delete"))


def packs(requests: list[Request]) -> list[Request]:
    return [one for one in requests if "/packs/" in one.path and one.verb in ("GET", "PUT")]


def test_a_backup_asks_little_and_sends_its_packs_beside_one_another(far: FarScene) -> None:
    assert asked(far.backup, "cloud") <= BACKUP_REQUESTS, far.backup
    assert far.backup["cloud"]["written_bytes"] > 36 * MEBIBYTE
    sent = packs(far.way.requests)
    assert len(sent) >= 2 and most_at_once(sent) >= 2, far.way.verbs


def test_the_listings_of_an_opening_do_not_wait_for_each_other(far: FarScene) -> None:
    far.way.forget()
    far.scene.answer("list")
    assert most_at_once(one for one in far.way.requests if one.verb == "LIST") >= 3, far.way.verbs


def test_a_restore_asks_little_and_has_several_ranges_under_way(far: FarScene) -> None:
    far.way.forget()
    answer = far.scene.answer("restore", "--into", far.scene.fresh("far"), "--to", "end")
    assert asked(answer["requests"], "cloud") <= RESTORE_REQUESTS, answer["requests"]
    assert answer["requests"]["cloud"]["read_bytes"] >= answer["bytes"]["cloud"] > 36 * MEBIBYTE
    assert most_at_once(packs(far.way.requests)) >= 3, far.way.verbs


def test_parts_of_one_object_are_under_way_together(rgw: RgwServer) -> None:
    data = os.urandom(26 * MEBIBYTE)
    with distance(rgw.endpoint, DELAY_S) as way:
        settings = S3Settings(
            endpoint=way.endpoint,
            region="us-east-1",
            addressing="path",
            access_key=rgw.access_key,
            secret_key=rgw.secret_key,
            single_put_bytes=MEBIBYTE,
            part_bytes=5 * MEBIBYTE,
        )
        store = S3Backend(rgw.make_bucket(), "", settings)
        with store.create(key("large"), len(data)) as upload:
            for at in range(0, len(data), 3 * MEBIBYTE):
                upload.write(data[at : at + 3 * MEBIBYTE])
            upload.commit()
        with store.open(key("large")) as reader:
            assert reader.read() == data
        store.close()
        parts = [one for one in way.requests if "partNumber=" in one.path]
    assert len(parts) == 6 and most_at_once(parts) >= 3
