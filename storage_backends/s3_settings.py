"""How to reach an S3 service."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from storage_backends.errors import Unsupported
from storage_backends.s3_upload import MIN_PART_BYTES


@dataclass(frozen=True, slots=True)
class S3Settings:
    """How to reach a bucket. Without keys and profile, boto3 looks in the environment and its files.

    endpoint: "" for AWS. checksum: for requests and answers both; "when_supported", boto3's default since 1.36,
    fails at services that do not know trailing checksums. read_timeout_s: between two packets of an answer.
    single_put_bytes: objects up to this size are held in memory and go by one request; larger ones by parts.
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
    connect_timeout_s: float = 10.0
    read_timeout_s: float = 60.0
    pool_size: int = 64
    single_put_bytes: int = 64 * 1024 * 1024
    part_bytes: int = 16 * 1024 * 1024
    max_parts: int = 10_000

    def __post_init__(self) -> None:
        if self.endpoint and not self.endpoint.startswith(("http://", "https://")):
            why = f"the endpoint {self.endpoint!r} does not begin with http:// or https://"
            raise Unsupported("open an S3 target", why=why)
        if bool(self.access_key) != bool(self.secret_key):
            raise Unsupported("open an S3 target", why="access key and secret key go together")
        if self.part_bytes < MIN_PART_BYTES or not 1 <= self.max_parts <= 10_000:
            why = f"parts have at least {MIN_PART_BYTES} bytes, and their number is 1 to 10000"
            raise Unsupported("open an S3 target", why=why)
