"""File and environment to a checked Config, with the source of every value."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from drkit.config.drill import Drill
from drkit.config.find import find
from drkit.config.model import Config
from drkit.config.problems import describe
from drkit.config.values import A_NAME, is_name
from drkit.core.errors import ConfigError

Tree = dict[str, object]  # a TOML table: text, numbers, booleans, lists and tables, not yet checked
PREFIX = "DRKIT_"
# Secrets in the environment are read where they are wanted (`drkit.config.secrets`), not part of the model.
SECRET_SUFFIXES = ("__ACCESS_KEY", "__SECRET_KEY", "__SESSION_TOKEN", "DRKIT_KEYS__PASSPHRASE")


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration and where it came from.

    sources: dotted key -> path of the file or name of the variable; a key that is not in it has its default
    """

    config: Config
    path: Path
    sources: Mapping[str, str]


def load(explicit: Path | None, env: Mapping[str, str], cwd: Path) -> Loaded:
    """Find, read, override and check. Raises ConfigError naming file, key and what is allowed."""
    path = find(explicit, env, cwd)
    tree = _read(path)
    sources = dict.fromkeys(_leaves(tree), str(path))
    for name, value in env.items():
        if name.startswith(PREFIX) and "__" in name and not name.endswith(SECRET_SUFFIXES):
            sources[_override(tree, name, value)] = name
    _default_spool(tree, env)
    return Loaded(check(tree, path, sources), path, sources)


def check(tree: Tree, path: Path, sources: Mapping[str, str] | None = None) -> Config:
    """The typed model of a tree read from `path`. Raises ConfigError with every problem named.

    A section [drill.NAME] that is wrong is left out, and kept as `Config.wrong_drills`: everything else, archiving
    before all, goes on without it.
    """
    wrong = _wrong_drills(tree, sources or {}, path)
    drills = tree.get("drill", {})
    sound = {name: one for name, one in drills.items() if name not in wrong} if isinstance(drills, dict) else {}
    try:
        return Config.model_validate({**tree, "drill": sound}).without(wrong)
    except ValidationError as error:
        lines = describe(error, sources or {}, path)
        what = "the configuration is wrong" if len(lines) == 1 else f"{len(lines)} settings are wrong"
        why = "".join(f"\n  {line}" for line in lines) if lines[1:] else lines[0]
        cure = "set it right in that file" if not lines[1:] else "set them right in that file"
        if any(" (set by " in line for line in lines):
            cure += ", and in the environment what the variables named above set"
        raise ConfigError(what, where=str(path), why=why, cure=cure) from None


def _wrong_drills(tree: Tree, sources: Mapping[str, str], path: Path) -> dict[str, str]:
    """By name, what is wrong with it and under which key; "" is the name where [drill] is no table at all."""
    drills, clusters = tree.get("drill", {}), tree.get("cluster", {})
    if not isinstance(drills, dict):
        return {"": f"drill = {drills!r}: is a table"}
    known = clusters if isinstance(clusters, dict) else {}
    wrong: dict[str, str] = {}
    for name, section in drills.items():
        try:
            drill = Drill.model_validate(section)
        except ValidationError as error:
            wrong[name] = "; ".join(describe(error, sources, path, ("drill", name)))
            continue
        if not is_name(name):
            wrong[name] = f"[drill.{name}]: {A_NAME}"
        elif drill.cluster is not None and drill.cluster not in known:
            wrong[name] = f"drill.{name} names the cluster {drill.cluster!r}, which is not here"
    return wrong


def _read(path: Path) -> Tree:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        cure = f"may this user read it? ls -l {path}"
        raise ConfigError("the configuration cannot be read", where=str(path), why=str(error), cure=cure) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        cure = "mend the line that is named; texts stand in quotes, sections in [brackets]"
        raise ConfigError("the configuration is not TOML", where=str(path), why=str(error), cure=cure) from error


def _leaves(tree: Tree, prefix: str = "") -> list[str]:
    """The dotted keys of all values that are not tables."""
    found: list[str] = []
    for key, value in tree.items():
        if isinstance(value, dict):
            found += _leaves(value, f"{prefix}{key}.")
        elif isinstance(value, list) and value and all(isinstance(item, dict) for item in value):
            for number, item in enumerate(value, start=1):
                found += _leaves(item, f"{prefix}{key}[{number}].")
        else:
            found.append(prefix + key)
    return found


def _override(tree: Tree, name: str, text: str) -> str:
    """Set what the variable `name` says in `tree`; returns its dotted key.

    Names in the environment are upper case without '-': each part means the key of the tree that reads so.
    """
    parts = name.removeprefix(PREFIX).split("__")
    if not all(parts):
        raise ConfigError(f"{name} names no key", cure="write DRKIT_<SECTION>__<KEY>")
    path: list[str] = []
    table = tree
    for part in parts[:-1]:
        key = _key_like(table, part)
        path.append(key)
        inner = table.setdefault(key, {})
        if not isinstance(inner, dict):
            raise ConfigError(
                f"{name} cannot be used", why=f"{'.'.join(path)} is not a table", cure="set it in the file"
            )
        table = inner
    key = _key_like(table, parts[-1])
    table[key] = _value(text)
    return ".".join([*path, key])


def _key_like(table: Tree, part: str) -> str:
    for key in table:
        if key.upper().replace("-", "_") == part.upper():
            return key
    return part.lower()


def _value(text: str) -> object:
    """The TOML value that `text` is, else the text itself: 4, true, ["a"], 60s."""
    try:
        document = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    value = document["value"]
    return value if len(document) == 1 and isinstance(value, bool | int | float | str | list) else text


def _default_spool(tree: Tree, env: Mapping[str, str]) -> None:
    """The spool of who may not write to /var/lib/drkit is below $XDG_STATE_HOME."""
    daemon = tree.setdefault("daemon", {})
    if not isinstance(daemon, dict) or "spool" in daemon:
        return
    system = Path("/var/lib/drkit")
    if os.geteuid() == 0 or os.access(system if system.exists() else system.parent, os.W_OK):
        return
    home = env.get("HOME") or "/nonexistent"
    daemon["spool"] = str(Path(env.get("XDG_STATE_HOME") or f"{home}/.local/state") / "drkit")
