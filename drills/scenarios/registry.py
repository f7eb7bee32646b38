"""The scenarios by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from drills.scenarios.api import Scenario
from drills.scenarios.disk_lost import DiskLost, RegionLoss
from drills.scenarios.dropped_table import DroppedTable
from drills.scenarios.wal_gap import WalGap

SCENARIOS: Mapping[str, Callable[[], Scenario]] = {
    "dropped-table": DroppedTable,
    "disk-lost": DiskLost,
    "region-loss": RegionLoss,
    "wal-gap": WalGap,
}
