"""What a drill that was killed leaves, a server with the cluster's data among it, is removed at once.

It is done by a child, `drkit drill tidy`, at the daemon's start and after each drill.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from drkit.core.cancel import CancelToken
from drkit.daemon.api import Telling
from drkit.daemon.children import Order, Runner

_DEADLINE_S = 600.0


class Remains:
    """A Part. runner: puts `drill tidy` behind `drkit --config FILE --json`."""

    name = "remains"

    def __init__(self, runner: Runner, telling: Telling) -> None:
        self._runner, self._telling = runner, telling
        self._news = threading.Event()

    def nudge(self) -> None:
        """A drill has ended, however."""
        self._news.set()

    def run(self, token: CancelToken) -> None:
        leave = token.on_cancel(self._news.set)
        try:
            while not token.cancelled:
                self._news.clear()
                self.remove(token)
                self._news.wait()
        finally:
            leave()

    def remove(self, token: CancelToken) -> None:
        """Once, now; what it did and what it could not do is told."""
        try:
            ended = self._runner.run(Order("drill tidy", ("drill", "tidy"), _DEADLINE_S), token)
        except OSError as error:
            self._left(str(error))
            return
        if token.cancelled:
            return
        rows = ended.answer.get("removed")
        if ended.exit != 0 or not isinstance(rows, list):
            self._left(ended.killed or ended.why or f"exit {ended.exit}")
            return
        for row in rows:
            if isinstance(row, Mapping):
                self._removed(row)

    def _removed(self, row: Mapping[str, object]) -> None:
        folder, cluster = str(row.get("folder")), str(row.get("cluster"))
        text = f"a drill was killed: its sandbox {folder} and {row.get('processes')} processes of it are removed"
        if row.get("schema_left"):
            text += f"; its schema is still in the cluster: {row['schema_left']}"
        self._telling.tell("remains.removed", "warn", cluster, text, about=folder)

    def _left(self, why: str) -> None:
        self._telling.tell("remains.left", "error", "", f"what killed drills left could not be removed: {why}")
