"""A restore that is killed when a phase begins: `python -m tests.jobs.kill_restore CONFIG DIR PHASE [--delta]`."""

from __future__ import annotations

import os
import signal
import sys
import threading
from dataclasses import replace
from pathlib import Path

from drkit.cli.context import Context
from drkit.cli.restore import point, wal_program
from drkit.cli.wire import open_wiring
from drkit.core.machine import machine_id
from drkit.core.progress import Event
from drkit.jobs.archive import read_catalogues
from drkit.jobs.rates import Rates
from drkit.jobs.restore import restore
from drkit.jobs.restore_plan import RestoreOrder, plan_restore
from drkit.jobs.restore_points import Wish


class Killer:
    """Counts phases as they begin and ends the process, as a power cut would, at one of them."""

    def __init__(self, phase: str) -> None:
        self._phase = phase
        self._lock = threading.Lock()

    def emit(self, event: Event) -> None:
        reached = event.phase == self._phase
        if self._phase == "files-done":
            reached = event.phase == "files" and event.finished
        with self._lock:
            if reached:
                sys.stdout.write(f"killed at {self._phase}\n")
                sys.stdout.flush()
                os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    config, into, phase = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    with open_wiring(Context(config_path=config, verbosity=-1)) as wiring:
        name, _ = wiring.cluster(None)
        target = point(None, None, None, None, exclusive=False, action="promote")
        order = RestoreOrder(
            cluster=name,
            destination=into,
            wish=Wish(target),
            config=config,
            wal_program=wal_program(),
            machine=machine_id(),
            workers=2,
            euid=os.geteuid(),
            delta="--delta" in sys.argv,
        )
        means = wiring.means()
        plan = plan_restore(order, means, read_catalogues(means.repository, name), Rates())
        restore(plan, replace(means, progress=Killer(phase)))


if __name__ == "__main__":
    main()
