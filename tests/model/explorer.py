"""An explicit-state explorer: every interleaving of a few actors over a small world.

Each move is one verb on one target (or one listing of one prefix) and is atomic. Two prefixes are two listings.
A listing of one prefix is atomic here. A real one may be read page by page: it then shows every object that was there
from its begin to its end, and may or may not show the others. The order of listings is all that the proof uses
('created before this listing began and not deleted before it ended' is shown), so pages weaken nothing but one case:
an object *replaced* while it is listed, as a lease is by its renewal; `test_lease.py` is about that one.

Crashes need no moves of their own. A killed process is one that never moves again, and each state is judged by every
law, so a death after each step is explored with it; the law of cleaning kills everybody in each state first. A process
that is stopped past its lease and resumes is any order of the clock's move and its next one. A lost acknowledgement
is a create that happens and leaves its actor where it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol

from tests.model.world import World

Mind = Hashable
Move = tuple[str, World, Mind]
Law = Callable[[World], str | None]
State = tuple[World, tuple[Mind, ...]]


class Actor(Protocol):
    """One process. It is stateless: what it knows is its mind, a value that starts as `start`."""

    @property
    def name(self) -> str: ...

    @property
    def start(self) -> Mind: ...

    def moves(self, mind: Mind, world: World) -> Sequence[Move]:
        """All that it may do next: a label, the world after it, and what it knows then."""
        ...


@dataclass(frozen=True, slots=True)
class Outcome:
    """`broken` is None when every state kept every law; else `trace` is a shortest way to the one that did not."""

    states: int
    complete: bool
    broken: str | None
    trace: tuple[str, ...]

    def __str__(self) -> str:
        lines = [f"{number:3}. {step}" for number, step in enumerate(self.trace, 1)]
        verdict = self.broken or ("all laws hold" if self.complete else "no law broken within the bound")
        return "\n".join([*lines, f"  => {verdict} ({self.states} states)"])


class TooMany(Exception):
    """The history has more states than its bound."""


def explore(world: World, actors: Sequence[Actor], laws: Sequence[Law], bound: int) -> Outcome:
    """Breadth first, so a counterexample is a shortest one. Worlds are judged once, states visited once."""
    first: State = (world, tuple(actor.start for actor in actors))
    came: dict[State, tuple[State, str] | None] = {first: None}
    judged: set[World] = set()
    queue = deque([first])
    while queue:
        state = queue.popleft()
        if state[0] not in judged:
            judged.add(state[0])
            for law in laws:
                if (broken := law(state[0])) is not None:
                    return Outcome(len(came), False, broken, _way(came, state))
        for label, successor in _successors(state, actors):
            if successor not in came:
                came[successor] = (state, label)
                queue.append(successor)
        if len(came) > bound:
            return Outcome(len(came), False, None, ())
    return Outcome(len(came), True, None, ())


def _never(mind: Mind) -> bool:
    return False


def alone(world: World, actor: Actor, limit: int = 500, dies: Callable[[Mind], bool] = _never) -> World:
    """The world after `actor` ran by itself, with its first move at each step, to its end or until it `dies`."""
    mind = actor.start
    for _ in range(limit):
        moves = actor.moves(mind, world)
        if not moves or dies(mind):
            return world
        _, world, mind = moves[0]
    raise TooMany(actor.name)


def _successors(state: State, actors: Sequence[Actor]) -> list[tuple[str, State]]:
    world, minds = state
    found = []
    for index, actor in enumerate(actors):
        for label, after, mind in actor.moves(minds[index], world):
            found.append((f"{actor.name}: {label}", (after, (*minds[:index], mind, *minds[index + 1 :]))))
    return found


def _way(came: dict[State, tuple[State, str] | None], state: State) -> tuple[str, ...]:
    steps: list[str] = []
    before = came[state]
    while before is not None:
        steps.append(before[1])
        before = came[before[0]]
    return tuple(reversed(steps))
