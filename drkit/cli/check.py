"""`drkit check`: everything that would stop a backup, archiving or a restore."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from drkit.cli.context import of
from drkit.cli.render import answer_json, use_color
from drkit.cli.wire import open_wiring

REFUSED = 4


def run(
    ctx: typer.Context,
    cluster: Annotated[str | None, typer.Argument(metavar="[CLUSTER]")] = None,
    liveness: Annotated[
        bool, typer.Option("--liveness", help="only: does the daemon live, do runs, archiving and backups keep up?")
    ] = False,
) -> int:
    """Try every target, the server's settings and rights, and send a WAL segment through archive_command."""
    if liveness:
        from drkit.cli.liveness import run as watch

        return watch(ctx, cluster)
    from drkit.cli.verbs import jobs
    from drkit.daemon.duties import broken_drills, impossible, short_drills
    from drkit.jobs.check import CheckOrder, Finding, Level, check_configuration, check_server, check_targets

    context = of(ctx)
    with open_wiring(context) as wiring:
        name, found = wiring.cluster(cluster)
        objective = found.objectives.rpo
        order = CheckOrder(
            cluster=name,
            spool=wiring.config.daemon.spool,
            connection=found.connection,
            data_dir=found.data_dir,
            program=Path(sys.executable).parent / "drkit-wal",
            config=wiring.loaded.path.absolute(),
            rpo_s=objective.total_seconds() if objective else None,
        )
        means = wiring.means()
        identities = {one: pin.target for one, pin in wiring.pins().targets.items()}
        findings = [*check_configuration(order.config), *check_targets(means, identities)]
        broken = {f.about for f in findings if f.level is Level.FAIL}
        usable = [t for t in means.repository.targets if f"target {t.name}" not in broken]
        findings += check_server(order, means, usable)
        for one in impossible(wiring.config, jobs()):
            if not one.drill:
                cure = f"{one.cure}; `drkit daemon` does not start with it"
                findings.append(Finding("schedule", Level.FAIL, one.text, cure))
        for broken_drill in broken_drills(wiring.config):
            findings.append(Finding("drills", Level.FAIL, broken_drill.text, broken_drill.cure))
        for text in short_drills(wiring.config, name):
            cure = "leave `load` out, or make it longer than the rpo, and `deadlines.fault` twice as long"
            findings.append(Finding("schedule", Level.WARN, text, cure))
        failed = any(f.level is Level.FAIL for f in findings)
        if context.json:
            rows = [
                {"about": f.about, "level": f.level.value, "text": f.text, "cure": f.cure, "cost": f.cost}
                for f in findings
            ]
            answer_json("drkit.check/1", {"cluster": name, "ok": not failed, "findings": rows})
        else:
            color = use_color(sys.stdout, context.color)
            paint = {Level.OK: "32", Level.WARN: "33", Level.FAIL: "1;31"}
            for f in findings:
                word = f"{f.level.value:<4}"
                word = f"\x1b[{paint[f.level]}m{word}\x1b[0m" if color else word
                sys.stdout.write(f"{word}  {f.about}: {f.text}\n")
                if f.cure:
                    sys.stdout.write(f"      {f.cure}{f'   -- then {f.cost}' if f.cost else ''}\n")
        return REFUSED if failed else 0
