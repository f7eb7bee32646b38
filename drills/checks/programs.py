"""Runs one of PostgreSQL's programs against the restored server, within the check's time."""

from __future__ import annotations

import os
import pwd
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from drkit.core.cancel import CancelToken
from drkit.core.errors import Missing

_POLL_S = 0.05
_GRACE_S = 5.0
_MOST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Ran:
    """exit: negative where a signal ended it · said: the first lines of stderr, then of stdout; 64 KiB of each."""

    program: str
    exit: int
    said: tuple[str, ...]

    @property
    def findings(self) -> tuple[str, ...]:
        """One line for each thing said: details, and what is indented, belong to the line before. At least one."""
        lines: list[str] = []
        for one in self.said:
            detail = one.removeprefix(f"{self.program}: detail: ")
            if lines and (detail != one or one[:1].isspace()):
                lines[-1] += " " + detail.strip()
            else:
                lines.append(one)
        return tuple(lines) or (f"{self.program} ended with {self.exit} without a word",)


def run_program(program: Path, args: list[str], data_dir: Path, token: CancelToken, *, keep_output: bool = True) -> Ran:
    """Run it as the owner of the data folder and wait; without `keep_output` its stdout goes to /dev/null.

    It gets no PG* variables of ours. Raises Missing (no such program), OSError, Cancelled (it is ended first).
    """
    if not os.access(program, os.X_OK):
        raise Missing(f"{program.name} is not among the server's programs", where=str(program.parent))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = _spawn([str(program), *args], data_dir, out if keep_output else None, err)
        try:
            status = _wait(process, token)
        finally:
            _end(process)
        said = [*_lines(err), *_lines(out)]
    return Ran(program.name, status, tuple(said))


def _spawn(args: list[str], data_dir: Path, out: IO[bytes] | None, err: IO[bytes]) -> subprocess.Popen[bytes]:
    user, group, groups = _owner(data_dir)
    return subprocess.Popen(
        args,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if out is None else out,
        stderr=err,
        env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
        cwd="/",
        start_new_session=True,
        user=user,
        group=group,
        extra_groups=groups,
    )


def _owner(data_dir: Path) -> tuple[int | None, int | None, list[int] | None]:
    """Whom to run as: nobody runs as root what its owner can run."""
    owner = data_dir.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return None, None, None
    try:
        groups = os.getgrouplist(pwd.getpwuid(owner.st_uid).pw_name, owner.st_gid)
    except KeyError:
        groups = []  # an owner without an account: its group alone
    return owner.st_uid, owner.st_gid, groups


def _wait(process: subprocess.Popen[bytes], token: CancelToken) -> int:
    while True:
        try:
            return process.wait(_POLL_S)
        except subprocess.TimeoutExpired:
            token.check()


def _end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(_GRACE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _lines(file: IO[bytes]) -> list[str]:
    file.seek(0)
    text = file.read(_MOST_BYTES).decode("utf-8", "replace")
    return [line for line in text.splitlines() if line.strip()]
