"""drkit-wal: whatever goes wrong, push ends with 0 or 1, and get never says 'absent' without proof."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import textwrap
import threading
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from drkit import walclient
from drkit.engines.postgres.wal import parse_name
from drkit.jobs import wal_prefetch
from drkit.jobs.recovery_file import RECOVERY_FILE, write_recovery_file
from drkit.jobs.wal_get import Wanted
from drkit.jobs.wal_prefetch import folder
from tests.jobs.test_wal_get import PLAN
from tests.jobs.wal_world import MIB, SYSTEM, World, segment_bytes_of

NAME = "000000020000000000000004"
CLIENT = [sys.executable, "-P", "-m", "drkit.walclient"]
WRAPPER = "{client} get --absent-exit 44 %f %p; r=$?; [ $r = 0 ] && exit 0; [ $r = 44 ] && exit 1; exit 126"


def run(args: Sequence[str], cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith("DRKIT_")}
    return subprocess.run([*CLIENT, *args], cwd=cwd, env={**clean, **env}, capture_output=True, text=True, timeout=60)


def wrapped(client: str, cwd: Path, name: str = NAME, **env: str) -> int:
    """The exit status of the restore_command that drkit writes, as PostgreSQL's shell sees it."""
    command = WRAPPER.format(client=client).replace("%f", name).replace("%p", "pg_wal/RECOVERYXLOG")
    return subprocess.run(["sh", "-c", command], cwd=cwd, env={**os.environ, **env}, timeout=60).returncode


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data folder of a cluster in recovery."""
    return World(tmp_path).data


def fake_cli(tmp_path: Path, body: str) -> dict[str, str]:
    """A package `drkit` whose command line is `body`, as environment; the client itself is the real one."""
    package = tmp_path / "fake" / "drkit"
    (package / "cli").mkdir(parents=True)
    shutil.copy(walclient.__file__, package / "walclient.py")
    for folder_ in (package, package / "cli"):
        (folder_ / "__init__.py").touch()
    (package / "cli" / "app.py").write_text(textwrap.dedent(body))
    return {"PYTHONPATH": str(tmp_path / "fake")}


# --- what is translated -------------------------------------------------------------------------------------------

ENDINGS = {
    "done": ("import sys; sys.exit(0)", 0, 0),
    "absent": ("import sys; sys.exit(44)", 1, 44),
    "failed": ("import sys; sys.exit(1)", 1, 126),
    "usage": ("import sys; sys.exit(2)", 1, 126),
    "doubt": ("import sys; sys.exit(126)", 1, 126),
    "no import": ("import no_such_module", 1, 126),
    "no memory": ("raise MemoryError", 1, 126),
    "syntax": ("def", 1, 126),
    "killed": ("import os; os.kill(os.getpid(), 9)", 1, 126),
    "segfault": ("import os; os.kill(os.getpid(), 11)", 1, 126),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_however_the_command_line_ends_push_is_0_or_1_and_get_proves_absence(
    ending: str, tmp_path: Path, data: Path
) -> None:
    body, pushed, got = ENDINGS[ending]
    env = fake_cli(tmp_path, body)
    assert run(["push", "pg_wal/x"], data, **env).returncode == pushed
    assert run(["get", "--absent-exit", "44", NAME, "x"], data, **env).returncode == got
    assert wrapped(" ".join(CLIENT), data, **env) == {0: 0, 44: 1, 126: 126}[got]


def test_without_the_flag_nothing_is_ever_absent(tmp_path: Path, data: Path) -> None:
    for code in (1, 2, 44, 125, 126):
        env = fake_cli(tmp_path / str(code), f"import sys; sys.exit({code})")
        assert run(["get", NAME, "x"], data, **env).returncode == 126


@pytest.mark.parametrize(
    "args",
    [
        ["get", "--absent-exit", "44", "--no-such-flag", NAME, "x"],
        ["get", "--absent-exit", "44", NAME],
        ["get", "--absent-exit", "44", NAME, "x", "y"],
        ["get", "--absent-exit", "soon", NAME, "x"],
        ["get", "--absent-exit"],
        ["get", "--absent-exit", "0", NAME, "x"],
        ["get", "--absent-exit", "1", NAME, "x"],
        ["get", "--absent-exit", "2", NAME, "x"],
        ["get", "--absent-exit", "126", NAME, "x"],
        ["fetch", NAME, "x"],
        [],
    ],
)
def test_a_wrong_command_line_is_doubt(args: list[str], data: Path) -> None:
    done = run(args, data)
    assert done.returncode == 126 and done.stderr.startswith("drkit-wal: ")


@pytest.mark.parametrize(
    "args", [["push"], ["push", "a", "b"], ["push", "--loud", "a"], ["push", "--absent-exit", "44", "a"]]
)
def test_a_wrong_push_is_1(args: list[str], data: Path) -> None:
    assert run(args, data).returncode == 1


# --- the wrapper, when there is no client to speak of ---------------------------------------------------------------


def script(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_no_interpreter_is_doubt(tmp_path: Path, data: Path) -> None:
    assert wrapped(script(tmp_path / "drkit-wal", "#!/no/such/python\n"), data) == 126
    assert wrapped(str(tmp_path / "nothing-here"), data) == 126


def test_a_broken_client_is_doubt(tmp_path: Path, data: Path) -> None:
    for number, text in enumerate(("import no_such_module", "raise MemoryError", "raise SystemExit(2)")):
        client = script(tmp_path / f"client{number}", f"#!{sys.executable}\n{text}\n")
        assert wrapped(client, data) == 126


def test_a_killed_client_is_doubt(tmp_path: Path, data: Path) -> None:
    assert wrapped(script(tmp_path / "client", "#!/bin/sh\nkill -9 $$\n"), data) == 126


def test_a_configuration_that_is_missing_or_wrong_is_doubt_and_a_failed_push(tmp_path: Path, data: Path) -> None:
    wrong = tmp_path / "drkit.toml"
    wrong.write_text("[target.a]\nno = 1\n")
    for config in (str(wrong), str(tmp_path / "none.toml")):
        assert wrapped(" ".join(CLIENT), data, DRKIT_CONFIG=config) == 126
        assert run(["push", "--config", config, "pg_wal/x"], data).returncode == 1


def test_the_data_folder_is_no_place_to_find_programs_or_settings_in(tmp_path: Path, data: Path) -> None:
    (data / "drkit").mkdir()
    (data / "drkit" / "__init__.py").write_text("raise SystemExit(44)")
    (data / "json.py").write_text("raise SystemExit(44)")
    (data / "drkit.toml").write_text("")
    done = run(["get", "--absent-exit", "44", "--config", str(tmp_path / "none.toml"), NAME, "x"], data)
    assert done.returncode == 126 and "none.toml" in done.stderr


def test_sigterm_reaches_the_command_line_and_ends_both(tmp_path: Path, data: Path) -> None:
    """PostgreSQL ends a restore_command by SIGTERM and takes 143 for it."""
    pid_file = tmp_path / "pid"
    env = fake_cli(
        tmp_path,
        f"""
        import os, signal
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(60)
        open({str(pid_file)!r} + ".new", "w").write(str(os.getpid()))
        os.rename({str(pid_file)!r} + ".new", {str(pid_file)!r})
        signal.pause()
        """,
    )
    for args, expected in ((["get", NAME, "x"], 143), (["push", "x"], 1)):
        pid_file.unlink(missing_ok=True)
        client = subprocess.Popen([*CLIENT, *args], cwd=data, env={**os.environ, **env})
        while not pid_file.exists():
            assert client.poll() is None
        client.send_signal(signal.SIGTERM)
        assert client.wait(timeout=30) == expected
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid_file.read_text()), 0)


# --- by the recovery file -----------------------------------------------------------------------------------------


def test_the_plan_alone_answers_without_configuration_or_targets(data: Path) -> None:
    write_recovery_file(data, PLAN)
    for name in ("00000004000000000000000A", "000000010000000000000005"):
        assert wrapped(" ".join(CLIENT), data, name, DRKIT_CONFIG="/no/such.toml") == 1
    assert wrapped(" ".join(CLIENT), data, NAME, DRKIT_CONFIG="/no/such.toml") == 126


def test_a_damaged_plan_is_doubt(data: Path) -> None:
    write_recovery_file(data, PLAN)
    (data / RECOVERY_FILE).write_text("{")
    for config in ("", "/no/such.toml"):
        assert wrapped(" ".join(CLIENT), data, "00000004000000000000000A", DRKIT_CONFIG=config) == 126


# --- prefetched segments ------------------------------------------------------------------------------------------


def prefetched(data: Path, content: bytes) -> Path:
    folder(data).mkdir(parents=True, exist_ok=True)
    path = folder(data) / NAME
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("plan", [True, False])
def test_a_prefetched_segment_is_taken_without_starting_anything_else(plan: bool, data: Path, tmp_path: Path) -> None:
    if plan:
        write_recovery_file(data, PLAN)
    path = prefetched(data, segment_bytes_of(NAME))
    env = fake_cli(tmp_path, "raise AssertionError")
    done = run(["get", "--absent-exit", "44", NAME, "pg_wal/RECOVERYXLOG"], data, **env)
    assert (done.returncode, done.stderr) == (0, "")
    assert (data / "pg_wal" / "RECOVERYXLOG").read_bytes() == segment_bytes_of(NAME)
    assert not path.exists()


WRONG = {
    "empty": b"",
    "cut": segment_bytes_of(NAME)[:-1],
    "zeros": bytes(MIB),
    "another": segment_bytes_of("000000020000000000000005"),
    "later timeline": segment_bytes_of(NAME, page_timeline=3),
    "foreign": segment_bytes_of(NAME, system=SYSTEM + 1),
}


@pytest.mark.parametrize("what", WRONG)
def test_the_client_takes_exactly_what_the_job_takes(what: str, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client has its own copy of the checks, because it may import nothing."""
    monkeypatch.chdir(data)
    wanted = Wanted(parse_name(NAME), SYSTEM, MIB)
    prefetched(data, WRONG[what])
    assert not walclient._take(NAME, "x")
    assert not wal_prefetch.take(data, wanted, data / "x")
    prefetched(data, segment_bytes_of(NAME))
    assert walclient._take(NAME, "x")
    prefetched(data, segment_bytes_of(NAME))
    assert wal_prefetch.take(data, wanted, data / "x")


def test_names_of_the_client_are_those_of_the_job(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(data)
    for _ in range(2):
        assert data / walclient._folder() == folder(data)
        write_recovery_file(data, PLAN)
    assert walclient.RECOVERY_FILE == RECOVERY_FILE
    assert (walclient._MOST_FILES, walclient._MOST_BYTES) == (wal_prefetch._MOST_FILES, wal_prefetch._MOST_BYTES)


# --- small ---------------------------------------------------------------------------------------------------------


def test_it_imports_little_and_nothing_else_of_drkit() -> None:
    """`get` of a prefetched segment costs the start of an interpreter and hardly more."""
    code = "import sys; import drkit.walclient; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    loaded = set(found.stdout.split())
    assert {name for name in loaded if name.startswith("drkit")} == {"drkit", "drkit.walclient"}
    assert not loaded & {"argparse", "json", "logging", "re", "signal", "socket", "subprocess"}


# --- the daemon ---------------------------------------------------------------------------------------------------


class FakeDaemon:
    """Answers each connection with the next of `answers`: packets, None for a hang-up, "wait" for silence.

    asked: (request, content of the first descriptor), and what `put` is written into it.
    """

    def __init__(self, path: Path, answers: Sequence[bytes | None], put: bytes = b"") -> None:
        self.path, self.answers, self.put = path, answers, put
        self.asked: list[tuple[bytes, bytes]] = []
        self.heard = threading.Event()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listener.bind(str(path))
        self._listener.listen()
        self._kept: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for answer in self.answers:
            connection, _ = self._listener.accept()
            packet, descriptors, _, _ = socket.recv_fds(connection, 4096, 8)
            if packet.startswith(b"drkit/1 get "):
                os.pwrite(descriptors[0], self.put, 0)
                self.asked.append((packet, b""))
            else:
                self.asked.append((packet, os.pread(descriptors[0], 1 << 20, 0)))
            for descriptor in descriptors:
                os.close(descriptor)
            self.heard.set()
            if answer == WAIT:
                self._kept.append(connection)
                continue
            if answer is not None:
                connection.send(answer)
            connection.close()
        self._listener.close()

    def close(self) -> None:
        for one in self._kept:
            one.close()
        self._thread.join(30)


WAIT = b"wait"
LOUD = "import sys; print('the command line', file=sys.stderr); sys.exit(0)"


@pytest.fixture
def spot() -> Iterator[Path]:
    """A place for a socket: pytest's own folders have paths that are too long for one."""
    with tempfile.TemporaryDirectory(prefix="drkit-", dir="/tmp") as folder_:
        yield Path(folder_) / "s"


def test_push_hands_the_open_file_to_the_daemon_and_believes_its_ok_only(
    tmp_path: Path, data: Path, spot: Path
) -> None:
    content = segment_bytes_of(NAME)
    (data / "pg_wal" / NAME).write_bytes(content)
    answers = {
        b"drkit/1 ok a,b": 0,
        b"drkit/1 failed the disk is full": 1,
        b"drkit/1 refused another user": 1,
        b"drkit/1 absent": 1,
        b"drkit/2 ok a,b": 1,
        b"ok": 1,
        b"drkit/1 okay": 1,
        None: 1,
    }
    daemon = FakeDaemon(spot, list(answers))
    env = fake_cli(tmp_path, LOUD)
    for answer, expected in answers.items():
        done = run(["push", "--socket", str(spot), f"pg_wal/{NAME}"], data, **env)
        assert done.returncode == expected, answer
        assert "the command line" not in done.stderr
        assert expected == 0 or done.stderr.startswith("drkit-wal: ")
    daemon.close()
    assert daemon.asked == [(f"drkit/1 push {SYSTEM} {NAME}".encode(), content)] * len(answers)


def test_get_takes_the_file_from_the_daemon_and_its_absent_only_when_it_says_so(
    tmp_path: Path, data: Path, spot: Path
) -> None:
    answers = {
        b"drkit/1 ok a": (0, 0),
        b"drkit/1 absent behind the end": (44, 126),
        b"drkit/1 doubt b did not answer": (126, 126),
        b"drkit/1 failed no": (126, 126),
        b"drkit/1 refused no": (126, 126),
        b"drkit/1 absentee": (126, 126),
        b"\x00": (126, 126),
    }
    both = [answer for answer in answers for _ in range(2)]
    daemon = FakeDaemon(spot, both, put=b"all of it")
    env = fake_cli(tmp_path, LOUD)
    for answer, (flagged, unflagged) in answers.items():
        for flag, expected in ((["--absent-exit", "44"], flagged), ([], unflagged)):
            done = run(["get", "--socket", str(spot), *flag, NAME, "pg_wal/RECOVERYXLOG"], data, **env)
            assert done.returncode == expected, (answer, done.stderr)
            assert "the command line" not in done.stderr
            found = data / "pg_wal" / "RECOVERYXLOG"
            assert found.exists() == (expected == 0)
            if expected == 0:
                assert found.read_bytes() == b"all of it"
                found.unlink()
            assert not list((data / "pg_wal").glob(".*"))
    daemon.close()


def test_a_daemon_that_ends_before_it_answers_get_is_asked_again_then_the_command_line(
    tmp_path: Path, data: Path, spot: Path
) -> None:
    env = fake_cli(tmp_path, LOUD)
    daemon = FakeDaemon(spot, [None, b"drkit/1 ok a"], put=b"x")
    assert run(["get", "--socket", str(spot), NAME, "x"], data, **env).returncode == 0
    daemon.close()
    spot.unlink()
    daemon = FakeDaemon(spot, [None], put=b"x")
    done = run(["get", "--socket", str(spot), NAME, "x"], data, **env)
    assert (done.returncode, done.stderr) == (0, "the command line\n")
    daemon.close()


def test_the_command_line_is_for_where_nobody_listens_alone(tmp_path: Path, data: Path, spot: Path) -> None:
    (data / "pg_wal" / NAME).write_bytes(b"x")
    env = fake_cli(tmp_path, LOUD)
    for stale in (False, True):
        if stale:
            socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).bind(str(spot))
        for args in (["push", f"pg_wal/{NAME}"], ["get", NAME, "x"]):
            assert run([*args, "--socket", str(spot)], data, **env).stderr == "the command line\n"
    spot.unlink()
    spot.write_text("")  # ECONNREFUSED as well
    assert run(["push", f"pg_wal/{NAME}", "--socket", str(spot)], data, **env).stderr == "the command line\n"
    wrong = [str(spot / "x"), str(spot) + "y" * 200]
    for path in wrong:
        done = run(["push", f"pg_wal/{NAME}", "--socket", path], data, **env)
        assert done.returncode == 1 and "the command line" not in done.stderr


def test_a_daemon_that_says_nothing_is_waited_for_and_then_it_is_failure_and_doubt(
    data: Path, spot: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (data / "pg_wal" / NAME).write_bytes(b"x")
    monkeypatch.chdir(data)
    monkeypatch.setattr(walclient, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(walclient, "_stop_on_sigterm", lambda: None)
    monkeypatch.setattr(walclient, "_run", lambda words: pytest.fail("the command line was started"))
    monkeypatch.setattr(walclient._connect, "__defaults__", (0.2,))
    daemon = FakeDaemon(spot, [WAIT, WAIT])
    for args, expected in ((["push", f"pg_wal/{NAME}"], 1), (["get", "--absent-exit", "44", NAME, "x"], 126)):
        monkeypatch.setattr(sys, "argv", ["drkit-wal", "--socket", str(spot), *args])
        assert walclient.main() == expected
        assert "timed out" in capfd.readouterr().err
    daemon.close()


def test_sigterm_ends_the_waiting_for_the_daemon_at_once(data: Path, spot: Path) -> None:
    (data / "pg_wal" / NAME).write_bytes(b"x")
    for args, expected in ((["push", f"pg_wal/{NAME}"], 1), (["get", NAME, "pg_wal/x"], 143)):
        daemon = FakeDaemon(spot, [WAIT])
        client = subprocess.Popen([*CLIENT, "--socket", str(spot), *args], cwd=data)
        assert daemon.heard.wait(30)
        client.send_signal(signal.SIGTERM)
        assert client.wait(timeout=30) == expected
        assert not list((data / "pg_wal").glob(".*"))
        daemon.close()
        spot.unlink()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become other users")
def test_another_users_socket_is_not_believed(data: Path, spot: Path) -> None:
    code = f"import socket; s = socket.socket(1, 5); s.bind({str(spot)!r}); s.listen(); print(flush=True)"
    code += "; s.accept(); s.accept()"
    spot.parent.chmod(0o777)
    other = subprocess.Popen(["runuser", "-u", "nobody", "--", sys.executable, "-c", code], stdout=subprocess.PIPE)
    assert other.stdout is not None
    other.stdout.readline()
    (data / "pg_wal" / NAME).write_bytes(b"x")
    done = run(["push", "--socket", str(spot), f"pg_wal/{NAME}"], data)
    assert done.returncode == 1 and "neither root nor the owner" in done.stderr
    assert run(["get", "--absent-exit", "44", "--socket", str(spot), NAME, "x"], data).returncode == 126
    other.wait(timeout=30)


def test_a_segment_taken_has_the_daemon_fetch_what_follows(tmp_path: Path, data: Path, spot: Path) -> None:
    (data / "recovery.signal").touch()
    prefetched(data, segment_bytes_of(NAME))
    (data / "drkit.toml").write_text("")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener.bind(str(spot))
    listener.listen()
    done = run(["get", "--socket", str(spot), NAME, "x"], data, **fake_cli(tmp_path, LOUD))
    assert (done.returncode, done.stderr) == (0, "")
    connection, _ = listener.accept()
    packet, descriptors, _, _ = socket.recv_fds(connection, 4096, 8)
    assert packet == f"drkit/1 ahead {SYSTEM} {NAME}".encode()
    assert os.path.samestat(os.fstat(descriptors[0]), data.stat())
    for one in (connection, listener):
        one.close()
    os.close(descriptors[0])


# --- where the socket is ------------------------------------------------------------------------------------------

CONFIGURED = {
    "plain": '[daemon]\nsocket = "/run/a.sock"\n',
    "among others": '[keys]\nsocket = "no"\n[daemon]\nsocket  =   "/run/a b"  # where\n[backup]\nsocket = "no"\n',
    "no socket": '[daemon]\nspool = "/s"\n',
    "in a comment": '[daemon]\n# socket = "/run/no"\n',
    "literal": "[daemon]\nsocket = '/run/literal'\n",
    "escaped": '[daemon]\nsocket = "/run/\\u0061"\n',
    "dotted": 'daemon.socket = "/run/dotted"\n',
    "inline": 'daemon = { socket = "/run/inline" }\n',
    "spaced header": '[ daemon ]\nsocket = "/run/spaced"\n',
    "header with a comment": '[daemon] # here\nsocket = "/run/commented"\n',
    "indented": '  [daemon]\n  socket = "/run/indented"\n',
    "in a text": 'x = """\n[daemon]\nsocket = "/run/no"\n"""\n[daemon]\nsocket = "/run/yes"\n',
    "crlf": '[daemon]\r\nsocket = "/run/crlf"\r\n',
}


@pytest.mark.parametrize("what", CONFIGURED)
def test_the_socket_is_read_as_toml_means_it(what: str) -> None:
    text = CONFIGURED[what]
    expected = tomllib.loads(text).get("daemon", {}).get("socket", walclient.SYSTEM_SOCKET)
    assert walclient._socket_in(text.encode()) == expected


def test_where_the_socket_is_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "c.toml"
    config.write_text('[daemon]\nsocket = "/run/configured"\n')
    for name in ("DRKIT_SOCKET", "DRKIT_DAEMON__SOCKET"):
        monkeypatch.delenv(name, raising=False)
    assert walclient._socket_path({}, str(config)) == "/run/configured"
    monkeypatch.setenv("DRKIT_DAEMON__SOCKET", "/run/key")
    assert walclient._socket_path({}, str(config)) == "/run/key"
    monkeypatch.setenv("DRKIT_SOCKET", "/run/env")
    assert walclient._socket_path({}, str(config)) == "/run/env"
    assert walclient._socket_path({"--socket": "/run/flag"}, str(config)) == "/run/flag"
    monkeypatch.delenv("DRKIT_SOCKET")
    monkeypatch.delenv("DRKIT_DAEMON__SOCKET")
    assert walclient._socket_path({}, str(tmp_path / "none.toml")) == ""
    config.write_text("[daemon\nsocket")
    assert walclient._socket_path({}, str(config)) == ""
    config.write_text("[keys]\n")
    assert walclient._socket_path({}, str(config)) == walclient.SYSTEM_SOCKET
