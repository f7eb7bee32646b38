"""What is repeated, how often, and that no repetition loses, doubles or misjudges anything."""

from __future__ import annotations

import pytest

from storage_backends.api import Key, ObjectInfo, StorageBackend, Upload, key
from storage_backends.conformance import get, put
from storage_backends.errors import AlreadyExists, NotFound, OutOfSpace, Resumable, Unavailable
from storage_backends.faulty import Faulty
from storage_backends.memory import MemoryBackend
from storage_backends.passthrough import Passthrough, PassthroughUpload
from storage_backends.retry import Retrying, RetryPolicy
from storage_backends.trace import Event, Traced

MEBIBYTE = 1024 * 1024


class Bench:
    """A store with faults, every call recorded, under retries that do not really sleep."""

    def __init__(self, script: str, policy: RetryPolicy | None = None, store: StorageBackend | None = None) -> None:
        self.store = store or MemoryBackend("one")
        self.faulty = Faulty(self.store, script)
        self.events: list[Event] = []
        self.pauses: list[float] = []
        traced = Traced(self.faulty, self.events.append, clock=lambda: 0.0)
        self.backend = Retrying(traced, policy or RetryPolicy(), sleep=self.pauses.append, random=lambda: 0.5)

    def count(self, verb: str) -> int:
        return sum(event.verb == verb and event.phase == "begin" for event in self.events)


@pytest.mark.parametrize("script", ["create:503,lost", "write:503,lost,short", "commit:503", "commit:lost"])
def test_a_create_gets_through(script: str) -> None:
    bench = Bench(script)
    info = put(bench.backend, "t/one", b"the bytes")
    assert info == bench.store.stat(key("t/one"))
    assert get(bench.store, "t/one") == b"the bytes"
    assert len(bench.pauses) == script.count(",") + 1


def test_our_own_object_of_several_writes_is_success() -> None:
    bench = Bench("commit:lost;read:503")
    with bench.backend.create(key("t/one")) as upload:
        for piece in (b"one ", b"", b"two ", b"three"):
            upload.write(piece)
        assert upload.commit().size_bytes == 13
    assert get(bench.store, "t/one") == b"one two three"


@pytest.mark.parametrize("other", [b"other", b"the byteX", b"the bytes and more", b""])
def test_anothers_object_is_no_success(other: bytes) -> None:
    bench = Bench("commit:503")
    put(bench.store, "t/one", other)
    bench.faulty.add("create:503")
    with pytest.raises(AlreadyExists):
        put(bench.backend, "t/one", b"the bytes")
    assert get(bench.store, "t/one") == other


def test_without_a_failed_attempt_the_same_bytes_are_not_ours() -> None:
    bench = Bench("")
    put(bench.store, "t/one", b"the bytes")
    with pytest.raises(AlreadyExists):
        put(bench.backend, "t/one", b"the bytes")
    assert bench.count("open") == 0


def test_the_last_error_comes_out_after_the_last_attempt() -> None:
    bench = Bench("stat:503*", RetryPolicy(attempts=4, first_pause_s=1.0, factor=3.0, max_pause_s=5.0))
    with pytest.raises(Unavailable, match="503 on purpose"):
        bench.backend.stat(key("t/one"))
    assert bench.count("stat") == 4
    assert bench.pauses == [0.75, 2.25, 3.75]


@pytest.mark.parametrize(("fault", "kind"), [("missing", NotFound), ("full", OutOfSpace)])
def test_what_no_retry_helps_is_not_repeated(fault: str, kind: type[Exception]) -> None:
    bench = Bench(f"stat:{fault};commit:{fault}")
    with pytest.raises(kind):
        bench.backend.stat(key("t/one"))
    with pytest.raises(kind):
        put(bench.backend, "t/one", b"")
    assert bench.count("stat") == bench.count("commit") == 1 and bench.pauses == []


def test_a_reader_goes_on_where_it_broke() -> None:
    bench = Bench("read:ok,503,ok,lost,503")
    data = bytes(range(256)) * 8
    put(bench.store, "t/one", data)
    with bench.backend.open(key("t/one"), 8, 2000) as reader:
        pieces = [reader.read(500) for _ in range(5)]
    assert b"".join(pieces) == data[8:2008]
    assert bench.count("open") == 1 + 3
    assert sum(event.size_bytes for event in bench.events if event.verb == "read") == 2000


def test_a_whole_read_goes_on_where_it_broke() -> None:
    bench = Bench("read:ok,503,ok,503")
    data = bytes(range(256)) * (20 * 4096)
    put(bench.store, "t/one", data)
    assert get(bench.backend, "t/one") == data
    read_bytes = sum(event.size_bytes for event in bench.events if event.verb == "read")
    assert read_bytes == len(data), "what had arrived is not fetched again"


def test_a_listing_goes_on_after_its_last_key() -> None:
    bench = Bench("list:lost,503,lost,lost")
    names = [f"t/{number}" for number in range(9)]
    for name in names:
        put(bench.store, name, b"")
    assert [info.key for info in bench.backend.list("t/")] == names


def test_a_listing_that_gets_nowhere_fails() -> None:
    bench = Bench("list:503*", RetryPolicy(attempts=3))
    with pytest.raises(Unavailable):
        list(bench.backend.list())
    assert bench.count("list") == 3


def test_sleep_may_cancel() -> None:
    class Cancelled(Exception):
        pass

    def cancel(_: float) -> None:
        raise Cancelled

    backend = Retrying(Faulty(MemoryBackend(), "stat:503*"), RetryPolicy(), sleep=cancel, random=lambda: 0.5)
    with pytest.raises(Cancelled):
        backend.stat(key("t/one"))


@pytest.mark.parametrize("size_known", [True, False])
def test_past_the_bound_bytes_are_not_kept(size_known: bool) -> None:
    bench = Bench("create:503;write:ok,ok,503", RetryPolicy(replay_bytes=1000))
    size_bytes = 4000 if size_known else None
    with bench.backend.create(key("t/big"), size_bytes) as upload, pytest.raises(Unavailable):
        for _ in range(4):
            upload.write(bytes(1000))
    with pytest.raises(NotFound):
        bench.store.stat(key("t/big"))
    assert bench.count("create") == 2 and bench.count("write") == 3 and bench.count("abort") == 1


class _Resuming(Passthrough):
    """Takes the bytes, and says at first that they did not get through."""

    def __init__(self, inner: StorageBackend) -> None:
        super().__init__(inner)
        self.refusals = 3

    def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
        return _ResumingUpload(self, self._inner.create(key, size_bytes, replacing=replacing))


class _ResumingUpload(PassthroughUpload):
    def __init__(self, backend: _Resuming, inner: Upload) -> None:
        super().__init__(inner)
        self._backend, self._kept = backend, b""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._kept += data
        self._refuse()
        self._inner.write(self._kept)
        self._kept = b""

    def commit(self) -> ObjectInfo:
        self._refuse()
        return self._inner.commit()

    def _refuse(self) -> None:
        if self._backend.refusals:
            self._backend.refusals -= 1
            raise Resumable("write a part")


def test_parts_that_did_not_get_through_are_sent_again() -> None:
    store = _Resuming(MemoryBackend())
    bench = Bench("", RetryPolicy(replay_bytes=10), store)
    with bench.backend.create(key("t/big"), 200) as upload:
        upload.write(b"a" * 100)
        upload.write(b"b" * 100)
        store.refusals = 2
        upload.commit()
    assert get(store, "t/big") == b"a" * 100 + b"b" * 100
    assert len(bench.pauses) == 5


def test_an_upload_ends_once() -> None:
    bench = Bench("")
    upload = bench.backend.create(key("t/one"))
    upload.commit()
    for again in (upload.commit, lambda: upload.write(b"x")):
        with pytest.raises(ValueError, match="ended"):
            again()


def damaged(bench: Bench) -> ObjectInfo:
    """What is to be replaced, told of by the store itself."""
    put(bench.store, "t/one", b"damaged")
    return bench.store.stat(key("t/one"))


def heal(backend: StorageBackend, data: bytes, replacing: ObjectInfo) -> ObjectInfo:
    with backend.create(key("t/one"), len(data), replacing=replacing) as upload:
        upload.write(data)
        return upload.commit()


@pytest.mark.parametrize("script", ["create:503,lost", "write:503,short", "commit:503", "commit:lost"])
def test_a_replacement_gets_through(script: str) -> None:
    bench = Bench(script)
    heal(bench.backend, b"sound", damaged(bench))
    assert get(bench.store, "t/one") == b"sound"


def test_a_replacement_whose_answer_was_lost_is_found_by_reading_back() -> None:
    bench = Bench("commit:lost,503")
    info = heal(bench.backend, b"sound", damaged(bench))
    assert info.version == bench.store.stat(key("t/one")).version
    assert get(bench.store, "t/one") == b"sound"


def test_anothers_replacement_is_told() -> None:
    bench = Bench("commit:503")
    info = damaged(bench)
    heal(bench.store, b"another's", info)
    bench.faulty.add("commit:503")
    with pytest.raises(AlreadyExists):
        heal(bench.backend, b"sound", info)
    assert get(bench.store, "t/one") == b"another's"


def test_what_was_deleted_meanwhile_is_not_brought_back() -> None:
    bench = Bench("commit:503")
    info = damaged(bench)
    bench.store.delete(key("t/one"))
    with pytest.raises(NotFound):
        heal(bench.backend, b"sound", info)
    assert list(bench.store.list()) == []
