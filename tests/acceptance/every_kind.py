"""A repository that holds an object of every kind which is written today, on two folders and a bucket."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from drkit.cli.context import Context
from drkit.cli.wire import Wiring, open_wiring
from drkit.repository.layout import RunId
from drkit.repository.reports import Note, keep
from tests.acceptance.scene import DRKIT_WAL, Scene, folder, newest_major, stop_strays
from tests.acceptance.shelves import BucketShelf, FolderShelf, Shelf, last
from tests.acceptance.stores import s3_target
from tests.acceptance.test_rows import fill
from tests.acceptance.test_rows_expiry import to_timeline
from tests.real.postgres import give, give_tree, new_server, run
from tests.real.rgw import RgwServer

TARGETS = ("a", "b", "c")
SHARED = {
    "pack": "clusters/*/packs/*",
    "map": "clusters/*/maps/*",
    "fingerprints": "clusters/*/fingerprints/*",
    "manifest": "clusters/*/manifests/*",
    "slot": "keys/*",
    "wal": "clusters/*/wal/*/{segment}",
    "history": "clusters/*/history/*",
    "hold": "clusters/*/holds/*",
    "report": "reports/*",
    "retirement": "retired/*",
}
"""Where one target lacks it, another one proves that it was there."""
LOOSE = {"quarantine": "clusters/*/quarantine/*", "evidence": "evidence/*"}
"""The loss of one leaves no trace."""
OWN = {"verdict": "clusters/*/verdicts/*", "descriptor": "repository"}


@dataclass
class Whole:
    """Two backups on two timelines with WAL, and what else there is; every test leaves them whole."""

    scene: Scene
    segments: list[str]
    shelves: dict[str, Shelf]
    keyless: Path

    def key(self, kind: str, target: str = "a") -> str:
        pattern = (SHARED | LOOSE | OWN)[kind].format(segment=self.segments[2])
        return last(self.shelves[target], pattern)

    def here(self, *kinds: str, on: str) -> list[tuple[Shelf, str]]:
        """One object of each kind on each of the targets, a letter each."""
        return [(self.shelves[name], self.key(kind, name)) for name in on for kind in kinds]

    def verify(self, *words: str, key: bool = True) -> tuple[int, dict[str, Any]]:
        config = None if key else self.keyless
        done = self.scene.drkit("verify", *words, "--json", config=config, check=False)
        assert done.stdout, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return done.returncode, answer


@contextmanager
def every_kind(rgw: RgwServer | None) -> Iterator[Whole]:
    """rgw None: the third target is a folder too."""
    server = new_server(newest_major(), segment_mb=1)
    try:
        root = server.root
        third = s3_target(rgw, root, "c") if rgw else folder(root, "c", "site-c")
        one = Scene(server, [folder(root, "a", "site-a"), folder(root, "b", "site-b"), third, folder(root, "gone")])
        one.start()
        one.drkit("target", "retire", "gone", "--yes")
        one.targets.pop()
        one.write_config()
        shelves: dict[str, Shelf] = {name: FolderShelf(one.place(name)) for name in "ab"}
        shelves["c"] = BucketShelf(rgw, third.url) if rgw else FolderShelf(one.place("c"))
        segments = _live(one)
        keyless = one.write_config(root / "keyless.toml", key=root / "no.key")
        yield Whole(one, segments, shelves, keyless)
    finally:
        stop_strays(server.root)
        server.close()


def _live(one: Scene) -> list[str]:
    """What a cluster goes through; names of WAL behind its last backup."""
    one.server.query("create table t (n int)")
    one.server.query("create table quiet as select g, repeat('x', 100) from generate_series(1, 10000) g")
    first = one.backup()
    to_timeline(one.server, 2)
    one.server.query("update quiet set g = g + 1 where g % 1000 = 0")
    one.backup()
    segments = fill(one, 5)
    one.drkit("hold", "add", first["id"], "--reason", "kept")
    _push_another_of(one, segments[0])
    _report(one, int(first["system_identifier"]))
    one.drkit("verify")
    return segments


def _push_another_of(one: Scene, name: str) -> None:
    """A segment of an archived name with other content, as a server set back would hand it over."""
    path = one.root / name
    one.drkit("wal", "get", name, path)
    path.write_bytes(path.read_bytes()[:-1] + b"\x01")
    give(path)
    assert run([DRKIT_WAL, "push", "--config", one.config, path], check=False).returncode != 0


def _report(one: Scene, system: int) -> None:
    moment = datetime.now(UTC)
    with opened(one) as wiring:
        note = Note(str(RunId.new(moment, os.urandom(4))), system, moment, "drill", "wal-gap", "main", "pass")
        keep(wiring.repository(), note, {"report.json": "{}"}, entropy=os.urandom)
    give_tree(one.root / "a")
    give_tree(one.root / "b")


@contextmanager
def opened(one: Scene) -> Iterator[Wiring]:
    """The repository by drkit's own wiring."""
    with open_wiring(Context(one.config, verbosity=-1)) as wiring:
        yield wiring


def rgw_or_none(request: pytest.FixtureRequest) -> RgwServer | None:
    """The gateway, where one can be started."""
    try:
        found: RgwServer = request.getfixturevalue("rgw")
    except pytest.skip.Exception:
        return None
    return found
