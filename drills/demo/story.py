"""The demo's story: seven steps from nothing to a disaster survived, each told as it happens."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from drills.demo import rescue
from drills.demo.account import account, check_reach
from drills.demo.drkit_program import PROMISE, Drkit
from drills.demo.place import Place
from drills.demo.report import BackupFigures, Report
from drills.demo.server import Culprit, LedgerClient, Source
from drills.demo.setup import RPO_S, RTO_S, Bucket, bucket_of, configuration, environment, targets_of
from drills.demo.stores import empty_bucket, judge_copies, measure
from drills.demo.teller import Teller
from drills.ledger import Moment
from drills.writer import Load
from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import Cancelled, DrkitError, Failed
from drkit.core.units import format_size, parse_time
from drkit.engines.postgres.programs import find_programs
from storage_backends.errors import StorageError

WRITERS = 4
PACE_S = 0.004
_ARCHIVED_WITHIN_S = 60
_WORDS = 24  # random bytes of a payload


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for.

    programs: the folder of drkit and drkit-wal · verbs: commands that this drkit has · env: the caller's
    """

    programs: Path
    verbs: frozenset[str]
    env: Mapping[str, str]
    keep: Path | None = None
    major: int = 18
    rows: int = 1_000_000


def demo(order: Order, teller: Teller, clock: Clock, token: CancelToken) -> Report:
    """Run it all, and leave nothing behind but what `keep` asks for, or the logs where a step failed.

    Cancelling ends it early, with nothing left behind either. Raises Refused and Missing before anything was made,
    Failed naming step and logs, Cancelled.
    """
    bucket = bucket_of(order.env, secrets.token_hex(4))
    who = account()
    postgres = find_programs(order.major)
    check_reach([order.programs / "drkit", postgres / "postgres"], who)
    place = Place.make(order.keep, who, clock, token)
    story = _Story(order, place, postgres, bucket, teller)
    failed = True
    try:
        report = story.run()
        failed = False
        return report
    except Cancelled:
        failed = False
        raise
    except (DrkitError, StorageError, OSError) as error:
        raise story.failed(error) from error
    finally:
        story.end(keep_logs=failed)


class _Story:
    """One run."""

    def __init__(self, order: Order, place: Place, postgres: Path, bucket: Bucket | None, teller: Teller) -> None:
        self.order, self.place, self.teller = order, place, teller
        self.clock, self.token = place.clock, place.token
        self.bucket = bucket
        self.targets = targets_of(place.root, self.bucket)
        self.env = environment(place.root, order.programs, order.env)
        self.source = Source(place, postgres, self.env, order.rows)
        self.drkit = Drkit(order.programs / "drkit", place, self.env, teller)
        self.report = Report(str(place.root), place.who.name, promised_rpo_s=RPO_S, promised_rto_s=RTO_S)
        self.step = (0, "getting ready")
        self._stopped_at = ""
        self.begun_s = self.clock.monotonic()

    def run(self) -> Report:
        self._begin(1, "A database, and places for its backups")
        self._server()
        self._repository()
        self._begin(2, "Clients that write, and keep their own book")
        with self._load() as load:
            self.teller.said(
                f"{WRITERS} clients change orders and add rows to a ledger. Each notes every row in a file of its own, "
                "on disk before it is sent and again once it is acknowledged: nobody can talk losses away."
            )
            self._backups(load)
            culprit, lost_at = self._disaster(load)
        self._recover(load, culprit, lost_at)
        self._figures()
        return self.report

    def _begin(self, number: int, title: str) -> None:
        self.token.check()
        self.step = (number, title)
        self.teller.heading(number, title)

    def _load(self) -> Load:
        folder = self.place.root / "ledger"
        return Load(
            folder,
            WRITERS,
            lambda: LedgerClient(self.source.conninfo),
            self.clock,
            lambda: secrets.token_urlsafe(_WORDS),
            PACE_S,
            self.token,
        )

    # --- the steps ---

    def _server(self) -> None:
        with self.teller.busy(f"making a server with {self.order.rows:,} orders"):
            self.place.write("drkit.toml", configuration(self.place.root, self.targets, self.bucket))
            if self.bucket is not None:
                self.place.write("s3.access", self.bucket.access_key)
                self.place.write("s3.secret", self.bucket.secret_key)
            self.source.create()
            self.report.version = self.source.start()
            self.report.database_bytes = self.source.size_bytes()
        self.report.rows = self.order.rows
        size, folder = format_size(self.report.database_bytes), self.place.root
        self.teller.said(f"PostgreSQL {self.report.version} with {self.order.rows:,} orders ({size}), in {folder}.")
        self.teller.said("It runs as the user " + self.place.who.name + ", with archive_command = 'drkit-wal push %p'.")

    def _repository(self) -> None:
        names = " and ".join(f"{t.name} ({t.medium}, {t.site})" for t in self.targets)
        self.drkit("making keys and the repository", "init", "--yes")
        self.teller.said(f"A key, and an encrypted repository on {names}.")
        if "check" not in self.order.verbs:
            return
        answer = self.drkit("looking for what would stop a backup", "check")
        findings = answer.value.get("findings")
        self.report.checks = [one for one in findings if isinstance(one, dict)] if isinstance(findings, list) else []
        self.teller.said(f"{len(self.report.checks)} things looked at, none in the way.{_noted(self.report.checks)}")

    def _backups(self, load: Load) -> None:
        self._begin(3, "Backups, while they write")
        first = self._backup(load, "everything")
        self.teller.said(
            f"{format_size(first.size_bytes)} read, {format_size(first.stored_bytes)} stored on each target "
            f"in {first.seconds:.1f} s."
        )
        second = self._backup(load, "what changed")
        self.teller.said(
            f"{format_size(second.new_bytes)} stored anew in {second.seconds:.1f} s. It is a full backup all the same: "
            "the first may be deleted."
        )
        stores = [measure(target, self.bucket) for target in self.targets]
        since = parse_time(self._stopped_at)
        self.report.copies = judge_copies(stores, self.source.data, since, self.clock.now())

    def _backup(self, load: Load, label: str) -> BackupFigures:
        answer = self.drkit(f"backing up {label}", "backup", "--label", label, accept=(0, PROMISE))
        load.check()
        found = answer.value["backup"]
        assert isinstance(found, dict)
        self._stopped_at = str(found["stopped_at"])
        states = found.get("targets")
        figures = BackupFigures(
            id=str(found["id"]),
            size_bytes=int(found["size_bytes"]),
            new_bytes=int(found["new_bytes"]),
            stored_bytes=int(found["stored_bytes"]),
            read_bytes=int(found["read_bytes"]),
            seconds=answer.seconds,
            targets={str(one["name"]): str(one["state"]) for one in states} if isinstance(states, list) else {},
        )
        lacking = [name for name, state in figures.targets.items() if state != "good"]
        if lacking:
            raise Failed("a backup is not whole everywhere", where=", ".join(lacking), why=str(states))
        self.report.backups.append(figures)
        return figures

    def _disaster(self, load: Load) -> tuple[Culprit, Moment]:
        self._begin(4, "The disaster")
        self.teller.typed("DROP TABLE orders;", prompt="postgres=#")
        with self.teller.busy("dropping the table"):
            culprit = self.report.culprit = self.source.drop_orders(self.clock)
            so_far = load.acknowledged
        rows = f"{culprit.before.rows:,}"
        self.teller.said(f"{rows} orders are gone, by transaction {culprit.xid}. Nobody notices; writing goes on.")
        with self.teller.busy("going on for a little while"):
            self.source.wait_archived(culprit.segment, _ARCHIVED_WITHIN_S)
            self.token.wait(1.5)
            load.check()
        self.teller.typed("kill -9 $(head -1 data/postmaster.pid); rm -rf data")
        lost_at = self.source.kill()
        load.stop()
        shutil.rmtree(self.source.data)
        self.report.since_drop = load.acknowledged - so_far
        self.teller.said(
            f"The server and its disk are lost as well, {self.report.since_drop:,} acknowledged rows after the drop."
        )
        return culprit, lost_at

    def _recover(self, load: Load, culprit: Culprit, lost_at: Moment) -> None:
        self._begin(5, f"Back to the moment before the drop, from {self.targets[-1].name} alone")
        rescuer = rescue.Rescuer(self.place, self.drkit, self.teller, load.journals)
        words = ("--to-xid", culprit.xid, "--exclusive", "--action", "promote", "--from", self.targets[-1].name)
        self.report.before = rescuer.restore("rescue", words, culprit.moment, disaster=lost_at)
        rescuer.tell_before(self.report.before, culprit)
        self._begin(6, "And what the disk alone would have cost: the newest state there is")
        self.report.latest = rescuer.restore("newest", ("--to", "latest"), lost_at)
        rescuer.tell_latest(self.report.latest)

    def _figures(self) -> None:
        report = self.report
        self._begin(7, "What it took")
        report.stores = [measure(target, self.bucket) for target in self.targets]
        report.seconds = self.clock.monotonic() - self.begun_s
        report.kept = self.order.keep is not None
        self.teller.rows(rescue.summary(report, self.order.keep))

    # --- the edges ---

    def failed(self, error: DrkitError | StorageError | OSError) -> Failed:
        """The error that a step's failure is told as."""
        number, title = self.step
        cure = getattr(error, "cure", "") or f"ls {self.place.logs}"
        where = f"logs in {self.place.logs}"
        return Failed(f"the demo failed in step {number}, '{title}'", where=where, why=str(error), cure=cure)

    def end(self, *, keep_logs: bool) -> None:
        """Stop everything; remove everything, but for what was asked to be kept."""
        self.source.stop()
        self.place.end_all()
        if self.order.keep is not None:
            return
        self.place.remove(keep=("logs",) if keep_logs else ())
        if self.bucket is None:
            return
        try:
            empty_bucket(self.targets[-1], self.bucket)
        except StorageError as error:
            if keep_logs:  # another error is on its way already
                self.teller.said(f"{self.bucket.url} could not be emptied: {error}")
                return
            cure = f"delete everything below {self.bucket.url}"
            raise Failed("the bucket could not be emptied", where=self.bucket.url, why=str(error), cure=cure) from error


def _noted(findings: list[dict[str, object]]) -> str:
    """' It notes: ...' of the warnings, those of one text together."""
    about: dict[str, list[str]] = {}
    for finding in findings:
        if finding.get("level") == "warn":
            about.setdefault(str(finding.get("text")), []).append(str(finding.get("about")))
    notes = [f"{', '.join(names)}: {text}" for text, names in about.items()]
    return f" It notes: {'; '.join(notes)}." if notes else ""
