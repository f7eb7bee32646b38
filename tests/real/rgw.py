"""A real S3 service for tests: Ceph's RADOS gateway on loopback.

`python -m tests.real.rgw install` installs what it needs, with apt-get, as root.
"""

from __future__ import annotations

import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config

PACKAGES = ("radosgw", "ceph-mon", "ceph-osd", "ceph-mgr", "ceph-common")
OWNER = "drkit"
"""Who owns the buckets, as rgw.sh makes it."""
_SCRIPT = Path(__file__).with_name("rgw.sh")


@dataclass(frozen=True, slots=True)
class RgwServer:
    """A running gateway and the user who owns its buckets."""

    endpoint: str
    access_key: str
    secret_key: str
    folder: Path

    def make_bucket(self) -> str:
        """Make a new bucket and return its name."""
        name = "test-" + secrets.token_hex(6)
        client = self.client()
        client.create_bucket(Bucket=name)
        client.close()
        return name

    def client(self) -> Any:
        """A boto3 client of the owner."""
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            config=Config(s3={"addressing_style": "path"}, request_checksum_calculation="when_required"),
        )

    def add_user(self) -> tuple[str, str, str]:
        """Another user, who owns nothing and may do nothing: (name, access key, secret key)."""
        name, access_key, secret_key = "u" + secrets.token_hex(6), "AK" + secrets.token_hex(8), secrets.token_hex(20)
        keys = [f"--access-key={access_key}", f"--secret-key={secret_key}"]
        self._admin("user", "create", f"--uid={name}", f"--display-name={name}", *keys)
        return name, access_key, secret_key

    def set_quota(self, bucket: str, *, max_objects: int) -> None:
        """Bound a bucket before its first object."""
        which = ("--quota-scope=bucket", f"--bucket={bucket}")
        self._admin("quota", "set", *which, f"--max-objects={max_objects}")
        self._admin("quota", "enable", *which)

    def _admin(self, *words: str) -> None:
        environment = {**os.environ, "CEPH_CONF": str(self.folder / "ceph.conf")}
        subprocess.run(["radosgw-admin", *words], env=environment, check=True, capture_output=True)

    def stop(self) -> None:
        """Stop all daemons; the data stay."""
        subprocess.run([_SCRIPT, "stop", self.folder], check=True)


class NotInstalled(Exception):
    """The packages are missing and cannot be installed here."""


def ensure_installed() -> None:
    """Install the packages where they are missing; raises NotInstalled with the reason."""
    if shutil.which("radosgw") and shutil.which("ceph-mon") and shutil.which("ceph-osd"):
        return
    install = f"apt-get install -y --no-install-recommends {' '.join(PACKAGES)}"
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise NotInstalled(f"a Ceph gateway is missing, and only root on Debian can run: {install}")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["apt-get", "update", "-qq"], install.split()):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise NotInstalled(f"{' '.join(command)} failed: {done.stderr[-500:]}")


def start(folder: Path) -> RgwServer:
    """Start a new cluster in `folder`, whose path must be short: it holds Unix sockets."""
    access_key, secret_key = "AK" + secrets.token_hex(8), secrets.token_hex(20)
    port, monitor_port = _free_ports(2)
    environment = {**os.environ, "ACCESS_KEY": access_key, "SECRET_KEY": secret_key}
    server = RgwServer(f"http://127.0.0.1:{port}", access_key, secret_key, folder)
    command = [str(_SCRIPT), "start", str(folder), str(port), str(monitor_port)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        log = (folder / "start.log").read_text()[-2000:] if (folder / "start.log").exists() else ""
        server.stop()
        raise RuntimeError(f"the Ceph gateway did not start: {done.stderr}\n{log}")
    return server


@pytest.fixture(scope="session")
def rgw() -> Iterator[RgwServer]:
    """One gateway for the whole session; tests make buckets of their own."""
    try:
        ensure_installed()
    except NotInstalled as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    if os.geteuid() != 0:
        why = "the Ceph daemons are started as root only"
        if os.environ.get("CI"):
            pytest.fail(why)
        pytest.skip(why)
    folder = Path(tempfile.mkdtemp(prefix="drkit-rgw-", dir="/tmp"))
    server = None
    try:
        server = start(folder)
        yield server
    finally:
        if server is not None:
            server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def main() -> int:
    if sys.argv[1:] != ["install"]:
        sys.stderr.write("usage: python -m tests.real.rgw install\n")
        return 2
    try:
        ensure_installed()
    except NotInstalled as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
