"""The sandbox: a folder that one drill makes, works in and removes; what a killed drill left, the next one removes.

    <staging>/drkit-drill-<id>/
        drkit-drill.json    the marker: who made it. Written before anything else, removed last
        data/               the restored data folder; beside it data.log and data.sockets
        spool/ drkit.toml   this recovery's own
        tablespaces/        those of the backup

Without a marker nothing is ever removed, and nobody's process is ended but those that run from such a folder.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from drkit.core.clock import Clock
from drkit.core.errors import Failed, Refused
from drkit.core.units import format_size
from drkit.jobs.restore_folder import Owner
from storage_backends import durable

PREFIX = "drkit-drill-"
MARKER = "drkit-drill.json"
SCHEMA = "drkit.sandbox/1"
_RESERVE_BYTES = 256 << 20
_POLL_S = 0.02
_PATIENCE_S = 10.0
_ATTEMPTS = 3  # to delete a folder in which something ends just now


@dataclass(frozen=True, slots=True)
class Marker:
    """Who made a sandbox. started: of that process, in clock ticks since boot (proc(5)), for a pid is soon another's.

    boot: id of the machine's boot · ledger: whether the drill writes to the cluster, so that its schema may be left.
    """

    drill: str
    cluster: str
    pid: int
    started: int
    boot: str
    ledger: bool

    @property
    def is_alive(self) -> bool:
        return self.boot == _boot() and _started(self.pid) == self.started


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a drill that was killed left behind, and that is gone now. processes: how many were ended."""

    folder: Path
    marker: Marker
    processes: int


class Sandbox:
    """The folder of one drill. `remove` may be called at any time, and again."""

    def __init__(self, root: Path, marker: Marker, clock: Clock) -> None:
        self.root, self.marker, self._clock = root, marker, clock
        self.data = root / "data"
        self.spool = root / "spool"
        self.config = root / "drkit.toml"
        self.tablespaces = root / "tablespaces"

    @classmethod
    def make(cls, staging: Path, drill: str, cluster: str, owner: Owner, clock: Clock, *, ledger: bool) -> Sandbox:
        """Make the folder, its marker durable first. Raises Refused where it cannot be made."""
        root = staging / f"{PREFIX}{drill}"
        marker = Marker(drill, cluster, os.getpid(), _started(os.getpid()) or 0, _boot(), ledger)
        try:
            staging.mkdir(mode=0o755, parents=True, exist_ok=True)
            root.mkdir(mode=0o711)
            durable.replace(root / MARKER, json.dumps({"schema": SCHEMA, **asdict(marker)}).encode())
            for name in ("spool", "tablespaces"):
                (root / name).mkdir(mode=0o700)
                _give(root / name, owner)
            _give(root, owner)
        except OSError as error:
            cure = "set `staging` of the cluster to a folder that this user may write to"
            raise Refused("the sandbox cannot be made", where=str(root), why=str(error), cure=cure) from error
        return cls(root, marker, clock)

    def write_config(self, text: str, owner: Owner) -> Path:
        """The configuration that this recovery reads; only its own user may."""
        durable.replace(self.config, text.encode())
        self.config.chmod(0o600)
        _give(self.config, owner)
        return self.config

    def memory(self, name: str) -> Path:
        """A folder for what a host remembers of its targets: this drill's own."""
        path = self.root / name
        path.mkdir(mode=0o700, exist_ok=True)
        return path

    def settings(self, owner: Owner) -> Path:
        """A folder for configuration files of the restored server."""
        path = self.root / "settings"
        path.mkdir(mode=0o700, exist_ok=True)
        _give(path, owner)
        return path

    def size_bytes(self) -> int:
        """Of the restored files, tablespaces included, WAL left out."""
        total = 0
        for top in (self.data, self.tablespaces):
            for folder, folders, names in os.walk(top):
                if Path(folder) == self.data:
                    folders[:] = [name for name in folders if name != "pg_wal"]
                for name in names:
                    try:
                        total += (Path(folder) / name).lstat().st_size
                    except OSError:
                        continue
        return total

    def remove(self, keep: Path | None = None) -> int:
        """End what runs from the folder and delete it; keep: move it there instead. How many processes were ended.

        Raises Failed where something is left.
        """
        if not (self.root / MARKER).exists():
            return 0
        ended = end_processes(self.root, self._clock)
        if keep is not None:
            try:
                (self.root / MARKER).unlink()
                shutil.move(self.root, keep)
            except OSError as error:
                raise Failed("the sandbox cannot be moved", where=str(self.root), why=str(error)) from error
            return ended
        for _ in range(_ATTEMPTS):
            problems = _delete(self.root)
            if not problems:
                return ended
            ended += end_processes(self.root, self._clock)  # who was started while others were ended
        raise Failed("the sandbox cannot be removed", where=str(self.root), why="; ".join(problems[:3]))


def check_room(staging: Path, size_bytes: int) -> None:
    """Raises Refused, with the numbers, where a restore of that size does not fit."""
    near = next(path for path in (staging, *staging.parents) if path.exists())
    space = os.statvfs(near)
    free = space.f_bavail * space.f_frsize
    needed = size_bytes + _RESERVE_BYTES
    if free < needed:
        raise Refused(
            "there is not enough space for the drill",
            where=str(staging),
            why=f"it takes {needed} bytes ({format_size(needed)}), {free} ({format_size(free)}) are free, "
            f"{needed - free} are missing",
            cure="free some, or set `staging` of the cluster to a folder on a larger filesystem",
        )


def tidy(staging: Path, clock: Clock) -> Iterator[Leftover]:
    """Remove what killed drills left in `staging`, of any cluster; those of living ones and all else stay.

    Raises Failed where something cannot be removed.
    """
    if not staging.is_dir():
        return
    for root in sorted(staging.glob(f"{PREFIX}*")):
        marker = read_marker(root)
        if marker is None or marker.is_alive:
            continue
        yield Leftover(root, marker, Sandbox(root, marker, clock).remove())


def read_marker(root: Path) -> Marker | None:
    """The marker of a folder; None for a folder without one, or with one that cannot be read."""
    try:
        value = json.loads((root / MARKER).read_text())
        if value.pop("schema") != SCHEMA:
            return None
        return Marker(**value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None


def end_processes(root: Path, clock: Clock) -> int:
    """End the servers and their helpers that run in a folder below `root`: at once, then not politely."""
    seen: set[int] = set()
    for number in (signal.SIGQUIT, signal.SIGTERM, signal.SIGKILL):
        pids = set(_running(root))
        seen |= pids
        for pid in pids:
            _signal(pid, number)
        if _wait(lambda: not _running(root), clock):
            return len(seen)
    raise Failed("processes of the sandbox do not end", where=str(root), why=f"pids {sorted(_running(root))}")


def _running(root: Path) -> list[int]:
    """PostgreSQL's processes and drkit's own that work in the folder `root`, or whose command line names it."""
    real = os.path.realpath(root)
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            here = str((entry / "cwd").readlink())  # with " (deleted)" behind it where that is so
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            words = (entry / "cmdline").read_bytes()
            others = words.replace(os.fsencode(real), b"")  # the folder's own name says nothing of who names it
            named = (entry / "comm").read_text().strip() == "postgres" or b"drkit" in others
        except OSError:
            continue  # ended meanwhile, or not ours to see
        is_here = f"{here}/".startswith(f"{real}/") or os.fsencode(f"{real}/") in words
        if is_here and state != "Z" and named:
            found.append(int(entry.name))
    return found


def _signal(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except OSError:
        pass  # it is gone, or we hear of it when we wait


def _wait(done: Callable[[], bool], clock: Clock) -> bool:
    deadline = clock.monotonic() + _PATIENCE_S
    while not done():
        if clock.monotonic() >= deadline:
            return False
        clock.sleep(_POLL_S)
    return True


def _delete(root: Path) -> list[str]:
    """All but the marker, then the marker: whoever is killed in between leaves a folder that still says what it is.

    Returns what is in the way; the marker is there then.
    """
    problems = list(_delete_content(root))
    if problems:
        return problems
    marker = (root / MARKER).read_bytes()
    (root / MARKER).unlink()
    try:
        root.rmdir()
    except OSError as error:  # somebody wrote there meanwhile
        (root / MARKER).write_bytes(marker)
        return [str(error)]
    return []


def _delete_content(root: Path) -> Iterator[str]:
    """What is in the way. A server that was just ended may remove files of its own meanwhile: what is gone is gone."""
    problems: list[str] = []

    def failed(_: object, name: str, error: tuple[type[BaseException], BaseException, object]) -> None:
        if not isinstance(error[1], FileNotFoundError):
            problems.append(f"{name}: {error[1]}")

    for path in root.iterdir():
        if path.name == MARKER:
            continue
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, onerror=failed)
        else:
            path.unlink(missing_ok=True)
    yield from problems


def _give(path: Path, owner: Owner) -> None:
    if os.geteuid() == 0:
        os.chown(path, owner.uid, owner.gid)


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """Field 22 of /proc/PID/stat; None where there is no such process, or it is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else int(fields[19])
