"""What an S3 service says, and what it does not: conditions, broken answers, errors, leftovers."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from storage_backends.api import ObjectInfo, key
from storage_backends.conformance import get, put
from storage_backends.errors import (
    AlreadyExists,
    Denied,
    NotFound,
    NotThisTarget,
    OutOfSpace,
    StorageError,
    Unavailable,
    Unsupported,
)
from storage_backends.s3 import S3Backend
from storage_backends.s3_errors import Conflict, PastTheEnd, from_answer
from storage_backends.s3_settings import S3Settings
from storage_backends.s3_upload import content_md5
from tests.real.rgw import RgwServer
from tests.storage_backends.conftest import MEBIBYTE, Bucket


def ignoring(backend: S3Backend) -> S3Backend:
    """A store that ignores `If-None-Match`: the header is dropped on its way."""

    def drop(params: dict[str, dict[str, str]], **_: object) -> None:
        params["headers"].pop("If-None-Match", None)

    backend._client.meta.events.register("before-call.s3", drop)
    return backend


def unconditional(bucket: Bucket) -> S3Backend:
    return ignoring(S3Backend(bucket.name, "p", replace(bucket.settings(), allow_unconditional=True)))


def test_a_store_that_ignores_conditions_is_refused(mock_bucket: Bucket) -> None:
    backend = ignoring(mock_bucket.open())
    for _ in range(2):
        with pytest.raises(Unsupported, match="ignores 'If-None-Match") as caught:
            backend.create(key("t/one"))
        assert "allow_unconditional" in caught.value.cure
    assert not backend.traits.conditional_create and backend.traits.atomic_create_max_bytes == 0
    assert list(mock_bucket.open().list()) == [], "no canary stays"


def test_it_may_be_allowed_and_is_not_called_safe(mock_bucket: Bucket) -> None:
    backend = unconditional(mock_bucket)
    put(backend, "t/one", b"first")
    for data in (b"second", bytes(2 * MEBIBYTE)):
        with pytest.raises(AlreadyExists):
            put(backend, "t/one", data)
    assert get(backend, "t/one") == b"first"
    assert not backend.traits.conditional_create


def test_a_store_that_honours_conditions_is_found_out(mock_bucket: Bucket) -> None:
    backend = mock_bucket.open()
    before = backend.traits
    assert not before.conditional_create, "nothing is claimed before it is proven"
    assert backend.probe_conditions()
    after = backend.traits
    assert after.conditional_create and after.atomic_create_max_bytes == MEBIBYTE
    assert list(backend.list()) == []


def test_what_is_foreign_in_a_bucket_is_not_listed(mock_bucket: Bucket) -> None:
    backend = mock_bucket.open()
    put(backend, "t/one", b"")
    put(mock_bucket.open("other"), "t/two", b"")
    for name in ("pre/fix/", "pre/fix/t/", "pre/fix/.hidden", "pre/fix/t/a b", "pre/fixed/x"):
        backend._client.put_object(Bucket=mock_bucket.name, Key=name, Body=b"")
    assert [info.key for info in backend.list()] == ["t/one"]
    assert [info.key for info in mock_bucket.open("").list("other/")] == ["other/t/two"]


@pytest.mark.parametrize(
    ("code", "status", "kind"),
    [
        ("NoSuchKey", 404, NotFound),
        ("404", 404, NotFound),
        ("NoSuchBucket", 404, NotThisTarget),
        ("AccessDenied", 403, Denied),
        ("403", 403, Denied),
        ("RequestTimeTooSkewed", 403, Denied),
        ("ExpiredToken", 400, Denied),
        ("QuotaExceeded", 403, OutOfSpace),
        ("", 507, OutOfSpace),
        ("PreconditionFailed", 412, AlreadyExists),
        ("ConditionalRequestConflict", 409, Conflict),
        ("InvalidRange", 416, PastTheEnd),
        ("SlowDown", 503, Unavailable),
        ("InternalError", 500, Unavailable),
        ("", 502, Unavailable),
        ("TooManyRequests", 429, Unavailable),
        ("RequestTimeout", 400, Unavailable),
        ("BadDigest", 400, Unavailable),
        ("NotImplemented", 501, Unsupported),
        ("InvalidArgument", 400, Unsupported),
    ],
)
def test_error_codes(code: str, status: int, kind: type[StorageError]) -> None:
    error = from_answer(code, status, "its words", "stat a", "s3://bucket")
    assert type(error) is kind and str(status) in error.why and "its words" in error.why
    assert error.retryable == issubclass(kind, Unavailable)


class Stall(bytes):
    """An answer after which the connection stays open, and silent."""


class Stub:
    """A server on loopback: each connection gets the next of the given answers, and an end."""

    def __init__(self, answers: list[bytes]) -> None:
        self.requests: list[str] = []
        self.asked = 0
        self._answers = answers
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._held: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        for answer in self._answers:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection.makefile("rb") as request:
                self.requests.append(request.readline().decode())
                length, asked = 0, False
                while (line := request.readline().strip()) != b"":
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                    asked = asked or line.lower() == b"expect: 100-continue"
                if asked:
                    self.asked += 1
                    connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
                request.read(length)
            connection.sendall(answer)
            if isinstance(answer, Stall):
                self._held.append(connection)
            else:
                connection.close()

    def close(self) -> None:
        for connection in self._held:
            connection.close()
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


@pytest.fixture
def stub() -> Iterator[Callable[..., tuple[Stub, S3Backend]]]:
    made: list[Stub] = []

    def make(*answers: bytes) -> tuple[Stub, S3Backend]:
        made.append(Stub(list(answers)))
        settings = S3Settings(
            endpoint=made[-1].endpoint,
            region="us-east-1",
            addressing="path",
            access_key="AK",
            secret_key="SK",
            connect_timeout_s=2.0,
            read_timeout_s=0.3,
        )
        return made[-1], S3Backend("bucket", "", settings)

    yield make
    for one in made:
        one.close()


def answer(status: str, body: bytes, *, length: int | None = None) -> bytes:
    head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body) if length is None else length}\r\n"
    head += "ETag: x\r\nLast-Modified: Tue, 01 Jan 2030 00:00:00 GMT\r\n"
    head += "Date: Tue, 01 Jan 2030 00:00:00 GMT\r\nConnection: close\r\n\r\n"
    return head.encode() + body


MakeStub = Callable[..., tuple[Stub, S3Backend]]


def test_a_short_body_never_looks_whole(stub: MakeStub) -> None:
    short = answer("200 OK", b"0123456789", length=100)
    _, backend = stub(short, short, short)
    for sizes in ([-1], [4, 6, 1], [100]):
        with backend.open(key("a")) as reader, pytest.raises(Unavailable):
            for size in sizes:
                reader.read(size)


def test_one_call_is_one_request(stub: MakeStub) -> None:
    """botocore would try again by itself; `retry` is the one place for that."""
    busy = answer("503 Slow Down", b"<Error><Code>SlowDown</Code><Message>wait</Message></Error>")
    server, backend = stub(busy, busy)
    with pytest.raises(Unavailable, match=r"SlowDown \(HTTP 503\), wait"):
        backend.open(key("a"))
    assert len(server.requests) == 1


def test_leave_is_asked_for_large_objects_until_one_was_taken_and_again_after_a_failure(stub: MakeStub) -> None:
    done, full = answer("200 OK", b""), answer("503 Slow Down", b"<Error><Code>SlowDown</Code></Error>")
    server, backend = stub(done, done, done, full, done)
    backend._conditional = True
    put(backend, "a", bytes(1000))
    assert server.asked == 0
    put(backend, "b", bytes(2 * MEBIBYTE))
    assert server.asked == 1
    put(backend, "c", bytes(2 * MEBIBYTE))
    assert server.asked == 1
    with pytest.raises(Unavailable):
        put(backend, "d", bytes(2 * MEBIBYTE))
    put(backend, "d", bytes(2 * MEBIBYTE))
    assert server.asked == 2


def test_answers_nobody_can_read_are_unavailable(stub: MakeStub) -> None:
    _, backend = stub(answer("502 Bad Gateway", b"<html>proxy"), b"garbage\r\n\r\n", b"", Stall())
    for _ in range(4):
        with pytest.raises(Unavailable):
            next(backend.list())


def test_a_silent_server_is_unavailable(stub: MakeStub) -> None:
    _, backend = stub(Stall())
    with pytest.raises(Unavailable, match=r"[Tt]imed? ?out"):
        backend.open(key("a"))


def test_a_body_that_stalls_is_unavailable(stub: MakeStub) -> None:
    _, backend = stub(Stall(answer("200 OK", b"0123456789", length=100)))
    with backend.open(key("a")) as reader:
        assert reader.read(10) == b"0123456789"
        with pytest.raises(Unavailable):
            reader.read(10)


def test_a_store_that_ignores_ranges_is_refused(stub: MakeStub) -> None:
    _, backend = stub(answer("200 OK", b"0123456789"))
    with pytest.raises(Unsupported, match="ignores ranges"):
        backend.open(key("a"), 5)


def test_a_store_that_lists_out_of_order_is_refused(stub: MakeStub) -> None:
    entry = "<Contents><Key>{}</Key><Size>1</Size><LastModified>2030-01-01T00:00:00Z</LastModified></Contents>"
    page = "<ListBucketResult>" + entry.format("b") + entry.format("a") + "</ListBucketResult>"
    _, backend = stub(answer("200 OK", page.encode()))
    with pytest.raises(Unsupported, match="key order"):
        list(backend.list())


def test_a_store_that_does_not_know_the_header_is_refused(stub: MakeStub) -> None:
    unknown = answer("501 Not Implemented", b"<Error><Code>NotImplemented</Code></Error>")
    _, backend = stub(unknown, answer("200 OK", b""), answer("200 OK", b""))
    assert not backend.probe_conditions()


def test_a_conflict_is_decided_by_looking(stub: MakeStub) -> None:
    conflict = answer("409 Conflict", b"<Error><Code>ConditionalRequestConflict</Code></Error>")
    absent = answer("404 Not Found", b"<Error><Code>NoSuchKey</Code></Error>")
    head = answer("404 Not Found", b"")
    _, backend = stub(conflict, answer("200 OK", b"", length=3), conflict, head, absent)
    backend._conditional = True
    with pytest.raises(AlreadyExists):
        put(backend, "a", b"one")
    with pytest.raises(Unavailable):
        put(backend, "a", b"one")


def test_no_credentials_are_denied(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/no/such/file")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/no/such/file")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    backend = S3Backend("bucket", "", S3Settings(endpoint="http://127.0.0.1:1"))
    with pytest.raises(Denied, match="credentials"):
        backend.stat(key("a"))
    with pytest.raises(Denied, match="profile"):
        S3Backend("bucket", "", S3Settings(profile="no-such"))


@pytest.mark.real
class TestReal:
    """What only a real service shows."""

    @pytest.fixture
    def bucket(self, rgw: RgwServer) -> Bucket:
        return Bucket(rgw.endpoint, rgw.access_key, rgw.secret_key, rgw.make_bucket())

    def test_conditions_are_proven(self, bucket: Bucket) -> None:
        backend = bucket.open()
        assert backend.probe_conditions() and backend.traits.conditional_create

    def test_conditions_dropped_on_the_way_are_noticed(self, bucket: Bucket) -> None:
        with pytest.raises(Unsupported, match="ignores"):
            put(ignoring(bucket.open()), "a", b"one")

    def test_wrong_credentials_are_denied(self, bucket: Bucket) -> None:
        for wrong in (replace(bucket, secret_key="wrong"), replace(bucket, access_key="wrong")):
            backend = wrong.open()
            for call in (
                lambda backend=backend: backend.stat(key("a")),
                lambda backend=backend: backend.open(key("a")),
                lambda backend=backend: list(backend.list()),
                lambda backend=backend: put(backend, "a", b""),
                lambda backend=backend: backend.delete(key("a")),
            ):
                with pytest.raises(Denied):
                    call()

    def test_bytes_damaged_on_the_way_are_not_stored(self, bucket: Bucket) -> None:
        backend = bucket.open()
        with pytest.raises(Unavailable, match="BadDigest"):
            backend.put(key("a"), b"what arrives", content_md5(b"what was sent"))
        with pytest.raises(NotFound):
            backend.stat(key("a"))
        upload_id = backend.begin_parts(key("a"), "mark")
        with pytest.raises(Unavailable, match="BadDigest"):
            backend.put_part(key("a"), upload_id, 1, b"what arrives", content_md5(b"what was sent"))

    def test_a_big_object_meets_one_made_meanwhile(self, bucket: Bucket) -> None:
        backend = bucket.open()
        with backend.create(key("big"), 11 * MEBIBYTE) as upload:
            upload.write(bytes(11 * MEBIBYTE))
            put(backend, "big", b"small")
            with pytest.raises(AlreadyExists):
                upload.commit()
        assert get(backend, "big") == b"small"

    def test_leftovers_are_swept(self, bucket: Bucket) -> None:
        backend = bucket.open()
        backend.begin_parts(key("dead"), "mark")
        put(backend, "canaries/conditional-create-old", b"first")
        put(backend, "alive", b"one")
        assert backend.sweep_leftovers(datetime.now(UTC)) == 0
        assert backend.sweep_leftovers(datetime.now(UTC) + timedelta(days=2)) == 2
        assert backend.sweep_leftovers(datetime.now(UTC) + timedelta(days=2)) == 0
        assert [info.key for info in backend.list()] == ["alive"]

    def test_a_spent_quota_is_out_of_space(self, rgw: RgwServer, bucket: Bucket) -> None:
        rgw.set_quota(bucket.name, max_objects=1)
        backend = bucket.open()
        backend._conditional = True
        put(backend, "a", b"one")
        with pytest.raises(OutOfSpace, match="QuotaExceeded"):
            for number in range(20):
                put(backend, f"b{number}", b"two")

    def test_checksums_of_newer_clients_are_a_setting(self, bucket: Bucket) -> None:
        settings = replace(bucket.settings(), checksum="when_supported")
        backend = S3Backend(bucket.name, "", settings)
        put(backend, "a", b"one")
        assert get(backend, "a") == b"one"


# --- replacing ----------------------------------------------------------------------------------------------------


def heal(backend: S3Backend, data: bytes, replacing: ObjectInfo) -> None:
    with backend.create(key("t/one"), len(data), replacing=replacing) as upload:
        upload.write(data)
        upload.commit()


def ignoring_match(backend: S3Backend) -> S3Backend:
    """A store that ignores `If-Match`."""

    def drop(params: dict[str, dict[str, str]], **_: object) -> None:
        params["headers"].pop("If-Match", None)

    backend._client.meta.events.register("before-call.s3", drop)
    return backend


def test_a_store_that_honours_if_match_is_found_out(mock_bucket: Bucket) -> None:
    backend = mock_bucket.open()
    first = put(backend, "t/one", b"damaged")
    before = backend.traits
    assert not before.conditional_replace, "nothing is claimed before it is proven"
    heal(backend, b"sound", first)
    after = backend.traits
    assert after.conditional_replace
    assert [info.key for info in backend.list()] == ["t/one"], "no canary stays"


def test_without_if_match_it_looks_and_puts(mock_bucket: Bucket) -> None:
    backend = ignoring_match(mock_bucket.open())
    first = put(backend, "t/one", b"damaged")
    heal(backend, b"sound", first)
    assert get(backend, "t/one") == b"sound" and not backend.traits.conditional_replace
    with pytest.raises(AlreadyExists):
        heal(backend, b"again", first)
    assert get(backend, "t/one") == b"sound"
    assert [info.key for info in backend.list()] == ["t/one"]


@pytest.mark.real
def test_a_real_gateway_replaces_under_its_own_condition(rgw: RgwServer) -> None:
    bucket = Bucket(rgw.endpoint, rgw.access_key, rgw.secret_key, rgw.make_bucket())
    backend = bucket.open()
    first = put(backend, "t/one", b"damaged")
    heal(backend, b"sound", first)
    assert get(backend, "t/one") == b"sound" and backend.traits.conditional_replace
