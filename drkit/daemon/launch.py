"""Becomes a scheduled job: started by path as `python -I -S launch.py PARENT LOCK OOM NICE IO PROGRAM ARGUMENT...`.

Between fork and exec of a process with threads nothing may run that takes a lock, so what a job must do to itself
happens here, in a process of its own, before it execs the command. Standard library only: it costs some 15 ms.

PARENT: pid of the daemon, after whose death this process gets SIGTERM · LOCK: descriptor of the cluster's lock file,
which stays open for as long as the command lives · OOM: the least oom_score_adj · NICE, IO: as `stand_back` takes
them.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from pathlib import Path

_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "riscv64": 30, "ppc64le": 273, "s390x": 282}  # syscall(2) has no wrapper
_IOPRIO_WHO_PROCESS, _IOPRIO_IDLE = 1, 3 << 13  # linux/ioprio.h
_PR_SET_PDEATHSIG = 1  # linux/prctl.h; it outlives exec


def started(pid: int) -> str:
    """When a process began, in ticks since boot: with the pid it names one process for ever (proc(5), stat)."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


def stand_back(nice: int, io: str) -> None:
    """Let others go first: `nice` steps for the processors, and for the disk where `io` is 'idle'.

    For this thread and what it starts. Where the kernel does not know ioprio_set, the disk is shared as before.
    """
    os.nice(nice)
    call = _IOPRIO_SET.get(os.uname().machine)
    if io == "idle" and call is not None:
        ctypes.CDLL(None).syscall(call, _IOPRIO_WHO_PROCESS, 0, _IOPRIO_IDLE)


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
    stand_back(int(arguments[3]), arguments[4])
    os.execv(arguments[5], arguments[5:])


if __name__ == "__main__":
    main(sys.argv[1:])
