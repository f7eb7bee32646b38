"""What an S3 service's error codes mean for a store, in one table.

Codes: "Error responses" of the Amazon S3 API reference; QuotaExceeded is Ceph's (rgw_http_errors.h), the
XMinio ones MinIO's. An unknown code is judged by its HTTP status.
"""

from __future__ import annotations

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


class PastTheEnd(Unsupported):
    """A range that starts behind the last byte, or any range of an empty object."""


class Conflict(Unavailable):
    """Another conditional write of the same key is under way: who wins is not known yet."""


_CLOCK = "is the clock of this host right?"
_REGION = "do region, endpoint and addressing belong to this bucket?"
_FULL = "free space there, raise the quota, or let retention keep less"

_CODES: dict[str, tuple[type[StorageError], str]] = {
    "NoSuchKey": (NotFound, ""),
    "NoSuchVersion": (NotFound, ""),
    "NoSuchUpload": (Unavailable, "does a lifecycle rule abort uploads while they run?"),
    "NoSuchBucket": (NotThisTarget, "does the bucket exist at this endpoint? drkit never makes one"),
    "PreconditionFailed": (AlreadyExists, ""),
    "ConditionalRequestConflict": (Conflict, ""),
    "OperationAborted": (Conflict, ""),
    "InvalidRange": (PastTheEnd, ""),
    "QuotaExceeded": (OutOfSpace, _FULL),
    "XMinioStorageFull": (OutOfSpace, _FULL),
    "XMinioAdminBucketQuotaExceeded": (OutOfSpace, _FULL),
    "InsufficientStorage": (OutOfSpace, _FULL),
    "AccessDenied": (Denied, "do the policies of user and bucket allow this?"),
    "InvalidAccessKeyId": (Denied, "is the access key right, and of this service?"),
    "SignatureDoesNotMatch": (Denied, "is the secret key right?"),
    "ExpiredToken": (Denied, "the session token has expired: fetch a new one"),
    "InvalidToken": (Denied, "the session token is not valid: fetch a new one"),
    "RequestTimeTooSkewed": (Denied, _CLOCK),
    "RequestExpired": (Denied, _CLOCK),
    "InvalidObjectState": (Unsupported, "the object is in an archive class: have the service restore it first"),
    "PermanentRedirect": (Unsupported, _REGION),
    "AuthorizationHeaderMalformed": (Unsupported, _REGION),
    "IllegalLocationConstraintException": (Unsupported, _REGION),
    "MissingContentLength": (Unsupported, "set checksum to 'when_required'"),
    "EntityTooLarge": (Unsupported, "set single_put_bytes lower"),
    "NotImplemented": (Unsupported, ""),
    # The bytes were damaged on the way and nothing was stored: the same request may go through later.
    "BadDigest": (Unavailable, "bytes arrive damaged: is there a proxy or a failing network card?"),
    "XAmzContentSHA256Mismatch": (Unavailable, "bytes arrive damaged: is there a proxy between?"),
    "IncompleteBody": (Unavailable, ""),
    "RequestTimeout": (Unavailable, ""),
    "SlowDown": (Unavailable, "the service asks for fewer requests: is the key space hot, or a limit low?"),
}

_STATUS: dict[int, tuple[type[StorageError], str]] = {
    301: (Unsupported, _REGION),
    307: (Unavailable, ""),
    401: (Denied, ""),
    403: (Denied, "do the policies of user and bucket allow this? is the key right?"),
    404: (NotFound, ""),
    408: (Unavailable, ""),
    409: (Conflict, ""),
    412: (AlreadyExists, ""),
    416: (PastTheEnd, ""),
    425: (Unavailable, ""),
    429: (Unavailable, ""),
    507: (OutOfSpace, _FULL),
}


def from_answer(code: str, status: int, message: str, what: str, where: str) -> StorageError:
    """The storage error for an answer of the service; `code` may be the bare status (answers to HEAD)."""
    default: tuple[type[StorageError], str] = (Unavailable, "") if status >= 500 else (Unsupported, "")
    kind, cure = _CODES.get(code) or _STATUS.get(status) or default
    why = f"HTTP {status}" if code in ("", str(status)) else f"{code} (HTTP {status})"
    if message and message != code:
        why += f", {message[:300]}"
    return kind(what, where=where, why=why, cure=cure)
