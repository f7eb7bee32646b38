"""Cancellation reaches every waiter, by a call, a deadline or a signal."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from drkit.core.cancel import CancelToken, signals_cancel
from drkit.core.errors import Cancelled
from tests.core.clocks import HandClock


def test_the_first_reason_stays() -> None:
    token = CancelToken()
    token.check()
    token.cancel("the operator")
    token.cancel("somebody else")
    with pytest.raises(Cancelled) as caught:
        token.check()
    assert caught.value.why == "the operator"
    assert token.wait() is True


def test_a_child_is_cancelled_with_its_parent_and_not_the_other_way() -> None:
    parent = CancelToken()
    first, second = parent.child(), parent.child()
    first.cancel("alone")
    assert [token.cancelled for token in (parent, first, second)] == [False, True, False]
    parent.cancel("all")
    assert second.reason == "all"
    assert first.reason == "alone"
    assert parent.child().cancelled


def test_deadlines_of_parents_count() -> None:
    clock = HandClock()
    parent = CancelToken(deadline_s=10, clock=clock)
    child = parent.child(deadline_s=60)
    assert child.remaining_s() == 10
    clock.advance(9)
    child.check()
    clock.advance(1)
    with pytest.raises(Cancelled, match="deadline"):
        child.check()
    assert child.remaining_s() == 0
    assert child.wait() is True


def test_wakers_are_called_once_and_can_be_undone() -> None:
    token = CancelToken()
    called: list[str] = []
    token.on_cancel(lambda: called.append("kept"))
    token.on_cancel(lambda: called.append("undone"))()
    token.cancel()
    token.cancel()
    token.on_cancel(lambda: called.append("late"))
    assert called == ["kept", "late"]


def test_a_signal_cancels_and_the_old_handler_comes_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    token = CancelToken()
    with signals_cancel(token):
        os.kill(os.getpid(), signal.SIGTERM)
        assert token.wait(timeout_s=30)
    assert token.reason == "SIGTERM was received"
    assert signal.getsignal(signal.SIGTERM) is before
    with signals_cancel(CancelToken()):
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "signals"]


SECOND = """
import os, signal, sys
from drkit.core.cancel import CancelToken, signals_cancel
token = CancelToken()
with signals_cancel(token):
    os.kill(os.getpid(), signal.SIGTERM)
    token.wait()
    print("cancelled", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still here", flush=True)
"""


def test_the_second_signal_ends_the_process() -> None:
    done = subprocess.run([sys.executable, "-c", SECOND], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "cancelled\n"
    assert done.returncode == 128 + signal.SIGTERM
