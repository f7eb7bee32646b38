"""Sessions whose statements end when the check is cancelled or out of time."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from drkit.core.cancel import CancelToken
from drkit.core.errors import DrkitError
from drkit.engines.postgres.session import Session

_POLL_S = 0.1
# Internal error, data corrupted, index corrupted; and errors of the system beneath: a file missing, a block unreadable
_CORRUPT = ("XX", "58")


@contextmanager
def asking(connect: Callable[[str], Session], database: str, token: CancelToken) -> Iterator[Session]:
    """A session on `database`. Once `token` is cancelled its statements are, and Cancelled is raised for their error.

    A server that is frozen cancels nothing: whoever froze it must end it.
    """
    token.check()
    with connect(database) as session:
        ((pid,),) = session.rows("select pg_backend_pid()")
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_POLL_S):
                if token.cancelled:
                    _cancel(connect, database, int(pid))

        watcher = threading.Thread(target=watch, name="statement canceller", daemon=True)
        watcher.start()
        try:
            yield session
        except DrkitError:
            token.check()
            raise
        finally:
            over.set()
            watcher.join()


@contextmanager
def undone(session: Session) -> Iterator[None]:
    """A transaction that is rolled back whatever happens in it; triggers and foreign keys are off in it.

    They would turn a sabotage into something else. Needs a superuser, as a sandbox has one.
    """
    session.rows("begin")
    try:
        session.rows("set local session_replication_role = replica")
        yield
    finally:
        session.rows("rollback")


@contextmanager
def tried(session: Session, name: str) -> Iterator[None]:
    """A savepoint within a transaction: what fails in the block is undone, and raised."""
    session.rows(fill("savepoint {name}", name=name))
    try:
        yield
    except DrkitError:
        session.rows(fill("rollback to {name}", name=name))
        raise


def fill(template: str, /, **names: str) -> str:
    """`template` with each {key} replaced by a name that the server itself quoted, or by a constant of ours."""
    return re.sub(r"\{(\w+)\}", lambda key: names.get(key[1], key[0]), template)


def sqlstate(error: DrkitError) -> str:
    """The server's code of what went wrong, "" where it was not the server's answer."""
    return getattr(error.__cause__, "sqlstate", None) or ""


def is_corruption(error: DrkitError) -> bool:
    """Whether the server says that its own data is damaged: a finding, not a failure to look."""
    return sqlstate(error).startswith(_CORRUPT)


def _cancel(connect: Callable[[str], Session], database: str, pid: int) -> None:
    try:
        with connect(database) as session:
            session.rows("select pg_cancel_backend(%s)", pid)
    except DrkitError:
        pass  # the server is gone or full: the statement fails by itself, or the next turn cancels it
