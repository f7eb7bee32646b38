"""Drill reports on every target (docs/format.md, section 9): kept, listed by their open sections, read from any.

A report is files: name -> text. What is in them is for whoever wrote them; here they are sealed, chained and found.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

import zstandard

from drkit.core.errors import Damage, DrkitError, KeyMissing, Missing, Unreachable, UsageError
from drkit.core.units import format_time, parse_time
from drkit.crypto.container import (
    DIGEST_BYTES,
    END_BYTES,
    Json,
    Opener,
    Sealed,
    canonical,
    compress,
    open_object,
    parse_header,
    parse_open_section,
)
from drkit.crypto.keys import Entropy, Ring
from drkit.repository.layout import REPORTS, Kind, RunId, report_folder, report_key
from drkit.repository.repository import Problem, Repository
from drkit.repository.target import Target
from storage_backends.api import Key
from storage_backends.errors import AlreadyExists, Damaged, NotFound, StorageError

T = TypeVar("T")

JSON_FILE = "report.json"
PASSED = "pass"
"""The only verdict that is evidence of a drill."""
_PIECE_BYTES = 4 << 20
_MAX_BYTES = 64 << 20  # of all files: a report with thousands of rows has less than one
_LEVEL = 9
_FIRST_READ_BYTES = 4096

Told = Callable[[str, str, Problem], None]
"""Hears (target, key, why) of a copy that another target served instead; must not raise."""


def _any(head: ReportHead) -> bool:
    return True


def _silent(target: str, key: str, problem: Problem) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Note:
    """What a report's open section tells. id: of the form of a backup's · at: when the drill ended, UTC.

    before: the `digest` of the report before, "" for the first.
    """

    id: str
    system_identifier: int
    at: datetime
    drill: str
    scenario: str
    cluster: str
    verdict: str
    before: str = ""


@dataclass(frozen=True, slots=True)
class ReportHead:
    """A stored report without its files, authenticated. digest: SHA-256 of its report.json · targets: who lists it."""

    id: str
    system_identifier: int
    at: datetime
    drill: str
    scenario: str
    cluster: str
    verdict: str
    digest: str
    before: str
    targets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """Where a report is now. lacking: target -> why it is not there; no target at all: it is stored nowhere."""

    id: str
    digest: str
    targets: tuple[str, ...]
    lacking: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Shelf:
    """Reports, the newest first by id. unreadable: target -> why · unopened: key -> why its head opens on no target.

    complete: all were read; else only the newest, up to a limit.
    """

    heads: Sequence[ReportHead]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    unopened: Mapping[str, str] = field(default_factory=dict)
    complete: bool = True

    @property
    def broken_links(self) -> tuple[ReportHead, ...]:
        """Reports whose forerunner is not here: it was taken away, or cannot be read."""
        digests = {head.digest for head in self.heads}
        oldest = {head.system_identifier: head for head in self.heads}  # the last one of each stays
        asked = (h for h in self.heads if self.complete or h is not oldest[h.system_identifier])
        return tuple(head for head in asked if head.before and head.before not in digests)

    def find(self, ident: str) -> ReportHead:
        """By id, a unique beginning or end of it, or `latest`. Raises Missing, UsageError."""
        if ident == "latest" and self.heads:
            return self.heads[0]
        found = [head for head in self.heads if head.id == ident]
        if not found and ident:
            found = [head for head in self.heads if head.id.startswith(ident) or head.id.endswith(ident)]
        if len(found) == 1:
            return found[0]
        cure = "`drkit drill history` shows the reports"
        if not found:
            away = ", ".join(f"{name}: {why}" for name, why in self.unreadable.items())
            raise Missing(f"no report {ident!r}", why=f"not asked: {away}" if away else "", cure=cure)
        raise UsageError(f"{len(found)} reports match {ident!r}", why=", ".join(h.id for h in found[:5]), cure=cure)


# --- keeping ------------------------------------------------------------------------------------------------------


def keep(repository: Repository, note: Note, files: Mapping[str, str], *, entropy: Entropy) -> Kept:
    """Store a report on every target that answers, the same bytes; durable on those that `Kept` names.

    Never raises for what a target may be like: that is in `lacking`. Raises UsageError for an id of another form.
    """
    key = report_key(note.system_identifier, _run(note.id))
    digest = digest_of(files)
    sealed = _seal(repository, note, files, key, digest, entropy)
    lacking = {name: str(error) for name, error in repository.absent.items()}
    stored: list[str] = []
    for target in repository.targets:
        try:
            _put(target, key, sealed)
            stored.append(target.name)
        except (StorageError, DrkitError) as error:
            lacking[target.name] = str(error)
    return Kept(note.id, digest, tuple(stored), lacking)


def digest_of(files: Mapping[str, str]) -> str:
    """What the next report names as the one before: SHA-256 of `report.json`, hex."""
    return hashlib.sha256(files[JSON_FILE].encode()).hexdigest()


def _seal(
    repository: Repository, note: Note, files: Mapping[str, str], key: Key, digest: str, entropy: Entropy
) -> Sealed:
    value: Json = {
        "name": key,
        "report": note.id,
        "system_identifier": str(note.system_identifier),
        "at": format_time(note.at),
        "drill": note.drill,
        "scenario": note.scenario,
        "cluster": note.cluster,
        "verdict": note.verdict,
        "digest": digest,
        "before": note.before,
    }
    raw = canonical(dict(files))
    if len(raw) > _MAX_BYTES:
        raise UsageError("the report is too large to be kept", why=f"{len(raw)} bytes, at most {_MAX_BYTES}")
    writer = repository.data_key.writer(Kind.REPORT, entropy(16), canonical(value))
    compressor = zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True)
    for start in range(0, len(raw), _PIECE_BYTES):
        piece = raw[start : start + _PIECE_BYTES]
        payload, codec = compress(compressor, piece)
        writer.frame(payload, len(piece), codec=codec)
    sealed = writer.finish()
    if _files(repository.ring, sealed.joined(), key) != dict(files):
        raise Damage("what was sealed does not open to what was written", where=key, cure="test this machine's memory")
    return sealed


def _put(target: Target, key: Key, sealed: Sealed) -> None:
    """Create it; meeting the very same bytes is success (the acknowledgement of an earlier try was lost)."""
    try:
        target.put(key, sealed)
    except AlreadyExists:
        if target.read(key)[-DIGEST_BYTES:] != sealed.digest:
            raise


# --- listing ------------------------------------------------------------------------------------------------------


def heads(
    repository: Repository,
    system_identifier: int | None = None,
    *,
    limit: int | None = None,
    wanted: Callable[[ReportHead], bool] = _any,
    told: Told = _silent,
) -> Shelf:
    """Reports of one system or of any, by their heads: two short reads each, from the first target that can.

    limit: end with the newest so many `wanted` ones; those met on the way are in the answer as well. Raises Unreachable
    only where no target could be listed.
    """
    found, unreadable = _listed(repository, system_identifier)
    unopened: dict[str, str] = {}
    made: list[ReportHead] = []
    left = limit
    for key, holders in found:
        if left == 0:
            return Shelf(tuple(made), unreadable, unopened, complete=False)
        head = _head(repository.ring, key, holders, unopened, told)
        if head is not None:
            made.append(head)
            left = left - 1 if left is not None and wanted(head) else left
    return Shelf(tuple(made), unreadable, unopened)


def newest_first(repository: Repository, system_identifier: int, *, told: Told = _silent) -> Iterator[ReportHead]:
    """The same one by one: who looks for the newest of a kind need not read all. Raises as `heads` does."""
    for key, holders in _listed(repository, system_identifier)[0]:
        head = _head(repository.ring, key, holders, {}, told)
        if head is not None:
            yield head


_Holders = Sequence[tuple[Target, int]]


def _listed(repository: Repository, system_identifier: int | None) -> tuple[list[tuple[Key, _Holders]], dict[str, str]]:
    """Keys with the targets that list them and the sizes there, the greatest id first; and who could not be asked."""
    prefix = REPORTS if system_identifier is None else report_folder(system_identifier)
    unreadable = {name: str(error) for name, error in repository.absent.items()}
    found: dict[Key, list[tuple[Target, int]]] = {}
    for target in repository.targets:
        try:
            mine = [(info.key, info.size_bytes) for info in target.backend.list(prefix)]
        except StorageError as error:
            unreadable[target.name] = str(error)
            continue
        for key, size_bytes in mine:
            found.setdefault(key, []).append((target, size_bytes))
    if not any(target.name not in unreadable for target in repository.targets):
        why = "; ".join(f"{name}: {text}" for name, text in unreadable.items())
        raise Unreachable("no target could be asked for reports", why=why, cure="`drkit check` tries each target")
    return sorted(found.items(), key=lambda one: one[0].rpartition("/")[2], reverse=True), unreadable


def _head(ring: Ring, key: Key, holders: _Holders, unopened: dict[str, str], told: Told) -> ReportHead | None:
    failures: list[str] = []
    for target, size_bytes in holders:
        try:
            return _open_head(ring, target, key, size_bytes, tuple(holder.name for holder, _ in holders))
        except (StorageError, DrkitError) as error:
            failures.append(f"{target.name}: {error}")
            told(target.name, key, error)
    unopened[key] = "; ".join(failures)
    return None


def _open_head(ring: Ring, target: Target, key: Key, size_bytes: int, targets: tuple[str, ...]) -> ReportHead:
    """Head and last frame alone: what the open section says is authenticated, the files are not read."""
    where = f"{target.where}: {key}"
    data = target.read(key, 0, min(size_bytes, _FIRST_READ_BYTES))
    header = parse_header(data, where)
    if header.open_bytes > size_bytes:
        raise Damage("the report is truncated", where=where, why=f"{size_bytes} bytes")
    if len(data) < header.open_bytes:
        data += target.read(key, len(data), header.open_bytes - len(data))
    header, value, _ = parse_open_section(data, where)
    if header.kind != Kind.REPORT or value.get("name") != key:
        raise Damage("the report belongs under another name", where=where, why=str(value.get("name", "")))
    opener = Opener(ring, header, data[: header.open_bytes], where)
    opener.authenticate_end(target.read(key, max(0, size_bytes - END_BYTES)))
    head = _parse(value, targets, where)
    if report_key(head.system_identifier, _run(head.id)) != key:
        raise Damage("the report belongs under another name", where=where, why=head.id)
    return head


def _parse(value: Json, targets: tuple[str, ...], where: str) -> ReportHead:
    words = ("report", "drill", "scenario", "cluster", "verdict", "digest", "before")
    texts = [value.get(word) for word in words]
    try:
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("a member is missing")
        ident, drill, scenario, cluster, verdict, digest, before = map(str, texts)
        system, at = int(str(value.get("system_identifier"))), parse_time(str(value.get("at")))
    except (ValueError, UsageError) as error:
        raise Damage("the report's head is not as the format says", where=where, why=str(error)) from error
    return ReportHead(ident, system, at, drill, scenario, cluster, verdict, digest, before, targets)


# --- reading ------------------------------------------------------------------------------------------------------


def read(repository: Repository, head: ReportHead, *, told: Told = _silent) -> dict[str, str]:
    """A report's files, whole and verified, from the first target that can serve it; `told` hears of the others.

    Raises Damage where a copy is damaged and none is sound, Missing where all lack it, KeyMissing, else Unreachable.
    """
    key = report_key(head.system_identifier, _run(head.id))

    def files(target: Target) -> dict[str, str]:
        found = _files(repository.ring, target.read(key), key)
        if digest_of(found) != head.digest:
            raise Damage("the report is another one than its head says", where=f"{target.where}: {key}")
        return found

    return _first(repository, key, files, told)


def _first(repository: Repository, key: Key, use: Callable[[Target], T], told: Told) -> T:
    failures: list[tuple[str, Problem]] = list(repository.absent.items())
    for target in repository.targets:
        try:
            return use(target)
        except KeyMissing:
            raise  # it is as sealed everywhere
        except (StorageError, DrkitError) as error:
            failures.append((target.name, error))
            told(target.name, key, error)
    why = "; ".join(f"{name}: {error}" for name, error in failures)
    if any(isinstance(error, Damage | Damaged) for _, error in failures):
        raise Damage("no target has a sound copy of the report", where=key, why=why, cure="is there one elsewhere?")
    if all(isinstance(error, NotFound) for _, error in failures):
        raise Missing("no target has the report", where=key, why=why, cure="`drkit drill history` shows the reports")
    raise Unreachable("no target could serve the report", where=key, why=why, cure="`drkit check` tries each target")


def _files(ring: Ring, data: bytes, key: Key) -> dict[str, str]:
    opened = open_object(ring, data, kind=Kind.REPORT, name=key)
    try:
        value = json.loads(opened.joined())
    except (ValueError, RecursionError) as error:
        raise Damage("the report's content is not JSON", where=key, why=str(error)) from error
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise Damage("the report's content is not files", where=key)
    if JSON_FILE not in value:
        raise Damage(f"the report has no {JSON_FILE}", where=key)
    return value


def _run(ident: str) -> RunId:
    try:
        return RunId.parse(ident)
    except UsageError as error:
        cure = "`drkit drill history` shows the reports"
        raise UsageError(f"{ident!r} is not a report's id", why=error.why, cure=cure) from None
