"""The demo's folder: everything it makes is in there, and everything it runs works from there.

data/               the server's data folder, until the disaster
near/  far/         the targets that are folders
logs/               what each command was, said and complained of; the logs of server and daemon
reports/            of each drill, in all its forms
s/  spool/  drkit.toml  master.key
drkit-drill-*/      a drill's sandbox, for as long as it lasts
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from drills.demo.account import Account, check_reach
from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import Failed, Refused

MARK = "DRKIT_DEMO_FOLDER"
_POLL_S = 0.02
_GRACE_S = 8.0
_CHUNK_BYTES = 1 << 16
_LONGEST = 50  # bytes of the folder's name: the sockets of the servers in drills' sandboxes must fit below it


@dataclass(frozen=True, slots=True)
class Ran:
    """A command that ended. `line` is what was run, as a shell would take it."""

    line: str
    exit: int
    stdout: str
    stderr: str
    seconds: float

    def fail(self, what: str, log: Path) -> Failed:
        """The error that this command's end means: the one that it told as JSON, else its last words."""
        words = [one.strip() for one in (self.stderr or self.stdout).splitlines() if one.strip()]
        why = " | ".join(words[-6:])
        if words and words[-1].startswith('{"schema": "drkit.error/'):
            told = json.loads(words[-1])["error"]
            why = f"{told['what']}: {told['why']}" if told["why"] else str(told["what"])
        return Failed(what, where=str(log), why=f"exit {self.exit}: {why}", cure=f"less {log}")


class Background:
    """A program that was started and goes on by itself."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self._process, self._log = process, log

    def check(self) -> None:
        """Raises Failed where it has ended."""
        status = self._process.poll()
        if status is not None:
            words = self._log.read_text(errors="replace").splitlines()[-3:]
            why = f"exit {status}: {' | '.join(words)}"
            raise Failed("a program ended by itself", where=str(self._log), why=why, cure=f"less {self._log}")

    def stop(self) -> int:
        """Politely, then not; its exit status."""
        if self._process.poll() is None:
            _end(self._process)
        return self._process.returncode


class Place:
    """The folder and the processes in it. Not thread-safe."""

    def __init__(self, root: Path, who: Account, clock: Clock, token: CancelToken) -> None:
        self.root, self.who, self.clock, self.token = root, who, clock, token
        self.logs = root / "logs"
        self.sockets = root / "s"
        self._commands = 0

    @classmethod
    def make(cls, wanted: Path | None, who: Account, clock: Clock, token: CancelToken) -> Place:
        """Make the folder: `wanted`, which must not exist or be empty, else a new one. Raises Refused."""
        if wanted is None:
            usual = Path(_temporary_folder()).resolve()
            check_reach([usual], who)
            root = Path(tempfile.mkdtemp(prefix="drkit-demo-", dir=usual))
        else:
            root = _own_folder(wanted)
        place = cls(root, who, clock, token)
        root.chmod(0o700)
        place.give(root)
        check_reach([root], who)
        for name in ("logs", "reports", "spool", "s"):
            (root / name).mkdir(mode=0o700)
            place.give(root / name)
        return place

    def give(self, path: Path) -> None:
        """Hand a file or folder of ours to the server's user."""
        if self.who.switch:
            os.chown(path, self.who.uid, self.who.gid)

    def write(self, name: str, text: str) -> Path:
        """A file that only the server's user reads."""
        path = self.root / name
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
        self.give(path)
        return path

    def run(
        self, args: list[str], env: Mapping[str, str], hear: Callable[[str], None] | None = None, timeout_s: float = 300
    ) -> tuple[Ran, Path]:
        """Run a program as the server's user, in the folder, and log it; returns how it ended, and the log.

        hear: gets each line of stderr as it comes. The program is ended when the token is cancelled. Raises Cancelled;
        Failed where it cannot be run or takes too long.
        """
        self.token.check()
        self._commands += 1
        name = "-".join([Path(args[0]).name, *(word for word in args[1:3] if _plain(word))])
        log = self.logs / f"{self._commands:02d}-{name}.log"
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            begun = self.clock.monotonic()
            process = self._spawn(args, env, out.fileno(), err.fileno())
            status = self._wait(process, begun + timeout_s, _Lines(err.fileno(), hear))
            seconds = self.clock.monotonic() - begun
            said = []
            for stream in (out, err):
                stream.seek(0)
                said.append(stream.read().decode("utf-8", "replace"))
        ran = Ran(shlex.join(args), status, said[0], said[1], seconds)
        end = f"--- exit {status}, {seconds:.3f} s"
        log.write_text(f"$ {ran.line}\n{ran.stdout}\n--- stderr ---\n{ran.stderr}\n{end}\n")
        self.token.check()
        return ran, log

    def start(self, args: list[str], env: Mapping[str, str], log: Path) -> Background:
        """Start a program that goes on by itself; it writes into `log`. Raises Failed where it cannot be run."""
        with log.open("ab") as file:
            return Background(self._spawn(args, env, file.fileno(), file.fileno()), log)

    def _spawn(self, args: list[str], env: Mapping[str, str], out: int, err: int) -> subprocess.Popen[bytes]:
        # A session of its own: Ctrl-C reaches us alone, and we end what runs in order.
        user, group = (self.who.uid, self.who.gid) if self.who.switch else (None, None)
        try:
            return subprocess.Popen(
                args,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=dict(env),
                cwd=self.root,
                start_new_session=True,
                user=user,
                group=group,
                extra_groups=[] if self.who.switch else None,
            )
        except OSError as error:
            raise Failed("a program cannot be run", where=args[0], why=str(error)) from error

    def _wait(self, process: subprocess.Popen[bytes], deadline_s: float, lines: _Lines) -> int:
        while True:
            try:
                return process.wait(_POLL_S)
            except subprocess.TimeoutExpired:
                late = self.clock.monotonic() > deadline_s
            lines.hear()
            if late or self.token.cancelled:
                _end(process)
                self.token.check()
                raise Failed("a command took too long", where=" ".join(process.args))  # type: ignore[arg-type]

    # --- processes ---

    def processes(self) -> list[int]:
        """What the demo started and still runs: servers, commands, and all that those started.

        A server's processes wipe their environment for their title: they are known by name and current folder, which
        still counts when it was deleted. All else carries MARK. Somebody's shell in the folder is neither.
        """
        mark = f"{MARK}={self.root}".encode()
        running = (entry for entry in Path("/proc").iterdir() if entry.name.isdigit())
        return [int(entry.name) for entry in running if self._ours(entry, mark)]

    def _ours(self, entry: Path, mark: bytes) -> bool:
        try:
            if (entry / "comm").read_text().strip() == "postgres":
                return (entry / "cwd").readlink().is_relative_to(self.root)
            return mark in (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            return False  # ended meanwhile, or not ours to see

    def end_all(self) -> None:
        """End what still runs here: politely, then not. Returns when it is gone."""
        for number, patience_s in ((signal.SIGINT, _GRACE_S), (signal.SIGQUIT, 2.0), (signal.SIGKILL, _GRACE_S)):
            left = self.processes()
            for pid in left:
                try:
                    os.kill(pid, number)
                except ProcessLookupError:
                    pass
            if self.wait_gone(patience_s):
                return

    def wait_gone(self, timeout_s: float) -> bool:
        """Wait until nothing runs in the folder; whether that came true."""
        deadline = self.clock.monotonic() + timeout_s
        while self.processes():
            if self.clock.monotonic() >= deadline:
                return False
            self.clock.sleep(_POLL_S)
        return True

    # --- the end ---

    def remove(self, keep: Collection[str] = ()) -> None:
        """Remove what is in the folder but for the names in `keep`, then the folder if it is empty.

        The logs of restored servers that a drill left, which lie beside their data folders, are put to the others.
        """
        for log in self.root.glob("drkit-drill-*/*.log"):
            log.replace(self.logs / f"{log.parent.name}-{log.name}")
        for path in self.root.iterdir():
            if path.name in keep:
                continue
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        try:
            self.root.rmdir()
        except OSError:
            pass  # something is kept


class _Lines:
    """Lines of a file that grows, each once. Its position is left alone: the program that writes shares it."""

    def __init__(self, descriptor: int, hear: Callable[[str], None] | None) -> None:
        self._descriptor, self._hear, self._offset = descriptor, hear, 0

    def hear(self) -> None:
        """Hand on what came since the last time, whole lines only."""
        if self._hear is None:
            return
        fresh = os.pread(self._descriptor, _CHUNK_BYTES, self._offset)
        whole = fresh[: fresh.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.decode("utf-8", "replace").splitlines():
            self._hear(line)


def _plain(word: str) -> bool:
    """Whether it may be part of a file's name."""
    return word.replace("-", "").isalnum() and not word.startswith("-")


def _temporary_folder() -> str:
    """The system's, unless its name leaves no room for a socket's path."""
    usual = tempfile.gettempdir()
    return usual if len(os.fsencode(usual)) < _LONGEST else "/tmp"


def _own_folder(wanted: Path) -> Path:
    root = wanted.absolute()
    if len(os.fsencode(root)) > _LONGEST:
        raise Refused("the folder's name is too long", where=str(root), why="a server's socket must fit below it")
    try:
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        taken = any(root.iterdir())
    except OSError as error:
        raise Refused("the folder cannot be used", where=str(root), why=str(error)) from error
    if taken:
        raise Refused("the folder is not empty", where=str(root), cure="name one that does not exist yet")
    return root.resolve()


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
