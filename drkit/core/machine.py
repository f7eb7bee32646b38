"""Which machine this is."""

from __future__ import annotations

import os
from pathlib import Path


def machine_id() -> str:
    """What tells this machine from another: files adopted unread must come from the same one."""
    try:
        return Path("/etc/machine-id").read_text().strip() or os.uname().nodename
    except OSError:
        return os.uname().nodename
