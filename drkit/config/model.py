"""The configuration, typed. Every key, what it may hold and what it is without a word from anyone.

Values are checked when loaded (`drkit.config.load`); secrets are never in here, only where they are kept.
The text under a key is its meaning; docs/configuration.md is made from it (`python -m tests.docs.configuration`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, PrivateAttr, model_validator

from drkit.config.drill import Drill
from drkit.config.notify import Notify
from drkit.config.places import clashes, place_of
from drkit.config.section import Section
from drkit.config.values import (
    A_NAME,
    AbsolutePath,
    CalendarSpan,
    Compression,
    CompressionLevel,
    Connection,
    CopyRule,
    Cron,
    Duration,
    Endpoint,
    LoopbackAddress,
    Rate,
    Share,
    Site,
    TargetUrl,
    Workers,
    ZoneName,
    is_name,
)
from drkit.core.errors import Missing, UsageError
from policies.rule import Rule


class Objectives(Section):
    """What is promised for a cluster; a key that is not set promises nothing."""

    rpo: Duration | None = None
    """The most that may be lost with the server. Without streaming it needs an `archive_timeout` at most as long."""
    rto: Duration | None = None
    """The longest that a restore may take."""
    max_backup_age: Duration | None = None
    """How old the newest good backup may be."""
    max_verify_age: Duration | None = None
    """How long ago what is stored may have been verified last."""
    max_drill_age: Duration | None = None
    """How long ago a restore may have been drilled last."""


class Cluster(Section):
    """A PostgreSQL cluster. Commands may leave its name out where there is one only."""

    connection: Connection = ""
    """A libpq connection string without a password (a passfile, a service file or `PGPASSWORD` has it).
    Empty: libpq's own defaults."""
    data_dir: AbsolutePath | None = None
    """Its data folder. Not set: the server is asked."""
    site: Site = "primary"
    """Where it stands: a target with another site is offsite."""
    staging: AbsolutePath | None = None
    """A folder for drills: each makes one of its own in it, and removes it. Not set: the system's temporary folder."""
    sacrificial: bool = False
    """Whether a drill may really kill this server and delete its data folder. For servers made to be destroyed."""
    staging_port: Annotated[int, Field(ge=1024, le=65535)] | None = None
    """The port of a server that is started there."""
    pg_bin: AbsolutePath | None = None
    """The folder of the server's programs. Not set: found by version."""
    objectives: Objectives = Objectives()


class TargetRetention(Section):
    """What expiry keeps on this one target in place of `[retention]`: its windows are these and no others. What is not
    a window and not set here is as in `[retention]`."""

    pitr_window: Duration | None = None
    """How far back every instant stays restorable."""
    daily: CalendarSpan | None = None
    """How far back one backup of each day is kept."""
    weekly: CalendarSpan | None = None
    """How far back one backup of each ISO week is kept."""
    monthly: CalendarSpan | None = None
    """How far back one backup of each month is kept."""
    yearly: CalendarSpan | None = None
    """How far back one backup of each year is kept."""
    min_full: Annotated[int, Field(ge=1)] | None = None
    """So many good backups are always kept."""
    grace: Duration | None = None
    """How long an expired object stays, so that running restores end."""


class Target(Section):
    """A store, and how to reach it. Credentials: key files, `credentials_command` or `profile`, one of them;
    without any the usual places of AWS tools."""

    url: TargetUrl
    """Where it is."""
    site: Site
    """Where it stands, to tell what is offsite."""
    medium: Literal["disk", "object", "tape", "other"] = "disk"
    """What it is declared to be. What is observed counts: two targets on one device or endpoint are one medium."""
    endpoint: Endpoint | None = None
    """The address of an S3 service that is not AWS."""
    region: str | None = None
    """The region of the bucket."""
    addressing: Literal["auto", "path", "virtual"] = "auto"
    """Whether the bucket is part of the path or of the host's name."""
    access_key_file: AbsolutePath | None = None
    """A file with the access key's id, not readable by everyone; comes with `secret_key_file`."""
    secret_key_file: AbsolutePath | None = None
    """A file with the secret key, not readable by everyone."""
    credentials_command: str | None = None
    """A command that prints the two on two lines, or the JSON of an AWS `credential_process`; run without a shell."""
    profile: str | None = None
    """A profile of the AWS configuration."""
    immutable: Literal["none", "governance", "compliance"] = "none"
    """The mode of object lock that the store is meant to keep; not for folders."""
    checksums: Literal["when_required", "when_supported"] = "when_required"
    """When S3 requests carry the newer checksums; `when_required` suits all servers."""
    timeout: Duration = timedelta(seconds=30)
    """For connecting and for each read."""
    allow_unconditional: bool = False
    """Accept a store that ignores conditional writes. Expiry then refuses it."""
    expire_access_key_file: AbsolutePath | None = None
    """A file with the id of an access key that may delete, for `drkit expire` alone; all other commands then do without
    that right. Comes with `expire_secret_key_file`."""
    expire_secret_key_file: AbsolutePath | None = None
    """A file with its secret key, not readable by everyone."""
    expire_profile: str | None = None
    """The same as a profile of the AWS configuration."""
    rate: Rate | None = None
    """The most that a backup, restore, replication or verification sends to it, and fetches from it, in a second. Not
    for WAL. Not set: no limit."""
    retention: TargetRetention | None = None

    @property
    def scheme(self) -> str:
        return self.url.partition(":")[0]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.access_key_file is None) != (self.secret_key_file is None):
            raise ValueError("access_key_file and secret_key_file come together")
        if (self.expire_access_key_file is None) != (self.expire_secret_key_file is None):
            raise ValueError("expire_access_key_file and expire_secret_key_file come together")
        if self.expire_access_key_file is not None and self.expire_profile is not None:
            raise ValueError("one way to the credentials of expiry: key files or expire_profile")
        ways = [self.access_key_file, self.credentials_command, self.profile]
        if sum(way is not None for way in ways) > 1:
            raise ValueError("one way to credentials: key files, credentials_command or profile")
        if self.scheme == "file":
            only_s3 = ["endpoint", "region", "access_key_file", "credentials_command", "profile"]
            only_s3 += ["expire_access_key_file", "expire_profile"]
            wrong = [key for key in only_s3 if getattr(self, key) is not None]
            if self.immutable != "none":
                wrong.append("immutable")
            if wrong:
                raise ValueError(f"a folder has no {', '.join(wrong)}")
        if self.timeout <= timedelta(0):
            raise ValueError("timeout is longer than 0s")
        return self

    def for_expiry(self) -> Target:
        """The same store by the credentials that may delete, where there are some apart."""
        if self.expire_access_key_file is None and self.expire_profile is None:
            return self
        own = {
            "access_key_file": self.expire_access_key_file,
            "secret_key_file": self.expire_secret_key_file,
            "credentials_command": None,
            "profile": self.expire_profile,
        }
        return self.model_copy(update=own)


class Copies(Section):
    """How many copies there must be, and when one counts as made."""

    rule: CopyRule = Rule(2, 1, 0)
    """Copies, media, offsite copies; behind that, where wanted, immutable copies and the errors allowed."""
    wal_ack: Annotated[int, Field(ge=1)] | Literal["quorum", "all"] | None = None
    """How many targets must have a WAL segment before the server may forget it. With `all` one dead target stops
    archiving. Not set: 1 with up to two targets, a majority from three on. A target on a device of the server never
    stands in for one apart from it: while none of these answers, WAL waits on the server."""
    backup_ack: Annotated[int, Field(ge=1)] = 1
    """On how many targets a backup must be whole to succeed."""


class Retention(Section):
    """What expiry keeps: windows, not counts. With no window at all nothing ever expires."""

    timezone: ZoneName = "UTC"
    """In which zone days, weeks, months and years begin."""
    pitr_window: Duration | None = None
    """How far back every instant stays restorable."""
    daily: CalendarSpan | None = None
    """How far back one backup of each day is kept."""
    weekly: CalendarSpan | None = None
    """How far back one backup of each ISO week is kept."""
    monthly: CalendarSpan | None = None
    """How far back one backup of each month is kept."""
    yearly: CalendarSpan | None = None
    """How far back one backup of each year is kept."""
    min_full: Annotated[int, Field(ge=1)] = 3
    """So many good backups are always kept."""
    pick: Literal["first", "last"] = "first"
    """Which good backup stands for its day, week, month or year."""
    grace: Duration = timedelta(days=7)
    """How long an expired object stays, so that running restores end. At least as long as the longest restore."""
    max_skew: Duration = timedelta(minutes=1)
    """How far the clocks of hosts and stores may be apart; expiry refuses a target whose clock is further off."""
    max_removed: Annotated[int, Field(ge=1)] = 100
    """At most so many backups leave a target in one run."""


class Schedule(Section):
    """One bell; write as many as needed."""

    job: Literal["backup", "check", "drill", "expire", "replicate", "verify"]
    """What to do."""
    cron: Cron
    """When: minute, hour, day, month, weekday. A time that the clocks skip is run right behind the gap, one that they
    repeat once."""
    cluster: str | None = None
    """For which cluster. Not set: for every one."""
    timezone: ZoneName = "UTC"
    """The zone of `cron`."""
    jitter: Duration = timedelta(0)
    """Each bell rings later by a part of this, always the same one: spreads many clusters over an hour."""
    deadline: Duration | None = None
    """How long a run may take before it is ended. Not set: `job_deadline` of `[daemon]`."""
    scenario: str | None = None
    """Which drill: one of `[drill.NAME]`, or built in (`drkit drill list`)."""
    point: str | None = None
    """The point in time that a drill restores."""
    allow_sites: tuple[str, ...] = ()
    """The sites that a drill may read from. Empty: all."""
    deny_sites: tuple[str, ...] = ()
    """The sites that a drill takes for lost."""
    sample: Share | None = None
    """The part of the bulk that a verification reads; the next one goes on behind it. Not set: all of it."""
    deep: bool = False
    """Whether a verification also opens and rebuilds what it reads."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.job == "drill" and self.scenario is None:
            raise ValueError("a drill names its scenario")
        if self.job != "drill" and (self.scenario or self.point or self.allow_sites or self.deny_sites):
            raise ValueError("scenario, point, allow_sites and deny_sites are for job = 'drill'")
        if self.job != "verify" and (self.sample or self.deep):
            raise ValueError("sample and deep are for job = 'verify'")
        if not timedelta(0) <= self.jitter <= timedelta(days=1):
            raise ValueError("jitter is at most 1d")
        if self.deadline is not None and self.deadline <= timedelta(0):
            raise ValueError("deadline is longer than 0s")
        return self


class Keys(Section):
    """Where the master key is: one of the three, or `DRKIT_KEYS__PASSPHRASE` in the environment."""

    file: AbsolutePath | None = None
    """A key file, as `drkit key new` makes it."""
    passphrase_file: AbsolutePath | None = None
    """A file with a passphrase."""
    passphrase_command: str | None = None
    """A command that prints the passphrase; run without a shell."""

    @model_validator(mode="after")
    def _one(self) -> Self:
        given = [way for way in (self.file, self.passphrase_file, self.passphrase_command) if way is not None]
        if len(given) > 1:
            raise ValueError("one of file, passphrase_file and passphrase_command")
        return self


class Backup(Section):
    """How backups are taken."""

    compression: CompressionLevel = Compression("zstd", 3)
    """Before encryption."""
    workers: Workers = 0
    """Threads that read and compress. 0: as many as cores."""
    rate: Rate | None = None
    """The most that is read from the server's disk in a second. Not set: no limit."""


class Wal(Section):
    """How WAL is archived."""

    compression: CompressionLevel = Compression("zstd", 1)
    """Before encryption. Harder is slower and saves little: [what was measured](daemon.md#compression). A daemon
    with more than 16 files waiting compresses at most at level 1."""


class Daemon(Section):
    """Where the daemon listens, and what outlives a run on this host."""

    socket: AbsolutePath = Path("/run/drkit/drkit.sock")
    """The socket on which `drkit-wal` finds it."""
    spool: AbsolutePath = Path("/var/lib/drkit")
    """Sealed WAL that a target still lacks, and what this host knows of targets. Who may not write to the default
    has `$XDG_STATE_HOME/drkit`."""
    job_deadline: Duration = timedelta(days=1)
    """How long a scheduled run may take before it is ended."""
    jobs: Annotated[int, Field(ge=1, le=64)] = 2
    """How many scheduled jobs run at once; of one cluster never more than one."""
    nice: Annotated[int, Field(ge=0, le=19)] = 0
    """How far scheduled jobs stand back from other programs for the processors (nice(2)); not the daemon itself."""
    io: Literal["normal", "idle"] = "normal"
    """Whether scheduled jobs use the disk only when nobody else does, where its I/O scheduler knows of this
    (ioprio_set(2))."""
    metrics: LoopbackAddress | None = None
    """Where Prometheus may ask, such as `127.0.0.1:9187`; loopback only, a proxy serves others. Not set: nowhere."""
    look_every: Duration = timedelta(minutes=5)
    """How often the targets are read to judge whether what is promised holds; `1m` at least."""

    @model_validator(mode="after")
    def _patient(self) -> Self:
        if self.look_every < timedelta(minutes=1):
            raise ValueError("look_every is at least 1m")
        return self


class Config(Section):
    """The whole file. Names of clusters and targets: lower-case letters, digits, '-' and '_', at most 40."""

    cluster: dict[str, Cluster] = Field(default={})
    target: dict[str, Target] = Field(default={})
    copies: Copies = Copies()
    retention: Retention = Retention()
    schedule: tuple[Schedule, ...] = ()
    drill: dict[str, Drill] = Field(default={})
    keys: Keys = Keys()
    backup: Backup = Backup()
    wal: Wal = Wal()
    daemon: Daemon = Daemon()
    notify: Notify = Notify()
    _wrong_drills: Mapping[str, str] = PrivateAttr(default={})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for kind, names in (("cluster", self.cluster), ("target", self.target)):
            for name in names:
                if not is_name(name):
                    raise ValueError(f"[{kind}.{name}]: {A_NAME}")
        if not self.target:
            raise ValueError("there is no target; add [target.NAME] with url and site")
        targets = {name: (t.url, place_of(t.url, t.endpoint)) for name, t in self.target.items()}
        data_folders = {name: c.data_dir for name, c in self.cluster.items() if c.data_dir is not None}
        for clash in clashes(targets, data_folders):
            raise ValueError(f"{clash}; each target needs a place of its own")
        for key, value in (("wal_ack", self.copies.wal_ack), ("backup_ack", self.copies.backup_ack)):
            if isinstance(value, int) and value > len(self.target):
                raise ValueError(f"copies.{key} = {value}, but the number of targets is {len(self.target)}")
        for number, bell in enumerate(self.schedule, start=1):
            if bell.cluster is not None and bell.cluster not in self.cluster:
                raise ValueError(f"schedule {number} names the cluster {bell.cluster!r}, which is not here")
        return self

    @property
    def wrong_drills(self) -> Mapping[str, str]:
        """Sections [drill.NAME] that cannot be used, and why: none of them is in `drill`."""
        return self._wrong_drills

    def without(self, wrong: Mapping[str, str]) -> Self:
        """The same that knows of `wrong_drills`."""
        made = self.model_copy()
        made._wrong_drills = dict(wrong)
        return made

    def cluster_named(self, name: str | None) -> tuple[str, Cluster]:
        """The cluster of that name, or the only one. Raises Missing, or UsageError where a name is needed."""
        known = ", ".join(sorted(self.cluster)) or "none"
        if name is not None:
            if name not in self.cluster:
                why, cure = f"the configuration names: {known}", f"name one of them, or add [cluster.{name}]"
                raise Missing(f"no cluster {name!r}", why=why, cure=cure)
            return name, self.cluster[name]
        if not self.cluster:
            raise Missing("no cluster", why="the configuration names none", cure="add [cluster.NAME]")
        if len(self.cluster) > 1:
            raise UsageError("which cluster?", why=f"the configuration names: {known}", cure="add its name")
        return next(iter(self.cluster.items()))
