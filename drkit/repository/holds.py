"""Holds: backups and spans of WAL that expiry must not touch (docs/format.md, section 9).

A hold is in force while any target that can be asked has it and none has its release. Both are objects that are never
changed, so the order in which targets come and go does not matter; a release is for ever.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from drkit.core.errors import Damage, DrkitError, Missing, UsageError
from drkit.core.units import format_time, parse_time
from drkit.crypto.container import Json, open_object, seal_json
from drkit.crypto.keys import Entropy, Ring
from drkit.repository.layout import ClusterLayout, Kind, RunId
from drkit.repository.repository import Repository
from drkit.repository.target import Target
from storage_backends.api import Key
from storage_backends.errors import AlreadyExists, NotFound, StorageError

_KEY = re.compile(r"(\d{8}T\d{6}Z-[0-9a-f]{8})\.(hold|release)\Z")
_SEGMENT = re.compile(r"[0-9A-F]{24}\Z")
MAX_REASON = 200


@dataclass(frozen=True, slots=True)
class Hold:
    """backup: its id, or "" · wal: names of the first and last segment, or None · at: when it was made (host's clock).

    targets: who has it.
    """

    id: str
    backup: str
    wal: tuple[str, str] | None
    reason: str
    at: datetime
    targets: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Holds:
    """holds: in force, by id · unopened: id -> why it opens on no target; what it holds is not known.

    unreadable: target -> why it could not be asked.
    """

    holds: Sequence[Hold]
    unopened: Mapping[str, str] = field(default_factory=dict)
    unreadable: Mapping[str, str] = field(default_factory=dict)

    def find(self, ident: str) -> str:
        """The whole id of a hold in force, by it or a unique beginning or end of it. Raises Missing."""
        known = [hold.id for hold in self.holds] + list(self.unopened)
        found = [one for one in known if ident and (one.startswith(ident) or one.endswith(ident))]
        if ident in known:
            return ident
        if len(found) == 1:
            return found[0]
        what = f"{len(found)} holds match {ident!r}" if found else f"no hold {ident!r}"
        raise Missing(what, cure="`drkit hold list` shows them")


@dataclass(frozen=True, slots=True)
class Spread:
    """Where an object is durable now; lacking: target -> why it is not."""

    targets: tuple[str, ...]
    lacking: Mapping[str, str]


def hold_key(layout: ClusterLayout, ident: str, what: str = "hold") -> Key:
    """what: `hold` or `release`."""
    return Key(f"{layout.folder('holds')}{ident}.{what}")


def is_release(key: str) -> bool:
    """Of a key below `holds/`. Two releases of one hold, made by two hosts, mean the same, whatever their bytes."""
    return key.endswith(".release")


def check_segment_name(text: str) -> str:
    """Raises UsageError for what is no name of a WAL segment."""
    if not _SEGMENT.match(text):
        raise UsageError(f"{text!r} is no WAL segment", cure="24 hexadecimal digits, as `drkit windows` shows them")
    return text


def add_hold(repository: Repository, layout: ClusterLayout, hold: Hold, *, entropy: Entropy) -> Spread:
    """Create a hold on every target that answers, the same bytes; durable on those that the answer names."""
    value: Json = {
        "hold": hold.id,
        "backup": hold.backup or None,
        "wal_from": hold.wal[0] if hold.wal else None,
        "wal_to": hold.wal[1] if hold.wal else None,
        "reason": hold.reason,
        "at": format_time(hold.at),
    }
    return _spread(repository, hold_key(layout, hold.id), value, entropy)


def release_hold(
    repository: Repository, layout: ClusterLayout, ident: str, *, now: datetime, entropy: Entropy
) -> Spread:
    """Create the hold's release on every target that answers; the one that some target has already, where one does."""
    value: Json = {"hold": ident, "released_at": format_time(now)}
    return _spread(repository, hold_key(layout, ident, "release"), value, entropy)


def _spread(repository: Repository, key: Key, value: Json, entropy: Entropy) -> Spread:
    """The same bytes everywhere. What is there must open: damage in its place protects nothing."""
    sealed = seal_json(repository.data_key, Kind.HOLD, entropy(16), {"name": key, **value}).joined()
    lacking = {name: str(error) for name, error in repository.absent.items()}
    there: list[str] = []
    for target in repository.targets:
        try:
            sealed = _stored(repository.ring, target, key) or sealed
        except (StorageError, DrkitError):
            continue  # told below
    for target in repository.targets:
        try:
            try:
                target.write(key, [sealed], len(sealed))
            except AlreadyExists:
                _stored(repository.ring, target, key)
            there.append(target.name)
        except (StorageError, DrkitError) as error:
            lacking[target.name] = str(error)
    return Spread(tuple(there), lacking)


def _stored(ring: Ring, target: Target, key: Key) -> bytes | None:
    """The object's bytes, opened once; None: it is not there."""
    try:
        data = target.read(key)
    except NotFound:
        return None
    open_object(ring, data, kind=Kind.HOLD, name=key)
    return data


def read_holds(repository: Repository, layout: ClusterLayout) -> Holds:
    """What is held, from every target that can be asked."""
    unreadable = {name: str(error) for name, error in repository.absent.items()}
    holders: dict[str, list[Target]] = {}
    released: set[str] = set()
    for target in repository.targets:
        try:
            names = _names(target, layout)
        except StorageError as error:
            unreadable[target.name] = str(error)
            continue
        for ident, what in names:
            if what == "release":
                released.add(ident)
            else:
                holders.setdefault(ident, []).append(target)
    holds, unopened = [], {}
    for ident in sorted(holders.keys() - released):
        found = _open(repository.ring, layout, ident, holders[ident])
        if isinstance(found, Hold):
            holds.append(found)
        else:
            unopened[ident] = found
    return Holds(tuple(holds), unopened, unreadable)


def _names(target: Target, layout: ClusterLayout) -> list[tuple[str, str]]:
    folder = layout.folder("holds")
    matches = (_KEY.match(info.key.removeprefix(folder)) for info in target.backend.list(folder))
    return [(match[1], match[2]) for match in matches if match]


def _open(ring: Ring, layout: ClusterLayout, ident: str, holders: Sequence[Target]) -> Hold | str:
    """The hold from the first target where it opens, or why it opens nowhere."""
    key, problems = hold_key(layout, ident), list[str]()
    for target in holders:
        try:
            value = open_object(ring, target.read(key), kind=Kind.HOLD, name=key).json
            return _parse(value, ident, tuple(one.name for one in holders))
        except NotFound:
            problems.append(f"{target.name}: it is gone")
        except (StorageError, DrkitError, ValueError) as error:
            problems.append(f"{target.name}: {error}")
    return "; ".join(problems)


def _parse(value: Json, ident: str, targets: tuple[str, ...]) -> Hold:
    first, last = value.get("wal_from"), value.get("wal_to")
    wal = (check_segment_name(str(first)), check_segment_name(str(last))) if first and last else None
    backup = str(value.get("backup") or "")
    if backup:
        RunId.parse(backup)
    if value.get("hold") != ident or not (backup or wal):
        raise Damage("a hold is not as the format says", why=ident)
    return Hold(ident, backup, wal, str(value.get("reason") or ""), parse_time(str(value.get("at"))), targets)
