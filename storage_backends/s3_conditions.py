"""Does an S3 store honour conditional writes? It is asked by canaries, as some ignore the headers and overwrite."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Protocol

from storage_backends.api import Key, ObjectInfo, Reader
from storage_backends.errors import AlreadyExists, Denied, NotFound, Unavailable, Unsupported
from storage_backends.s3_upload import Condition, content_md5

CANARIES = "canaries/conditional-create-"
ABSENT: Condition = {"IfNoneMatch": "*"}
_NO_TAG = '"00000000000000000000000000000000"'
_FIRST, _SECOND = b"first", b"second"


class Match(Enum):
    """How a store wants the ETag in `If-Match`. TOLD: as it tells it, in quotes (RFC 9110) · BARE: without them, as
    Ceph's gateway compares it (18.2, measured) · NOT: it does not honour the header."""

    TOLD = "told"
    BARE = "bare"
    NOT = "not"

    def still(self, found: ObjectInfo) -> Condition:
        """The condition that the object is still that very one. Its version here is the store's ETag."""
        if self is Match.NOT:
            return {}
        return {"IfMatch": found.version if self is Match.TOLD else found.version.strip('"')}


class Puts(Protocol):
    """What a probe needs of the backend."""

    def put_if(self, key: Key, body: bytes, md5: str, condition: Mapping[str, str]) -> ObjectInfo: ...
    def open(self, key: Key, start: int = 0, length: int | None = None) -> Reader: ...
    def delete(self, key: Key) -> None: ...


def honours_create(store: Puts, canary: Key) -> bool:
    """Put a canary twice under `If-None-Match: *`: the second must be refused and change nothing."""
    try:
        _put(store, canary, _FIRST, ABSENT)
    except Unsupported:
        # The header itself is refused, or something else is: without it the put tells.
        _put(store, canary, _FIRST, {})
        honoured = False
    else:
        honoured = _refused(store, canary, ABSENT) and _holds(store, canary, _FIRST)
    _clear(store, canary)
    return honoured


def match_of(store: Puts, canary: Key) -> Match:
    """Put over a canary under `If-Match`: of another ETag it must be refused, of its own it must go through."""
    first = _put(store, canary, _FIRST, {})
    found = Match.NOT
    if first.version and _refused(store, canary, {"IfMatch": _NO_TAG}) and _holds(store, canary, _FIRST):
        for way in (Match.TOLD, Match.BARE):
            if not _refused(store, canary, way.still(first)) and _holds(store, canary, _SECOND):
                found = way
                break
    _clear(store, canary)
    return found


def _put(store: Puts, canary: Key, body: bytes, condition: Condition) -> ObjectInfo:
    return store.put_if(canary, body, content_md5(body), condition)


def _refused(store: Puts, canary: Key, condition: Condition) -> bool:
    try:
        _put(store, canary, _SECOND, condition)
    except (AlreadyExists, NotFound, Unsupported):
        return True
    return False


def _holds(store: Puts, canary: Key, body: bytes) -> bool:
    with store.open(canary) as reader:
        return reader.read() == body


def _clear(store: Puts, canary: Key) -> None:
    try:
        store.delete(canary)
    except (Denied, Unavailable):
        pass  # the answer stands, also of credentials that only create; `sweep_leftovers` removes it
