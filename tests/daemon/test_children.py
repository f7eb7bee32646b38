"""Jobs as processes, with real ones: whatever a job does, the daemon gets an end of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from drkit.core.cancel import CancelToken
from drkit.core.clock import SystemClock
from drkit.core.log import Field, Level, NoLog
from drkit.daemon.children import Children, Ended, Order
from drkit.daemon.claims import Claims, Holder
from drkit.daemon.told import BURST_LINES, Told


class KeepLog(NoLog):
    """Events as they come."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, Field]]] = []

    def event(self, level: Level, name: str, /, **fields: Field) -> None:
        self.events.append((level, name, fields))

    def warn(self, name: str, /, **fields: Field) -> None:
        self.event("warn", name, **fields)

    def error(self, name: str, /, **fields: Field) -> None:
        self.event("error", name, **fields)


def wait_until(true: Callable[[], object]) -> None:
    limit = time.monotonic() + 20
    while not true():
        assert time.monotonic() < limit, "it never came true"
        time.sleep(0.01)


class World:
    """Children that run Python text."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.log = KeepLog()
        self.clock = SystemClock()
        self.token = CancelToken()
        self.claims = Claims(folder / "locks")

    def children(self, grace_s: float = 0.3) -> Children:
        def told(name: str) -> Told:
            return Told(self.log, name, self.clock)

        return Children((sys.executable, "-I", "-c"), os.environ, self.clock, told, grace_s)

    def order(self, program: str, deadline_s: float = 60.0, lock: int = -1) -> Order:
        return Order("backup.orders.1", (textwrap.dedent(program), str(self.folder)), deadline_s, lock)

    def run(self, program: str, deadline_s: float = 60.0) -> Ended:
        return self.children().run(self.order(program, deadline_s), self.token)

    def wait_for(self, name: str) -> str:
        path = self.folder / name
        wait_until(lambda: path.exists() and path.read_text().endswith("\n"))
        return path.read_text().strip()


_SAY_PID = """
import os, pathlib, signal, sys, time
pathlib.Path(sys.argv[1], "pid").write_text(f"{os.getpid()}\\n")
"""


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def gone(pid: int) -> bool:
    """Dead, if not yet reaped by whoever inherited it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_the_answer_and_the_status(world: World) -> None:
    ended = world.run("""print('{"schema": "x", "backup": {"id": "b1"}}')""")
    assert ended == Ended(0, "", {"schema": "x", "backup": {"id": "b1"}}, "")
    assert world.run("raise SystemExit(7)").exit == 7


def test_a_child_is_alone_expendable_and_watched(world: World) -> None:
    ended = world.run("""
        import ctypes, json, os, sys
        told = ctypes.c_int()
        ctypes.CDLL(None).prctl(2, ctypes.byref(told), 0, 0, 0)
        print(json.dumps({
            "leads": os.getpid() == os.getpgrp() == os.getsid(0),
            "oom": int(open("/proc/self/oom_score_adj").read()),
            "death": told.value,
            "stdin": sys.stdin.read(),
            "descriptors": [name for name in os.listdir("/proc/self/fd") if int(name) > 3],
        }))
    """)
    assert ended.answer["leads"] is True
    assert int(str(ended.answer["oom"])) >= 500
    assert ended.answer["death"] == signal.SIGTERM
    assert ended.answer["stdin"] == ""
    assert ended.answer["descriptors"] == []


def test_events_are_passed_on_and_the_error_is_kept(world: World) -> None:
    event = {"at": "t", "level": "warn", "run": "r1", "event": "target is not used", "target": "b", "list": [1]}
    error = {
        "schema": "drkit.error/1",
        "error": {"code": "unreachable", "what": "no target", "where": "s3", "why": "x"},
    }
    lines = [json.dumps(event), "plain words", json.dumps(error)]
    ended = world.run(f"import sys\nfor line in {lines!r}: print(line, file=sys.stderr)\nsys.exit(7)")
    assert (ended.exit, ended.why) == (7, "no target (s3): x")
    assert world.log.events[0] == (
        "warn",
        "target is not used",
        {"bell": "backup.orders.1", "job_run": "r1", "target": "b"},
    )
    assert world.log.events[1][2]["text"] == "plain words"
    assert world.log.events[2][:2] == ("error", "job error")


def test_a_flood_on_stderr_is_drained_and_cut(world: World) -> None:
    ended = world.run("""
        import sys
        for number in range(100_000):
            sys.stderr.write("x" * 100 + "\\n")
        sys.stderr.write("y" * 10_000_000)
        print("{}")
    """)
    assert ended.exit == 0
    assert len(world.log.events) < BURST_LINES + 100
    told = world.log.events[-1]
    assert told[1] == "job said more"
    assert int(str(told[2]["lines_dropped"])) > 90_000
    assert len(ended.why) <= 1000


def test_an_answer_without_end_is_no_answer(world: World) -> None:
    ended = world.run("""print('{"x": "' + "y" * 50_000_000 + '"}')""")
    assert (ended.exit, ended.answer) == (0, {})


def test_who_ignores_sigterm_is_killed_at_its_deadline(world: World) -> None:
    ended = world.run(_SAY_PID + "signal.signal(15, signal.SIG_IGN)\nwhile True: time.sleep(1)", deadline_s=0.5)
    assert ended.exit == -signal.SIGKILL
    assert "deadline" in ended.killed


def test_who_heeds_sigterm_may_clean_up(world: World) -> None:
    ended = world.run(
        """
        import signal, sys, time
        signal.signal(15, lambda *_: (print('{"cleaned": true}'), sys.exit(1)))
        while True: time.sleep(0.1)
        """,
        deadline_s=0.5,
    )
    assert (ended.exit, ended.answer) == (1, {"cleaned": True})
    assert "deadline" in ended.killed


def test_a_stopped_child_is_a_failed_job_at_its_deadline(world: World) -> None:
    ended = world.run("import os, signal, time\nos.kill(os.getpid(), signal.SIGSTOP)\ntime.sleep(60)", deadline_s=0.5)
    assert ended.exit == -signal.SIGTERM
    assert "deadline" in ended.killed


def test_a_child_that_kills_itself(world: World) -> None:
    ended = world.run("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert (ended.exit, ended.killed) == (-signal.SIGKILL, "")


def test_cancelling_ends_it_with_all_that_it_started(world: World) -> None:
    program = (
        _SAY_PID
        + """
import subprocess
subprocess.Popen([sys.executable, "-c", f"import os, signal, time; signal.signal(15, signal.SIG_IGN); "
    f"open({sys.argv[1]!r} + '/grandchild', 'w').write(str(os.getpid()) + chr(10)); time.sleep(60)"])
time.sleep(60)
"""
    )
    found: list[Ended] = []
    thread = threading.Thread(target=lambda: found.append(world.run(program)))
    thread.start()
    grandchild = int(world.wait_for("grandchild"))
    world.token.cancel("the daemon stops")
    thread.join()
    assert found[0].killed == "the daemon stops"
    wait_until(lambda: gone(grandchild))


def test_a_grandchild_that_holds_the_pipes_keeps_nobody_waiting(world: World) -> None:
    ended = world.run("""
        import subprocess, sys
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=False)
        print('{"done": true}')
    """)
    assert (ended.exit, ended.answer) == (0, {"done": True})


def test_a_command_that_is_not_there_raises_and_gives_the_lock_back(world: World) -> None:
    lock = world.claims.take("orders")
    assert isinstance(lock, int)
    broken = Children(("/no/such/program",), {}, world.clock, lambda name: Told(world.log, name, world.clock))
    with pytest.raises(OSError):
        broken.run(world.order("", lock=lock), world.token)
    assert world.claims.holder("orders") is None


def test_the_lock_lives_and_dies_with_the_child(world: World) -> None:
    lock = world.claims.take("orders")
    assert isinstance(lock, int)
    thread = threading.Thread(
        target=lambda: world.children().run(world.order(_SAY_PID + "time.sleep(60)", lock=lock), world.token)
    )
    thread.start()
    pid = int(world.wait_for("pid"))
    assert world.claims.take("orders") == Holder(pid)
    assert world.claims.holder("payments") is None
    os.kill(pid, signal.SIGKILL)
    thread.join()
    assert world.claims.holder("orders") is None


_DAEMON = """
import os, sys
from pathlib import Path
from drkit.core.cancel import CancelToken
from drkit.core.clock import SystemClock
from drkit.core.log import NoLog
from drkit.daemon.children import Children, Order
from drkit.daemon.claims import Claims
from drkit.daemon.told import Told

folder, program = sys.argv[1:]
clock = SystemClock()
children = Children((sys.executable, "-I", "-c"), os.environ, clock, lambda name: Told(NoLog(), name, clock))
lock = Claims(Path(folder, "locks")).take("orders")
children.run(Order("backup.orders.1", (program, folder), 600.0, lock), CancelToken())
"""


def daemon(world: World, program: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", _DAEMON, str(world.folder), program])


def test_a_daemon_that_is_killed_takes_its_children_with_it(world: World) -> None:
    process = daemon(world, _SAY_PID + "time.sleep(600)")
    pid = int(world.wait_for("pid"))
    process.kill()
    process.wait()
    wait_until(lambda: gone(pid))
    assert world.claims.holder("orders") is None


def test_a_child_that_outlives_its_daemon_keeps_the_lock_until_it_is_ended(world: World) -> None:
    process = daemon(world, "import signal\nsignal.signal(15, signal.SIG_IGN)\n" + _SAY_PID + "time.sleep(600)")
    pid = int(world.wait_for("pid"))
    process.kill()
    process.wait()
    holder = world.claims.holder("orders")
    assert holder == Holder(pid)
    holder.end(signal.SIGTERM)
    assert world.claims.holder("orders") == Holder(pid)
    holder.end(signal.SIGKILL)
    wait_until(lambda: world.claims.holder("orders") is None)


def test_a_lock_file_from_another_boot_names_nobody(world: World) -> None:
    (world.folder / "locks").mkdir()
    (world.folder / "locks" / "orders").write_text(f"{os.getpid()} 1\n")
    other = Claims(world.folder / "locks")
    taken = other.take("orders")
    assert isinstance(taken, int)
    os.pwrite(taken, f"{os.getpid()} 1\n".encode(), 0)
    assert world.claims.take("orders") == Holder(None)
    os.close(taken)


@pytest.mark.parametrize(("nice", "io", "class_"), [(0, "normal", 0), (7, "idle", 3)])
def test_a_job_stands_back_as_far_as_it_is_told(tmp_path: Path, nice: int, io: str, class_: int) -> None:
    """What is told from within: nice(2) and the class of ioprio_get(2), also of a thread that the job starts."""
    world = World(tmp_path)
    program = """
        import ctypes, json, os, threading
        from pathlib import Path
        import sys
        number = {"x86_64": 252, "aarch64": 31, "riscv64": 31, "ppc64le": 274, "s390x": 283}[os.uname().machine]
        def look():
            found.append([os.nice(0), ctypes.CDLL(None).syscall(number, 1, 0) >> 13])
        found = []
        look()
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        Path(sys.argv[1], "found").write_text(json.dumps(found))
    """
    runner = replace(world.children(), nice=nice, io=io)
    assert runner.run(world.order(program), world.token).exit == 0
    base = os.nice(0)
    assert json.loads((tmp_path / "found").read_text()) == [[base + nice, class_]] * 2
