"""From the URL of a target to its backend.

file:///srv/backup                  a folder
s3://bucket/prefix                  a bucket, everything below the prefix
s3://bucket/prefix?endpoint=URL     the same at another S3 service; or give the endpoint in the settings
memory:                             a new, empty store in memory, for tests
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from storage_backends.api import StorageBackend
from storage_backends.errors import Unsupported


@dataclass(frozen=True, slots=True)
class TargetSettings:
    """What a URL does not say. Secrets are here already resolved, and never shown.

    access_key and secret_key go together; without them `profile`, else the environment and files that boto3
    reads. addressing: where the bucket stands in requests. checksum: "when_supported" is boto3's own default,
    which other services than AWS often refuse. timeouts_s: to connect, and between two packets of an answer.
    pool_size: connections that are kept open once they were used, at least the number of threads that ask at once: the
    workers of a restore and 8 that read ahead, of others 8. create_root: only for 'init'.
    """

    endpoint: str = ""
    region: str = ""
    addressing: Literal["auto", "path", "virtual"] = "auto"
    access_key: str = field(default="", repr=False)
    secret_key: str = field(default="", repr=False)
    session_token: str = field(default="", repr=False)
    profile: str = ""
    checksum: Literal["when_required", "when_supported"] = "when_required"
    allow_unconditional: bool = False
    timeouts_s: tuple[float, float] = (10.0, 60.0)
    pool_size: int = 64
    single_put_bytes: int = 64 * 1024 * 1024
    part_bytes: int = 16 * 1024 * 1024
    max_parts: int = 10_000
    create_root: bool = False


def open_target(url: str, settings: TargetSettings) -> StorageBackend:
    """The bare backend of a target, without retry or limits.

    Raises Unsupported for a URL that is not understood, NotThisTarget where the folder is missing. A bucket is
    asked for at the first operation.
    """
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise _malformed(url, str(error)) from error
    if parts.username is not None or parts.password is not None:
        shown = f"{parts.scheme}://...@{parts.hostname}{parts.path}"
        raise _malformed(shown, "credentials do not belong in a URL: it is shown in messages and reports")
    if parts.fragment:
        raise _malformed(url, "'#' has no meaning here; write it as %23")
    if parts.scheme == "file":
        return _open_folder(url, parts, settings)
    if parts.scheme == "s3":
        return _open_s3(url, parts, settings)
    if parts.scheme == "memory":
        from storage_backends.memory import MemoryBackend

        return MemoryBackend(parts.path)
    raise _malformed(url, f"the scheme {parts.scheme!r} is not one of file, s3, memory")


def _open_folder(url: str, parts: SplitResult, settings: TargetSettings) -> StorageBackend:
    from storage_backends.posix import PosixBackend

    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost") or not path.startswith("/"):
        raise _malformed(url, "a folder is written file:///absolute/path, with three slashes")
    if parts.query or "\0" in path:
        raise _malformed(url, "a folder takes no '?'; write it as %3F")
    return PosixBackend(Path(path), create_root=settings.create_root)


def _open_s3(url: str, parts: SplitResult, settings: TargetSettings) -> StorageBackend:
    from storage_backends.s3 import S3Backend
    from storage_backends.s3_settings import S3Settings

    if not parts.netloc:
        raise _malformed(url, "the name of the bucket is missing: s3://bucket/prefix")
    query = parse_qs(parts.query, keep_blank_values=True)
    if set(query) - {"endpoint"}:
        raise _malformed(url, f"only 'endpoint' may follow the '?', not {', '.join(sorted(query))}")
    endpoint = query.get("endpoint", [settings.endpoint])[0]
    if settings.endpoint and endpoint != settings.endpoint:
        raise _malformed(url, f"its endpoint contradicts the configured one, {settings.endpoint}")
    return S3Backend(
        parts.netloc,
        unquote(parts.path).strip("/"),
        S3Settings(
            endpoint=endpoint,
            region=settings.region,
            addressing=settings.addressing,
            access_key=settings.access_key,
            secret_key=settings.secret_key,
            session_token=settings.session_token,
            profile=settings.profile,
            checksum=settings.checksum,
            allow_unconditional=settings.allow_unconditional,
            connect_timeout_s=settings.timeouts_s[0],
            read_timeout_s=settings.timeouts_s[1],
            pool_size=settings.pool_size,
            single_put_bytes=settings.single_put_bytes,
            part_bytes=settings.part_bytes,
            max_parts=settings.max_parts,
        ),
    )


def _malformed(url: str, why: str) -> Unsupported:
    cure = "set the target's url: file:///absolute/folder, or s3://bucket/prefix"
    return Unsupported(f"open the target {url!r}", why=why, cure=cure)
