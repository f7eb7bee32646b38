"""Objects in a bucket of any S3 service, by boto3: the only module that imports it.

boto3 is imported by the constructor, as it takes 150 ms. botocore's own retries are off: `retry` is the one place.

A create is a put with `If-None-Match: *`. Stores exist that ignore the header and overwrite, so before the
first create the store is asked by a canary (`s3_conditions`). A store that fails this is refused too, unless
`allow_unconditional` says that there is one writer; then a create looks, and puts. A replacing create is a put with
`If-Match` where the store honours that, and elsewhere looks, and puts.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from storage_backends.api import Key, ObjectInfo, Reader, Traits, Upload, is_key_part, key
from storage_backends.errors import (
    AlreadyExists,
    Denied,
    NotFound,
    StorageError,
    Unavailable,
    Unsupported,
)
from storage_backends.s3_conditions import ABSENT, CANARIES, Match, honours_create, match_of
from storage_backends.s3_errors import Conflict, PastTheEnd, from_answer
from storage_backends.s3_leave import Leave
from storage_backends.s3_settings import S3Settings
from storage_backends.s3_upload import Condition, S3Upload, Sizes

if TYPE_CHECKING:
    from botocore.response import StreamingBody
    from mypy_boto3_s3 import S3Client

_MARK = "upload"  # the name of the metadata that tells our own multipart object from another's
_TEBIBYTE = 2**40
_REACH = "can this host reach the endpoint, also in DNS and through its proxy?"


def _token() -> str:
    return secrets.token_hex(8)


class S3Backend:
    """A bucket, or all below a prefix of one. Thread-safe.

    Nothing is asked before the first operation; a bucket that is missing is NotThisTarget. traits say
    conditional_create only after the store has proven it (`probe_conditions`, or the first create).
    token: random text, for names of canaries and marks of uploads.
    """

    def __init__(
        self,
        bucket: str,
        prefix: str,
        settings: S3Settings,
        *,
        token: Callable[[], str] = _token,
    ) -> None:
        self._bucket, self._settings, self._token = bucket, settings, token
        self._prefix = key(prefix) + "/" if prefix else ""
        self._url = f"s3://{bucket}" + (f"/{prefix}" if prefix else "")
        if settings.endpoint:
            self._url += f"?endpoint={settings.endpoint}"
        self._sizes = Sizes(settings.single_put_bytes, settings.part_bytes, settings.max_parts)
        self._lock, self._leave = threading.Lock(), Leave()
        self._conditional: bool | None = None
        self._match: Match | None = None
        with self._asking("open"):
            self._client = _connect(settings, self._leave)

    @property
    def url(self) -> str:
        return self._url

    @property
    def traits(self) -> Traits:
        host = urlsplit(self._settings.endpoint).netloc or "aws"
        return Traits(
            scheme="s3",
            conditional_create=bool(self._conditional),
            atomic_create_max_bytes=self._settings.single_put_bytes if self._conditional else 0,
            max_object_bytes=5 * _TEBIBYTE,
            range_read_min_bytes=512 * 1024,  # 10 ms to the first byte at 50 MB/s, an estimate
            device=f"{host}/{self._client.meta.region_name}",
            conditional_replace=self._match not in (None, Match.NOT),
            sweep=self.sweep_leftovers,
            prove=self._prove,
        )

    def create(self, key: Key, size_bytes: int | None = None, *, replacing: ObjectInfo | None = None) -> Upload:
        _check(key)
        if replacing is not None:
            with self._lock:
                if self._match is None:
                    self._match = match_of(self, self._canary())
            self._refuse_other(key, replacing)
            return S3Upload(self, key, self._sizes, size_bytes, self._token, replacing)
        self._prove()
        if not self._conditional and not self._settings.allow_unconditional:
            why = "this store ignores 'If-None-Match: *': two writers could overwrite each other unnoticed"
            cure = "use a store that honours it, or allow_unconditional where there is one writer only"
            raise Unsupported(f"create {key}", where=self._url, why=why, cure=cure)
        return S3Upload(self, key, self._sizes, size_bytes, self._token)

    def _prove(self) -> None:
        """Ask the store for its conditions, unless that was done; who asks first is waited for."""
        with self._lock:
            if self._conditional is None:
                self._conditional = honours_create(self, self._canary())

    def open(self, key: Key, start: int = 0, length: int | None = None) -> Reader:
        _check(key)
        if length == 0:
            self.stat(key)
            return _Reader(self, key, None, 0)
        wanted: dict[str, Any] = {}
        if start or length is not None:
            wanted["Range"] = f"bytes={start}-" + ("" if length is None else str(start + length - 1))
        try:
            with self._asking(f"open {key}"):
                answer = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key, **wanted)
        except PastTheEnd:
            return _Reader(self, key, None, 0)
        body = answer["Body"]
        if wanted and answer["ResponseMetadata"]["HTTPStatusCode"] != 206:
            body.close()
            raise Unsupported(f"open {key}", where=self._url, why="this store ignores ranges")
        return _Reader(self, key, body, answer["ContentLength"])

    def stat(self, key: Key) -> ObjectInfo:
        return self.mark_of(key)[0]

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        wanted: dict[str, Any] = {"StartAfter": self._prefix + after} if after >= prefix and after else {}
        last = ""
        while True:
            with self._asking(f"list {prefix}"):
                page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._prefix + prefix, **wanted)
            for found in page.get("Contents", []):
                name = found["Key"].removeprefix(self._prefix)
                if name < last:
                    why = f"this store does not list in key order: {name} after {last}"
                    raise Unsupported(f"list {prefix}", where=self._url, why=why)
                last = name
                if name <= after or not all(is_key_part(part) for part in name.split("/")):
                    continue
                yield ObjectInfo(Key(name), found["Size"], found["LastModified"].astimezone(UTC), found.get("ETag", ""))
            if not page.get("IsTruncated"):
                return
            wanted = {"ContinuationToken": page["NextContinuationToken"]}

    def delete(self, key: Key) -> None:
        _check(key)
        with self._asking(f"delete {key}"):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    def close(self) -> None:
        self._client.close()

    def probe_conditions(self) -> bool:
        """Ask the store now whether it honours `If-None-Match: *`; the answer is kept for `traits`."""
        with self._lock:
            self._conditional = honours_create(self, self._canary())
            return self._conditional

    def sweep_leftovers(self, now: datetime, older_than_s: float = 86_400.0) -> int:
        """Drop unfinished uploads and canaries begun more than `older_than_s` before `now`; returns how many.

        now: by the clock of the store, as of an object just created there.
        """
        limit = now - timedelta(seconds=older_than_s)
        swept = 0
        for info in self.list(CANARIES):
            if info.modified_at < limit:
                self.delete(info.key)
                swept += 1
        with self._asking("sweep"):
            pages = self._client.get_paginator("list_multipart_uploads")
            for page in pages.paginate(Bucket=self._bucket, Prefix=self._prefix):
                for found in page.get("Uploads", []):
                    if found["Initiated"] < limit:
                        self._client.abort_multipart_upload(
                            Bucket=self._bucket, Key=found["Key"], UploadId=found["UploadId"]
                        )
                        swept += 1
        return swept

    # What an upload asks for (`s3_upload.Requests`).

    def put(self, key: Key, body: bytes, md5: str, replacing: ObjectInfo | None = None) -> ObjectInfo:
        if not self._condition(replacing):
            self._refuse_other(key, replacing)
        try:
            return self.put_if(key, body, md5, self._condition(replacing))
        except (Conflict, AlreadyExists):
            self._refuse_other(key, replacing)  # some answer 412 where nothing is there to be replaced
            raise

    def begin_parts(self, key: Key, mark: str) -> str:
        with self._asking(f"begin the parts of {key}"):
            return self._client.create_multipart_upload(
                Bucket=self._bucket, Key=self._prefix + key, Metadata={_MARK: mark}
            )["UploadId"]

    def put_part(self, key: Key, upload_id: str, number: int, body: bytes, md5: str) -> str:
        with self._asking(f"write part {number} of {key}"), self._leave.sending(len(body)):
            return self._client.upload_part(
                Bucket=self._bucket,
                Key=self._prefix + key,
                UploadId=upload_id,
                PartNumber=number,
                Body=body,
                ContentMD5=md5,
            )["ETag"]

    def complete_parts(
        self, key: Key, upload_id: str, tags: Sequence[str], replacing: ObjectInfo | None = None
    ) -> None:
        condition: dict[str, Any] = {**self._condition(replacing)}
        with self._asking(f"complete {key}"):
            self._client.complete_multipart_upload(
                Bucket=self._bucket,
                Key=self._prefix + key,
                UploadId=upload_id,
                MultipartUpload={"Parts": [{"ETag": tag, "PartNumber": number} for number, tag in enumerate(tags, 1)]},
                **condition,
            )

    def abort_parts(self, key: Key, upload_id: str) -> None:
        with self._asking(f"abort {key}"):
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=self._prefix + key, UploadId=upload_id)

    def mark_of(self, key: Key) -> tuple[ObjectInfo, str]:
        """An object and the mark of the upload that made it. NotFound only where the store says so.

        The answer to HEAD has no body, so a missing bucket looks like a missing object: GET tells them apart.
        """
        _check(key)
        bucket, name = self._bucket, self._prefix + key
        try:
            with self._asking(f"stat {key}"):
                head = self._client.head_object(Bucket=bucket, Key=name)
        except NotFound:
            with self._asking(f"stat {key}"):
                found = self._client.get_object(Bucket=bucket, Key=name)
            found["Body"].close()
            modified_at, size_bytes, marks = found["LastModified"], found["ContentLength"], found["Metadata"]
            tag = found.get("ETag", "")
        else:
            modified_at, size_bytes, marks = head["LastModified"], head["ContentLength"], head["Metadata"]
            tag = head.get("ETag", "")
        return ObjectInfo(key, size_bytes, modified_at.astimezone(UTC), tag), marks.get(_MARK, "")

    def put_if(self, key: Key, body: bytes, md5: str, condition: Mapping[str, str]) -> ObjectInfo:
        wanted: dict[str, Any] = {**condition}
        with self._asking(f"create {key}"), self._leave.sending(len(body)):
            answer = self._client.put_object(
                Bucket=self._bucket, Key=self._prefix + key, Body=body, ContentMD5=md5, **wanted
            )
        date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
        if date is None:
            return self.stat(key)
        return ObjectInfo(key, len(body), parsedate_to_datetime(date).astimezone(UTC), answer.get("ETag", ""))

    def _refuse_other(self, key: Key, replacing: ObjectInfo | None) -> None:
        """Raises unless the key is free, or the very object is there that is to be replaced."""
        try:
            found = self.stat(key)
        except NotFound:
            if replacing is None:
                return
            raise
        if replacing is None:
            raise AlreadyExists(f"create {key}", where=self._url, why="the key is taken")
        if found.version != replacing.version:
            raise AlreadyExists(f"replace {key}", where=self._url, why="another object is there by now")

    def _condition(self, replacing: ObjectInfo | None) -> Condition:
        if replacing is None:
            return ABSENT if self._conditional else {}
        return self._match.still(replacing) if self._match is not None else {}

    def _canary(self) -> Key:
        return Key(CANARIES + self._token())

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        """Within it the errors of boto3 become storage errors."""
        from botocore.exceptions import BotoCoreError, ClientError, HTTPClientError
        from urllib3.exceptions import HTTPError

        try:
            yield
        except ClientError as error:
            told = error.response.get("Error", {})
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
            raise from_answer(told.get("Code", ""), status, told.get("Message", ""), what, self._url) from error
        except (HTTPClientError, HTTPError, OSError) as error:
            raise Unavailable(what, where=self._url, why=str(error), cure=_REACH) from error
        except BotoCoreError as error:
            raise _from_botocore(error, what, self._url) from error


class _Reader:
    """The body of one answer; its end before the announced length is an error, never the end."""

    def __init__(self, backend: S3Backend, key: Key, body: StreamingBody | None, size_bytes: int) -> None:
        self._backend, self._key, self._body = backend, key, body
        self._left = size_bytes

    def read(self, size_bytes: int = -1, /) -> bytes:
        wanted = self._left if size_bytes < 0 else min(self._left, size_bytes)
        pieces = []
        while wanted and self._body is not None:
            with self._backend._asking(f"read {self._key}"):
                piece = self._body.read(wanted)
            if not piece:
                why = f"the answer ended {self._left} bytes early"
                raise Unavailable(f"read {self._key}", where=self._backend.url, why=why)
            self._left -= len(piece)
            wanted -= len(piece)
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        if self._body is not None:
            self._body.close()
        self._body, self._left = None, 0

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _connect(settings: S3Settings, leave: Leave) -> S3Client:
    import boto3
    from botocore.config import Config

    session = boto3.Session(profile_name=settings.profile or None)
    client = session.client(
        "s3",
        endpoint_url=settings.endpoint or None,
        region_name=settings.region or session.region_name or "us-east-1",
        aws_access_key_id=settings.access_key or None,
        aws_secret_access_key=settings.secret_key or None,
        aws_session_token=settings.session_token or None,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": settings.addressing},
            retries={"total_max_attempts": 1, "mode": "standard"},
            connect_timeout=settings.connect_timeout_s,
            read_timeout=settings.read_timeout_s,
            max_pool_connections=settings.pool_size,
            tcp_keepalive=True,
            request_checksum_calculation=settings.checksum,
            response_checksum_validation=settings.checksum,
        ),
    )
    client.meta.events.register_last("before-call.s3", leave.before_call)
    return client


def _from_botocore(error: Exception, what: str, where: str) -> StorageError:
    """Errors that arose before a request, or from an answer that nobody can read."""
    from botocore import exceptions

    without_credentials = (
        exceptions.NoCredentialsError,
        exceptions.PartialCredentialsError,
        exceptions.CredentialRetrievalError,
        exceptions.ProfileNotFound,
        exceptions.TokenRetrievalError,
    )
    if isinstance(error, without_credentials):
        cure = "give access_key and secret_key, a profile, or AWS_ACCESS_KEY_ID in the environment"
        return Denied(what, where=where, why=str(error), cure=cure)
    if isinstance(error, exceptions.ParamValidationError | exceptions.InvalidConfigError):
        return Unsupported(what, where=where, why=str(error))
    return Unavailable(what, where=where, why=str(error), cure=_REACH)


def _check(text: Key) -> None:
    key(text)
