"""What pydantic found, in the words of the file: which key, what is wrong, what is allowed."""

from __future__ import annotations

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from drkit.config.model import Config

_PLAIN = {
    "missing": "is required",
    "bool_type": "is true or false",
    "bool_parsing": "is true or false",
    "int_type": "is a whole number",
    "int_parsing": "is a whole number",
    "int_from_float": "is a whole number",
    "string_type": "is a text in quotes",
    "path_type": "is a path in quotes",
    "dict_type": "is a table",
    "model_type": "is a table",
    "tuple_type": "is a list",
}


def describe(error: ValidationError, sources: Mapping[str, str], path: Path, under: tuple[str, ...] = ()) -> list[str]:
    """One line per key, in the order of the model; one set by the environment with its variable.

    under: where in the file stands what was checked, for a part of it.
    """
    by_key: dict[str, list[str]] = {}
    for detail in error.errors(include_url=False):
        key, model = _locate((*under, *detail["loc"]))
        texts = by_key.setdefault(key, [])
        text = _text(detail, model)
        if text not in texts:
            texts.append(text)
    lines = []
    for key, texts in by_key.items():
        origins = {origin for leaf, origin in sources.items() if leaf == key or leaf.startswith(f"{key}.")}
        by = "" if not origins or str(path) in origins else f" (set by {', '.join(sorted(origins))})"
        lines.append(f"{key}{by} {_alternatives(texts)}".strip())
    return lines


def _alternatives(texts: list[str]) -> str:
    """'= 1: this or that' of the branches of a union, which all quote the same input."""
    quoted, _, _ = texts[0].partition(": ")
    rest = [text.removeprefix(f"{quoted}: ") for text in texts[1:]]
    return " or ".join([texts[0], *rest])


def _locate(loc: tuple[int | str, ...]) -> tuple[str, type[BaseModel] | None]:
    """The dotted key of a place in the model and the model it stands in.

    What pydantic adds behind a key (the branch of a union) is left out.
    """
    key = ""
    model: type[BaseModel] | None = Config
    names_next = False  # the next part is a name given by the user: [target.NAME]
    for part in loc:
        if isinstance(part, int):
            key += f"[{part + 1}]"
            continue
        if model is None:
            break
        key += f".{part}" if key else str(part)
        if names_next:
            names_next = False
            continue
        field = model.model_fields.get(part)
        inner, is_mapping = _inner(field.annotation if field else None)
        if inner is None:
            return key, model
        model, names_next = inner, is_mapping
    return key, model


def _inner(annotation: object) -> tuple[type[BaseModel] | None, bool]:
    """The model that a field holds, and whether by name."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation, False
    for argument in get_args(annotation):
        if isinstance(argument, type) and issubclass(argument, BaseModel):
            return argument, str(annotation).startswith("dict")
    return None, False


def _text(detail: ErrorDetails, model: type[BaseModel] | None) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind == "extra_forbidden" and model is not None:
        name = str(detail["loc"][-1])
        allowed = list(model.model_fields)
        close = get_close_matches(name, allowed, n=1)
        guess = f"; did you mean {close[0]!r}?" if close else ""
        return f"is not a known key{guess} (allowed: {', '.join(allowed)})"
    if kind == "value_error":
        return str(context["error"])
    if kind == "literal_error":
        return f"= {detail['input']!r}: allowed: {context['expected']}"
    if kind in ("greater_than_equal", "less_than_equal"):
        bound = "at least" if kind == "greater_than_equal" else "at most"
        return f"= {detail['input']!r}: is {bound} {context.get('ge', context.get('le'))}"
    plain = _PLAIN.get(kind, detail["msg"])
    return plain if kind == "missing" else f"= {detail['input']!r}: {plain}"
