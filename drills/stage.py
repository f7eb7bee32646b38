"""The recovery in a drill: from the targets that are left, into the sandbox, by the same functions as `drkit restore`.

Whatever the drill reads goes through handles that cannot write; each byte is counted by target.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from drills.clocks import Clocks
from drills.sandbox import Sandbox
from drkit.core.cancel import CancelToken
from drkit.core.errors import Failed
from drkit.core.machine import machine_id
from drkit.core.progress import Progress
from drkit.engines.postgres.instance import Shutdown, own_configuration
from drkit.engines.postgres.phases import Phase
from drkit.engines.postgres.programs import find_programs
from drkit.engines.postgres.recovery import RecoveryTarget, TargetKind
from drkit.engines.postgres.session import Session
from drkit.jobs.means import Means
from drkit.jobs.rates import Rates
from drkit.jobs.restore import RestoreResult, restore
from drkit.jobs.restore_folder import Owner
from drkit.jobs.restore_plan import Plan, RestoreOrder, plan_restore
from drkit.jobs.restore_points import Wish
from drkit.jobs.restore_start import Started, StartOrder
from drkit.jobs.restore_start import start as boot
from drkit.repository.catalogue import Catalogue, read_catalogue
from storage_backends.api import StorageBackend
from storage_backends.trace import Event, Traced
from storage_backends.veil import ReadOnly, Veiled

Hidden = Callable[[str, str], bool]  # (target, key): as if it were not there
_POLL_S = 0.02
_STOP_S = 60.0


class Doors(Protocol):
    """How a drill gets at the targets of a configuration, as a host that remembers nothing."""

    @property
    def sites(self) -> Mapping[str, str]:
        """Site by target, in configured order; nothing is opened for it."""
        ...

    def open(
        self,
        names: Collection[str],
        wrap: Callable[[str, StorageBackend], StorageBackend],
        state: Path,
        token: CancelToken,
        progress: Progress,
        *,
        escrowed: bool,
    ) -> Means:
        """The repository on these targets alone; what is remembered of them goes to `state`. wrap: (target, backend).

        escrowed: with the escrowed key, where the drill names one. Raises as `open_repository`.
        """
        ...

    def configuration(self, names: Collection[str], state: Path) -> str:
        """For `drkit-wal get`: these targets, the key, and `state` for a spool."""
        ...

    def environment(self) -> Mapping[str, str]:
        """What that configuration needs beside itself."""
        ...


@dataclass(frozen=True, slots=True)
class Room:
    """Where and how the recovery works.

    owner: of what is restored · pg_bin None: found by version · superuser: of the restored server
    secrets: files that its user must read.
    """

    sandbox: Sandbox
    owner: Owner
    cluster: str
    system_identifier: int
    wal_program: Path
    workers: int
    pg_bin: Path | None
    port: int | None
    superuser: str = "postgres"
    secrets: tuple[Path, ...] = ()


@dataclass(slots=True)
class Meter:
    """Bytes read by target, counted from any thread. content: of those, packs and maps: what the server is made of.

    first_s: when the first byte of a pack was read.
    """

    monotonic: Callable[[], float]
    bytes: dict[str, int] = field(default_factory=dict)
    content: dict[str, int] = field(default_factory=dict)
    first_s: float | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wrap(self, target: str, backend: StorageBackend) -> StorageBackend:
        def record(event: Event) -> None:
            if event.verb == "read" and event.phase == "end":
                self._count(target, event)

        return Traced(backend, record, clock=self.monotonic)

    def _count(self, target: str, event: Event) -> None:
        with self._lock:
            self.bytes[target] = self.bytes.get(target, 0) + event.size_bytes
            if "/packs/" in event.key or "/maps/" in event.key:
                self.content[target] = self.content.get(target, 0) + event.size_bytes
            if self.first_s is None and event.size_bytes and "/packs/" in event.key:
                self.first_s = self.monotonic()


class Recovery:
    """One recovery, step by step: open, plan, restore, start. Each step stamps its clocks."""

    def __init__(self, room: Room, doors: Doors, names: Collection[str], clocks: Clocks, hidden: Hidden | None) -> None:
        self.room, self.names, self._doors = room, frozenset(names), doors
        self._clocks, self._hidden = clocks, hidden
        self._means: Means | None = None
        self.meter: Meter | None = None
        self._catalogue: Catalogue | None = None

    def open(self, token: CancelToken, progress: Progress, monotonic: Callable[[], float]) -> Means:
        """Key and targets, with no memory of this host. T3."""
        box = self.room.sandbox
        box.write_config(self._doors.configuration(self.names, box.spool), self.room.owner)
        meter = self.meter = Meter(monotonic)

        def wrap(target: str, backend: StorageBackend) -> StorageBackend:
            hidden = self._hidden
            seen = backend if hidden is None else Veiled(backend, lambda key: hidden(target, key))
            return ReadOnly(meter.wrap(target, seen))

        self._means = self._doors.open(self.names, wrap, box.memory("memory"), token, progress, escrowed=True)
        self._catalogue = read_catalogue(self._means.repository, self.room.system_identifier)
        self._clocks.stamp("T3")
        return self._means

    @property
    def means(self) -> Means:
        assert self._means is not None, "open comes first"
        return self._means

    @property
    def catalogue(self) -> Catalogue:
        assert self._catalogue is not None, "open comes first"
        return self._catalogue

    def close(self) -> None:
        """Let go of the targets."""
        if self._means is not None:
            for target in self._means.repository.targets:
                target.backend.close()

    def rehearse(self, wish: Wish, token: CancelToken) -> Plan:
        """A plan that is not carried out, at any time. Raises as `plan_restore`."""
        return self._plan(wish, "rehearsal", replace(self.means, token=token))

    def plan(self, wish: Wish) -> Plan:
        """What a restore to that point will do; nothing is written. Raises as `plan_restore`."""
        return self._plan(wish, "data", self.means)

    def _plan(self, wish: Wish, name: str, means: Means) -> Plan:
        room, box = self.room, self.room.sandbox
        order = RestoreOrder(
            cluster=room.cluster,
            destination=Path(os.path.realpath(box.root)) / name,
            wish=wish,
            config=box.config,
            wal_program=room.wal_program,
            machine=machine_id(),
            workers=room.workers,
            euid=os.geteuid(),
            tablespace_root=box.tablespaces,
            secrets=room.secrets,
        )
        return plan_restore(order, means, [self.catalogue], Rates())

    def restore(self, plan: Plan) -> RestoreResult:
        """The files, durable. T4, T5."""
        find_programs(plan.manifest.summary.engine_version // 10000, _also(self.room.pg_bin))
        result = restore(plan, self.means)
        self._clocks.stamp("T5")
        first_s = self.meter.first_s if self.meter else None
        if first_s is not None:
            self._clocks.stamp("T4", first_s)
        else:
            self._clocks.omit("T4", "the backup holds no pack")
        return result

    def start(self, plan: Plan, token: CancelToken, progress: Progress) -> StagedServer:
        """Recovery to the point, fenced. T6 to T9."""
        segment_bytes = plan.manifest.summary.segment_bytes
        order = StartOrder(
            data_dir=plan.order.destination,
            pg_bin=self.room.pg_bin,
            port=self.room.port,
            fenced=True,
            segment_bytes=segment_bytes,
            environment=self._doors.environment(),
            settings=self._settings(plan),
        )
        server = StagedServer(order, self.room.superuser, self.means, plan)
        begun_s = self.means.clock.monotonic()
        server.start(token, progress)
        self._stamp(server.started, begun_s)
        return server

    def _settings(self, plan: Plan) -> dict[str, str]:
        """Who may enter the sandbox may connect by its socket, whoever the source let in; with a configuration of ours
        where the source keeps its own outside of the data folder."""
        settings = own_configuration(self.room.sandbox.settings(plan.owner), plan.order.destination)
        if any(entry.path == b"postgresql.conf" for entry in plan.manifest.entries):
            del settings["config_file"]
        return settings

    def _stamp(self, started: Started, begun_s: float) -> None:
        for clock, names in (
            ("T6", (Phase.REDO_STARTS,)),
            ("T7", (Phase.CONSISTENT,)),
            ("T8", (Phase.STOPPING, Phase.REDO_DONE)),
            ("T9", (Phase.PROMOTED, Phase.READY)),
        ):
            at = next((s for phase in names for name, s, _ in started.phases if name == phase.value), None)
            if at is None:
                self._clocks.omit(clock, "the server's log does not tell it")
            else:
                self._clocks.stamp(clock, begun_s + at)

    def bytes_from(self, started: Started | None, *, all_reads: bool = False) -> dict[str, int]:
        """Bytes by target of what the restored server is made of: packs and maps read here, WAL read by the recovery.

        all_reads: whatever this process read as well, as descriptors and manifests.
        """
        read = {} if self.meter is None else self.meter.bytes if all_reads else self.meter.content
        found = {**dict.fromkeys(sorted(self.names), 0), **read}
        for name, size in (started.wal_bytes if started else {}).items():
            found[name] = found.get(name, 0) + size
        return found


class StagedServer:
    """The restored server, in the sandbox: a real one, promoted and fenced."""

    def __init__(self, order: StartOrder, superuser: str, means: Means, plan: Plan) -> None:
        self._order, self._superuser, self._means = order, superuser, means
        self.programs = find_programs(plan.manifest.summary.engine_version // 10000, _also(order.pg_bin))
        self._started: Started | None = None

    @property
    def started(self) -> Started:
        assert self._started is not None, "start comes first"
        return self._started

    def start(self, token: CancelToken, progress: Progress) -> None:
        """Returns when it takes connections. Raises as `restore_start.start`."""
        first = self._started
        order = self._order if first is None else replace(self._order, port=first.port)
        again = boot(order, self._means.clock, token, progress)
        # The phases of the recovery are those of the first start.
        self._started = again if first is None else replace(first, pid=again.pid, outcome=again.outcome)

    def stop(self) -> None:
        """A fast shutdown; returns when the postmaster is gone. Nothing where it does not run."""
        started = self._started
        if started is None or started.pid is None:
            return
        clock = self._means.clock
        deadline = clock.monotonic() + _STOP_S
        try:
            os.kill(started.pid, Shutdown.FAST.value)
            while _is_there(started.pid) and clock.monotonic() < deadline:
                clock.sleep(_POLL_S)
        except ProcessLookupError:
            return

    @property
    def data_dir(self) -> Path:
        return self._order.data_dir

    @property
    def conninfo(self) -> str:
        """Without a database."""
        return f"host={self.started.socket_folder} port={self.started.port} user={quoted(self._superuser)}"

    def connect(self, database: str) -> Session:
        return Session.open(f"{self.conninfo} dbname={quoted(database)}", "drkit drill")

    def look(self, database: str) -> list[str]:
        """What an operator looks at before letting anybody in: out of recovery, every database answers; their names.

        Raises Failed.
        """
        with self.connect(database) as session:
            if session.facts().in_recovery:
                raise Failed("the restored server is still in recovery", where=str(self.data_dir))
            found = session.rows("select datname from pg_database where datallowconn and not datistemplate order by 1")
        names = [str(name) for (name,) in found]
        for name in names:
            with self.connect(name) as session:
                session.rows("select count(*) from pg_class")
        return names

    def first_write(self, database: str) -> None:
        """An application's first write, acknowledged."""
        with self.connect(database) as session:
            session.rows("select set_config('synchronous_commit', 'on', false)")
            session.rows("create schema drkit_first_write")
            session.rows("create table drkit_first_write.row (at timestamptz)")
            session.rows("insert into drkit_first_write.row values (clock_timestamp())")
            session.rows("set client_min_messages = warning")
            session.rows("drop schema drkit_first_write cascade")


def stop_words(target: RecoveryTarget) -> str:
    """What the server's log says about where recovery stops (recoveryStopsBefore and After, xlogrecovery.c)."""
    side = "after" if target.inclusive else "before"
    match target.kind:
        case TargetKind.LATEST:
            return ""
        case TargetKind.END:
            return "after reaching consistency"
        case TargetKind.TIME:
            return "of transaction"
        case TargetKind.LSN:
            return f'{side} WAL location (LSN) "{target.value}"'
        case TargetKind.XID:
            return f"of transaction {int(str(target.value)) & 0xFFFFFFFF},"
        case TargetKind.NAME:
            return f'at restore point "{target.value}"'


def quoted(value: str) -> str:
    """A value in a libpq connection string."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _also(pg_bin: Path | None) -> tuple[Path, ...]:
    return (pg_bin,) if pg_bin else ()


def _is_there(pid: int) -> bool:
    """Reaps it where it is a child of ours that ended."""
    try:
        if os.waitpid(pid, os.WNOHANG)[0] == pid:
            return False
    except ChildProcessError:
        pass
    return Path(f"/proc/{pid}").exists()
