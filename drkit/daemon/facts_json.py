"""DaemonFacts as JSON: what the socket's `status` answers, and how it is read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from drkit.core.errors import Damage, UsageError
from drkit.core.units import format_time, parse_time
from drkit.daemon.api import ArchiveFacts, DaemonFacts, NextRun, Outcome, RunRecord, TargetFacts

T = TypeVar("T")


def to_json(facts: DaemonFacts) -> dict[str, object]:
    return {
        "pid": facts.pid,
        "started": format_time(facts.started),
        "beat": format_time(facts.beat),
        "config": facts.config,
        "archives": [_archive(one) for one in facts.archives],
        "running": [run_json(one) for one in facts.running],
        "recent": [run_json(one) for one in facts.recent],
        "next_runs": [next_json(one) for one in facts.next_runs],
    }


def to_text(facts: DaemonFacts) -> str:
    return json.dumps(to_json(facts))


def run_json(run: RunRecord) -> dict[str, object]:
    return {
        "bell": run.bell,
        "job": run.job,
        "cluster": run.cluster,
        "due": format_time(run.due),
        "started": _time(run.started),
        "ended": _time(run.ended),
        "outcome": run.outcome.value,
        "exit": run.exit,
        "why": run.why,
        "answer": dict(run.answer),
    }


def next_json(one: NextRun) -> dict[str, object]:
    return {"bell": one.bell, "job": one.job, "cluster": one.cluster, "at": format_time(one.at)}


def _archive(one: ArchiveFacts) -> dict[str, object]:
    system = one.system_identifier
    return {
        "cluster": one.cluster,
        "system_identifier": None if system is None else str(system),
        "last_file": one.last_file,
        "last_at": _time(one.last_at),
        "ready": one.ready,
        "ready_bytes": one.ready_bytes,
        "oldest_ready_at": _time(one.oldest_ready_at),
        "targets": [_target(target) for target in one.targets],
        "problem": one.problem,
    }


def _target(one: TargetFacts) -> dict[str, object]:
    return {
        "name": one.name,
        "owed": one.owed,
        "owed_bytes": one.owed_bytes,
        "owed_since": _time(one.owed_since),
        "last_file": one.last_file,
        "last_at": _time(one.last_at),
        "resting": one.resting,
    }


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else format_time(moment)


# --- back ---------------------------------------------------------------------------------------------------------


def from_text(text: str | bytes) -> DaemonFacts:
    """Raises Damage where it is not what a daemon answers."""
    try:
        value = json.loads(text)
        return DaemonFacts(
            int(value["pid"]),
            parse_time(value["started"]),
            parse_time(value["beat"]),
            str(value["config"]),
            _all(value["archives"], _archive_of),
            _all(value["running"], run_of),
            _all(value["recent"], run_of),
            _all(value["next_runs"], _next_of),
        )
    except (ValueError, KeyError, TypeError, AttributeError, UsageError) as error:
        cure = "is it another version of drkit? restart the daemon"
        raise Damage("the daemon's answer is not understood", why=repr(error), cure=cure) from error


def _all(values: list[Mapping[str, Any]], make: Callable[[Mapping[str, Any]], T]) -> tuple[T, ...]:
    return tuple(make(value) for value in values)


def run_of(value: Mapping[str, Any]) -> RunRecord:
    return RunRecord(
        str(value["bell"]),
        str(value["job"]),
        str(value["cluster"]),
        parse_time(value["due"]),
        _time_of(value["started"]),
        _time_of(value["ended"]),
        Outcome(value["outcome"]),
        None if value["exit"] is None else int(value["exit"]),
        str(value["why"]),
        dict(value["answer"]),
    )


def _next_of(value: Mapping[str, Any]) -> NextRun:
    return NextRun(str(value["bell"]), str(value["job"]), str(value["cluster"]), parse_time(value["at"]))


def _archive_of(value: Mapping[str, Any]) -> ArchiveFacts:
    system = value["system_identifier"]
    return ArchiveFacts(
        str(value["cluster"]),
        None if system is None else int(system),
        str(value["last_file"]),
        _time_of(value["last_at"]),
        int(value["ready"]),
        int(value["ready_bytes"]),
        _time_of(value["oldest_ready_at"]),
        _all(value["targets"], _target_of),
        str(value["problem"]),
    )


def _target_of(value: Mapping[str, Any]) -> TargetFacts:
    return TargetFacts(
        str(value["name"]),
        int(value["owed"]),
        int(value["owed_bytes"]),
        _time_of(value["owed_since"]),
        str(value["last_file"]),
        _time_of(value["last_at"]),
        str(value["resting"]),
    )


def _time_of(value: str | None) -> datetime | None:
    return None if value is None else parse_time(value)
