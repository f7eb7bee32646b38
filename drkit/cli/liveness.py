"""`drkit check --liveness`: for a watcher outside the daemon, on this host or another. Reads, and changes nothing."""

from __future__ import annotations

import typer

from drkit.cli.context import of
from drkit.cli.exits import DONE, PROMISE
from drkit.cli.render import answer_json
from drkit.cli.wire import open_wiring


def run(ctx: typer.Context, cluster: str | None) -> int:
    """0: the daemon lives, no run failed or was missed, archiving and backups keep up with what is promised."""
    from drkit.cli.status import exit_of, read_status
    from drkit.cli.status_json import daemon_json, finding_json, seconds
    from drkit.cli.status_text import show_liveness
    from drkit.daemon.status import alarming, liveness

    context = of(ctx)
    with open_wiring(context) as wiring:
        status = read_status(wiring, cluster)
    found = liveness(status)
    code = exit_of(found)
    if code == DONE and any(alarming(one) for one in found):
        code = PROMISE
    if context.json:
        clusters = [
            {
                "cluster": seen.cluster.name,
                "backup_at": max((one.backup.stopped for one in seen.cluster.targets if one.backup), default=None),
                "exposure_s": seconds(seen.exposure),
            }
            for seen, _ in status.clusters
        ]
        payload = {"at": status.at, "ok": code == DONE, "daemon": daemon_json(status.daemon), "clusters": clusters}
        answer_json("drkit.check.liveness/1", {**payload, "findings": [finding_json(one) for one in found]})
    else:
        show_liveness(found, status, well=code == DONE, color=context.color)
    return code
