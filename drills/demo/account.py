"""Who the demo's server runs as: PostgreSQL refuses root."""

from __future__ import annotations

import os
import pwd
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drkit.core.errors import Refused

PREFERRED = ("postgres", "nobody")


@dataclass(frozen=True, slots=True)
class Account:
    """A user of this machine. `switch`: whether this process has to become that user to run its programs."""

    name: str
    uid: int
    gid: int
    switch: bool


def account() -> Account:
    """Ourselves, or for root the first of `postgres` and `nobody` that exists. Raises Refused where none does."""
    uid = os.geteuid()
    if uid != 0:
        return Account(_name_of(uid), uid, os.getegid(), switch=False)
    for name in PREFERRED:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid, switch=True)
    raise Refused(
        "PostgreSQL does not run as root, and there is no other user to run it as",
        why=f"looked for {', '.join(PREFERRED)}",
        cure="run the demo as an ordinary user",
    )


def check_reach(paths: Sequence[Path], who: Account) -> None:
    """Raises Refused naming the folder that keeps `who` from a program or folder; only judged for another user."""
    if not who.switch:
        return
    for path in paths:
        for folder in [*reversed(path.parents), path]:
            status = folder.stat()
            bits = status.st_mode >> (6 if status.st_uid == who.uid else 3 if status.st_gid == who.gid else 0)
            if not bits & 1:
                raise Refused(
                    f"the user {who.name} cannot get at {path}",
                    where=str(folder),
                    why="PostgreSQL does not run as root, and this folder is closed to others",
                    cure=f"run the demo as an ordinary user, or: chmod o+x {folder}",
                )


def _name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
