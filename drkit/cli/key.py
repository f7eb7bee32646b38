"""`drkit key new|list`: key files and the slots of the repository."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from drkit.cli.context import of
from drkit.cli.render import answer_json, table
from drkit.cli.wire import open_wiring
from drkit.core.errors import Conflict, Failed


def write_key_file(path: Path) -> None:
    """A new secret in a file of mode 0600, never over an existing one; durable on return."""
    from drkit.crypto.keys import KEY_BYTES, format_key_file
    from storage_backends.durable import write_new
    from storage_backends.errors import AlreadyExists, StorageError

    comment = "drkit key: opens the repository. Keep copies apart from the backups."
    text = format_key_file(os.urandom(KEY_BYTES), comment)
    try:
        write_new(path, [text.encode()], mode=0o600)
    except AlreadyExists:
        cure = "move it away first, if you are sure that no repository needs it"
        raise Conflict("the key file exists and is not overwritten", where=str(path), cure=cure) from None
    except (StorageError, OSError) as error:
        raise Failed("the key file cannot be written", where=str(path), why=str(error)) from error


def new(
    ctx: typer.Context,
    path: Annotated[Path | None, typer.Argument(metavar="[FILE]", help="default: [keys] file")] = None,
) -> None:
    """Make a new key file; an existing one is never overwritten."""
    context = of(ctx)
    if path is None:
        loaded = context.load()
        path = loaded.config.keys.file
        if path is None:
            raise Failed("where to?", why="no [keys] file is configured", cure="drkit key new FILE")
    write_key_file(path.absolute())
    if context.json:
        answer_json("drkit.key.new/1", {"file": str(path)})
    else:
        sys.stdout.write(f"{path}\n")


def list_keys(ctx: typer.Context) -> None:
    """The key slots of the repository, on every target."""
    from drkit.crypto.container import parse_open_section
    from drkit.repository.identity import slots_of

    context = of(ctx)
    with open_wiring(context) as wiring:
        repository = wiring.repository(reading=True)
        slots: dict[str, dict[str, object]] = {}
        for target in repository.targets:
            for name, data in slots_of(target):
                value = parse_open_section(data, name)[1]
                row = {"epoch": value["epoch"], "provider": value["provider"], "created_at": value["created_at"]}
                found = slots.setdefault(name, {"slot": name, **row, "targets": []})
                names = found["targets"]
                assert isinstance(names, list)
                names.append(target.name)
        if context.json:
            answer_json("drkit.key.list/1", {"epoch": repository.ring.epoch, "slots": list(slots.values())})
            return
        columns = ("slot", "epoch", "provider", "created_at", "targets")
        rows = [[", ".join(v) if isinstance(v, list) else str(v) for v in s.values()] for s in slots.values()]
        table(columns, rows, color=context.color)
