"""Chooses the point: the backup and the WAL that proves it along the path (`restore_path`), before a byte is copied.

`decide` is pure: all that it knows comes from `Facts` and from what `Look` answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

from drkit.core.errors import Refused, UsageError
from drkit.core.units import format_time
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.records import RestorePoint, Transaction
from drkit.engines.postgres.recovery import RecoveryTarget, TargetAction, TargetKind
from drkit.engines.postgres.timeline import Timeline
from drkit.jobs.restore_path import candidates_of, path_of
from drkit.jobs.restore_points import Course, Facts, Look, Reach, Wish, stop_of
from drkit.jobs.restore_skipped import (
    ANYWHERE,
    Point,
    at_lsn,
    at_time,
    ending_behind,
    is_lost,
    note_of,
    only_damaged,
    passed_over,
    refuse_other_end,
)
from drkit.jobs.spans import Spans
from drkit.repository.catalogue import Backup


def decide(facts: Facts, wish: Wish, look: Look, now: datetime) -> Course:
    """Raises Refused, Missing or UsageError, each naming what would do; the caller has touched nothing yet."""
    return _Decision(facts, wish, look, now).course()


class _Decision:
    def __init__(self, facts: Facts, wish: Wish, look: Look, now: datetime) -> None:
        self._facts, self._wish, self._look, self._now = facts, wish, look, now
        self._notes: list[str] = []
        self._sources = [wish.source] if wish.source else list(facts.readable)
        self._lost: list[Backup] = []

    # --- the way ---

    def course(self) -> Course:
        target = self._wish.target
        if isinstance(target.value, datetime) and target.value > self._now:
            raise Refused(
                f"{format_time(target.value)} lies in the future",
                why=f"it is {format_time(self._now)} now",
                cure="--to latest is the end of what is archived",
            )
        candidates = candidates_of(self._facts, self._wish, self._sources)
        # Damage must not change what is meant by 'latest' and 'current': the damaged ones take part in the path.
        lost = [] if self._wish.backup else [b for b in self._facts.backups if is_lost(b, self._sources)]
        names = {b.summary.backup for b in (*candidates, *lost)}
        path = path_of(self._facts, self._wish, [b for b in self._facts.backups if b.summary.backup in names])
        fitting = [b for b in candidates if path.holds(b.summary.timeline, stop_of(b))]
        self._lost = [b for b in lost if path.holds(b.summary.timeline, stop_of(b))]
        if not fitting:
            raise only_damaged(f"timeline {path.id}", self._lost, self._sources)
        match target.kind:
            case TargetKind.LATEST | TargetKind.END:
                return self._at_end(path, fitting[-1])
            case TargetKind.TIME:
                return self._at_time(path, fitting)
            case TargetKind.LSN:
                return self._at_lsn(path, fitting)
            case TargetKind.XID | TargetKind.NAME:
                return self._at_record(path, fitting)

    # --- WAL ---

    def _reach(self, path: Timeline, backup: Backup) -> Reach:
        size = self._facts.segment_bytes
        first = Lsn.parse(backup.summary.start_lsn).segment(size)
        archived = self._look.archived(path, first)
        mine = Spans().union(*(archived.held[name].segments for name in self._sources if name in archived.held))
        last = mine.run_end(first)
        needed = stop_of(backup).segment_before(size)
        if last is None or last < needed:
            missing = path.segment(first if last is None else last + 1, size)
            raise Refused(
                f"WAL file {missing.text}, which backup {backup.summary.backup} itself needs, is missing",
                why=f"looked on {', '.join(self._sources)}" + self._doubt_text({**archived.failed}),
                cure=f"choose another backup with --backup, or `drkit wal push` {missing.text} from a server's pg_wal",
            )
        return Reach(archived, first, last, Lsn((last + 1) * size))

    def _course(
        self,
        path: Timeline,
        backup: Backup,
        reach: Reach,
        target: RecoveryTarget,
        last_commit: datetime | None,
        point: Point = ANYWHERE,
    ) -> Course:
        """point: what a newer backup is measured by, to be named where it had to be passed over."""
        archived, last = reach.archived, reach.last
        skipped = () if self._wish.backup else passed_over(self._facts, self._sources, path, backup, point)
        if target.kind is TargetKind.END:
            refuse_other_end(skipped, backup, self._facts)
        sources = [name for name in self._sources if name in backup.good_on]
        if target.kind is TargetKind.LATEST and target.action is not TargetAction.PROMOTE:
            self._notes.append(f"recovery to the end of WAL always promotes: --action {target.action.value} has no say")
        partials = {n for held in archived.held.values() for n in held.partials if n == last + 1}
        for number in sorted(partials):
            name = path.candidates(number, self._facts.segment_bytes)[-1].text
            self._notes.append(f"{name}.partial is archived too; recovery does not read it")
        return Course(
            backup=backup,
            path=path,
            target=replace(target, timeline=path.id),
            sources=tuple(sources),
            wal_sources=(*self._sources, *(() if self._wish.source else sorted(self._facts.doubtful))),
            reach=reach,
            last_commit=last_commit,
            notes=(*map(note_of, skipped), *self._notes),
            skipped=skipped,
        )

    def _doubt_text(self, failed: Mapping[str, str]) -> str:
        doubt = {**self._facts.doubtful, **failed}
        if not doubt:
            return ""
        return "; not asked: " + "; ".join(f"{name} ({why})" for name, why in sorted(doubt.items()))

    def _no_doubt(self, path: Timeline, reach: Reach, what: str) -> None:
        """Raises Refused where more was archived than can be read: a target not asked, a gap, WAL elsewhere or lost."""
        archived, last = reach.archived, reach.last
        doubt = {**self._facts.doubtful, **archived.failed}
        if doubt:
            names = sorted(doubt)
            raise Refused(
                f"{what} cannot be known while {', '.join(names)} cannot be asked",
                why="; ".join(f"{name}: {doubt[name]}" for name in names),
                cure="bring it back, or give it up: " + " ".join(f"--without {name}" for name in names),
            )
        size, beyond = self._facts.segment_bytes, archived.union.after(last)
        witness = ending_behind(self._facts.backups, path, reach.end)
        if beyond is None and witness is None:
            return
        missing, end = path.segment(last + 1, size).text, reach.end
        holders = archived.holders(last + 1)
        if holders:
            raise Refused(
                f"{what} lies beyond what {', '.join(self._sources)} holds",
                why=f"WAL file {missing} is on {', '.join(holders)} only",
                cure=f"leave --from out, or stop at the last point before it: --to-lsn {end}",
            )
        if beyond is None:
            proof = witness
        else:
            proof = f"{path.segment(beyond, size).text} is archived{self._gap_times(path, reach, beyond)}"
        raise Refused(
            f"{what} lies behind a gap in the WAL",
            why=f"WAL file {missing} is on no target, but {proof}",
            cure=f"either restore to the last point before the gap: --to-lsn {end}; or bring back {missing} "
            "(`drkit wal push` it from a server's pg_wal) and ask again",
        )

    def _gap_times(self, path: Timeline, reach: Reach, beyond: int) -> str:
        """When the gap is: the last commit before it, and when the store got what lies behind it, where known."""
        last = self._last_commit(path, reach) if self._wish.scan else None
        stored = self._look.stored_at(path, beyond)
        before = f"; the last commit before the gap is of {format_time(last.time)}" if last else ""
        return before + (f"; what follows it was archived {format_time(stored)}" if stored else "")

    # --- kinds ---

    def _at_end(self, path: Timeline, backup: Backup) -> Course:
        reach = self._reach(path, backup)
        target = self._wish.target
        if target.kind is TargetKind.END:
            return self._course(path, backup, reach, target, None)
        self._no_doubt(path, reach, "the latest point")
        last = self._last_commit(path, reach) if self._wish.scan else None
        return self._course(path, backup, reach, target, last.time if last else None)

    def _at_time(self, path: Timeline, fitting: Sequence[Backup]) -> Course:
        target = self._wish.target
        moment = target.value
        assert isinstance(moment, datetime)
        point = at_time(moment)
        before = [b for b in fitting if point.fits(b)]
        if not before:
            self._need_whole(point, format_time(moment))
            raise self._too_early(fitting, format_time(moment), lambda b: _started(b) <= moment < b.summary.stopped)
        backup = before[-1]
        reach = self._reach(path, backup)
        if not self._wish.scan:
            self._notes.append("--no-scan: whether a transaction ended after that time is left to the server")
            return self._course(path, backup, reach, target, None, point)
        last = self._last_commit(path, reach)
        if last is not None and (last.time > moment or (last.time == moment and not target.inclusive)):
            return self._course(path, backup, reach, target, last.time, point)
        return self._past_last_commit(path, backup, reach, moment, last)

    def _past_last_commit(
        self,
        path: Timeline,
        backup: Backup,
        reach: Reach,
        moment: datetime,
        last: Transaction | None,
    ) -> Course:
        """No transaction ends after the time: the last one is meant, where the archive reaches that far."""
        known = f"the last commit in the archive is of {format_time(last.time)}" if last else "no commit follows"
        self._no_doubt(path, reach, f"the state at {format_time(moment)}")
        stored = self._look.stored_at(path, reach.last)
        if stored is None or stored < moment:
            name = path.segment(reach.last, self._facts.segment_bytes).text
            at = f", archived {format_time(stored)}" if stored else ""
            raise Refused(
                f"{format_time(moment)} lies after the last archived WAL",
                why=f"WAL ends with {name}{at}; {known}",
                cure="--to latest restores all that is archived",
            )
        self._notes.append(f"no transaction ended between then and the end of WAL: {known}, and that is restored")
        target = replace(self._wish.target, kind=TargetKind.LATEST, value=None)
        point = at_time(moment)
        return self._course(path, backup, reach, target, last.time if last else None, point)

    def _at_lsn(self, path: Timeline, fitting: Sequence[Backup]) -> Course:
        lsn = self._wish.target.value
        assert isinstance(lsn, Lsn)
        point = at_lsn(lsn)
        before = [b for b in fitting if point.fits(b)]
        if not before:
            self._need_whole(point, str(lsn))
            raise self._too_early(fitting, str(lsn), lambda b: Lsn.parse(b.summary.start_lsn) <= lsn < stop_of(b))
        backup = before[-1]
        reach = self._reach(path, backup)
        end = reach.end
        if lsn > end:
            self._no_doubt(path, reach, f"position {lsn}")
            raise Refused(
                f"{lsn} lies after the last archived WAL",
                why=f"WAL ends at {end}, with {path.segment(reach.last, self._facts.segment_bytes).text}",
                cure="--to latest restores all that is archived",
            )
        if not self._wish.scan:
            self._notes.append("--no-scan: whether a record begins at or after that position is left to the server")
        elif lsn == end or self._look.record_at_or_after(path, lsn, reach.last) is None:
            self._notes.append(f"no record begins between {lsn} and the end of WAL: all of it up to {end} is restored")
            target = replace(self._wish.target, kind=TargetKind.LATEST, value=None)
            return self._course(path, backup, reach, target, None, point)
        return self._course(path, backup, reach, self._wish.target, None, point)

    def _at_record(self, path: Timeline, fitting: Sequence[Backup]) -> Course:
        """Newest backup first; one whose own WAL holds the point, before its stop, cannot stop there."""
        target, what = self._wish.target, self._record_text()
        if not self._wish.scan:
            if not self._wish.backup:
                raise UsageError(f"where {what} is takes a scan of the WAL", cure="add --backup, or scan")
            self._notes.append(f"--no-scan: whether {what} is in the WAL is left to the server")
            return self._course(path, fitting[-1], self._reach(path, fitting[-1]), target, None)
        size, upto = self._facts.segment_bytes, None
        within: Transaction | RestorePoint | None = None
        seen: list[str] = []
        ends: list[Reach] = []
        for backup in reversed(fitting):
            reach = self._reach(path, backup)
            ends.append(reach)
            last = reach.last if upto is None else min(reach.last, upto)
            found = next(self._matches(path, reach.first, last, seen), None)
            if found is not None and found.lsn >= stop_of(backup):
                self._notes.append(f"{what} is at {found.lsn}, {format_time(found.time)}")
                return self._course(path, backup, reach, target, None, at_lsn(found.lsn))
            within = found or within
            upto = stop_of(backup).segment_before(size)
        if within is not None:
            backup = fitting[0]
            self._need_whole(at_lsn(within.lsn), what)
            raise Refused(
                f"{what} lies within the first backup",
                why=f"{backup.summary.backup} stopped only at {backup.summary.stop_lsn}; no earlier one is good",
                cure="--to end with that backup is the first point that can be reached",
            )
        if not seen or target.kind is TargetKind.NAME:
            self._no_doubt(path, ends[0], f"{what}, if it exists,")
        raise Refused(
            f"{what} is not in the archived WAL",
            why=f"looked from the backup of {fitting[0].summary.stopped_at} to the end of WAL on timeline {path.id}"
            + self._doubt_text({})
            + self._older_text(fitting[0])
            + "".join(f"; {one}" for one in seen[:1] if target.kind is TargetKind.XID),
            cure=("restore points there: " + ", ".join(seen[-10:]))
            if seen and target.kind is TargetKind.NAME
            else "`drkit windows` shows what can be reached; pick it by --to TIME or --to-lsn",
        )

    def _older_text(self, first: Backup) -> str:
        older = [b.summary.backup for b in self._lost if stop_of(b) < stop_of(first)]
        return f"; older ones are damaged: {', '.join(older)}" if older else ""

    def _matches(self, path: Timeline, first: int, last: int, seen: list[str]) -> Iterator[Transaction | RestorePoint]:
        value = self._wish.target.value
        if isinstance(value, str):
            for point in self._look.restore_points(path, first, last):
                if point.name == value:
                    yield point
                elif point.name not in seen:
                    seen.append(point.name)
            return
        assert isinstance(value, int)
        for one in self._look.ends_of(path, first, last, value):
            if one.xid == value & 0xFFFFFFFF:
                yield one
            else:
                seen.append(f"it is a subtransaction of {one.xid}: --to-xid {one.xid}")

    def _record_text(self) -> str:
        target = self._wish.target
        return f"restore point {target.value!r}" if target.kind is TargetKind.NAME else f"transaction {target.value}"

    # --- refusals ---

    def _need_whole(self, point: Point, text: str) -> None:
        """Raises Damage where a damaged backup ended before the point, which none that is whole did."""
        lost = [b for b in self._lost if point.fits(b)]
        if lost:
            raise only_damaged(text, lost, self._sources)

    def _last_commit(self, path: Timeline, reach: Reach) -> Transaction | None:
        return self._look.last_transaction(path, reach.first, reach.last)

    def _too_early(self, fitting: Sequence[Backup], point: str, within: Callable[[Backup], bool]) -> Refused:
        first = fitting[0]
        inside = next((b for b in fitting if within(b)), None)
        if inside is not None:
            what = f"{point} lies within backup {inside.summary.backup}"
            why = f"it ran from {inside.summary.started_at} to {inside.summary.stopped_at}, and no earlier one is good"
        else:
            what = (
                f"{point} lies before the first good backup"
                if len(fitting) > 1 or not self._wish.backup
                else (f"{point} lies before the end of backup {first.summary.backup}")
            )
            why = f"{first.summary.backup} stopped at {first.summary.stopped_at}, {first.summary.stop_lsn}"
        cure = f"the first point is --to end --backup {first.summary.backup}"
        return Refused(what, why=why, cure=cure)


def _started(backup: Backup) -> datetime:
    return datetime.fromisoformat(backup.summary.started_at)
