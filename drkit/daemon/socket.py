"""The daemon's socket: connections in one thread, requests in others, all of them bounded.

Silent connections hold nothing but themselves: they are dropped after 10 s, and at once, the oldest first, where the
bound is reached. So who opens a thousand of them does not keep the archiver out. Where every connection has a request
under way, more wait in the kernel's queue.

The caller holds the claim on the socket (`instance.sole`): what lies under its name is stale and is replaced.
"""

from __future__ import annotations

import array
import fcntl
import os
import selectors
import socket
import stat
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import ConfigError, DrkitError
from drkit.core.log import Log
from drkit.daemon.peers import Gate, Peer, peer_of
from drkit.daemon.protocol import MAX_DESCRIPTORS, MAX_REQUEST_BYTES, Answer, Malformed, Status, parse_request
from storage_backends import durable
from storage_backends.errors import StorageError
from storage_backends.oserrors import os_errors

_BACKLOG = 4096
_SEND_S = 10.0
_LONGEST_PATH = 107  # sun_path less its final zero, unix(7)


@dataclass(frozen=True, slots=True)
class Bounds:
    """connections: at once, silent or not · silent_s: how long one may say nothing · leave_s: how long requests under
    way are awaited when the daemon stops."""

    connections: int = 256
    silent_s: float = 10.0
    leave_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Call:
    """A request that came in whole. descriptors: as many as the verb takes, closed when it has returned."""

    verb: str
    words: tuple[str, ...]
    peer: Peer
    descriptors: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Verb:
    """words, descriptors: how many it takes · at_once: how many of it run at a time; more wait.

    run: in a thread of its own. A DrkitError or StorageError becomes the answer `failed`.
    """

    name: str
    run: Callable[[Call], Answer]
    words: int = 0
    descriptors: int = 0
    at_once: int = 4


@dataclass(slots=True)
class _Work:
    """Of one verb: how many threads there are, and what waits for one."""

    threads: int = 0
    waiting: deque[tuple[socket.socket, Call]] = field(default_factory=deque)


def ping() -> Verb:
    return Verb("ping", lambda call: Answer(Status.OK, str(os.getpid())))


def telling(name: str, text: Callable[[], str]) -> Verb:
    """A verb that answers what `text` returns, such as a JSON document."""
    return Verb(name, lambda call: Answer(Status.OK, text()))


class Listener:
    """A part of the daemon. group: of the socket's file, None for the process's own."""

    name = "socket"

    def __init__(
        self,
        path: Path,
        gate: Gate,
        verbs: Sequence[Verb],
        clock: Clock,
        log: Log,
        *,
        bounds: Bounds | None = None,
        group: Callable[[], int | None] = lambda: None,
    ) -> None:
        self._path, self._gate, self._clock, self._log = path, gate, clock, log
        self._bounds, self._group = bounds or Bounds(), group
        self._verbs = {verb.name: verb for verb in verbs}
        self._work = {verb.name: _Work() for verb in verbs}
        self._lock = threading.Lock()
        self._ended = threading.Condition(self._lock)
        self._active = 0
        self._silent: OrderedDict[socket.socket, float] = OrderedDict()
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = -1, -1

    def add(self, verb: Verb) -> None:
        """Before `run`."""
        self._verbs[verb.name], self._work[verb.name] = verb, _Work()

    def run(self, token: CancelToken) -> None:
        """Raises ConfigError, Denied or another StorageError where the socket cannot be made."""
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        listener, identity = self._bind()
        leave = token.on_cancel(self._wake)
        try:
            self._selector.register(self._wake_read, selectors.EVENT_READ)
            self._log.info("socket open", path=str(self._path))
            self._serve(listener, token)
        finally:
            leave()
            listener.close()
            for connection in list(self._silent):
                self._drop(connection)
            self._leave()
            self._remove(identity)
            self._selector.close()

    # --- connections ---

    def _serve(self, listener: socket.socket, token: CancelToken) -> None:
        listening = False
        while not token.cancelled:
            room = self._room()
            if room != listening:
                (
                    self._selector.register(listener, selectors.EVENT_READ)
                    if room
                    else self._selector.unregister(listener)
                )
                listening = room
            for key, _ in self._selector.select(self._pause()):
                if key.fileobj is listener:
                    self._accept(listener)
                elif key.fd == self._wake_read:
                    with suppress(BlockingIOError):
                        os.read(self._wake_read, 4096)
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._silent:
                    self._hear(key.fileobj)
            now = self._clock.monotonic()
            while self._silent and next(iter(self._silent.values())) <= now:
                self._drop(next(iter(self._silent)))

    def _room(self) -> bool:
        with self._lock:
            return self._active < self._bounds.connections

    def _pause(self) -> float:
        """A deadline of a silent connection, or a second, whichever is first: cancelled deadlines wake nobody."""
        first = next(iter(self._silent.values()), None)
        return 1.0 if first is None else min(1.0, max(0.0, first - self._clock.monotonic()))

    def _accept(self, listener: socket.socket) -> None:
        for _ in range(64):  # between them those that have spoken are heard
            if not self._room():
                return
            try:
                connection, _ = listener.accept()
            except BlockingIOError:
                return
            except OSError as error:  # the process has no descriptors left: those that come back make room
                self._log.error("connection not accepted", why=str(error))
                self._drop_oldest()
                return
            connection.setblocking(False)
            peer = peer_of(connection)
            if not self._gate.admits(peer):
                self._gate.refused(peer, "connection")
                self._refuse(connection, f"user {peer.uid} may not use this daemon")
                continue
            with self._lock:
                full = self._active + len(self._silent) >= self._bounds.connections
            if full:
                self._drop_oldest()
            self._silent[connection] = self._clock.monotonic() + self._bounds.silent_s
            self._selector.register(connection, selectors.EVENT_READ)

    def _drop_oldest(self) -> None:
        if self._silent:
            self._drop(next(iter(self._silent)))

    def _drop(self, connection: socket.socket) -> None:
        self._forget(connection)
        connection.close()

    def _forget(self, connection: socket.socket) -> None:
        del self._silent[connection]
        self._selector.unregister(connection)

    def _hear(self, connection: socket.socket) -> None:
        """The one packet of this connection."""
        try:
            packet, descriptors, whole = _receive(connection)
        except BlockingIOError:
            return
        except OSError:
            self._drop(connection)
            return
        self._forget(connection)
        problem = "" if whole else f"a request has at most {MAX_REQUEST_BYTES} bytes and {MAX_DESCRIPTORS} descriptors"
        try:
            if not packet and not descriptors:
                connection.close()
                return
            if not problem:
                problem = self._dispatch(connection, packet, descriptors)
                descriptors = () if not problem else descriptors
        finally:
            _close(descriptors)
        if problem:
            self._refuse(connection, problem)

    def _refuse(self, connection: socket.socket, why: str) -> None:
        with suppress(OSError):  # what is left unread makes the other end hear of a reset instead of the answer
            connection.shutdown(socket.SHUT_RD)
            while connection.recv(1, socket.MSG_DONTWAIT):
                pass
        with suppress(OSError):
            connection.send(next(Answer(Status.REFUSED, why).packets()), socket.MSG_DONTWAIT)
        connection.close()

    # --- requests ---

    def _dispatch(self, connection: socket.socket, packet: bytes, descriptors: tuple[int, ...]) -> str:
        """Hand it to a thread; or why not. What was handed over is closed there."""
        try:
            request = parse_request(packet)
        except Malformed as error:
            return str(error)
        verb = self._verbs.get(request.verb)
        if verb is None:
            return f"the verb {request.verb[:40]!r} is not known"
        if len(request.words) != verb.words:
            return f"{verb.name} takes {verb.words} words, not {len(request.words)}"
        if len(descriptors) != verb.descriptors:
            return f"{verb.name} takes {verb.descriptors} descriptors, not {len(descriptors)}"
        call = Call(verb.name, request.words, peer_of(connection), descriptors)
        with self._lock:
            work = self._work[verb.name]
            if len(work.waiting) >= self._bounds.connections // 4:  # so that no verb keeps another one out
                return f"too many requests of {verb.name} wait"
            self._active += 1
            work.waiting.append((connection, call))
            if work.threads >= verb.at_once:
                return ""
            work.threads += 1
        threading.Thread(target=self._root, args=(verb, work), name=f"socket/{verb.name}", daemon=True).start()
        return ""

    def _root(self, verb: Verb, work: _Work) -> None:
        """A thread: one request after the other, until none waits."""
        while True:
            with self._lock:
                if not work.waiting:
                    work.threads -= 1
                    return
                connection, call = work.waiting.popleft()
            try:
                answer = self._answer(verb, call)
                with suppress(OSError):  # who asked has gone
                    connection.settimeout(_SEND_S)
                    for packet in answer.packets():
                        connection.send(packet)
            finally:
                connection.close()
                with self._lock:
                    self._active -= 1
                    self._ended.notify_all()
                self._wake()

    def _answer(self, verb: Verb, call: Call) -> Answer:
        """What is answered comes after the last use of a descriptor."""
        try:
            return verb.run(call)
        except (DrkitError, StorageError) as error:
            self._log.warn("request failed", verb=verb.name, words=" ".join(call.words), why=str(error))
            return Answer(Status.FAILED, f"{error}; {error.cure}" if error.cure else str(error))
        except BaseException as error:  # noqa: BLE001  a thread root: one request's defect is not every other's end
            self._log.error("request defect", verb=verb.name, error=type(error).__name__, why=str(error))
            return Answer(Status.FAILED, f"a defect of the daemon: {type(error).__name__}")
        finally:
            _close(call.descriptors)

    def _leave(self) -> None:
        """Wait for requests under way, but not for long: who gets no answer asks again."""
        end = self._clock.monotonic() + self._bounds.leave_s
        with self._lock:
            while self._active and (left := end - self._clock.monotonic()) > 0:
                self._ended.wait(left)

    def _wake(self) -> None:
        with suppress(OSError):
            os.write(self._wake_write, b"w")

    # --- the file ---

    def _bind(self) -> tuple[socket.socket, tuple[int, int]]:
        """A listening socket under its name, and the file's device and inode."""
        _check_place(self._path)
        temporary = self._path.with_name(f".{self._path.name}{durable.TEMPORARY_SUFFIX}")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
        try:
            with os_errors("make the socket", str(self._path)):
                temporary.unlink(missing_ok=True)
                os.fchmod(listener.fileno(), 0o660)  # Linux gives this mode to the file, less the umask
                listener.bind(str(temporary))
                group = self._group()
                if group is not None and os.geteuid() == 0:
                    os.chown(temporary, -1, group, follow_symlinks=False)
                temporary.chmod(0o660)
                listener.listen(_BACKLOG)
                facts = temporary.stat()
                temporary.replace(self._path)
        except BaseException:
            listener.close()
            raise
        return listener, (facts.st_dev, facts.st_ino)

    def _remove(self, identity: tuple[int, int]) -> None:
        with suppress(OSError):
            facts = self._path.lstat()
            if (facts.st_dev, facts.st_ino) == identity:
                self._path.unlink()
        for descriptor in (self._wake_read, self._wake_write):
            os.close(descriptor)
        self._wake_read = self._wake_write = -1


def _check_place(path: Path) -> None:
    """Nobody but root, this user and their group may put another socket in the place of this one."""
    if len(os.fsencode(path)) > _LONGEST_PATH:
        raise ConfigError("the socket's path is too long", where=str(path), why=f"{_LONGEST_PATH} bytes at most")
    with os_errors("make the folder of the socket", str(path.parent)):
        durable.make_dirs(path.parent, mode=0o755)
        facts = path.parent.stat()
    problem = ""
    if facts.st_uid not in (0, os.geteuid()):
        problem = f"it belongs to user {facts.st_uid}"
    elif facts.st_mode & stat.S_IWOTH and not facts.st_mode & stat.S_ISVTX:
        problem = f"everybody may write to it (mode {stat.S_IMODE(facts.st_mode):04o})"
    if problem:
        cure = f"a folder of its own: install -d -m 755 -o USER {path.parent}"
        raise ConfigError("the folder of the socket is not safe", where=str(path.parent), why=problem, cure=cure)


def _receive(connection: socket.socket) -> tuple[bytes, tuple[int, ...], bool]:
    """A packet, its descriptors (of which nobody else knows), and whether all of it fitted. Raises OSError."""
    room = socket.CMSG_SPACE(MAX_DESCRIPTORS * array.array("i").itemsize)
    packet, ancillary, flags, _ = connection.recvmsg(MAX_REQUEST_BYTES, room, socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
    whole = not flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC)
    return packet, tuple(descriptors), whole


def _close(descriptors: Sequence[int]) -> None:
    for descriptor in descriptors:
        with suppress(OSError):
            os.close(descriptor)


def access_of(descriptor: int) -> int:
    """O_RDONLY, O_WRONLY or O_RDWR."""
    return fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE
