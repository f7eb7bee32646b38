"""The ledger: what was acknowledged to a client, judged against what came back after a disaster.

Pure: entries (from `drills.journal`) and rows (from the recovered database) in, a verdict out. All instants are
seconds of the one monotonic clock that stamped the journal.

    lost         acknowledged before the fault, not recovered
    in doubt     recovered, never acknowledged, but intended: legal, the answer was on its way
    invented     recovered, never intended: corruption
    changed      recovered with another payload than intended, or more than once: corruption
    hole         k is missing and a later one of the same writer is there
    out of order x was acknowledged before y was sent, y is there, x is not
    beyond       sent after the target was acknowledged, and there all the same: the target was overshot
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

Key = tuple[str, int]  # writer and sequence number


@dataclass(frozen=True, slots=True)
class Entry:
    """One row as its writer saw it: sent (before the commit was asked for), acknowledged (after), or never."""

    writer: str
    number: int
    digest: str
    sent_s: float
    acknowledged_s: float | None = None

    @property
    def key(self) -> Key:
        return self.writer, self.number


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it was found; `digest` is computed from the payload found, not read from the row."""

    writer: str
    number: int
    digest: str


@dataclass(frozen=True, slots=True)
class Moment:
    """An event that the ledger's clock saw from outside only: it happened between the two instants.

    For a disaster: before and after the kill. For a recovery target: its commit sent and acknowledged.
    """

    begun_s: float
    done_s: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The judgement. `expected` rows were acknowledged before the moment; kept + lost = expected.

    under_way: recovered rows whose commit overlapped the moment: legal either way
    loss_s:   the RPO as measured: from the newest acknowledgement such that it and every earlier one was
              recovered, to the moment. Without any such row: from the first row sent, and then a lower bound.
              None: nothing was expected.
    target_error_s: how long after the moment the latest row beyond it was sent; 0.0 without one. A stop short of
              the target cannot be told from loss and shows as loss.
    """

    expected: int
    recovered: int
    kept: int
    lost: tuple[Key, ...]
    in_doubt: tuple[Key, ...]
    under_way: int
    invented: tuple[Key, ...]
    changed: tuple[Key, ...]
    holes: tuple[Key, ...]
    out_of_order: tuple[tuple[Key, Key], ...]
    beyond: tuple[Key, ...]
    loss_s: float | None
    target_error_s: float

    @property
    def sound(self) -> bool:
        """Nothing that is wrong whatever the objective: rows may be lost, but only the newest, and none is false."""
        return not (self.invented or self.changed or self.holes or self.out_of_order or self.beyond)

    @property
    def complete(self) -> bool:
        """Sound, and not one acknowledged row is lost."""
        return self.sound and not self.lost


def judge(entries: Iterable[Entry], recovered: Iterable[Row], moment: Moment) -> Verdict:
    """Compare a recovery with the journal. `moment` is the disaster, or the target of a point-in-time recovery."""
    intended = {entry.key: entry for entry in entries}
    rows = list(recovered)
    counts = Counter((row.writer, row.number) for row in rows)
    digests = {(row.writer, row.number): row.digest for row in rows}
    present = [intended[key] for key in digests if key in intended]
    expected = [e for e in intended.values() if e.acknowledged_s is not None and e.acknowledged_s <= moment.begun_s]
    lost = [entry for entry in expected if entry.key not in digests]
    late = [entry for entry in present if entry.sent_s > moment.done_s]
    settled = {entry.key for entry in expected} | {entry.key for entry in late}
    return Verdict(
        expected=len(expected),
        recovered=len(rows),
        kept=len(expected) - len(lost),
        lost=_keys(lost),
        in_doubt=_keys(entry for entry in present if entry.acknowledged_s is None),
        under_way=sum(entry.key not in settled for entry in present),
        invented=tuple(sorted(key for key in digests if key not in intended)),
        changed=tuple(sorted(e.key for e in present if digests[e.key] != e.digest or counts[e.key] > 1)),
        holes=_holes(intended, digests),
        out_of_order=_out_of_order(intended.values(), present, digests),
        beyond=_keys(late),
        loss_s=_loss_s(intended.values(), expected, lost, moment),
        target_error_s=max((entry.sent_s - moment.done_s for entry in late), default=0.0),
    )


def _keys(entries: Iterable[Entry]) -> tuple[Key, ...]:
    return tuple(sorted(entry.key for entry in entries))


def _holes(intended: Mapping[Key, Entry], digests: Mapping[Key, str]) -> tuple[Key, ...]:
    """Missing numbers below the highest that is there, for each writer; what was never intended counts as there."""
    highest: dict[str, int] = {}
    for writer, number in digests:
        highest[writer] = max(number, highest.get(writer, number))
    missing = (key for key in intended if key not in digests)
    return tuple(sorted(key for key in missing if key[1] < highest.get(key[0], key[1])))


def _out_of_order(
    entries: Iterable[Entry], present: list[Entry], digests: Mapping[Key, str]
) -> tuple[tuple[Key, Key], ...]:
    """(missing x, a present y sent after x was acknowledged), for each such x with its earliest y."""
    by_sent = sorted(present, key=lambda entry: entry.sent_s)
    sent = [entry.sent_s for entry in by_sent]
    found: list[tuple[Key, Key]] = []
    for entry in entries:
        if entry.acknowledged_s is None or entry.key in digests:
            continue
        at = bisect_right(sent, entry.acknowledged_s)
        if at < len(by_sent):
            found.append((entry.key, by_sent[at].key))
    return tuple(sorted(found))


def _loss_s(entries: Iterable[Entry], expected: list[Entry], lost: list[Entry], moment: Moment) -> float | None:
    if not expected:
        return None
    first_lost_s = min((_acknowledged_s(entry) for entry in lost), default=float("inf"))
    kept = [at for entry in expected if (at := _acknowledged_s(entry)) < first_lost_s]
    newest_s = max(kept) if kept else min(entry.sent_s for entry in entries)
    return moment.begun_s - newest_s


def _acknowledged_s(entry: Entry) -> float:
    assert entry.acknowledged_s is not None
    return entry.acknowledged_s
