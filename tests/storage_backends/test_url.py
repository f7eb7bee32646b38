"""URLs become backends; what is malformed is named."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from storage_backends.conformance import get, put
from storage_backends.errors import NotThisTarget, Unsupported
from storage_backends.url import TargetSettings, open_target

KEYS = TargetSettings(endpoint="http://127.0.0.1:1", access_key="AK", secret_key="very-secret", region="here")


def test_folders(tmp_path: Path) -> None:
    root = tmp_path / "with space"
    with pytest.raises(NotThisTarget):
        open_target(root.as_uri(), TargetSettings())
    made = open_target(root.as_uri(), TargetSettings(create_root=True))
    put(made, "a", b"one")
    again = open_target(made.url, TargetSettings())
    assert get(again, "a") == b"one" and again.url == made.url == root.as_uri()


def test_buckets() -> None:
    backend = open_target("s3://bucket/some/prefix/", KEYS)
    assert backend.url == "s3://bucket/some/prefix?endpoint=http://127.0.0.1:1"
    assert backend.traits.device == "127.0.0.1:1/here"
    again = open_target(backend.url, TargetSettings(access_key="AK", secret_key="SK"))
    assert again.url == backend.url
    assert open_target("s3://bucket", TargetSettings(access_key="A", secret_key="S")).url == "s3://bucket"


def test_memory() -> None:
    assert open_target("memory:one", TargetSettings()).url == "memory:one"


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "scheme"),
        ("/srv/backup", "scheme"),
        ("ftp://host/x", "'ftp'"),
        ("file://srv/backup", "three slashes"),
        ("file:relative", "three slashes"),
        ("file:///srv?x=1", "%3F"),
        ("file:///srv#x", "%23"),
        ("s3:///prefix", "bucket is missing"),
        ("s3://bucket/a//b", "not allowed"),
        ("s3://bucket/../x", "not allowed"),
        ("s3://bucket?region=x", "only 'endpoint'"),
        ("s3://bucket?endpoint=http://other", "contradicts"),
        ("http://[::1", "Invalid IPv6"),
    ],
)
def test_malformed(url: str, why: str) -> None:
    with pytest.raises(Unsupported) as caught:
        open_target(url, KEYS)
    assert why in str(caught.value)


def test_credentials_are_never_shown() -> None:
    with pytest.raises(Unsupported, match="do not belong") as caught:
        open_target("s3://AK:very-secret@bucket/x", KEYS)
    shown = [str(caught.value), repr(caught.value), repr(KEYS), open_target("s3://bucket", KEYS).url]
    assert not any("very-secret" in text or "AK" in text for text in shown)


def test_half_a_credential_is_refused() -> None:
    with pytest.raises(Unsupported, match="go together"):
        open_target("s3://bucket", TargetSettings(access_key="AK"))
    with pytest.raises(Unsupported, match="http://"):
        open_target("s3://bucket", TargetSettings(endpoint="127.0.0.1:9000"))


def test_importing_is_cheap() -> None:
    """boto3 takes 150 ms to import: only who opens a bucket pays."""
    script = (
        "import sys, storage_backends.s3, storage_backends.url;"
        "sys.exit(any(name in sys.modules for name in ('boto3', 'botocore', 'urllib3')))"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0
