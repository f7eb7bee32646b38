"""Rows that are lost, as runs of numbers: thousands of rows in a line for each writer. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from drills.report.model import Fate, Loss, Run

MOST_RUNS = 256  # that are kept: without a hole there is one for each writer, of whom there are 64 at most
_MOST_TOLD = 64


def runs_of(keys: Iterable[tuple[str, int]]) -> tuple[Run, ...]:
    """Of (writer, number) in any order, by writer; at most MOST_RUNS, the first."""
    found: list[Run] = []
    for writer, number in sorted(set(keys)):
        if found and found[-1].writer == writer and found[-1].last + 1 == number:
            found[-1] = Run(writer, found[-1].first, number)
        elif len(found) == MOST_RUNS:
            break
        else:
            found.append(Run(writer, number, number))
    return tuple(found)


def lost_rows(loss: Loss) -> Iterator[str]:
    """In words: 'writer 2: 1041 to 1043', 'and 17 more'. A report of before runs were kept has those of its strip."""
    runs = loss.lost_runs or runs_of((row.writer, row.number) for row in loss.strip if row.fate is Fate.LOST)
    runs = runs[:_MOST_TOLD]
    numbers: dict[str, list[str]] = {}
    for one in runs:
        words = str(one.first) if one.first == one.last else f"{one.first} to {one.last}"
        numbers.setdefault(one.writer, []).append(words)
    for writer, words_of in numbers.items():
        yield f"writer {writer}: {', '.join(words_of)}"
    left = loss.lost - sum(one.rows for one in runs)
    if numbers and left > 0:
        yield f"and {left:,} more"
