"""Names of objects: every key that is built can be taken apart again."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drkit.core.errors import UsageError
from drkit.repository.layout import CLUSTERS, ClusterLayout, Kind, RunId, report_folder, report_key
from storage_backends.api import key

moments = st.datetimes(datetime(1970, 1, 1), datetime(9999, 12, 31, 23, 59, 59), timezones=st.just(UTC))
runs = st.builds(RunId.new, moments, st.binary(min_size=4, max_size=4))
layouts = st.builds(ClusterLayout, st.integers(1, 2**64 - 1))
hexes = st.integers(0, 2**32 - 1).map(lambda number: f"{number:08X}")
segments = st.builds("{}{}{}".format, hexes, hexes, hexes)
files = st.one_of(
    segments,
    segments.map("{}.partial".format),
    st.builds("{}.{}.backup".format, segments, hexes),
    hexes.map("{}.history".format),
)


@given(runs)
def test_a_backup_id_comes_back(run: RunId) -> None:
    assert RunId.parse(str(run)) == run
    assert RunId.of_object(run.binary + bytes(4)) == run
    assert len(run.binary) == 12 and len(str(run)) == 25


def test_a_backup_id_is_written_as_the_format_says() -> None:
    run = RunId.new(datetime(2026, 3, 1, 12, 30, 59, 999999, tzinfo=UTC), b"\x00\x01\xab\xff")
    assert str(run) == "20260301T123059Z-0001abff"
    assert run.binary == (1772368259).to_bytes(8, "big") + b"\x00\x01\xab\xff"


def test_a_zone_does_not_change_a_backup_id() -> None:
    from datetime import timezone

    here = datetime(2026, 3, 1, 14, 30, 59, tzinfo=timezone(timedelta(hours=2)))
    assert str(RunId.new(here, bytes(4))) == "20260301T123059Z-00000000"


@pytest.mark.parametrize(
    "text",
    ["", "latest", "20260301T123059Z", "20260301T123059Z-0001ABFF", "20260301T123059Z-0001abff\n",
     "20261301T123059Z-0001abff", "20260230T000000Z-00000000", " 20260301T123059Z-0001abff",
     "20260301T123059Z-0001abff0"],
)  # fmt: skip
def test_what_is_no_backup_id_is_refused(text: str) -> None:
    with pytest.raises(UsageError):
        RunId.parse(text)


@given(layouts, runs, st.integers(0, 2**32 - 1), files, moments)
def test_every_key_is_one_that_stores_take_and_no_two_are_equal(
    layout: ClusterLayout, run: RunId, number: int, file: str, moment: datetime
) -> None:
    object_id = run.binary + number.to_bytes(4, "big")
    keys = [layout.data(kind, object_id) for kind in (Kind.PACK, Kind.MAP, Kind.FINGERPRINTS)]
    keys += [layout.manifest(run), layout.verdict(run), layout.archived(file), layout.quarantine(file, bytes(32))]
    keys += [layout.tombstones(layout.rounds(moment, run.random[:3]), 255), layout.lease(bytes(8).hex(), 1)]
    assert all(key(name) == name and name.startswith(layout.root) for name in keys)
    assert len(set(keys)) == len(keys)


@given(layouts, files)
def test_archived_files_lie_by_timeline_and_log(layout: ClusterLayout, file: str) -> None:
    name = layout.archived(file)
    assert key(name) == name
    if file.endswith(".history"):
        assert name == f"{layout.root}history/{file}"
    else:
        folder = layout.wal_folder(int(file[:8], 16), int(file[8:16], 16))
        assert name == folder + file and folder.startswith(layout.wal_folder(int(file[:8], 16)))


@given(runs, st.integers(0, 2**32 - 1))
def test_data_objects_are_named_by_run_and_number(run: RunId, number: int) -> None:
    layout = ClusterLayout(7)
    object_id = run.binary + number.to_bytes(4, "big")
    assert layout.data(Kind.PACK, object_id) == f"clusters/7/packs/{run}/{number:08x}"


@given(runs, st.integers(1, 2**64 - 1))
def test_reports_lie_beside_the_clusters(run: RunId, system: int) -> None:
    name = report_key(system, run)
    assert key(name) == name == f"{report_folder(system)}{run}"
    assert not name.startswith(CLUSTERS)
