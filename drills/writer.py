"""Clients that write under a ledger: one row after the other, each journalled before and after its commit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Protocol

from drills.journal import Journal, digest_of
from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import Unreachable
from drkit.core.flow import Group

RETRY_S = 0.1


class Client(Protocol):
    """A connection to the application's database; used by one thread."""

    def commit(self, writer: str, number: int, payload: str) -> None:
        """Durable on return; a row that is there already is left as it is.

        Raises Unreachable where the outcome is not known; the same row is then offered again.
        """
        ...

    def close(self) -> None: ...


class Writer:
    """Writes rows 1, 2, 3, ... until it is cancelled; a row whose commit failed is offered until it is taken.

    pace_s: the rest between two rows · payload: a new text for each row
    """

    def __init__(
        self,
        name: str,
        journal: Journal,
        connect: Callable[[], Client],
        clock: Clock,
        payload: Callable[[], str],
        pace_s: float,
    ) -> None:
        self.name = name
        self.acknowledged = 0
        self._journal, self._connect, self._clock = journal, connect, clock
        self._payload, self._pace_s = payload, pace_s
        self._client: Client | None = None

    def run(self, token: CancelToken) -> None:
        """Returns when cancelled, with the last row acknowledged or in doubt. Raises what neither retry cures."""
        number = 0
        try:
            while not token.wait(self._pace_s if number else 0.0):
                number += 1
                payload = self._payload()
                self._journal.sent(number, digest_of(payload), self._clock.monotonic())
                if not self._offer(number, payload, token):
                    return
                self._journal.acknowledged(number, self._clock.monotonic())
                self.acknowledged = number
        finally:
            self._leave()
            self._journal.close()

    def _offer(self, number: int, payload: str, token: CancelToken) -> bool:
        while not token.cancelled:
            try:
                if self._client is None:
                    self._client = self._connect()
                self._client.commit(self.name, number, payload)
                return True
            except Unreachable:
                self._leave()
                token.wait(RETRY_S)
        return False

    def _leave(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None


class Load:
    """Several writers at once, a thread and a journal each, in `folder`.

    As a context manager it runs for the length of the block; leaving it ends and joins the writers and raises what
    made one of them fail.
    """

    def __init__(
        self,
        folder: Path,
        writers: int,
        connect: Callable[[], Client],
        clock: Clock,
        payload: Callable[[], str],
        pace_s: float,
        token: CancelToken,
    ) -> None:
        self.journals = [folder / f"writer-{n}.journal" for n in range(1, writers + 1)]
        self._group = Group(token, name="ledger")
        self._writers = [
            Writer(
                path.stem,
                Journal(path, path.stem, clock.now(), clock.monotonic()),
                connect,
                clock,
                payload,
                pace_s,
            )
            for path in self.journals
        ]

    @property
    def acknowledged(self) -> int:
        """Rows acknowledged so far, by all writers."""
        return sum(writer.acknowledged for writer in self._writers)

    def check(self) -> None:
        """Raise the error of a writer that failed: a load that stopped writing proves nothing."""
        if self._group.errors:
            raise self._group.errors[0][1]

    def __enter__(self) -> Load:
        self._group.__enter__()
        for writer in self._writers:
            self._group.start(writer.name, writer.run, self._group.token)
        return self

    def stop(self) -> None:
        """Tell the writers to end; leaving the block waits for them."""
        self._group.token.cancel("the load was stopped")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self._group.__exit__(kind, error, trace)
