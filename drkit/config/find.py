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
    """--config, else $DRKIT_CONFIG, else ./drkit.toml, else /etc/drkit/drkit.toml. Raises ConfigError.

    A current folder that this user may not enter (`cd /root; sudo -u postgres drkit`) holds no ./drkit.toml for them.
    """
    named = explicit or (Path(env["DRKIT_CONFIG"]) if env.get("DRKIT_CONFIG") else None)
    if named is not None:
        path = named if named.is_absolute() else cwd / named
        if not _is_file(path):
            origin = "--config" if explicit else "$DRKIT_CONFIG"
            why, cure = f"{origin} names no file", "is the path right?"
            raise ConfigError("no configuration", where=str(path), why=why, cure=cure)
        return path
    local = cwd / LOCAL_NAME
    closed = _is_closed(cwd)
    if not closed and _is_file(local):
        _trust(local)
        return local
    if not closed and local.is_symlink():  # never replaced by another file in silence
        cure = "mend the link or remove it"
        raise ConfigError("no configuration", where=str(local), why="it is a link that leads to no file", cure=cure)
    if _is_file(system_file):
        return system_file
    raise ConfigError(
        "no configuration",
        where=f"{local}, {system_file}",
        why=f"{cwd} may not be entered by this user, the other is not there" if closed else "neither file is there",
        cure="write one, or name one with --config FILE or DRKIT_CONFIG",
    )


def _is_closed(folder: Path) -> bool:
    """Whether no name in it can be looked up. A link in it is not followed: where that leads to is another matter."""
    try:
        (folder / LOCAL_NAME).lstat()
    except PermissionError:
        return True
    except OSError:
        pass
    return False


def _is_file(path: Path) -> bool:
    """Raises ConfigError where this user may not look."""
    try:
        return path.is_file()
    except OSError as error:
        why, cure = error.strerror or str(error), "may this user enter every folder of that path?"
        raise ConfigError("the configuration cannot be read", where=str(path), why=why, cure=cure) from error


def open_to_others(path: Path) -> str:
    """Why others could change what the file says, "" where they cannot: it belongs to neither the caller nor root, or
    others may write to it."""
    status = path.stat()
    if status.st_uid not in (os.geteuid(), 0):
        return f"it belongs to user {status.st_uid}, not to you or root"
    by_group = status.st_mode & stat.S_IWGRP and status.st_gid != os.getegid()
    if status.st_mode & stat.S_IWOTH or by_group:
        return f"others may write to it (mode {stat.S_IMODE(status.st_mode):04o})"
    return ""


def _trust(path: Path) -> None:
    """A file in the current folder is taken unasked from its caller or root only: it names commands."""
    cure = f"if it is yours to trust: --config {path}"
    owner = path.lstat().st_uid  # of a link: who may turn it elsewhere
    why = f"it belongs to user {owner}, not to you or root" if owner not in (os.geteuid(), 0) else open_to_others(path)
    if why:
        cure = f"chmod go-w {path}; {cure}" if "write" in why else cure
        raise ConfigError("the configuration is not trusted", where=str(path), why=why, cure=cure)
