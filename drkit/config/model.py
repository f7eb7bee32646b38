"""The configuration, typed. Every key, what it may hold and what it is without a word from anyone.

Values are checked when loaded (`drkit.config.load`); secrets are never in here, only where they are kept.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from drkit.config.values import (
    NAME,
    AbsolutePath,
    CalendarSpan,
    Compression,
    CompressionLevel,
    Connection,
    CopyRule,
    Cron,
    Duration,
    Endpoint,
    Rate,
    Site,
    TargetUrl,
    ZoneName,
)
from drkit.core.errors import Missing, UsageError
from policies.rule import Rule


class Section(BaseModel):
    """Unknown keys are errors; values never change after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Objectives(Section):
    """[cluster.NAME.objectives]: what was promised; None promises nothing."""

    rpo: Duration | None = None
    rto: Duration | None = None
    max_backup_age: Duration | None = None
    max_verify_age: Duration | None = None
    max_drill_age: Duration | None = None


class Cluster(Section):
    """[cluster.NAME]

    connection:   a libpq connection string without secrets; "" means libpq's own defaults
    data_dir:     the data folder; None: the server is asked
    site:         where it stands, to tell what is offsite
    staging:      a folder for restores and drills; staging_port: the port of a server started there
    pg_bin:       the folder of the server's programs; None: found by version
    """

    connection: Connection = ""
    data_dir: AbsolutePath | None = None
    site: Site = "primary"
    staging: AbsolutePath | None = None
    staging_port: Annotated[int, Field(ge=1024, le=65535)] | None = None
    pg_bin: AbsolutePath | None = None
    objectives: Objectives = Objectives()


class Target(Section):
    """[target.NAME]: a store and how to reach it.

    medium:     the declared class; what is observed (device, endpoint) counts beside it
    checksums:  whether S3 requests carry the newer checksums: 'when_required' suits all servers
    timeout:    for connecting and for each read
    allow_unconditional: accept a store without conditional writes: expiry then refuses it
    """

    url: TargetUrl
    site: Site
    medium: Literal["disk", "object", "tape", "other"] = "disk"
    endpoint: Endpoint | None = None
    region: str | None = None
    addressing: Literal["auto", "path", "virtual"] = "auto"
    access_key_file: AbsolutePath | None = None
    secret_key_file: AbsolutePath | None = None
    credentials_command: str | None = None
    profile: str | None = None
    immutable: Literal["none", "governance", "compliance"] = "none"
    checksums: Literal["when_required", "when_supported"] = "when_required"
    timeout: Duration = timedelta(seconds=30)
    allow_unconditional: bool = False

    @property
    def scheme(self) -> str:
        return self.url.partition(":")[0]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.access_key_file is None) != (self.secret_key_file is None):
            raise ValueError("access_key_file and secret_key_file come together")
        ways = [self.access_key_file, self.credentials_command, self.profile]
        if sum(way is not None for way in ways) > 1:
            raise ValueError("one way to credentials: key files, credentials_command or profile")
        if self.scheme == "file":
            only_s3 = ("endpoint", "region", "access_key_file", "credentials_command", "profile")
            wrong = [key for key in only_s3 if getattr(self, key) is not None]
            if self.immutable != "none":
                wrong.append("immutable")
            if wrong:
                raise ValueError(f"a folder has no {', '.join(wrong)}")
        if self.timeout <= timedelta(0):
            raise ValueError("timeout is longer than 0s")
        return self


class Copies(Section):
    """[copies]. wal_ack None: 1 with up to two targets, a majority from three on."""

    rule: CopyRule = Rule(2, 1, 0)
    wal_ack: Annotated[int, Field(ge=1)] | Literal["quorum", "all"] | None = None
    backup_ack: Annotated[int, Field(ge=1)] = 1


class Retention(Section):
    """[retention]: windows, not counts; with no window at all nothing ever expires.

    grace: how long a tombstoned object stays, so that running restores end
    """

    timezone: ZoneName = "UTC"
    pitr_window: Duration | None = None
    daily: CalendarSpan | None = None
    weekly: CalendarSpan | None = None
    monthly: CalendarSpan | None = None
    yearly: CalendarSpan | None = None
    min_full: Annotated[int, Field(ge=1)] = 3
    pick: Literal["first", "last"] = "first"
    grace: Duration = timedelta(days=7)


class Schedule(Section):
    """[[schedule]]: one bell. cluster None: every cluster."""

    job: Literal["backup", "check", "drill", "expire", "replicate", "verify"]
    cron: Cron
    cluster: str | None = None
    timezone: ZoneName = "UTC"
    scenario: str | None = None
    point: str | None = None
    allow_sites: tuple[str, ...] = ()
    deny_sites: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.job == "drill" and self.scenario is None:
            raise ValueError("a drill names its scenario")
        if self.job != "drill" and (self.scenario or self.point or self.allow_sites or self.deny_sites):
            raise ValueError("scenario, point, allow_sites and deny_sites are for job = 'drill'")
        return self


class Keys(Section):
    """[keys]: where the master key is; one of the three, or DRKIT_KEYS__PASSPHRASE in the environment."""

    file: AbsolutePath | None = None
    passphrase_file: AbsolutePath | None = None
    passphrase_command: str | None = None

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [way for way in (self.file, self.passphrase_file, self.passphrase_command) if way is not None]
        if len(given) > 1:
            raise ValueError("one of file, passphrase_file and passphrase_command")
        return self


class Backup(Section):
    """[backup]. workers 0: as many as cores. rate: bytes per second read from the server; None: no limit."""

    compression: CompressionLevel = Compression("zstd", 3)
    workers: Annotated[int, Field(ge=0, le=256)] = 0
    rate: Rate | None = None


class Wal(Section):
    """[wal]"""

    compression: CompressionLevel = Compression("zstd", 3)


class Daemon(Section):
    """[daemon]. spool: what outlives a run on this host (debts, pins, prefetch); filled in by `load`."""

    socket: AbsolutePath = Path("/run/drkit/drkit.sock")
    spool: AbsolutePath = Path("/var/lib/drkit")


class Config(Section):
    """The whole file. Names of clusters and targets: lower-case letters, digits, '-' and '_'."""

    cluster: dict[str, Cluster] = {}
    target: dict[str, Target] = {}
    copies: Copies = Copies()
    retention: Retention = Retention()
    schedule: tuple[Schedule, ...] = ()
    keys: Keys = Keys()
    backup: Backup = Backup()
    wal: Wal = Wal()
    daemon: Daemon = Daemon()

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for kind, names in (("cluster", self.cluster), ("target", self.target)):
            for name in names:
                if not NAME.match(name) or len(name) > 40:
                    raise ValueError(f"[{kind}.{name}]: a name has a-z, 0-9, '-' and '_', 40 at most")
        if not self.target:
            raise ValueError("there is no target; add [target.NAME] with url and site")
        urls: dict[str, str] = {}
        for name, target in self.target.items():
            place = f"{target.endpoint or ''} {target.url.rstrip('/')}"
            if place in urls:
                raise ValueError(f"targets {urls[place]!r} and {name!r} are the same place: {target.url}")
            urls[place] = name
        for key, value in (("wal_ack", self.copies.wal_ack), ("backup_ack", self.copies.backup_ack)):
            if isinstance(value, int) and value > len(self.target):
                raise ValueError(f"copies.{key} = {value}, but the number of targets is {len(self.target)}")
        for number, bell in enumerate(self.schedule, start=1):
            if bell.cluster is not None and bell.cluster not in self.cluster:
                raise ValueError(f"schedule {number} names the cluster {bell.cluster!r}, which is not here")
        return self

    def cluster_named(self, name: str | None) -> tuple[str, Cluster]:
        """The cluster of that name, or the only one. Raises Missing, or UsageError where a name is needed."""
        known = ", ".join(sorted(self.cluster)) or "none"
        if name is not None:
            if name not in self.cluster:
                raise Missing(f"no cluster {name!r}", why=f"the configuration names: {known}")
            return name, self.cluster[name]
        if not self.cluster:
            raise Missing("no cluster", why="the configuration names none", cure="add [cluster.NAME]")
        if len(self.cluster) > 1:
            raise UsageError("which cluster?", why=f"the configuration names: {known}", cure="add its name")
        return next(iter(self.cluster.items()))
