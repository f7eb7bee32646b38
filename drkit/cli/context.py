"""What the global flags say, as every verb receives it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

if TYPE_CHECKING:
    from drkit.config.load import Loaded


@dataclass(frozen=True, slots=True)
class Context:
    """config_path: --config · json: one JSON object on stdout · verbosity: -1 quiet, 0, 1 and more by -v."""

    config_path: Path | None = None
    json: bool = False
    verbosity: int = 0
    color: bool = True

    def load(self) -> Loaded:
        """The checked configuration. Raises ConfigError."""
        from drkit.config.load import load

        return load(self.config_path, os.environ, Path.cwd())


def of(ctx: typer.Context) -> Context:
    """The Context that a verb's typer context carries."""
    found = ctx.obj
    return found if isinstance(found, Context) else Context()
