"""The destination of a restore: what is there now, whether it may be used, who shall own it, and if there is room."""

from __future__ import annotations

import os
import pwd
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from drkit.core.errors import Damage, DrkitError, Refused, UsageError
from drkit.core.units import format_size
from drkit.engines.postgres.control import CONTROL_PATH, parse_control
from drkit.jobs.recovery_file import RECOVERY_FILE, read_recovery_file
from drkit.repository.manifest import FILE, Entry, Head, Tablespace
from storage_backends.durable import TEMPORARY_SUFFIX

KEPT_CONTROL = "drkit.pg_control"  # a copy that says whose folder it is, from when pg_control goes until it is cleared
LOST_FOUND = "lost+found"  # of an empty ext filesystem; never removed
_RESERVE_BYTES = 64 << 20
SERVER_USER = "postgres"


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns the restored files, and by which rule."""

    uid: int
    gid: int
    rule: str

    @property
    def name(self) -> str:
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """A folder as found. names: its entries, empty where it does not exist.

    system_identifier: of its pg_control or, after a restore that was cut short, of the recovery file or the copy of
    pg_control that it left; None: none of them.
    device and free_bytes: of the filesystem that holds it or will.
    """

    path: Path
    exists: bool
    names: frozenset[str]
    system_identifier: int | None
    has_postmaster: bool
    uid: int
    device: int
    free_bytes: int
    used_bytes: int


@dataclass(frozen=True, slots=True)
class Link:
    """A tablespace outside of the data folder: pg_tblspc/<oid> leads to `location`; `original` is the backup's."""

    oid: int
    original: str
    location: str


def look_at(path: Path, *, measure: bool = False) -> FolderFacts:
    """Facts of a folder that need not exist. measure: add up the sizes of its files (for a delta restore).

    Raises Refused where it is no folder or cannot be looked into.
    """
    try:
        exists = path.exists()
        if exists and not path.is_dir():
            raise Refused("the destination is not a folder", where=str(path), cure="name a folder, or a new name")
        names = frozenset(one.name for one in path.iterdir()) if exists else frozenset()
        near = next(p for p in (path, *path.parents) if p.exists())
        if not near.is_dir() or (not exists and not os.access(near, os.W_OK | os.X_OK)):
            why = "this user may not write there" if near.is_dir() else "it is no folder"
            cure = "name another folder, or restore as a user who may write there"
            raise Refused("the destination cannot be made", where=str(path), why=f"{near}: {why}", cure=cure)
        space, status = os.statvfs(near), near.stat()
        used = _used(path) if measure and exists else 0
    except OSError as error:
        why, cure = error.strerror or str(error), "name another folder, or restore as a user who may look into it"
        raise Refused("the destination cannot be used", where=str(path), why=why, cure=cure) from error
    return FolderFacts(
        path=path,
        exists=exists,
        names=names,
        system_identifier=_system_identifier(path) if names else None,
        has_postmaster="postmaster.pid" in names,
        uid=status.st_uid,
        device=status.st_dev,
        free_bytes=space.f_bavail * space.f_frsize,
        used_bytes=used,
    )


def _used(path: Path) -> int:
    total = 0
    for folder in folders_of(path):
        try:
            with os.scandir(folder) as items:
                for item in items:
                    total += (
                        0 if item.is_dir(follow_symlinks=False) else item.stat(follow_symlinks=False).st_blocks * 512
                    )
        except OSError:
            continue
    return total


def folders_of(root: Path) -> Iterator[Path]:
    """A folder and all below it, links not followed; each before those in it. What cannot be looked into is passed
    over. Memory: the folders that are still to come, and no files' names.
    """
    pending = [root]
    while pending:
        here = pending.pop()
        yield here
        try:
            with os.scandir(here) as items:
                pending += [Path(item.path) for item in items if item.is_dir(follow_symlinks=False)]
        except OSError:
            continue


def _system_identifier(path: Path) -> int | None:
    for name in (CONTROL_PATH, KEPT_CONTROL):
        try:
            return parse_control((path / name).read_bytes()).system_identifier
        except (OSError, DrkitError):
            continue
    try:
        found = read_recovery_file(path)
    except Damage:
        return None
    return found.system_identifier if found else None


def _is_welcome(name: str) -> bool:
    """What an empty folder may hold: also the first file of a restore that died before it had its name."""
    unnamed = name.startswith(f".{RECOVERY_FILE}.") and name.endswith(TEMPORARY_SUFFIX)
    return unnamed or name == LOST_FOUND


def check_folder(facts: FolderFacts, system_identifier: int, *, delta: bool) -> None:
    """Raises Refused unless the folder is empty or, for a delta restore, an idle one of the same cluster."""
    where = str(facts.path)
    if facts.has_postmaster:
        raise Refused(
            "a server runs in the destination, or did not end cleanly",
            where=where,
            why="there is a postmaster.pid",
            cure="stop it (pg_ctl stop); if none runs, remove postmaster.pid; or restore into another folder",
        )
    for parent in facts.path.parents:
        if (parent / "PG_VERSION").exists() and parent != Path("/"):
            why, cure = f"{parent} is one", f"name a folder outside of {parent}"
            raise Refused("the destination lies inside another data folder", where=where, why=why, cure=cure)
    if all(_is_welcome(name) for name in facts.names):
        return
    if facts.system_identifier is None:
        raise Refused(
            "the destination holds files that are not of this cluster",
            where=where,
            why=f"{len(facts.names)} entries, among them {sorted(facts.names)[0]}; no pg_control that can be read",
            cure="name an empty or a new folder",
        )
    if facts.system_identifier != system_identifier:
        raise Refused(
            "the destination belongs to another cluster",
            where=where,
            why=f"its system identifier is {facts.system_identifier}, the backup's {system_identifier}",
            cure="name an empty or a new folder",
        )
    if not delta:
        raise Refused(
            "the destination is not empty",
            where=where,
            why="it holds this cluster's data" if "PG_VERSION" in facts.names else "an earlier restore was cut short",
            cure="--delta rewrites what differs and removes what is not in the backup; or name an empty folder",
        )


def choose_owner(facts: FolderFacts, wanted: str, euid: int) -> Owner:
    """The rule, as root: the named user, else the owner of an existing destination (not root), else `postgres`,
    else the owner of its parent. Others own what they write. Raises Refused, UsageError.
    """
    if euid != 0:
        if wanted and wanted != Owner(euid, 0, "").name:
            raise UsageError("only root can give files to another user", cure="leave --owner out")
        if facts.exists and facts.uid != euid:
            raise Refused("the destination belongs to another user", where=str(facts.path), cure="run as that user")
        return Owner(euid, os.getegid(), "the user who restores")
    if wanted:
        try:
            entry = pwd.getpwnam(wanted)
        except KeyError:
            raise UsageError(f"there is no user {wanted!r} on this machine", cure="getent passwd") from None
        return Owner(entry.pw_uid, entry.pw_gid, "as asked")
    if facts.exists and facts.uid != 0:
        return Owner(facts.uid, facts.path.stat().st_gid, "the owner of the destination")
    try:
        entry = pwd.getpwnam(SERVER_USER)
        return Owner(entry.pw_uid, entry.pw_gid, f"root restores for the user {SERVER_USER}")
    except KeyError:
        near = next(p for p in facts.path.parents if p.exists()).stat()
        return Owner(near.st_uid, near.st_gid, "the owner of the folder above")


def unreadable_notes(paths: Sequence[Path], owner: Owner, euid: int) -> list[str]:
    """A note for each file that recovery needs and that the server's user cannot read; only root can have this."""
    if euid != 0 or owner.uid == 0:
        return []
    notes = []
    for path in paths:
        if not _readable_by(path, owner):
            cure = f"chgrp and chmod it, or recovery's drkit-wal get fails: sudo -u {owner.name} cat {path}"
            notes.append(f"the user {owner.name} cannot read {path}: {cure}")
    return notes


def _readable_by(path: Path, owner: Owner) -> bool:
    """By mode bits alone, of the file and every folder above; ACLs may allow more."""
    try:
        groups = set(os.getgrouplist(owner.name, owner.gid)) if owner.name.isidentifier() else {owner.gid}
    except KeyError:
        groups = {owner.gid}
    real = Path(os.path.realpath(path))
    for place, wanted in [(real, 4), *((parent, 1) for parent in real.parents)]:
        try:
            status = place.stat()
        except OSError:
            return False
        shift = 6 if status.st_uid == owner.uid else 3 if status.st_gid in groups else 0
        if not status.st_mode >> shift & wanted:
            return False
    return True


def place_tablespaces(
    head: Head, destination: Path, mapping: Sequence[tuple[str, str]], machine: str, *, delta: bool
) -> list[Link]:
    """Where each tablespace goes. mapping: (OLD, NEW), OLD a location or an oid.

    Raises UsageError for an OLD that is not in the backup or a NEW that is not usable, Refused for original paths on
    the host where the backup was taken, unless the backup's own data folder is the destination.
    """
    linked = [t for t in head.tablespaces if not t.in_place]
    chosen = _mapped(linked, mapping)
    same_host = head.source.machine == machine
    home = same_host and destination == Path(os.path.realpath(head.source.data_dir))
    links: list[Link] = []
    for space in linked:
        location = chosen.get(space.oid, space.location)
        if same_host and not home and os.path.realpath(location) == os.path.realpath(space.location):
            raise Refused(
                f"tablespace {space.oid} would be restored to its original path {space.location}",
                why="this is the host that the backup was taken on: a live server may use it",
                cure=f"--tablespace {space.location}=/new/folder",
            )
        _check_location(location, destination, links)
        _check_content(Path(location), delta=delta)
        links.append(Link(space.oid, space.location, location))
    return links


def _mapped(linked: Sequence[Tablespace], mapping: Sequence[tuple[str, str]]) -> dict[int, str]:
    chosen: dict[int, str] = {}
    for old, new in mapping:
        found = [t.oid for t in linked if old == str(t.oid) or old.rstrip("/") == t.location.rstrip("/")]
        if not found:
            known = ", ".join(f"{t.location} ({t.oid})" for t in linked) or "none outside of the data folder"
            cure = "name its old folder or its oid, as `drkit show` lists them"
            raise UsageError(f"the backup has no tablespace {old}", why=f"it has {known}", cure=cure)
        if found[0] in chosen:
            raise UsageError(f"tablespace {old} is mapped twice", cure="give --tablespace once for each")
        chosen[found[0]] = os.path.normpath(new)
    return chosen


def _check_location(location: str, destination: Path, others: Sequence[Link]) -> None:
    if not Path(location).is_absolute():
        cure = f"--tablespace OLD={Path(location).absolute()}"
        raise UsageError(f"a tablespace's folder is an absolute path, not {location!r}", cure=cure)
    real, root = Path(os.path.realpath(location)), Path(os.path.realpath(destination))
    if real == root or root in real.parents or real in root.parents:
        what = f"the tablespace folder {location} and the data folder lie within one another"
        raise UsageError(what, cure="give the tablespace a folder of its own")
    for other in others:
        taken = Path(os.path.realpath(other.location))
        if real == taken or taken in real.parents or real in taken.parents:
            raise UsageError(f"two tablespaces share the folder {location}", cure="give each one its own")


def _check_content(path: Path, *, delta: bool) -> None:
    facts = look_at(path)
    strange = {name for name in facts.names - {LOST_FOUND} if not (delta and name.startswith("PG_"))}
    if strange:
        raise Refused(
            "the folder for a tablespace is not empty",
            where=str(path),
            why=f"it holds {sorted(strange)[0]}",
            cure="name an empty or a new folder",
        )


@dataclass(frozen=True, slots=True)
class Room:
    """Space on one filesystem: what the restore needs of it, what is free, what it frees or reuses there."""

    path: str
    needed_bytes: int
    free_bytes: int
    reused_bytes: int


def rooms(
    folder: FolderFacts, spaces: Mapping[int, FolderFacts], entries: Iterable[Entry], wal_bytes: int
) -> list[Room]:
    """Bytes needed on each filesystem. spaces: tablespace oid -> facts of its folder.

    Holes are counted in full: a file that is sparse now is filled later.
    """
    needed: dict[int, int] = {folder.device: wal_bytes + _RESERVE_BYTES}
    facts = {folder.device: folder}
    reused: dict[int, int] = {folder.device: folder.used_bytes}
    for one in spaces.values():
        facts.setdefault(one.device, one)
        reused[one.device] = reused.get(one.device, 0) + one.used_bytes
    for entry in entries:
        if entry.type != FILE:
            continue
        oid = space_of(entry.path)
        device = spaces[oid].device if oid in spaces else folder.device
        needed[device] = needed.get(device, 0) + -(-entry.size // 4096) * 4096
    return [Room(str(facts[d].path), n, facts[d].free_bytes, reused.get(d, 0)) for d, n in needed.items()]


def check_rooms(found: Sequence[Room]) -> None:
    """Raises Refused naming how much is missing and where."""
    for room in found:
        missing = room.needed_bytes - room.free_bytes - room.reused_bytes
        if missing > 0:
            raise Refused(
                "there is not enough space for the restore",
                where=room.path,
                why=f"it takes {room.needed_bytes} bytes ({format_size(room.needed_bytes)}), {room.free_bytes} "
                f"({format_size(room.free_bytes)}) are free, {missing} are missing",
                cure="free some, or restore to a larger filesystem; --tablespace moves tablespaces elsewhere",
            )


def space_of(path: bytes) -> int:
    """The oid of the tablespace that a path of the backup lies in, or 0."""
    parts = path.split(b"/", 2)
    return int(parts[1]) if parts[0] == b"pg_tblspc" and len(parts) > 1 and parts[1].isdigit() else 0
