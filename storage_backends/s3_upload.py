"""Writing one S3 object: a single conditional put, or parts of bounded size, some of them at once."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from storage_backends.api import Key, ObjectInfo, Upload
from storage_backends.errors import (
    AlreadyExists,
    NotFound,
    Resumable,
    StorageError,
    Unavailable,
    Unsupported,
)
from storage_backends.s3_parts import Parts

MIN_PART_BYTES = 5 * 1024 * 1024  # "Amazon S3 multipart upload limits"; the last part may be smaller
MAX_PART_BYTES = 5 * 1024 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Sizes:
    """single_put_bytes: up to this size one request. part_bytes: at least; grows to stay within max_parts."""

    single_put_bytes: int
    part_bytes: int
    max_parts: int

    def part(self, number: int, size_bytes: int | None) -> int:
        """Bytes of part `number` (from 1). Of unknown size, parts double after each eighth of the numbers.

        With the default 10,000 parts that begin at 8 MiB, objects end at 2.4 TiB and memory at 1 GiB.
        """
        if size_bytes is not None:
            wanted = max(self.part_bytes, -(-size_bytes // self.max_parts))
        else:
            wanted = self.part_bytes << min(20, (number - 1) * 8 // self.max_parts)
        return min(wanted, MAX_PART_BYTES)


Condition = Mapping[str, str]
"""Arguments of a put that make the store refuse it: `IfNoneMatch`, `IfMatch`, or none."""


class Requests(Protocol):
    """The requests that an upload makes; one try each, errors are StorageErrors. `put_part` from any thread."""

    def put(self, key: Key, body: bytes, md5: str, replacing: ObjectInfo | None = None) -> ObjectInfo: ...
    def begin_parts(self, key: Key, mark: str) -> str: ...
    def put_part(self, key: Key, upload_id: str, number: int, body: bytes, md5: str) -> str: ...
    def complete_parts(
        self, key: Key, upload_id: str, tags: Sequence[str], replacing: ObjectInfo | None = None
    ) -> None: ...
    def abort_parts(self, key: Key, upload_id: str) -> None: ...
    def mark_of(self, key: Key) -> tuple[ObjectInfo, str]: ...


class S3Upload:
    """Buffers up to `single_put_bytes`; what is larger goes in parts, and `Parts` has some of them in memory besides.

    Parts and their completion that do not get through are Resumable. The completion carries the condition
    too, but not every store heeds it there, so the key is looked up before: larger objects are checked, then
    written (`Traits.atomic_create_max_bytes`). mark: put on the object, tells our own from another's.
    """

    def __init__(
        self,
        requests: Requests,
        key: Key,
        sizes: Sizes,
        size_bytes: int | None,
        mark: Callable[[], str],
        replacing: ObjectInfo | None = None,
    ) -> None:
        self._requests, self._key, self._sizes, self._size = requests, key, sizes, size_bytes
        self._replacing = replacing
        self._mark = mark()
        self._chunks: list[bytes] = []
        self._buffered = self._sent = 0
        self._upload_id = ""
        self._begun = 0
        self._parts = Parts(self._put_part)
        self._in_parts = size_bytes is not None and size_bytes > sizes.single_put_bytes
        self._completing = self._ended = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        if self._ended:
            raise ValueError(f"the upload of {self._key} has ended")
        if memoryview(data).nbytes:
            self._chunks.append(bytes(data))  # no copy of what is bytes already
            self._buffered += len(self._chunks[-1])
        self._in_parts = self._in_parts or self._buffered > self._sizes.single_put_bytes
        if self._in_parts and (self._buffered >= self._next_part() or self._parts.failed):
            self._send(last=False)

    def commit(self) -> ObjectInfo:
        if self._ended:
            raise ValueError(f"the upload of {self._key} has ended")
        try:
            info = self._commit_parts() if self._in_parts else self._commit_whole()
        except Resumable:
            raise
        except BaseException:
            self.abort()
            raise
        self._ended = True
        self._chunks = []
        return info

    def abort(self) -> None:
        """Parts that cannot be dropped now stay invisible; `sweep_leftovers` drops them later."""
        if self._ended:
            return
        self._ended = True
        self._chunks = []
        if self._upload_id:
            self._parts.rest()  # one that came after the abort would stay
            try:
                self._requests.abort_parts(self._key, self._upload_id)
            except StorageError:
                pass

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *exc: object) -> None:
        self.abort()

    def _next_part(self) -> int:
        return self._sizes.part(self._begun + 1, self._size)

    def _commit_whole(self) -> ObjectInfo:
        body = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        return self._requests.put(self._key, body, content_md5(body), self._replacing)

    def _send(self, *, last: bool) -> None:
        """Send what failed again, the whole parts that are buffered, and if it is the last the rest too; wait then."""
        body = memoryview(self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks))
        try:
            self._parts.again()
            while len(body) >= self._next_part() or (last and body):
                part = bytes(body[: self._next_part()])
                self._send_part(part)
                self._sent += len(part)
                body = body[len(part) :]
            if last:
                self._parts.settle()
        except Unavailable as error:
            raise Resumable(error.what, where=error.where, why=error.why, cure=error.cure) from error
        finally:
            self._chunks = [bytes(body)] if body else []
            self._buffered = len(body)

    def _send_part(self, part: bytes) -> None:
        if not self._upload_id:
            self._upload_id = self._requests.begin_parts(self._key, self._mark)
        number = self._begun + 1
        if number > self._sizes.max_parts:
            why = f"more than {self._sizes.max_parts} parts; {self._sent} bytes were sent"
            raise Unsupported(f"write {self._key}", why=why, cure="declare the size, or raise max_parts")
        self._parts.start(number, part)
        self._begun = number

    def _put_part(self, number: int, part: bytes) -> str:
        return self._requests.put_part(self._key, self._upload_id, number, part, content_md5(part))

    def _commit_parts(self) -> ObjectInfo:
        self._send(last=True)
        try:
            if (own := self._already_there()) is not None:
                return own
            self._completing = True
            self._requests.complete_parts(self._key, self._upload_id, self._parts.tags, self._replacing)
            info, _ = self._requests.mark_of(self._key)
        except AlreadyExists:
            if (own := self._already_there()) is not None:
                return own
            raise
        except Unavailable as error:
            what = f"complete {self._key}"
            raise Resumable(what, where=error.where, why=error.why, cure=error.cure) from error
        return info

    def _already_there(self) -> ObjectInfo | None:
        """None when the way is free; our own object when an earlier completion went through unheard."""
        try:
            info, mark = self._requests.mark_of(self._key)
        except NotFound:
            if self._replacing is None:
                return None
            raise
        if self._completing and mark == self._mark:
            return info
        if self._replacing is not None and info.version == self._replacing.version:
            return None
        raise AlreadyExists(f"create {self._key}", why="the key is taken")


def content_md5(body: bytes) -> str:
    """The Content-MD5 header: the store checks what arrives against it (RFC 1864)."""
    return base64.b64encode(hashlib.md5(body, usedforsecurity=False).digest()).decode()
