"""drkit.status/1 and drkit.check.liveness/1 (docs/json.md)."""

from __future__ import annotations

from datetime import datetime, timedelta

from drkit.daemon.facts_json import next_json, run_json
from drkit.daemon.seen import Seen
from drkit.daemon.status import DaemonView, Status
from policies.protection import ClusterVerdict, Finding, TargetVerdict
from policies.sights import DrillSeen, TargetSeen, WindowSeen


def status_json(status: Status) -> dict[str, object]:
    facts = status.daemon.facts
    return {
        "at": status.at,
        "state": status.state.value,
        "daemon": daemon_json(status.daemon),
        "clusters": [_cluster(seen, verdict, status.at) for seen, verdict in status.clusters],
        "findings": [finding_json(one) for one in status.findings],
        "notifications": [
            {"channel": one.channel, "waiting": one.waiting, "waiting_since": one.since, "lost": one.lost}
            for one in status.mail
        ],
        "runs": [run_json(run) for run in status.runs],
        "running": [run_json(run) for run in facts.running] if facts else [],
        "next_runs": [next_json(one) for one in facts.next_runs] if facts else [],
    }


def daemon_json(daemon: DaemonView) -> dict[str, object]:
    beat, facts = daemon.beat, daemon.facts
    started = facts.started if facts else beat.started if beat else None
    return {
        "alive": daemon.alive,
        "expected": daemon.expected,
        "pid": facts.pid if facts else beat.pid if beat else None,
        "started": started,
        "beat": beat.at if beat else facts.beat if facts else None,
        "stopped": beat.stopped if beat else False,
        "why": daemon.why,
    }


def finding_json(one: Finding) -> dict[str, object]:
    return {
        "kind": one.kind,
        "level": one.level.value,
        "cluster": one.cluster,
        "target": one.target,
        "about": one.about,
        "text": one.text,
        "cure": one.cure,
        "since": one.since,
    }


def _cluster(seen: Seen, verdict: ClusterVerdict, at: datetime) -> dict[str, object]:
    cluster, system = seen.cluster, seen.system_identifier
    promises, server = cluster.promises, cluster.server
    verdicts = {one.name: one for one in verdict.targets}
    return {
        "cluster": cluster.name,
        "system_identifier": None if system is None else str(system),
        "state": verdict.state.value,
        "server": {
            "reachable": server.reachable,
            "why": server.why,
            "waiting": server.ready,
            "waiting_since": server.oldest_ready,
            "failing": server.failing,
        },
        "targets": [_target(one, verdicts[one.name], at) for one in cluster.targets],
        "exposure_s": seconds(seen.exposure),
        "rto_forecast_s": seconds(seen.rto_forecast),
        "promises": {
            "rpo_s": seconds(promises.rpo),
            "rto_s": seconds(promises.rto),
            "max_backup_age_s": seconds(promises.max_backup_age),
            "max_verify_age_s": seconds(promises.max_verify_age),
            "max_drill_age_s": seconds(promises.max_drill_age),
        },
        "last_drill": _drill(cluster.last_drill),
        "passed_drill": _drill(cluster.passed_drill),
    }


def seconds(length: timedelta | None) -> float | None:
    """A duration in seconds; None stays None."""
    return None if length is None else length.total_seconds()


def _target(seen: TargetSeen, verdict: TargetVerdict, at: datetime) -> dict[str, object]:
    backup, lack = seen.backup, seen.lack
    return {
        "name": seen.name,
        "protected": verdict.protected,
        "newest": verdict.newest,
        "why": verdict.why,
        "error": seen.unreadable,
        "backup": None
        if backup is None
        else {
            "id": backup.id,
            "stopped_at": backup.stopped,
            "age_s": (at - backup.stopped).total_seconds(),
            "size_bytes": backup.size_bytes,
            "stored_bytes": backup.stored_bytes,
            "new_bytes": backup.new_bytes,
        },
        "wal": {
            "last": seen.last_file,
            "last_at": seen.last_at,
            "lacking": lack.count if lack else 0,
            "lacking_first": lack.first if lack else "",
            "owed": seen.owed,
            "owed_since": seen.owed_since,
            "resting": seen.resting,
        },
        "windows": [_window(one) for one in seen.windows],
        "drill": _drill(seen.drilled),
    }


def _window(one: WindowSeen) -> dict[str, object]:
    return {
        "timeline": one.timeline,
        "from": one.start,
        "to": one.end,
        "from_lsn": one.start_lsn,
        "to_lsn": one.end_lsn,
        "gaps": [
            {"from_segment": gap.first, "to_segment": gap.last, "missing": gap.missing, "bridged_by": gap.bridge}
            for gap in one.gaps
        ],
    }


def _drill(one: DrillSeen | None) -> dict[str, object] | None:
    if one is None:
        return None
    return {
        "id": one.id,
        "at": one.at,
        "drill": one.drill,
        "verdict": one.verdict,
        "rto_s": one.rto_s,
        "rpo_s": one.rpo_s,
    }
