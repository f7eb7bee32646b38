"""What of a backup's entries a restore brings back, read from its manifest as streams."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from drkit.core.errors import Damage
from drkit.engines.postgres.control import CONTROL_PATH
from drkit.jobs.recovery_events import RECOVERY_EVENTS
from drkit.jobs.recovery_file import RECOVERY_FILE
from drkit.jobs.restore_folder import KEPT_CONTROL
from drkit.repository.manifest import FILE, FOLDER, Entry, Manifest

_CONTROL = CONTROL_PATH.encode()
_ANOTHER_RECOVERYS = (RECOVERY_FILE.encode(), RECOVERY_EVENTS.encode(), KEPT_CONTROL.encode())


@dataclass(frozen=True, slots=True)
class Wanted(Iterable[Entry]):
    """The entries that are restored, in their order; read anew whenever they are iterated."""

    manifest: Manifest

    def __iter__(self) -> Iterator[Entry]:
        # Of a recovery that the source itself went through: its horizon would end this one too early.
        return (entry for entry in self.manifest.entries if entry.path not in _ANOTHER_RECOVERYS)


@dataclass(frozen=True, slots=True)
class Files(Iterable[Entry]):
    """Its files but pg_control."""

    wanted: Wanted

    def __iter__(self) -> Iterator[Entry]:
        return (entry for entry in self.wanted if entry.type == FILE and entry.path != _CONTROL)


@dataclass(frozen=True, slots=True)
class Keys(Iterable[bytes]):
    """Its paths, those of folders with '/' behind them."""

    wanted: Wanted

    def __iter__(self) -> Iterator[bytes]:
        return (entry.path + b"/" if entry.type == FOLDER else entry.path for entry in self.wanted)


@dataclass(frozen=True, slots=True)
class Survey:
    """folders: their entries, the only ones that are held · files: how many, but pg_control · size_bytes: theirs."""

    control: Entry
    folders: Sequence[Entry]
    files: int
    size_bytes: int


def survey(wanted: Wanted) -> Survey:
    """One pass over the entries; raises Damage where there is no pg_control."""
    control: Entry | None = None
    folders: list[Entry] = []
    files = size_bytes = 0
    for entry in wanted:
        if entry.type == FOLDER:
            folders.append(entry)
        elif entry.path == _CONTROL:
            control = entry
        else:
            files, size_bytes = files + 1, size_bytes + entry.size
    if control is None:
        raise Damage("the backup holds no pg_control", where=wanted.manifest.summary.backup)
    return Survey(control, folders, files, size_bytes)
