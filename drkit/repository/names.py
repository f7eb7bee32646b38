"""What the name of an object says of it (docs/format.md, section 1): its kind, whose it is, where else it must be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from drkit.core.errors import UsageError
from drkit.repository.layout import Kind, RunId

_HEX8, _HEX16, _HEX32 = r"[0-9a-f]{8}", r"[0-9a-f]{16}", r"[0-9a-f]{32}"
_RUN = rf"\d{{8}}T\d{{6}}Z-{_HEX8}"
_WAL = r"[0-9A-F]{24}(?:\.partial|\.[0-9A-F]{8}\.backup)?|[0-9A-F]{8}\.history"


class Sharing(StrEnum):
    """How an object of one target relates to those of the others.

    OWN: true for its own target only, never copied · NEEDED: the same bytes wherever a backup of that target needs it
    SHARED: the same bytes on every target, expiry apart · LOOSE: as SHARED where it is, but need not be there
    """

    OWN = "own"
    NEEDED = "needed"
    SHARED = "shared"
    LOOSE = "loose"


@dataclass(frozen=True, slots=True)
class Place:
    """kind None: not a sealed object · system: the system identifier, None outside of one · bulk: read in samples

    last: the part of the name that tells it from others of its kind · object_id: of kinds whose JSON has no name.
    """

    kind: Kind | None
    sharing: Sharing
    system: int | None = None
    last: str = ""
    object_id: bytes | None = None
    bulk: bool = False


@dataclass(frozen=True, slots=True)
class _Row:
    pattern: re.Pattern[str]
    kind: Kind | None
    sharing: Sharing
    bulk: bool = False


def _row(pattern: str, kind: Kind | None, sharing: Sharing, *, bulk: bool = False) -> _Row:
    return _Row(re.compile(rf"(?:{pattern})\Z", re.ASCII), kind, sharing, bulk)


_TOP = (
    _row("(repository)", Kind.DESCRIPTOR, Sharing.OWN),
    _row(rf"keys/{_HEX8}/(epoch)", Kind.EPOCH, Sharing.SHARED),
    _row(rf"keys/{_HEX8}/({_HEX16})", Kind.SLOT, Sharing.SHARED),
    _row(rf"retired/({_HEX32})", Kind.RETIREMENT, Sharing.SHARED),
    _row(r"(reader\.py)", None, Sharing.SHARED),
    _row(r"canaries/(.+)", None, Sharing.LOOSE),
)
_BELOW = {
    "binding": _row("()", Kind.BINDING, Sharing.SHARED),
    "packs": _row(rf"({_RUN}/{_HEX8})", Kind.PACK, Sharing.NEEDED, bulk=True),
    "maps": _row(rf"({_RUN}/{_HEX8})", Kind.MAP, Sharing.NEEDED, bulk=True),
    "fingerprints": _row(rf"({_RUN}/{_HEX8})", Kind.FINGERPRINTS, Sharing.NEEDED, bulk=True),
    "manifests": _row(f"({_RUN})", Kind.MANIFEST, Sharing.NEEDED),
    "wal": _row(rf"[0-9A-F]{{8}}/[0-9A-F]{{8}}/({_WAL})", Kind.WAL, Sharing.NEEDED, bulk=True),
    "history": _row(r"([0-9A-F]{8}\.history)", Kind.HISTORY, Sharing.SHARED),
    "slices": _row(rf"[0-9A-F]{{8}}/[0-9A-F]{{24}}/({_HEX8}-{_HEX8}-{_HEX8})", Kind.SLICE, Sharing.LOOSE, bulk=True),
    "summaries": _row(r"[0-9A-F]{8}/[0-9A-F]{8}/([0-9A-F]{24})", Kind.SUMMARY, Sharing.LOOSE, bulk=True),
    "leases": _row(rf"({_HEX16}-{_HEX8})", Kind.LEASE, Sharing.OWN),
    "tombstones": _row(rf"({_RUN})", Kind.TOMBSTONE, Sharing.OWN),
    "verdicts": _row(rf"({_RUN})", Kind.VERDICT, Sharing.OWN),
    "quarantine": _row(rf"((?:{_WAL})-{_HEX16})", Kind.QUARANTINE, Sharing.LOOSE, bulk=True),
    "holds": _row(rf"({_RUN}\.(?:hold|release))", Kind.HOLD, Sharing.SHARED),
}
_SYSTEMS = (
    ("reports", _row(f"({_RUN})", Kind.REPORT, Sharing.SHARED, bulk=True)),
    ("evidence", _row(f"({_RUN})", Kind.EVIDENCE, Sharing.LOOSE)),
)
_CLUSTER = re.compile(r"clusters/([0-9]{1,20})/([a-z]+)(?:/(.+))?\Z", re.ASCII)
_SYSTEM = re.compile(r"([a-z]+)/([0-9]{1,20})/(.+)\Z", re.ASCII)


def place_of(key: str) -> Place | None:
    """What a key says; None for a name that no object of a repository has."""
    for row in _TOP:
        if found := row.pattern.match(key):
            return Place(row.kind, row.sharing, None, found[1], None, row.bulk)
    if inner := _CLUSTER.match(key):
        below = _BELOW.get(inner[2])
        return None if below is None else _place(below, int(inner[1]), inner[3] or "")
    if outer := _SYSTEM.match(key):
        for name, known in _SYSTEMS:
            if outer[1] == name:
                return _place(known, int(outer[2]), outer[3])
    return None


def _place(row: _Row, system: int, rest: str) -> Place | None:
    found = row.pattern.match(rest)
    if found is None:
        return None
    last, object_id = found[1], None
    if row.kind in (Kind.WAL, Kind.SUMMARY) and rest.split("/")[:2] != [last[:8], last[8:16]]:
        return None
    try:
        if row.kind in (Kind.PACK, Kind.MAP, Kind.FINGERPRINTS):
            run, _, number = last.partition("/")
            object_id = RunId.parse(run).binary + int(number, 16).to_bytes(4, "big")
        elif row.kind is Kind.MANIFEST:
            object_id = RunId.parse(last).binary + bytes(4)
    except UsageError:
        return None  # no such day
    return Place(row.kind, row.sharing, system, last, object_id, row.bulk)
