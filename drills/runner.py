"""One drill, from the steady state to the verdict; whatever happens, the sandbox and the drill's schema are removed.

tidy -> sandbox -> steady state -> ledger, load -> fault, T0 -> open, T3 -> plan -> files, T4 T5
-> recovery, T6 to T9 -> look, T10 -> first write, T11 -> rows judged -> checks -> all removed -> verdict, report
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta

from drills.account import loss_of
from drills.checks.api import Reference, Scene
from drills.checks.registry import CHECKS, run_checks
from drills.chronicle import Chronicle
from drills.clocks import Clocks
from drills.comparison import required, settled
from drills.journal import read_ledger
from drills.ledger import Entry
from drills.ledger_table import LEDGER_TABLE, LedgerClient, read_rows
from drills.order import DrillMeans, DrillOrder, sides
from drills.remains import remove_remains
from drills.report.model import DrillReport, Finding, Probe
from drills.sandbox import Sandbox, check_room
from drills.scenarios.api import Ground, Struck
from drills.selectors import PointFacts, check_selector, select
from drills.source import Source
from drills.stage import Recovery, Room, StagedServer, stop_words
from drills.steady import Steady, look_around
from drills.writer import Load
from drkit.core.cancel import CancelToken
from drkit.core.errors import Cancelled, ConfigError, Conflict, DrkitError, Failed, Refused, UsageError
from drkit.core.progress import Event
from drkit.core.units import format_duration
from drkit.jobs.rates import Rates, fetch_rate
from drkit.jobs.restore_folder import Owner, choose_owner, look_at
from drkit.jobs.restore_points import Wish
from drkit.jobs.windows import read_windows
from storage_backends.errors import StorageError

_PAYLOAD_BYTES = 18
_NOTHING_DONE = (UsageError, ConfigError, Conflict, Refused)  # before the disaster: an answer, and no drill


class _Aborted(Exception):
    """A signal or a caller ended the drill."""


def run_drill(order: DrillOrder, means: DrillMeans) -> DrillReport:
    """Run it; the verdict is in the report, also where a step failed.

    Raises UsageError, ConfigError, Conflict (another drill writes to the cluster) and Refused (no room, no right, no
    folder) before the disaster; nothing is left then either.
    """
    return _Run(order, means).run()


class _Run:
    """One run."""

    def __init__(self, order: DrillOrder, means: DrillMeans) -> None:
        self.order, self.means, self.drill = order, means, order.drill
        self.clock = means.clock
        check_selector(self.drill.point, means.clock.now())
        chosen = sides(self.drill, order.config.site, means.doors.sites)
        self.clocks = Clocks(means.clock.monotonic, self.drill.allowance.total_seconds())
        self.told = Chronicle(order, chosen, self.clocks, means.clock.now())
        self.source = Source(order.config.connection, means.clock)
        self.entries: tuple[Entry, ...] | None = None
        self.load: Load | None = None
        self.anchored_s: float | None = None
        self.recovery: Recovery | None = None
        self.server: StagedServer | None = None
        self.databases: list[str] = []

    @property
    def own_point(self) -> bool:
        """Whether the point is one of now: what is recorded before the fault can be compared with it."""
        return self.means.scenario.finds_its_point or self.drill.point == "latest"

    @property
    def writes(self) -> bool:
        """Whether a ledger is written: rows of now say nothing about a point in the past."""
        return self.drill.ledger and self.own_point

    def run(self) -> DrillReport:
        self._tidy()
        owner = choose_owner(look_at(self.order.staging / "drill"), "", os.geteuid())
        sandbox = Sandbox.make(
            self.order.staging, self.order.id.random.hex(), self.order.cluster, owner, self.clock, ledger=self.writes
        )
        try:
            self._act(sandbox, owner)
        except _Aborted as error:
            self.told.aborted = str(error)
        finally:
            self._remove(sandbox)
        return self.told.report(self.clock.now(), self.means.version)

    def _act(self, sandbox: Sandbox, owner: Owner) -> None:
        """From the steady state to the checks. Raises _Aborted, and as `run_drill`."""
        told = self.told
        with ExitStack() as undo:
            try:
                steady = self._look_around(sandbox, undo)
                if steady is None:
                    return
                check_room(self.order.staging, max(b.summary.size_bytes for b in steady.catalogue.backups if b.good_on))
                struck = self._strike(steady, sandbox)
                undo.callback(self._stop)
                self._recover(steady, struck, sandbox, owner)
                self._judge_rows(steady, struck)
                self._check(steady, struck)
            except (DrkitError, StorageError) as error:
                if told.struck is None and isinstance(error, _NOTHING_DONE):
                    raise
                if told.struck is None:
                    told.unready = _told(error)
                else:
                    told.broken = _told(error)
            finally:
                self._gather(sandbox)

    # --- before ---

    def _tidy(self) -> None:
        """Remove what killed drills left: folders, servers, and the schema of one that wrote to this cluster."""
        for left in remove_remains(self.order.staging, {self.order.cluster: self.source}, self.clock):
            self.means.log.warn("remains of a killed drill removed", folder=str(left.folder), drill=left.drill)
            self.told.findings.append(Finding("note", left.text))
            if left.schema_left:
                self.told.findings.append(Finding("warning", f"its schema is still in the cluster: {left.schema_left}"))

    def _look_around(self, sandbox: Sandbox, undo: ExitStack) -> Steady | None:
        told, compare = self.told, self.drill.compare and self.own_point
        with self._step("steady state", self.drill.deadlines.steady) as token:
            if self.writes:
                undo.callback(self._schema_left)
                undo.enter_context(self.source.claim())
            told.steady, told.probes = look_around(
                self.order, self.means, self.source, sandbox.memory("before"), token, compare=compare
            )
        return told.steady if all(probe.ok is True for probe in told.probes) else None

    # --- the disaster ---

    def _strike(self, steady: Steady, sandbox: Sandbox) -> Struck:
        """The load, the disaster under it, T0, and what passes until the recovery can begin."""
        told, scenario, limit = self.told, self.means.scenario, self.drill.deadlines.fault
        with self._loaded(sandbox):
            with self._step("fault", limit) as token:
                ground = self._ground(steady, token)
                self._anchor(ground)
                struck = scenario.strike(ground)
                if self.load is not None:
                    self.load.check()
            self.clocks.stamp("T0", struck.moment.begun_s)
            told.struck, told.proof = struck, struck.proof
            with self._step("aftermath", limit) as token:
                struck = scenario.aftermath(self._ground(steady, token), struck)
                told.struck, told.proof = struck, struck.proof
        for target in steady.outside.repository.targets:
            target.backend.close()
        if self.load is not None:
            self.entries = read_ledger(self.load.journals)
            until_s = struck.until.begun_s
            told.rows = sum(e.acknowledged_s is not None and e.acknowledged_s <= until_s for e in self.entries)
        return struck

    @contextmanager
    def _loaded(self, sandbox: Sandbox) -> Iterator[None]:
        if not self.writes:
            yield
            return
        folder = sandbox.root / "ledger"
        folder.mkdir(mode=0o700)
        self.load = Load(
            folder,
            self.drill.writers,
            lambda: LedgerClient(self.source.conninfo),
            self.clock,
            lambda: self.means.entropy(_PAYLOAD_BYTES).hex(),
            self.drill.pace.total_seconds(),
            self.means.token,
        )
        with self.load:
            yield

    def _anchor(self, ground: Ground) -> None:
        """The first rows get to a target: without a row that is safe, a loss has no measure but a lower bound."""
        if self.load is None:
            return
        while self.load.acknowledged < self.drill.writers:
            self.load.check()
            ground.go_on(self.drill.pace.total_seconds())
        name, _, ended = self.source.end_segment()
        self.anchored_s = ended.done_s
        ground.until_archived(name)

    def _ground(self, steady: Steady, token: CancelToken) -> Ground:
        config, chosen = self.order.config, self.told.sides
        sacrificed = config.data_dir or steady.server.data_directory if config.sacrificial else None
        return Ground(
            cluster=self.order.cluster,
            site=config.site,
            source=self.source,
            server=steady.server,
            outside=steady.left(chosen),
            catalogue=steady.catalogue,
            denied=chosen.denied,
            denied_sites=chosen.sites,
            data_dir=sacrificed,
            load_s=self.drill.load.total_seconds() if self.writes and self.drill.load else 0.0,
            clock=self.clock,
            token=token,
        )

    # --- the recovery ---

    def _recover(self, steady: Steady, struck: Struck, sandbox: Sandbox, owner: Owner) -> None:
        """From what is left to the first write. T3 to T11."""
        told, means = self.told, self.means
        room = Room(
            sandbox=sandbox,
            owner=owner,
            cluster=self.order.cluster,
            system_identifier=steady.server.system_identifier,
            wal_program=means.wal_program,
            workers=means.workers,
            pg_bin=self.order.config.pg_bin,
            port=self.order.config.staging_port,
            superuser=steady.superuser,
            secrets=means.secrets,
        )
        recovery = self.recovery = Recovery(room, means.doors, told.sides.allowed, self.clocks, struck.hidden)
        with self._step("restore", self.drill.deadlines.restore) as token:
            recovery.open(token, means.progress, self.clock.monotonic)
            wish = struck.wish or self._wish(recovery)
            told.point = wish.text
            told.plan = recovery.plan(wish)
            told.restored = recovery.restore(told.plan)
        with self._step("recovery", self.drill.deadlines.recovery) as token:
            server = self.server = recovery.start(told.plan, token, means.progress)
            told.started = server.started
            self.databases = server.look(steady.database)
            self.clocks.stamp("T10")
            server.first_write(steady.database)
            self.clocks.stamp("T11")
        files = told.restored
        fetched = fetch_rate(files.written_bytes, files.kept_bytes, files.seconds)
        means.keep_rates(Rates(fetched, server.started.replay_rate))
        told.restored_bytes = sandbox.size_bytes()
        told.bytes_from = recovery.bytes_from(server.started)
        # Off the clocks: what more a scenario wants to see in planning is no part of a recovery.
        with self._step("proof", self.drill.deadlines.fault) as token:
            proof, checks = means.scenario.examine(recovery, struck, token)
        told.proof, told.checks = (*struck.proof, *proof, *self._denied()), tuple(checks)

    def _wish(self, recovery: Recovery) -> Wish:
        catalogue, selector = recovery.catalogue, self.drill.point
        windows = read_windows(catalogue, recovery.means).windows if selector.startswith("random-instant") else ()
        drilled = self.means.drilled() if selector == "least-recently-drilled" else {}
        good = [backup for backup in catalogue.backups if set(backup.good_on) & recovery.names]
        return select(selector, PointFacts(good, windows, drilled, self.clock.now(), self.order.seed))

    def _denied(self) -> tuple[Probe, ...]:
        """That nothing came from where nothing may come from."""
        denied = self.told.sides.denied
        if not denied:
            return ()
        assert self.recovery is not None
        everything = self.recovery.bytes_from(self.told.started, all_reads=True)
        read = {name: everything.get(name, 0) for name in denied}
        text = ", ".join(f"{name}: {size} bytes" for name, size in read.items())
        return (Probe("nothing was read from what is denied", not any(read.values()), text),)

    # --- the judgement ---

    def _judge_rows(self, steady: Steady, struck: Struck) -> None:
        if self.entries is None or self.server is None:
            return
        with self.server.connect(steady.database) as session:
            rows = read_rows(session)
        self.told.loss = loss_of(self.entries, rows, struck.until, struck.moment.begun_s, self.anchored_s)

    def _check(self, steady: Steady, struck: Struck) -> None:
        told, server = self.told, self.server
        assert server is not None and told.plan is not None
        with self._step("checks", self.drill.deadlines.checks) as token:
            reference = self._reference(steady, token)
            stopped_for = struck.stopped_for
            scene = Scene(
                connect=server.connect,
                conninfo=server.conninfo,
                databases=self.databases,
                programs=server.programs,
                data_dir=server.data_dir,
                log=server.started.log,
                reference=reference or Reference(steady.database, "0/0"),
                entries=self.entries,
                until=struck.until if self.entries is not None else None,
                ledger_table=LEDGER_TABLE,
                timeline=told.plan.course.path.id,
                stopped_for=stop_words(told.plan.course.target) if stopped_for is None else stopped_for,
                token=token,
                stop=server.stop,
                start=lambda: server.start(token, self.means.progress),
                monotonic=self.clock.monotonic,
            )
            wanted = required(self.drill, reference, ledger=self.entries is not None)
            chosen = [one for one in self.means.checks if one.name in wanted or one.name not in CHECKS]
            found = run_checks(chosen, scene, wanted, lambda check: self._say(f"check {check.name}: {check.title}"))
            told.checks = (*told.checks, *found)

    def _reference(self, steady: Steady, token: CancelToken) -> Reference | None:
        if steady.reference is None:
            self.told.untested.append("the content of tables: nothing was recorded to compare with")
            return None
        self.told.keep_reference(steady.reference)
        reference, untested = settled(steady.reference, self.source, token)
        self.told.untested += [untested] if untested else []
        return reference

    # --- the edges ---

    @contextmanager
    def _step(self, name: str, limit: timedelta) -> Iterator[CancelToken]:
        """A step with its deadline. Raises _Aborted once the drill is cancelled, Failed past the deadline."""
        above = self.means.token
        if above.cancelled:
            raise _Aborted(above.reason)
        self._say(name)
        token = above.child(deadline_s=limit.total_seconds())
        try:
            yield token
            above.check()  # what was done by then is done, however late
        except (DrkitError, StorageError) as error:
            if above.cancelled:
                raise _Aborted(above.reason) from error
            if isinstance(error, Cancelled):
                what = f"the step '{name}' took longer than its deadline of {format_duration(limit)}"
                raise Failed(what, why=error.why) from error
            raise
        finally:
            token.close()

    def _say(self, what: str) -> None:
        self.means.progress.emit(Event("drill", message=what))

    def _gather(self, sandbox: Sandbox) -> None:
        """Evidence, before the sandbox is removed."""
        told, load = self.told, self.load
        for path in load.journals if load is not None else ():
            told.keep_file(path.name, path)
        told.keep_file("server.log", sandbox.data.with_name("data.log"))
        if self.recovery is not None and not told.bytes_from:
            told.bytes_from = self.recovery.bytes_from(told.started)

    def _stop(self) -> None:
        if self.server is not None:
            self.server.stop()
        if self.recovery is not None:
            self.recovery.close()

    def _schema_left(self) -> None:
        """After the schema was to be removed; a server that the drill itself destroyed has none any more."""
        if self.source.left_behind and not self.order.config.sacrificial:
            cure = f"drop schema {LEDGER_TABLE.partition('.')[0]} cascade"
            self.told.findings.append(Finding("warning", f"the schema is left behind: {self.source.left_behind}", cure))

    def _remove(self, sandbox: Sandbox) -> None:
        try:
            sandbox.remove(self.order.keep)
        except DrkitError as error:
            self.told.findings.append(Finding("error", str(error), f"rm -r {sandbox.root}"))


def _told(error: DrkitError | StorageError) -> str:
    return f"{error}; {error.cure}" if error.cure else str(error)
