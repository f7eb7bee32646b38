"""Debts of acknowledged WAL: the sealed bytes in the spool go to the targets that still lack them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

from drkit.core.clock import Clock
from drkit.core.errors import Damage, DrkitError
from drkit.core.log import Log
from drkit.repository.layout import ClusterLayout
from drkit.repository.repository import Repository
from drkit.repository.spool import Debt, Spool
from drkit.repository.target import Target
from drkit.repository.wal import Met, Outcome, meet, store
from storage_backends.errors import StorageError


@dataclass(frozen=True, slots=True)
class Payment:
    """Bounds on what one push pays in passing: debts, and seconds that it waits for them."""

    limit: int = 16
    seconds: float = 2.0


@dataclass(slots=True)
class Paid:
    """paid: objects that arrived · left: (file, target) -> why it is still owed · busy: another process is paying.

    failed: targets that could not be asked, and why
    """

    paid: int = 0
    left: dict[tuple[str, str], str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    busy: bool = False


def pay_debts(
    repository: Repository,
    targets: Sequence[Target],
    spool: Spool,
    clock: Clock,
    log: Log,
    *,
    limit: int | None = None,
    deadline_s: float | None = None,
    blocked_too: bool = True,
) -> Paid:
    """Pay what these targets lack, oldest WAL first; a debt is forgotten only when the object is there and opens.

    A target that fails once is not asked again in this call. blocked_too: also look at names that held
    something else, whether that was repaired. Idempotent; a death in between leaves the debt.
    """
    until = None if deadline_s is None else clock.monotonic() + deadline_s
    done = Paid()
    with spool.paying(clock.now()) as ours:
        if not ours:
            return Paid(busy=True)
        for target in targets:
            for debt in spool.debts(target.name):
                if (limit is not None and done.paid >= limit) or (until is not None and clock.monotonic() >= until):
                    break
                if debt.blocked and not blocked_too:
                    continue
                spool.pays(clock.now())
                if not _pay(debt, target, repository, spool, done, log):
                    break
        spool.sweep()
    return done


def _pay(debt: Debt, target: Target, repository: Repository, spool: Spool, done: Paid, log: Log) -> bool:
    """Whether the target can be asked for the next one."""
    try:
        met = _bring(debt, target, repository, spool)
    except (StorageError, DrkitError) as error:
        done.left[debt.file, target.name] = str(error)
        log.warn("wal debt left", file=debt.file, target=target.name, why=str(error))
        if isinstance(error, Damage):
            return True  # of the spool's own bytes: says nothing about the target
        done.failed[target.name] = str(error)
        return False
    if met.there or met.outcome is Outcome.EXPIRED:
        spool.settle(debt)
        done.paid += 1
        log.info("wal debt paid", file=debt.file, target=target.name, outcome=met.outcome.value)
    else:
        done.left[debt.file, target.name] = f"{met.outcome.value}: {met.why}"
        spool.block(debt, met.why)
        log.error("wal debt blocked", file=debt.file, target=target.name, outcome=met.outcome.value, why=met.why)
    return True


def _bring(debt: Debt, target: Target, repository: Repository, spool: Spool) -> Met:
    layout, identity = ClusterLayout(debt.system_identifier), bytes.fromhex(debt.identity)
    met = meet(repository.ring, target, layout, debt.file, identity)
    if met is not None:
        return met
    return store(repository.ring, target, layout, debt.file, spool.sealed(debt), identity)


def pay_in_passing(
    repository: Repository, targets: Sequence[Target], spool: Spool, bounds: Payment, clock: Clock, log: Log
) -> int:
    """Pay some debts to targets that answer, waiting at most `bounds.seconds`; returns how many were seen paid.

    A payment that hangs is left to its thread: whatever becomes of it, the debt goes only when it is paid.
    """
    owing = [target for target in targets if spool.count(target.name)]
    if not owing:
        return 0
    done: list[Paid] = []
    errors: list[BaseException] = []

    def root() -> None:
        try:
            limit, deadline_s = bounds.limit, bounds.seconds
            paid = pay_debts(
                repository, owing, spool, clock, log, limit=limit, deadline_s=deadline_s, blocked_too=False
            )
            done.append(paid)
        except BaseException as error:  # noqa: BLE001  a thread root: the segment itself is safe, so it is only told
            errors.append(error)

    thread = threading.Thread(target=root, name="debts", daemon=True)
    thread.start()
    thread.join(bounds.seconds)
    for error in errors:
        log.error("wal debts not paid", why=str(error))
    return done[0].paid if done else 0
