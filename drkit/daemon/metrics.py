"""What the daemon knows as Prometheus metrics, text format 0.0.4, in base units (seconds, bytes).

Figures of the daemon itself are of this moment; those of targets are of the last look, whose time is a metric too.
What is not known has no sample: a value that is not there is better than one that is wrong.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime

from drkit.core.errors import UsageError
from drkit.core.units import parse_time
from drkit.daemon.api import DaemonFacts
from drkit.daemon.watch import Looked

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
Labels = Mapping[str, str]  # none is `job` or `instance`: Prometheus has its own
Sample = tuple[Labels, float]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric: all are gauges. help: a sentence · samples: (labels, value), each set of labels once."""

    name: str
    help: str
    samples: tuple[Sample, ...]

    def text(self) -> str:
        about = self.help.replace("\\", "\\\\").replace("\n", "\\n")
        lines = [f"# HELP {self.name} {about}", f"# TYPE {self.name} gauge"]
        lines += [f"{self.name}{_labels(labels)} {_number(value)}" for labels, value in self.samples]
        return "\n".join(lines) + "\n"


def _labels(labels: Labels) -> str:
    if not labels:
        return ""
    return "{" + ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items()) + "}"


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def render(families: Iterable[Family]) -> str:
    """Those that have a sample."""
    return "".join(family.text() for family in families if family.samples)


def families(
    facts: DaemonFacts, looked: Looked, now: datetime, *, version: str, waiting: Mapping[str, int] | None = None
) -> Iterator[Family]:
    """Every metric. waiting: notifications that are not delivered yet, by channel."""
    yield Family("drkit_build_info", "Version of drkit; always 1.", (({"version": version}, 1),))
    yield from _of_daemon(facts, now)
    yield from _of_archives(facts, now)
    yield from _of_runs(facts)
    yield from _of_look(looked)
    clusters = [_Cluster(row) for row in _rows(looked.answer, "clusters")]
    yield from _of_clusters(clusters)
    yield from _of_targets(clusters, now)
    yield from _of_windows(clusters)
    samples = tuple(({"channel": name}, count) for name, count in (waiting or {}).items())
    yield Family("drkit_notifications_waiting", "Notifications that are not delivered yet.", samples)


# --- the daemon itself --------------------------------------------------------------------------------------------


def _of_daemon(facts: DaemonFacts, now: datetime) -> Iterator[Family]:
    started, beat = facts.started.timestamp(), facts.beat.timestamp()
    yield Family("drkit_daemon_start_time_seconds", "When the daemon started, in Unix time.", (({}, started),))
    yield Family("drkit_daemon_heartbeat_timestamp_seconds", "Its last sign of life, in Unix time.", (({}, beat),))


def _of_archives(facts: DaemonFacts, now: datetime) -> Iterator[Family]:
    files, sizes, lags, lasts = list[Sample](), list[Sample](), list[Sample](), list[Sample]()
    owed, owed_bytes, owed_age, target_lasts = list[Sample](), list[Sample](), list[Sample](), list[Sample]()
    for archive in facts.archives:
        mine = {"cluster": archive.cluster}
        files.append((mine, archive.ready))
        sizes.append((mine, archive.ready_bytes))
        lags.append((mine, _age(archive.oldest_ready_at, now)))
        if archive.last_at is not None:
            lasts.append((mine, archive.last_at.timestamp()))
        for target in archive.targets:
            one = {**mine, "target": target.name}
            owed.append((one, target.owed))
            owed_bytes.append((one, target.owed_bytes))
            owed_age.append((one, _age(target.owed_since, now)))
            if target.last_at is not None:
                target_lasts.append((one, target.last_at.timestamp()))
    prefix = "drkit_archive_"
    yield Family(f"{prefix}waiting_files", "WAL files that wait for archive_command.", tuple(files))
    yield Family(f"{prefix}waiting_bytes", "Size of the WAL files that wait for archive_command.", tuple(sizes))
    yield Family(f"{prefix}lag_seconds", "For how long the oldest waiting WAL file waits, 0 without one.", tuple(lags))
    yield Family(f"{prefix}last_timestamp_seconds", "When WAL was archived last, in Unix time.", tuple(lasts))
    text = "When the target got WAL last, in Unix time."
    yield Family(f"{prefix}target_last_timestamp_seconds", text, tuple(target_lasts))
    yield Family("drkit_debt_files", "WAL files in the spool that the target lacks.", tuple(owed))
    yield Family("drkit_debt_bytes", "Size of the WAL files in the spool that the target lacks.", tuple(owed_bytes))
    yield Family("drkit_debt_age_seconds", "For how long the target lacks WAL, 0 where it does not.", tuple(owed_age))


def _age(since: datetime | None, now: datetime) -> float:
    return 0.0 if since is None else max(0.0, (now - since).total_seconds())


def _of_runs(facts: DaemonFacts) -> Iterator[Family]:
    counted = Counter((run.job, run.cluster, run.outcome.value) for run in facts.recent)
    recorded = tuple(
        ({"kind": kind, "cluster": cluster, "outcome": outcome}, count)
        for (kind, cluster, outcome), count in sorted(counted.items())
    )
    yield Family("drkit_runs", "Runs on record of scheduled jobs, by outcome.", recorded)
    done: dict[tuple[str, str, str], float] = {}
    for run in facts.recent:
        if run.outcome.value == "done" and run.ended is not None:
            key = (run.bell, run.job, run.cluster)
            done[key] = max(done.get(key, 0.0), run.ended.timestamp())
    text = "When a run succeeded last, in Unix time."
    yield Family("drkit_run_last_success_timestamp_seconds", text, tuple(_bells(done)))
    running = {(run.bell, run.job, run.cluster): 1.0 for run in facts.running}
    yield Family("drkit_run_active", "1 while a run of this bell is under way.", tuple(_bells(running)))
    nexts = {(one.bell, one.job, one.cluster): one.at.timestamp() for one in facts.next_runs}
    yield Family("drkit_next_run_timestamp_seconds", "When the bell rings next, in Unix time.", tuple(_bells(nexts)))


def _bells(values: Mapping[tuple[str, str, str], float]) -> Iterator[Sample]:
    for (bell, kind, cluster), value in sorted(values.items()):
        yield {"bell": bell, "kind": kind, "cluster": cluster}, value


# --- the last look ------------------------------------------------------------------------------------------------


def _of_look(looked: Looked) -> Iterator[Family]:
    ok = 0.0 if looked.why or looked.at is None else 1.0
    yield Family("drkit_look_success", "Whether the last look at the targets told how they are.", (({}, ok),))
    at: tuple[Sample, ...] = () if looked.at is None else (({}, looked.at.timestamp()),)
    text = "When the targets were looked at last, in Unix time; what is told of them is of then."
    yield Family("drkit_look_timestamp_seconds", text, at)
    counted = Counter((str(f.get("cluster")), str(f.get("level"))) for f in _rows(looked.answer, "findings"))
    samples = tuple(({"cluster": c, "level": level}, n) for (c, level), n in sorted(counted.items()))
    yield Family("drkit_findings", "What is wrong, by level; cluster is empty for the daemon itself.", samples)


def _of_clusters(clusters: list[_Cluster]) -> Iterator[Family]:
    protected = tuple((one.labels, float(one.row.get("state") == "protected")) for one in clusters)
    yield Family("drkit_protected", "1 where the cluster is protected as promised, 0 also where unknown.", protected)
    for name, member, text in (
        ("drkit_rpo_exposure_seconds", "exposure_s", "How much would be lost with the server."),
        ("drkit_rto_forecast_seconds", "rto_forecast_s", "How long a restore would take by earlier ones."),
    ):
        yield Family(name, text, tuple(_known((one.labels, _figure(one.row, member)) for one in clusters)))
    promised = (
        ({**one.labels, "objective": name.removesuffix("_s")}, _figure(_object(one.row, "promises"), name))
        for one in clusters
        for name in _object(one.row, "promises")
    )
    yield Family("drkit_objective_seconds", "What is promised.", tuple(_known(promised)))
    for name, member, text in (
        ("drkit_drill_last_pass_timestamp_seconds", "at", "When a drill passed last, in Unix time."),
        ("drkit_drill_last_pass_rto_seconds", "rto_s", "How long that drill took to come back."),
        ("drkit_drill_last_pass_rpo_seconds", "rpo_s", "How much that drill lost."),
    ):
        samples = ((one.labels, _figure(_object(one.row, "passed_drill"), member)) for one in clusters)
        yield Family(name, text, tuple(_known(samples)))


def _of_targets(clusters: list[_Cluster], now: datetime) -> Iterator[Family]:
    targets = [(labels, row) for one in clusters for labels, row in one.targets]
    readable = tuple((labels, float(not row.get("error"))) for labels, row in targets)
    yield Family("drkit_target_readable", "Whether the target could be read.", readable)
    protected = tuple((labels, float(row.get("protected") is True)) for labels, row in targets)
    text = "1 where the target alone can restore the newest instant, and nothing about it is bad."
    yield Family("drkit_target_protected", text, protected)
    backups = [(labels, _object(row, "backup")) for labels, row in targets]
    for name, member, text in (
        ("drkit_backup_last_timestamp_seconds", "stopped_at", "When the newest good backup stopped, in Unix time."),
        ("drkit_backup_last_size_bytes", "size_bytes", "Size of the cluster in the newest good backup."),
        ("drkit_backup_last_stored_bytes", "stored_bytes", "Size of all that the newest good backup needs."),
        ("drkit_backup_last_new_bytes", "new_bytes", "What the newest good backup stored anew."),
    ):
        yield Family(name, text, tuple(_known((labels, _figure(row, member)) for labels, row in backups)))
    ages = ((labels, _figure(row, "stopped_at")) for labels, row in backups)
    aged = tuple((labels, max(0.0, now.timestamp() - stopped)) for labels, stopped in _known(ages))
    yield Family("drkit_backup_last_age_seconds", "Age of the newest good backup.", aged)


def _of_windows(clusters: list[_Cluster]) -> Iterator[Family]:
    windows = [
        ({**labels, "timeline": str(window.get("timeline"))}, window)
        for one in clusters
        for labels, row in one.targets
        for window in _rows(row, "windows")
    ]
    for name, member, text in (
        ("drkit_window_start_timestamp_seconds", "from", "The first instant that can be restored, in Unix time."),
        ("drkit_window_end_timestamp_seconds", "to", "The last instant that can be restored, in Unix time."),
    ):
        yield Family(name, text, tuple(_known((labels, _figure(window, member)) for labels, window in windows)))
    gaps = tuple((labels, float(len(_rows(window, "gaps")))) for labels, window in windows)
    yield Family("drkit_window_gaps", "Gaps between the first and the last instant.", gaps)


@dataclass(frozen=True, slots=True)
class _Cluster:
    """A cluster in the answer of `drkit status`."""

    row: Mapping[str, object]

    @property
    def labels(self) -> dict[str, str]:
        return {"cluster": str(self.row.get("cluster"))}

    @property
    def targets(self) -> Iterator[tuple[dict[str, str], Mapping[str, object]]]:
        for row in _rows(self.row, "targets"):
            yield {**self.labels, "target": str(row.get("name"))}, row


def _rows(value: Mapping[str, object], name: str) -> list[Mapping[str, object]]:
    rows = value.get(name)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _object(value: Mapping[str, object], name: str) -> Mapping[str, object]:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _figure(value: Mapping[str, object], name: str) -> float | None:
    """A number, or a time in Unix time; None where there is neither."""
    found = value.get(name)
    if isinstance(found, int | float) and not isinstance(found, bool):
        return float(found)
    try:
        return parse_time(found).timestamp() if isinstance(found, str) else None
    except UsageError:
        return None


def _known(samples: Iterable[tuple[Labels, float | None]]) -> Iterator[Sample]:
    for labels, value in samples:
        if value is not None:
            yield labels, value
