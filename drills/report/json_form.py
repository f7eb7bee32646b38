"""A report as JSON, schema drkit.drill.report/1 (docs/json.md): what is stored, and read back to the same value."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

from drills.report.model import SCHEMA, DrillReport, Objective
from drkit.core.errors import Damage


def to_json(report: DrillReport) -> dict[str, object]:
    """Members in the order of the model, `schema` first. The system identifier is text: JSON numbers are too small."""
    members = _plain(report)
    assert isinstance(members, dict)
    return {"schema": SCHEMA, **members, "system_identifier": str(report.system_identifier)}


def to_text(report: DrillReport) -> str:
    """The file `report.json`: equal reports give equal bytes; ASCII, so that any name of the database survives."""
    return json.dumps(to_json(report), indent=1, ensure_ascii=True, allow_nan=False) + "\n"


def _plain(value: object) -> object:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {one.name: _plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
        return {**found, "kept": value.kept} if isinstance(value, Objective) else found
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    return value


def from_text(text: str) -> DrillReport:
    """Raises Damage where it is not such a report."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Damage("the report is not JSON", why=str(error)) from error
    return from_json(value)


def from_json(value: object) -> DrillReport:
    """The report that `to_json` was given; members that are not known are ignored. Raises Damage naming the member."""
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        why = f"its schema is {value.get('schema') if isinstance(value, dict) else None!r}, not {SCHEMA}"
        raise Damage("this is no drill report", why=why, cure="a newer drkit may read it")
    try:
        members = {**value, "system_identifier": int(str(value.get("system_identifier")))}
        made = _made(DrillReport, members, "report")
    except (TypeError, ValueError) as error:
        raise Damage("the report is not as the schema says", why=str(error)) from error
    assert isinstance(made, DrillReport)
    return made


@cache
def _hints(kind: type) -> Mapping[str, Any]:
    return get_type_hints(kind)


def _made(kind: Any, value: object, path: str) -> object:
    """`value` as `kind`, a type of the model. Raises TypeError, ValueError."""
    origin, inner = get_origin(kind), get_args(kind)
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _record(kind, value, path)
    if origin in (Union, UnionType):
        return None if value is None else _made(next(one for one in inner if one is not NoneType), value, path)
    if origin is tuple:
        rows = _checked(list, value, path)
        return tuple(_made(inner[0], row, f"{path}[{at}]") for at, row in enumerate(rows))
    if origin is Mapping:
        return {name: _made(inner[1], one, f"{path}.{name}") for name, one in _checked(dict, value, path).items()}
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind(_checked(str, value, path))
    if kind is object:
        return value
    if kind is float:
        return float(_checked((int, float), value, path))
    return _checked(kind, value, path)


def _record(kind: type, value: object, path: str) -> object:
    members = _checked(dict, value, path)
    hints = _hints(kind)
    known = [one.name for one in dataclasses.fields(kind) if one.name in members]
    return kind(**{name: _made(hints[name], members[name], f"{path}.{name}") for name in known})


def _checked(kind: Any, value: object, path: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise TypeError(f"{path} is {value!r:.80}")
    return value
