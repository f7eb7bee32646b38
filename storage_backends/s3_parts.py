"""Parts of one upload on their way, several at once."""

from __future__ import annotations

import threading
from collections.abc import Callable

AT_ONCE = 4
MOST_BYTES = 64 * 1024 * 1024


class Parts:
    """Sends parts by `send(number, body) -> tag`, each in a thread of its own. For one thread, as the upload is.

    Memory: AT_ONCE parts, together at most MOST_BYTES, or a single one that is larger. Parts that failed are kept.
    """

    def __init__(self, send: Callable[[int, bytes], str]) -> None:
        self._send = send
        self._changed = threading.Condition()
        self._under_way: dict[int, int] = {}
        self._failed: dict[int, tuple[bytes, BaseException]] = {}
        self._tags: dict[int, str] = {}

    @property
    def failed(self) -> bool:
        """Whether some must be sent again."""
        with self._changed:
            return bool(self._failed)

    @property
    def tags(self) -> list[str]:
        """Of the parts that arrived, by their numbers."""
        return [self._tags[number] for number in sorted(self._tags)]

    def start(self, number: int, body: bytes) -> None:
        """Send a part when there is room; raises what an earlier one met, and has then not taken this one."""
        with self._changed:
            self._changed.wait_for(lambda: self._failed or self._has_room(len(body)))
            self._check()
            self._begin(number, body)

    def again(self) -> None:
        """Send those that failed once more."""
        with self._changed:
            failed, self._failed = self._failed, {}
            for number, (body, _) in sorted(failed.items()):
                self._begin(number, body)

    def settle(self) -> None:
        """Wait for all. Raises what the first in order of those that failed met: an Unavailable before `again`."""
        self.rest()
        self._check()

    def rest(self) -> None:
        """Wait until none is under way, whatever became of them."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way)

    def _check(self) -> None:
        if self._failed:
            raise self._failed[min(self._failed)][1]

    def _has_room(self, size_bytes: int) -> bool:
        held = sum(self._under_way.values())
        return not held or (len(self._under_way) < AT_ONCE and held + size_bytes <= MOST_BYTES)

    def _begin(self, number: int, body: bytes) -> None:
        """With the lock held."""
        self._under_way[number] = len(body)
        threading.Thread(target=self._run, args=(number, body), name=f"part {number}", daemon=True).start()

    def _run(self, number: int, body: bytes) -> None:
        tag, failure = "", None
        try:
            tag = self._send(number, body)
        except BaseException as error:  # noqa: BLE001  a thread root: raised to who writes
            failure = error
        with self._changed:
            del self._under_way[number]
            if failure is None:
                self._tags[number] = tag
            else:
                self._failed[number] = (body, failure)
            self._changed.notify_all()
