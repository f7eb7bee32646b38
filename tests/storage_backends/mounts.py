"""Real small filesystems for tests."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def need_root() -> None:
    """Skip where mounting is not possible; in CI that is a failure."""
    if os.geteuid() == 0:
        return
    if os.environ.get("CI"):
        pytest.fail("these tests mount filesystems and run as root")
    pytest.skip("mounting a tmpfs needs root")


def mount(folder: Path, options: str) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], check=True)


def unmount(folder: Path, *flags: str) -> None:
    subprocess.run(["umount", *flags, str(folder)], check=True)


@contextmanager
def tmpfs(folder: Path, options: str = "size=1m") -> Iterator[Path]:
    """A tmpfs at `folder`, which is made; unmounted at the end if it still is mounted."""
    need_root()
    folder.mkdir(exist_ok=True)
    mount(folder, options)
    try:
        yield folder
    finally:
        if folder.is_mount():
            unmount(folder, "--lazy")
