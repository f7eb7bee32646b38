"""The demo's story: five steps from nothing to a disaster survived, each told as it happens."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from drills.demo import tale
from drills.demo.account import account, check_reach
from drills.demo.drkit_program import PROMISE, Drkit
from drills.demo.page import publish
from drills.demo.place import Background, Place
from drills.demo.report import BackupFigures, Decision, DrillFigures, Report
from drills.demo.server import QUESTION, Source
from drills.demo.setup import (
    DISK_LOST,
    DROPPED_TABLE,
    RPO_S,
    RTO_S,
    Bucket,
    bucket_of,
    configuration,
    environment,
    targets_of,
)
from drills.demo.stores import empty_bucket, measure
from drills.demo.teller import Teller
from drills.report.forms import FILES
from drills.report.json_form import from_json
from drills.report.model import Verdict
from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import Cancelled, DrkitError, Failed
from drkit.core.units import parse_time
from drkit.engines.postgres.programs import find_programs
from storage_backends.errors import StorageError

_BACKUP_WITHIN_S = 300
_LOOK_EVERY_S = 0.5
_UNKNOWN = 7  # of `drkit status`: a target cannot be read


@dataclass(frozen=True, slots=True)
class Order:
    """What was asked for.

    programs: the folder of drkit and drkit-wal · env: the caller's · keep: the folder to use and to leave
    page_folder: where the HTML report goes unless `keep` has it; None: to the system's temporary folder
    """

    programs: Path
    env: Mapping[str, str]
    keep: Path | None = None
    page_folder: Path | None = None
    major: int = 18
    rows: int = 300_000


def demo(order: Order, teller: Teller, clock: Clock, token: CancelToken) -> Report:
    """Run it all, and leave nothing behind but the HTML report and what `keep` asks for; the logs where a step failed.

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
        self.daemon: Background | None = None
        self.report = Report(
            str(place.root),
            place.who.name,
            (DROPPED_TABLE, DISK_LOST),
            promised_rpo_s=RPO_S,
            promised_rto_s=RTO_S,
            kept=order.keep is not None,
        )
        self.step = (0, "getting ready")
        self.begun_s = self.clock.monotonic()

    def run(self) -> Report:
        self._begin(1, "A database, and places for its backups")
        self._server()
        self._repository()
        self._begin(2, "The daemon: it archives, and takes the backups")
        self._start_daemon()
        self._protected()
        self._begin(3, "A drill: somebody drops a table")
        self._dropped_table()
        self._begin(4, "The disaster in earnest: the server and its disk are lost")
        self._disk_lost()
        self._begin(5, "What it took")
        self._figures()
        return self.report

    def _begin(self, number: int, title: str) -> None:
        self.token.check()
        self.step = (number, title)
        self.teller.heading(number, title)

    # --- the steps ---

    def _server(self) -> None:
        with self.teller.busy(f"making a server with {self.order.rows:,} orders"):
            answer = self.source.create()
            now = self.clock.now()
            text = configuration(self.place.root, self.targets, self.bucket, QUESTION, answer, now)
            self.place.write("drkit.toml", text)
            if self.bucket is not None:
                self.place.write("s3.access", self.bucket.access_key)
                self.place.write("s3.secret", self.bucket.secret_key)
            self.report.version = self.source.start()
            self.report.database_bytes = self.source.size_bytes()
        self.report.rows = self.order.rows
        for line in tale.server(self.report):
            self.teller.said(line)

    def _repository(self) -> None:
        self.drkit("making keys and the repository", "init", "--yes")
        self.teller.said(tale.repository(self.targets))
        answer = self.drkit("looking for what would stop a backup", "check")
        self.report.checks = _objects(answer.value.get("findings"))
        self.teller.said(tale.checked(self.report.checks))

    def _start_daemon(self) -> None:
        self.daemon = self.drkit.start("daemon")
        with self.teller.busy("the daemon takes the first backup, for there is none"):
            run = self._first_backup()
        self.report.backup = run
        self.teller.said(tale.backup(run))

    def _first_backup(self) -> BackupFigures:
        """Wait until the daemon has taken it, on every target. Raises Failed where that came to nothing."""
        assert self.daemon is not None
        until_s = self.clock.monotonic() + _BACKUP_WITHIN_S
        while self.clock.monotonic() < until_s:
            self.token.wait(_LOOK_EVERY_S)
            self.daemon.check()
            answer = self.drkit("", "status", accept=(0, PROMISE, _UNKNOWN), quietly=True).value
            for run in _objects(answer.get("runs")):
                if run["job"] != "backup" or run["outcome"] == "running":
                    continue
                if run["outcome"] != "done" or run["why"]:
                    raise Failed("the daemon's backup failed", where=str(self.place.logs), why=str(run["why"]))
                figures = _backup_of(run, answer)
                # The targets are read before the daemon is asked: what was done in between is seen the next time.
                if set(figures.targets.values()) == {"good"}:
                    return figures
        raise Failed("the daemon took no backup in time", where=str(self.place.logs / "daemon.log"))

    def _protected(self) -> None:
        lines = self.drkit.words("looking", "status", accept=(0, PROMISE, _UNKNOWN))
        self.teller.shown(tale.status(lines, self.targets))
        with self.teller.busy("counting copies"):
            answer = self.drkit("", "policy", "check", accept=(0, PROMISE), quietly=True)
        self.report.decisions = [
            Decision(str(one["name"]), str(one["state"]), int(str(one["needed"])), int(str(one["found"])))
            for one in _objects(answer.value.get("decisions"))
        ]
        self.teller.said(tale.after_status(self.report.decisions))

    def _dropped_table(self) -> None:
        self.teller.said(tale.BEFORE_DROP)
        drill = self._drill(DROPPED_TABLE)
        self.teller.rows(list(tale.dropped_table(drill.report)))

    def _disk_lost(self) -> None:
        self.teller.said(tale.BEFORE_LOSS)
        drill = self._drill(DISK_LOST)
        self.teller.rows(list(tale.disk_lost(drill.report)))

    def _drill(self, name: str) -> DrillFigures:
        """Run it, and tell the verdict."""
        folder = self.place.root / "reports" / name
        words = ("drill", "run", name)
        answer = self.drkit("the drill", *words, accept=(0, 1, PROMISE), unseen=("--report", str(folder)))
        drill = DrillFigures(from_json(answer.value), answer.seconds)
        self.report.drills[name] = drill
        self.teller.judged(*tale.verdict(drill.report), passed=drill.report.verdict is Verdict.PASS)
        return drill

    def _figures(self) -> None:
        report = self.report
        report.stores = [measure(target, self.bucket) for target in self.targets]
        page = self.place.root / "reports" / DISK_LOST / FILES["html"]
        report.page = publish(page, *((self.place.root, "report.html") if report.kept else (self.order.page_folder,)))
        report.seconds = self.clock.monotonic() - self.begun_s
        self.teller.rows(list(tale.summary(report)))

    # --- the edges ---

    def failed(self, error: DrkitError | StorageError | OSError) -> Failed:
        """The error that a step's failure is told as."""
        number, title = self.step
        cure = getattr(error, "cure", "") or f"ls {self.place.logs}"
        where = f"logs in {self.place.logs}"
        return Failed(f"the demo failed in step {number}, '{title}'", where=where, why=str(error), cure=cure)

    def end(self, *, keep_logs: bool) -> None:
        """Stop everything; remove everything, but for what was asked to be kept."""
        if self.daemon is not None:
            self.daemon.stop()
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


def _objects(value: object) -> list[dict[str, object]]:
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def _backup_of(run: dict[str, object], status: dict[str, object]) -> BackupFigures:
    """Of a run that is done: what it answered, and where the backup is by now."""
    found = run["answer"]
    assert isinstance(found, dict)
    took = parse_time(str(run["ended"])) - parse_time(str(run["started"]))
    (cluster,) = _objects(status["clusters"])
    return BackupFigures(
        id=str(found["id"]),
        size_bytes=int(found["size_bytes"]),
        read_bytes=int(found["read_bytes"]),
        stored_bytes=int(found["stored_bytes"]),
        seconds=took.total_seconds(),
        targets={str(one["name"]): "good" if one["backup"] else "none" for one in _objects(cluster["targets"])},
    )
