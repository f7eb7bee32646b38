"""What follows a restore: the objects that a target could not serve are mended there, and told."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from drkit.cli.wire import Wiring

if TYPE_CHECKING:
    from collections.abc import Sequence

    from drkit.jobs.means import Means
    from drkit.jobs.restore import RestoreResult
    from drkit.jobs.restore_plan import Plan
    from drkit.jobs.restore_repair import Mended
    from drkit.jobs.restore_start import Started

_SHOWN = 20


def mend_what_was_met(
    wiring: Wiring, plan: Plan, result: RestoreResult, started: Started | None, means: Means, *, repair: bool
) -> list[Mended]:
    """Repair by the credentials at hand; [] where every target served all. Never raises for want of success."""
    from drkit.jobs.restore_repair import mend, met
    from drkit.jobs.verify import Surroundings
    from drkit.jobs.verify_facts import VerifyOrder, stand
    from drkit.repository.spool import Spool

    keys = met(plan, result, started)
    if not keys:
        return []
    repository, spool = means.repository, wiring.config.daemon.spool
    order = VerifyOrder(
        cluster="",
        targets=frozenset(),
        deep=False,
        part=1.0,
        repair=repair,
        workers=plan.order.workers,
        host=os.uname().nodename,
        quarantine=spool / "damaged",
        keys=keys,
    )
    around = Surroundings(wiring.clock, os.urandom, wiring.token, wiring.progress, wiring.log)
    return mend(
        lambda: stand(repository.targets, repository.absent, wiring.pins(), repository), order, around, Spool(spool)
    )


def note_what_was_met(wiring: Wiring, plan: Plan, result: RestoreResult) -> None:
    """Leave it to the next verification on this host."""
    from drkit.jobs.restore_repair import MOST, met
    from drkit.repository.spool import Spool

    Spool(wiring.config.daemon.spool).suspect(sorted(met(plan, result))[:MOST])


def repairs_json(repairs: Sequence[Mended]) -> list[dict[str, object]]:
    return [
        {
            "target": one.target or None,
            "object": one.key,
            "outcome": one.outcome.value,
            "why": one.why,
            "kept": one.kept or None,
            "cure": one.cure or None,
        }
        for one in repairs
    ]


def repairs_text(repairs: Sequence[Mended]) -> str:
    """A line for each object, and one for what is left to do."""
    lines = [_line(one) for one in repairs[:_SHOWN]]
    lines += [f"  {len(repairs) - _SHOWN} more; --json names all"] if len(repairs) > _SHOWN else []
    lines += [f"  left to do: `{cure}`" for cure in dict.fromkeys(one.cure for one in repairs if one.cure)]
    return "".join(f"{line}\n" for line in lines)


def _line(one: Mended) -> str:
    where = f" on {one.target}" if one.target else ""
    kept = f"; the damaged bytes: {one.kept}" if one.kept else ""
    word = {"repaired": "repaired", "left": "not repaired", "lost": "LOST", "faded": "whole by now"}[one.outcome]
    return f"  {word}{where}: {one.key}: {one.why}{kept}"
