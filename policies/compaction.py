"""Forward compaction: which frames of the backup before the next one stores again, and which maps it makes anew.

A restore fetches whole frames, and a pack stays as long as one of its frames is needed. Where little of a frame or pack
is still in use, both cost more than they hold. Nothing stored is ever changed: what is still in use of them is stored
again, read from the live data folder, and nothing new refers to them any more.

How much is written for that: a frame is chosen for its fetch only while fetch > 1.25 x useful, and the thinnest go
first, so at most 0.8 of it is in use, and it costs at most 4 bytes for each byte of it that was changed since. Packs
cost by the same reckoning at most 1.7 bytes (1 / 0.6). `share` spreads what would be too much for one backup.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Positions = npt.NDArray[np.int64]
Chosen = npt.NDArray[np.bool_]
_STEPS = 1024


@dataclass(frozen=True, slots=True)
class Limits:
    """When compaction begins, and how much of it one backup does. Ratios, but `runs` and bytes.

    fetch: bytes that a restore fetches, to useful bytes · store: bytes of the packs referenced, to useful bytes ·
    maps: bytes of maps beyond the share of them in use, to useful bytes · runs: backups whose packs are referenced;
    above it, the smallest of them are stored again together until half are left · share: of the useful bytes, what one
    backup stores again for each of the three reasons at most, or `least_bytes` where that is more · slack_bytes: dead
    bytes below this matter to nobody

    The bounds promised are higher (1.5 for fetch, 2 for store), because a backup learns what its own changes made
    thin only when it is done.
    """

    fetch: float = 1.25
    store: float = 1.6
    maps: float = 0.05
    runs: int = 32
    share: float = 0.25
    least_bytes: int = 32 << 20
    slack_bytes: int = 1 << 20

    def allowed(self, useful: float) -> float:
        """Bytes that one backup may store again for one reason."""
        return max(self.share * useful, float(self.least_bytes))


@dataclass(frozen=True, slots=True)
class Totals:
    """A backup in sums, all in bytes but `runs`. useful: what a fresh full backup would send, nearly

    fetch: sealed bytes of the frames used, and of maps · store: of the packs and maps referenced
    """

    useful: int
    fetch: int
    store: int
    runs: int


@dataclass(frozen=True, slots=True)
class Frames:
    """Frames in use, a position each. pack: position in `Packs` · sealed, useful: bytes; useful <= sealed."""

    pack: Positions
    sealed: Floats
    useful: Floats


@dataclass(frozen=True, slots=True)
class Packs:
    """Packs in use. size: bytes · run: a number for the backup that wrote it."""

    size: Floats
    run: Positions


def is_thin(totals: Totals, limits: Limits) -> bool:
    """Whether there may be anything to choose: from sums alone, so that a backup in order costs nothing."""
    useful, slack = totals.useful, limits.slack_bytes
    return (
        totals.fetch > limits.fetch * useful + slack
        or totals.store > limits.store * useful + slack
        or totals.runs > limits.runs
    )


def choose(frames: Frames, packs: Packs, limits: Limits) -> Chosen:
    """For each frame whether its content is to be stored again.

    After it, if `share` allowed all: the fetch is within its limit, at most half of `runs` are left where there were
    too many, and the packs are within theirs. A frame of which all is in use is chosen for its pack or run only.
    """
    total = float(frames.useful.sum())
    chosen = np.zeros(len(frames.sealed), dtype=np.bool_)
    for choice in (_thin, _hollow, _scattered):
        chosen |= choice(frames, packs, limits, chosen, limits.allowed(total))
    return chosen


def choose_maps(size: Floats, used: Floats, useful_bytes: float, limits: Limits) -> Chosen:
    """For each map whether its extents get new ones. used: the part of `size` that the extents in use have.

    Extents in them are read again, so one backup does at most `share` of what all maps have in use.
    """
    excess = float((size - used).sum()) - limits.maps * useful_bytes - limits.slack_bytes
    return _cheapest(size - used, used, excess, limits.share * float(used.sum()))


def _thin(frames: Frames, packs: Packs, limits: Limits, chosen: Chosen, allowed: float) -> Chosen:
    """The thinnest frames, until what is fetched is within its limit."""
    excess = float(frames.sealed.sum()) - limits.fetch * float(frames.useful.sum()) - limits.slack_bytes
    return _cheapest(frames.sealed - frames.useful, frames.useful, excess, allowed)


def _scattered(frames: Frames, packs: Packs, limits: Limits, chosen: Chosen, allowed: float) -> Chosen:
    """All frames of the smallest runs, where so many have a part in the backup that a restore reads all over them."""
    run = packs.run[frames.pack]
    left = np.where(chosen, 0.0, frames.useful)
    runs = np.unique(run[~chosen])
    if len(runs) + bool(chosen.any()) <= limits.runs:  # what is stored again makes a run of its own
        return np.zeros_like(chosen)
    sums = np.bincount(run, weights=left)[runs]
    order = np.argsort(sums, kind="stable")[: len(runs) - limits.runs // 2]
    order = order[np.cumsum(sums[order]) <= allowed]
    return np.isin(run, runs[order])


def _hollow(frames: Frames, packs: Packs, limits: Limits, chosen: Chosen, allowed: float) -> Chosen:
    """All frames of the emptiest packs, until what is stored is within its limit."""
    count = len(packs.size)
    weights = np.where(chosen, 0.0, frames.useful)
    left: Floats = np.bincount(frames.pack, weights=weights, minlength=count).astype(np.float64)
    kept = np.bincount(frames.pack[~chosen], minlength=count) > 0
    size = np.where(kept, packs.size, 0.0)
    moved = float(frames.useful[chosen].sum())
    excess = float(size.sum()) + moved - limits.store * float(frames.useful.sum()) - limits.slack_bytes
    return _cheapest(size - left, left, excess, allowed)[frames.pack]


def _cheapest(gain: Floats, cost: Floats, excess: float, allowed: float) -> Chosen:
    """As few as free `excess` bytes, the cheapest for each byte gained first; their cost together within `allowed`.

    By steps of the cost, so that only those of one step are sorted: there may be twenty million.
    """
    if excess <= 0:
        return np.zeros(len(gain), dtype=np.bool_)
    step = np.full(len(gain), _STEPS, dtype=np.int16)
    worth = gain > 0
    step[worth] = cost[worth] / (cost[worth] + gain[worth]) * _STEPS
    gains = np.cumsum(np.bincount(step, weights=gain, minlength=_STEPS + 1)[:_STEPS])
    costs = np.cumsum(np.bincount(step, weights=cost, minlength=_STEPS + 1)[:_STEPS])
    whole = int(np.searchsorted(gains, excess))
    whole = min(whole, int(np.searchsorted(costs, allowed, side="right")))
    chosen: Chosen = step < whole
    if whole < _STEPS:
        if whole:
            excess, allowed = excess - float(gains[whole - 1]), allowed - float(costs[whole - 1])
        last = np.flatnonzero(step == whole)
        order = last[np.argsort(cost[last] / gain[last], kind="stable")]
        enough = int(np.searchsorted(np.cumsum(gain[order]), excess)) + 1
        affordable = int(np.searchsorted(np.cumsum(cost[order]), allowed, side="right"))
        chosen[order[: min(enough, affordable)]] = True
    return chosen
