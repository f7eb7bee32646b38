"""Putting a backup or a span of WAL on hold, so that neither expiry that runs just now nor a later one takes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from drkit.core.errors import DrkitError, Missing, Refused, Unreachable
from drkit.jobs.expire_survey import probe
from drkit.jobs.means import Means
from drkit.repository.fences import EXPIRE, Fence, read_fences
from drkit.repository.holds import Hold, add_hold
from drkit.repository.layout import ClusterLayout, RunId
from drkit.repository.leases import stop_rounds, tombstones
from drkit.repository.target import Target
from storage_backends.errors import StorageError

_POLL_S = 1.0
_ANY_SKEW = timedelta(days=36500)  # the target's clock alone is asked for


@dataclass(frozen=True, slots=True)
class Held:
    """safe: targets where the hold is and no expiry was faster · lacking: target -> why it protects nothing there."""

    hold: Hold
    safe: tuple[str, ...]
    lacking: Mapping[str, str]


def put_on_hold(
    means: Means, layout: ClusterLayout, backup: str, wal: tuple[str, str] | None, reason: str, wait_s: float
) -> Held:
    """Create the hold everywhere, wait for expiry that decides just now, then look whether a tombstone was faster.

    An expirer has its lease before it reads the holds: who decides without knowing this one is seen. Raises Missing
    where every copy of the backup has a tombstone, Unreachable where no target took the hold.
    """
    now = means.clock.now()
    hold = Hold(str(RunId.new(now, means.entropy(4))), backup, wal, reason, now)
    spread = add_hold(means.repository, layout, hold, entropy=means.entropy)
    if not spread.targets:
        raise Unreachable(
            "no target took the hold", why=_joined(spread.lacking), cure="`drkit check` tries each target"
        )
    safe, lacking = [], dict(spread.lacking)
    for name in spread.targets:
        target = means.repository.target(name)
        try:
            _outwait(means, layout, target, wait_s)
            late = _late(means, layout, target, hold)
        except (StorageError, DrkitError) as error:
            lacking[name] = str(error)
            continue
        if late:
            lacking[name] = late
        else:
            safe.append(name)
    if not safe and backup:
        what = f"backup {backup} cannot be held"
        cure = f"`drkit list` shows what is left; the hold is there: `drkit hold release {hold.id}` takes it back"
        raise Missing(what, why=_joined(lacking), cure=cure)
    return Held(hold, tuple(safe), lacking)


def _outwait(means: Means, layout: ClusterLayout, target: Target, wait_s: float) -> None:
    """Until no expirer that may have read the holds before this one is at work. Raises Refused where that is long.

    One whose lease ran out by the target's clock knows that by its own, but may have been stopped just before it
    creates a round of tombstones: the names of its rounds are taken first.
    """
    if not target.backend.traits.conditional_create:
        return  # nothing ever expires there
    time = probe(target, means.clock, means.entropy, _ANY_SKEW)
    began = means.clock.monotonic()
    first: frozenset[str] | None = None
    while True:
        running = {f.lease: f for f in read_fences(target, layout, means.repository.ring) if f.job == EXPIRE}
        first = frozenset(running) if first is None else first & running.keys()
        left = [running[one] for one in first if running[one].live(time.now())]
        if not left:
            _stop(means, layout, target, [running[one] for one in first])
            return
        if means.clock.monotonic() - began >= wait_s:
            where, cure = target.where, "add the hold again when it ended"
            raise Refused(f"expiry is at work on {left[0].host}", where=where, cure=cure)
        means.token.wait(_POLL_S)
        means.token.check()


def _stop(means: Means, layout: ClusterLayout, target: Target, late: Sequence[Fence]) -> None:
    for fence in late:
        if fence.rounds:
            key = means.repository.data_key
            stop_rounds(target, layout, fence.rounds, data_key=key, clock=means.clock, entropy=means.entropy)


def _late(means: Means, layout: ClusterLayout, target: Target, hold: Hold) -> str:
    """Why the hold came too late on a target, or ""."""
    buried = tombstones(target, layout, means.repository.ring)
    if hold.backup and layout.manifest(RunId.parse(hold.backup)) in buried:
        return f"backup {hold.backup} has a tombstone there already"
    return ""


def _joined(lacking: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {why}" for name, why in lacking.items())
