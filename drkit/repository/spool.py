"""What outlives a process on this host: debts of sealed WAL, and which target failed just now.

    <spool>/wal/debts/<target>/<file>-<digest>    a debt: an object that this target still lacks
    <spool>/wal/sealed/<file>-<digest>            its sealed bytes, written before the debt, removed after the last one
    <spool>/wal/sealed/.<file>-<digest>.<token>.aside    put aside by who found no debt of it, until it looked again
    <spool>/wal/lock                              flock: shared by who writes, so that a sweep spares what is unfinished
    <spool>/wal/paying                            flock: who pays; its mtime: when that one last said so
    <spool>/resting/<target>                      when it failed last, and how often in a row
    <spool>/beside/<target>                       it was on a device of the server when it was last opened
    <spool>/suspects/<key, its / as ~>            an object that a read met damaged or missing, on some target
    <spool>/systems/<cluster>                     the system identifier that this host archives under that name

Debts are durable on return. A crash leaves sealed bytes without a debt, which are rubbish, never a debt without bytes.
Nobody ever waits for a lock: a process that is stopped in the midst of it (a job, a debugger, Ctrl-Z) holds up no WAL.
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from drkit.core.errors import Conflict, Damage
from drkit.core.units import format_time, parse_time
from drkit.crypto.container import DIGEST_BYTES, check_digest
from drkit.repository.pins import make_spool
from drkit.repository.wal import Blob
from storage_backends import durable
from storage_backends.errors import AlreadyExists, OutOfSpace, StorageError
from storage_backends.oserrors import os_errors

_FIRST_REST_S, _LONGEST_REST_S = 10.0, 120.0
_SILENT = timedelta(seconds=60)
_ASIDE = ".aside"


@dataclass(frozen=True, slots=True)
class Debt:
    """A sealed object that was acknowledged while `target` lacked it. identity and digest are hex.

    blocked: something else stands under its name there (damaged, or of other content): it is not paid in passing.
    """

    target: str
    system_identifier: int
    file: str
    identity: str
    digest: str
    size_bytes: int
    since: str
    why: str
    blocked: bool = False

    @property
    def ident(self) -> str:
        return f"{self.file}-{self.digest[:16]}"


class Spool:
    """Thread-safe, and safe between processes of one host. Making one touches nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._debts, self._sealed = folder / "wal" / "debts", folder / "wal" / "sealed"

    # --- debts ---

    def owe(self, debts: Iterable[Debt], blob: Blob) -> None:
        """Record debts of one object. Raises OutOfSpace where the disk is full: then nothing may be acknowledged."""
        owed = list(debts)
        for made in (self._sealed, *(self._debts / debt.target for debt in owed)):
            durable.make_dirs(made, sync_existing=True)
        with self._locked(
            "lock", shared=True
        ):  # held by a sweep: at worst that takes what is unfinished, and this fails
            self._keep(owed[0], blob)
            for debt in owed:
                text = json.dumps(asdict(debt), sort_keys=True)
                durable.replace(self._debts / debt.target / debt.ident, text.encode())
            # Who puts the bytes aside from now on sees the debts, and puts them back; who did before is seen here.
            if not (self._sealed / owed[0].ident).exists():
                self._keep(owed[0], blob)

    def _keep(self, debt: Debt, blob: Blob) -> None:
        try:
            durable.write_new(self._sealed / debt.ident, blob.parts)
        except AlreadyExists:
            try:
                self.sealed(debt)
            except Damage:  # an earlier attempt's bytes are used only when they are whole
                durable.replace(self._sealed / debt.ident, b"".join(blob.parts))

    def targets(self) -> list[str]:
        """Targets with debts."""
        return [name for name in _names(self._debts) if _names(self._debts / name)]

    def count(self, target: str) -> int:
        return len(_names(self._debts / target))

    def idents(self, target: str) -> list[str]:
        """What tells the debts to a target apart; sorted."""
        return _names(self._debts / target)

    def debt(self, target: str, ident: str) -> Debt | None:
        """None where it is paid. Raises Damage."""
        return self._read(self._debts / target / ident)

    def debts(self, target: str) -> Iterator[Debt]:
        """By file name: the oldest WAL of a timeline first. Read one by one, as they are asked for."""
        for name in _names(self._debts / target):
            debt = self._read(self._debts / target / name)
            if debt is not None:
                yield debt

    def sealed(self, debt: Debt) -> Blob:
        """The sealed bytes; raises Damage where they are not what was written."""
        path = self._sealed / debt.ident
        data = self._bytes(debt.ident)
        if data is None:
            raise Damage("the sealed bytes of a debt are missing in the spool", where=str(path))
        digest = check_digest(data, str(path))
        if digest.hex() != debt.digest:
            raise Damage("the sealed bytes of a debt are others", where=str(path))
        return Blob((data[:-DIGEST_BYTES], digest), len(data), digest)

    def _bytes(self, ident: str) -> bytes | None:
        """Also where they are aside just now, or who put them aside died; None: there are none."""
        path = self._sealed / ident
        for place in (path, *self._sealed.glob(f".{ident}.*{_ASIDE}"), path):
            with suppress(FileNotFoundError):
                return place.read_bytes()
        return None

    def block(self, debt: Debt, why: str) -> None:
        """Mark it as one that only a repair of the target can settle."""
        text = json.dumps(asdict(replace(debt, blocked=True, why=why)), sort_keys=True)
        with self._locked("lock", shared=True):
            durable.replace(self._debts / debt.target / debt.ident, text.encode())

    def settle(self, debt: Debt) -> None:
        """It is paid, or nothing is owed any more. The bytes go with the last debt of the object."""
        (self._debts / debt.target / debt.ident).unlink(missing_ok=True)
        durable.sync_dir(self._debts / debt.target)
        self._drop_if_unowed(debt.ident)

    def sweep(self) -> None:
        """Remove what an `owe` or `settle` left that died half way: files never finished, bytes that no debt names."""
        if not self._sealed.exists():
            return
        with self._locked("lock") as alone:  # nobody writes: what is unfinished now, nobody finishes
            for folder in (self._sealed, *(self._debts / target for target in _names(self._debts))) if alone else ():
                for left in folder.glob(f".*{durable.TEMPORARY_SUFFIX}"):
                    left.unlink(missing_ok=True)
        for aside in self._sealed.glob(f".*{_ASIDE}"):
            self._drop_or_put_back(aside, aside.name[1:].rsplit(".", 2)[0])
        for ident in _names(self._sealed):
            self._drop_if_unowed(ident)

    def _drop_if_unowed(self, ident: str) -> None:
        """Two looks, and the bytes aside at the second one: a debt that is made in between is seen by it, or its maker
        sees that the bytes are gone and writes them anew (`owe`). So neither has to wait for the other."""
        if self._is_owed(ident):
            return
        aside = self._sealed / f".{ident}.{secrets.token_hex(8)}{_ASIDE}"
        try:
            (self._sealed / ident).rename(aside)
        except FileNotFoundError:
            return
        self._drop_or_put_back(aside, ident)

    def _drop_or_put_back(self, aside: Path, ident: str) -> None:
        if self._is_owed(ident):
            with suppress(FileNotFoundError):  # somebody else did
                aside.rename(self._sealed / ident)
        else:
            aside.unlink(missing_ok=True)

    def _is_owed(self, ident: str) -> bool:
        return any((self._debts / target / ident).exists() for target in _names(self._debts))

    @contextmanager
    def paying(self, now: datetime) -> Iterator[bool]:
        """Whether we are to pay: nobody else does, or who does was silent for a minute, is stopped or hangs. Never
        waits. Two that pay do the same twice and harm nobody."""
        durable.make_dirs(self.folder / "wal")
        with self._locked("paying") as alone:
            ours = alone or self._payer_silent(now)
            if ours:
                self.pays(now)
            yield ours

    def pays(self, now: datetime) -> None:
        """Who pays says so, now and then."""
        with suppress(FileNotFoundError):
            os.utime(self.folder / "wal" / "paying", (now.timestamp(), now.timestamp()))

    def _payer_silent(self, now: datetime) -> bool:
        with suppress(FileNotFoundError):
            said_s = (self.folder / "wal" / "paying").stat().st_mtime
            return abs(now.timestamp() - said_s) > _SILENT.total_seconds()
        return True

    def _read(self, path: Path) -> Debt | None:
        try:
            return Debt(**json.loads(path.read_text()))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise Damage("a debt in the spool is damaged", where=str(path), why=str(error)) from error

    @contextmanager
    def _locked(self, name: str, *, shared: bool = False) -> Iterator[bool]:
        """Whether we have it: nobody waits for it."""
        path = self.folder / "wal" / name
        with os_errors(f"lock {name}", str(path.parent)):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                ours = True
            except BlockingIOError:
                ours = False
            yield ours
        finally:
            os.close(descriptor)

    # --- targets that rest ---

    def failed(self, target: str, now: datetime, why: str) -> None:
        """A target failed: it rests 10 s, then twice as long each time, at most 2 minutes.

        Only saves time: what cannot be remembered (a full disk, another user's spool) is forgotten, nothing raised.
        """
        known = self._rest(target)
        row = (int(str(known["row"])) if known else 0) + 1
        value = {"at": format_time(now), "row": row, "why": why}
        try:
            durable.make_dirs(self.folder / "resting")
            durable.replace(self.folder / "resting" / target, json.dumps(value).encode())
        except StorageError:
            return

    def answered(self, target: str) -> None:
        """It works again."""
        with suppress(OSError):
            (self.folder / "resting" / target).unlink(missing_ok=True)

    def resting(self, now: datetime) -> dict[str, str]:
        """Targets that failed so recently that they need not be asked, and why they failed."""
        found: dict[str, str] = {}
        try:
            names = _names(self.folder / "resting")
        except OSError:
            return found
        for name in names:
            known = self._rest(name)
            if known is None:
                continue
            rest_s = min(_LONGEST_REST_S, _FIRST_REST_S * 2 ** min(int(str(known["row"])) - 1, 8))
            since = now - parse_time(str(known["at"]))
            # A time in the future means that the clock was set back: ask, rather than rest for ever.
            if timedelta(0) <= since < timedelta(seconds=rest_s):
                found[name] = str(known["why"])
        return found

    def _rest(self, target: str) -> dict[str, object] | None:
        """A memo that cannot be read is none: it only saves time."""
        try:
            value = json.loads((self.folder / "resting" / target).read_text())
            parse_time(str(value["at"]))
            int(value["row"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return dict(value)

    # --- objects that were met damaged ---

    def suspect(self, keys: Iterable[str]) -> None:
        """Remember that a read met them damaged or missing on a target: the next verification looks at them, whatever
        its part. Who met them has something better to do than to wait for it: what cannot be kept is forgotten.
        """
        try:
            for key in keys:
                durable.make_dirs(self.folder / "suspects")
                durable.replace(self.folder / "suspects" / key.replace("/", "~"), b"")
        except StorageError:
            return

    def suspects(self) -> frozenset[str]:
        """What is to be looked at. None where this user cannot say."""
        try:
            return frozenset(name.replace("~", "/") for name in _names(self.folder / "suspects"))
        except OSError:
            return frozenset()

    def looked_at(self, keys: Iterable[str]) -> None:
        """They were read on every target, and what is wrong with them is known elsewhere."""
        with suppress(OSError):
            for key in keys:
                (self.folder / "suspects" / key.replace("/", "~")).unlink(missing_ok=True)

    # --- where targets are ---

    def remember_beside(self, target: str, beside: bool) -> None:
        """Whether an opened target is on a device of the server: what to believe when it cannot be opened.

        On a full disk it is forgotten: the target then counts as apart, and more must acknowledge, not less.
        """
        path = self.folder / "beside" / target
        if beside == path.exists():
            return
        if beside:
            with suppress(OutOfSpace):
                make_spool(self.folder)
                durable.make_dirs(path.parent)
                durable.replace(path, b"")
        else:
            path.unlink(missing_ok=True)

    def was_beside(self, target: str) -> bool:
        return (self.folder / "beside" / target).exists()

    # --- systems ---

    def pin_system(self, cluster: str, system_identifier: int) -> None:
        """Remember which system this host archives as `cluster`. Raises Conflict where it is another one, ConfigError
        where this user cannot use the spool.

        A full disk is no reason not to archive: then it is left to the next one to remember. What a second server
        would archive meanwhile under that name lies under its own identifier.
        """
        path = self.folder / "systems" / cluster
        try:
            known = path.read_text().strip()
        except (FileNotFoundError, NotADirectoryError):
            try:
                make_spool(self.folder)
                durable.make_dirs(path.parent)
                durable.write_new(path, [f"{system_identifier}\n".encode()])
                return
            except OutOfSpace:
                return
            except AlreadyExists:
                known = path.read_text().strip()
        if known != str(system_identifier):
            raise Conflict(
                f"this is not the server that is known here as {cluster!r}",
                where=str(path),
                why=f"its system identifier is {system_identifier}, not {known}",
                cure=f"give a new server a [cluster.NAME] of its own; after an upgrade or a new initdb that replaces "
                f"the old one: rm {path}",
            )


def _names(folder: Path) -> list[str]:
    """Sorted names of the entries of a folder, without files under construction; empty where there is no folder."""
    try:
        return sorted(entry.name for entry in folder.iterdir() if not entry.name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
