"""`drkit drill tidy`: what killed drills left is removed now, and not only by the next drill."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from drkit.cli.context import of
from drkit.cli.drill_run import staging_of
from drkit.cli.exits import DONE
from drkit.cli.render import answer_json
from drkit.cli.wire import open_wiring


def run(ctx: typer.Context, cluster: Annotated[str | None, typer.Argument(metavar="[CLUSTER]")] = None) -> int:
    """Remove what killed drills left: sandboxes, the servers that run in them, the schema in the cluster.

    Drills that run are left alone. Without CLUSTER those of all clusters. The daemon does it at its start, and after
    each drill of its own.
    """
    from drills.remains import remove_remains
    from drills.source import Source

    context = of(ctx)
    with open_wiring(context) as wiring:
        config = wiring.config.cluster
        names = sorted(config) if cluster is None else [wiring.cluster(cluster)[0]]
        sources = {name: Source(config[name].connection, wiring.clock) for name in names}
        folders = sorted({staging_of(config[name]) for name in names})
        removed = [one for folder in folders for one in remove_remains(folder, sources, wiring.clock)]
    if context.json:
        rows = [
            {
                "folder": str(one.folder),
                "drill": one.drill,
                "cluster": one.cluster,
                "processes": one.processes,
                "schema_left": one.schema_left,
            }
            for one in removed
        ]
        answer_json("drkit.drill.tidy/1", {"removed": rows})
        return DONE
    for one in removed:
        sys.stdout.write(f"{one.text}\n")
        if one.schema_left:
            sys.stdout.write(f"  its schema is still in cluster {one.cluster}: {one.schema_left}\n")
    if not removed:
        sys.stdout.write("no drill left anything\n")
    return DONE
