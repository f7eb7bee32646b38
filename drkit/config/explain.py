"""The effective configuration: each key, its value as one would write it, and where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from pydantic import BaseModel

from drkit.config.load import SECRET_SUFFIXES, Loaded
from drkit.config.values import Compression
from drkit.core.log import redact
from drkit.core.units import Span
from policies.rule import Rule

_UNITS = (
    ("w", timedelta(weeks=1)),
    ("d", timedelta(days=1)),
    ("h", timedelta(hours=1)),
    ("m", timedelta(minutes=1)),
    ("s", timedelta(seconds=1)),
)


@dataclass(frozen=True, slots=True)
class Setting:
    """key: dotted · value: text, "" where nothing is set · source: 'default', a path or a variable's name."""

    key: str
    value: str
    source: str


def explain(loaded: Loaded, env: Mapping[str, str]) -> list[Setting]:
    """Every setting in the order of the model; secrets in the environment by name only, commands redacted."""
    settings = [
        Setting(key, written(value), loaded.sources.get(key, "default")) for key, value in _walk(loaded.config, "")
    ]
    for name in sorted(env):
        if name.startswith("DRKIT_") and name.endswith(SECRET_SUFFIXES):
            key = name.removeprefix("DRKIT_").replace("__", ".").lower()
            settings.append(Setting(key, "***", name))
    return settings


def _walk(model: BaseModel, prefix: str) -> Iterator[tuple[str, object]]:
    for key in type(model).model_fields:
        value = getattr(model, key)
        if isinstance(value, BaseModel):
            yield from _walk(value, f"{prefix}{key}.")
        elif isinstance(value, dict):
            for name, inner in value.items():
                yield from _walk(inner, f"{prefix}{key}.{name}.")
        elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
            for number, inner in enumerate(value, start=1):
                yield from _walk(inner, f"{prefix}{key}[{number}].")
        else:
            yield prefix + key, value


def written(value: object) -> str:
    """A value in the notation of the file."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, timedelta):
        return _fixed(value)
    if isinstance(value, Span):
        return _span(value)
    if isinstance(value, tuple):
        return "[" + ", ".join(str(item) for item in value) + "]"
    if isinstance(value, Rule | Compression | Path | int):
        return str(value)
    return redact(str(value))


def _fixed(value: timedelta) -> str:
    for unit, length in _UNITS:
        if value and value % length == timedelta(0):
            return f"{value // length}{unit}"
    return "0s" if not value else f"{value // timedelta(milliseconds=1)}ms"


def _span(value: Span) -> str:
    if not value.months:
        return _fixed(value.fixed)
    return f"{value.months // 12}y" if value.months % 12 == 0 else f"{value.months}mo"
