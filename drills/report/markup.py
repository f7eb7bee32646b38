"""Markup that cannot be broken out of: text is escaped unless it was made by `tag` itself."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from drills.report.view import visible

_VOID = frozenset({"meta", "br", "hr", "wbr", "col"})


class Markup(str):
    """Text that is markup already."""

    __slots__ = ()


Child = Markup | str | None
Attribute = str | int | float | bool | None


def text(value: str) -> Markup:
    """Any text as markup; controls and overrides of direction are written out."""
    return Markup(escape(visible(value), quote=True))


def join(children: Iterable[Child]) -> Markup:
    """Children one after another; None is nothing."""
    return Markup("".join(c if isinstance(c, Markup) else text(c) for c in children if c is not None))


def tag(name: str, /, *children: Child, **attributes: Attribute) -> Markup:
    """An element of HTML or SVG. `class_` and `aria_label` stand for class and aria-label; None and False leave an
    attribute out, True gives it without a value."""
    words = [name]
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        word = key.rstrip("_").replace("_", "-")
        words.append(word if value is True else f'{word}="{_value(value)}"')
    opened = f"<{' '.join(words)}>"
    return Markup(opened if name in _VOID else f"{opened}{join(children)}</{name}>")


def _value(value: str | int | float) -> str:
    if isinstance(value, float):
        return f"{value:.2f}".rstrip("0").rstrip(".")
    return text(str(value))
