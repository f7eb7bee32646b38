"""What a backup stores again although it has not changed, because too little of what holds it is still in use.

Decided by `policies.compaction` from the manifest and the maps of the backup that is built on. What is chosen is read
from the live data folder, never from the repository.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from drkit.core.cancel import CancelToken
from drkit.jobs.backup_usage import Stored, Usage
from drkit.pipeline.mapping import Map, Marked
from drkit.pipeline.usage import used_extents, useful
from drkit.repository.layout import Kind, RunId
from drkit.repository.manifest import Manifest
from policies.compaction import Frames, Limits, Packs, Totals, choose, choose_maps, is_thin

Numbers = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Again:
    """frames: numbers of the frames to be stored again, by pack · maps: ids of maps whose extents get new ones

    sealed_bytes: what that sends, nearly. Nothing chosen: empty.
    """

    frames: Mapping[bytes, Numbers] = field(default_factory=dict)
    maps: frozenset[bytes] = frozenset()
    sealed_bytes: int = 0

    def __bool__(self) -> bool:
        return bool(self.frames or self.maps)

    def marks(self, table: Map) -> Marked:
        """For each frame of a map whether it is chosen; empty where none is."""
        found = np.zeros(len(table.frames), dtype=np.bool_)
        if self.frames:
            for index, pack_id in enumerate(table.packs["id"].tolist()):
                numbers = self.frames.get(pack_id)
                if numbers is not None:
                    mine = np.flatnonzero(table.frames["pack"] == index)
                    found[mine] = np.isin(table.frames["number"][mine], numbers)
        return found if found.any() else found[:0]


NOTHING = Again()


def totals_of(manifest: Manifest) -> Totals:
    """From the references and the summary alone."""
    packs = [r for r in manifest.references if r.kind == Kind.PACK]
    maps = sum(r.size for r in manifest.references if r.kind == Kind.MAP)
    return Totals(
        useful=manifest.summary.useful_bytes,
        fetch=sum(r.live for r in packs) + maps,
        store=manifest.summary.stored_bytes,
        runs=len({RunId.of_object(r.name) for r in packs}),
    )


def plan_again(manifest: Manifest, load: Callable[[bytes], Map], limits: Limits, token: CancelToken) -> Again:
    """What the next backup stores again. Reads each map once, and none where the sums show nothing thin.

    Memory: `pipeline.usage`. Raises what `load` raises, Cancelled.
    """
    if not is_thin(totals_of(manifest), limits):
        return NOTHING
    usage = Usage(manifest.head.chunk_bytes)
    placements = ((manifest.maps[m], extent) for entry in manifest.entries for m, extent in entry.extents)
    for map_id, extents in used_extents(placements).items():
        token.check()
        usage.use(map_id, load(map_id), extents)
    stored = {(r.kind, r.name): Stored(r.size, r.digest) for r in manifest.references}
    return decide_again(usage, stored, limits)


def decide_again(usage: Usage, stored: Mapping[tuple[int, bytes], Stored], limits: Limits) -> Again:
    """Facts to positions, and the choice back to names. stored: size of every pack and map used."""
    rows, ids = usage.frames(), usage.packs
    at, numbers = rows["pack"].astype(np.int64), rows["number"]
    worth = useful(rows)
    runs: dict[bytes, int] = {}
    packs = Packs(
        np.array([stored[(Kind.PACK, pack)].size_bytes for pack in ids], dtype=np.float64),
        np.array([runs.setdefault(pack[:12], len(runs)) for pack in ids], dtype=np.int64),
    )
    chosen = choose(Frames(at, rows["sealed"].astype(np.float64), worth), packs, limits)
    picked = np.flatnonzero(chosen)
    picked = picked[np.argsort(at[picked], kind="stable")]
    cuts = np.flatnonzero(np.diff(at[picked])) + 1
    frames = {ids[int(at[part[0]])]: numbers[part] for part in np.split(picked, cuts) if len(part)}
    size = np.array([stored[(Kind.MAP, map_id)].size_bytes for map_id in usage.maps], dtype=np.float64)
    share = np.array([use.extents / use.total for use in usage.maps.values()], dtype=np.float64)
    renewed = choose_maps(size, size * share, float(worth.sum()), limits)
    maps = frozenset(map_id for map_id, one in zip(usage.maps, renewed.tolist(), strict=True) if one)
    return Again(frames, maps, int(worth[picked].sum()))
