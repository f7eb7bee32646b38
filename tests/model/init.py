"""Section 4 as a model: two hosts that initialise the same targets at once, each killed anywhere.

Identities are the names of the runs that drew them. The laws: no target is bound to a run other than the one that the
first target is bound to, unless an operator sees an error; whoever reports success reports the same identity; and a
descriptor never stands without a slot that opens it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, cast

from tests.model.explorer import Mind, Move
from tests.model.world import Thing, World, things


@dataclass(frozen=True, slots=True)
class InitRules:
    """The rules of `init`; a test switches one off to see it matter."""

    slot_first: bool = True
    conditional: bool = True
    surveys_all: bool = True


class InitMind(NamedTuple):
    """Where an init is: the target it works on, the identity that it holds, the next step."""

    at: str = "survey"
    place: int = 0
    identity: str = ""


@dataclass(frozen=True)
class Init:
    """`init` of one host over `order`, the numbers of the targets in the order in which this host takes them."""

    name: str
    rules: InitRules
    order: tuple[int, ...] = (0, 1)

    @property
    def start(self) -> Mind:
        return InitMind(at="survey" if self.rules.surveys_all else "look", identity=self.name)

    def moves(self, mind: Mind, world: World) -> Sequence[Move]:
        known = cast(InitMind, mind)
        if known.at in ("done", "conflict"):
            return []
        return [cast(Move, getattr(self, f"_{known.at}")(known, world))]

    def _survey(self, mind: InitMind, world: World) -> Move:
        """Looks for a descriptor on every target before it writes: one that is found is joined."""
        found = {thing.name for held in world.targets for thing in things(held, "descriptor")}
        if len(found) > 1:
            return "finds two identities: conflict", world, mind._replace(at="conflict")
        identity = next(iter(found), self.name)
        return f"surveys all targets, holds {identity}", world, mind._replace(at="look", identity=identity)

    def _look(self, mind: InitMind, world: World) -> Move:
        found = self._descriptor(mind, world)
        if found is None:
            first = "slot" if self.rules.slot_first else "bind"
            return f"finds target {self._target(mind)} empty", world, mind._replace(at=first)
        return self._meet(found, mind, world)

    def _slot(self, mind: InitMind, world: World) -> Move:
        after = world.put(self._target(mind), Thing("slot", mind.identity))
        then = mind._replace(at="bind") if self.rules.slot_first else self._next(mind)
        return f"creates a slot of {mind.identity} on {self._target(mind)}", after, then

    def _bind(self, mind: InitMind, world: World) -> Move:
        """Creates the descriptor; the store decides between two."""
        target, own = self._target(mind), Thing("descriptor", mind.identity)
        found = self._descriptor(mind, world)
        if found is not None and self.rules.conditional:
            return self._meet(found, mind, world)
        after = world.drop(target, *things(world.targets[target], "descriptor")).put(target, own)
        then = self._next(mind) if self.rules.slot_first else mind._replace(at="slot")
        return f"creates the descriptor of {mind.identity} on {target}", after, then

    def _meet(self, found: str, mind: InitMind, world: World) -> Move:
        if found == mind.identity:
            return f"finds {found} on {self._target(mind)}", world, self._next(mind)
        if mind.place > 0:
            return f"meets {found} on {self._target(mind)}: conflict", world, mind._replace(at="conflict")
        return f"adopts {found}", world, self._next(mind._replace(identity=found))

    def _next(self, mind: InitMind) -> InitMind:
        if mind.place + 1 == len(self.order):
            return mind._replace(at="report")
        return mind._replace(at="look", place=mind.place + 1)

    def _report(self, mind: InitMind, world: World) -> Move:
        return f"reports {mind.identity}", world.note(f"reported {mind.identity}"), mind._replace(at="done")

    def _target(self, mind: InitMind) -> int:
        return self.order[mind.place]

    def _descriptor(self, mind: InitMind, world: World) -> str | None:
        found = things(world.targets[self._target(mind)], "descriptor")
        return next((thing.name for thing in found), None)


def one_identity(world: World) -> str | None:
    """All descriptors, on all targets, and all reports name one identity."""
    bound = {thing.name for held in world.targets for thing in things(held, "descriptor")}
    told = {ghost.partition(" ")[2] for ghost in world.ghosts}
    return f"(g) two identities: {sorted(bound)}, reported {sorted(told)}" if len(bound | told) > 1 else None


def opens(world: World) -> str | None:
    """Where a descriptor is, a slot that opens it is too."""
    for at, held in enumerate(world.targets):
        for descriptor in things(held, "descriptor"):
            if Thing("slot", descriptor.name) not in held:
                return f"(g) nothing opens {descriptor.name} on {at}"
    return None


def honest(world: World) -> str | None:
    """Nobody reports success while the targets are bound to two identities."""
    return one_identity(world) if world.ghosts else None
