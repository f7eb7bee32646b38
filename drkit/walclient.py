"""drkit-wal: what archive_command and restore_command run. Standard library only, and little of it.

    drkit-wal push [--config FILE] PATH                          archive_command = 'drkit-wal push %p'
    drkit-wal get [--config FILE] [--absent-exit N] NAME DEST    restore_command, see below

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

`get` takes a segment that was prefetched by one rename. Everything else is done by `drkit wal push|get`, in a process
of its own: how it ends is translated, and nothing that it does wrong can look like 'absent'.
"""

from __future__ import annotations

import os
import sys

FAILED = 1
DOUBT = 126
TERMINATED = 143
SYSTEM_CONFIG = "/etc/drkit/drkit.toml"
RECOVERY_FILE = "drkit.recovery.json"
PREFETCH = "pg_wal/drkit-prefetch"
_ABSENT_CODES = range(3, 126)
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
        if name in ("--config", "--absent-exit"):
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
    return 0 if _run(["--config", config, "wal", "push", "--", path]) == 0 else FAILED


def _get(name: str, dest: str, options: dict[str, str]) -> int:
    absent = int(options.get("--absent-exit", DOUBT))
    if absent not in _ABSENT_CODES and "--absent-exit" in options:
        raise ValueError("--absent-exit is 3 to 125: 1 and 2 are also what a broken interpreter exits with")
    if _take(name, dest):
        _prefetch(name, options)
        return 0
    flag = ["--absent-exit", str(absent)] if "--absent-exit" in options else []
    status = _run(["--config", _config_to_get(options), "wal", "get", *flag, "--", name, dest])
    if status == 0:
        _prefetch(name, options)
        return 0
    return status if status == absent else DOUBT


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
    import signal

    def stop(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise _Stopped

    signal.signal(signal.SIGTERM, stop)


# --- prefetched segments ------------------------------------------------------------------------------------------


def _folder() -> str:
    from binascii import crc32

    try:
        with open(RECOVERY_FILE, "rb") as file:  # noqa: PTH123  as above
            return f"{PREFETCH}/{crc32(file.read()):08x}"
    except FileNotFoundError:
        return f"{PREFETCH}/{0:08x}"


def _take(name: str, dest: str) -> bool:
    """Rename a prefetched segment to `dest` if it is whole and of this cluster; else leave it to the long way.

    Its first page says (offsets, little-endian): timeline 4 (4 bytes), address 8 (8), system identifier 24 (8),
    segment size 32 (4). The control file begins with the system identifier (8 bytes).
    """
    if len(name) != 24 or name.strip(_DIGITS):
        return False
    path = f"{_folder()}/{name}"
    try:
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
    """Start one process that fetches ahead, unless enough is there or one is at it. It never delays this one.

    What keeps it from starting is no error: the segment asked for is there.
    """
    if len(name) != 24 or not (os.path.exists("recovery.signal") or os.path.exists("standby.signal")):  # noqa: PTH110
        return
    try:
        if _enough_ready(name) or _busy():
            return
        words = _command(["--config", _config_to_get(options), "wal", "get", "--prefetch", "--", name, "."])
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
