"""What a piece of work costs: seconds, processor seconds and peak memory of all its processes."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from tests.real.postgres import server_user

_TICKS = os.sysconf("SC_CLK_TCK")
_LOOK_EVERY_S = 0.02
_KEPT_OUTPUT = 2000


@dataclass(frozen=True, slots=True)
class Sample:
    """One run. peak_bytes: the most that its processes held together, shared pages counted once (PSS)."""

    seconds: float
    cpu_s: float
    peak_bytes: int


def measure(words: Sequence[str | Path], beside: Sequence[int] = ()) -> Sample:
    """Run a command as the servers' user to its end; raises AssertionError with its output where it fails.

    beside: processes that run already and work for it (a daemon): what they use counts too.
    """
    cpu = _cpu_s(beside)
    began = time.perf_counter()
    with subprocess.Popen(
        [str(word) for word in words],
        user=server_user(),
        extra_groups=[] if server_user() else None,
        cwd="/",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        output: list[bytes] = []
        reader = threading.Thread(target=_read_all, args=(process.stdout, output))
        reader.start()
        with _Watch([process.pid, *beside]) as watch:
            _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        reader.join()
    if process.returncode:
        raise AssertionError(f"{words}: exit {process.returncode}\n{output[0][-_KEPT_OUTPUT:].decode()}")
    return Sample(seconds, usage.ru_utime + usage.ru_stime + _cpu_s(beside) - cpu, watch.peak_bytes)


def measure_until(work: Callable[[], object], roots: Iterable[int]) -> Sample:
    """Time `work()`, while processes that run already (and what they start) do it; counts what those used."""
    pids = list(roots)
    cpu = _cpu_s(pids)
    began = time.perf_counter()
    with _Watch(pids) as watch:
        work()
    seconds = time.perf_counter() - began
    return Sample(seconds, _cpu_s(pids) - cpu, watch.peak_bytes)


def _read_all(pipe: IO[bytes] | None, into: list[bytes]) -> None:
    assert pipe is not None
    into.append(pipe.read())


class _Watch:
    """Looks at the memory of some process trees again and again."""

    def __init__(self, roots: Sequence[int]) -> None:
        self._roots = roots
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self.peak_bytes = 0

    def __enter__(self) -> _Watch:
        self._thread.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._done.wait(_LOOK_EVERY_S):
            self.peak_bytes = max(self.peak_bytes, sum(_pss_bytes(pid) for pid in _tree(self._roots)))


def _tree(roots: Sequence[int]) -> list[int]:
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError, IndexError, ValueError):
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                children.setdefault(parent, []).append(int(entry.name))
    found, open_ = [], list(roots)
    while open_:
        pid = open_.pop()
        found.append(pid)
        open_ += children.get(pid, ())
    return found


def _pss_bytes(pid: int) -> int:
    with suppress(OSError, StopIteration):
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
        return 1024 * int(next(line for line in text.splitlines() if line.startswith("Pss:")).split()[1])
    return 0


def _cpu_s(roots: Sequence[int]) -> float:
    """Of the trees, with all that ended and was waited for."""
    ticks = 0
    for pid in _tree(roots):
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(int(value) for value in fields[11:15])
    return ticks / _TICKS
