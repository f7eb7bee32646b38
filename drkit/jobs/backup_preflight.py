"""What must hold before a backup begins, and which backup it builds on."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

from drkit.core.errors import Refused
from drkit.engines.postgres.control import ControlFile
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.session import ServerFacts
from drkit.engines.postgres.timeline import Timeline
from drkit.jobs.check_places import overlaps, server_folders
from drkit.repository.catalogue import Backup, Catalogue
from drkit.repository.target import Target


def data_folder(configured: Path | None, facts: ServerFacts) -> Path:
    """The data folder to read; raises Refused where nobody names it or the two do not agree."""
    folder = configured or facts.data_directory
    if folder is None:
        raise Refused(
            "the data folder is not known",
            why="the configuration does not name it, and the server hides it from this role",
            cure="set data_dir in the configuration, or: grant pg_read_all_settings to the role",
        )
    return folder


def check_source(folder: Path, facts: ServerFacts, control: ControlFile) -> None:
    """Raises Refused unless this folder is this server's, and the server archives its WAL."""
    if control.system_identifier != facts.system_identifier:
        raise Refused(
            "the data folder belongs to another cluster than the connection",
            where=str(folder),
            why=f"system identifier {control.system_identifier} there, {facts.system_identifier} on the server",
            cure="do data_dir and connection name the same cluster?",
        )
    if not facts.may_backup:
        raise Refused(
            f"role {facts.user} may not take backups",
            cure=f"grant execute on function {facts.facts.start_function}, {facts.facts.stop_function} to {facts.user}",
        )
    problems = archiving_problems(facts)
    if problems:
        raise Refused(
            "the server does not archive its WAL, so no backup could be completed",
            why="; ".join(why for why, _ in problems),
            cure="; ".join(cure for _, cure in problems),
        )


def refuse_overlap(folder: Path, targets: Sequence[Target]) -> None:
    """Raises Refused where a target lies in the server's folders or around them: a backup would hold backups."""
    found = overlaps(targets, server_folders(folder))
    if found:
        raise Refused(
            "a target shares its place with another target or with the server",
            where=", ".join(sorted({one.target for one in found})),
            why="; ".join(one.text for one in found),
            cure="give each target a place of its own in the configuration, then: drkit init",
        )


def archiving_problems(facts: ServerFacts) -> list[tuple[str, str]]:
    """(what is wrong, the statement that cures it) for each setting that keeps WAL from being archived.

    A standby's own settings prove nothing: its primary archives. The backup waits for the WAL wherever it comes from.
    """
    if facts.in_recovery:
        return []
    found: list[tuple[str, str]] = []
    if facts.wal_level == "minimal":
        found.append(("wal_level is minimal", "alter system set wal_level = 'replica'  -- then restart"))
    if facts.archive_mode == "off":
        cure = "alter system set archive_mode = 'on'  -- then restart"
        found.append((f"archive_mode is {facts.archive_mode}", cure))
    if not facts.archive_library and facts.archive_command in ("", "(disabled)"):
        cure = "alter system set archive_command = 'drkit-wal push %p'  -- then: select pg_reload_conf()"
        found.append(("archive_command is not set", cure))
    return found


def choose_parent(catalogue: Catalogue, targets: Collection[str], timeline: Timeline) -> Backup | None:
    """The backup to build on: the newest that is good on every target of the run, else the newest good on any.

    It must lie on the cluster's own ancestry. Preferring one that all targets have makes this backup whole on all.
    """
    fitting = [b for b in catalogue.backups if timeline.holds(b.summary.timeline, Lsn.parse(b.summary.stop_lsn))]
    everywhere = [b for b in fitting if set(targets) <= set(b.good_on)]
    candidates = everywhere or [b for b in fitting if set(targets) & set(b.good_on)]
    return max(candidates, key=lambda b: Lsn.parse(b.summary.stop_lsn), default=None)
