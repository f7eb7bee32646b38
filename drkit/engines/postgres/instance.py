"""Runs a PostgreSQL server on a data folder of this machine, and follows it through recovery.

The server runs as the owner of the data folder (it refuses root), in a session of its own, its messages in English
in a log file that this module owns. It survives this process; `stop` ends it. Signals to the postmaster
(`src/backend/postmaster/postmaster.c`): SIGTERM smart, SIGINT fast, SIGQUIT immediate shutdown.
"""

from __future__ import annotations

import os
import pwd
import shlex
import shutil
import signal
import stat
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import TracebackType

from drkit.core.errors import Cancelled, Failed, Refused
from drkit.engines.postgres.phases import Phase, PhaseSeen, phase_of

POLL_S = 0.02
_LAST_LINES = 12
_SETTINGS = {"logging_collector": "off", "log_destination": "stderr", "lc_messages": "C", "log_line_prefix": "%m [%p] "}


class Outcome(Enum):
    """How a start ended well. READ_ONLY: a hot standby, or a recovery still going on, takes connections."""

    READY = "ready"
    READ_ONLY = "read only"
    PAUSED = "paused"
    SHUT_DOWN = "shut down at the target"


class NotReached(Failed):
    """Recovery came to the end of WAL before its target."""


class StartFailed(Failed):
    """The server ended, or did not get ready in time; `why` holds its last words."""


@dataclass(frozen=True, slots=True)
class InstanceSpec:
    """What to run. `programs` holds `postgres`; `log` is appended to; `settings` win over all files.

    `environment` is the server's whole environment besides PATH and LC_ALL: a restore_command sees it too.
    """

    data_dir: Path
    programs: Path
    port: int
    socket_folder: Path
    log: Path
    settings: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    oom_score_adj: int = 0


class Instance:
    """One server process. Not thread-safe. As a context manager it is stopped (immediate) on the way out."""

    def __init__(self, spec: InstanceSpec, monotonic: Callable[[], float], sleep: Callable[[float], None]) -> None:
        self.spec = spec
        self.phases: list[PhaseSeen] = []
        self.started_at_s: float | None = None
        self._monotonic = monotonic
        self._sleep = sleep
        self._process: subprocess.Popen[bytes] | None = None
        self._log_position = 0
        self._partial = b""
        self._last: list[str] = []

    def __enter__(self) -> Instance:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.is_running:
            self.stop(Shutdown.IMMEDIATE, timeout_s=10)

    # --- life ---

    def start(self) -> None:
        """Start the server process; returns at once. Raises Refused when it cannot even be tried."""
        spec = self.spec
        if self._process is not None:
            raise Refused("this server was started already", where=str(spec.data_dir))
        owner = spec.data_dir.stat()
        if owner.st_uid == 0:
            cure = f"chown -R postgres {spec.data_dir}"
            raise Refused("PostgreSQL does not run as root", where=str(spec.data_dir), why="root owns it", cure=cure)
        if os.geteuid() not in (0, owner.st_uid):
            raise Refused("the data folder belongs to another user", where=str(spec.data_dir))
        if len(os.fsencode(spec.socket_folder)) + len(f"/.s.PGSQL.{spec.port}.lock") > 107:
            raise Refused("the socket folder's path is too long", where=str(spec.socket_folder))
        settings = {
            **_SETTINGS,
            "port": str(spec.port),
            "unix_socket_directories": str(spec.socket_folder),
            **spec.settings,
        }
        args: list[str | Path] = [spec.programs / "postgres", "-D", spec.data_dir]
        for name, value in settings.items():
            args += ["-c", f"{name}={value}"]
        environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", **spec.environment}
        with spec.log.open("ab") as log:
            if os.geteuid() == 0:
                os.fchown(log.fileno(), owner.st_uid, owner.st_gid)
            self._log_position = log.seek(0, os.SEEK_END)
            self.started_at_s = self._monotonic()
            self._process = _spawn(args, environment, log.fileno(), owner)
        if spec.oom_score_adj:
            Path(f"/proc/{self._process.pid}/oom_score_adj").write_text(str(spec.oom_score_adj))

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process is not None else None

    def stop(self, mode: Shutdown | None = None, timeout_s: float = 60) -> None:
        """Stop the server (fast by default) and wait; after `timeout_s` it is killed, and its children notice."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.send_signal((mode or Shutdown.FAST).value)
        try:
            process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self.follow()

    # --- following ---

    def follow(self) -> list[PhaseSeen]:
        """Read what the log has gained; returns the phases that are new, each stamped with the clock now."""
        with self.spec.log.open("rb") as log:
            log.seek(self._log_position)
            data = log.read()
        self._log_position += len(data)
        lines = (self._partial + data).split(b"\n")
        self._partial = lines.pop()
        now, fresh = self._monotonic(), []
        for raw in lines:
            line = raw.decode("utf-8", "replace")
            self._last = [*self._last[1 - _LAST_LINES :], line]
            seen = phase_of(line, now)
            if seen is not None:
                fresh.append(seen)
        self.phases += fresh
        return fresh

    def seen(self, phase: Phase) -> PhaseSeen | None:
        """The first time that a phase was seen."""
        return next((one for one in self.phases if one.phase is phase), None)

    def wait(
        self,
        timeout_s: float,
        *,
        accept: frozenset[Outcome] = frozenset({Outcome.READY, Outcome.PAUSED, Outcome.SHUT_DOWN}),
        on_phase: Callable[[PhaseSeen], None] | None = None,
        cancelled: Callable[[], bool] = lambda: False,
    ) -> Outcome:
        """Follow the log until an accepted outcome.

        Raises NotReached, StartFailed (also after `timeout_s`; the server then still runs) or Cancelled. Phase
        times are accurate to POLL_S.
        """
        deadline = self._monotonic() + timeout_s
        while True:
            running = self.is_running
            for seen in self.follow():
                if on_phase is not None:
                    on_phase(seen)
            outcome = self._outcome(running)
            if outcome in accept:
                return outcome
            if not running:
                raise self._failure("the server ended")
            if self.seen(Phase.TOO_LOW) is not None and self.seen(Phase.PAUSED) is not None:
                raise self._failure("recovery paused because settings are lower than the source's")
            if cancelled():
                raise Cancelled("waiting for the server was cancelled", where=str(self.spec.data_dir))
            if self._monotonic() >= deadline:
                raise self._failure(f"the server was not ready within {timeout_s:g} s")
            self._sleep(POLL_S)

    @property
    def last_lines(self) -> list[str]:
        """The end of the log, at most 12 lines."""
        return list(self._last)

    def _outcome(self, running: bool) -> Outcome | None:
        seen = {one.phase for one in self.phases}
        if not running:
            return Outcome.SHUT_DOWN if Phase.SHUT_AT_TARGET in seen else None
        if Phase.READY in seen:
            return Outcome.READY
        if Phase.PAUSED in seen and Phase.TOO_LOW not in seen:
            return Outcome.PAUSED
        return Outcome.READ_ONLY if Phase.READ_ONLY in seen else None

    def _failure(self, what: str) -> Failed:
        fatal = self.seen(Phase.FATAL)
        why = fatal.detail if fatal else ""
        lines = " | ".join(line for line in self._last if line.strip())
        where = str(self.spec.data_dir)
        cure = f"less {self.spec.log}"
        if self.seen(Phase.NOT_REACHED) is not None:
            return NotReached("the recovery target was not reached", where=where, why=lines, cure=cure)
        return StartFailed(what, where=where, why=f"{why} | {lines}" if why else lines, cure=cure)


class Shutdown(Enum):
    """The signal that asks for each kind of shutdown."""

    SMART = signal.SIGTERM
    FAST = signal.SIGINT
    IMMEDIATE = signal.SIGQUIT


def _spawn(
    args: list[str | Path], environment: dict[str, str], log: int, owner: os.stat_result
) -> subprocess.Popen[bytes]:
    command = [str(arg) for arg in args]
    if os.geteuid() != 0:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, cwd="/", start_new_session=True
        )
    groups: list[int] = []
    try:
        entry = pwd.getpwuid(owner.st_uid)
        groups = os.getgrouplist(entry.pw_name, owner.st_gid)
    except KeyError:
        pass  # an owner without an account: its group alone
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        env=environment,
        cwd="/",
        start_new_session=True,
        user=owner.st_uid,
        group=owner.st_gid,
        extra_groups=groups,
    )


def make_socket_folder(path: Path, data_dir: Path) -> None:
    """Make a folder for the server's socket, owned like the data folder, closed to others, or close the one of before.

    Raises Refused where somebody else's stands there already: who may enter it may be let in without a password.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    owner, found = data_dir.stat(), path.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (owner.st_uid, os.geteuid()):
        cure = f"who made it? once that is known: rm -r {shlex.quote(str(path))}"
        raise Refused("a private folder of the server is not its own", where=str(path), cure=cure)
    path.chmod(0o700)
    if os.geteuid() == 0:
        shutil.chown(path, owner.st_uid, owner.st_gid)


def own_configuration(folder: Path, data_dir: Path) -> dict[str, str]:
    """Write configuration files into `folder` and return the settings that make a server use them.

    For a copy whose source keeps them outside its data folder (Debian), or whose own must not count.
    postgresql.auto.conf in the data folder is still read. Only the socket lets anybody in, without a password: who
    may enter its folder is who may connect (see `make_socket_folder`).
    """
    files = {
        "config_file": ("postgresql.conf", "# everything is given on the command line\n"),
        "hba_file": ("pg_hba.conf", "local all all trust\nlocal replication all trust\n"),
        "ident_file": ("pg_ident.conf", ""),
    }
    owner = data_dir.stat()
    settings = {}
    for setting, (name, content) in files.items():
        path = folder / name
        path.write_text(content)
        if os.geteuid() == 0:
            shutil.chown(path, owner.st_uid, owner.st_gid)
        settings[setting] = str(path)
    return settings
