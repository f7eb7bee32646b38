"""Flags that several verbs share."""

from __future__ import annotations

from typing import Annotated

import typer

from drkit.core.flow import MOST_WORKERS

NetworkRate = Annotated[
    str | None,
    typer.Option("--network-rate", metavar="50MB", help="send to and fetch from each target at most so much a second"),
]
Workers = Annotated[int, typer.Option("--workers", min=0, max=MOST_WORKERS, help="0: as many as cores")]
