"""Leave to send a large body: asked for (`Expect: 100-continue`) where a refusal would save many bytes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_ASK_BEFORE_BYTES = 1024 * 1024


class Leave:
    """boto3 asks before every body; the answer costs a round trip, or a second where a proxy swallows it.

    Here it is asked before large ones alone, and only until one was taken: who may write goes on to. After a failure it
    is asked again, as a store that refuses in the midst of a body may just break the connection, which tells no cause.
    Thread-safe.
    """

    def __init__(self) -> None:
        self._given = False

    def before_call(self, params: dict[str, Any], **_: object) -> None:
        """For boto3's event `before-call`."""
        body = params["body"]
        if not hasattr(body, "seek"):
            return
        if self._given or body.seek(0, io.SEEK_END) < _ASK_BEFORE_BYTES:
            params["headers"].pop("Expect", None)
        body.seek(0)

    @contextmanager
    def sending(self, size_bytes: int) -> Iterator[None]:
        """Around a request with a body."""
        try:
            yield
        except BaseException:
            self._given = False
            raise
        self._given = self._given or size_bytes >= _ASK_BEFORE_BYTES
