"""The rule of copies: '3-2-1', '3-2-1-1-0', or small ones such as '2-1-0'."""

from __future__ import annotations

import re
from dataclasses import dataclass

ALLOWED = "copies-media-offsite, with -immutable-0 behind it if wanted: 2-1-0, 3-2-1, 3-2-1-1-0"
_NUMBERS = re.compile(r"[0-9]{1,2}(-[0-9]{1,2}){2}((-[0-9]{1,2}){2})?\Z", re.ASCII)


@dataclass(frozen=True, slots=True)
class Rule:
    """How many copies, on how many media, how many of them at another site, how many immutable.

    zero_errors: the last figure of the five: no open finding, and a drill that passed.
    """

    copies: int
    media: int
    offsite: int
    immutable: int = 0
    zero_errors: bool = False

    @classmethod
    def parse(cls, text: str) -> Rule:
        """Raises ValueError saying what is wrong and what is allowed."""
        if not _NUMBERS.match(text):
            raise ValueError(f"{text!r} is not a rule of copies; allowed: {ALLOWED}")
        numbers = [int(part) for part in text.split("-")]
        copies, media, offsite = numbers[:3]
        immutable = numbers[3] if len(numbers) == 5 else 0
        if copies < 1 or media < 1:
            raise ValueError(f"the rule {text!r} asks for nothing; copies and media are at least 1")
        if max(media, offsite, immutable) > copies:
            raise ValueError(f"no {copies} copies can satisfy the rule {text!r}")
        if len(numbers) == 5 and numbers[4] != 0:
            raise ValueError(f"the last figure of the rule {text!r} is the errors allowed, and that is 0")
        return cls(copies, media, offsite, immutable, zero_errors=len(numbers) == 5)

    def __str__(self) -> str:
        text = f"{self.copies}-{self.media}-{self.offsite}"
        return f"{text}-{self.immutable}-0" if self.zero_errors else text
