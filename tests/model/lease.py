"""A lease renewed while its prefix is listed name by name, as a folder or a paged listing is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from tests.model.explorer import Mind, Move
from tests.model.world import Thing, World, names


@dataclass(frozen=True)
class Renewer:
    """Creates the next epoch, then deletes the one `behind` places before it."""

    renewals: int
    behind: int
    name: str = "W"
    start: Mind = (1, "create")

    def moves(self, mind: Mind, world: World) -> Sequence[Move]:
        epoch, step = cast("tuple[int, str]", mind)
        if step == "create":
            if epoch == self.renewals:
                return []
            after = world.put(0, Thing("lease", str(epoch + 1)))
            return [(f"creates epoch {epoch + 1}", after, (epoch + 1, "delete"))]
        old = Thing("lease", str(epoch - self.behind))
        return [(f"deletes epoch {old.name}", world.drop(0, old), (epoch, "create"))]


@dataclass(frozen=True)
class Lister:
    """Reads the places of a listing one by one, in `order`; what it has not met at the end, it takes for absent."""

    order: tuple[str, ...]
    name: str = "E"
    start: Mind = 0

    def moves(self, mind: Mind, world: World) -> Sequence[Move]:
        place = cast(int, mind)
        if place < 0:
            return []
        if place == len(self.order):
            return [("has met no lease", world.note("missed"), -1)]
        epoch = self.order[place]
        met = epoch in names(world.targets[0], "lease")
        return [(f"reads the place of epoch {epoch}: {'there' if met else 'nothing'}", world, -1 if met else place + 1)]


def never_missed(world: World) -> str | None:
    """A lease that is renewed in time is in every listing."""
    return "a live lease is in no place of the listing" if "missed" in world.ghosts else None
