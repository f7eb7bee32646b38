"""`drkit status`: one screen that tells whether all is well. `drkit check --liveness` is made from the same."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.context import of
from drkit.cli.exits import DONE, PROMISE, UNREACHABLE
from drkit.cli.policy import order_of
from drkit.cli.render import answer_json
from drkit.cli.wire import Wiring, open_wiring
from drkit.core.errors import Conflict, Damage, KeyMissing, Unreachable
from storage_backends.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from drkit.config.model import Cluster
    from drkit.daemon.seen import Seen
    from drkit.daemon.status import Status
    from drkit.jobs.means import Means
    from drkit.repository.repository import Problem
    from policies.protection import Finding


def run(ctx: typer.Context, cluster: Annotated[str | None, typer.Argument(metavar="[CLUSTER]")] = None) -> int:
    """Is every cluster protected? Backups, archiving, windows, drills and runs, judged. 0: all is well."""
    from drkit.cli.status_json import status_json
    from drkit.cli.status_text import show

    context = of(ctx)
    with open_wiring(context) as wiring:
        status = read_status(wiring, cluster)
        if context.json:
            answer_json("drkit.status/1", status_json(status))
        else:
            show(status, color=context.color)
    return exit_of(status.findings)


def exit_of(findings: Iterable[Finding]) -> int:
    """A broken promise before a target that cannot be read, and that before what else is not known."""
    from policies.protection import Level

    found = list(findings)
    if any(one.level is Level.BAD for one in found):
        return PROMISE
    if any(one.kind == "target.unreadable" for one in found):
        return UNREACHABLE
    return PROMISE if any(one.level is Level.UNKNOWN for one in found) else DONE


def read_status(wiring: Wiring, cluster: str | None) -> Status:
    """Asks the daemon, the servers and the targets. Raises ConfigError, UsageError."""
    from drkit.daemon.duties import broken_drills, duties
    from drkit.daemon.status import judge_status, read_mail, recorded_runs, see_daemon

    config = wiring.config
    names = sorted(config.cluster) if cluster is None else [wiring.cluster(cluster)[0]]
    # First the daemon, then the targets: what it says is done is then seen there.
    daemon = see_daemon(config.daemon.spool, config.daemon.socket, expected=bool(config.schedule))
    opened = _opened(wiring)
    seen = [_see(wiring, name, config.cluster[name], opened) for name in names]
    bells = {duty.bell.id for duty in duties(config)}
    recorded = [] if daemon.alive else recorded_runs(config.daemon.spool, bells)
    mail = read_mail(config.daemon.spool, ("webhook", "command"))
    return judge_status(wiring.clock.now(), daemon, seen, recorded, mail, broken_drills(config))


def _opened(wiring: Wiring) -> Means | Problem:
    try:
        return wiring.means(reading=True)
    except (StorageError, Unreachable, KeyMissing, Damage, Conflict) as error:
        return error


def _see(wiring: Wiring, name: str, cluster: Cluster, opened: Means | Problem) -> Seen:
    from drkit.daemon.seen import Look
    from drkit.repository.spool import Spool

    try:
        secret = wiring.secret()
    except KeyMissing:
        secret = None
    order, kept_for = order_of(wiring, name, cluster), wiring.config.retention.pitr_window
    return Look(order, kept_for, opened, secret, Spool(wiring.config.daemon.spool), wiring.clock).see()
