"""The server's archiver, watched while a backup waits for its last WAL: a wait that cannot end well is cut short."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime

from drkit.core.errors import DrkitError, Failed
from drkit.core.log import Log
from drkit.core.units import format_time
from drkit.engines.postgres.session import Session
from storage_backends.errors import Denied, OutOfSpace

ATTEMPTS = 3
"""So often the archiver tries a file before it rests for a minute (NUM_ARCHIVE_RETRIES of src/backend/postmaster/
pgarch.c)."""

PATIENT_ATTEMPTS = 2 * ATTEMPTS
"""It has rested and tried again: what would have passed by itself had a minute for it."""

LASTING = (OutOfSpace, Denied)
"""Failures of a target that somebody has to mend: waiting alone does not help."""


@dataclass(frozen=True, slots=True)
class Archiving:
    """Counts of pg_stat_archiver and its last failure."""

    archived: int
    failed: int
    last_failed: str
    last_failed_at: datetime | None


def ask_archiver(session: Session) -> Archiving:
    """Raises what `Session.rows` raises."""
    sql = "select archived_count, failed_count, coalesce(last_failed_wal, ''), last_failed_time from pg_stat_archiver"
    return Archiving(*session.rows(sql)[0])


class ArchiverWatch:
    """Used by one thread. lasting: targets that this run lost for good -> why; empty where none was.

    stranded: while no target apart from the server answers, so that no WAL counts as archived, each of them -> why.
    """

    def __init__(
        self,
        ask: Callable[[], Archiving],
        lasting: Mapping[str, str],
        stranded: Callable[[], Mapping[str, str]],
        log: Log,
    ) -> None:
        self._ask, self._lasting, self._stranded, self._log = ask, lasting, stranded, log
        self._begin: Archiving | None = None
        self._told = False

    def look(self) -> None:
        """Raises Failed when the archiver failed `ATTEMPTS` times since the first look, archived nothing in between,
        and a target needs somebody to mend it, or `PATIENT_ATTEMPTS` times and none apart from the server answers;
        without such a reason it warns once, as the archiver tries again.

        A server that cannot be asked says nothing: the wait does not need it.
        """
        try:
            now = self._ask()
        except DrkitError:
            return
        begin = self._begin
        if begin is None or now.archived != begin.archived or now.failed < begin.failed:
            self._begin = now
            return
        attempts = now.failed - begin.failed
        if attempts < ATTEMPTS:
            return
        since = f", the last time at {format_time(now.last_failed_at)}" if now.last_failed_at else ""
        what = f"the server could not archive {now.last_failed} in {attempts} attempts{since}"
        if self._lasting:
            raise _hopeless(what, self._lasting)
        stranded = self._stranded() if attempts >= PATIENT_ATTEMPTS else {}
        if stranded:
            raise _hopeless(f"{what}, and WAL on the server's own device alone does not count", stranded)
        if not self._told:
            self._told = True
            cure = "the server's log shows what archive_command said"
            self._log.warn("waiting for WAL that the server fails to archive", why=what, cure=cure)


def _hopeless(what: str, targets: Mapping[str, str]) -> Failed:
    return Failed(
        f"the backup's WAL cannot arrive: {what}",
        where=", ".join(f"target {name}" for name in targets),
        why="; ".join(targets.values()),
        cure="mend the target, or take it out of the configuration; the server's log shows what archive_command said",
    )
