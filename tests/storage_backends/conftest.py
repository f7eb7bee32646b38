"""Targets to test against: folders, and an S3 mock on loopback."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from dataclasses import dataclass

import boto3
import pytest
from moto.server import ThreadedMotoServer

from storage_backends.s3 import S3Backend
from storage_backends.s3_settings import S3Settings

pytest.register_assert_rewrite("storage_backends.conformance")

MEBIBYTE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket somewhere; can be pickled, so that other processes can open it."""

    endpoint: str
    access_key: str
    secret_key: str
    name: str

    def settings(self) -> S3Settings:
        """Small sizes: above 1 MiB in parts of 5 MiB."""
        return S3Settings(
            endpoint=self.endpoint,
            region="us-east-1",
            addressing="path",
            access_key=self.access_key,
            secret_key=self.secret_key,
            single_put_bytes=MEBIBYTE,
            part_bytes=5 * MEBIBYTE,
            connect_timeout_s=5.0,
            read_timeout_s=30.0,
        )

    def open(self, prefix: str = "pre/fix") -> S3Backend:
        return S3Backend(self.name, prefix, self.settings())


@pytest.fixture(scope="session")
def moto_endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def mock_bucket(moto_endpoint: str) -> Bucket:
    """A new, empty bucket of the mock. It does not check secrets or digests, and is not atomic."""
    name = "test-" + secrets.token_hex(6)
    client = boto3.client(
        "s3",
        endpoint_url=moto_endpoint,
        region_name="us-east-1",
        aws_access_key_id="mock",
        aws_secret_access_key="mock",
    )
    client.create_bucket(Bucket=name)
    client.close()
    return Bucket(moto_endpoint, "mock", "mock", name)
