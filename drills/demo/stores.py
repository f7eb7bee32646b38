"""What the targets hold, counted by listing."""

from __future__ import annotations

from drills.demo.report import StoreFigures
from drills.demo.setup import Bucket, Target
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
