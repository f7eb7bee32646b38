"""How fast restores were on this host: measured by each, used by the next one's estimate."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from storage_backends import durable

_FILE = "restore-rates.json"


@dataclass(frozen=True, slots=True)
class Rates:
    """Bytes a second, None where never measured: of data fetched and written, and of WAL replayed."""

    fetch: float | None = None
    replay: float | None = None


def read_rates(spool: Path) -> Rates:
    """What is not there or not readable was not measured: an estimate is all that hangs on it."""
    try:
        value = json.loads((spool / _FILE).read_text())
        return Rates(*(float(value[k]) if value.get(k) else None for k in ("fetch", "replay")))
    except (OSError, ValueError, TypeError, AttributeError):
        return Rates()


def write_rates(spool: Path, new: Rates) -> None:
    """Keep what was measured now, and the earlier value of what was not."""
    old = read_rates(spool)
    kept = Rates(new.fetch or old.fetch, new.replay or old.replay)
    durable.replace(spool / _FILE, json.dumps(asdict(kept)).encode())
