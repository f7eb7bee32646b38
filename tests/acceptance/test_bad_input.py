"""Bad input: each is one clear error with its exit code, and neither the repository nor the destination is touched."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.acceptance.broken import (
    Copy,
    configure,
    connect,
    copy_of,
    flip,
    lose,
    nothing,
    occupy,
    spool,
    truncate,
    unmount,
)
from tests.acceptance.scene import DRKIT, DRKIT_WAL, Scene, listing, newest_major, scene
from tests.real.postgres import Server, new_server, run
from tests.storage_backends.mounts import tmpfs

pytestmark = pytest.mark.real


@dataclass
class Past:
    """A scene with a past: two backups, and `words` to fill into command lines."""

    scene: Scene
    other: Server
    words: dict[str, str]


@pytest.fixture(scope="module")
def past() -> Iterator[Past]:
    with scene(newest_major(), segment_mb=1) as one:
        other = new_server(one.server.major, segment_mb=1)
        try:
            words = {"before": one.now(), "other": str(other.data), "data": str(one.server.data)}
            words |= _tell(one)
            yield Past(one, other, words)
        finally:
            other.close()


def _tell(one: Scene) -> dict[str, str]:
    server, words = one.server, {}
    server.query("create table t (n int)")
    first = one.backup()
    words["first"] = str(first["id"])
    words["inside"] = str(first["stop_lsn"])
    server.query("insert into t values (1)")
    server.query("select pg_create_restore_point('noon')")
    words["lost"] = one.switch()
    server.query("insert into t values (2)")
    words["gap_time"] = one.now()
    words["gap_lsn"] = str(server.value("select pg_current_wal_insert_lsn()::text"))
    words["gap_xid"] = str(server.value("insert into t values (3) returning txid_current()::text"))
    one.switch()
    one.switch()
    words["after"] = one.now()
    return words


@dataclass(frozen=True, slots=True)
class Case:
    """line: the command line behind `drkit`, filled from the past's words; `restore` gets its --into where it has none.

    says: what the error must contain, wherever it stands · break_: what is done to the copy first.
    """

    name: str
    line: str
    exit: int
    code: str
    says: tuple[str, ...]
    break_: Callable[[Copy], None] = nothing


WAL = "clusters/*/wal/*/*/"
CASES = [
    # configuration
    Case("key-unknown", "list", 3, "config", ("backup.wrokers", "workers"), configure("[backup.wrokers]")),
    Case("section-unknown", "list", 3, "config", ("retentoin", "retention"), configure("[retentoin]\ndaily = '7d'")),
    Case("value-impossible", "list", 3, "config", ("copies.wal_ack",), configure("[copies]\nwal_ack = 0")),
    Case("not-toml", "backup", 3, "config", ("TOML", "line"), configure("[copies\n")),
    Case("option-unknown", "backup", 3, "config", ("hst", "connection", "host="), connect("hst=/tmp")),
    Case("spool-no-folder", "backup", 3, "config", ("[daemon] spool", "/dev/null/spool"), spool("/dev/null/spool")),
    Case("spool-not-ours", "backup", 3, "config", ("[daemon] spool", "may not write", "chown"), spool("/usr")),
    Case("cluster-unknown", "backup nobody", 2, "usage", ("nobody", "main")),
    Case("flag-unknown", "restore --into /x --till latest", 2, "usage", ("--till",)),
    # points
    Case("time-without-zone", "restore --to 2026-03-01T09:14:00", 2, "usage", ("zone",)),
    Case("time-with-abbreviation", "restore --to 2026-03-01T09:14:00EST", 2, "usage", ("zone",)),
    Case("before-first-backup", "restore --to {before}", 4, "refused", ("before the first", "--to end", "{first}")),
    Case("lsn-before-first-backup", "restore --to-lsn 0/1", 4, "refused", ("before the first", "{first}")),
    Case("after-last-wal", "restore --to {after}", 4, "refused", ("after the last archived WAL", "--to latest")),
    Case("lsn-after-last-wal", "restore --to-lsn FF/0", 4, "refused", ("after the last archived WAL", "--to latest")),
    Case("future", "restore --to 2999-01-01T00:00:00Z", 4, "refused", ("future",)),
    Case("latest-behind-gap", "restore", 4, "refused", ("gap", "{lost}", "--to-lsn", "wal push"), lose(WAL + "{lost}")),
    Case("time-in-gap", "restore --to {gap_time}", 4, "refused", ("gap", "{lost}", "--to-lsn"), lose(WAL + "{lost}")),
    Case("lsn-in-gap", "restore --to-lsn {gap_lsn}", 4, "refused", ("gap", "{lost}"), lose(WAL + "{lost}")),
    Case(
        "xid-in-gap", "restore --to-xid {gap_xid}", 4, "refused", ("{gap_xid}", "gap", "{lost}"), lose(WAL + "{lost}")
    ),
    Case("name-unknown", "restore --to-name dawn", 4, "refused", ("dawn", "noon")),
    Case("xid-unknown", "restore --to-xid 99999999", 4, "refused", ("99999999", "not in the archived WAL")),
    Case("xid-no-number", "restore --to-xid two", 2, "usage", ("two", "number")),
    Case("timeline-unknown", "restore --timeline 7", 4, "refused", ("timeline 7", "1")),
    Case("backup-unknown", "restore --backup 2020", 5, "missing", ("2020", "drkit list")),
    Case("show-unknown", "show main 2020", 5, "missing", ("2020", "drkit list")),
    Case("target-unknown", "restore --from nowhere", 2, "usage", ("nowhere", "a, b")),
    Case("into-empty", "restore --into ''", 2, "usage", ("--into", "empty")),
    Case("backup-empty", "restore --backup ''", 2, "usage", ("--backup", "empty")),
    Case("two-points", "restore --to latest --to-xid 5", 2, "usage", ("one point",)),
    # keys
    Case("key-wrong", "restore", 8, "key", ("key",), lambda copy: _other_key(copy)),
    Case("key-missing", "restore", 8, "key", ("master.key",), lambda copy: copy.key.unlink()),
    Case("key-empty", "restore", 3, "config", ("master.key", "empty"), lambda copy: _rewrite(copy.key, "")),
    Case("key-open-to-all", "restore", 3, "config", ("master.key", "0644"), lambda copy: copy.key.chmod(0o644)),
    Case("key-unreadable", "restore", 3, "config", ("master.key", "denied"), lambda copy: copy.key.chmod(0)),
    Case("key-garbled", "restore", 8, "key", ("master.key",), lambda copy: _rewrite(copy.key, "drkit is a program\n")),
    Case("key-binary", "restore", 8, "key", ("master.key",), lambda copy: _bytes(copy.key, bytes(range(256)))),
    Case("key-random", "backup", 8, "key", ("master.key",), lambda copy: _bytes(copy.key, b"\x17" * 32)),
    Case("key-huge", "list", 8, "key", ("master.key",), lambda copy: _bytes(copy.key, b"\xff" * 100_000)),
    # destinations
    Case("running-server", "restore --into {data}", 4, "refused", ("postmaster.pid", "{data}", "stop")),
    Case("running-server-delta", "restore --delta --into {data}", 4, "refused", ("postmaster.pid", "{data}")),
    Case("foreign-folder", "restore", 4, "refused", ("letters.txt", "{destination}"), occupy("letters.txt")),
    Case("foreign-delta", "restore --delta", 4, "refused", ("letters.txt", "{destination}"), occupy("letters.txt")),
    Case("other-cluster", "restore --delta --into {other}", 4, "refused", ("another cluster", "identifier", "{other}")),
    Case("file", "restore --into {destination}/file", 4, "refused", ("not a folder",), occupy("file")),
    Case("inside-a-data-folder", "restore --into {other}/new", 4, "refused", ("inside another data folder", "{other}")),
    Case("inside-a-target", "restore --into {copy}/a/new", 4, "refused", ("target a", "{copy}/a")),
    Case("around-a-target", "restore --delta --into {copy}", 4, "refused", ("target a", "{copy}")),
    Case("inside-the-spool", "restore --into {copy}/spool/new", 4, "refused", ("the spool",)),
    Case("below-a-file", "restore --into /dev/null/new", 4, "refused", ("/dev/null", "no folder")),
    Case("owner-unknown", "restore --owner nobody-knows", 2, "usage", ("--owner",)),
    Case("no-target-left", "restore --without a --without b", 5, "missing", ("no target is left",)),
    # targets
    Case("one-unmounted", "restore", 4, "refused", ("b", "mounted", "--without b"), unmount("b")),
    Case("all-unmounted", "restore", 7, "unreachable", ("no repository", "used the target before"), unmount("a", "b")),
    Case(
        "all-unmounted-list", "list", 7, "unreachable", ("no repository", "used the target before"), unmount("a", "b")
    ),
    Case("from-unmounted", "restore --from b", 7, "not-this-target", ("no repository", "mounted"), unmount("b")),
    # damage, on both targets
    Case("descriptor-flipped", "backup", 9, "damage", ("descriptor is damaged", "a: ", "b: "), flip("repository")),
    Case("slot-flipped", "list", 9, "damage", ("key slot is damaged", "keys/"), flip("keys/*/*")),
    Case("slots-gone", "list", 8, "key", ("no target has a key slot", "any copy"), lose("keys/*/*")),
    Case("descriptor-truncated", "backup", 9, "damage", ("repository",), truncate("repository")),
    Case("manifest-flipped", "restore", 9, "damage", ("manifest",), flip("clusters/*/manifests/*", 0.9)),
    Case("manifest-head-flipped", "restore", 9, "damage", ("manifest",), flip("clusters/*/manifests/*", 0.1)),
    Case("pack-truncated", "restore", 9, "damage", ("no good backup", "broken"), truncate("clusters/*/packs/*/*")),
    Case("manifest-truncated", "restore", 9, "damage", ("manifest",), truncate("clusters/*/manifests/*")),
    Case("last-segment-flipped", "restore", 9, "damage", ("wal/",), flip(WAL + "*")),
    Case("segment-truncated", "restore --to-xid {gap_xid}", 9, "damage", ("{lost}",), truncate(WAL + "{lost}")),
]


def _other_key(copy: Copy) -> None:
    copy.key.unlink()
    text = copy.config.read_text()
    run([DRKIT, "--config", copy.config, "-q", "key", "new"])
    assert text == copy.config.read_text() and copy.key.exists()


def _rewrite(path: Path, text: str) -> None:
    path.write_text(text)


def _bytes(path: Path, data: bytes) -> None:
    path.write_bytes(data)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_bad_input_is_one_clear_error_and_nothing_is_touched(past: Past, case: Case) -> None:
    copy = copy_of(past.scene, f"case-{case.name}", past.words)
    case.break_(copy)
    line = [word.format(**copy.words) for word in shlex.split(case.line)]
    if line[0] == "restore" and "--into" not in line:
        line += ["--into", str(copy.destination)]
    watched = [copy.root / "a", copy.root / "b", copy.destination]
    into = Path(line[line.index("--into") + 1]) if "--into" in line else copy.destination
    if into != past.scene.server.data:  # which a server runs in and changes
        watched.append(past.other.data)
    before = listing(*watched)
    status, error = past.scene.refusal(*line, config=copy.config)
    whole = " ".join([error["what"], error["where"], error["why"], error["cure"]])
    assert (status, error["code"]) == (case.exit, case.code), error
    assert set(error) == {"code", "what", "where", "why", "cure", "also"}
    for word in case.says:
        assert word.format(**copy.words) in whole, error
    assert error["what"] and error["cure"], error
    assert "Traceback" not in whole and "Error:" not in whole, error
    assert listing(*watched) == before


def test_a_wrong_connection_string_is_no_finding_of_check(past: Past) -> None:
    copy = copy_of(past.scene, "case-check-connection", past.words)
    connect("hst=/tmp")(copy)
    status, error = past.scene.refusal("check", config=copy.config)
    assert (status, error["code"]) == (3, "config")
    assert "hst" in error["why"] and "connection" in error["where"] and error["cure"]


@pytest.mark.parametrize("place", ["/dev/null/spool", "/usr"])
def test_reading_goes_without_a_spool_and_says_so(past: Past, place: str) -> None:
    copy = copy_of(past.scene, "case-no-spool", past.words)
    spool(place)(copy)
    for line in ("list", "show {first}", "windows", "restore --plan --into {destination}"):
        words = [word.format(**copy.words) for word in line.split()]
        done = past.scene.drkit(*words, config=copy.config, check=False)
        assert done.returncode == 0, done.stderr
        assert past.words["first"] in done.stdout or line == "windows"
        assert "not pinned" in done.stderr and "[daemon] spool" in done.stderr
    fetched = copy.root / "fetched"
    done = run([DRKIT_WAL, "get", "--config", copy.config, past.words["lost"], fetched], check=False)
    assert done.returncode == 0 and fetched.exists(), done.stderr
    segment = next((past.scene.server.data / "pg_wal").glob("0000000100000000*"))
    done = run([DRKIT_WAL, "push", "--config", copy.config, segment], check=False)
    assert done.returncode == 1 and "[daemon] spool" in done.stderr


def test_a_destination_that_is_too_small_is_refused_with_the_missing_bytes(past: Past) -> None:
    with tmpfs(past.scene.fresh("small"), "size=20m,mode=0777") as small:
        before = listing(small, past.scene.place("a"), past.scene.place("b"))
        status, error = past.scene.refusal("restore", "--into", small / "data")
        assert (status, error["code"]) == (4, "refused")
        assert str(small) in error["where"]
        for word in ("not enough space", "are free", "are missing"):
            assert word in error["what"] + error["why"]
        assert listing(small, past.scene.place("a"), past.scene.place("b")) == before


def test_a_server_that_is_not_the_configured_data_folders_is_not_backed_up(past: Past) -> None:
    copy = copy_of(past.scene, "case-other-server", past.words)
    text = copy.config.read_text().replace(f'data_dir = "{past.scene.server.data}"', f'data_dir = "{past.other.data}"')
    copy.config.write_text(text)
    before = listing(copy.root / "a", copy.root / "b", past.other.data)
    status, error = past.scene.refusal("backup", config=copy.config)
    assert (status, error["code"]) == (4, "refused")
    assert "another cluster" in error["what"] and str(past.other.data) in error["where"]
    assert "system identifier" in error["why"] and "data_dir" in error["cure"]
    assert listing(copy.root / "a", copy.root / "b", past.other.data) == before


def test_a_segment_of_a_foreign_server_is_not_archived(past: Past) -> None:
    copy = copy_of(past.scene, "case-foreign-segment", past.words)
    segment = next((past.other.data / "pg_wal").glob("0000000100000000*"))
    before = listing(copy.root / "a", copy.root / "b")
    done = run([DRKIT_WAL, "push", "--config", copy.config, segment], check=False)
    assert done.returncode == 1
    assert "identifier" in done.stderr, done.stderr
    assert listing(copy.root / "a", copy.root / "b") == before
    assert past.scene.drkit("wal", "push", copy.root / "none", config=copy.config, check=False).returncode == 1


def test_a_place_that_cannot_be_written_is_told_by_wal_get(past: Past) -> None:
    """126 and a plain error: neither 'absent' nor a defect."""
    target = past.scene.fresh("closed")
    target.mkdir(mode=0o555)
    done = past.scene.drkit("wal", "get", past.words["lost"], target / "file", check=False)
    assert done.returncode == 126
    assert "cannot be written" in done.stderr and "unexpected" not in done.stderr


def test_packs_damaged_everywhere_end_the_restore_and_the_folder_cannot_start(past: Past) -> None:
    """Nothing but reading finds it: the repository stays as it is, and what was begun is no data folder."""
    copy = copy_of(past.scene, "case-pack-flipped", past.words)
    flip("clusters/*/packs/*/*")(copy)
    before = listing(copy.root / "a", copy.root / "b")
    status, error = past.scene.refusal("restore", "--into", copy.destination, config=copy.config)
    assert (status, error["code"]) == (9, "damage"), error
    assert "packs/" in error["where"] and "a: " in error["why"] and "b: " in error["why"]
    assert listing(copy.root / "a", copy.root / "b") == before
    assert not (copy.destination / "global/pg_control").exists()


def test_manifests_damaged_everywhere_are_listed_as_such_never_as_no_backups(past: Past) -> None:
    copy = copy_of(past.scene, "case-list", past.words)
    truncate("clusters/*/manifests/*")(copy)
    done = past.scene.drkit("list", config=copy.config, check=False)
    assert done.returncode == 9
    assert past.words["first"] in done.stdout and "cannot be opened" in done.stdout
    answer = past.scene.answer("list", config=copy.config, code=9)
    assert [one["id"] for one in answer["unopened"]] == [past.words["first"]]
    assert {t["state"] for t in answer["unopened"][0]["targets"]} == {"broken"}
