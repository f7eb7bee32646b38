"""Becomes a scheduled job: started by path as `python -I -S launch.py PARENT LOCK OOM PROGRAM ARGUMENT...`.

Between fork and exec of a process with threads nothing may run that takes a lock, so what a job must do to itself
happens here, in a process of its own, before it execs the command. Standard library only: it costs some 15 ms.

PARENT: pid of the daemon, after whose death this process gets SIGTERM · LOCK: descriptor of the cluster's lock file,
which stays open for as long as the command lives · OOM: the least oom_score_adj.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h; it outlives exec


def started(pid: int) -> str:
    """When a process began, in ticks since boot: with the pid it names one process for ever (proc(5), stat)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def main(arguments: list[str]) -> None:
    parent, lock, oom = (int(word) for word in arguments[:3])
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it died before it could be watched
        sys.exit(128 + signal.SIGTERM)
    score = Path("/proc/self/oom_score_adj")
    if int(score.read_text()) < oom:
        score.write_text(str(oom))
    if lock >= 0:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()} {started(os.getpid())}\n".encode(), 0)
        os.set_inheritable(lock, True)
    os.execv(arguments[3], arguments[3:])


if __name__ == "__main__":
    main(sys.argv[1:])
