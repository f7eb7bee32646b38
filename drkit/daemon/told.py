"""What a job says on stderr, line by line into the daemon's log, however much it says."""

from __future__ import annotations

import json

from drkit.core.clock import Clock
from drkit.core.log import LEVELS, Field, Level, Log

LINE_BYTES = 16 << 10
BURST_LINES, LINES_PER_S = 200, 2.0
_TEXT = 1000


class Told:
    """Not thread-safe. Lines longer than `LINE_BYTES` are cut; of a flood `BURST_LINES` and then `LINES_PER_S` a second
    are passed on, and the rest is counted.

    why: what the command's error says (drkit.error/1), else its last line that is no event.
    """

    def __init__(self, log: Log, name: str, clock: Clock) -> None:
        self._log, self._name, self._clock = log, name, clock
        self._part = bytearray()
        self._allowed = float(BURST_LINES)
        self._at = clock.monotonic()
        self._dropped = 0
        self._error = self._last = ""

    @property
    def why(self) -> str:
        return self._error or self._last

    def take(self, data: bytes) -> None:
        """The next bytes, cut anywhere."""
        *lines, rest = data.split(b"\n")
        for line in lines:
            self._part += line[: LINE_BYTES - len(self._part)]
            self._line(self._part.decode("utf-8", "replace").strip())
            self._part.clear()
        self._part += rest[: LINE_BYTES - len(self._part)]

    def close(self) -> None:
        """The last line, and how many were left out."""
        if self._part:
            self.take(b"\n")
        if self._dropped:
            self._log.warn("job said more", bell=self._name, lines_dropped=self._dropped)

    def _line(self, line: str) -> None:
        if not line:
            return
        value = _object(line) if line.startswith("{") else None
        error = value.get("error") if value is not None else None
        if isinstance(error, dict):
            facts = {key: str(error.get(key) or "")[:_TEXT] for key in ("code", "what", "where", "why", "cure")}
            self._error = _sentence(facts)
            if self._may():
                self._log.error("job error", bell=self._name, **facts)
            return
        if value is not None and "phase" in value:
            return
        if value is None:
            self._last = line[:_TEXT]
        if not self._may():
            return
        if value is None:
            self._log.warn("job said", bell=self._name, text=line[:_TEXT])
        else:
            self._event(value)

    def _event(self, value: dict[str, object]) -> None:
        """An event of the job's own log, at its level and under its name."""
        level: Level = next((one for one in LEVELS if one == value.get("level")), "warn")
        fields: dict[str, Field] = {"bell": self._name, "job_run": str(value.get("run", ""))}
        for key, found in list(value.items())[:30]:
            if key not in ("at", "level", "run", "event", "bell") and isinstance(
                found, str | int | float | bool | None
            ):
                fields[key] = found[:_TEXT] if isinstance(found, str) else found
        self._log.event(level, str(value.get("event", "job said")), **fields)

    def _may(self) -> bool:
        """Whether one more line is passed on; counts it where not."""
        now = self._clock.monotonic()
        self._allowed = min(float(BURST_LINES), self._allowed + (now - self._at) * LINES_PER_S)
        self._at = now
        if self._allowed < 1:
            self._dropped += 1
            return False
        self._allowed -= 1
        return True


def _object(line: str) -> dict[str, object] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _sentence(error: dict[str, str]) -> str:
    where = f" ({error['where']})" if error["where"] else ""
    why = f": {error['why']}" if error["why"] else ""
    return f"{error['what']}{where}{why}"
