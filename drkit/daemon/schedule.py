"""The part of the daemon that starts what is due, one thread per running job, and looks again every minute.

A bell, the end of a job and news from the catalogue wake it; whatever wakes it, it decides anew from the facts. A bell
that did not ring, a clock that jumped and a restart cost a minute at most.
"""

from __future__ import annotations

import signal
import threading
from collections import deque
from collections.abc import Callable

from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.log import Log
from drkit.daemon.agenda import Agenda, Start
from drkit.daemon.api import NextRun, RunRecord
from drkit.daemon.children import GRACE_S, Ended, Order, Runner
from drkit.daemon.claims import Claims, Holder
from drkit.daemon.duties import Duty
from drkit.daemon.evidence import Evidence
from drkit.daemon.ringer import Ringer
from storage_backends.errors import StorageError

LOOK_S = 60.0
EVIDENCE_S = 600.0


class Orphans:
    """Jobs of a daemon that died: they had SIGTERM when it did; who still lives after a grace is killed."""

    def __init__(self, claims: Claims, clock: Clock, log: Log, *, grace_s: float = GRACE_S) -> None:
        self._claims, self._clock, self._log, self._grace_s = claims, clock, log, grace_s
        self._met: dict[tuple[str, Holder], float] = {}

    def held(self, cluster: str) -> str:
        """Why the cluster is busy with a job that is not this daemon's, "" where it is not."""
        try:
            holder = self._claims.holder(cluster)
        except StorageError as error:
            return f"its lock could not be tried: {error}"
        if holder is None:
            return ""
        now = self._clock.monotonic()
        met = self._met.get((cluster, holder))
        if met is None:
            self._met[cluster, holder] = now
            self._log.warn("job of another daemon ends", cluster=cluster, pid=holder.pid)
            holder.end(signal.SIGTERM)
            holder.end(signal.SIGCONT)
        elif now - met >= self._grace_s:
            self._log.warn("job of another daemon killed", cluster=cluster, pid=holder.pid)
            holder.end(signal.SIGKILL)
            if holder.pid is None:
                self._claims.forget(cluster)
        return f"a job of an earlier daemon ({holder}) was still there"


class Scheduler:
    """A Part. `runner`: runs one job to its end · `look_s`: how often it looks without being woken.

    `running`, `recent` and `next_runs` may be called from any thread.
    """

    name = "schedule"

    def __init__(
        self,
        agenda: Agenda,
        evidence: Evidence,
        runner: Runner,
        claims: Claims,
        clock: Clock,
        log: Log,
        *,
        look_s: float = LOOK_S,
        evidence_s: float = EVIDENCE_S,
    ) -> None:
        self._agenda, self._evidence, self._runner, self._claims = agenda, evidence, runner, claims
        self._clock, self._log, self._look_s, self._evidence_s = clock, log, look_s, evidence_s
        self._lock = threading.Lock()  # of the agenda
        self._wake = threading.Event()
        self._over: deque[tuple[Duty, Ended]] = deque()
        self._defects: deque[BaseException] = deque()
        self._threads: dict[str, threading.Thread] = {}
        self._asking: threading.Thread | None = None
        self._asked_at = float("-inf")

    def running(self) -> tuple[RunRecord, ...]:
        with self._lock:
            return self._agenda.running()

    def recent(self, limit: int = 50) -> tuple[RunRecord, ...]:
        with self._lock:
            return self._agenda.recent(limit)

    def next_runs(self) -> tuple[NextRun, ...]:
        with self._lock:
            return self._agenda.next_runs()

    def wake(self) -> None:
        """Look at once."""
        self._wake.set()

    def run(self, token: CancelToken) -> None:
        """Until `token` is cancelled and the jobs, which are cancelled with it, have ended."""
        jobs = token.child()
        ringer = Ringer((duty.bell for duty in self._agenda.duties), self.wake)
        forget = token.on_cancel(self.wake)
        ringer.start()
        try:
            while not token.cancelled:
                self._wake.clear()
                self._finish()
                self._turn(jobs)
                self._wake.wait(self._look_s)
        finally:
            forget()
            ringer.stop()
            jobs.cancel("the schedule ends")
            jobs.close()
            for thread in [*self._threads.values(), *([self._asking] if self._asking else [])]:
                thread.join()
            self._finish()

    def _turn(self, token: CancelToken) -> None:
        with self._lock:
            look = self._agenda.look(self._evidence.known())
        for start in look.starts:
            self._start(start, token)
        if look.asks or self._clock.monotonic() - self._asked_at >= self._evidence_s:
            self._ask(token)

    def _start(self, start: Start, token: CancelToken) -> None:
        """Take the cluster's lock, record, and run it in a thread that lives as long as the child."""
        bell, cluster = start.duty.bell.id, start.duty.cluster
        try:
            lock = self._claims.take(cluster)
        except StorageError as error:
            self._log.error("job not started", bell=bell, why=str(error))
            return
        if isinstance(lock, Holder):
            return  # between the look and now; the next look knows it
        with self._lock:
            self._agenda.began(start)
        order = Order(bell, start.duty.words, start.duty.deadline_s, lock)
        self._threads[bell] = self._thread(
            f"job/{bell}", lambda: self._over.append((start.duty, self._end(order, token)))
        )

    def _end(self, order: Order, token: CancelToken) -> Ended:
        try:
            return self._runner.run(order, token)
        except OSError as error:
            return Ended(127, why=f"it could not be started: {error}")

    def _finish(self) -> None:
        """Record what has ended; a defect met in a thread ends the part."""
        if self._defects:
            raise self._defects.popleft()
        while self._over:
            duty, ended = self._over.popleft()
            self._threads.pop(duty.bell.id).join()
            with self._lock:
                self._agenda.ended(duty, ended)
            self._evidence.outdated()

    def _ask(self, token: CancelToken) -> None:
        if self._asking is not None and self._asking.is_alive():
            return
        self._asked_at = self._clock.monotonic()
        self._asking = self._thread("job/evidence", lambda: self._evidence.refresh(token))

    def _thread(self, name: str, work: Callable[[], object]) -> threading.Thread:
        def root() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001  the root of a thread: raised where the part runs
                self._defects.append(error)
            finally:
                self.wake()

        thread = threading.Thread(target=root, name=name, daemon=True)
        thread.start()
        return thread
