"""What may still be needed on a target, and so what may go: steps 3 and 4 of docs/format.md, section 8. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from drkit.engines.postgres.wal import WalKind, WalName, WalNameError, parse_name
from drkit.jobs.expire_judge import Judgement, Terms
from drkit.jobs.expire_survey import Survey, WalHeld, wal_key
from drkit.jobs.spans import Spans
from drkit.repository.fences import EXPIRE, Fence
from drkit.repository.holds import Hold
from drkit.repository.layout import ClusterLayout
from policies.wal_floor import Stretch, kept_wal

Reached = frozenset[str]


def counted(fences: Iterable[Fence], judged: frozenset[str], now: datetime) -> list[Fence]:
    """The leases that protect: live ones, and those that ran out as long as nobody decided about their run."""
    return [f for f in fences if f.job != EXPIRE and (f.live(now) or not f.run or f.run not in judged)]


def spent(fences: Iterable[Fence], judged: frozenset[str], now: datetime, terms: Terms) -> list[Fence]:
    """Leases that ran out and protect no more; those without a run by their age alone, after the grace."""
    found = []
    for fence in fences:
        if fence.live(now):
            continue
        over = fence.run in judged if fence.run else now > fence.stored_at + terms.grace
        if fence.job == EXPIRE or over:
            found.append(fence)
    return found


def reached(
    found: Survey,
    judgement: Judgement,
    references: Mapping[str, frozenset[str]],
    manifests: Iterable[str],
    fences: Sequence[Fence],
    tombs: frozenset[str],
    judged: frozenset[str],
) -> Reached:
    """Keys that something relies on. manifests: ids listed *after* the leases; references: of each of them
    judged: runs that were decided; what any other one wrote is nobody's to take.

    Raises KeyError for a manifest whose references are not given, unless a lease protects all that it may need.
    """
    ids = set(manifests)
    keys: set[str] = set(judgement.held)
    for name in judgement.elsewhere:
        if not found.is_buried(name, tombs):  # one that expired here is none that may still come
            keys |= references[name]
    own = {fence.run for fence in fences}
    for name in ids:
        if not found.is_buried(name, tombs):
            keys |= references[name] if name in references or name not in own else frozenset()
    through = frozenset[str]().union(*(fence.names for fence in fences))
    for name in through & ids:
        keys |= references.get(name, frozenset())
    keys.update(key for key in found.data if (run := found.run_of(key)) in through or run not in judged)
    return frozenset(keys)


def unreached_wal(
    found: Survey, judgement: Judgement, terms: Terms, holds: Sequence[Hold], kept: Reached, fences: Sequence[Fence]
) -> Iterator[str]:
    """Keys of WAL that may go, the oldest of each timeline first; none while any lease counts.

    kept: what is reached, so that no exact reference is ever missed.
    """
    segment_bytes = judgement.segment_bytes
    if fences or segment_bytes is None or not terms.windows.any:
        return
    system = str(found.layout.system_identifier)
    stretches = kept_wal(
        [one for one in judgement.plan.kept if one.system == system],
        judgement.plan.trusted,
        judgement.lines,
        judgement.plan.references.get(system),
        terms.windows.pitr,
        segment_bytes=segment_bytes,
        skew=terms.skew,
        timelines=tuple(found.wal),
    )
    stretches += [stretch for hold in holds if hold.wal for stretch in held_wal(hold, segment_bytes, found.wal)]
    for timeline, held in sorted(found.wal.items()):
        yield from _outside(found.layout, timeline, held, stretches, segment_bytes, kept)


def held_wal(hold: Hold, segment_bytes: int, timelines: Iterable[int]) -> list[Stretch]:
    """The stretches that a hold of WAL pins, on every timeline from the first name's to the last one's."""
    assert hold.wal is not None
    first, last = parse_name(hold.wal[0]), parse_name(hold.wal[1])
    low, high = first.number(segment_bytes), last.number(segment_bytes)
    why = f"on hold ({hold.id})"
    known = {t for t in timelines if first.timeline <= t <= last.timeline}
    return [Stretch(t, min(low, high), max(low, high), why) for t in sorted(known)]


def _outside(
    layout: ClusterLayout,
    timeline: int,
    held: WalHeld,
    stretches: Sequence[Stretch],
    segment_bytes: int,
    kept: Reached,
) -> Iterator[str]:
    mine = [one for one in stretches if one.timeline == timeline]
    open_from = min((one.first for one in mine if one.last is None), default=None)
    spans = Spans.joined((one.first, one.last) for one in mine if one.last is not None)
    for rest, number in held.numbers(segment_bytes):
        if (open_from is not None and number >= open_from) or number in spans:
            continue
        key = wal_key(layout, timeline, rest)
        if key not in kept:
            yield key


def present(found: Survey, keys: Iterable[str]) -> Iterator[str]:
    """Of keys that have a tombstone those of data that the survey saw; manifests are asked for apart."""
    wal = found.layout.folder("wal")
    segments: dict[int, frozenset[int]] = {}
    for key in keys:
        if key in found.data or key in found.marks:
            yield key
        elif key.startswith(wal):
            name = wal_name(key)
            held = found.wal.get(name.timeline) if name is not None else None
            if name is None or held is None:
                continue
            if name.timeline not in segments:
                segments[name.timeline] = frozenset(held.segments)
            packed = name.log << 32 | name.seg
            if name.text in held.others or (name.kind is WalKind.SEGMENT and packed in segments[name.timeline]):
                yield key


def wal_name(key: str) -> WalName | None:
    """The file that a key below `wal/` is of."""
    try:
        return parse_name(key.rpartition("/")[2])
    except WalNameError:
        return None
