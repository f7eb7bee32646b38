"""Who the demo tells its story to."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Protocol


class Teller(Protocol):
    """Headings, what is typed, and what came of it; used by one thread."""

    def heading(self, number: int, title: str) -> None: ...

    def typed(self, line: str, *, prompt: str = "$") -> None:
        """A command, as a person would type it."""
        ...

    def said(self, line: str) -> None:
        """What came of it: one sentence."""
        ...

    def rows(self, rows: list[tuple[str, str]]) -> None:
        """Figures under each other: a name and its value."""
        ...

    def busy(self, doing: str) -> AbstractContextManager[object]:
        """Show that something is going on, for the length of the block; nothing is told meanwhile."""
        ...
