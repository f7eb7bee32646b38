"""What expiry keeps of one target, and why: windows, floors, and what is never deleted. Pure: no clock, no I/O.

Backups are grouped by system identifier and timeline and ordered by position and believed time, never by name. Rules
are ORed: a backup goes only when no rule keeps it. What is not known is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Protocol
from zoneinfo import ZoneInfo

from policies.lineage import Lines, base, in_use, superseded
from policies.trusted_time import Reference, Stamp, doubts, reference

_MASS, _FEW = 10, 3  # a plan that removes more than one in ten, and more than three, wants its number typed


class Reach(Protocol):
    """A length of calendar time."""

    def before(self, moment: datetime) -> datetime: ...


@dataclass(frozen=True, slots=True)
class Windows:
    """zone: in which periods begin, a name · None: that rule keeps nothing · last: which backup stands for a period."""

    zone: str = "UTC"
    pitr: timedelta | None = None
    daily: Reach | None = None
    weekly: Reach | None = None
    monthly: Reach | None = None
    yearly: Reach | None = None
    min_full: int = 3
    last: bool = False

    @property
    def periodic(self) -> bool:
        return any(one is not None for one in (self.daily, self.weekly, self.monthly, self.yearly))

    @property
    def any(self) -> bool:
        """Without any window nothing ever expires."""
        return self.pitr is not None or self.periodic


@dataclass(frozen=True, slots=True)
class Copy:
    """A backup that is complete on a target (its verdict there is good).

    start, stop: positions, bytes · stopped: host's clock · stored: see `Stamp` · whole: nothing of it is missing
    proven: a drill restored it and passed · clean: it met no damaged pages, nor took over any
    spared: why it may not go whatever the windows say (held, in use, ...)
    """

    id: str
    system: str
    timeline: int
    start: int
    stop: int
    stopped: datetime
    stored: datetime | None
    whole: bool = True
    proven: bool = False
    clean: bool = True
    spared: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Item:
    """A backup and why it stays or goes, one clause each."""

    copy: Copy
    goes: bool
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """items: by system, then in the order in which they ended · references: by system · trusted: ids."""

    items: tuple[Item, ...]
    references: Mapping[str, Reference | None]
    trusted: frozenset[str]

    @property
    def going(self) -> tuple[Item, ...]:
        return tuple(item for item in self.items if item.goes)

    @property
    def kept(self) -> tuple[Copy, ...]:
        return tuple(item.copy for item in self.items if not item.goes)

    @property
    def massive(self) -> bool:
        """More than a tenth goes, and more than may leave the windows in one day: a person says the number."""
        return len(self.going) > max(_FEW, len(self.items) // _MASS)


def decide(
    copies: Iterable[Copy],
    windows: Windows,
    lines: Mapping[str, Lines],
    *,
    skew: timedelta,
    latest: datetime | None,
) -> Plan:
    """What stays and what goes of one target. latest: its store's clock now, to find times of the future only."""
    systems: dict[str, list[Copy]] = {}
    for one in copies:
        systems.setdefault(one.system, []).append(one)
    items: list[Item] = []
    references: dict[str, Reference | None] = {}
    trusted: set[str] = set()
    for system, members in sorted(systems.items()):
        doubted = doubts(map(_stamp, members), skew, latest)
        believed = [one for one in members if one.id not in doubted]
        found = reference([one.stopped for one in believed if one.whole])
        references[system] = found
        trusted.update(one.id for one in believed)
        judged = _System(members, doubted, found, windows, lines.get(system, Lines()), skew).judge()
        items += sorted(judged, key=lambda item: (item.copy.stopped, item.copy.id))
    return Plan(tuple(items), references, frozenset(trusted))


def _stamp(one: Copy) -> Stamp:
    return Stamp(one.id, one.timeline, one.stop, one.stopped, one.stored)


Why = dict[str, list[str]]


class _System:
    """The rules for one system identifier. Each adds reasons to keep; who has none goes."""

    def __init__(
        self,
        members: Sequence[Copy],
        doubted: Mapping[str, str],
        found: Reference | None,
        windows: Windows,
        lines: Lines,
        skew: timedelta,
    ) -> None:
        self._members, self._doubted, self._reference = members, doubted, found
        self._windows, self._lines, self._skew = windows, lines, skew
        self._zone = ZoneInfo(windows.zone)
        self._good = [one for one in members if one.whole and one.id not in doubted]
        self._good.sort(key=lambda one: (one.stopped, one.stop, one.id))
        self._why: Why = {one.id: list(one.spared) for one in members}

    def judge(self) -> list[Item]:
        if not self._windows.any:
            self._keep(self._members, "no window is configured: nothing expires")
        elif self._reference is None:
            self._keep(self._members, "no backup has a time that can be trusted")
        else:
            self._never()
            self._periods()
            self._recovery(self._reference)
            self._unsure()
        return [Item(one, not self._why[one.id], tuple(self._why[one.id] or self._gone(one))) for one in self._members]

    def _keep(self, copies: Iterable[Copy], reason: str) -> None:
        for one in copies:
            self._why[one.id].append(reason)

    def _never(self) -> None:
        good, floor = self._good, self._windows.min_full
        self._keep(good[-1:], "the newest good one")
        self._keep(good[-floor:-1] if floor > 1 else [], f"one of the newest {floor}")
        clean = [one for one in good if one.clean]
        if clean[-1:] != good[-1:]:
            self._keep(clean[-1:], "the newest without damaged pages")
        newest: dict[int, Copy] = {one.timeline: one for one in good}
        leaves = [one for one in newest.values() if not superseded(one, good, self._lines)]
        self._keep([one for one in leaves if one is not good[-1]], "the newest of a timeline that nothing continues")
        proven = {one.timeline: one for one in good if one.proven}
        for timeline, one in proven.items():
            self._keep([one], f"the newest of timeline {timeline} that a drill has proven")

    def _periods(self) -> None:
        rules: list[tuple[str, Reach | None, Callable[[date], object]]] = [
            ("day", self._windows.daily, lambda day: day),
            ("week", self._windows.weekly, lambda day: day.isocalendar()[:2]),
            ("month", self._windows.monthly, lambda day: (day.year, day.month)),
            ("year", self._windows.yearly, lambda day: day.year),
        ]
        which = "last" if self._windows.last else "first"
        for name, reach, period in rules:
            if reach is None:
                continue
            chosen: dict[tuple[int, object], Copy] = {}
            for one in self._good if self._windows.last else reversed(self._good):
                chosen[one.timeline, period(self._local(one.stopped).date())] = one
            for one in chosen.values():
                if self._local(one.stopped) >= self._cut(reach, one.stopped):
                    self._keep([one], f"the {which} of its {name}")

    def _recovery(self, now: Reference) -> None:
        """The backup from which the window of every-instant recovery begins, on each path that is in use."""
        pitr = self._windows.pitr
        if pitr is None:
            return
        opens = now.opens(pitr)
        if not self._windows.periodic:
            self._keep([one for one in self._good if one.stopped >= opens], "within the recovery window")
        if self._lines.unread:
            self._keep(self._good, f"a timeline's history cannot be read: {self._lines.unread}")
            return
        for path in self._lines.paths:
            if not in_use(path, self._lines, self._members, opens, self._skew):
                continue
            first = base(path, self._good, opens)
            if first is not None:
                self._keep([one for one in self._good if one.id == first.id], "the recovery window begins with it")

    def _unsure(self) -> None:
        """Those of doubtful time or that lack something: kept as long as any window could want them."""
        for one in self._members:
            doubt = self._doubted.get(one.id)
            if doubt and (one.stored is None or self._reached(one.stored)):
                self._keep([one], f"its time is not certain: {doubt}")
            elif not one.whole and self._reached(one.stopped):
                self._keep([one], "something of it is missing or damaged here; a repair may mend it")

    def _reached(self, moment: datetime) -> bool:
        """Whether any window reaches back to a moment."""
        assert self._reference is not None
        pitr = self._windows.pitr
        if pitr is not None and moment >= self._reference.of(moment) - pitr:
            return True
        windows = (self._windows.daily, self._windows.weekly, self._windows.monthly, self._windows.yearly)
        return any(w is not None and self._local(moment) >= self._cut(w, moment) for w in windows)

    def _gone(self, one: Copy) -> list[str]:
        if self._reached(one.stopped):
            return ["other backups stand for its day, week, month and year"]
        return ["it is older than every window"]

    def _local(self, moment: datetime) -> datetime:
        return moment.astimezone(self._zone)

    def _cut(self, reach: Reach, moment: datetime) -> datetime:
        assert self._reference is not None
        return reach.before(self._local(self._reference.of(moment)))
