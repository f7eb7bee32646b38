"""What a bench run found, as JSON and as a table in Markdown."""

from __future__ import annotations

import json
import os
import platform
import statistics
from collections.abc import Sequence
from pathlib import Path

from tests.bench.meter import Sample
from tests.bench.rows import Found, Row

OUT = Path(os.environ.get("DRKIT_BENCH_OUT", "bench-results"))
_HEADS = ("row", "who", "s (median)", "spread", "CPU s", "peak MiB", "stored MiB", "drkit's time against it", "goal")


class Table:
    """Rows as they come; `write` may be called after each."""

    def __init__(self, about: dict[str, object]) -> None:
        self._about = about | {"cores": os.cpu_count(), "python": platform.python_version()}
        self._rows: list[tuple[Row, Found]] = []

    def add(self, row: Row, found: Found) -> list[str]:
        """Lines to be shown now."""
        self._rows.append((row, found))
        return _lines(row, found)

    def write(self) -> None:
        """Replace `bench.json` and `bench.md` in OUT."""
        OUT.mkdir(parents=True, exist_ok=True)
        value = self._about | {"rows": [_facts(row, found) for row, found in self._rows]}
        (OUT / "bench.json").write_text(json.dumps(value, indent=1) + "\n")
        lines = [" | ".join(("", *_HEADS, "")).strip(), "|" + "---|" * len(_HEADS)]
        lines += [line for row, found in self._rows for line in _lines(row, found)]
        about = ", ".join(f"{key} {value}" for key, value in self._about.items())
        (OUT / "bench.md").write_text(f"{about}\n\n" + "\n".join(lines) + "\n")


def _facts(row: Row, found: Found) -> dict[str, object]:
    runs = {
        who: {
            "seconds": [round(s.seconds, 3) for s in samples],
            "cpu_s": [round(s.cpu_s, 3) for s in samples],
            "peak_bytes": max(s.peak_bytes for s in samples),
            "stored_bytes": found.stored.get(who),
        }
        for who, samples in found.samples.items()
    }
    return {"row": row.name, "what": row.what, "peer": row.peer, "goal": row.goal, "runs": runs}


def _median(samples: Sequence[Sample]) -> float:
    return statistics.median(s.seconds for s in samples)


def _lines(row: Row, found: Found) -> list[str]:
    ours = _median(found.samples["drkit"])
    return [_line(row, who, samples, found, ours) for who, samples in found.samples.items()]


def _line(row: Row, who: str, samples: Sequence[Sample], found: Found, ours: float) -> str:
    seconds = sorted(s.seconds for s in samples)
    stored = found.stored.get(who)
    cells = [
        row.what if who == "drkit" else "",
        who.replace("|", "\\|"),
        f"{_median(samples):.2f}",
        f"{seconds[0]:.2f} to {seconds[-1]:.2f}",
        f"{statistics.median(s.cpu_s for s in samples):.2f}",
        f"{max(s.peak_bytes for s in samples) / 2**20:.0f}",
        "" if stored is None else f"{stored / 2**20:.2f}",
        "" if who == "drkit" else f"{ours / _median(samples):.2f}",
        f"{row.goal:.2f}" if who == row.peer and row.goal is not None else "",
    ]
    return "| " + " | ".join(cells) + " |"
