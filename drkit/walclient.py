"""drkit-wal: what archive_command and restore_command run. Standard library only, and little of it.

    drkit-wal push [--config FILE] [--socket PATH] PATH          archive_command = 'drkit-wal push %p'
    drkit-wal get [...] [--absent-exit N] NAME DEST              restore_command, see below

Exit status
    push   0: durable where the policy wants it · 1: anything else, so that PostgreSQL tries again. Never above 125:
           that would restart the archiver without counting a failure.
    get    0: DEST is there · N: proven absent · 126: anything else (143 where SIGTERM ended it). PostgreSQL takes 1 to
           125 for the end of WAL and promotes. Without --absent-exit a proven absence is 126 too, and N must be 3 to
           125: 1 and 2 are what an interpreter exits with that could not even start, and no proof of anything.
           So the restore_command is
               drkit-wal get --absent-exit 44 %f %p; r=$?; [ $r = 0 ] && exit 0; [ $r = 44 ] && exit 1; exit 126

The configuration is --config, else $DRKIT_CONFIG, else for `get` the one that drkit.recovery.json names, else
/etc/drkit/drkit.toml; never ./drkit.toml, as the current folder is the data folder.

`get` takes a segment that was prefetched by one rename. All else the daemon is asked for on its socket: --socket, else
$DRKIT_SOCKET or $DRKIT_DAEMON__SOCKET, else [daemon].socket of the configuration, else /run/drkit/drkit.sock. It gets
the file as a descriptor that was opened here, so that it opens no path for anybody. Where nobody listens (and only
there: not after a time-out, a refusal or an answer that makes no sense) `drkit wal push|get` does it in a process of
its own: how it ends is translated, and nothing that it does wrong can look like 'absent'.

Costs (processor time of CPython 3.11, means of 40 runs): `python -c pass` 10 ms, `python -I -S -c pass` 6, all of this
as drkit-wal.sh starts it 8, asking the daemon 1 to 2 ms more. For a segment of 16 MiB that was pushed ahead, and that
somebody may have written to since, the daemon takes 6 ms more, to see that it is the same.
"""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket

FAILED = 1
DOUBT = 126
TERMINATED = 143
SYSTEM_CONFIG = "/etc/drkit/drkit.toml"
SYSTEM_SOCKET = "/run/drkit/drkit.sock"
TIMEOUT_S = 600.0  # a target that hangs costs the daemon some minutes at most; PostgreSQL waits for either command
RECOVERY_FILE = "drkit.recovery.json"
PREFETCH = "pg_wal/drkit-prefetch"
_ABSENT_CODES = range(3, 126)
BOOT = "/proc/sys/kernel/random/boot_id"
_MOST_FILES, _MOST_BYTES = 16, 256 << 20  # as drkit/jobs/wal_prefetch.py
_DIGITS = "0123456789ABCDEF"


class _Stopped(BaseException):
    """SIGTERM."""


def main() -> int:
    """The process's exit status; no error leaves this function."""
    words = sys.argv[1:]
    verb = next((word for word in words if word in ("push", "get")), "")
    try:
        if words in (["--help"], ["-h"]):
            sys.stdout.write(__doc__ or "")
            return 0
        _stop_on_sigterm()
        options, rest = _parse(words)
        if rest[:1] == ["push"] and len(rest) == 2 and "--absent-exit" not in options:
            return _push(rest[1], options)
        if rest[:1] == ["get"] and len(rest) == 3:
            return _get(rest[1], rest[2], options)
        return _complain("usage: drkit-wal push PATH | get [--absent-exit N] NAME DEST", verb)
    except _Stopped:
        return FAILED if verb == "push" else TERMINATED
    except BaseException as error:  # noqa: BLE001  MemoryError, a broken library: never the interpreter's own exit
        return _complain(f"{type(error).__name__}: {error}", verb)


def _complain(text: str, verb: str) -> int:
    try:
        sys.stderr.write(f"drkit-wal: {text}\n")
    except (OSError, ValueError, AttributeError):
        pass
    return FAILED if verb == "push" else DOUBT


def _parse(words: list[str]) -> tuple[dict[str, str], list[str]]:
    """Options by name, and the other words. Raises ValueError."""
    options: dict[str, str] = {}
    rest = []
    left = list(words)
    while left:
        word = left.pop(0)
        name, equals, value = word.partition("=")
        if name in ("--config", "--absent-exit", "--socket"):
            if not equals and not left:
                raise ValueError(f"{name} wants a value")
            options[name] = value if equals else left.pop(0)
        elif word.startswith("-"):
            raise ValueError(f"{word} is no option")
        else:
            rest.append(word)
    return options, rest


def _push(path: str, options: dict[str, str]) -> int:
    config = options.get("--config") or os.environ.get("DRKIT_CONFIG") or SYSTEM_CONFIG
    system = "" if path.startswith("/") else _system()  # an absolute path is a person's: whose WAL it is takes thought
    daemon = _connect(options, config) if system else None
    if daemon is None:
        return 0 if _run(["--config", config, "wal", "push", "--", path]) == 0 else FAILED
    name = path.rpartition("/")[2]
    status, text = _ask(daemon, f"push {system} {name}", [os.open(path, os.O_RDONLY | os.O_CLOEXEC)])
    return 0 if status == "ok" else _complain(f"{name} is not archived: {text}", "push")


def _get(name: str, dest: str, options: dict[str, str]) -> int:
    absent = int(options.get("--absent-exit", DOUBT))
    if absent not in _ABSENT_CODES and "--absent-exit" in options:
        raise ValueError("--absent-exit is 3 to 125: 1 and 2 are also what a broken interpreter exits with")
    if _take(name, dest):
        _prefetch(name, options)
        return 0
    status, text = _ask_for(name, dest, options)
    if status:
        if status != "ok":
            _complain(f"{name} is absent: {text}" if status == "absent" else f"{name}: {text}", "get")
        return 0 if status == "ok" else absent if status == "absent" else DOUBT
    flag = ["--absent-exit", str(absent)] if "--absent-exit" in options else []
    code = _run(["--config", _config_to_get(options), "wal", "get", *flag, "--", name, dest])
    if code == 0:
        _prefetch(name, options)
        return 0
    return code if code == absent else DOUBT


def _config_to_get(options: dict[str, str]) -> str:
    named = options.get("--config") or os.environ.get("DRKIT_CONFIG")
    if named:
        return named
    try:
        with open(RECOVERY_FILE, "rb") as file:  # noqa: PTH123  pathlib costs more than all else here
            text = file.read()
    except FileNotFoundError:
        return SYSTEM_CONFIG
    import json

    return json.loads(text).get("config") or SYSTEM_CONFIG


# --- the daemon ---------------------------------------------------------------------------------------------------


def _system() -> str:
    """The system identifier that the control file of this folder begins with; "" where there is none."""
    try:
        with open("global/pg_control", "rb") as control:  # noqa: PTH123  as above
            return str(int.from_bytes(control.read(8), "little"))
    except FileNotFoundError:
        return ""


def _connect(options: dict[str, str], config: str, timeout_s: float = TIMEOUT_S) -> _socket.socket | None:
    """None where nobody listens, or the configuration cannot tell where: then the command line tells what is wrong.

    _socket and not socket: that one takes as long to import as all the rest of this program.
    """
    import _socket

    path = _socket_path(options, config)
    if not path:
        return None
    daemon = _socket.socket(_socket.AF_UNIX, _socket.SOCK_SEQPACKET)
    daemon.settimeout(timeout_s)
    try:
        daemon.connect(path)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    uid = int.from_bytes(daemon.getsockopt(_socket.SOL_SOCKET, _socket.SO_PEERCRED, 12)[4:8], "little")
    if uid not in (0, os.geteuid(), os.stat(".").st_uid):  # noqa: PTH116  as above
        raise ValueError(f"{path} is user {uid}'s, not the daemon's: neither root nor the owner of this folder")
    return daemon


def _ask(daemon: _socket.socket, request: str, descriptors: list[int]) -> tuple[str, str]:
    """The answer's status and text, as drkit/daemon/protocol.py says.

    Raises EOFError where the daemon hung up before it had answered, OSError, ValueError.
    """
    try:
        _send(daemon, request, descriptors)
    except BrokenPipeError:
        pass  # it refused before it listened: its answer says why
    text = b""
    while True:
        try:
            packet = daemon.recv(1 << 16)
        except ConnectionResetError:
            packet = b""
        if not packet:
            raise EOFError("the daemon hung up")
        version, _, rest = packet.partition(b" ")
        status, _, part = rest.partition(b" ")
        if version != b"drkit/1":
            raise ValueError("the daemon's answer makes no sense")
        text += part
        if status != b"more":
            return status.decode("ascii"), text.decode("utf-8", "replace")


def _send(daemon: _socket.socket, request: str, descriptors: list[int]) -> None:
    import _socket

    rights = b"".join(one.to_bytes(4, sys.byteorder) for one in descriptors)
    daemon.sendmsg([f"drkit/1 {request}".encode("ascii")], [(_socket.SOL_SOCKET, _socket.SCM_RIGHTS, rights)])


def _here() -> int:
    return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def _ask_for(name: str, dest: str, options: dict[str, str]) -> tuple[str, str]:
    """What the daemon answers to `get`; empty texts where nobody listens.

    A daemon that ends before it has answered is asked again: it was restarted, or nobody listens any more.
    """
    system = _system()
    for _ in range(3) if system else ():
        daemon = _connect(options, _config_to_get(options))
        if daemon is None:
            return "", ""
        try:
            return _fetch(daemon, system, name, dest)
        except EOFError:
            continue
    return ("failed", "the daemon hung up three times") if system else ("", "")


def _fetch(daemon: _socket.socket, system: str, name: str, dest: str) -> tuple[str, str]:
    """`dest` appears by rename, after the daemon said that it is whole."""
    folder, slash, base = dest.rpartition("/")
    temporary = f"{folder}{slash}.{base}.{os.getpid()}.drkit.tmp"
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        status, text = _ask(daemon, f"get {system} {name}", [file, _here()])
        if status == "ok":
            os.rename(temporary, dest)  # noqa: PTH104  as above
            temporary = ""
        return status, text
    finally:
        if temporary:
            os.unlink(temporary)  # noqa: PTH108  as above


def _socket_path(options: dict[str, str], config: str) -> str:
    """An empty text where the configuration that was named cannot be read."""
    env = os.environ
    named = options.get("--socket") or env.get("DRKIT_SOCKET") or env.get("DRKIT_DAEMON__SOCKET")
    if named:
        return named
    try:
        with open(config, "rb") as file:  # noqa: PTH123  as above
            text = file.read()
    except OSError:
        return SYSTEM_SOCKET if config == SYSTEM_CONFIG else ""
    return _socket_in(text) if b"socket" in text else SYSTEM_SOCKET


def _socket_in(text: bytes) -> str:
    """[daemon].socket; tomllib is imported only where the plain way of writing it is not found."""
    section = b""
    for line in text.split(b"\n") if b'"""' not in text and b"'''" not in text else []:
        words = line.split()
        if line[:1] == b"[":
            section = line.strip()
        elif section == b"[daemon]" and words[:2] == [b"socket", b"="] and len(words) == 3:
            value = words[2]
            if value[:1] == value[-1:] == b'"' and value.count(b'"') == 2 and b"\\" not in value:
                return value[1:-1].decode()
    import tomllib

    try:
        return str(tomllib.loads(text.decode()).get("daemon", {}).get("socket", SYSTEM_SOCKET))
    except (ValueError, AttributeError):
        return ""


# --- the command line behind --------------------------------------------------------------------------------------


def _command(words: list[str]) -> list[str]:
    """-P: the current folder is a data folder and no place to import from."""
    return [sys.executable, "-P", "-m", "drkit.cli.app", *words]


def _run(words: list[str]) -> int:
    """Its exit status, or minus the signal that killed it."""
    pid = os.posix_spawn(sys.executable, _command(words), os.environ)
    try:
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    except _Stopped:
        os.kill(pid, 15)
        os.waitpid(pid, 0)
        raise


def _stop_on_sigterm() -> None:
    import _signal  # type: ignore[import-not-found]  # signal imports enum, which costs more than all the rest

    def stop(number: int, frame: object) -> None:
        _signal.signal(_signal.SIGTERM, _signal.SIG_IGN)
        raise _Stopped

    _signal.signal(_signal.SIGTERM, stop)


# --- prefetched segments ------------------------------------------------------------------------------------------


def _folder() -> str:
    from binascii import crc32

    with open(BOOT, "rb") as file:  # noqa: PTH123  as above
        boot = file.read()
    try:
        with open(RECOVERY_FILE, "rb") as file:  # noqa: PTH123  as above
            plan = file.read()
    except FileNotFoundError:
        plan = b""
    return f"{PREFETCH}/{crc32(boot + plan):08x}"


def _take(name: str, dest: str) -> bool:
    """Rename a prefetched segment to `dest` if it is whole and of this cluster; else leave it to the long way.

    Its first page says (offsets, little-endian): timeline 4 (4 bytes), address 8 (8), system identifier 24 (8),
    segment size 32 (4). The control file begins with the system identifier (8 bytes).
    """
    if len(name) != 24 or name.strip(_DIGITS):
        return False
    try:
        path = f"{_folder()}/{name}"
        with open(path, "rb") as file, open("global/pg_control", "rb") as control:  # noqa: PTH123  as above
            size = os.fstat(file.fileno()).st_size
            head = file.read(40)
            system = control.read(8)
        if len(head) < 40 or not _fits(name, head, size) or head[24:32] != system:
            return False
        os.rename(path, dest)  # noqa: PTH104  as above
    except OSError:
        return False
    return True


def _fits(name: str, head: bytes, size: int) -> bool:
    timeline, address = int.from_bytes(head[4:8], "little"), int.from_bytes(head[8:16], "little")
    start = (int(name[8:16], 16) << 32) + int(name[16:24], 16) * size
    same_size = int.from_bytes(head[32:36], "little") == size
    return same_size and address == start and 1 <= timeline <= int(name[:8], 16)


def _prefetch(name: str, options: dict[str, str]) -> None:
    """Have what follows fetched, unless enough is there or somebody is at it. It never delays this process.

    What keeps it from starting is no error: the segment asked for is there.
    """
    if len(name) != 24 or not (os.path.exists("recovery.signal") or os.path.exists("standby.signal")):  # noqa: PTH110
        return
    try:
        if _enough_ready(name) or _busy():
            return
        config = _config_to_get(options)
        daemon = _connect(options, config, 1.0)
        if daemon is not None:
            _send(daemon, f"ahead {_system()} {name}", [_here()])  # the answer is not awaited
            return
        words = _command(["--config", config, "wal", "get", "--prefetch", "--", name, "."])
        null = os.devnull
        actions = [(os.POSIX_SPAWN_OPEN, fd, null, os.O_RDWR, 0) for fd in (0, 1)]  # it tells of damage on stderr
        os.posix_spawn(sys.executable, words, os.environ, file_actions=actions, setsid=True)
    except (OSError, ValueError, NotImplementedError):
        return


def _ready() -> list[str]:
    try:
        return [name for name in os.listdir(_folder()) if len(name) == 24]  # noqa: PTH208  as above
    except FileNotFoundError:
        return []


def _enough_ready(name: str) -> bool:
    ready = [other for other in _ready() if other[8:] > name[8:]]
    if not ready:
        return False
    size = os.stat(f"{_folder()}/{ready[0]}").st_size  # noqa: PTH116  as above
    return 2 * len(ready) > max(1, min(_MOST_FILES, _MOST_BYTES // max(1, size)))


def _busy() -> bool:
    import fcntl

    try:
        lock = os.open(f"{PREFETCH}/lock", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(lock)
    return False


if __name__ == "__main__":
    sys.exit(main())
