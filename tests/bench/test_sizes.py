"""The table behind the sizes of chunk, frame and pack: `make bench PYTEST_ARGS="-k sizes"`.

Writes sizes.md into DRKIT_BENCH_OUT (bench-results); docs/decisions/0007-sizes.md shows one.
"""

from __future__ import annotations

import sys

import pytest

from drkit.pipeline.adopting import Sizes
from tests.bench.scene import ROUNDS, SCALE, Scene
from tests.bench.sizes import ALTERNATIVES, HEADS, Cost, cost, extents_of
from tests.bench.table import OUT

pytestmark = [pytest.mark.bench, pytest.mark.real]


def test_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    scene = Scene()
    try:
        place = str(scene.server.value("select pg_relation_filepath('pgbench_accounts')"))
        files = sorted((scene.server.data / place).parent.glob(f"{place.rpartition('/')[2]}*"))
        files = [file for file in files if "_" not in file.name]
        versions = [extents_of(files, Sizes().extent)]
        for change in (scene.update_contiguous, scene.update_scattered):
            change()
            versions.append(extents_of(files, Sizes().extent)[: len(versions[0])])
    finally:
        scene.close()
    lines = ["| " + " | ".join(HEADS) + " |", "|" + "---|" * len(HEADS)]
    base: Cost | None = None
    for sizes in ALTERNATIVES:
        found = cost(sizes, versions, ROUNDS)
        base = base or found
        lines.append("| " + " | ".join(found.row(base)) + " |")
        with capsys.disabled():
            sys.stdout.write("\n" + lines[-1])
    OUT.mkdir(parents=True, exist_ok=True)
    size = sum(map(len, versions[0])) >> 20
    (OUT / "sizes.md").write_text(f"pgbench_accounts, scale {SCALE}, {size} MiB\n\n" + "\n".join(lines) + "\n")
