"""`drkit init`: keys once, and the repository on every target."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.context import of
from drkit.cli.render import answer_json, table
from drkit.cli.wire import Wiring, open_wiring
from drkit.core.errors import ConfigError, KeyMissing, Unreachable
from drkit.core.units import format_time

if TYPE_CHECKING:
    from drkit.jobs.check_places import Overlap
    from drkit.repository.target import Target


def run(
    ctx: typer.Context,
    yes: Annotated[bool, typer.Option("--yes", help="make the key file and target folders without asking")] = False,
) -> None:
    """Create the keys (once) and the repository on every target. Idempotent."""
    from drkit.jobs.check_places import overlaps, twins
    from drkit.repository.identity import found
    from drkit.repository.pins import Pin
    from drkit.repository.repository import refuse_strangers

    context = of(ctx)
    with open_wiring(context) as wiring:
        wiring.need_spool()
        pins = wiring.pins()
        targets, failed = wiring.targets(new=set(wiring.config.target) - pins.used())
        if failed:
            raise Unreachable(
                "not every target can be reached, and init needs all of them",
                why="; ".join(f"{name}: {error}" for name, error in failed.items()),
                cure="is it mounted? mend or remove the target; nothing was written",
            )
        _refuse_one_place(overlaps(targets))
        refuse_strangers(targets, pins)
        made = _key_file(wiring, targets, yes)
        secret = wiring.secret()
        ring, descriptors = found(targets, secret, now=format_time(wiring.clock.now()), entropy=os.urandom)
        _refuse_one_place(twins({name: one.target.hex() for name, one in descriptors.items()}))
        pins.targets |= {n: Pin(d.repository.hex(), d.target.hex()) for n, d in descriptors.items()}
        pins.epoch = max(pins.epoch, ring.epoch)
        pins.save()
        rows = [(t.name, t.backend.url, t.medium, t.site, descriptors[t.name].target.hex()[:8]) for t in targets]
        if context.json:
            names = ("name", "url", "medium", "site", "target")
            answer_json(
                "drkit.init/1",
                {
                    "repository": ring.repository.hex(),
                    "key_epoch": ring.epoch,
                    "key_file_created": str(made) if made else None,
                    "targets": [dict(zip(names, row, strict=True)) for row in rows],
                },
            )
            return
        table(("target", "url", "medium", "site", "id"), rows, color=context.color)
        sys.stdout.write(f"\nrepository {ring.repository.hex()[:8]} is ready on {len(rows)} targets\n")
        if made:
            sys.stdout.write(
                f"A new key was written to {made}.\n"
                "Without it nothing can ever be restored: copy it to a place that burns down at another time.\n"
            )


def _refuse_one_place(found: Sequence[Overlap]) -> None:
    """What is one place counts as one copy, however often it is named."""
    if found:
        raise ConfigError(
            "two targets are one place, or lie in each other",
            where=", ".join(sorted({one.target for one in found})),
            why="; ".join(one.text for one in found),
            cure="give each target a place of its own, or remove one of the two from the configuration",
        )


def _key_file(wiring: Wiring, targets: Sequence[Target], yes: bool) -> os.PathLike[str] | None:
    """Make the configured key file where it is missing; returns its path when it was made."""
    from drkit.cli.key import write_key_file

    path = wiring.config.keys.file
    if path is None or path.exists():
        return None
    for target in targets:
        if _is_founded(target):
            raise KeyMissing(
                "the repository exists, and its key file is missing",
                where=str(path),
                why=f"{target.where} belongs to a repository; a new key would open nothing of it",
                cure="put back the key file from the copy that you keep elsewhere",
            )
    if not yes and sys.stdin.isatty():
        typer.confirm(f"There is no key at {path}. Make a new one?", abort=True, err=True)
    write_key_file(path)
    return path


def _is_founded(target: Target) -> bool:
    from drkit.repository.layout import DESCRIPTOR
    from storage_backends.errors import NotFound

    try:
        target.backend.stat(DESCRIPTOR)
    except NotFound:
        return False
    return True
