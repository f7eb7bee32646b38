"""The daemon's way of WAL, from a configuration."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from drkit.cli.wire import Wiring
from drkit.daemon.api import Telling
from drkit.daemon.archiver import ArchiveSettings
from drkit.daemon.clusters import ClusterSpec
from drkit.daemon.targets import Doors
from drkit.daemon.wal_path import WalPath, WalPathSettings
from drkit.repository.spool import Spool

if TYPE_CHECKING:
    from drkit.repository.repository import Problem, Repository
    from drkit.repository.target import Target


def wal_path(wiring: Wiring, telling: Telling) -> WalPath:
    """Nothing is opened yet."""
    config = wiring.config
    clusters = [
        ClusterSpec(name, cluster.data_dir, partial(_ask, cluster.connection))
        for name, cluster in config.cluster.items()
    ]
    doors = Doors(tuple(config.target), partial(_make, wiring), partial(_open, wiring))
    archive = ArchiveSettings(config.wal.compression.level, config.copies.wal_ack)
    settings = WalPathSettings(config.daemon.socket, archive)
    return WalPath(clusters, doors, Spool(config.daemon.spool), settings, wiring.clock, wiring.log, telling)


def _ask(connection: str) -> Path | None:
    """The server's data folder, None where it hides it from this role."""
    from drkit.engines.postgres.session import Session

    with Session.open(connection, "drkit daemon") as session:
        return session.facts().data_directory


def _make(wiring: Wiring, names: Collection[str]) -> tuple[Sequence[Target], Mapping[str, Problem]]:
    return wiring.targets(left_out=[name for name in wiring.config.target if name not in names])


def _open(wiring: Wiring, targets: Sequence[Target], failed: Mapping[str, Problem]) -> Repository:
    """Secret and pins are read anew: either may have changed since the daemon began."""
    from drkit.repository.repository import open_repository

    return open_repository(
        targets, failed, wiring.secret(), wiring.pins(), entropy=os.urandom, unsaved=wiring.pins_not_saved
    )
