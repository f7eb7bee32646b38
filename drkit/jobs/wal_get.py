"""Fetch one WAL file for a recovering server: got, proven absent, or in doubt.

A recovering server takes 'absent' for the end of WAL and promotes. So absence is either decided by the recovery file
(past its horizon, off its path), or proven by every target that could hold the file; everything else is doubt.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import BinaryIO, TypeVar

from drkit.core.clock import Clock
from drkit.core.errors import Conflict, Damage, Failed, KeyMissing, Unreachable
from drkit.core.log import Log
from drkit.crypto.keys import Ring
from drkit.engines.postgres.timeline import parse_history
from drkit.engines.postgres.wal import WalKind, WalName, check_segment
from drkit.jobs.recovery_events import Fetch
from drkit.jobs.recovery_file import RecoveryFile
from drkit.repository.layout import ClusterLayout
from drkit.repository.repository import Problem, Repository
from drkit.repository.target import Target
from drkit.repository.wal import kind_of, open_wal
from storage_backends.errors import Damaged, NotFound, StorageError

R = TypeVar("R")
_Damaged = (Damage, Damaged, Conflict)
REPOSITORY = "repository"  # stands for the targets where not even their names are known
_TargetFault = (StorageError, Damage, KeyMissing, Conflict, Unreachable)


class Claim(StrEnum):
    """What is known about a file before any target is asked.

    ABSENT: the server must not get it · EXPECTED: it exists, so that not finding it is doubt · OPEN: it may exist;
    absent only when every target says so · UNPLANNED: the plan does without it: not finding it is absence.
    """

    ABSENT = "absent"
    EXPECTED = "expected"
    OPEN = "open"
    UNPLANNED = "unplanned"


def claim(name: WalName, recovery: RecoveryFile | None) -> tuple[Claim, str]:
    """Decide by the recovery file alone, with the reason."""
    if recovery is None:
        return Claim.OPEN, "there is no recovery file"
    if name.kind is WalKind.HISTORY:
        if name.text in recovery.histories:
            return Claim.EXPECTED, "the plan knows this history file"
        # Asked for when recovery ends, to find a timeline id that is free: a guess here must not stop the server.
        return (Claim.OPEN if recovery.standby else Claim.UNPLANNED), "the plan knows no such history file"
    if name.kind is not WalKind.SEGMENT:
        return Claim.OPEN, "recovery itself never asks for it"
    return _claim_segment(name, recovery)


def _claim_segment(name: WalName, recovery: RecoveryFile) -> tuple[Claim, str]:
    size, timeline = recovery.segment_bytes, recovery.timeline
    number = name.number(size)
    if name.timeline not in timeline.path:
        if recovery.standby and name.timeline > timeline.id:
            return Claim.OPEN, "a standby may follow a newer timeline"
        return Claim.ABSENT, f"timeline {name.timeline} is not on the path {' > '.join(map(str, timeline.path))}"
    if number < timeline.begin_of(name.timeline).segment(size):
        return Claim.ABSENT, f"timeline {name.timeline} began later, at {timeline.begin_of(name.timeline)}"
    end = timeline.end_of(name.timeline)
    if end is not None and number > end.segment_before(size):
        return Claim.ABSENT, f"the path left timeline {name.timeline} at {end}"
    if number > recovery.horizon_number:
        if recovery.standby:
            return Claim.OPEN, "a standby goes on behind the horizon"
        return Claim.ABSENT, f"it is behind the last WAL, {recovery.horizon or 'of which none is proven'}"
    if timeline.segment(number, size).text != name.text:
        return Claim.OPEN, "the path has this part under a newer timeline's name"
    return Claim.EXPECTED, f"WAL is proven up to {recovery.horizon}"


# --- fetching -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Wanted:
    """A file to fetch. segment_bytes: of the cluster, or None where nobody knows; then the object's own word counts."""

    name: WalName
    system_identifier: int
    segment_bytes: int | None


def verified(ring: Ring, target: Target, wanted: Wanted) -> Iterator[bytes]:
    """The plain bytes from one target, in pieces. Only when this has ended without an error may they be used.

    Checked: every frame, the identity, and for segments length, system identifier, address and timeline of the
    first page. Raises NotFound, Damage, Conflict, KeyMissing or another StorageError.
    """
    name, layout = wanted.name, ClusterLayout(wanted.system_identifier)
    whole = bytearray()
    with open_wal(ring, target, layout.archived(name.text), kind_of(name.text)) as found:
        size = found.facts.size_bytes
        if name.kind is WalKind.SEGMENT and size != (wanted.segment_bytes or found.facts.segment_bytes):
            raise Damage("the segment has the wrong length", where=target.where, why=f"{name.text}: {size} bytes")
        for number, piece in enumerate(found.pieces()):
            if number == 0 and name.kind in (WalKind.SEGMENT, WalKind.PARTIAL):
                check_segment(piece, name, size, wanted.system_identifier)
            if name.kind is WalKind.HISTORY:
                whole += piece
            yield piece
    if name.kind is WalKind.HISTORY:
        parse_history(name.timeline, bytes(whole))


Put = Callable[[Iterator[bytes]], int]
"""Takes the plain bytes of one attempt, whole or (where they end with an error) not at all; returns their number."""


def into(dest: Path) -> Put:
    """A Put that writes the file `dest`."""
    return partial(write_file, dest=dest)


def write_file(pieces: Iterator[bytes], dest: Path, *, mode: int = 0o666) -> int:
    """Write `pieces` to `dest`, which appears whole or not at all. Not synced: after a crash the server asks again.

    mode: of a new file, narrowed by the umask. Returns the number of bytes. Raises Failed where the local disk is the
    trouble, and whatever `pieces` raises.
    """
    size_bytes = 0
    temporary = dest.with_name(f".{dest.name}.{os.getpid()}.drkit.tmp")
    try:
        with _local(temporary, lambda: _create(temporary, mode)) as file:
            for piece in pieces:
                _local(temporary, partial(file.write, piece))
                size_bytes += len(piece)
            _local(temporary, file.flush)
        _local(dest, lambda: temporary.replace(dest))
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    return size_bytes


def _create(path: Path, mode: int) -> BinaryIO:
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode), "wb")


def _local(path: Path, call: Callable[[], R]) -> R:
    try:
        return call()
    except OSError as error:
        cure = "is there space, and may this user write there?"
        raise Failed("the fetched WAL cannot be written", where=str(path), why=str(error), cure=cure) from error


# --- asking -------------------------------------------------------------------------------------------------------


class Answer(StrEnum):
    GOT = "got"
    ABSENT = "absent"
    DOUBT = "doubt"


@dataclass(frozen=True, slots=True)
class Found:
    """source: the target that gave it (GOT) · why: for ABSENT and DOUBT · size_bytes: of the file, where GOT.

    problems: target -> what it answered last · damaged: target -> why, also of earlier rounds
    """

    answer: Answer
    source: str = ""
    why: str = ""
    problems: Mapping[str, Problem] = field(default_factory=dict)
    damaged: Mapping[str, str] = field(default_factory=dict)
    size_bytes: int = 0

    @property
    def told(self) -> str:
        """What the targets answered; those that answered the same in one."""
        by_text: dict[str, list[str]] = {}
        for name, problem in self.problems.items():
            by_text.setdefault(str(problem), []).append(name)
        return "; ".join(f"{', '.join(names)}: {text}" for text, names in by_text.items())

    def event(self, file: str) -> Fetch:
        """The line that the recovery keeps of it."""
        problems = self.problems.items()
        missing = {name: str(problem) for name, problem in problems if isinstance(problem, NotFound)}
        failed = {n: str(p) for n, p in problems if not isinstance(p, (NotFound, *_Damaged))}
        return Fetch(file, self.source, self.size_bytes, self.damaged, failed, missing)


@dataclass(frozen=True, slots=True)
class Retry:
    """rounds: how often all targets are asked · pause_s: before the second round, doubled before each later one
    total_s: no round begins later than this after the first.

    The defaults wait 15 s in all, for a store that restarts; a dead host that costs time-outs ends it by `total_s`.
    """

    rounds: int = 5
    pause_s: float = 1.0
    total_s: float = 30.0


Open = Callable[[], Repository]


def get(
    wanted: Wanted,
    put: Put,
    open_: Open,
    recovery: RecoveryFile | None,
    clock: Clock,
    log: Log,
    *,
    retry: Retry,
    last: Sequence[str] = (),
) -> Found:
    """Fetch `wanted` and give it to `put`, or say why not. `last`: targets that are asked after the others.

    open_: opens the repository; called in every round, as a target that was down may be up again, and one that was
    unmounted is another descriptor. What it raises for want of a target counts as each target's answer.
    Raises what `put` raises for its own disk (Failed), and of `open_` what no target can help (keys, configuration). A
    damaged copy is an event on `log`, and the next target serves.
    """
    known, why = claim(wanted.name, recovery)
    if known is Claim.ABSENT:
        return Found(Answer.ABSENT, why=why)
    problems: dict[str, Problem] = {}
    damaged: dict[str, str] = {}
    began = clock.monotonic()
    for attempt in range(1 if known is Claim.UNPLANNED else retry.rounds):
        if attempt:
            clock.sleep(retry.pause_s * 2 ** (attempt - 1))
            if clock.monotonic() - began > retry.total_s:
                break
        source, size_bytes, problems = _round(wanted, put, open_, recovery, log, last)
        damaged |= {name: str(problem) for name, problem in problems.items() if isinstance(problem, _Damaged)}
        if source:
            return Found(Answer.GOT, source, problems=problems, damaged=damaged, size_bytes=size_bytes)
        if _settled(problems, again=attempt > 0):
            break
    return replace(_judge(known, why, problems, log, wanted), damaged=damaged)


def _round(
    wanted: Wanted, put: Put, open_: Open, recovery: RecoveryFile | None, log: Log, last: Sequence[str]
) -> tuple[str, int, dict[str, Problem]]:
    """Ask each target once: the one that gave the file, or "", the file's size, and what the others answered."""
    try:
        repository = open_()
    except (StorageError, Unreachable, Damage) as error:
        names = [REPOSITORY] if recovery is None else _planned(recovery)
        log.warn("wal repository does not open", file=wanted.name.text, why=str(error))
        return "", 0, dict.fromkeys(names, _cannot_say(error))
    names = _consulted(repository, recovery)
    problems: dict[str, Problem] = {}
    for name in sorted(names, key=lambda name: name in last):
        answer = _try(name, wanted, put, repository, log)
        if isinstance(answer, int):
            return name, answer, problems
        problems[name] = answer
    return "", 0, problems


def _cannot_say(error: StorageError | Unreachable | Damage) -> Problem:
    """A repository that is not found has answered nothing about the file."""
    return Unreachable("the repository does not open", why=str(error)) if isinstance(error, NotFound) else error


def _settled(problems: Mapping[str, Problem], *, again: bool) -> bool:
    """Whether every target was asked and gave an answer: asking again changes nothing.

    A damaged copy is asked for once more: the bit may have been flipped on the way.
    """
    kinds = (NotFound, *_Damaged) if again else (NotFound,)
    return bool(problems) and all(isinstance(problem, kinds) for problem in problems.values())


def _planned(recovery: RecoveryFile) -> list[str]:
    return [name for name in recovery.targets if name not in recovery.without]


def _consulted(repository: Repository, recovery: RecoveryFile | None) -> list[str]:
    if recovery is None:
        return [*(t.name for t in repository.targets), *repository.absent]
    return _planned(recovery)


def _try(name: str, wanted: Wanted, put: Put, repository: Repository, log: Log) -> Problem | int:
    """The size of the file when it was given."""
    target = next((t for t in repository.targets if t.name == name), None)
    if target is None:
        return repository.absent.get(name) or Unreachable(
            f"there is no target {name!r} in the configuration", cure="the recovery file names it; give it up or add it"
        )
    try:
        return put(verified(repository.ring, target, wanted))
    except _TargetFault as error:
        if isinstance(error, _Damaged):
            log.error("wal damaged", file=wanted.name.text, target=name, why=str(error))
        elif not isinstance(error, NotFound):
            log.warn("wal target failed", file=wanted.name.text, target=name, why=str(error))
        return error


def _judge(known: Claim, why: str, problems: Mapping[str, Problem], log: Log, wanted: Wanted) -> Found:
    proven = bool(problems) and all(isinstance(problem, NotFound) for problem in problems.values())
    if known is Claim.UNPLANNED:
        if not proven:
            log.warn("wal not planned", file=wanted.name.text, why=why, targets=", ".join(problems))
        return Found(Answer.ABSENT, why=why, problems=problems)
    if proven and known is Claim.OPEN:
        return Found(Answer.ABSENT, why="every target was asked and has no such file", problems=problems)
    if proven:
        return Found(Answer.DOUBT, why=f"no target has it, but {why}", problems=problems)
    if problems and all(isinstance(problem, _Damaged) for problem in problems.values()):
        return Found(Answer.DOUBT, why="every copy of it is damaged", problems=problems)
    return Found(Answer.DOUBT, why="not every target could answer", problems=problems)
