"""The daemon's own life: its parts in threads, all of them or none, until it is told to stop.

It holds WAL, socket and schedule only. A part that fails ends the daemon, and the service manager starts it again:
half a daemon that looks alive is worse than none.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from drkit.core.cancel import CancelToken
from drkit.core.errors import Cancelled, Failed
from drkit.core.flow import Group
from drkit.core.log import Log
from drkit.daemon.api import Part
from drkit.daemon.supervisor import Supervisor

_LOOK_S = 1.0


@dataclass(slots=True)
class Daemon:
    """parts: started in this order · stuck: why a part is taken for stuck, "" while all is well (asked every second;
    while it says something the watchdog is not fed)."""

    parts: Sequence[Part]
    supervisor: Supervisor
    log: Log
    stuck: Callable[[], str] = lambda: ""

    def run(self, token: CancelToken) -> None:
        """Returns when `token` is cancelled and every part has ended; raises what made a part fail."""
        self.log.info("daemon started", parts=",".join(part.name for part in self.parts))
        try:
            with Group(token, name="daemon") as group:
                for part in self.parts:
                    group.start(part.name, self._run, part, group.token)
                self.supervisor.ready(f"{len(self.parts)} parts run")
                self._watch(group.token)
                self.supervisor.stopping(token.reason or "a part failed")
                self.log.info("daemon stops", why=token.reason or "a part failed")
        except Cancelled:
            pass
        left = [thread.name for thread in threading.enumerate() if not thread.daemon and thread.name != "MainThread"]
        self.log.info("daemon stopped", threads_left=",".join(left))

    def _run(self, part: Part, token: CancelToken) -> None:
        part.run(token)
        if not token.cancelled:
            raise Failed(f"the daemon's part {part.name!r} ended by itself", cure="this is a defect: report it")

    def _watch(self, token: CancelToken) -> None:
        told = ""
        while not token.wait(min(_LOOK_S, (self.supervisor.watchdog_s or _LOOK_S) / 3)):
            stuck = self.stuck()
            if not stuck:
                self.supervisor.alive()
            elif stuck != told:
                self.log.error("daemon stuck", why=stuck)
            told = stuck
