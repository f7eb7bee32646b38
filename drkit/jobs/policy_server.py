"""The primary as a policy sees it: asked by a session, and in its data folder where that is on this host."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from drkit.core.errors import DrkitError, Unreachable
from drkit.engines.postgres.control import CONTROL_PATH, ClusterState, read_control
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.records import RecordKind, Transaction, find
from drkit.engines.postgres.session import Session
from drkit.engines.postgres.stream import WalStream
from drkit.engines.postgres.wal import SegmentError, check_segment
from drkit.jobs.check_places import devices_of, server_folders
from drkit.jobs.windows import Window as WalWindow

_OF_A_PRIMARY = (
    ClusterState.SHUT_DOWN,
    ClusterState.SHUTTING_DOWN,
    ClusterState.IN_CRASH_RECOVERY,
    ClusterState.IN_PRODUCTION,
)


@dataclass(frozen=True, slots=True)
class Server:
    """The primary as seen from here. reachable None: what answered says nothing of a primary; why: then, or if False.

    timeline: also of one that is down, by its data folder · position: the end of its WAL when it was asked · archives:
    archive_mode is on · folder: its data folder, None where that is not on this host
    devices: of data folder, pg_wal and tablespaces
    """

    reachable: bool | None
    why: str = ""
    system_identifier: int | None = None
    timeline: int | None = None
    position: Lsn | None = None
    archives: bool = False
    archive_timeout: timedelta | None = None
    folder: Path | None = None
    devices: frozenset[str] = frozenset()


def ask_server(connection: str, data_dir: Path | None, sleep: Callable[[float], None]) -> Server:
    """Never raises for what a server or a folder may be like: that is the answer."""
    found = _ask(connection)
    folder = data_dir or found.folder
    try:
        if folder is None or not (folder / CONTROL_PATH).exists():
            return replace(found, folder=None)
        _, control = read_control(folder, sleep)
    except (DrkitError, OSError):
        return replace(found, folder=None)
    if found.system_identifier is None:
        found = replace(found, system_identifier=control.system_identifier)
    if found.system_identifier != control.system_identifier:
        return replace(found, folder=None)
    if found.reachable is False and control.state in _OF_A_PRIMARY:
        found = replace(found, timeline=control.timeline)
    return replace(found, folder=folder, devices=devices_of(server_folders(folder)))


def _ask(connection: str) -> Server:
    try:
        with Session.open(connection, "drkit policy") as session:
            facts = session.facts()
            position = session.position()
            rows = session.rows("select setting::int from pg_settings where name = 'archive_timeout'")
    except Unreachable as error:
        return Server(False, str(error))
    except DrkitError as error:
        return Server(None, str(error))
    timeout = timedelta(seconds=rows[0][0]) if rows else None
    standby = facts.in_recovery
    return Server(
        None if standby else True,
        "the connection leads to a standby, which replays every DROP" if standby else "",
        facts.system_identifier,
        None if standby else facts.timeline,
        None if standby else position,
        facts.archive_mode != "off",
        timeout,
        facts.data_directory,
    )


def oldest_unarchived(folder: Path, window: WalWindow, segment_bytes: int) -> datetime | None:
    """The time of the first transaction in pg_wal that ends behind a window; None: there is none.

    Raises OSError or DrkitError where that WAL cannot be read. Memory: two segments.
    """
    stream, number = WalStream(), window.end.segment(segment_bytes)
    for at in range(max(0, number - 1), sys.maxsize):
        name = window.path.segment(at, segment_bytes)
        try:
            data = (folder / "pg_wal" / name.text).read_bytes()
        except FileNotFoundError:
            if at == number:
                raise
            if at < number:
                continue  # archived and recycled; only a record that reaches into the next one would be missed
            return None
        try:
            check_segment(data, name, len(data), None)
        except SegmentError:
            return None  # made ahead, or still with the content of its earlier life: nothing was written here
        batch = stream.feed(name, data)
        for one in find(batch, frozenset({RecordKind.TRANSACTION})) if batch is not None else ():
            if isinstance(one, Transaction) and one.end > window.end:
                return one.time
        if stream.end is not None:
            return None
    return None
