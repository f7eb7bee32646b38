"""What brings back what a target lacks: the command that does it, by who else has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from policies.sights import BackupFault, GapSeen, Lack

LOOK = "`drkit check` tries it"
_PUSH = "`drkit wal push` brings it back, from pg_wal or from any copy"


def of_fault(fault: BackupFault, target: str) -> str:
    """Of a backup that a target does not have whole."""
    if fault.manifest:
        verdict = fault.manifest.replace("/manifests/", "/verdicts/")
        cure = f"put {fault.manifest} back from any copy; where none is left: `drkit backup`, then delete {verdict}"
        return f"{cure} on {target} by hand, and its data goes"
    if not fault.damaged:
        return f"`drkit replicate` completes it from {fault.elsewhere}" if fault.elsewhere else ""
    if fault.elsewhere:
        return repair(target, fault.elsewhere)
    return "`drkit verify` names what is lost; `drkit backup` makes a whole one"


def of_gap(gap: GapSeen, target: str) -> str:
    """Of WAL that is missing or damaged in between."""
    if gap.elsewhere:
        return repair(target, gap.elsewhere)
    return _PUSH if gap.bridge else f"{_PUSH}; `drkit backup` begins anew"


def of_lack(lack: Lack, target: str) -> str:
    """Of WAL at the end."""
    if lack.since is None:
        return f"{_PUSH}; else `drkit backup` begins anew"
    return repair(target) if lack.damaged else "`drkit replicate` brings it from another target"


def repair(target: str, source: str = "another target") -> str:
    return f"`drkit verify --repair --target {target}` brings it from {source}"
