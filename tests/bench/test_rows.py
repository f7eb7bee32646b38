"""drkit beside pgBackRest and the machine's own tools, on the same data in one run.

    make bench                                    all rows; scale 50, some 850 MiB; 3 rounds
    make bench PYTEST_ARGS="-k restore"           rows by name: see ROWS in rows.py
    DRKIT_BENCH_SCALE=270 make bench              larger; also DRKIT_BENCH_ROUNDS, DRKIT_BENCH_SEGMENTS (of WAL)
    PGBACKREST=/opt/pgbackrest make bench         another pgBackRest than Debian's

It prints medians and ratios, writes bench.json and bench.md into DRKIT_BENCH_OUT (bench-results), and judges nothing:
machines differ, ratios in one run less so. Page checks, digests and encryption are on, as always.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator

import pytest

from tests.bench.contestants import has_pgbackrest, own_folder, peer_version
from tests.bench.rows import ROWS, Row
from tests.bench.scene import ROUNDS, SCALE, Scene
from tests.bench.table import Table

pytestmark = [pytest.mark.bench, pytest.mark.real]


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    if not has_pgbackrest():
        pytest.fail("pgBackRest is not installed: apt-get install pgbackrest, or PGBACKREST=/its/program")
    made = Scene()
    yield made
    made.close()


@pytest.fixture(scope="module")
def table(scene: Scene) -> Table:
    size = f"{scene.size_bytes / 2**20:.0f} MiB"
    return Table({"data": size, "scale": SCALE, "rounds": ROUNDS, "peer": peer_version()})


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
def test_row(row: Row, scene: Scene, table: Table, capsys: pytest.CaptureFixture[str]) -> None:
    folder = own_folder(scene.folder / row.name)
    folder.chmod(0o755)
    try:
        lines = table.add(row, row.measure(scene, folder))
    finally:
        scene.archive_with("true")
        shutil.rmtree(folder, ignore_errors=True)
    table.write()
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(lines) + "\n")
