"""The `drkit` that the demo types: run as a user would, its answer read as JSON."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from drills.demo.place import Place
from drills.demo.teller import Teller
from drkit.core.errors import Failed

PROMISE = 10  # done, but short of the policy: told, and no reason to stop


@dataclass(frozen=True, slots=True)
class Answer:
    """A command's JSON object, and what it took. typed: as shown, without the --json that was added."""

    typed: str
    value: dict[str, object]
    exit: int
    seconds: float


class Drkit:
    """Commands in the demo's folder, whose drkit.toml they find by themselves."""

    def __init__(self, program: Path, place: Place, env: Mapping[str, str], teller: Teller) -> None:
        self._program, self._place, self._env, self._teller = program, place, env, teller

    def __call__(self, doing: str, *words: str, accept: tuple[int, ...] = (0,)) -> Answer:
        """Show what is typed, run it with --json, and give the answer. Raises Failed naming the log."""
        typed = shlex.join(["drkit", *words])
        self._teller.typed(typed)
        with self._teller.busy(doing):
            ran, log = self._place.run([str(self._program), *words, "--json"], self._env)
        if ran.exit not in accept:
            raise ran.fail(f"`{typed}` failed", log)
        try:
            value = json.loads(ran.stdout)
        except ValueError as error:
            raise Failed(f"`{typed}` gave no JSON", where=str(log), why=str(error), cure=f"less {log}") from error
        return Answer(typed, value, ran.exit, ran.seconds)
