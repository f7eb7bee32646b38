"""Jobs as processes: each execs the command that a person would type, and whatever becomes of it is only its own.

A child has a session of its own, dies first when memory runs out, gets SIGTERM when the daemon dies, and has a
deadline: then SIGTERM to its group, SIGKILL after a grace. What it leaves in its group is killed when it ends.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Protocol

from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.daemon import launch
from drkit.daemon.told import Told

ANSWER_BYTES = 1 << 20
GRACE_S = 30.0
OOM_SCORE = 500
_LOOK_S = 0.2
_BLOCK_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class Order:
    """name: for the log · words: behind the command · lock: a descriptor that the child keeps, closed here, -1 none."""

    name: str
    words: tuple[str, ...]
    deadline_s: float
    lock: int = -1


@dataclass(frozen=True, slots=True)
class Ended:
    """exit: as of Popen, minus the signal's number where one ended it · killed: why it was ended by us, else "" ·
    answer: its JSON answer, empty without a whole one · why: in its own words, else empty."""

    exit: int
    killed: str = ""
    answer: Mapping[str, object] = field(default_factory=dict)
    why: str = ""


class Runner(Protocol):
    """What runs a job to its end, in the calling thread."""

    def run(self, order: Order, token: CancelToken) -> Ended: ...


@dataclass(frozen=True, slots=True)
class Children:
    """command: what the words of an order stand behind · environment: of the children · told: makes, for the name of
    an order, what their stderr is handed to · nice, io: how they stand back (`launch.stand_back`). Thread-safe."""

    command: Sequence[str]
    environment: Mapping[str, str]
    clock: Clock
    told: Callable[[str], Told]
    grace_s: float = GRACE_S
    nice: int = 0
    io: str = "normal"

    def run(self, order: Order, token: CancelToken) -> Ended:
        """Until the child has ended, by itself, at its deadline, or because `token` was cancelled.

        Raises OSError where it cannot be started. The kernel takes the death of the calling thread for that of the
        parent (prctl(2), PR_SET_PDEATHSIG): the thread that calls this lives as long as the child.
        """
        try:
            process = self._start(order)
        finally:
            if order.lock >= 0:
                os.close(order.lock)
        limit = token.child(deadline_s=order.deadline_s)
        try:
            return _Watch(process, self.told(order.name), self.clock, self.grace_s).until_end(token, limit)
        finally:
            limit.close()

    def _start(self, order: Order) -> subprocess.Popen[bytes]:
        program = [*self.command, *order.words]
        launcher = [program[0], "-I", "-S", str(Path(launch.__file__)), str(os.getpid()), str(order.lock)]
        return subprocess.Popen(
            [*launcher, str(OOM_SCORE), str(self.nice), self.io, *program],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=dict(self.environment),
            cwd="/",
            pass_fds=(order.lock,) if order.lock >= 0 else (),
            start_new_session=True,
        )


class _Watch:
    """One child from its start to its end."""

    def __init__(self, process: subprocess.Popen[bytes], told: Told, clock: Clock, grace_s: float) -> None:
        assert process.stdout is not None and process.stderr is not None
        self._process, self._told, self._clock, self._grace_s = process, told, clock, grace_s
        self._stdout = process.stdout
        self._answer = bytearray()
        self._cut = False
        self._open = selectors.DefaultSelector()
        for pipe in (process.stdout, process.stderr):
            os.set_blocking(pipe.fileno(), False)
            self._open.register(pipe, selectors.EVENT_READ)

    def until_end(self, token: CancelToken, limit: CancelToken) -> Ended:
        killed, kill_at = "", 0.0
        while not self._gone():
            self._read(_LOOK_S)
            if not killed and limit.cancelled:
                killed = token.reason if token.cancelled else "its deadline passed"
                kill_at = self._clock.monotonic() + self._grace_s
                self._signal(signal.SIGTERM)
                self._signal(signal.SIGCONT)  # who is stopped would get the first signal only then
            elif killed and self._clock.monotonic() >= kill_at:
                self._signal(signal.SIGKILL)
        self._signal(signal.SIGKILL)  # what is left of its group; the pid is still taken, as nobody has reaped it yet
        self._read(0.0)
        status = self._process.wait()
        for pipe in list(self._open.get_map().values()):
            self._close(pipe.fileobj)  # type: ignore[arg-type]
        self._open.close()
        self._told.close()
        return Ended(status, killed, self._parsed(), self._told.why)

    def _gone(self) -> bool:
        """Whether it has ended; it is not reaped by that, so that its pid and group stay its own."""
        flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
        return os.waitid(os.P_PID, self._process.pid, flags) is not None

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)

    def _read(self, timeout_s: float) -> None:
        """What the pipes hold now; after `timeout_s` without anything nothing. Others may hold them open for ever."""
        if not self._open.get_map():
            self._clock.sleep(timeout_s)
            return
        for key, _ in self._open.select(timeout_s):
            pipe: IO[bytes] = key.fileobj  # type: ignore[assignment]
            for _ in range(64):  # at most 4 MiB, then the clock is looked at again
                with suppress(BlockingIOError):
                    data = os.read(pipe.fileno(), _BLOCK_BYTES)
                    if not data:
                        self._close(pipe)
                        break
                    self._take(pipe, data)
                    continue
                break

    def _take(self, pipe: IO[bytes], data: bytes) -> None:
        if pipe is not self._stdout:
            self._told.take(data)
            return
        self._cut = self._cut or len(self._answer) + len(data) > ANSWER_BYTES
        self._answer += data[: ANSWER_BYTES - len(self._answer)]

    def _close(self, pipe: IO[bytes]) -> None:
        self._open.unregister(pipe)
        pipe.close()

    def _parsed(self) -> Mapping[str, object]:
        if self._cut:
            return {}
        try:
            value = json.loads(self._answer)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}
