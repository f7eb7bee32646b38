"""Targets that can be taken away and brought back: a mounted disk, a bucket behind a port."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tests.acceptance.doorway import doorway
from tests.acceptance.scene import Target
from tests.real.postgres import give
from tests.real.rgw import RgwServer
from tests.storage_backends.mounts import need_root


@dataclass(frozen=True, slots=True)
class Store:
    target: Target
    leave: Callable[[], None]
    return_: Callable[[], None]


@contextmanager
def disk(root: Path, name: str) -> Iterator[Store]:
    """A folder mounted at root/name: away it leaves an empty mount point behind, as an unmounted disk does."""
    need_root()
    content, place = root / f"{name}.disk", root / name
    for path in (content, place):
        path.mkdir()
        give(path)

    def mount() -> None:
        subprocess.run(["mount", "--bind", content, place], check=True)

    def unmount() -> None:
        subprocess.run(["umount", "--lazy", place], check=True)

    mount()
    try:
        yield Store(Target(name, f"file://{place}", ('site = "two"',)), unmount, mount)
    finally:
        if os.path.ismount(place) or _mounted(place):
            unmount()


def _mounted(place: Path) -> bool:
    """A bind mount within one filesystem is not seen by comparing devices."""
    return f" {place} " in Path("/proc/self/mounts").read_text()


@contextmanager
def bucket(rgw: RgwServer, root: Path, name: str) -> Iterator[Store]:
    """A bucket of a Ceph gateway behind a port that can be shut."""
    with doorway(rgw.endpoint) as port:
        yield Store(s3_target(rgw, root, name, port), port.shut, port.open)


class Port(Protocol):
    """What stands before a server."""

    @property
    def endpoint(self) -> str: ...


def s3_target(rgw: RgwServer, root: Path, name: str, port: Port | None = None) -> Target:
    """A target in a new bucket, its credentials in files below `root`."""
    lines = ['site = "two"', 'medium = "object"', 'timeout = "5s"', 'addressing = "path"']
    lines.append(f'endpoint = "{port.endpoint if port else rgw.endpoint}"')
    for key, value in (("access_key_file", rgw.access_key), ("secret_key_file", rgw.secret_key)):
        path = root / f"{name}.{key}"
        path.write_text(value)
        path.chmod(0o600)
        give(path)
        lines.append(f'{key} = "{path}"')
    return Target(name, f"s3://{rgw.make_bucket()}/drkit", tuple(lines))
