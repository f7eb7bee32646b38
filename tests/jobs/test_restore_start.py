"""What a recovery that was followed tells of the next one."""

from __future__ import annotations

import pytest

from drkit.core.cancel import CancelToken
from drkit.core.clock import SystemClock
from drkit.core.errors import Cancelled
from drkit.core.progress import Event
from drkit.engines.postgres.lsn import Lsn
from drkit.engines.postgres.phases import Phase, PhaseSeen
from drkit.jobs.restore_start import StartOrder, replay_rate, start
from tests.real.postgres import new_server

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


class StopsAtFirstSight:
    """As an operator who sees recovery begin and sends SIGTERM."""

    def __init__(self, token: CancelToken) -> None:
        self._token = token

    def emit(self, event: Event) -> None:
        self._token.cancel("SIGTERM was received")


@pytest.mark.real
def test_a_recovery_that_is_stopped_leaves_no_server_and_can_go_on() -> None:
    server = new_server(15)
    try:
        server.set(
            restore_command="case %f in *.history) false;; *) sleep 20; false;; esac", recovery_target_action="promote"
        )
        (server.data / "recovery.signal").touch()
        clock = SystemClock()
        token = CancelToken(clock=clock)
        order = StartOrder(server.data, server.bin, server.port, False, SEGMENT, environment={})
        with pytest.raises(Cancelled) as caught:
            start(order, clock, token, StopsAtFirstSight(token))
        assert "SIGTERM was received; the server was shut down again" in caught.value.why
        assert str(server.data) in caught.value.cure and "goes on where it stopped" in caught.value.cure
        assert not server.is_running() and not (server.data / "postmaster.pid").exists()
        server.set(restore_command="false")
        server.start()
        assert server.value("select pg_is_in_recovery()") is False
    finally:
        server.close()
