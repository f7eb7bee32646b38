"""One restored server a major and module, and databases of its own for tests that change rows."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest

from drills.checks.api import Reference, Scene
from drills.checks.reference import Limits, record
from drkit.core.cancel import CancelToken
from tests.drills.checks.world import DATABASE, Connect, Copied, World, build
from tests.real.postgres import MAJORS, Server, require


@pytest.fixture(scope="package", params=MAJORS, ids=lambda major: f"pg{major}")
def world(request: pytest.FixtureRequest) -> Iterator[World]:
    major: int = request.param
    require(major)
    made = build(major)
    yield made
    made.close()


@pytest.fixture
def copied(world: World) -> Iterator[Copied]:
    """A server with the restored one's files, which the test may spoil, and its scene."""
    made = world.copy()
    yield made
    made[0].close()


@dataclass(frozen=True)
class Fresh:
    """An empty database of the restored server."""

    server: Server
    name: str = "fresh"

    def run(self, *statements: str) -> None:
        with self.server.connect(self.name) as session:
            for sql in statements:
                session.execute(sql)

    def taken(self, limits: Limits | None = None) -> Reference:
        return record(Connect(self.server), self.name, CancelToken(), limits=limits)


@pytest.fixture
def fresh(world: World) -> Iterator[Fresh]:
    made = Fresh(world.restored)
    made.server.query(f"create database {made.name}")
    yield made
    made.server.query(f"drop database {made.name} with (force)")


@pytest.fixture
def case(world: World) -> Iterator[Scene]:
    """The scene on a copy of the restored database, which the test may spoil."""
    server = world.restored
    server.query(f"create database spoilt template {DATABASE}")
    reference = world.scene.reference
    settings = {name: value for name, value in reference.settings.items() if not name.startswith("alter database")}
    yield replace(world.scene, reference=replace(reference, database="spoilt", settings=settings, others=()))
    server.query("drop database spoilt with (force)")
