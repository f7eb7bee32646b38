"""What outlives a process on this host: debts of sealed WAL, and which target failed just now.

    <spool>/wal/debts/<file>-<digest>.json    a debt: an object, and the targets that still lack it
    <spool>/wal/sealed/<file>-<digest>        its sealed bytes, written before the debt, removed after it
    <spool>/wal/lock, paying                  flock: who changes a debt, who pays
    <spool>/resting/<target>                  when it failed last, and how often in a row
    <spool>/systems/<cluster>                 the system identifier that this host archives under that name

Everything is durable on return. A crash leaves sealed bytes without a debt, which are rubbish, never a debt without bytes.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from drkit.core.errors import Conflict, Damage
from drkit.core.units import format_time, parse_time
from drkit.crypto.container import DIGEST_BYTES, check_digest
from drkit.repository.wal import Blob
from storage_backends import durable
from storage_backends.errors import AlreadyExists
from storage_backends.oserrors import os_errors

_FIRST_REST_S, _LONGEST_REST_S = 10.0, 120.0


@dataclass(frozen=True, slots=True)
class Debt:
    """A sealed object that was acknowledged while `owed` (target -> why) lacked it. Texts are hex where binary."""

    system_identifier: int
    file: str
    identity: str
    digest: str
    size_bytes: int
    since: str
    owed: Mapping[str, str]

    @property
    def ident(self) -> str:
        return f"{self.file}-{self.digest[:16]}"


class Spool:
    """Thread-safe, and safe between processes of one host. Making one touches nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._debts, self._sealed = folder / "wal" / "debts", folder / "wal" / "sealed"

    # --- debts ---

    def owe(self, debt: Debt, blob: Blob) -> None:
        """Record a debt, joined with one of the same object. Raises OutOfSpace where the disk is full."""
        for made in (self._debts, self._sealed):
            durable.make_dirs(made, sync_existing=True)
        sealed = self._sealed / debt.ident
        with self._locked("lock"):
            try:
                durable.write_new(sealed, blob.parts)
            except AlreadyExists:
                self._rewrite_damaged(debt, blob)
            known = self._read(self._debts / f"{debt.ident}.json")
            if known is not None:
                debt = replace(known, owed={**known.owed, **debt.owed})
            self._write(debt)

    def _rewrite_damaged(self, debt: Debt, blob: Blob) -> None:
        """Sealed bytes of an earlier attempt are used only when they are whole."""
        try:
            self.sealed(debt)
        except Damage:
            durable.replace(self._sealed / debt.ident, b"".join(blob.parts))

    def debts(self) -> Iterator[Debt]:
        """All debts, by file name: the oldest WAL of a timeline first. Read one by one, as they are asked for."""
        try:
            names = sorted(name for name in os.listdir(self._debts) if name.endswith(".json"))
        except FileNotFoundError:
            return
        for name in names:
            debt = self._read(self._debts / name)
            if debt is not None:
                yield debt

    def sealed(self, debt: Debt) -> Blob:
        """The sealed bytes; raises Damage where they are not what was written."""
        path = self._sealed / debt.ident
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            raise Damage("the sealed bytes of a debt are missing in the spool", where=str(path)) from None
        digest = check_digest(data, str(path))
        if digest.hex() != debt.digest:
            raise Damage("the sealed bytes of a debt are others", where=str(path))
        return Blob((data[:-DIGEST_BYTES], digest), len(data), digest)

    def settle(self, debt: Debt, targets: Iterable[str]) -> None:
        """These targets no longer lack it; with the last one the debt and its bytes go."""
        with self._locked("lock"):
            known = self._read(self._debts / f"{debt.ident}.json")
            if known is None:
                return
            gone = set(targets)
            owed = {name: why for name, why in known.owed.items() if name not in gone}
            if owed:
                self._write(replace(known, owed=owed))
                return
            for folder, name in ((self._debts, f"{debt.ident}.json"), (self._sealed, debt.ident)):
                (folder / name).unlink(missing_ok=True)
                durable.sync_dir(folder)

    def sweep(self) -> None:
        """Remove sealed bytes that no debt names: an `owe` or `settle` died half way."""
        with self._locked("lock"):
            try:
                names = os.listdir(self._sealed)
            except FileNotFoundError:
                return
            for name in names:
                if not (self._debts / f"{name}.json").exists():
                    (self._sealed / name).unlink(missing_ok=True)

    @contextmanager
    def paying(self) -> Iterator[bool]:
        """Whether we are the one process that pays; never waits."""
        durable.make_dirs(self.folder / "wal")
        with self._locked("paying", wait=False) as ours:
            yield ours

    def _write(self, debt: Debt) -> None:
        durable.replace(self._debts / f"{debt.ident}.json", json.dumps(asdict(debt), sort_keys=True).encode())

    def _read(self, path: Path) -> Debt | None:
        try:
            value = json.loads(path.read_text())
            return Debt(**value)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise Damage("a debt in the spool is damaged", where=str(path), why=str(error)) from error

    @contextmanager
    def _locked(self, name: str, *, wait: bool = True) -> Iterator[bool]:
        path = self.folder / "wal" / name
        with os_errors(f"lock {name}", str(path.parent)):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
                ours = True
            except BlockingIOError:
                ours = False
            yield ours
        finally:
            os.close(descriptor)

    # --- targets that rest ---

    def failed(self, target: str, now: datetime, why: str) -> None:
        """A target failed: it rests 10 s, then twice as long each time, at most 2 minutes."""
        known = self._rest(target)
        row = (int(str(known["row"])) if known else 0) + 1
        durable.make_dirs(self.folder / "resting")
        value = {"at": format_time(now), "row": row, "why": why}
        durable.replace(self.folder / "resting" / target, json.dumps(value).encode())

    def answered(self, target: str) -> None:
        """It works again."""
        path = self.folder / "resting" / target
        if path.exists():
            path.unlink(missing_ok=True)

    def resting(self, now: datetime) -> dict[str, str]:
        """Targets that failed so recently that they need not be asked, and why they failed."""
        found = {}
        try:
            names = sorted(os.listdir(self.folder / "resting"))
        except FileNotFoundError:
            return {}
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

    # --- systems ---

    def pin_system(self, cluster: str, system_identifier: int) -> None:
        """Remember which system this host archives as `cluster`. Raises Conflict where it is another one."""
        path = self.folder / "systems" / cluster
        try:
            known = path.read_text().strip()
        except FileNotFoundError:
            durable.make_dirs(path.parent)
            try:
                durable.write_new(path, [f"{system_identifier}\n".encode()])
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
