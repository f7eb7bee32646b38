"""Which WAL files a target has, by name alone: one listing for each 4 GiB of log, nothing is opened."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from drkit.engines.postgres.wal import WalName
from drkit.repository.layout import ClusterLayout
from drkit.repository.target import Target
from storage_backends.errors import StorageError


@dataclass(frozen=True, slots=True)
class Lacking:
    """files: names that one of the targets that answered lacks · asked: those that answered."""

    files: frozenset[str]
    asked: frozenset[str]


def lacking(targets: Iterable[Target], system_identifier: int, names: Sequence[WalName]) -> Lacking:
    """Segments and partial segments only. A target that cannot be listed says nothing, and is not in `asked`."""
    layout = ClusterLayout(system_identifier)
    folders = {layout.archived(name.text).rpartition("/")[0] + "/" for name in names}
    missing: set[str] = set()
    asked: set[str] = set()
    for target in targets:
        try:
            there = {info.key.rpartition("/")[2] for folder in folders for info in target.backend.list(folder)}
        except StorageError:
            continue
        asked.add(target.name)
        missing |= {name.text for name in names if name.text not in there}
    return Lacking(frozenset(missing), frozenset(asked))
