"""How fast restores were on this host: measured by each, used by the next one's estimate."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from storage_backends import durable

_FILE = "restore-rates.json"
_LEAST_BYTES = 64 << 20  # less says more about start-up than about the disks


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes a second, None where never measured: of data fetched and written, and of WAL replayed."""

    fetch: float | None = None
    replay: float | None = None


def fetch_rate(written_bytes: int, kept_bytes: int, seconds: float) -> float | None:
    """Of a restore of the whole, None of a small one and of one that found much in place."""
    return written_bytes / seconds if written_bytes >= _LEAST_BYTES > kept_bytes and seconds > 0 else None


def read_rates(spool: Path) -> Rates:
    """What is not there or not readable was not measured: an estimate is all that hangs on it."""
    try:
        value = json.loads((spool / _FILE).read_text())
        return Rates(*(float(value[k]) if value.get(k) else None for k in ("fetch", "replay")))
    except (OSError, ValueError, TypeError, AttributeError):
        return Rates()


def write_rates(spool: Path, new: Rates) -> None:
    """Keep what was measured now, and the earlier value of what was not; the daemon reads what root measured."""
    old = read_rates(spool)
    kept = Rates(new.fetch or old.fetch, new.replay or old.replay)
    durable.replace(spool / _FILE, json.dumps(asdict(kept)).encode(), mode=0o644)
