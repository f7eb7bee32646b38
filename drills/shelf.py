"""Where reports go, and come from: chained to the one before, made into files, kept on every target."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from drills.report.forms import forms
from drills.report.json_form import from_text
from drills.report.model import DrillReport
from drkit.core.errors import DrkitError
from drkit.core.units import parse_time
from drkit.crypto.keys import Entropy
from drkit.repository.reports import JSON_FILE, Kept, Note, ReportHead, Told, keep, newest_first, read
from drkit.repository.repository import Repository
from storage_backends.errors import StorageError


@dataclass(frozen=True, slots=True)
class Shelved:
    """report: with the digest of the one before in it · files: by name, as they are stored · kept: where."""

    report: DrillReport
    files: Mapping[str, str]
    kept: Kept


def shelve(repository: Repository, report: DrillReport, *, entropy: Entropy) -> Shelved:
    """Chain, render and store a report; durable on the targets that `kept` names.

    A target that fails is in `kept.lacking`, and all of them may be: the files are given back in any case. The
    repository must be one that may write below `reports/`, not the one that the drill restored from. Raises
    UsageError where the report's id is not of the form of a backup's.
    """
    chained = replace(report, before=newest(repository, report.system_identifier))
    files = forms(chained)
    note = Note(
        id=chained.id,
        system_identifier=chained.system_identifier,
        at=parse_time(chained.ended_at),
        drill=chained.drill,
        scenario=chained.scenario,
        cluster=chained.cluster,
        verdict=chained.verdict.value,
        before=chained.before,
    )
    return Shelved(chained, files, keep(repository, note, files, entropy=entropy))


def newest(repository: Repository, system_identifier: int) -> str:
    """The digest of the newest report, "" where there is none that can be read."""
    try:
        head = next(newest_first(repository, system_identifier), None)
    except (StorageError, DrkitError):
        return ""  # no target answers; `keep` says so of each
    return "" if head is None else head.digest


def load(repository: Repository, head: ReportHead, told: Told) -> tuple[DrillReport, dict[str, str]]:
    """A stored report and its files, verified. Raises Damage, Missing, Unreachable."""
    files = read(repository, head, told=told)
    return from_text(files[JSON_FILE]), files
