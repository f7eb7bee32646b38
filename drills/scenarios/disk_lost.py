"""D03 and D09: the server is lost, with its disk or with its whole site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from drills.ledger import Moment
from drills.report.model import CheckResult, Probe
from drills.scenarios.api import Ground, Struck, snapshot
from drills.source import destroy, kill_server
from drills.stage import Hidden, Recovery
from drkit.core.cancel import CancelToken

SIMULATED = "the server was not really lost: what it archived after the disaster was hidden from the recovery"


@dataclass(frozen=True, slots=True)
class DiskLost:
    """Really, where the cluster may be sacrificed: SIGKILL, data folder deleted. Else simulated: from T0 on nothing of
    the server is read, and the recovery sees the targets as they were then."""

    ident: str = "D03"
    finds_its_point: bool = False

    def strike(self, ground: Ground) -> Struck:
        ground.go_on(ground.load_s)
        opening = f"Lost the disk of {ground.cluster}."
        if ground.data_dir is not None:
            moment = kill_server(ground.data_dir, ground.clock)
            destroy(ground.data_dir)
            proof = (
                Probe("the server is gone", True, f"killed in {moment.done_s - moment.begun_s:.2f} s"),
                Probe("its data folder is gone", not ground.data_dir.exists(), str(ground.data_dir)),
            )
            text = f"SIGKILL to the server on {ground.data_dir}, and the folder deleted"
            return Struck(moment, opening, text, moment, proof)
        return simulated(ground, opening, "the disk")

    def aftermath(self, ground: Ground, struck: Struck) -> Struck:
        return struck

    def examine(
        self, recovery: Recovery, struck: Struck, token: CancelToken
    ) -> tuple[Sequence[Probe], Sequence[CheckResult]]:
        return (), ()


@dataclass(frozen=True, slots=True)
class RegionLoss:
    """The site of the server and every target there: not even opened; the recovery has the catalogue and the key."""

    ident: str = "D09"
    finds_its_point: bool = False

    def strike(self, ground: Ground) -> Struck:
        ground.go_on(ground.load_s)
        sites = ", ".join(ground.denied_sites) or ground.site
        there = ", ".join(ground.denied) or "no target"
        return simulated(ground, f"Lost site {sites}.", f"site {sites} with {there}")

    def aftermath(self, ground: Ground, struck: Struck) -> Struck:
        return struck

    def examine(
        self, recovery: Recovery, struck: Struck, token: CancelToken
    ) -> tuple[Sequence[Probe], Sequence[CheckResult]]:
        """That no handle on a denied target exists, in this process or in the recovery's configuration."""
        opened = {target.name for target in recovery.means.repository.targets}
        beyond = sorted(opened - recovery.names)
        text = f"opened are {', '.join(sorted(opened))}"
        return (Probe("no target of the lost site is opened", not beyond, text),), ()


def simulated(ground: Ground, opening: str, lost: str) -> Struck:
    """The targets as they are now are all that is left. What is archived while they are listed counts as lost."""
    hidden = snapshot(ground)
    now_s = ground.clock.monotonic()
    moment = Moment(now_s, now_s)
    text = f"simulated: {lost} is taken for lost; the recovery reads nothing of the server, nor what came later"
    return Struck(moment, opening, text, moment, (_sees_nothing_new(ground, hidden),), hidden, untested=(SIMULATED,))


def _sees_nothing_new(ground: Ground, hidden: Hidden) -> Probe:
    """Proof of a simulated loss: a WAL file that comes next would not be seen."""
    layout = ground.layout
    key = layout.wal(f"{ground.server.timeline:08X}FFFFFFFF000000FF")
    names = [target.name for target in ground.outside.repository.targets]
    blind = all(hidden(name, key) for name in names)
    return Probe("the recovery sees nothing that came after the disaster", blind, f"on {', '.join(names)}")
