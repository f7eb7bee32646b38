"""Uses of frames added up over many maps are those that a walk over every run finds."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drkit.pipeline import usage as module
from drkit.pipeline.mapping import ZEROS, Map
from drkit.pipeline.usage import Countdown, FrameUsage, used_extents, useful
from tests.pipeline.test_mapping import CHUNK, maps

Frame = tuple[bytes, int]


def walked(table: Map, extents: list[int]) -> tuple[Counter[Frame], dict[Frame, set[int]]]:
    """Raw bytes used of each frame, and by which extents."""
    used: Counter[Frame] = Counter()
    by: dict[Frame, set[int]] = defaultdict(set)
    for index in extents:
        extent = table.extent(index)
        for run in extent.runs:
            if run["frame"] != ZEROS:
                row = table.frames[int(run["frame"])]
                frame = (table.packs[int(row["pack"])]["id"].tobytes(), int(row["number"]))
                left = extent.length - int(run["chunk"]) * CHUNK
                used[frame] += min(int(run["chunks"]) * CHUNK, left)
                by[frame].add(index)
    return used, by


@given(st.lists(maps(), max_size=4), st.data())
def test_uses_add_up(tables: list[Map], data: st.DataObject) -> None:
    made = FrameUsage(CHUNK)
    used: Counter[Frame] = Counter()
    extents: Counter[Frame] = Counter()
    raw: dict[Frame, int] = {}
    for table in tables:
        wanted = sorted(data.draw(st.sets(st.integers(0, len(table.extents) - 1)))) if len(table.extents) else []
        made.add(table, np.array(wanted, dtype=np.int64))
        one, by = walked(table, wanted)
        for frame, found in by.items():
            used[frame] += min(one[frame], 400)
            extents[frame] += len(found)
            raw[frame] = 400
    rows = made.frames()
    packs = made.packs
    names = [(packs[int(row["pack"])], int(row["number"])) for row in rows]
    assert dict(zip(names, rows["extents"].tolist(), strict=True)) == dict(extents)
    assert dict(zip(names, rows["used"].tolist(), strict=True)) == {f: min(n, raw[f]) for f, n in used.items()}
    assert (useful(rows) <= rows["sealed"]).all()
    left = Countdown(made)
    for frame, count in extents.items():
        told = [left.used(*frame, 1) for _ in range(count)]
        assert told == [False] * (count - 1) + [True], "needed until the last extent had it"
    assert not left.used(b"a pack not used ", 0, 1)


def test_a_pack_that_outgrows_its_places_gets_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_ROUND", 1)
    test_uses_add_up()


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.integers(0, 9))))
def test_extents_by_map(pairs: list[tuple[bytes, int]]) -> None:
    found = {name: extents.tolist() for name, extents in used_extents(iter(pairs)).items()}
    assert found == {name: sorted({n for other, n in pairs if other == name}) for name, _ in pairs}
