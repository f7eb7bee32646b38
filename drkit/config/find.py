"""Which file is the configuration, and may it be trusted."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path

from drkit.core.errors import ConfigError

SYSTEM_FILE = Path("/etc/drkit/drkit.toml")
LOCAL_NAME = "drkit.toml"


def find(explicit: Path | None, env: Mapping[str, str], cwd: Path, *, system_file: Path = SYSTEM_FILE) -> Path:
    """--config, else $DRKIT_CONFIG, else ./drkit.toml, else /etc/drkit/drkit.toml. Raises ConfigError."""
    named = explicit or (Path(env["DRKIT_CONFIG"]) if env.get("DRKIT_CONFIG") else None)
    if named is not None:
        path = named if named.is_absolute() else cwd / named
        if not path.is_file():
            origin = "--config" if explicit else "$DRKIT_CONFIG"
            why, cure = f"{origin} names no file", "is the path right?"
            raise ConfigError("no configuration", where=str(path), why=why, cure=cure)
        return path
    local = cwd / LOCAL_NAME
    if local.exists():
        _trust(local)
        return local
    if system_file.is_file():
        return system_file
    raise ConfigError(
        "no configuration",
        where=f"{local}, {system_file}",
        why="neither file is there",
        cure="write one, or name one with --config FILE or DRKIT_CONFIG",
    )


def _trust(path: Path) -> None:
    """A file in the current folder is taken unasked from its caller or root only: it names commands."""
    cure = f"if it is yours to trust: --config {path}"
    for status in (path.lstat(), path.stat()):
        if status.st_uid not in (os.geteuid(), 0):
            raise ConfigError(
                "the configuration is not trusted",
                where=str(path),
                why=f"it belongs to user {status.st_uid}, not to you or root",
                cure=cure,
            )
        if stat.S_ISLNK(status.st_mode):
            continue
        by_group = status.st_mode & stat.S_IWGRP and status.st_gid != os.getegid()
        if status.st_mode & stat.S_IWOTH or by_group:
            raise ConfigError(
                "the configuration is not trusted",
                where=str(path),
                why=f"others may write to it (mode {stat.S_IMODE(status.st_mode):04o})",
                cure=f"chmod go-w {path}; {cure}",
            )
