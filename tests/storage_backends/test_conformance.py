"""Every backend, bare and under the decorators, passes the one suite."""

from __future__ import annotations

import functools
import secrets
import time
from dataclasses import replace
from pathlib import Path

import pytest

from storage_backends import conformance, conformance_replacing
from storage_backends.api import StorageBackend
from storage_backends.conformance import CHECKS, Check, Subject
from storage_backends.faulty import Faulty
from storage_backends.limit import Limited, TokenBucket
from storage_backends.memory import MemoryBackend
from storage_backends.posix import PosixBackend
from storage_backends.retry import Retrying, RetryPolicy
from storage_backends.s3 import S3Backend
from storage_backends.trace import Event, Traced
from tests.real.rgw import RgwServer
from tests.storage_backends.conftest import MEBIBYTE, Bucket

NOTHING_LISTENS = "http://127.0.0.1:1"

# The mock looks and then stores, without a lock between: only a real store can show these.
NOT_FOR_THE_MOCK: set[Check] = {
    conformance.one_of_many_threads_wins,
    conformance.one_of_two_processes_wins,
    conformance_replacing.repairers_at_once_leave_a_sound_one,
}

all_checks = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)


def open_folder(root: Path) -> StorageBackend:
    return PosixBackend(root)


def open_bucket(bucket: Bucket, prefix: str) -> StorageBackend:
    return bucket.open(prefix)


def s3_subject(bucket: Bucket) -> Subject:
    unreachable = replace(bucket.settings(), endpoint=NOTHING_LISTENS)
    return Subject(
        open=functools.partial(open_bucket, bucket, "pre/" + secrets.token_hex(4)),
        in_processes=True,
        big_bytes=11 * MEBIBYTE,
        unreachable=lambda: S3Backend(bucket.name, "", unreachable),
        missing=lambda: S3Backend("no-such-" + secrets.token_hex(6), "", bucket.settings()),
    )


def folder_subject(root: Path) -> Subject:
    return Subject(
        open=functools.partial(open_folder, root),
        in_processes=True,
        missing=lambda: PosixBackend(root / "missing"),
    )


def decorated(inner: StorageBackend) -> StorageBackend:
    """All decorators in their usual order; some faults that retrying must hide."""

    def free() -> TokenBucket:
        return TokenBucket(1e12, burst_bytes=1 << 40, clock=time.monotonic, sleep=lambda _: None)

    events: list[Event] = []
    faults = "create:503;commit:503,lost;open:503,lost;read:503;stat:503;list:503;delete:503,lost"
    stack: StorageBackend = Faulty(inner, faults)
    stack = Limited(stack, upload=free(), download=free())
    stack = Traced(stack, events.append, clock=time.monotonic)
    policy = RetryPolicy(attempts=6)
    return Retrying(stack, policy, sleep=lambda _: None, random=lambda: 0.5)


@all_checks
def test_memory(check: Check) -> None:
    store = MemoryBackend("one")
    check(Subject(open=lambda: store))


@all_checks
def test_posix(check: Check, tmp_path: Path) -> None:
    check(folder_subject(tmp_path))


@all_checks
def test_s3_mock(check: Check, mock_bucket: Bucket) -> None:
    if check not in NOT_FOR_THE_MOCK:
        check(s3_subject(mock_bucket))


@pytest.fixture(scope="session")
def real_bucket(rgw: RgwServer) -> Bucket:
    return Bucket(rgw.endpoint, rgw.access_key, rgw.secret_key, rgw.make_bucket())


@pytest.mark.real
@all_checks
def test_s3_real(check: Check, real_bucket: Bucket) -> None:
    check(s3_subject(real_bucket))


@all_checks
def test_decorated_memory(check: Check) -> None:
    store = MemoryBackend("one")
    check(Subject(open=lambda: decorated(store)))


@all_checks
def test_decorated_posix(check: Check, tmp_path: Path) -> None:
    subject = folder_subject(tmp_path)
    check(replace(subject, open=lambda: decorated(subject.open()), in_processes=False))
