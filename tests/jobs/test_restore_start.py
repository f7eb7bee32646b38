"""What a recovery that was followed tells of the next one."""

from __future__ import annotations

import pytest

from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.phases import Phase, PhaseSeen
from drkit.jobs.restore_start import replay_rate

SEGMENT = 16 << 20


def phases(replayed_bytes: int, seconds: float) -> tuple[PhaseSeen, PhaseSeen]:
    begin = Lsn(5 * SEGMENT + 40)
    return (
        PhaseSeen(Phase.REDO_STARTS, 10.0, str(begin), ""),
        PhaseSeen(Phase.REDO_DONE, 10.0 + seconds, str(begin + replayed_bytes), ""),
    )


def test_a_replay_of_some_seconds_and_segments_gives_a_rate() -> None:
    assert replay_rate(*phases(10 * SEGMENT, 5.0), SEGMENT) == 10 * SEGMENT / 5.0


@pytest.mark.parametrize(("replayed", "seconds"), [(200, 60.0), (3 * SEGMENT, 60.0), (10 * SEGMENT, 0.4), (0, 0.0)])
def test_a_short_one_gives_none(replayed: int, seconds: float) -> None:
    """A few hundred bytes in the seconds of a start would promise days for the next restore."""
    assert replay_rate(*phases(replayed, seconds), SEGMENT) is None


def test_none_without_both_ends() -> None:
    first, last = phases(10 * SEGMENT, 5.0)
    assert replay_rate(first, None, SEGMENT) is None
    assert replay_rate(None, last, SEGMENT) is None
    assert replay_rate(first, PhaseSeen(Phase.REDO_DONE, 20.0, "?", ""), SEGMENT) is None
