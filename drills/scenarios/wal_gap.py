"""D10: one WAL segment is missing on every target: points before it work, points behind it are refused in planning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from drills.ledger import Moment
from drills.report.model import CheckResult, Control, Probe, State
from drills.scenarios.api import Ground, Struck
from drills.stage import Hidden, Recovery
from drkit.core.cancel import CancelToken
from drkit.core.errors import DrkitError, Refused
from drkit.core.units import format_time
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.recovery import RecoveryTarget, TargetKind
from drkit.engines.postgres.wal import WalName, parse_name, segment_name
from drkit.jobs.restore_points import Wish
from storage_backends.errors import NotFound

_BETWEEN_S = 0.5
_COMMIT = "the last commit before the gap is of"


@dataclass(frozen=True, slots=True)
class Gap:
    """The missing segment · begin: its first position · behind, behind_at: a position and a time past it."""

    name: WalName
    begin: Lsn
    behind: Lsn
    behind_at: datetime


class WalGap:
    """No object is touched: the segment is hidden from this drill's handles. Good for one drill."""

    ident = "D10"
    finds_its_point = True

    def __init__(self) -> None:
        self._gap: Gap | None = None

    @property
    def gap(self) -> Gap:
        assert self._gap is not None, "strike comes first"
        return self._gap

    def strike(self, ground: Ground) -> Struck:
        """Three segments of our own: one to keep, one to miss, one behind. All are archived before one is hidden."""
        ground.go_on(ground.load_s)
        _, end, until = ground.source.end_segment()
        for _ in range(2):
            ground.go_on(_BETWEEN_S)
            last, _, _ = ground.source.end_segment()
        size = ground.server.wal_segment_size
        timeline = parse_name(last).timeline
        number = end.segment_before(size) + 1
        gap, later = segment_name(timeline, number, size), segment_name(timeline, number + 1, size)
        for name in (gap.text, later.text, last):
            ground.until_archived(name)
        now = ground.clock.now()
        self._gap = Gap(gap, Lsn(number * size), Lsn((number + 1) * size + size // 2), now)
        now_s = ground.clock.monotonic()
        return Struck(
            moment=Moment(now_s, now_s),
            opening=f"WAL file {gap.text} was missing on every target.",
            text=f"simulated: {gap.text} is archived, and hidden from the recovery on every target",
            until=until,
            proof=(),
            hidden=self.hide(ground, gap),
            wish=Wish(RecoveryTarget(TargetKind.LSN, self.gap.begin), text=f"the last point before {gap.text}"),
            untested=("the segment was hidden, not deleted; nothing that is stored was touched",),
        )

    def hide(self, ground: Ground, gap: WalName) -> Hidden:
        key = ground.layout.wal(gap.text)
        return lambda target, other: other == key

    def aftermath(self, ground: Ground, struck: Struck) -> Struck:
        return struck

    def examine(
        self, recovery: Recovery, struck: Struck, token: CancelToken
    ) -> tuple[Sequence[Probe], Sequence[CheckResult]]:
        gap = self.gap
        proof = Probe("the segment is on no target", *_is_missing(recovery, gap.name.text))
        wishes = (
            ("latest", RecoveryTarget(TargetKind.LATEST)),
            (f"position {gap.behind}", RecoveryTarget(TargetKind.LSN, gap.behind)),
            (f"time {format_time(gap.behind_at)}", RecoveryTarget(TargetKind.TIME, gap.behind_at)),
        )
        return (proof,), [_refused(recovery, gap, what, target, token) for what, target in wishes]


def _is_missing(recovery: Recovery, file: str) -> tuple[bool, str]:
    key = recovery.catalogue.layout.wal(file)
    there = []
    for target in recovery.means.repository.targets:
        try:
            target.backend.stat(key)
            there.append(target.name)
        except NotFound:
            continue
    return not there, f"{file} is on {', '.join(there)}" if there else f"{file} is on none of those that may be read"


def _refused(recovery: Recovery, gap: Gap, what: str, target: RecoveryTarget, token: CancelToken) -> CheckResult:
    """A point behind the gap is refused, and the refusal names the segment and when the last reachable commit was."""
    title = f"{what}, behind the gap, is refused in planning"
    expected = f"a refusal that names {gap.name.text}, and when the last commit before it was"

    clock = recovery.means.clock
    begun_s = clock.monotonic()
    try:
        plan = recovery.rehearse(Wish(target, text=what), token)
        state, actual = State.FAILED, f"it was planned, up to {plan.last_wal}"
    except Refused as error:
        actual = f"{error}. {error.cure}"
        state = State.PASSED if gap.name.text in actual and _COMMIT in actual else State.FAILED
    except DrkitError as error:
        state, actual = State.FAILED, str(error)
    seconds = clock.monotonic() - begun_s
    return CheckResult("D10", title, state, True, expected, actual, Control.NONE, seconds=seconds)
