"""D01: a table is dropped under load, and brought back as it was after its last commit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from drills.report.model import CheckResult, Probe
from drills.scenarios.api import Ground, Struck
from drills.source import VICTIM, Drop
from drills.stage import Recovery
from drkit.core.cancel import CancelToken
from drkit.engines.postgres.recovery import RecoveryTarget, TargetKind
from drkit.jobs.restore_points import Wish

_AFTER_S = 1.0


@dataclass(frozen=True, slots=True)
class DroppedTable:
    """Only ever the drill's own table. Writing goes on after the drop, as it would."""

    ident: str = "D01"
    finds_its_point: bool = True

    def strike(self, ground: Ground) -> Struck:
        ground.go_on(ground.load_s)
        drop = ground.source.drop_victim()
        gone = not ground.source.has_victim()
        return Struck(
            moment=drop.moment,
            opening=f"Table {VICTIM} was dropped.",
            text=f"DROP TABLE {VICTIM} by transaction {drop.xid}, under load",
            until=drop.moment,
            proof=(Probe("the table is gone", gone, f"to_regclass says so; transaction {drop.xid}"),),
            wish=self.wish(drop),
            stopped_for=f"before commit of transaction {drop.xid & 0xFFFFFFFF},",
        )

    def wish(self, drop: Drop) -> Wish:
        """`restore --to-xid N --exclusive`: the transaction is looked for in archived WAL."""
        return Wish(RecoveryTarget(TargetKind.XID, drop.xid, inclusive=False), text=f"before transaction {drop.xid}")

    def aftermath(self, ground: Ground, struck: Struck) -> Struck:
        """The transaction can only be found when its WAL is archived."""
        ground.go_on(_AFTER_S)
        name, _, _ = ground.source.end_segment()
        target = ground.until_archived(name)
        proof = Probe("the transaction's WAL is archived", True, f"up to {name}, on {target}")
        return replace(struck, proof=(*struck.proof, proof))

    def examine(
        self, recovery: Recovery, struck: Struck, token: CancelToken
    ) -> tuple[Sequence[Probe], Sequence[CheckResult]]:
        return (), ()
