"""Destinations: what is refused, who gets the files, where tablespaces go, room, and clearing without harm."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from drkit.core.errors import Conflict, Refused, UsageError
from drkit.jobs.restore import alone
from drkit.jobs.restore_clear import Clearing, disarm
from drkit.jobs.restore_folder import (
    FolderFacts,
    Link,
    Owner,
    Room,
    check_folder,
    check_rooms,
    choose_owner,
    look_at,
    place_tablespaces,
    rooms,
    space_of,
    unreadable_notes,
)
from drkit.jobs.restore_settings import restore_command, tablespace_map
from drkit.repository.manifest import FILE, Entry, Head, Source, Tablespace
from tests.jobs.wal_world import SYSTEM, control_bytes
from tests.repository.samples import sample_head

HERE = "machine-1"


def head(*spaces: str, machine: str = HERE, data_dir: str = "/srv/live") -> Head:
    found = tuple(Tablespace(16000 + n, location, location == "") for n, location in enumerate(spaces))
    return replace(sample_head(), tablespaces=found, source=Source(machine, data_dir, 1))


def data_folder(path: Path, system: int = SYSTEM) -> Path:
    (path / "global").mkdir(parents=True)
    (path / "global/pg_control").write_bytes(control_bytes(system))
    (path / "PG_VERSION").write_text("15\n")
    return path


def test_a_new_or_empty_folder_is_welcome(tmp_path: Path) -> None:
    check_folder(look_at(tmp_path / "new"), SYSTEM, delta=False)
    (tmp_path / "lost+found").mkdir()
    check_folder(look_at(tmp_path), SYSTEM, delta=False)


def test_a_data_folder_takes_delta_and_the_same_cluster(tmp_path: Path) -> None:
    facts = look_at(data_folder(tmp_path / "db"))
    assert facts.system_identifier == SYSTEM
    check_folder(facts, SYSTEM, delta=True)
    with pytest.raises(Refused, match="not empty") as caught:
        check_folder(facts, SYSTEM, delta=False)
    assert "--delta" in caught.value.cure
    with pytest.raises(Refused, match="another cluster"):
        check_folder(facts, SYSTEM + 1, delta=True)
    (tmp_path / "db/postmaster.pid").write_text("1\n")
    with pytest.raises(Refused, match="a server runs"):
        check_folder(look_at(tmp_path / "db"), SYSTEM, delta=True)


def test_a_file_and_a_place_inside_a_data_folder_are_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(Refused, match="not a folder"):
        look_at(tmp_path / "file")
    with pytest.raises(Refused, match="inside another data folder"):
        check_folder(look_at(data_folder(tmp_path / "db") / "base/new"), SYSTEM, delta=False)


def facts(path: Path, **more: object) -> FolderFacts:
    return replace(look_at(path), **more)  # type: ignore[arg-type]


def test_the_owner_follows_the_rule(tmp_path: Path) -> None:
    new = facts(tmp_path / "new")
    assert choose_owner(new, "", 1234).uid == 1234
    assert choose_owner(facts(tmp_path, exists=True, uid=4321), "", 0).uid == 4321
    with pytest.raises(UsageError):
        choose_owner(new, "no-such-user-here", 0)
    with pytest.raises(Refused):
        choose_owner(facts(tmp_path, exists=True, uid=4321), "", 1234)


def test_files_that_the_server_cannot_read_are_told(tmp_path: Path) -> None:
    key = tmp_path / "key"
    key.write_text("x")
    key.chmod(0o600)
    nobody = Owner(54321, 54321, "test")
    assert unreadable_notes([key], nobody, 1000) == []
    assert "cannot read" in unreadable_notes([key], nobody, 0)[0]


def test_tablespaces_on_the_same_host_need_a_new_place(tmp_path: Path) -> None:
    live, new, into = tmp_path / "live", tmp_path / "new", tmp_path / "into"
    live.mkdir()
    with pytest.raises(Refused, match="original path"):
        place_tablespaces(head(str(live)), into, (), HERE, delta=False)
    with pytest.raises(Refused, match="original path"):
        place_tablespaces(head(str(live)), into, ((str(live), f"{live}/"),), HERE, delta=False)
    for old in (str(live), "16000"):
        links = place_tablespaces(head(str(live)), into, ((old, str(new)),), HERE, delta=False)
        assert links == [Link(16000, str(live), str(new))]
    elsewhere = place_tablespaces(head(str(live)), into, (), "machine-2", delta=False)
    assert elsewhere == [Link(16000, str(live), str(live))]
    home = head(str(live), data_dir=str(into))
    assert place_tablespaces(home, into, (), HERE, delta=False)[0].location == str(live)


def test_tablespace_mappings_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    into, one, two = tmp_path / "into", str(tmp_path / "one"), str(tmp_path / "two")
    spaces = head("/live/a", "/live/b")
    for mapping in (
        (("/live/c", one),),
        (("/live/a", "relative"), ("/live/b", two)),
        (("/live/a", one), ("/live/b", one)),
        (("/live/a", one), ("/live/b", f"{one}/inner")),
        (("/live/a", f"{into}/inside"), ("/live/b", two)),
        (("/live/a", one), ("16000", two)),
    ):
        with pytest.raises(UsageError):
            place_tablespaces(spaces, into, mapping, HERE, delta=False)
    Path(one).mkdir()
    (Path(one) / "letters").touch()
    with pytest.raises(Refused, match="not empty"):
        place_tablespaces(spaces, into, (("/live/a", one), ("/live/b", two)), HERE, delta=False)


def test_space_is_counted_per_filesystem_and_the_refusal_has_the_numbers(tmp_path: Path) -> None:
    def entry(path: bytes, size: int) -> Entry:
        return Entry(FILE, 0, 0o600, size, 0, 0, 0, 0, bytes(32), 0, path, ())

    entries = [entry(b"base/5/1", 5000), entry(b"pg_tblspc/16000/PG_15/5/2", 4096)]
    main, other = facts(tmp_path, device=1, free_bytes=10), facts(tmp_path, device=2, free_bytes=10**12)
    found = {room.needed_bytes: room for room in rooms(main, {16000: other}, entries, 1 << 20)}
    assert set(found) == {8192 + (1 << 20) + (64 << 20), 4096}
    with pytest.raises(Refused) as caught:
        check_rooms(list(found.values()))
    assert "10 (10 B) are free" in caught.value.why and "missing" in caught.value.why
    check_rooms([Room("/", 100, 50, 50)])


def test_tablespace_map_is_byte_exact_unless_something_moved() -> None:
    original = b"16000 /live/a\n16001 /odd\\\nname\n16002 /c\\\\d\n"
    same = [Link(16000, "/live/a", "/live/a")]
    assert tablespace_map(original, same) == original
    moved = [*same, Link(16001, "/odd\nname", "/new\\x")]
    assert tablespace_map(original, moved) == b"16000 /live/a\n16001 /new\\\\x\n16002 /c\\\\d\n"


def test_the_oid_in_a_path() -> None:
    assert space_of(b"pg_tblspc/16000/PG_15_1/5/6") == 16000
    assert space_of(b"pg_tblspc") == space_of(b"base/16000/1") == space_of(b"pg_tblspc/x/1") == 0


def test_the_restore_command_survives_blanks_and_percents() -> None:
    text = restore_command(Path("/opt/my tools/drkit-wal"), Path("/etc/100%/drkit.toml"))
    assert text.startswith("'/opt/my tools/drkit-wal' --config /etc/100%%/drkit.toml get --absent-exit 44 %f %p; ")
    assert text.endswith("[ $r = 0 ] && exit 0; [ $r = 44 ] && exit 1; exit 126")


def test_disarm_removes_what_would_start_and_clearing_what_is_foreign(tmp_path: Path) -> None:
    db, outside = data_folder(tmp_path / "db"), tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    for name in ("backup_label", "standby.signal", "keep", "stray"):
        (db / name).write_text("x")
    (db / "base").mkdir()
    os.link(outside / "precious", db / "base/1")
    (db / "pg_wal").symlink_to(outside)
    (db / "pg_tblspc").mkdir()
    (db / "pg_tblspc/16000").symlink_to(outside)
    (db / "pg_tblspc/16001").symlink_to(outside)
    (db / "stranger/inner").mkdir(parents=True)
    (db / "stranger/inner/file").write_text("x")
    disarm(db)
    assert not any((db / name).exists() for name in ("global/pg_control", "backup_label", "standby.signal"))
    wanted = [b"base/", b"base/1", b"global/", b"keep", b"pg_tblspc/", b"pg_wal/"]
    clearing = Clearing(wanted, {b"pg_tblspc/16000": os.fsencode(outside), b"pg_tblspc/16001": b"/elsewhere"})
    clearing.folder(db)
    left = sorted(str(path.relative_to(db)) for path in db.rglob("*"))
    assert left == ["base", "global", "keep", "pg_tblspc", "pg_tblspc/16000"]
    assert (outside / "precious").read_text() == "x"
    assert clearing.spared == []


def test_a_second_restore_into_the_same_folder_is_refused(tmp_path: Path) -> None:
    """Also by another path to it; and the first one's end, however it came, frees the folder."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    with alone(tmp_path / "db"):
        for place in (tmp_path / "db", link / "db"):
            with pytest.raises(Conflict, match="another restore"), alone(place):
                raise AssertionError("two restores at once")
        with alone(tmp_path / "other"):
            pass
    with alone(tmp_path / "db"):
        pass
