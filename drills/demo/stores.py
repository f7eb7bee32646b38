"""What the targets hold, and whether that is 3-2-1: as declared, and as seen from this machine."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from drills.demo.report import StoreFigures
from drills.demo.setup import SITE, Bucket, Target
from policies.copies import Situation, Verdict, judge_instant
from policies.facts import ClusterFacts, Evidence, Grade, TargetFacts, Terms, Window
from policies.rule import Rule
from storage_backends.api import StorageBackend
from storage_backends.url import TargetSettings, open_target


def measure(target: Target, bucket: Bucket | None) -> StoreFigures:
    """Count by listing. Raises StorageError."""
    store = _open(target, bucket)
    try:
        sizes = [(str(info.key), info.size_bytes) for info in store.list()]
        device = store.traits.device
    finally:
        store.close()
    wal = [size for key, size in sizes if "/wal/" in key]
    total = sum(size for _, size in sizes)
    facts = (target.name, target.site, target.medium, target.url, device)
    return StoreFigures(*facts, total, len(sizes), sum(wal), len(wal))


def empty_bucket(target: Target, bucket: Bucket) -> None:
    """Delete what this run put below its own prefix. Raises StorageError."""
    store = _open(target, bucket)
    try:
        for info in list(store.list()):
            store.delete(info.key)
    finally:
        store.close()


def judge_copies(stores: list[StoreFigures], data: Path, since: datetime, instant: datetime) -> Verdict:
    """3-2-1 at `instant`, when each store had been listed and the server was up; devices are the observed ones."""
    window = Window(since, instant, Evidence(Grade.LISTED, instant))
    facts = tuple(TargetFacts(s.name, s.site, s.medium, s.device, (window,)) for s in stores)
    device = str(data.stat().st_dev)
    primary = ClusterFacts("the server", SITE, reachable=True, scan_clean=True, devices=frozenset({device}))
    return judge_instant(Situation(Rule(3, 2, 1), Terms(), primary, facts, instant), instant)


def _open(target: Target, bucket: Bucket | None) -> StorageBackend:
    if target.folder is None and bucket is not None:
        keys = TargetSettings(
            endpoint=bucket.endpoint,
            region=bucket.region,
            access_key=bucket.access_key,
            secret_key=bucket.secret_key,
        )
        return open_target(target.url, keys)
    return open_target(target.url, TargetSettings())
