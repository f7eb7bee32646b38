"""The clusters that this daemon archives, as their data folders say now. One that cannot be read is looked at again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import DrkitError, Missing, Refused
from drkit.core.log import Log
from drkit.daemon.api import Telling
from drkit.engines.postgres.control import read_control
from drkit.jobs.wal_prefetch import in_recovery

_LOOK_S, _AGAIN_S, _ASK_S = 1.0, 5.0, 30.0  # when all is well, without the folder, without the server


@dataclass(frozen=True, slots=True)
class ClusterSpec:
    """data_dir: as configured · ask: asks the server for it where it is not; None where it hides it, or raises
    DrkitError. It may take as long as a connection does."""

    name: str
    data_dir: Path | None
    ask: Callable[[], Path | None]


@dataclass(frozen=True, slots=True)
class Place:
    """A cluster's data folder. standby: it is in recovery · uid, gid: who owns it."""

    cluster: str
    data_dir: Path
    system_identifier: int
    segment_bytes: int
    standby: bool
    uid: int
    gid: int

    @property
    def wal(self) -> Path:
        return self.data_dir / "pg_wal"

    @property
    def status(self) -> Path:
        return self.wal / "archive_status"


class Clusters:
    """A part of the daemon. Thread-safe.

    What is known of a folder stays known while it is away: WAL that comes is whose it says it is.
    """

    def __init__(self, specs: Sequence[ClusterSpec], clock: Clock, log: Log, telling: Telling) -> None:
        self.specs = {spec.name: spec for spec in specs}
        self._clock, self._log, self._telling = clock, log, telling
        self._lock = threading.Lock()
        self._places: dict[str, Place] = {}
        self._problems: dict[str, str] = {}
        self._folders: dict[str, Path] = {}
        self._look_at: dict[str, float] = {}

    name = "clusters"

    def run(self, token: CancelToken) -> None:
        while not token.cancelled:
            self.look()
            token.wait(_LOOK_S)

    @property
    def names(self) -> list[str]:
        return list(self.specs)

    def place(self, name: str) -> Place | None:
        with self._lock:
            return self._places.get(name)

    def problem(self, name: str) -> str:
        """Why the folder cannot be read just now; "" when it can."""
        with self._lock:
            return self._problems.get(name, "")

    def readable(self) -> list[Place]:
        """The clusters whose folder could be read when it was looked at last."""
        with self._lock:
            return [place for name, place in self._places.items() if not self._problems.get(name)]

    def owners(self) -> frozenset[int]:
        with self._lock:
            return frozenset(place.uid for place in self._places.values())

    def group(self) -> int | None:
        """The group that all data folders have, None where they differ or none was found."""
        with self._lock:
            groups = {place.gid for place in self._places.values()}
        return groups.pop() if len(groups) == 1 else None

    def owner_of(self, system_identifier: int) -> Place:
        """The cluster of a system identifier; folders are looked at once more before it is Refused."""
        place = self._known(system_identifier)
        for spec in self.specs.values():
            if place is not None:
                return place
            self._look(spec)
            place = self._known(system_identifier)
        if place is not None:
            return place
        known = ", ".join(f"{name}: {place.system_identifier}" for name, place in sorted(self._places.items()))
        problems = "; ".join(f"{name}: {why}" for name, why in sorted(self._problems.items()) if why)
        raise Refused(
            "this daemon archives no such cluster",
            where=f"system identifier {system_identifier}",
            why="; ".join(part for part in (f"it knows {known or 'none'}", problems) if part),
            cure="is data_dir in [cluster.NAME] this server's folder, and is archive_command for this configuration?",
        )

    def _known(self, system_identifier: int) -> Place | None:
        with self._lock:
            return next((p for p in self._places.values() if p.system_identifier == system_identifier), None)

    def look(self, *, asking: bool = True) -> None:
        """Read the folders whose turn it is; asking: also of servers that have to be asked where theirs is."""
        for spec in self.specs.values():
            now = self._clock.monotonic()
            if now >= self._look_at.get(spec.name, now) and (asking or spec.data_dir):
                self._look(spec)
                pause_s = _LOOK_S if not self.problem(spec.name) else _AGAIN_S if spec.data_dir else _ASK_S
                self._look_at[spec.name] = self._clock.monotonic() + pause_s

    def _look(self, spec: ClusterSpec) -> None:
        try:
            place, problem = self._read(spec), ""
        except DrkitError as error:
            place, problem = None, str(error)
        except OSError as error:
            place, problem = None, f"the data folder cannot be read: {error}"
        with self._lock:
            before = self._problems.get(spec.name)
            self._problems[spec.name] = problem
            if place is not None:
                self._places[spec.name] = place
        if problem and not before:
            self._log.warn("cluster away", cluster=spec.name, why=problem)
            self._telling.tell("cluster.away", "warn", spec.name, f"{spec.name} cannot be watched: {problem}")
        elif before and not problem:
            self._log.info("cluster back", cluster=spec.name)
            self._telling.tell("cluster.back", "info", spec.name, f"{spec.name} is watched again")

    def _read(self, spec: ClusterSpec) -> Place:
        folder = spec.data_dir or self._folders.get(spec.name) or spec.ask()
        if folder is None:
            why, cure = "it is not configured, and the server hides it from this role", "set data_dir in [cluster.NAME]"
            raise Missing("the data folder is not known", where=spec.name, why=why, cure=cure)
        _, control = read_control(folder, self._clock.sleep)
        facts = folder.stat()
        self._folders[spec.name] = folder
        standby = in_recovery(folder)
        return Place(
            spec.name, folder, control.system_identifier, control.wal_segment_size, standby, facts.st_uid, facts.st_gid
        )
