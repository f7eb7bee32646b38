"""What every job receives; nothing below the composition root constructs its own."""

from __future__ import annotations

from dataclasses import dataclass

from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.log import Log
from drkit.core.progress import Progress
from drkit.crypto.keys import Entropy
from drkit.repository.repository import Repository


@dataclass(frozen=True, slots=True)
class Means:
    repository: Repository
    clock: Clock
    entropy: Entropy
    token: CancelToken
    progress: Progress
    log: Log
