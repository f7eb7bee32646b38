"""Which drill is meant: one of the configuration, a file of its own, or one that comes with drkit."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from drkit.config.drill import SCENARIOS, Drill
from drkit.config.explain import written
from drkit.config.model import Config
from drkit.config.section import Section
from drkit.core.errors import ConfigError, Missing

ALIASES: Mapping[str, str] = {"D01": "dropped-table", "D03": "disk-lost", "D09": "region-loss", "D10": "wal-gap"}
IDS: Mapping[str, str] = {name: ident for ident, name in ALIASES.items()}
_LOSING = ("disk-lost", "region-loss")
_CURE = "the keys are those of [drill.NAME] in docs/configuration.md"
_SHORT, _LONGER = timedelta(seconds=10), 1.25


@dataclass(frozen=True, slots=True)
class Definition:
    """name: of the configuration's section, of the file without its ending, or of the built-in; source: where it is."""

    name: str
    drill: Drill
    source: str

    @property
    def scenario_id(self) -> str:
        """D01 ..."""
        return IDS[self.drill.scenario]

    @property
    def title(self) -> str:
        """Its own, else that of the scenario."""
        return self.drill.title or built_in(self.drill.scenario).drill.title

    def as_json(self) -> dict[str, object]:
        """As it is run, for the report."""
        return {"name": self.name, "source": self.source, **_plain(self.drill)}

    @property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self.as_json(), sort_keys=True).encode()).hexdigest()


def find_definition(wanted: str, config: Config) -> Definition:
    """By name in the configuration, by a path (that ends with .toml), or built in, also as D01, D03, D09 and D10.

    Raises Missing naming what there is, ConfigError where the section or file is no definition.
    """
    configured, name = config.drill, ALIASES.get(wanted.upper(), wanted)
    for one in (wanted, name):
        if one in config.wrong_drills:
            raise ConfigError(f"the drill {one!r} is defined wrongly", why=config.wrong_drills[one], cure=_CURE)
    if wanted in configured:
        return Definition(wanted, configured[wanted], "the configuration")
    if wanted.endswith(".toml"):
        path = Path(wanted)
        return Definition(path.stem, _parse(_read(path), wanted), str(path.absolute()))
    if name in configured:
        return Definition(name, configured[name], "the configuration")
    if name in SCENARIOS:
        return built_in(name)
    known = ", ".join([*configured, *SCENARIOS])
    raise Missing(f"no drill {wanted!r}", why=f"there are {known}", cure="name one of them, or a file: mine.toml")


def with_load(found: Definition, promised: timedelta | None) -> Definition:
    """With the `load` that its own setting, or the rpo that it is judged by, asks for. promised: by the cluster."""
    drill = found.drill
    if drill.load is not None:
        return found
    rpo, load = _judged_by(drill, promised), _SHORT
    if rpo is not None and rpo * _LONGER <= drill.deadlines.fault / 2:
        load = max(load, rpo * _LONGER)
    return replace(found, drill=drill.changed({"load": load}))


def writes_too_little(found: Definition, promised: timedelta | None) -> str:
    """Why a cluster that archives nothing for longer than its rpo would not fail this drill, "" where it would."""
    rpo, load = _judged_by(found.drill, promised), with_load(found, promised).drill.load
    if rpo is None or load is None or load > rpo:
        return ""
    return f"it writes rows for {written(load)}, the rpo is {written(rpo)}: a loss of more than that cannot be seen"


def _judged_by(drill: Drill, promised: timedelta | None) -> timedelta | None:
    """The rpo, where the loss is what the load wrote: a scenario that finds its own point is not asked for more."""
    loses = drill.scenario in _LOSING and drill.point == "latest"
    return drill.rpo or promised if loses and "rpo" in drill.objectives else None


def built_in(name: str) -> Definition:
    """One that comes with drkit."""
    text = files("drills.scenarios").joinpath(f"{name}.toml").read_text()
    return Definition(name, _parse(text, f"{name}, built in"), "built in")


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        raise Missing("the drill's file is missing", where=str(path), cure="is the path right?") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("the drill's file cannot be read", where=str(path), why=str(error)) from error


def _parse(text: str, where: str) -> Drill:
    """The file's keys are those of [drill.NAME]."""
    try:
        return Drill.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError("the drill's file is not TOML", where=where, why=str(error)) from error
    except ValidationError as error:
        why = "; ".join(_line(one["loc"], one["msg"]) for one in error.errors(include_url=False))
        raise ConfigError("the drill's file is no definition", where=where, why=why, cure=_CURE) from None


def _plain(section: Section) -> dict[str, object]:
    """As one would write it."""
    return {key: _plain_value(getattr(section, key)) for key in type(section).model_fields}


def _plain_value(value: object) -> object:
    if isinstance(value, Section):
        return _plain(value)
    if isinstance(value, tuple):
        return [_plain_value(one) for one in value]
    if isinstance(value, timedelta):
        return written(value)
    return value if isinstance(value, str | int | bool | None) else str(value)


def _line(place: tuple[int | str, ...], text: str) -> str:
    key = ".".join(str(part) for part in place)
    return f"{key}: {text.removeprefix('Value error, ')}" if key else text.removeprefix("Value error, ")
