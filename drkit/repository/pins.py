"""What this host remembers of its repository: identities of targets, those retired, and the highest key epoch seen.

A small local file, replaced atomically and fsynced. Losing it costs only the memory: the next open pins anew.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from drkit.core.errors import ConfigError
from storage_backends.durable import make_dirs, replace
from storage_backends.errors import OutOfSpace, StorageError


@dataclass(frozen=True, slots=True)
class Pin:
    """Identity of one target, hex."""

    repository: str
    target: str


class Pins:
    """Pins of the targets by name, in the file `pins.json` of the state folder. Not thread-safe.

    retired: ids (hex) of targets that a record was seen to retire.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "pins.json"
        self.targets: dict[str, Pin] = {}
        self.epoch = 0
        self.retired: set[str] = set()
        try:
            text = self._path.read_text()
        except (FileNotFoundError, NotADirectoryError):
            return  # nothing was ever kept here; `save` tells of a place where nothing can be
        except OSError as error:
            raise ConfigError(
                "the state folder cannot be read",
                where=str(self._path),
                why=str(error),
                cure="is [daemon] spool the right folder, and does this user own it?",
            ) from error
        try:
            value = json.loads(text)
            self.targets = {name: Pin(**pin) for name, pin in value["targets"].items()}
            self.epoch = int(value["epoch"])
            self.retired = {str(ident) for ident in value.get("retired", [])}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ConfigError(
                "the file of pinned identities is damaged",
                where=str(self._path),
                why=str(error),
                cure="move it away; the next command pins the targets anew, so check their URLs first",
            ) from error

    def used(self) -> set[str]:
        """The names of targets that this host has used, and that were not retired."""
        return {name for name, pin in self.targets.items() if pin.target not in self.retired}

    def save(self) -> None:
        """Durable on return. Raises ConfigError where the folder cannot be made or written to, StorageError."""
        make_spool(self._path.parent)
        pinned = {name: asdict(pin) for name, pin in sorted(self.targets.items())}
        value = {"targets": pinned, "epoch": self.epoch, "retired": sorted(self.retired)}
        replace(self._path, json.dumps(value, indent=1).encode())


def make_spool(folder: Path) -> None:
    """Make the folder of this host's state where it is missing. Raises ConfigError where this user cannot use it,
    OutOfSpace."""
    try:
        make_dirs(folder)
        why = "" if os.access(folder, os.W_OK | os.X_OK) else "this user may not write there"
    except OutOfSpace:
        raise
    except StorageError as error:
        why = error.why or str(error)
    if why:
        raise ConfigError(
            "the spool cannot be used",
            where=f"{folder}, [daemon] spool",
            why=why,
            cure=f"make the folder and give it to the user who runs drkit (mkdir -p {folder}; chown), or set [daemon] "
            "spool to one that this user may write to",
        )
