"""Leases as expiry sees them: who may still rely on what, and whether its term has run out by the target's clock."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from drkit.core.errors import Damage
from drkit.crypto.container import Json, open_object
from drkit.crypto.keys import Ring
from drkit.repository.layout import ClusterLayout, Kind
from drkit.repository.target import Target
from storage_backends.api import Key, ObjectInfo
from storage_backends.errors import NotFound

_ATTEMPTS = 5
EXPIRE = "expire"
"""The job of an expirer's own lease: it protects nothing, it tells `hold add` that somebody decides just now."""


@dataclass(frozen=True, slots=True)
class Fence:
    """A lease on one target. keys: of its epochs there · run: "" where it has none · via: runs it may adopt through.

    stored_at: when the newest epoch was stored, by the target's clock · rounds: of an expirer, the names of its rounds.
    """

    lease: str
    job: str
    run: str
    via: frozenset[str]
    host: str
    stored_at: datetime
    lasts_s: int
    keys: tuple[Key, ...]
    rounds: str = ""

    def live(self, now: datetime) -> bool:
        """now: by the target's clock."""
        return now < self.stored_at + timedelta(seconds=self.lasts_s)

    @property
    def names(self) -> frozenset[str]:
        """Runs whose objects it protects."""
        return self.via | ({self.run} if self.run else set())


def read_fences(target: Target, layout: ClusterLayout, ring: Ring) -> list[Fence]:
    """Every lease, also those that ran out. Raises Damage where one does not open: it may rely on anything.

    One whose newest epoch vanishes before it was read was renewed or released: it is listed again.
    """
    folder = layout.folder("leases")
    epochs: dict[str, list[ObjectInfo]] = {}
    for info in target.backend.list(folder):
        epochs.setdefault(info.key.removeprefix(folder).rpartition("-")[0], []).append(info)
    found = []
    for lease, infos in epochs.items():
        one = _read(target, ring, lease, infos, f"{folder}{lease}-")
        if one is not None:
            found.append(one)
    return found


def _read(target: Target, ring: Ring, lease: str, infos: Sequence[ObjectInfo], prefix: str) -> Fence | None:
    for _ in range(_ATTEMPTS):
        if not infos:
            return None
        newest = max(infos, key=lambda info: info.key)
        try:
            value = open_object(ring, target.read(newest.key), kind=Kind.LEASE, name=newest.key).json
        except NotFound:
            infos = list(target.backend.list(prefix))
            continue
        except Damage as error:
            cure = f"does a job still run? if none does, on no host, delete {newest.key} by hand"
            raise Damage("a lease does not open", where=target.where, why=str(error), cure=cure) from error
        return _fence(value, lease, infos, target)
    raise Damage("a lease changes faster than it can be read", where=f"{target.where}: {prefix}")


def _fence(value: Json, lease: str, infos: Sequence[ObjectInfo], target: Target) -> Fence:
    via = value.get("via")
    try:
        if not isinstance(via, list):
            raise ValueError("via is no list")
        lasts_s = int(str(value["lasts_s"]))
    except (KeyError, ValueError) as error:
        raise Damage("a lease is not as the format says", where=target.where, why=str(error)) from error
    return Fence(
        lease=lease,
        job=str(value.get("job") or ""),
        run=str(value.get("run") or ""),
        via=frozenset(str(run) for run in via),
        host=str(value.get("host") or ""),
        stored_at=max(info.modified_at for info in infos),
        lasts_s=lasts_s,
        keys=tuple(sorted(info.key for info in infos)),
        rounds=str(value.get("rounds") or ""),
    )
