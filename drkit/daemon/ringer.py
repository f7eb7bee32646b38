"""APScheduler rings the bells. It decides nothing: a ring says only that it is time to look.

It waits by the wall clock, so that a clock set back lets it sleep longer; who listens looks by himself now and then.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.base import BaseTrigger

from policies.schedule import Bell


class _Ticks(BaseTrigger):  # type: ignore[misc]  # APScheduler has no types
    """The instants of a bell, moved by its jitter; APScheduler's own cron takes Sunday for day 6 and skips gaps."""

    def __init__(self, bell: Bell) -> None:
        self._bell = bell

    def get_next_fire_time(self, previous: datetime | None, now: datetime) -> datetime | None:
        after = now if previous is None else max(previous, now)
        return self._bell.next_after(after.astimezone(UTC))


class Ringer:
    """Calls `ring` at every tick of every bell, from a thread of its own; `ring` is quick and does not raise."""

    def __init__(self, bells: Iterable[Bell], ring: Callable[[], object]) -> None:
        logging.getLogger("apscheduler").setLevel(logging.CRITICAL)  # it has nothing to say that the daemon does not
        self._scheduler = BackgroundScheduler(timezone=UTC, executors={"default": ThreadPoolExecutor(1)})
        for bell in bells:
            # A late ring is as good as one in time, of several one is enough; the defaults (1 s of grace, then
            # silence) would lose it.
            self._scheduler.add_job(
                ring, _Ticks(bell), id=bell.id, misfire_grace_time=None, coalesce=True, max_instances=1
            )

    def start(self) -> None:
        self._scheduler.start()

    def stop(self) -> None:
        """Returns when its thread has ended."""
        self._scheduler.shutdown(wait=True)
