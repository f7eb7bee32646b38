"""What a scenario is: how the disaster is made and proven, and what point is restored after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from drills.ledger import Moment
from drills.report.model import CheckResult, Probe
from drills.source import Source
from drills.stage import Hidden, Recovery
from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import Failed
from drkit.engines.postgres.session import ServerFacts
from drkit.jobs.means import Means
from drkit.jobs.restore_points import Wish
from drkit.repository.catalogue import Catalogue
from drkit.repository.layout import ClusterLayout
from storage_backends.api import Key
from storage_backends.errors import NotFound

_POLL_S = 0.1


@dataclass(frozen=True, slots=True)
class Ground:
    """The world before the disaster.

    outside: handles that only read, on the targets that the recovery may use · denied: the others
    load_s: how long the load goes on before the fault
    data_dir: set where the server may really be destroyed
    """

    cluster: str
    site: str
    source: Source
    server: ServerFacts
    outside: Means
    catalogue: Catalogue
    denied: tuple[str, ...]
    denied_sites: tuple[str, ...]
    data_dir: Path | None
    load_s: float
    clock: Clock
    token: CancelToken

    @property
    def layout(self) -> ClusterLayout:
        return ClusterLayout(self.server.system_identifier)

    def go_on(self, seconds: float) -> None:
        """Let the load run. Raises Cancelled."""
        self.token.wait(seconds)
        self.token.check()

    def is_stored(self, key: Key) -> str:
        """The first target that has an object, "" for none. Raises StorageError."""
        for target in self.outside.repository.targets:
            try:
                target.backend.stat(key)
                return target.name
            except NotFound:
                continue
        return ""

    def until_archived(self, file: str) -> str:
        """Wait until a WAL file is on a target; which. Raises Failed where the deadline passes first."""
        while True:
            name = self.is_stored(self.layout.wal(file))
            if name:
                return name
            if self.token.wait(_POLL_S):
                why = f"{self.source.archiver()[2]}; {self.token.reason}"
                cure = "what does the server's log say of archive_command?"
                raise Failed(f"WAL file {file} does not get to any target", why=why, cure=cure)


@dataclass(frozen=True, slots=True)
class Struck:
    """The disaster as it was made. T0 is the begin of `moment`.

    opening: in a sentence, for the verdict · text: how it was made · until: what the ledger's rows are judged by
    hidden: what the recovery must not see · wish: the scenario's own point, None: the definition's selector decides
    stopped_for: words of the server's log about where recovery stops, "" for the end of WAL, None: as the point says
    untested: what this way of making it does not show
    """

    moment: Moment
    opening: str
    text: str
    until: Moment
    proof: tuple[Probe, ...]
    hidden: Hidden | None = None
    wish: Wish | None = None
    stopped_for: str | None = None
    untested: tuple[str, ...] = ()


class Scenario(Protocol):
    """One disaster."""

    @property
    def ident(self) -> str:
        """D01, D03, ..."""
        ...

    @property
    def finds_its_point(self) -> bool:
        """Whether it restores to a point of its own, whatever the definition's selector says."""
        ...

    def strike(self, ground: Ground) -> Struck:
        """Make the disaster and prove it; returns at once after it. Raises what kept it from being made."""
        ...

    def aftermath(self, ground: Ground, struck: Struck) -> Struck:
        """What passes until the recovery can begin, on T0's clock. Raises what keeps it from ever beginning."""
        ...

    def examine(
        self, recovery: Recovery, struck: Struck, token: CancelToken
    ) -> tuple[Sequence[Probe], Sequence[CheckResult]]:
        """Further proof, and what is to be seen in planning; after the recovery, off its clocks."""
        ...


def snapshot(ground: Ground) -> Hidden:
    """What is on the targets now: WAL, history files and manifests that come later are hidden from the recovery.

    WAL from before the newest backup is not listed: it was there. Raises StorageError.
    """
    layout = ground.layout
    begin = str(layout.wal(ground.catalogue.backups[-1].summary.start_wal)) if ground.catalogue.backups else ""
    folders = (layout.folder("wal"), layout.folder("history"), layout.folder("manifests"))
    there: dict[str, set[str]] = {}
    for target in ground.outside.repository.targets:
        after = (begin, "", "")
        there[target.name] = {
            info.key
            for folder, start in zip(folders, after, strict=True)
            for info in target.backend.list(folder, start)
        }

    def hidden(target: str, key: str) -> bool:
        if not key.startswith(folders) or (key.startswith(folders[0]) and key <= begin):
            return False
        return key not in there.get(target, set())

    return hidden
