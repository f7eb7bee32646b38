"""`drkit drill run`: a disaster, a recovery from what is left, and a verdict."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.context import of
from drkit.cli.exits import DONE, FAILED, PROMISE
from drkit.cli.restore import wal_program
from drkit.cli.wire import Wiring, open_wiring
from drkit.core.errors import DrkitError, Refused
from storage_backends.errors import StorageError

if TYPE_CHECKING:
    from drills.definition import Definition
    from drills.order import DrillMeans, DrillOrder
    from drills.report.model import DrillReport
    from drills.shelf import Shelved
    from drkit.config.model import Cluster
    from drkit.core.cancel import CancelToken
    from drkit.core.progress import Progress
    from drkit.crypto.slots import Secret
    from drkit.jobs.means import Means
    from drkit.jobs.rates import Rates
    from storage_backends.api import StorageBackend

EXITS: Mapping[str, int] = {"pass": DONE, "fail": PROMISE, "inconclusive": FAILED, "aborted": FAILED}
_Names = list[str] | None


def run(
    ctx: typer.Context,
    drill: Annotated[str, typer.Argument(metavar="NAME|FILE", help="as `drkit drill list` names it, or a file")],
    cluster: Annotated[str | None, typer.Argument(metavar="[CLUSTER]")] = None,
    point: Annotated[str | None, typer.Option("--point", metavar="P", help="the point to restore")] = None,
    deny_site: Annotated[_Names, typer.Option("--deny-site", metavar="S", help="take a site for lost")] = None,
    deny_target: Annotated[_Names, typer.Option("--deny-target", metavar="T", help="take a target for lost")] = None,
    allow_site: Annotated[_Names, typer.Option("--allow-site", metavar="S", help="read from this site only")] = None,
    ledger: Annotated[
        bool | None, typer.Option("--ledger/--no-ledger", help="whether the drill may write rows of its own")
    ] = None,
    keep: Annotated[Path | None, typer.Option("--keep", metavar="DIR", help="leave the restored files there")] = None,
    seed: Annotated[int | None, typer.Option("--seed", metavar="N", help="of what is chosen at random")] = None,
    report: Annotated[Path | None, typer.Option("--report", metavar="DIR", help="write the report there too")] = None,
) -> int:
    """Prove that it comes back: strike, restore into a sandbox, check every row, judge, and clean up.

    Exit 0 passed, 10 failed, 1 inconclusive or aborted. The report is stored on every target.
    """
    from drills.definition import find_definition
    from drills.runner import run_drill

    context = of(ctx)
    with open_wiring(context) as wiring:
        found = find_definition(drill, wiring.config)
        changed = {
            "point": point,
            "deny_sites": tuple(deny_site) if deny_site else None,
            "deny_targets": tuple(deny_target) if deny_target else None,
            "allow_sites": tuple(allow_site) if allow_site else None,
            "ledger": ledger,
        }
        found = _changed(found, {key: value for key, value in changed.items() if value is not None})
        name, config = wiring.cluster(cluster or found.drill.cluster)
        for folder in (keep, report):
            _must_be_new(folder, "--keep" if folder is keep else "--report")
        made = run_drill(order_of(wiring, found, name, config, seed, keep), means_of(wiring, found, name))
        shelved = _shelve(wiring, made, name)
        _tell(shelved, report, json=context.json)
        return EXITS[shelved.report.verdict.value]


def _changed(found: Definition, changes: Mapping[str, object]) -> Definition:
    """As the command line says. Raises UsageError where that makes no sense."""
    from drkit.core.errors import UsageError

    try:
        return replace(found, drill=found.drill.changed(changes))
    except ValueError as error:
        raise UsageError("these options do not go with this drill", why=str(error)) from None


def _must_be_new(folder: Path | None, flag: str) -> None:
    if folder is not None and flag == "--keep" and folder.exists():
        raise Refused(f"the folder of {flag} exists", where=str(folder), cure="name one that does not exist yet")
    if folder is not None and folder.exists() and not folder.is_dir():
        raise Refused(f"what {flag} names is not a folder", where=str(folder), cure="name a folder")


def staging_of(config: Cluster) -> Path:
    """Where sandboxes of a cluster are made."""
    return config.staging or Path(os.path.realpath(tempfile.gettempdir()))


def order_of(
    wiring: Wiring, found: Definition, name: str, config: Cluster, seed: int | None, keep: Path | None
) -> DrillOrder:
    from drills.definition import with_load
    from drills.order import DrillOrder
    from drkit.repository.layout import RunId

    return DrillOrder(
        id=RunId.new(wiring.clock.now(), os.urandom(4)),
        definition=with_load(found, config.objectives.rpo),
        cluster=name,
        config=config,
        seed=int.from_bytes(os.urandom(4), "big") if seed is None else seed,
        staging=staging_of(config),
        keep=None if keep is None else keep.absolute(),
    )


def means_of(wiring: Wiring, found: Definition, name: str) -> DrillMeans:
    from drills.checks.assertion import Assertion
    from drills.checks.registry import CHECKS, chosen
    from drills.order import DrillMeans
    from drills.scenarios.registry import SCENARIOS

    keys, drill = wiring.config.keys, found.drill
    own = [Assertion(one.name, one.sql, one.expected, one.database) for one in drill.assertion]
    secrets = (drill.key_file,) if drill.key_file else (keys.file, keys.passphrase_file)
    return DrillMeans(
        doors=Doors(wiring, name, drill.key_file),
        scenario=SCENARIOS[drill.scenario](),
        checks=chosen(list(CHECKS), own),
        drilled=lambda: _drilled(wiring, name),
        keep_rates=lambda rates: _keep_rates(wiring, rates),
        wal_program=wal_program(),
        secrets=tuple(path for path in secrets if path is not None),
        workers=wiring.config.backup.workers or os.cpu_count() or 1,
        clock=wiring.clock,
        entropy=os.urandom,
        token=wiring.token,
        progress=wiring.progress,
        log=wiring.log,
        version=_version(),
    )


@dataclass(frozen=True, slots=True)
class Doors:
    """`drills.stage.Doors` on a configuration. key_file: the escrowed key, None: the configured one."""

    wiring: Wiring
    cluster: str
    key_file: Path | None = None

    @property
    def sites(self) -> Mapping[str, str]:
        return {name: target.site for name, target in self.wiring.config.target.items()}

    def open(
        self,
        names: Collection[str],
        wrap: Callable[[str, StorageBackend], StorageBackend],
        state: Path,
        token: CancelToken,
        progress: Progress,
        *,
        escrowed: bool,
    ) -> Means:
        from drkit.jobs.means import Means
        from drkit.repository.pins import Pins
        from drkit.repository.repository import open_repository

        wiring = self.wiring
        opened, failed = wiring.targets(left_out=[name for name in wiring.config.target if name not in names])
        targets = [replace(one, backend=wrap(one.name, one.backend)) for one in opened]
        secret = self._escrowed() if escrowed and self.key_file else wiring.secret()
        found = open_repository(targets, failed, secret, Pins(state), entropy=os.urandom)
        for name, problem in found.absent.items():
            wiring.log.warn("target is not used", target=name, why=str(problem))
        return Means(found, wiring.clock, os.urandom, token, progress, wiring.log)

    def configuration(self, names: Collection[str], state: Path) -> str:
        from drkit.config.derive import recovery_config

        config = self.wiring.config
        return recovery_config(config, cluster=self.cluster, targets=names, state=state, key_file=self.key_file)

    def environment(self) -> Mapping[str, str]:
        from drkit.config.derive import recovery_environment

        return recovery_environment(dict(os.environ))

    def _escrowed(self) -> Secret:
        assert self.key_file is not None
        from drkit.config.secrets import read_key_file
        from drkit.crypto.slots import Secret

        return Secret("keyfile", read_key_file(self.key_file, "the escrowed key file"), str(self.key_file))


def _drilled(wiring: Wiring, name: str) -> dict[str, datetime]:
    """Backup id -> when a drill of it last passed, by the stored reports."""
    from drills.shelf import load
    from drkit.repository.reports import heads

    repository = wiring.repository(reading=True)
    found: dict[str, datetime] = {}
    for head in heads(repository).heads:
        if head.cluster != name or head.verdict != "pass":
            continue
        try:
            report, _ = load(repository, head, lambda target, key, problem: None)
        except (DrkitError, StorageError) as error:
            wiring.log.warn("a report cannot be read", report=head.id, why=str(error))
            continue
        found[report.backup] = max(head.at, found.get(report.backup, head.at))
    return found


def _keep_rates(wiring: Wiring, rates: Rates) -> None:
    """For the next restore's estimate and the forecast of the rto, as `drkit restore` keeps its own."""
    from drkit.jobs.rates import Rates, write_rates

    if rates == Rates():
        return
    try:
        write_rates(wiring.config.daemon.spool, rates)
    except StorageError as error:  # only the next estimate is the poorer for it
        wiring.log.warn("rates were not kept", why=str(error))


def _shelve(wiring: Wiring, report: DrillReport, name: str) -> Shelved:
    """Store it, by handles that may write below reports/; where no target answers it is told all the same."""
    from drills.report.forms import forms
    from drills.shelf import Shelved, shelve
    from drkit.jobs.archive import read_catalogues
    from drkit.repository.reports import Kept

    try:
        repository = wiring.repository(reading=True)
        if not report.system_identifier:
            known = [one for one in read_catalogues(repository, name) if one.backups]
            newest = max(known, key=lambda one: one.backups[-1].summary.stopped, default=None)
            report = replace(report, system_identifier=newest.layout.system_identifier if newest else 0)
        shelved = shelve(repository, report, entropy=os.urandom)
    except (DrkitError, StorageError) as error:
        wiring.log.warn("the report is stored nowhere", why=str(error))
        return Shelved(report, forms(report), Kept(report.id, "", (), {}))
    for target, why in shelved.kept.lacking.items():
        wiring.log.warn("a target lacks the report", target=target, report=report.id, why=why)
    return shelved


def _tell(shelved: Shelved, folder: Path | None, *, json: bool) -> None:
    from drills.report.forms import FILES
    from storage_backends import durable

    if folder is not None:
        durable.make_dirs(folder, mode=0o755)
        for name, text in shelved.files.items():
            durable.replace(folder / name, text.encode(), mode=0o644)
    sys.stdout.write(shelved.files[FILES["json" if json else "text"]])
    if not json:
        where = ", ".join(shelved.kept.targets) or "no target"
        sys.stdout.write(f"\nreport {shelved.report.id}, stored on {where}; drkit drill show {shelved.report.id}\n")


def _version() -> str:
    from importlib.metadata import version

    return version("drkit")
