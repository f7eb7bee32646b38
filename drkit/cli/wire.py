"""The composition root: from a configuration to targets, keys, repository and means. Nothing else constructs them.

Imports are inside the functions: `drkit wal push` must not pay for what only a backup needs.
"""

from __future__ import annotations

import os
import random
import sys
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from drkit.cli.context import Context
from drkit.core.cancel import CancelToken, signals_cancel
from drkit.core.clock import Clock, SystemClock
from drkit.core.errors import ConfigError, UsageError
from drkit.core.log import Level, Log, StreamLog
from drkit.core.units import parse_rate
from storage_backends.errors import StorageError

if TYPE_CHECKING:
    from drkit.config.load import Loaded
    from drkit.config.model import Cluster, Config
    from drkit.config.model import Target as TargetConfig
    from drkit.core.progress import Progress
    from drkit.crypto.slots import Secret
    from drkit.jobs.means import Means
    from drkit.repository.pins import Pins
    from drkit.repository.repository import Problem, Repository
    from drkit.repository.target import Target
    from storage_backends.api import StorageBackend
    from storage_backends.trace import Traffic


@dataclass(frozen=True, slots=True)
class Network:
    """How much a second may go to and come from each target. paced: not more than its configured `rate`; rate: bytes,
    in place of that. WAL is not paced.
    """

    paced: bool = False
    rate: int | None = None


def paced(rate: str | None) -> Network:
    """Of a job that may be slow; rate: as given on the command line. Raises UsageError."""
    return Network(paced=True, rate=parse_rate(rate) if rate else None)


@dataclass(frozen=True, slots=True)
class Wiring:
    """What one command works with."""

    context: Context
    loaded: Loaded
    clock: Clock
    token: CancelToken
    log: Log
    progress: Progress
    network: Network = Network()
    traffic: dict[str, Traffic] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        return self.loaded.config

    def cluster(self, name: str | None) -> tuple[str, Cluster]:
        """The named cluster, or the only one. Raises UsageError, ConfigError."""
        known = self.config.cluster
        if name is None and len(known) == 1:
            return next(iter(known.items()))
        if not known:
            raise ConfigError("no cluster is configured", where=str(self.loaded.path), cure="add [cluster.NAME]")
        if name is None:
            raise UsageError("which cluster?", why=f"the configuration has {', '.join(sorted(known))}", cure="name it")
        if name not in known:
            why = f"the configuration has {', '.join(sorted(known))}"
            cure = f"name one of them, or add [cluster.{name}]"
            raise UsageError(f"there is no cluster {name!r}", where=str(self.loaded.path), why=why, cure=cure)
        return name, known[name]

    def targets(
        self, *, new: Collection[str] = (), left_out: Collection[str] = (), expiry: bool = False
    ) -> tuple[list[Target], dict[str, Problem]]:
        """Every configured target but those left out, opened; and why each other one could not be.

        expiry: by the credentials that may delete.
        """
        opened: list[Target] = []
        failed: dict[str, Problem] = {}
        if not self.config.target:
            raise ConfigError("no target is configured", where=str(self.loaded.path), cure="add [target.NAME]")
        for name, target in self.config.target.items():
            if name in left_out:
                continue
            try:
                opened.append(self._target(name, target, name in new, expiry))
            except StorageError as error:
                failed[name] = error
        return opened, failed

    def _target(self, name: str, target: TargetConfig, create_root: bool, expiry: bool = False) -> Target:
        from drkit.config.secrets import credentials
        from drkit.repository.target import Target
        from storage_backends.limit import Limited, TokenBucket
        from storage_backends.retry import Retrying, RetryPolicy
        from storage_backends.trace import Traced, Traffic
        from storage_backends.url import TargetSettings, open_target

        own = target.for_expiry() if expiry else target
        keys = credentials(name, own, os.environ if own is target else {})
        target = own
        seconds = target.timeout.total_seconds()
        settings = TargetSettings(
            endpoint=target.endpoint or "",
            region=target.region or "",
            addressing=target.addressing,
            access_key=keys.access_key if keys else "",
            secret_key=keys.secret_key.reveal() if keys else "",
            session_token=keys.session_token.reveal() if keys and keys.session_token else "",
            profile=target.profile or "",
            checksum=target.checksums,
            allow_unconditional=target.allow_unconditional,
            timeouts_s=(min(10.0, seconds), seconds),
            create_root=create_root,
        )
        traffic = self.traffic.setdefault(name, Traffic())
        backend: StorageBackend = Traced(open_target(target.url, settings), traffic.record, clock=self.clock.monotonic)
        rate = self.network.rate or (target.rate if self.network.paced else None)
        if rate is not None:
            bucket = TokenBucket(
                rate, burst_bytes=max(rate // 4, 1 << 20), clock=self.clock.monotonic, sleep=self.token_sleep
            )
            backend = Limited(backend, upload=bucket, download=bucket)
        retrying = Retrying(backend, RetryPolicy(attempts=3), sleep=self.token_sleep, random=random.random)
        return Target(name, retrying, target.site, target.medium)

    def requests(self) -> dict[str, dict[str, int]]:
        """By target, what it was asked so far."""
        return {name: dict(one.facts) for name, one in self.traffic.items()}

    def token_sleep(self, seconds: float) -> None:
        """Sleep that a signal ends."""
        self.token.wait(seconds)
        self.token.check()

    def secret(self) -> Secret:
        """What opens the key slots. Raises ConfigError, KeyMissing."""
        from drkit.config.secrets import passphrase, read_key_file
        from drkit.crypto.slots import Secret

        words = passphrase(self.config.keys, os.environ)
        if words is not None:
            return Secret("passphrase", words.reveal().encode(), "the configured passphrase")
        path = self.config.keys.file
        assert path is not None
        return Secret("keyfile", read_key_file(path, "the key file"), str(path))

    def pins(self) -> Pins:
        from drkit.repository.pins import Pins

        return Pins(self.config.daemon.spool)

    def need_spool(self) -> None:
        """Raises ConfigError where this user cannot write to the spool, before a job that needs it begins."""
        from drkit.repository.pins import make_spool

        make_spool(self.config.daemon.spool)

    def pins_not_saved(self, error: Problem) -> None:
        """Tell of pins that could not be kept, for who only reads."""
        self.log.warn("targets were not pinned", where=error.where, why=error.why, cure=error.cure)

    def repository(self, *, reading: bool = False, expiry: bool = False) -> Repository:
        """Open on all targets that answer; says on stderr which did not. reading: goes without a spool.

        expiry: by the credentials that may delete.
        """
        from drkit.repository.repository import open_repository

        if not reading:
            self.need_spool()
        secret = self.secret()
        targets, failed = self.targets(expiry=expiry)
        unsaved = self.pins_not_saved if reading else None
        found = open_repository(
            targets, failed, secret, self.pins(), entropy=os.urandom, unsaved=unsaved, reading=reading
        )
        for name, problem in found.absent.items():
            self.log.warn("target is not used", target=name, why=str(problem))
        for name, problem in found.rescued.items():
            self.log.warn("target is read by its key slots alone", target=name, why=str(problem), cure=problem.cure)
        return found

    def means(self, *, reading: bool = False, expiry: bool = False) -> Means:
        """What a job works with; reading: goes without a spool; expiry: by the credentials that may delete."""
        from drkit.jobs.means import Means

        repository = self.repository(reading=reading, expiry=expiry)
        return Means(repository, self.clock, os.urandom, self.token, self.progress, self.log)


@contextmanager
def open_wiring(context: Context, *, service: bool = False, network: Network | None = None) -> Iterator[Wiring]:
    """Configuration, clock, signals, log and progress for one command.

    The first SIGTERM or SIGINT cancels, the second ends the process. service: the log is what there is to see; it
    tells one level more, as JSON unless a person watches. network: of a job that may be slow. Raises ConfigError.
    """
    from drkit.cli.progress import shown

    clock = SystemClock()
    token = CancelToken(clock=clock)
    level = _level(context.verbosity + service)
    as_json = context.json or (service and not sys.stderr.isatty())
    log = StreamLog(sys.stderr, run_id=uuid.uuid4().hex[:8], clock=clock, as_json=as_json, level=level)
    loaded = context.load()
    with signals_cancel(token), shown(context, sys.stderr, clock) as progress:
        wiring = Wiring(context, loaded, clock, token, log, progress, network or Network())
        yield wiring
    for name, asked in wiring.requests().items():
        log.info("requests", target=name, **asked)


def _level(verbosity: int) -> Level:
    return "warn" if verbosity < 1 else "info" if verbosity == 1 else "debug"
