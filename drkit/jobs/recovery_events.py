"""drkit.recovery-events: what the fetches of a recovery met, a line of JSON each, beside the recovery file.

The server's log tells it too, among much else and in the server's words. Who reads this file: `drkit restore --start`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

RECOVERY_EVENTS = "drkit.recovery-events"


@dataclass(frozen=True, slots=True)
class Fetch:
    """One WAL file asked for. source: the target that gave it, "" where none did and that is doubt.

    size_bytes: of the file that was given · damaged, failed, missing: target -> what it answered instead
    """

    file: str
    source: str = ""
    size_bytes: int = 0
    damaged: Mapping[str, str] = field(default_factory=dict)
    failed: Mapping[str, str] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WalDamage:
    """An object that was not what was written. served_by: the target that gave the file instead, "" for none."""

    file: str
    target: str
    why: str
    served_by: str


def note(data_dir: Path, fetch: Fetch) -> None:
    """Append one line. Best effort, not synced: recovery never waits for it or fails by it."""
    line = json.dumps(asdict(fetch)).encode() + b"\n"
    try:
        # One write of O_APPEND: a prefetch beside it cannot get between the halves of a line.
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        descriptor = os.open(data_dir / RECOVERY_EVENTS, flags, 0o600)
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)
    except OSError:
        return


def read_events(data_dir: Path) -> list[Fetch]:
    """All lines that can be read, oldest first; none where there is no such file."""
    try:
        text = (data_dir / RECOVERY_EVENTS).read_text(errors="replace")
    except OSError:
        return []
    return list(_parsed(text))


def _parsed(text: str) -> Iterator[Fetch]:
    for line in text.splitlines():
        try:
            yield Fetch(**json.loads(line))
        except (ValueError, TypeError):
            continue  # cut short by a crash or a full disk


def damages(events: Sequence[Fetch]) -> tuple[WalDamage, ...]:
    """Each damaged object once, in the order in which they were met."""
    served = {event.file: event.source for event in events if event.source}
    found = {(e.file, target): why for e in events for target, why in e.damaged.items()}
    return tuple(WalDamage(file, target, why, served.get(file, "")) for (file, target), why in found.items())


def served_elsewhere(events: Sequence[Fetch]) -> frozenset[str]:
    """Files that one target had not, or not sound, and that another one gave."""
    return frozenset(event.file for event in events if event.source and (event.damaged or event.missing))


def wal_bytes(events: Sequence[Fetch]) -> dict[str, int]:
    """Bytes of WAL, as the server reads them, by the target that gave them."""
    found: dict[str, int] = {}
    for event in events:
        if event.source:
            found[event.source] = found.get(event.source, 0) + event.size_bytes
    return found


def unserved(events: Sequence[Fetch]) -> Fetch | None:
    """The file that recovery ended for: the last one asked for, where no target gave it."""
    return events[-1] if events and not events[-1].source else None
