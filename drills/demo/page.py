"""Where the demo's HTML report goes, so that it outlives the demo's folder."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from storage_backends import durable
from storage_backends.errors import StorageError

NAME = "drkit-demo-report.html"
_MODE = 0o644


def publish(page: Path, folder: Path | None, name: str = NAME) -> Path:
    """Copy a page to `folder`, in place of an earlier one; where that cannot be written to, under a new name to the
    system's temporary folder. Returns where it is. Raises OSError, StorageError.
    """
    content = page.read_bytes()
    if folder is not None:
        try:
            durable.replace(folder / name, content, mode=_MODE)
            return folder / name
        except (OSError, StorageError):
            pass  # no place for it: the other one is
    descriptor, path = tempfile.mkstemp(Path(name).suffix, f"{Path(name).stem}-")
    with os.fdopen(descriptor, "wb") as file:
        os.fchmod(descriptor, _MODE)
        file.write(content)
    return Path(path)
