"""Many objects to one destination at once: each from the first source that has it sound, memory bounded."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from drkit.core.errors import Cancelled, Damage, DrkitError, Missing, Unreachable
from drkit.core.flow import Channel, Group
from drkit.core.progress import Tally
from drkit.jobs.means import Means
from drkit.repository.copying import Copied, DestinationFailed, Item, Met, copy, standing
from drkit.repository.layout import Kind
from drkit.repository.sources import Sources
from drkit.repository.target import Target
from storage_backends.errors import NotFound, StorageError

_LOOK_EVERY_S = 5.0
_GIVE_UP_AFTER = 8  # objects that no source could be asked for: the sources are away, and each try waits for them
_FOLDERS = {Kind.PACK: "packs", Kind.MAP: "maps", Kind.MANIFEST: "manifests", Kind.SLOT: "keys", Kind.EPOCH: "keys"}


@dataclass(frozen=True, slots=True)
class Task:
    """check: it is said to be there already; look whether that is so, and leave it.

    optional: no harm is done where no source has it.
    """

    item: Item
    check: bool = False
    optional: bool = False


@dataclass(slots=True)
class Account:
    """What happened at one destination. Counts by kind; the rest by key -> why.

    lost: no source has it sound · missing: no source has it · refused: something else stands there · unread: a source
    that may have it could not be asked · conflicts: of `refused`, what is sound and of other content · troubles: how
    often any of this was met.
    """

    objects: dict[str, int] = field(default_factory=dict)
    size_bytes: int = 0
    lost: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    unread: dict[str, str] = field(default_factory=dict)
    conflicts: set[str] = field(default_factory=set)
    troubles: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def why(self, key: str) -> str:
        """What stood in an object's way, "" for none."""
        return next((one[key] for one in (self.lost, self.missing, self.refused, self.unread) if key in one), "")

    def copied(self, kind: Kind, size_bytes: int) -> None:
        with self.lock:
            name = _FOLDERS.get(kind, kind.name.lower())
            self.objects[name] = self.objects.get(name, 0) + 1
            self.size_bytes += size_bytes

    def met_other(self, key: str, found: Copied) -> None:
        with self.lock:
            self.troubles += 1
            self.refused[key] = found.why
            if found.conflict:
                self.conflicts.add(key)

    def failed(self, key: str, error: DrkitError) -> None:
        with self.lock:
            self.troubles += 1
            if isinstance(error, Damage):
                self.lost[key] = str(error)
            elif isinstance(error, Missing):
                self.missing[key] = str(error)
            else:
                self.unread[key] = str(error)


class Lane:
    """Copies to one destination with `workers` threads. `copy` is for one thread at a time.

    Memory: what `copying.copy` holds, for each worker.
    """

    def __init__(
        self, to: Target, sources: Sources, means: Means, account: Account, tally: Tally, *, workers: int
    ) -> None:
        self.to, self.account = to, account
        self._sources, self._means, self._tally, self._workers = sources, means, tally, workers

    def copy(self, tasks: Iterable[Task], between: Callable[[], None] = lambda: None) -> bool:
        """Carry the tasks out, in any order; whether all of them ended well: what did not is in the account.

        between: called by this thread every few seconds, may raise to end it all. Raises DestinationFailed, Cancelled,
        or Unreachable where the sources could not be asked time and again.
        """
        before = self.account.troubles
        ended = threading.Semaphore(0)
        with Group(self._means.token, name=f"to-{self.to.name}") as group:
            channel: Channel[Task] = Channel(self._workers, group.token, name="objects")
            for number in range(self._workers):
                group.start(str(number), self._work, channel, group.token.check, ended)
            for task in tasks:
                while not channel.offer(task, _LOOK_EVERY_S):
                    between()
                between()
            channel.close()
            for _ in range(self._workers):
                while not ended.acquire(timeout=_LOOK_EVERY_S):
                    between()
        return self.account.troubles == before

    def _work(self, channel: Channel[Task], check: Callable[[], None], ended: threading.Semaphore) -> None:
        try:
            for task in channel:
                self._do(task, check)
        finally:
            ended.release()

    def _do(self, task: Task, check: Callable[[], None]) -> None:
        key = task.item.key
        try:
            found = self._look(task) or self._fetch(task, check)
        except Cancelled:
            raise
        except Missing as error:
            if not task.optional:
                self.account.failed(key, error)
            return
        except Unreachable as error:
            self.account.failed(key, error)
            if len(self.account.unread) >= _GIVE_UP_AFTER:
                raise
            return
        except DrkitError as error:  # damage, or a key that we lack: says nothing of the next object
            self.account.failed(key, error)
            return
        if found.met is Met.OTHER:
            self.account.met_other(key, found)
        elif found.met is Met.COPIED:
            self.account.copied(task.item.kind, found.size_bytes)
            self._tally.add(found.size_bytes)

    def _look(self, task: Task) -> Copied | None:
        """What is there, where that was asked for; None: it is to be copied."""
        if not task.check:
            return None
        try:
            return standing(self._means.repository.ring, task.item, self.to)
        except NotFound:
            return None
        except StorageError as error:
            raise DestinationFailed(error) from error

    def _fetch(self, task: Task, check: Callable[[], None]) -> Copied:
        ring = self._means.repository.ring
        return self._sources.attempt(task.item.key, lambda source: copy(ring, task.item, source, self.to, check))
