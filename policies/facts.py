"""What is known of targets and of the primary, as the rule of copies judges it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import IntEnum


class Grade(IntEnum):
    """How something is known, weakest first."""

    DECLARED = 1  # the configuration says so
    LISTED = 2  # the store lists it, with its size
    HASHED = 3  # it was read and its digest is right
    DRILLED = 4  # a restore from it passed


@dataclass(frozen=True, slots=True)
class Evidence:
    grade: Grade
    at: datetime


@dataclass(frozen=True, slots=True)
class Window:
    """Instants from `start` to `end`, both included, that one target alone can restore.

    Its closure is there: base backup, all it needs, WAL up to `end`, history files, a key wrap that opens.
    evidence: the weakest and oldest of any object of it; None: nobody looked.
    """

    start: datetime
    end: datetime
    evidence: Evidence | None


@dataclass(frozen=True, slots=True)
class LockProbe:
    """The last try to delete a canary version: refused is good."""

    at: datetime
    refused: bool


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """windows None: the target could not be asked · device None: not observed · findings None: not known.

    device:       a device number, or endpoint and account; the same one is the same medium
    locked_until: retention of what it holds reaches to here, None without locks
    drilled_at:   the last passed drill that used it, None without one
    credential:   who may delete there, "" where unknown · keys: any one of these opens it
    """

    name: str
    site: str
    medium: str
    device: str | None
    windows: tuple[Window, ...] | None
    locked_until: datetime | None = None
    lock_probe: LockProbe | None = None
    findings: int | None = None
    drilled_at: datetime | None = None
    credential: str = ""
    keys: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """The live primary. reachable, scan_clean None: nobody looked. devices: those of its data."""

    name: str
    site: str
    reachable: bool | None
    scan_clean: bool | None
    devices: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Terms:
    """What evidence must be worth: its age, its grade, and how long past an instant that instant is needed."""

    max_verify_age: timedelta = timedelta(days=7)
    max_drill_age: timedelta = timedelta(days=31)
    copy_grade: Grade = Grade.LISTED
    needed_for: timedelta = timedelta(days=14)
