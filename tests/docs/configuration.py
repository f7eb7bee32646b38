"""Makes docs/configuration.md from the model: `python -m tests.docs.configuration` writes it.

Meanings are the texts under the keys in drkit/config/model.py. They are read from its source, so that the program
itself does not pay for them.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from drkit.config import model
from drkit.config.drill import SCENARIOS
from drkit.config.explain import written
from drkit.config.find import SYSTEM_FILE
from drkit.core import units
from drkit.core.flow import MOST_WORKERS
from policies.rule import ALLOWED

PAGE = Path(__file__).parents[2] / "docs" / "configuration.md"
EXAMPLE = """\
[cluster.orders]
connection = "service=orders"
data_dir   = "/var/lib/postgresql/18/main"
site       = "fra"

[cluster.orders.objectives]
rpo            = "60s"
max_backup_age = "26h"

[target.local]
url    = "file:///backup/orders"
site   = "fra"
medium = "disk"

[target.vault]
url       = "s3://orders-vault/prod"
endpoint  = "https://s3.dub.example"
site      = "dub"
medium    = "object"
access_key_file = "/etc/drkit/vault.id"
secret_key_file = "/etc/drkit/vault.secret"

[copies]
rule = "3-2-1"

[keys]
file = "/etc/drkit/master.key"

[daemon]
spool = "/var/lib/drkit"
"""
_HEAD = f"""\
# Configuration

Made from `drkit/config/model.py` by `python -m tests.docs.configuration`; a test compares the two.

The file is TOML. It is the one of `--config FILE`, else of `$DRKIT_CONFIG`, else `./drkit.toml` (only if it belongs to
you or root and nobody else may write to it), else `{SYSTEM_FILE}`. Unknown keys and impossible values are errors that
name the file, the key and what is allowed. `drkit policy explain` prints every setting with where it comes from.

```toml
{EXAMPLE}```

What version 0.1 checks and explains, but does not act on yet: `immutable`. `max_verify_age` stays
unknown until something verifies. A job in `[[schedule]]` that this version does not have is refused: by `drkit check`,
and by the daemon, which does not start.

A section `[drill.NAME]` that is wrong stops nothing but that drill: archiving, backups and the daemon go on, `drkit
status`, `drkit check` and the daemon tell of it, and `drkit drill run` refuses it.

## The environment

`DRKIT_<SECTION>__<KEY>` overrides a key: `DRKIT_COPIES__RULE=2-1-0`, `DRKIT_TARGET__VAULT__ENDPOINT=https://s3.example`,
`DRKIT_CLUSTER__ORDERS__OBJECTIVES__RPO=60s`. Names are upper case with `_` for `-`; the value is TOML or plain text.
`[[schedule]]` is for the file alone.

Secrets are never in the file. They come from files and commands that it names, or from

| variable | is |
|---|---|
| `DRKIT_KEYS__PASSPHRASE` | the passphrase of the master key |
| `DRKIT_TARGET__<NAME>__ACCESS_KEY`, `..__SECRET_KEY`, `..__SESSION_TOKEN` | what requests are signed with |
"""
_TYPES = {
    "str": "text",
    "bool": "`true`, `false`",
    "tuple[str, ...]": "list of texts",
    "tuple[Site, ...]": "list of texts",
    "tuple[Oracle, ...]": "list of `V1` to `V6`",
    "tuple[Literal['rpo', 'rto'], ...]": "list of `rpo`, `rto`",
    "ScenarioName": ", ".join(f"`{name}`" for name in SCENARIOS),
    "Size": "size",
    "Connection": "libpq connection string",
    "AbsolutePath": "absolute path",
    "Site": "text, not empty",
    "Duration": "duration",
    "CalendarSpan": "calendar span",
    "Rate": "rate",
    "Share": "share",
    "TargetUrl": "`file:///FOLDER`, `s3://BUCKET` or `s3://BUCKET/PREFIX`",
    "Endpoint": "`https://HOST` or `http://HOST:PORT`",
    "LoopbackAddress": "`127.0.0.1:PORT`, `[::1]:PORT`",
    "Workers": f"whole number, 0 to {MOST_WORKERS}",
    "Webhook": "`https://HOST/PATH`",
    "ZoneName": "a zone's name: `Europe/Berlin`",
    "Cron": "five fields: `0 1 * * *`",
    "CopyRule": ALLOWED,
    "CompressionLevel": "`none`, `zstd:1` to `zstd:19`",
}
_VALUES = f"""
## Values

| kind | is written |
|---|---|
| duration | a text with a unit, one of {", ".join(units._FIXED_UNITS)}: `"30m"`, `"26h"` |
| calendar span | a duration, or whole months (mo) or years (y): `"12mo"` |
| size | a text with a unit, one of {", ".join(units._SIZE_UNITS)}: `"10GB"` |
| rate | a text with a unit, per second, one of {", ".join(units._SIZE_UNITS)}: `"100MB"` |
| share | a text, above 0 and at most all: `"5%"` |
"""


@dataclass(frozen=True, slots=True)
class Row:
    """One key of a section. type: in words; default: as it is written, "" without one."""

    key: str
    type: str
    default: str
    meaning: str


def page() -> str:
    """The whole page."""
    parts = [_HEAD, _VALUES]
    for heading, section in sections(model.Config, ""):
        about = " ".join((section.__doc__ or "").split())
        lines = [f"## `{heading}`", "", about, "", "| key | allowed | default | meaning |", "|---|---|---|---|"]
        for row in rows(section):
            lines.append(f"| `{row.key}` | {row.type} | {row.default} | {row.meaning} |")
        parts.append("\n" + "\n".join(lines) + "\n")
    return "".join(parts)


def sections(outer: type[BaseModel], prefix: str) -> Iterator[tuple[str, type[BaseModel]]]:
    """(heading, model) of every table, in the order of the model; each before the tables inside it."""
    for name, field in outer.model_fields.items():
        inner, container = section_of(field.annotation)
        if inner is None:
            continue
        dotted = f"{prefix}{name}" + (".NAME" if container is dict else "")
        yield (f"[[{dotted}]]" if container is tuple else f"[{dotted}]"), inner
        yield from sections(inner, f"{dotted}.")


def section_of(annotation: Any) -> tuple[type[BaseModel] | None, type | None]:
    """The model that an annotation holds, if it does, and within what."""
    arguments = getattr(annotation, "__args__", ())
    for candidate in (annotation, *arguments):
        if isinstance(candidate, type) and issubclass(candidate, BaseModel):
            return candidate, getattr(annotation, "__origin__", None)
    return None, None


def rows(section: type[BaseModel]) -> Iterator[Row]:
    """Every key of a section that is no section itself. Raises KeyError for one without a meaning or a known type."""
    source = written_in(section)
    for name, field in section.model_fields.items():
        if section_of(field.annotation)[0] is not None:
            continue
        annotation, meaning = source[name]
        default = "required" if field.is_required() else default_text(field.default)
        yield Row(name, in_words(annotation), default, " ".join(meaning.split()))


def default_text(value: object) -> str:
    text = written(value)
    return f"`{text}`" if text and text != "[]" else "not set" if value is None else "empty"


def written_in(section: type[BaseModel]) -> dict[str, tuple[ast.expr, str]]:
    """Annotation and meaning of each key, from the model's source."""
    tree = ast.parse(inspect.getsource(sys.modules[section.__module__]))
    (found,) = (node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == section.__name__)
    keys: dict[str, tuple[ast.expr, str]] = {}
    for node, following in zip(found.body, [*found.body[1:], None], strict=True):
        if not isinstance(node, ast.AnnAssign) or not isinstance(node.target, ast.Name):
            continue
        if isinstance(following, ast.Expr) and isinstance(following.value, ast.Constant):
            keys[node.target.id] = (node.annotation, str(following.value.value))
    return keys


def in_words(annotation: ast.expr) -> str:
    """What a key may hold. Not being set is told by the default."""
    if isinstance(annotation, ast.BinOp):
        sides = (annotation.left, annotation.right)
        return " or ".join(in_words(side) for side in sides if ast.unparse(side) != "None")
    text = ast.unparse(annotation)
    if text in _TYPES:
        return _TYPES[text]
    if not isinstance(annotation, ast.Subscript) or not isinstance(annotation.slice, ast.Tuple):
        raise KeyError(f"no words for the type {text}")
    parts = annotation.slice.elts
    if ast.unparse(annotation.value) == "Literal":
        return ", ".join(f"`{ast.literal_eval(part)}`" for part in parts)
    bounds = {word.arg: ast.literal_eval(word.value) for part in parts[1:] for word in _call(part).keywords}
    low, high = bounds["ge"], bounds.get("le")
    return f"whole number, {low} to {high}" if high is not None else f"whole number, at least {low}"


def _call(node: ast.expr) -> ast.Call:
    if not isinstance(node, ast.Call):
        raise KeyError(f"no words for {ast.unparse(node)}")
    return node


if __name__ == "__main__":
    PAGE.write_text(page())
