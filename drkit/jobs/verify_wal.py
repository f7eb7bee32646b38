"""Is WAL unbroken, from the first backup on, on each target? By the names that are listed, along every timeline."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from drkit.core.errors import DrkitError
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.timeline import Timeline, Timelines
from drkit.engines.postgres.wal import WalKind, WalNameError, parse_name
from drkit.jobs.archive import read_histories
from drkit.jobs.spans import Spans
from drkit.jobs.verify_facts import Finding, Ground, Hole, TargetTally
from drkit.jobs.verify_survey import Manifested, Survey
from drkit.repository.inventory import Inventory
from drkit.repository.layout import Kind
from drkit.repository.names import Place, place_of
from drkit.repository.scrub import Fault
from drkit.repository.target import Target
from storage_backends.api import Key
from storage_backends.errors import StorageError

_MOST = 100_000  # findings of one run; what is behind them shows in the next one


@dataclass(slots=True)
class Continuity:
    """WAL of one system as it is listed: `note` each object in key order, then ask. Memory: the spans."""

    survey: Survey
    ground: Ground
    _spans: dict[tuple[int, str], list[tuple[int, int]]] = field(default_factory=dict)
    _histories: set[int] = field(default_factory=set)

    @property
    def segment_bytes(self) -> int:
        """Of the cluster, by its backups; 0 where there is none: then no WAL is of use."""
        return next((one.summary.segment_bytes for one in self.survey.backups.values()), 0)

    def note(self, target: str, place: Place, key: Key) -> None:
        held = self.survey.held.get(target)
        if held is None or held.is_buried(key) or not self.segment_bytes:
            return
        try:
            name = parse_name(place.last, self.segment_bytes)
        except WalNameError:
            return
        if name.kind is WalKind.HISTORY:
            self._histories.add(name.timeline)
        if name.kind is not WalKind.SEGMENT:
            return
        spans, number = self._spans.setdefault((name.timeline, target), []), name.number(self.segment_bytes)
        if spans and spans[-1][1] == number - 1:
            spans[-1] = (spans[-1][0], number)
        else:
            spans.append((number, number))

    def judge(
        self, wanted: Collection[str], known: Collection[tuple[str, str]], tallies: dict[str, TargetTally]
    ) -> tuple[list[Finding], list[Hole]]:
        """What is missing on a target and another one has, and what none has; less the (target, key) in `known`."""
        findings: dict[tuple[str, str], Finding] = {}
        holes: dict[tuple[str, str, str], Hole] = {}
        for path in self._paths():
            for name in wanted:
                if name not in self.survey.held or tallies[name].failed:
                    continue
                for one in self._on(name, path, tallies[name]):
                    if isinstance(one, Hole):
                        holes[one.target, one.first, one.last] = one
                    elif (one.target, one.key) not in known and len(findings) < _MOST:
                        findings[one.target, one.key] = one
        lost = [one for name in wanted for one in self._histories_gone(name)]
        return [*findings.values(), *(f for f in lost if (f.target, f.key) not in known)], list(holes.values())

    def _paths(self) -> list[Timeline]:
        """Every timeline, with its ancestors where the key opens the history; else each one by itself."""
        also = {timeline for timeline, _ in self._spans} | {b.summary.timeline for b in self.survey.backups.values()}
        if self.ground.keyed is None:
            return [Timeline(one) for one in sorted(also)]
        ring, layout = self.ground.keyed.ring, self.survey.layout
        inventories = {t.name: Inventory(t, layout, ring) for t in self.ground.targets if t.name in self.survey.held}
        try:
            return list(Timelines(read_histories(ring, inventories, _silent).timelines, also))
        except (StorageError, DrkitError):
            return [Timeline(one) for one in sorted(also)]

    def _along(self, path: Timeline, target: str) -> Spans:
        """Segments of the path under the name that recovery asks for first."""
        found = Spans()
        for timeline in path.path:
            low, end = path.begin_of(timeline).segment(self.segment_bytes), path.end_of(timeline)
            high = None if end is None else end.segment(self.segment_bytes) - 1
            if high is None or high >= low:
                found = found.union(Spans(tuple(self._spans.get((timeline, target), []))).cut(low, high))
        return found

    def _on(self, target: str, path: Timeline, tally: TargetTally) -> Iterator[Finding | Hole]:
        fitting = [one for one in self.survey.good_on(target) if self._leads(path, one)]
        others = [t.name for t in self.ground.targets if t.name != target and t.name in self.survey.held]
        if not fitting:
            return
        low = min(Lsn.parse(one.summary.start_lsn).segment(self.segment_bytes) for one in fitting)
        mine = self._along(path, target).cut(low)
        there = Spans().union(*(self._along(path, name) for name in others)).cut(low)
        if self.ground.keyed is None:
            first = min((spans.spans[0][0] for spans in (mine, there) if spans.spans), default=low)
            low = max(low, first)
        if mine.last is None:
            return
        behind = sum(b - a + 1 for a, b in there.cut(mine.last + 1).spans)
        tally.behind = max(tally.behind, behind)
        held = self.survey.held[target]
        for a, b in _between(mine, low):
            if held.buried is None:
                yield self._hole(target, path, a, b, doubt=True)
                continue
            numbers = [n for n in range(a, min(b, a + _MOST) + 1) if not held.is_buried(self._key(path, n))]
            for n in (n for n in numbers if n in there):
                yield self._finding(target, path, n, [name for name in others if n in self._along(path, name)])
            for first, last in Spans.of(n for n in numbers if n not in there).spans:
                yield self._hole(target, path, first, last, doubt=False)

    def _leads(self, path: Timeline, one: Manifested) -> bool:
        if self.ground.keyed is None:
            return True
        return path.holds(one.summary.timeline, Lsn.parse(one.summary.stop_lsn))

    def _key(self, path: Timeline, number: int) -> str:
        return self.survey.layout.wal(path.segment(number, self.segment_bytes).text)

    def _finding(self, target: str, path: Timeline, number: int, sources: Sequence[str]) -> Finding:
        key = self._key(path, number)
        place = place_of(key)
        assert place is not None
        why = f"WAL of timeline {path.id} has a gap there"
        return Finding(target, key, place, Fault.MISSING, why, None, tuple(sources))

    def _hole(self, target: str, path: Timeline, first: int, last: int, *, doubt: bool) -> Hole:
        names = [path.segment(number, self.segment_bytes).text for number in (first, last)]
        system = self.survey.layout.system_identifier
        return Hole(target, system, path.id, names[0], names[1], last - first + 1, doubt)

    def _histories_gone(self, target: str) -> Iterator[Finding]:
        """A timeline after the first one, of which there is WAL and no target has the history."""
        for timeline in sorted({timeline for timeline, name in self._spans if name == target and timeline > 1}):
            file = f"{timeline:08X}.history"
            need = self.survey.need(Kind.HISTORY, file.encode())
            key = self.survey.layout.history(file)
            place = place_of(key)
            if timeline in self._histories or place is None or need is not None:
                continue
            if not self.survey.held[target].is_buried(key):
                yield Finding(target, key, place, Fault.MISSING, f"there is WAL of timeline {timeline}, and no history")


def _between(spans: Spans, low: int) -> Iterator[tuple[int, int]]:
    """What is not held from `low` to the last number held."""
    at = low
    for first, last in spans.spans:
        if first > at:
            yield at, first - 1
        at = last + 1


def _silent(target: Target, key: str, problem: object) -> None:
    return None
