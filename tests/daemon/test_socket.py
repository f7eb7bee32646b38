"""The socket: who may ask what, and what no stranger, no flood and no half request can do."""

from __future__ import annotations

import array
import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from drkit.core.cancel import CancelToken
from drkit.core.clock import SystemClock
from drkit.core.errors import ConfigError, Failed, Refused
from drkit.daemon.ask import NoDaemon, ask
from drkit.daemon.peers import Gate
from drkit.daemon.protocol import MAX_REQUEST_BYTES, Answer, Join, Request, Status
from drkit.daemon.socket import Bounds, Call, Listener, Verb, ping, telling
from tests.real.postgres import make_folder

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become other users")


class Kept:
    """A log that keeps its events."""

    def __init__(self) -> None:
        self.events: list[tuple[str, str, dict[str, object]]] = []

    def event(self, level: str, name: str, /, **fields: object) -> None:
        self.events.append((level, name, fields))

    def debug(self, name: str, /, **fields: object) -> None:
        self.event("debug", name, **fields)

    def info(self, name: str, /, **fields: object) -> None:
        self.event("info", name, **fields)

    def warn(self, name: str, /, **fields: object) -> None:
        self.event("warn", name, **fields)

    def error(self, name: str, /, **fields: object) -> None:
        self.event("error", name, **fields)

    def named(self, name: str) -> list[dict[str, object]]:
        return [fields for _, event, fields in self.events if event == name]


class Server:
    """A listener in a thread. `calls`: what its verb `take` (two words, one descriptor) was asked."""

    def __init__(self, path: Path, bounds: Bounds, own_uid: int, owners: frozenset[int]) -> None:
        self.path, self.log, self.calls = path, Kept(), list[tuple[tuple[str, ...], bytes]]()
        self.release, self.held = threading.Event(), threading.Semaphore(0)
        gate = Gate(own_uid, lambda: owners, SystemClock(), self.log)
        verbs = [
            ping(),
            Verb("take", self._take, words=2, descriptors=1),
            Verb("wait", self._wait, at_once=2),
            Verb("refuse", self._refuse),
            Verb("break", self._break),
            telling("long", lambda: "x" * 1_000_000),
        ]
        self.listener = Listener(path, gate, verbs, SystemClock(), self.log, bounds=bounds)
        self.token = CancelToken()

    def _take(self, call: Call) -> Answer:
        self.calls.append((call.words, os.pread(call.descriptors[0], 100, 0)))
        return Answer(Status.OK, f"{call.peer.uid}")

    def _wait(self, call: Call) -> Answer:
        self.held.release()
        self.release.wait(60)
        return Answer(Status.OK)

    def _refuse(self, call: Call) -> Answer:
        raise Refused("not today", cure="come tomorrow")

    def _break(self, call: Call) -> Answer:
        raise ZeroDivisionError

    def ask(self, verb: str, *words: str, descriptors: Sequence[int] = ()) -> Answer:
        return ask(self.path, Request(verb, words), descriptors=descriptors, timeout_s=30)

    def connect(self) -> socket.socket:
        one = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        one.settimeout(30)
        one.connect(str(self.path))
        return one


@contextmanager
def running(server: Server) -> Iterator[Server]:
    errors: list[BaseException] = []

    def root() -> None:
        try:
            server.listener.run(server.token)
        except BaseException as error:  # noqa: BLE001  a thread root: raised below
            errors.append(error)

    thread = threading.Thread(target=root)
    thread.start()
    while thread.is_alive() and not server.log.named("socket open"):
        thread.join(0.01)
    try:
        yield server
    finally:
        server.release.set()
        server.token.cancel()
        thread.join()
    if errors:
        raise errors[0]


@pytest.fixture
def folder() -> Iterator[Path]:
    made = make_folder("drkit-socket-")
    os.chown(made, os.geteuid(), -1)
    yield made
    subprocess.run(["rm", "-rf", made], check=True)


class Make:
    """Starts servers; bounds and users as wanted."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._open = folder, ExitStack()

    def __call__(
        self, *, bounds: Bounds | None = None, own_uid: int | None = None, owners: frozenset[int] = frozenset()
    ) -> Server:
        uid = os.geteuid() if own_uid is None else own_uid
        return self._open.enter_context(running(Server(self._folder / "socket", bounds or Bounds(), uid, owners)))

    def stop(self) -> None:
        self._open.close()


@pytest.fixture
def make(folder: Path) -> Iterator[Make]:
    made = Make(folder)
    yield made
    made.stop()


def descriptors_of() -> set[str]:
    """What the process has open, sockets aside."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):  # noqa: PTH208  the folder changes while it is read
        try:
            found.add(os.readlink(f"/proc/self/fd/{entry}"))  # noqa: PTH115
        except FileNotFoundError:
            continue
    return found


def raw(server: Server, packet: bytes, descriptors: Sequence[int] = ()) -> Answer:
    """Any packet, as it is."""
    with server.connect() as one:
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        one.sendmsg([packet], rights)
        answer = Join().feed(one.recv(1 << 16))
        assert answer is not None
        return answer


# --- asking -------------------------------------------------------------------------------------------------------


def test_a_verb_gets_words_and_descriptors_and_its_answer_comes_back(make: Make, folder: Path) -> None:
    server = make()
    (folder / "file").write_bytes(b"content")
    with (folder / "file").open("rb") as file:
        assert server.ask("take", "1", "name", descriptors=[file.fileno()]) == Answer(Status.OK, str(os.geteuid()))
    assert server.calls == [(("1", "name"), b"content")]
    assert server.ask("ping") == Answer(Status.OK, str(os.getpid()))


def test_a_long_answer_arrives_whole(make: Make) -> None:
    assert make().ask("long").text == "x" * 1_000_000


def test_errors_of_a_verb_are_answers_and_the_next_request_is_served(make: Make) -> None:
    server = make()
    assert server.ask("refuse") == Answer(Status.FAILED, "not today; come tomorrow")
    answer = server.ask("break")
    assert answer.status is Status.FAILED and "ZeroDivisionError" in answer.text
    assert server.ask("ping").status is Status.OK


def test_nobody_listening_is_told_apart_from_not_being_let_in(folder: Path) -> None:
    with pytest.raises(NoDaemon):
        ask(folder / "socket", Request("ping"))
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stale.bind(str(folder / "socket"))
    stale.close()
    with pytest.raises(NoDaemon):
        ask(folder / "socket", Request("ping"))


def test_a_hang_up_is_no_answer(folder: Path) -> None:
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(folder / "socket"))
    listener.listen()

    def hang_up() -> None:
        one, _ = listener.accept()
        one.recv(4096)
        one.close()

    thread = threading.Thread(target=hang_up)
    thread.start()
    with pytest.raises(Failed, match="gave no answer"):
        ask(folder / "socket", Request("ping"))
    thread.join()
    listener.close()


# --- garbage ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "why"),
    [
        (b"\x00" * 100, "another version"),
        (b"drkit/9 ping", "another version"),
        (b"drkit/1 ", "a verb and words"),
        (b"drkit/1 p\xc3\xa9", "ASCII"),
        (b"drkit/1 ping ping", "takes 0 words"),
        (b"drkit/1 take 1", "takes 2 words"),
        (b"drkit/1 take 1 2", "takes 1 descriptors, not 0"),
        (b"drkit/1 nothing", "not known"),
        (b"drkit/1 ping " + b"x" * MAX_REQUEST_BYTES, "at most 4096 bytes"),
        (b"x" * 100_000, "at most 4096 bytes"),
    ],
)
def test_what_is_no_request_is_refused_with_a_reason_and_nothing_is_done(make: Make, packet: bytes, why: str) -> None:
    server = make()
    answer = raw(server, packet)
    assert answer.status is Status.REFUSED and why in answer.text
    assert server.calls == [] and server.ask("ping").status is Status.OK


@pytest.mark.parametrize("count", [0, 2, 8, 9, 50])
def test_a_wrong_number_of_descriptors_is_refused_and_all_of_them_are_closed(
    make: Make, folder: Path, count: int
) -> None:
    server = make()
    paths = [folder / f"file{number}" for number in range(count)]
    files = [path.open("wb+") for path in paths]
    answer = raw(server, b"drkit/1 take 1 2", [file.fileno() for file in files])
    for file in files:
        file.close()
    assert answer.status is Status.REFUSED and "descriptors" in answer.text
    assert server.calls == []
    assert not descriptors_of() & {str(path) for path in paths}


def test_descriptors_of_a_request_are_closed_when_it_is_answered(make: Make, folder: Path) -> None:
    server = make()
    for number in range(3):
        path = folder / f"file{number}"
        with path.open("wb+") as file:
            server.ask("take", "1", "2", descriptors=[file.fileno()])
            raw(server, b"drkit/1 nothing", [file.fileno()])
        server.ask("ping")
        assert str(path) not in descriptors_of()


def test_a_stream_client_cannot_connect(make: Make) -> None:
    """Half a request cannot be: what connects speaks in packets."""
    server = make()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as one, pytest.raises(OSError, match="rotocol"):
        one.connect(str(server.path))


def test_who_connects_says_nothing_and_leaves_does_no_harm(make: Make) -> None:
    server = make()
    for _ in range(20):
        server.connect().close()
    assert server.ask("ping").status is Status.OK


# --- floods -------------------------------------------------------------------------------------------------------


def test_a_thousand_silent_connections_keep_nobody_out(make: Make) -> None:
    server = make(bounds=Bounds(connections=64))
    with raised_limit(4096):
        crowd = [server.connect() for _ in range(1000)]
        assert server.ask("ping").status is Status.OK
        gone = sum(is_closed(one) for one in crowd)
        for one in crowd:
            one.close()
    assert gone >= 1000 - 64
    assert server.ask("ping").status is Status.OK


def test_a_silent_connection_is_dropped_after_its_time(make: Make) -> None:
    server = make(bounds=Bounds(silent_s=0.2))
    with server.connect() as one:
        assert one.recv(1) == b""


def test_a_slow_verb_keeps_no_other_one_out(make: Make) -> None:
    server = make(bounds=Bounds(connections=16))
    waiting = []
    for _ in range(6):  # two run, four wait for their turn: a quarter of the connections
        one = server.connect()
        one.send(Request("wait").packet())
        waiting.append(one)
    for _ in range(2):
        assert server.held.acquire(timeout=30)
    assert server.ask("ping").status is Status.OK
    refused = [raw(server, Request("wait").packet()) for _ in range(3)]
    assert {(one.status, one.text) for one in refused} == {(Status.REFUSED, "too many requests of wait wait")}
    server.release.set()
    for one in waiting:
        assert Join().feed(one.recv(1000)) == Answer(Status.OK)
        one.close()


def is_closed(one: socket.socket) -> bool:
    one.setblocking(False)
    try:
        return one.recv(1) == b""
    except BlockingIOError:
        return False


@contextmanager
def raised_limit(descriptors: int) -> Iterator[None]:
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(descriptors, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- users --------------------------------------------------------------------------------------------------------

_ASK = """
import sys
from pathlib import Path
from drkit.daemon.ask import ask
from drkit.daemon.protocol import Request
answer = ask(Path(sys.argv[1]), Request("ping"))
print(answer.status.value, answer.text)
"""


def ask_as(user: str, path: Path) -> str:
    project = Path(__file__).resolve().parents[2]
    command = ["runuser", "-u", user, "--", sys.executable, "-c", _ASK, str(path)]
    done = subprocess.run(command, cwd=project, capture_output=True, text=True, timeout=60)
    return done.stdout + done.stderr


@needs_root
def test_a_foreign_user_is_refused_and_told_of_once_a_minute(make: Make) -> None:
    server = make()
    server.path.chmod(0o666)  # the file's mode is one fence, the peer's user the other one
    for _ in range(3):
        assert ask_as("nobody", server.path).startswith(f"refused user {NOBODY} may not use this daemon")
    told = server.log.named("peer refused")
    assert [one["uid"] for one in told] == [NOBODY]
    assert server.ask("ping").status is Status.OK


@needs_root
def test_the_owner_of_a_cluster_and_the_daemons_own_user_may_ask(make: Make) -> None:
    server = make(owners=frozenset({NOBODY}))
    server.path.chmod(0o666)
    assert ask_as("nobody", server.path).startswith("ok ")
    assert "refused" in ask_as("daemon", server.path)


@needs_root
def test_the_mode_of_the_socket_keeps_others_out(make: Make) -> None:
    server = make()
    assert stat.S_IMODE(server.path.stat().st_mode) == 0o660
    assert "cannot be asked" in ask_as("nobody", server.path)


# --- the file -----------------------------------------------------------------------------------------------------


def test_a_stale_socket_is_replaced_and_ours_is_removed(make: Make, folder: Path) -> None:
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    stale.bind(str(folder / "socket"))
    server = make()
    assert server.ask("ping").status is Status.OK
    make.stop()
    assert not server.path.exists()
    stale.close()


def test_anothers_socket_is_not_removed(make: Make, folder: Path) -> None:
    server = make()
    server.path.unlink()
    server.path.write_text("another's")
    make.stop()
    assert server.path.read_text() == "another's"


@needs_root
def test_a_folder_that_others_may_write_to_is_refused(folder: Path) -> None:
    for mode, owner in ((0o777, 0), (0o755, NOBODY)):
        folder.chmod(mode)
        os.chown(folder, owner, -1)
        with pytest.raises(ConfigError, match="not safe"), running(Server(folder / "socket", Bounds(), 0, frozenset())):
            pass


def test_a_path_that_the_kernel_cannot_take_is_refused(folder: Path) -> None:
    long = folder / ("x" * 100)
    with pytest.raises(ConfigError, match="too long"), running(Server(long, Bounds(), 0, frozenset())):
        pass
