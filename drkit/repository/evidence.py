"""Evidence of verifications on the targets (docs/format.md, section 9): what was looked at, when, what is not sound.

`evidence/<system identifier>/<time>-<id>` lies beside `clusters/`, as reports do: who looks leaves the cluster as is.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import zstandard

from drkit.core.errors import Damage, DrkitError, UsageError
from drkit.core.units import format_time, parse_time
from drkit.crypto.container import Json, canonical, compress, open_object
from drkit.crypto.keys import Entropy
from drkit.repository.layout import Kind, RunId
from drkit.repository.repository import Repository
from storage_backends.api import Key
from storage_backends.errors import StorageError

KIND = "verify"
MOST_KEYS = 1000
"""So many objects that are not sound are named for each target; more say the same."""
_WALK = 64  # pieces of evidence that are read back for one answer
_LOOK_BACK = timedelta(days=400)
_SKEW = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Looked:
    """One target in one verification. whole: it was looked at to the end · unsound: key -> version, as the store told
    it, of objects that were found damaged and left so; another version there is another object."""

    whole: bool
    findings: int
    unsound: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Evidence:
    """at: when it began. turn: the part of the bulk that was read, [from, to) of [0, 1) (to may pass 1); None: all."""

    at: datetime
    system_identifier: int
    cluster: str
    deep: bool
    turn: tuple[float, float] | None
    targets: Mapping[str, Looked]


@dataclass(frozen=True, slots=True)
class Known:
    """What the targets' evidence adds up to. unsound, findings: by target, of its newest evidence.

    verified_at: since then everything on the target was read once; a target that is not in it never was.
    next_from: where the next part begins.
    """

    unsound: Mapping[str, Mapping[str, str]]
    findings: Mapping[str, int]
    verified_at: Mapping[str, datetime]
    next_from: float


NOTHING_KNOWN = Known({}, {}, {}, 0.0)


def folder(system_identifier: int) -> str:
    return f"evidence/{system_identifier}/"


def keep(repository: Repository, evidence: Evidence, *, entropy: Entropy) -> tuple[Key, dict[str, str]]:
    """Store it on every target that answers, the same bytes; returns its key, and by target why it is not there."""
    key = Key(f"{folder(evidence.system_identifier)}{RunId.new(evidence.at, entropy(4))}")
    value: Json = {
        "name": key,
        "at": format_time(evidence.at),
        "kind": KIND,
        "cluster": evidence.cluster,
        "targets": sorted(evidence.targets),
    }
    content: Json = {
        "deep": evidence.deep,
        "turn": list(evidence.turn) if evidence.turn else None,
        "targets": {
            name: {"whole": one.whole, "findings": one.findings, "unsound": dict(list(one.unsound.items())[:MOST_KEYS])}
            for name, one in evidence.targets.items()
        },
    }
    raw = canonical(content)
    writer = repository.data_key.writer(Kind.EVIDENCE, entropy(16), canonical(value))
    for start in range(0, len(raw), 4 << 20):
        piece = raw[start : start + (4 << 20)]
        payload, codec = compress(zstandard.ZstdCompressor(level=9, write_content_size=True), piece)
        writer.frame(payload, len(piece), codec=codec)
    sealed = writer.finish()
    lacking = {name: str(error) for name, error in repository.absent.items()}
    for target in repository.targets:
        try:
            target.put(key, sealed)
        except StorageError as error:
            lacking[target.name] = str(error)
    return key, lacking


def read_known(repository: Repository, system_identifier: int, now: datetime) -> Known:
    """What is known of one system's targets; what cannot be read is not known. One listing for each target, and a read
    for each piece of evidence until everything is answered, mostly one."""
    wanted = {target.name for target in repository.targets} | set(repository.absent)
    unsound: dict[str, Mapping[str, str]] = {}
    findings: dict[str, int] = {}
    verified: dict[str, datetime] = {}
    parts: dict[str, list[tuple[float, float]]] = {name: [] for name in wanted}
    next_from: float | None = None
    for one in newest_first(repository, system_identifier, now):
        if next_from is None and one.turn is not None:
            next_from = one.turn[1] % 1.0
        for name, looked in one.targets.items():
            if name not in wanted or not looked.whole:
                continue
            unsound.setdefault(name, looked.unsound)
            findings.setdefault(name, looked.findings)
            if name not in verified:
                parts[name].append(one.turn or (0.0, 1.0))
                if _covers(parts[name]):
                    verified[name] = one.at
        if wanted <= set(verified):
            break
    return Known(unsound, findings, verified, next_from or 0.0)


def unsound(repository: Repository, system_identifier: int) -> Mapping[str, Mapping[str, str]]:
    """By target, what its newest evidence calls damaged, with versions. Mostly one read."""
    found: dict[str, Mapping[str, str]] = {}
    for one in newest_first(repository, system_identifier):
        for name, looked in one.targets.items():
            if looked.whole:
                found.setdefault(name, looked.unsound)
        if {target.name for target in repository.targets} <= set(found):
            break
    return found


def _covers(parts: Sequence[tuple[float, float]]) -> bool:
    """Whether parts of [0, 1), which may reach past its end and go on at its beginning, leave nothing out."""
    at = 0.0
    for low, high in sorted([*parts, *((low - 1.0, high - 1.0) for low, high in parts)]):
        if low > at + 1e-9:
            return False
        at = max(at, high)
    return at >= 1.0 - 1e-9


def newest_first(repository: Repository, system_identifier: int, now: datetime | None = None) -> Iterator[Evidence]:
    """Evidence, from any target that has it sound. now: only of the 400 days before it, and nothing from the future."""
    prefix = folder(system_identifier)
    after = f"{prefix}{RunId.new(now - _LOOK_BACK, bytes(4))}" if now is not None else ""
    holders: dict[Key, list[int]] = {}
    for number, target in enumerate(repository.targets):
        try:
            for info in target.backend.list(prefix, after):
                holders.setdefault(info.key, []).append(number)
        except StorageError:
            continue
    for key in sorted(holders, reverse=True)[:_WALK]:
        for number in holders[key]:
            try:
                found = _open(repository, number, key, system_identifier)
            except (StorageError, DrkitError):
                continue
            if now is None or found.at <= now + _SKEW:
                yield found
            break


def _open(repository: Repository, number: int, key: Key, system_identifier: int) -> Evidence:
    target = repository.targets[number]
    opened = open_object(repository.ring, target.read(key), kind=Kind.EVIDENCE, name=key)
    try:
        content = json.loads(opened.joined())
        turn = content["turn"]
        return Evidence(
            parse_time(str(opened.json["at"])),
            system_identifier,
            str(opened.json["cluster"]),
            bool(content["deep"]),
            None if turn is None else (float(turn[0]), float(turn[1])),
            {
                str(name): Looked(bool(one["whole"]), int(one["findings"]), dict(one["unsound"]))
                for name, one in content["targets"].items()
            },
        )
    except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        raise Damage("evidence is not as the format says", where=f"{target.where}: {key}", why=str(error)) from error
