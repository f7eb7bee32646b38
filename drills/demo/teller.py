"""Who the demo tells its story to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol


class Teller(Protocol):
    """Headings, what is typed, and what came of it; used by one thread."""

    def heading(self, number: int, title: str) -> None: ...

    def typed(self, line: str) -> None:
        """A command, as a person would type it."""
        ...

    def said(self, line: str) -> None:
        """What came of it: a sentence or two."""
        ...

    def shown(self, lines: Sequence[str]) -> None:
        """A command's own words, as they are."""
        ...

    def judged(self, word: str, line: str, *, passed: bool) -> None:
        """A verdict in a word, and what it says."""
        ...

    def rows(self, rows: Sequence[tuple[str, str]]) -> None:
        """Figures under each other: a name and its value; a name that is "" goes on with the row above."""
        ...

    def busy(self, doing: str) -> AbstractContextManager[Callable[[str], None]]:
        """Show that something is going on, for the length of the block; nothing is told meanwhile.

        The block gets a function that says more exactly what.
        """
        ...
