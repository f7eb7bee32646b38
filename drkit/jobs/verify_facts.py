"""What a verification is asked, what it stands on and what it finds."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from pathlib import Path

from drkit.core.errors import Conflict, Damage, DrkitError, Unreachable
from drkit.repository.identity import Descriptor, read_descriptor
from drkit.repository.names import Place
from drkit.repository.pins import Pins
from drkit.repository.repository import Problem, Repository
from drkit.repository.scrub import Fault
from drkit.repository.target import Target
from storage_backends.api import ObjectInfo
from storage_backends.errors import NotFound, NotThisTarget, StorageError


@dataclass(frozen=True, slots=True)
class VerifyOrder:
    """cluster: the name whose systems are looked at, "": all · targets: names, empty: all · part: of the bulk that this
    run reads, 1.0: all of it · quarantine: where damaged bytes are kept when they are replaced
    keys: only these objects, opened whatever their kind, and no evidence of it; empty: all
    suspects: keys that are read whatever the part: someone met them damaged.
    """

    cluster: str
    targets: frozenset[str]
    deep: bool
    part: float
    repair: bool
    workers: int
    host: str
    quarantine: Path
    keys: frozenset[str] = frozenset()
    suspects: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Ground:
    """repository, key_id: as the descriptors say · keyed None: there is no key, and `keyless` says why

    hurt: target -> what is wrong with its own descriptor; it is read, never written to · absent: not looked at.
    """

    repository: bytes
    key_id: str
    targets: Sequence[Target]
    absent: Mapping[str, Problem]
    hurt: Mapping[str, str]
    keyed: Repository | None
    keyless: str

    def target(self, name: str) -> Target:
        return next(target for target in self.targets if target.name == name)


def stand(
    targets: Sequence[Target], failed: Mapping[str, Problem], pins: Pins, keyed: Repository | None, keyless: str = ""
) -> Ground:
    """Which targets can be looked at: by their descriptors alone, and as the key opened them where there is one.

    Raises Conflict where they are of different repositories, Damage or Unreachable where nothing can be looked at.
    """
    absent: dict[str, Problem] = dict(failed)
    hurt: dict[str, str] = {}
    known: dict[str, Descriptor] = {}
    for target in targets:
        try:
            known[target.name] = _identify(target, pins)
        except Damage as error:
            hurt[target.name] = str(error)
        except (StorageError, DrkitError) as error:
            absent[target.name] = error
    for name, problem in keyed.absent.items() if keyed else ():
        if name in known and isinstance(problem, Damage):
            hurt[name] = str(problem)
        elif name in known:
            absent[name] = problem
    names = {(known[name].repository, known[name].key_id) for name in known if name not in absent}
    if len(names) > 1:
        raise Conflict("the targets belong to different repositories", where=", ".join(known))
    if not names:
        why = "; ".join([*(f"{n}: {e}" for n, e in absent.items()), *(f"{n}: {e}" for n, e in hurt.items())])
        kind = Damage if hurt and not absent else Unreachable
        raise kind("no target can be verified", why=why, cure="`drkit check` tries each of them")
    looked = [target for target in targets if target.name not in absent]
    return Ground(*next(iter(names)), tuple(looked), absent, hurt, keyed, keyless)


def _identify(target: Target, pins: Pins) -> Descriptor:
    try:
        found = read_descriptor(target)
    except NotFound:
        why = "the object 'repository' is missing"
        cure = (
            "is the disk mounted, the bucket right? if only that object was lost: is there a copy of this very target?"
        )
        raise NotThisTarget("there is no repository", where=target.where, why=why, cure=cure) from None
    pin = pins.targets.get(target.name)
    if pin is not None and (pin.repository, pin.target) != (found.repository.hex(), found.target.hex()):
        raise NotThisTarget("this is not the target that this host knows", where=target.where)
    return found


class Outcome(StrEnum):
    """What became of a finding. LEFT: as found · LOST: no target has a sound copy · FADED: it was gone when looked at
    again: healed, or deleted meanwhile, by someone else."""

    LEFT = "left"
    LOST = "lost"
    REPAIRED = "repaired"
    FADED = "faded"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong with one object on one target.

    info: as it was listed, None where it is missing · digest: that a sound one has (of WAL: its identity)
    sources: targets with a sound copy · needed_by: backups that cannot do without it
    kept: where the damaged bytes are, after a repair · note: why it was not repaired, or what became of it
    """

    target: str
    key: str
    place: Place
    fault: Fault
    why: str
    info: ObjectInfo | None = None
    sources: tuple[str, ...] = ()
    needed_by: tuple[str, ...] = ()
    digest: bytes = b""
    outcome: Outcome = Outcome.LEFT
    kept: str = ""
    note: str = ""

    def became(self, outcome: Outcome, note: str = "", kept: str = "") -> Finding:
        return replace(self, outcome=outcome, note=note, kept=kept or self.kept)


@dataclass(frozen=True, slots=True)
class Hole:
    """WAL that no target has: segments first to last by name, in the path of a timeline, on this target.

    doubt: a round of tombstones does not open there, and may have named it.
    """

    target: str
    system: int
    timeline: int
    first: str
    last: str
    missing: int
    doubt: bool = False


@dataclass(frozen=True, slots=True)
class BadPages:
    """Pages of a backup's file whose checksum is wrong though the stored bytes are what the backup read.

    known: the backup itself had met and recorded them.
    """

    target: str
    backup: str
    path: bytes
    blocks: tuple[int, ...]
    known: bool

    @property
    def text(self) -> str:
        return os.fsdecode(self.path)


@dataclass(frozen=True, slots=True)
class HurtFile:
    """A file of a backup that does not rebuild from one target; path b"": the manifest itself does not open."""

    target: str
    backup: str
    path: bytes
    why: str

    @property
    def text(self) -> str:
        return os.fsdecode(self.path)


@dataclass(slots=True)
class TargetTally:
    """What was looked at on one target. extra: objects that nothing reaches, by the run or folder that they are of."""

    objects: int = 0
    stored_bytes: int = 0
    read_objects: int = 0
    read_bytes: int = 0
    extra: dict[str, list[int]] = field(default_factory=dict)
    strange: list[str] = field(default_factory=list)
    behind: int = 0
    failed: str = ""


@dataclass(frozen=True, slots=True)
class VerifyResult:
    """turn: the part of the bulk that was read, [from, to) of [0, 1), or None for all · evidence: its key, "": none."""

    ground: Ground
    systems: Sequence[int]
    tallies: Mapping[str, TargetTally]
    findings: Sequence[Finding]
    holes: Sequence[Hole]
    pages: Sequence[BadPages]
    files: Sequence[HurtFile]
    turn: tuple[float, float] | None
    deep: bool
    seconds: float
    evidence: str = ""

    @property
    def left(self) -> list[Finding]:
        return [
            f for f in self.findings if f.outcome in (Outcome.LEFT, Outcome.LOST) and f.fault is not Fault.UNREADABLE
        ]

    @property
    def damaged(self) -> bool:
        """Whether damage is left, anywhere."""
        pages = any(not one.known for one in self.pages)
        return bool(self.left or pages or self.files or any(not hole.doubt for hole in self.holes))

    @property
    def unread(self) -> dict[str, str]:
        """Targets that could not be looked at, or not to the end -> why."""
        found = {name: str(error) for name, error in self.ground.absent.items()}
        found |= {name: one.failed for name, one in self.tallies.items() if one.failed}
        for one in self.findings:
            if one.fault is Fault.UNREADABLE and one.outcome is Outcome.LEFT:
                found.setdefault(one.target, f"{one.key}: {one.why}")
        return found
