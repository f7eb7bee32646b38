"""What killed drills left: folders, servers that run from them, and the schema in the cluster that one wrote to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from drills.sandbox import tidy
from drills.source import Source
from drkit.core.clock import Clock
from drkit.core.errors import DrkitError


@dataclass(frozen=True, slots=True)
class Removed:
    """processes: how many were ended · schema_left: why its schema is still in the cluster, "" where none is."""

    folder: Path
    drill: str
    cluster: str
    processes: int
    schema_left: str = ""

    @property
    def text(self) -> str:
        return f"a drill was killed: its sandbox {self.folder} and {self.processes} processes of it are removed"


def remove_remains(staging: Path, sources: Mapping[str, Source], clock: Clock) -> Iterator[Removed]:
    """Remove them one by one; what belongs to drills that live stays. sources: by cluster, of those known here; the
    schema of any other is left to who knows it.

    Raises Failed where a folder or a process cannot be removed.
    """
    for left in tidy(staging, clock):
        marker, why = left.marker, ""
        source = sources.get(marker.cluster)
        if marker.ledger and source is not None:
            try:
                source.release()
            except DrkitError as error:
                why = str(error)
        yield Removed(left.folder, marker.drill, marker.cluster, left.processes, why)
