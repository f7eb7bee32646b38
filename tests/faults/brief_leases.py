"""Runs command lines of drkit as one host of several, with leases that last seconds, in children that may be killed.

python -m tests.faults.brief_leases HOST LEASE_S
each line read: JSON {"args": [...], "out": FILE, "err": FILE}
lines written for it: the child's process id when it began (it leads a group), its status as of `os.wait` when it ended
"""

from __future__ import annotations

import importlib
import json
import os
import pkgutil
import sys
import threading

import drkit.cli
import drkit.jobs
from drkit.cli import app
from drkit.core import machine
from drkit.jobs import expire_leftovers

LEASES = ("backup_targets", "replicate_backup", "verify_repair", "expire")
RENEWALS = {"backup_take": "_RENEW_EVERY_S", "replicate_lane": "_LOOK_EVERY_S"}
LEFTOVERS_S = 20.0
"""How old what a killed writer left must be until expiry sweeps it."""


def shorten(lease_s: int) -> None:
    """Every job's lease lasts so long from now on, and is looked at often enough."""
    for name in LEASES:
        module = importlib.import_module(f"drkit.jobs.{name}")
        assert hasattr(module, "LEASE_S")
        setattr(module, "LEASE_S", lease_s)  # noqa: B010  of a module found by its name
    for name, constant in RENEWALS.items():
        module = importlib.import_module(f"drkit.jobs.{name}")
        assert hasattr(module, constant)
        setattr(module, constant, lease_s / 8)


def sweep_soon() -> None:
    """What killed writers leave is old in seconds."""
    expire_leftovers.LEFTOVERS_S = LEFTOVERS_S


def become(host: str) -> None:
    """Another machine, as far as drkit asks."""
    real = os.uname()
    named = os.uname_result((real.sysname, host, real.release, real.version, real.machine))
    os.uname = lambda: named
    machine.machine_id = lambda: f"machine-of-{host}"


def child(args: list[str], out: str, err: str) -> None:
    os.setpgid(0, 0)
    for number, path in ((1, out), (2, err)):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(descriptor, number)
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    sys.argv = ["drkit", *args]
    status = app.main()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    for package in (drkit.jobs, drkit.cli):
        for found in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            importlib.import_module(found.name)  # before the forks: they are to be quick
    importlib.import_module("storage_backends.s3")
    become(sys.argv[1])
    shorten(int(sys.argv[2]))
    sweep_soon()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        asked = json.loads(line)
        assert threading.active_count() == 1, "nobody forks with threads running"
        pid = os.fork()
        if pid == 0:
            child(asked["args"], asked["out"], asked["err"])
        answers.write(f"{pid}\n")
        answers.flush()
        answers.write(f"{os.waitpid(pid, 0)[1]}\n")
        answers.flush()


if __name__ == "__main__":
    main()
