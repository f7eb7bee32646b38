"""The daemon's schedule from a configuration: part of the composition root, imported by `drkit daemon` alone."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from drkit.cli.verbs import jobs
from drkit.config.model import Config
from drkit.core.clock import Clock
from drkit.core.log import Log
from drkit.daemon.agenda import Agenda
from drkit.daemon.api import Telling
from drkit.daemon.children import GRACE_S, Children
from drkit.daemon.claims import Claims
from drkit.daemon.duties import duties, refuse_impossible
from drkit.daemon.evidence import CatalogueEvidence
from drkit.daemon.runs import Runs
from drkit.daemon.schedule import LOOK_S, Orphans, Scheduler
from drkit.daemon.supervisor import hide
from drkit.daemon.told import Told


def command(config: Path) -> tuple[str, ...]:
    """What a job's words stand behind: this program, as a person would run it, answering in JSON."""
    return (sys.executable, "-P", "-m", "drkit.cli.app", "--config", str(config), "--json", "--quiet")


def children(
    path: Path, environment: Mapping[str, str], clock: Clock, log: Log, *, grace_s: float = GRACE_S
) -> Children:
    """What runs commands of ours for the daemon."""
    return Children(command(path), hide(environment), clock, partial(_told, log, clock), grace_s)


def scheduler(
    config: Config,
    path: Path,
    environment: Mapping[str, str],
    clock: Clock,
    log: Log,
    telling: Telling,
    *,
    look_s: float = LOOK_S,
    grace_s: float = GRACE_S,
) -> Scheduler:
    """The schedule's Part. path: of the configuration, absolute. Raises ConfigError where the schedule asks for what
    this version cannot do."""
    refuse_impossible(config, jobs(), path)
    wanted, folder = duties(config), config.daemon.spool / "runs"
    runner = children(path, environment, clock, log, grace_s=grace_s)
    runner = replace(runner, nice=config.daemon.nice, io=config.daemon.io)
    claims = Claims(folder / "locks")
    orphans = Orphans(claims, clock, log, grace_s=grace_s)
    agenda = Agenda(wanted, Runs(folder), clock, log, telling, slots=config.daemon.jobs, held=orphans.held)
    evidence = CatalogueEvidence(
        runner, (duty.job for duty in wanted), (duty.cluster for duty in wanted), os.uname().nodename, clock
    )
    return Scheduler(agenda, evidence, runner, claims, clock, log, look_s=look_s)


def _told(log: Log, clock: Clock, name: str) -> Told:
    return Told(log, name, clock)
