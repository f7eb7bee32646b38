"""docs/json.md as data, and what an answer has that it does not tell, or lacks that it tells."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from drkit.core.errors import UsageError
from drkit.core.units import parse_time

PAGE = Path(__file__).parents[2] / "docs" / "json.md"
_ROW = re.compile(r"\| `([^`]+)` \| ([^|]+) \|")
_PART = re.compile(r"[^.\[\]]+|\[\]|\*")


def _is_time(value: object) -> bool:
    try:
        return isinstance(value, str) and bool(parse_time(value))
    except UsageError:
        return False


_KINDS: dict[str, Callable[[object], bool]] = {
    "text": lambda value: isinstance(value, str),
    "time": _is_time,
    "integer": lambda value: isinstance(value, int) and not isinstance(value, bool),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "boolean": lambda value: isinstance(value, bool),
    "null": lambda value: value is None,
    "object": lambda value: isinstance(value, dict),
    "list": lambda value: isinstance(value, list),
}


@dataclass(slots=True)
class Member:
    """kinds: empty for a list or an object that has no row of its own. parts: members, "[]" or "*"."""

    kinds: tuple[str, ...] = ()
    optional: bool = False
    parts: dict[str, Member] = field(default_factory=dict)


def read_page() -> dict[str, Member]:
    """The members of each schema of the page. A type that has no meaning here raises KeyError."""
    found: dict[str, Member] = {}
    for section in PAGE.read_text().split("\n## `")[1:]:
        name, _, text = section.partition("`")
        root = found.setdefault(name, Member())
        for path, kind in _ROW.findall(text):
            at = root
            for part in _PART.findall(path):
                at = at.parts.setdefault(part, Member())
            words = re.split(r",\s*|\s+or\s+", kind.strip())
            at.optional = "optional" in words
            at.kinds = tuple(word for word in words if word != "optional")
            assert all(word in _KINDS for word in at.kinds), f"{name}: {path} is {kind}"
    return found


def differences(value: object, member: Member, path: str = "") -> Iterator[str]:
    """What a value and the page do not agree on, one sentence each."""
    if member.kinds and not any(_KINDS[kind](value) for kind in member.kinds):
        yield f"{path} is {value!r}, the page says {' or '.join(member.kinds)}"
    if isinstance(value, dict) and member.parts:
        yield from _object(value, member.parts, path)
    elif isinstance(value, list) and "[]" in member.parts:
        for item in value:
            yield from differences(item, member.parts["[]"], f"{path}[]")
    elif isinstance(value, dict | list) and not member.kinds:
        yield f"{path} is a {type(value).__name__}, the page does not say so"


def _object(value: Mapping[str, object], parts: Mapping[str, Member], path: str) -> Iterator[str]:
    for name, inner in value.items():
        told = parts.get(name) or parts.get("*")
        if told is None:
            yield f"{path}.{name} is not on the page"
        else:
            yield from differences(inner, told, f"{path}.{name}")
    for name, told in parts.items():
        if name not in value and name != "*" and not told.optional:
            yield f"{path}.{name} is on the page and not in the answer"
