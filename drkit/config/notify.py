"""[notify]: who is told of what is wrong, beside the log."""

from __future__ import annotations

from datetime import timedelta
from typing import Literal, Self

from pydantic import model_validator

from drkit.config.section import Section
from drkit.config.values import AbsolutePath, Duration, Webhook


class Notify(Section):
    """Who is told when a promise breaks or a job fails, and when that is over. Without a way to tell: the log alone."""

    webhook: Webhook | None = None
    """A URL to which each event is sent as JSON (POST)."""
    webhook_file: AbsolutePath | None = None
    """A file with that URL, where the URL itself is a secret; not readable by everyone."""
    header_file: AbsolutePath | None = None
    """A file with one line `Name: value`, sent with each request, such as `Authorization: Bearer ...`; not readable by
    everyone."""
    command: tuple[str, ...] = ()
    """A program and its arguments, run without a shell; each event is JSON on its stdin."""
    timeout: Duration = timedelta(seconds=10)
    """How long one delivery may take."""
    min_level: Literal["info", "warn", "error"] = "warn"
    """The least that is told. That something is over is told to whoever heard of it."""
    repeat: Duration = timedelta(hours=4)
    """What lasts is told again after this; the same is never told more often."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.webhook is not None and self.webhook_file is not None:
            raise ValueError("one of webhook and webhook_file")
        if self.header_file is not None and self.webhook is None and self.webhook_file is None:
            raise ValueError("header_file goes with a webhook")
        if not timedelta(0) < self.timeout <= timedelta(minutes=10):
            raise ValueError("timeout is longer than 0s and at most 10m")
        if self.repeat < timedelta(minutes=1):
            raise ValueError("repeat is at least 1m")
        return self
