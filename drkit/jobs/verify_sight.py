"""One object as it stands on all targets at once, and the listings of all targets merged by key."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import blake3

from drkit.jobs.verify_survey import Need
from drkit.repository.holds import is_release
from drkit.repository.layout import Kind
from drkit.repository.names import Place
from drkit.repository.scrub import Fault, Sound
from storage_backends.api import Key, ObjectInfo

Turn = tuple[float, float]
"""A part of [0, 1): from, to; `to` may pass 1 and then goes on at 0."""


def in_turn(key: str, turn: Turn | None) -> bool:
    """Whether an object's place in [0, 1), drawn from its key, lies in this turn's part (which may reach past 1)."""
    if turn is None:
        return True
    at = int.from_bytes(blake3.blake3(key.encode()).digest(8), "little") / 2.0**64
    return turn[0] <= at < turn[1] or turn[0] <= at + 1 < turn[1]


@dataclass(frozen=True, slots=True)
class Sight:
    """An object on all targets: where it is listed, and where it must be."""

    key: Key
    place: Place
    infos: Mapping[str, ObjectInfo]
    need: Need | None
    read: bool


@dataclass(slots=True)
class Judgement:
    """What became of one object: sound copies and findings, by target."""

    sound: dict[str, Sound] = field(default_factory=dict)
    bad: dict[str, tuple[Fault, str]] = field(default_factory=dict)


def right(sight: Sight, judged: Judgement) -> bytes:
    """What `mark` says of a sound copy."""
    if sight.need is not None and sight.place.kind is not Kind.FINGERPRINTS:
        return sight.need.digest
    return next((mark(found, sight.place.kind) for found in judged.sound.values()), b"")


def mark(found: Sound, kind: Kind | None) -> bytes:
    """What two copies of one object must have in common: WAL may be sealed twice, a hold be released twice and a target
    be retired twice, by two hosts at once."""
    if kind in (Kind.WAL, Kind.HISTORY):
        return found.identity
    if kind is Kind.HOLD and is_release(str(found.json.get("name", ""))):
        return str(found.json.get("hold", "")).encode()
    if kind is Kind.RETIREMENT:
        return str(found.json.get("target", "")).encode()
    return found.digest


def merged(
    streams: Sequence[Iterator[tuple[str, str, ObjectInfo | None]]],
) -> Iterator[tuple[str, dict[str, ObjectInfo]]]:
    """Each key once, in key order, with the targets that list it."""
    last: str | None = None
    infos: dict[str, ObjectInfo] = {}
    for key, name, info in heapq.merge(*streams, key=lambda one: one[0]):
        if key != last and last is not None:
            yield last, infos
            infos = {}
        last = key
        if info is not None:
            infos[name] = info
    if last is not None:
        yield last, infos
