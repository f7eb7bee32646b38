"""Parts: their sizes, what is repeated, and whose object it is in the end."""

from __future__ import annotations

import base64
import hashlib
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pytest

from storage_backends.api import Key, ObjectInfo, key
from storage_backends.errors import AlreadyExists, Denied, NotFound, Resumable, Unavailable, Unsupported
from storage_backends.s3_parts import AT_ONCE, MOST_BYTES, Parts
from storage_backends.s3_upload import S3Upload, Sizes, content_md5

MEBIBYTE = 1024 * 1024
NOW = datetime(2030, 1, 1, tzinfo=UTC)


class Requests:
    """An S3 service in memory. lose: names of requests that are carried out and not answered."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, str]] = {}
        self.parts: dict[int, bytes] = {}
        self.mark = ""
        self.fail: list[str] = []
        self.lose: list[str] = []
        self.calls: list[str] = []
        self.lock = threading.Lock()
        self.before_part: Callable[[int], None] = lambda number: None

    def _ask(self, name: str) -> None:
        with self.lock:
            self.calls.append(name)
            if name in self.fail:
                self.fail.remove(name)
                raise Unavailable(name, where="s3://bucket", why="HTTP 503")

    def _answer(self, name: str) -> None:
        with self.lock:
            if name in self.lose:
                self.lose.remove(name)
                raise Unavailable(name, where="s3://bucket", why="timed out")

    def put(self, key: Key, body: bytes, md5: str, replacing: ObjectInfo | None = None) -> ObjectInfo:
        self._ask("put")
        assert md5 == content_md5(body)
        if key in self.objects:
            raise AlreadyExists("create")
        self.objects[key] = (body, "")
        self._answer("put")
        return ObjectInfo(key, len(body), NOW)

    def begin_parts(self, key: Key, mark: str) -> str:
        self._ask("begin")
        self.parts, self.mark = {}, mark
        self._answer("begin")
        return "upload-1"

    def put_part(self, key: Key, upload_id: str, number: int, body: bytes, md5: str) -> str:
        self._ask("part")
        self.before_part(number)
        assert md5 == content_md5(body)
        self.parts[number] = body
        self._answer("part")
        return f"tag-{number}"

    def complete_parts(
        self, key: Key, upload_id: str, tags: Sequence[str], replacing: ObjectInfo | None = None
    ) -> None:
        self._ask("complete")
        assert list(tags) == [f"tag-{number}" for number in sorted(self.parts)]
        self.objects[key] = (b"".join(self.parts[number] for number in sorted(self.parts)), self.mark)
        self._answer("complete")

    def abort_parts(self, key: Key, upload_id: str) -> None:
        self._ask("abort")
        self.parts = {}

    def mark_of(self, key: Key) -> tuple[ObjectInfo, str]:
        self._ask("stat")
        if key not in self.objects:
            raise NotFound("stat")
        body, mark = self.objects[key]
        return ObjectInfo(key, len(body), NOW), mark


def upload(requests: Requests, size_bytes: int | None = None, max_parts: int = 100) -> S3Upload:
    return S3Upload(requests, key("a"), Sizes(100, 50, max_parts), size_bytes, lambda: "mine")


DATA = bytes(range(256)) * 2


def test_up_to_the_bound_it_is_one_request() -> None:
    requests = Requests()
    with upload(requests) as one:
        one.write(DATA[:60])
        one.write(DATA[60:100])
        one.commit()
    assert requests.calls == ["put"] and requests.objects["a"][0] == DATA[:100]


@pytest.mark.parametrize("size_bytes", [len(DATA), None])
@pytest.mark.parametrize("step", [7, 50, 120, 512])
def test_larger_ones_go_in_parts(size_bytes: int | None, step: int) -> None:
    requests = Requests()
    with upload(requests, size_bytes) as one:
        for at in range(0, len(DATA), step):
            one.write(DATA[at : at + step])
        assert one.commit().size_bytes == len(DATA)
    assert requests.objects["a"][0] == DATA
    lengths = [len(requests.parts[number]) for number in sorted(requests.parts)]
    assert all(length >= 50 for length in lengths[:-1])
    assert "put" not in requests.calls and requests.calls.count("complete") == 1


@pytest.mark.parametrize("name", ["begin", "part"])
@pytest.mark.parametrize("how", ["fail", "lose"])
def test_a_part_is_sent_again_on_request(name: str, how: str) -> None:
    """Noticed by a later write or by the commit, as parts are under way by themselves."""
    requests = Requests()
    getattr(requests, how).extend([name, name])
    with upload(requests, len(DATA)) as one:
        resumed = insist(lambda: one.write(DATA), lambda: one.write(b""))
        resumed += insist(one.commit, one.commit)
    assert requests.objects["a"][0] == DATA and 1 <= resumed <= 2
    assert not requests.fail and not requests.lose


def insist(call: Callable[[], object], again: Callable[[], object]) -> int:
    """Call until it is not Resumable; how often it was."""
    for resumed in range(10):
        try:
            (again if resumed else call)()
        except Resumable:
            continue
        return resumed
    raise AssertionError("resumed without an end")


def test_parts_are_under_way_together_and_no_more_than_there_is_room_for() -> None:
    """Each waits until as many as may are there; of parts that fill the room alone there is one at a time."""
    meeting, most = threading.Barrier(AT_ONCE), 0
    under_way, lock = 0, threading.Lock()

    def send(number: int, body: bytes) -> str:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
        if len(body) < MOST_BYTES:
            meeting.wait(timeout=60)
        with lock:
            under_way -= 1
        return f"tag-{number}"

    parts = Parts(send)
    for number in range(1, 3 * AT_ONCE + 1):
        parts.start(number, b"small")
    parts.settle()
    assert most == AT_ONCE and parts.tags == [f"tag-{number}" for number in range(1, 3 * AT_ONCE + 1)]
    most = 0
    large = bytes(MOST_BYTES)
    for number in range(100, 103):
        parts.start(number, large)
    parts.settle()
    assert most == 1


def test_a_part_that_is_refused_ends_the_upload_and_none_comes_after_the_abort() -> None:
    requests = Requests()
    denied = threading.Event()

    def refuse(number: int) -> None:
        if number == 2:
            denied.set()
            raise Denied("write part 2 of a", where="s3://bucket", why="HTTP 403")
        denied.wait(timeout=60)

    requests.before_part = refuse
    with upload(requests, len(DATA)) as one, pytest.raises(Denied, match="part 2"):
        one.write(DATA)
        one.commit()
    assert requests.calls[-1] == "abort" and requests.objects == {} and requests.parts == {}


def test_the_last_part_and_completion_are_repeated_on_request() -> None:
    requests = Requests()
    with upload(requests, 120) as one:
        one.write(DATA[:120])
        requests.fail += ["part", "stat", "complete"]
        for _ in range(3):
            with pytest.raises(Resumable):
                one.commit()
        one.commit()
    assert requests.objects["a"][0] == DATA[:120] and "abort" not in requests.calls


def test_a_lost_completion_is_known_by_its_mark() -> None:
    requests = Requests()
    requests.lose = ["complete"]
    with upload(requests, len(DATA)) as one:
        one.write(DATA)
        with pytest.raises(Resumable):
            one.commit()
        assert one.commit().size_bytes == len(DATA)
    assert requests.calls.count("complete") == 1


def test_anothers_object_stays() -> None:
    requests = Requests()
    with upload(requests, len(DATA)) as one:
        one.write(DATA)
        requests.objects["a"] = (b"other", "other")
        with pytest.raises(AlreadyExists):
            one.commit()
    assert requests.objects["a"][0] == b"other" and requests.calls[-1] == "abort"


def test_an_abort_that_fails_is_left_to_the_sweep() -> None:
    requests = Requests()
    requests.fail = ["abort"]
    with upload(requests, len(DATA)) as one:
        one.write(DATA)
    assert requests.calls[-1] == "abort" and requests.objects == {}


@pytest.mark.parametrize("size_bytes", [101, 499_999, 500_000, 500_001, 10**9])
def test_parts_of_a_known_size_are_few_enough_and_equal(size_bytes: int) -> None:
    sizes = Sizes(100, 50, 10_000)
    part = sizes.part(1, size_bytes)
    assert -(-size_bytes // part) <= 10_000
    assert part >= 50 and sizes.part(10_000, size_bytes) == part


def test_parts_of_an_unknown_size_grow_to_tebibytes() -> None:
    sizes = Sizes(64 * MEBIBYTE, 16 * MEBIBYTE, 10_000)
    parts = [sizes.part(number, None) for number in range(1, 10_001)]
    assert parts == sorted(parts) and parts[0] == 16 * MEBIBYTE and parts[-1] == 2048 * MEBIBYTE
    assert sum(parts) > 4 * 1024 * 1024 * MEBIBYTE


def test_more_parts_than_allowed_are_refused() -> None:
    requests = Requests()
    with upload(requests, None, max_parts=2) as one, pytest.raises(Unsupported, match="more than 2 parts"):
        one.write(bytes(51 + 50 * 16))
        one.write(bytes(50 * 32))
        one.commit()
    assert requests.objects == {} and requests.calls[-1] == "abort"


def test_the_digest_is_of_rfc_1864() -> None:
    assert content_md5(b"") == base64.b64encode(hashlib.md5(b"").digest()).decode()
