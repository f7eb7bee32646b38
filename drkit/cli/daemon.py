"""`drkit daemon`: the parts of the daemon from a configuration, and its life."""

from __future__ import annotations

import os
import platform
import signal
import uuid
from collections.abc import Callable, Sequence
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from drkit.cli.context import of
from drkit.cli.exits import DONE
from drkit.cli.wire import Wiring, open_wiring
from drkit.core.errors import ConfigError

if TYPE_CHECKING:
    from drkit.daemon.api import DaemonFacts, Part, Telling
    from drkit.daemon.channels import Channel
    from drkit.daemon.notify import Notifier
    from drkit.daemon.remains import Remains
    from drkit.daemon.schedule import Scheduler
    from drkit.daemon.wal_path import WalPath
    from drkit.daemon.watch import TargetWatch


def run(ctx: typer.Context) -> int:
    """Archive WAL, pay what targets lack, run the schedule and tell what is wrong, until SIGTERM.

    One for a configuration. It stays in the foreground, for systemd, a container or a supervisor; its log goes to
    stderr, as JSON unless that is a terminal. A second SIGTERM ends it at once: nothing is lost by that either.
    """
    from drkit.daemon.instance import sole
    from drkit.daemon.loop import Daemon
    from drkit.daemon.supervisor import Supervisor

    with open_wiring(of(ctx), service=True) as wiring:
        config = wiring.config
        if not config.cluster:
            raise ConfigError("no cluster is configured", where=str(wiring.loaded.path), cure="add [cluster.NAME]")
        wiring.secret()  # a daemon that cannot seal archives nothing: say so now
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # a closed terminal is no reason to stop
        with sole(config.daemon.spool, config.daemon.socket):
            supervisor = Supervisor(os.environ, os.getpid())
            parts = _Parts(wiring)
            Daemon(parts.all, supervisor, wiring.log, parts.heartbeat.stuck).run(wiring.token)
    return DONE


class _Parts:
    """The parts, and what one tells of another. Raises ConfigError."""

    def __init__(self, wiring: Wiring) -> None:
        from drkit.cli.wal_path import wal_path
        from drkit.cli.wire_schedule import scheduler
        from drkit.daemon.facts_json import to_text
        from drkit.daemon.heartbeat import Heartbeat
        from drkit.daemon.socket import telling

        self._wiring, self._config = wiring, wiring.config
        self._path = wiring.loaded.path.absolute()
        self._started: datetime = wiring.clock.now()
        self._notifier = notifier(wiring, self._path)
        self._watch = self._target_watch()
        self._remains = self._remainder()
        nudging = _Nudging(self._notifier, self._watch.nudge, self._remains.nudge)
        self._wal: WalPath = wal_path(wiring, nudging)
        self._schedule: Scheduler = scheduler(self._config, self._path, os.environ, wiring.clock, wiring.log, nudging)
        self._wal.add(telling("status", lambda: to_text(self.facts())))
        self.heartbeat = Heartbeat(self._config.daemon.spool, self.facts, wiring.clock, wiring.log)
        self.all: Sequence[Part] = (*self._wal.parts, self._schedule, self._remains, *self._tellers())

    def facts(self) -> DaemonFacts:
        """What `drkit status` hears. From memory and the spool alone."""
        from drkit.daemon.api import DaemonFacts

        return DaemonFacts(
            os.getpid(),
            self._started,
            self.heartbeat.last or self._started,
            str(self._path),
            self._wal.facts(),
            self._schedule.running(),
            self._schedule.recent(),
            self._schedule.next_runs(),
        )

    def _remainder(self) -> Remains:
        from drkit.cli.wire_schedule import children
        from drkit.daemon.remains import Remains

        wiring = self._wiring
        return Remains(children(self._path, os.environ, wiring.clock, wiring.log), self._notifier)

    def _target_watch(self) -> TargetWatch:
        from drkit.cli.wire_schedule import children
        from drkit.daemon.watch import TargetWatch

        wiring = self._wiring
        runner = children(self._path, os.environ, wiring.clock, wiring.log)
        every_s = self._config.daemon.look_every.total_seconds()
        return TargetWatch(runner, self._notifier.report, wiring.clock, every_s=every_s)

    def _tellers(self) -> list[Part]:
        from drkit.cli.policy import promises_of
        from drkit.daemon.duties import broken_drills
        from drkit.daemon.watch import LiveWatch

        wiring, config = self._wiring, self._config
        promises = {name: promises_of(cluster) for name, cluster in config.cluster.items()}
        parts: list[Part] = [
            self._notifier,
            self.heartbeat,
            LiveWatch(self.facts, promises, self._notifier.report, wiring.clock, broken=lambda: broken_drills(config)),
            self._watch,
        ]
        if config.daemon.metrics is not None:
            parts.append(self._metrics(config.daemon.metrics))
        return parts

    def _metrics(self, address: str) -> Part:
        from drkit.config.values import split_address
        from drkit.daemon.metrics import families, render
        from drkit.daemon.metrics_server import MetricsServer

        def page() -> str:
            facts, now, waiting = self.facts(), self._wiring.clock.now(), self._notifier.waiting()
            return render(families(facts, self._watch.looked, now, version=version("drkit"), waiting=waiting))

        return MetricsServer(*split_address(address), page, self._notifier)


class _Nudging:
    """Telling that has the targets read again when a job has ended, and what a drill left removed."""

    def __init__(self, inner: Telling, look: Callable[[], None], tidy: Callable[[], None]) -> None:
        self._inner, self._look, self._tidy = inner, look, tidy

    def tell(self, kind: str, level: str, cluster: str, text: str, **fields: str | int | float) -> None:
        self._inner.tell(kind, level, cluster, text, **fields)
        job = kind.partition(".")[0]
        if job in ("backup", "drill"):
            self._look()
        if job == "drill":
            self._tidy()


def notifier(wiring: Wiring, path: Path) -> Notifier:
    """Who is told, as [notify] says."""
    from drkit.daemon.notify import Notifier, NotifyTerms

    wanted = wiring.config.notify
    terms = NotifyTerms(wanted.min_level, wanted.repeat, platform.node(), str(path))
    spool = wiring.config.daemon.spool
    return Notifier(_channels(wiring), spool, terms, wiring.clock, wiring.log, lambda: uuid.uuid4().hex)


def _channels(wiring: Wiring) -> list[Channel]:
    from drkit.daemon.channels import Command, Webhook

    wanted = wiring.config.notify
    timeout_s = wanted.timeout.total_seconds()
    channels: list[Channel] = []
    if wanted.webhook is not None or wanted.webhook_file is not None:
        from drkit.config.secrets import hook

        channels.append(Webhook(lambda: hook(wanted), timeout_s, version("drkit")))
    if wanted.command:
        channels.append(Command(wanted.command, timeout_s, os.environ))
    return channels
