"""A smaller configuration for a recovery that must know no more than it needs: some targets, the key, its own state."""

from __future__ import annotations

import json
from collections.abc import Collection
from datetime import timedelta
from pathlib import Path

from drkit.config.explain import written
from drkit.config.load import PREFIX, SECRET_SUFFIXES
from drkit.config.model import Config
from drkit.config.section import Section


def recovery_config(
    config: Config, *, cluster: str, targets: Collection[str], state: Path, key_file: Path | None = None
) -> str:
    """TOML with one cluster, these targets and the keys. state: the folder for its spool; nobody listens on its socket.

    What the environment had overridden is written out, so that `recovery_environment` may leave those variables out.
    """
    lines = [f"[cluster.{cluster}]", f"site = {_text(config.cluster[cluster].site)}"]
    for name in config.target:
        if name in targets:
            lines += ["", f"[target.{name}]", *_lines(config.target[name])]
    keys = [f"file = {_text(str(key_file))}"] if key_file is not None else _lines(config.keys)
    lines += ["", "[keys]", *keys]
    lines += ["", "[daemon]", f"spool = {_text(str(state))}", f"socket = {_text(str(state / 'nobody.sock'))}"]
    return "\n".join(lines) + "\n"


def recovery_environment(environment: dict[str, str]) -> dict[str, str]:
    """What of an environment a recovery with such a configuration gets: secrets and credentials, no overrides."""
    kept = {name: value for name, value in environment.items() if name.startswith("AWS_") or name == "HOME"}
    ours = {n: v for n, v in environment.items() if n.startswith(PREFIX) and n.endswith(SECRET_SUFFIXES)}
    return {**kept, **ours}


def _lines(section: Section) -> list[str]:
    """Without tables inside it, and without what only expiry may use."""
    fields = (key for key in type(section).model_fields if not key.startswith("expire_"))
    values = ((key, getattr(section, key)) for key in fields)
    return [f"{key} = {_value(value)}" for key, value in values if value is not None and not isinstance(value, Section)]


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return _text(written(value) if isinstance(value, timedelta) else str(value))


def _text(text: str) -> str:
    """A basic string of TOML: what JSON escapes, TOML understands."""
    return json.dumps(text)
