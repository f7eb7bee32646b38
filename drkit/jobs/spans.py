"""Sets of segment numbers as spans: what is unbroken, and where the gaps are, however many segments there are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Spans:
    """spans: (first, last), both inclusive, rising, with at least one number missing between two of them."""

    spans: tuple[tuple[int, int], ...] = ()

    @classmethod
    def of(cls, numbers: Iterable[int]) -> Spans:
        return cls.joined((number, number) for number in numbers)

    @classmethod
    def joined(cls, parts: Iterable[tuple[int, int]]) -> Spans:
        """Of spans in any order that may overlap or touch."""
        found: list[tuple[int, int]] = []
        for first, last in sorted(parts):
            if found and first <= found[-1][1] + 1:
                if last > found[-1][1]:
                    found[-1] = (found[-1][0], last)
            else:
                found.append((first, last))
        return cls(tuple(found))

    @property
    def last(self) -> int | None:
        return self.spans[-1][1] if self.spans else None

    def __contains__(self, number: int) -> bool:
        return self.run_end(number) is not None

    def run_end(self, number: int) -> int | None:
        """The last number of the unbroken run that holds `number`."""
        at = bisect_right(self.spans, number, key=lambda span: span[0]) - 1
        if at < 0 or self.spans[at][1] < number:
            return None
        return self.spans[at][1]

    def after(self, number: int) -> int | None:
        """The first held number greater than `number`."""
        for first, last in self.spans[max(0, bisect_right(self.spans, number, key=lambda span: span[0]) - 1) :]:
            if last > number:
                return max(first, number + 1)
        return None

    def cut(self, first: int, last: int | None = None) -> Spans:
        """What lies in [first, last], `last` None: no end."""
        parts = []
        for low, high in self.spans:
            low, high = max(low, first), high if last is None else min(high, last)
            if low <= high:
                parts.append((low, high))
        return Spans(tuple(parts))

    def union(self, *others: Spans) -> Spans:
        return Spans.joined([*self.spans, *(span for other in others for span in other.spans)])
