"""The `drkit` that the demo types: run as a user would, its answer read as JSON or as it is."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from drills.demo.place import Background, Place
from drills.demo.teller import Teller
from drkit.core.errors import Failed

PROMISE = 10  # done, but short of what is promised: told, and no reason to stop


@dataclass(frozen=True, slots=True)
class Answer:
    """A command's JSON object, and what it took."""

    value: dict[str, object]
    exit: int
    seconds: float


class Drkit:
    """Commands in the demo's folder, whose drkit.toml they find by themselves."""

    def __init__(self, program: Path, place: Place, env: Mapping[str, str], teller: Teller) -> None:
        self._program, self._place, self._env, self._teller = program, place, env, teller

    def __call__(
        self,
        doing: str,
        *words: str,
        accept: Collection[int] = (0,),
        quietly: bool = False,
        unseen: tuple[str, ...] = (),
    ) -> Answer:
        """Show what is typed, run it with --json, and give the answer. Raises Failed naming the log.

        quietly: show nothing · unseen: words that are not shown
        """
        typed = shlex.join(["drkit", *words])
        if quietly:
            return self._answer(typed, (*words, *unseen), accept, None)
        self._teller.typed(typed)
        with self._teller.busy(doing) as more:
            return self._answer(typed, (*words, *unseen), accept, lambda line: _tell_step(line, doing, more))

    def _answer(
        self, typed: str, words: tuple[str, ...], accept: Collection[int], hear: Callable[[str], None] | None
    ) -> Answer:
        ran, log = self._place.run([str(self._program), *words, "--json"], self._env, hear)
        if ran.exit not in accept or not ran.stdout.strip():
            raise ran.fail(f"`{typed}` failed", log)
        try:
            value = json.loads(ran.stdout)
        except ValueError as error:
            raise Failed(f"`{typed}` gave no JSON", where=str(log), why=str(error), cure=f"less {log}") from error
        return Answer(value, ran.exit, ran.seconds)

    def words(self, doing: str, *words: str, accept: Collection[int] = (0,)) -> list[str]:
        """Show what is typed, run it, and give the lines that people read. Raises Failed naming the log."""
        typed = shlex.join(["drkit", *words])
        self._teller.typed(typed)
        with self._teller.busy(doing):
            ran, log = self._place.run([str(self._program), *words], self._env)
        if ran.exit not in accept:
            raise ran.fail(f"`{typed}` failed", log)
        return ran.stdout.splitlines()

    def start(self, *words: str) -> Background:
        """Show what is typed, and start it in the background. Raises Failed where it cannot be run."""
        self._teller.typed(shlex.join(["drkit", *words]) + " &")
        return self._place.start([str(self._program), *words], self._env, self._place.logs / f"{words[0]}.log")


def _tell_step(line: str, doing: str, more: Callable[[str], None]) -> None:
    """Hand on what a command says of its progress (drkit.progress/1)."""
    try:
        event = json.loads(line)
    except ValueError:
        return
    message = event.get("message") if isinstance(event, dict) else None
    if isinstance(message, str) and message:
        more(f"{doing}: {message}")
