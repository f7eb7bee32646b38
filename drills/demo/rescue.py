"""The demo's restores: run, asked for every row, and told."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

from drills.demo.drkit_program import PROMISE, Drkit
from drills.demo.place import Place
from drills.demo.report import Report, RestoreFigures
from drills.demo.server import Culprit, conninfo_of, first_write, orders_state, read_rows
from drills.demo.teller import Teller
from drills.journal import read_ledger
from drills.ledger import Moment, Verdict, judge
from drkit.core.errors import Failed
from drkit.core.units import format_duration, format_size
from drkit.engines.postgres.instance import Shutdown
from drkit.engines.postgres.session import Session

_POLL_S = 0.02


class Rescuer:
    """Restores into the demo's folder and judges what came back by the writers' journals."""

    def __init__(self, place: Place, drkit: Drkit, teller: Teller, journals: Sequence[Path]) -> None:
        self._place, self._drkit, self._teller, self._journals = place, drkit, teller, journals

    def restore(self, name: str, words: Sequence[str], until: Moment, disaster: Moment | None = None) -> RestoreFigures:
        """Restore by `words` into the folder `name`, start it, judge it against `until`, stop it.

        disaster: measure to the first write that the restored server acknowledges.
        """
        clock = self._place.clock
        into = self._place.root / name
        answer = self._drkit("restoring", "restore", *words, "--into", name, "--start", accept=(0, PROMISE))
        conninfo = conninfo_of(*_socket_of(into))
        with self._teller.busy("asking for every row"), Session.open(conninfo, "drkit demo") as session:
            ready_s = None
            if disaster is not None:
                first_write(session)
                ready_s = clock.monotonic() - disaster.begun_s
            verdict = judge(read_ledger(self._journals), read_rows(session), until)
            orders = orders_state(session)
        self._stop(into)
        return RestoreFigures(answer.typed, answer.value, answer.seconds, verdict, orders, ready_s)

    def _stop(self, data: Path) -> None:
        """The restored server was started by `drkit restore` and is nobody's child: its pid file leads to it."""
        pid = int((data / "postmaster.pid").read_text().split(maxsplit=1)[0])
        os.kill(pid, Shutdown.FAST.value)
        while pid in self._place.processes():
            self._place.token.check()
            self._place.clock.sleep(_POLL_S)

    def tell_before(self, found: RestoreFigures, culprit: Culprit) -> None:
        say = self._teller.said
        if found.ready_s is not None:
            say(f"Writes were accepted again {found.ready_s:.1f} s after the crash{_phases(found)}.")
        if found.orders == culprit.before:
            say(f"orders: all {culprit.before.rows:,} rows, with the digest they had before the drop.")
        else:
            say(f"orders: {found.orders}, but it was {culprit.before}.")
        verdict = found.verdict
        say(
            f"ledger: {verdict.expected:,} rows were acknowledged before the drop; {verdict.kept:,} are back, "
            f"{len(verdict.lost):,} lost, {len(verdict.beyond):,} from after it."
        )
        say(f"        {_soundness(verdict)}")

    def tell_latest(self, found: RestoreFigures) -> None:
        verdict, say = found.verdict, self._teller.said
        say(
            f"ledger: {verdict.expected:,} rows were acknowledged before the crash; {verdict.kept:,} are back, "
            f"{len(verdict.lost):,} lost."
        )
        if verdict.lost and verdict.loss_s is not None:
            say(f"        Those are of the last {verdict.loss_s:.1f} s: their WAL had not left the server yet.")
        say(f"        {_soundness(verdict)}")


def summary(report: Report, keep: Path | None) -> list[tuple[str, str]]:
    """The figures at the end, a name and a sentence each."""
    before, latest = report.before, report.latest
    first = report.backups[0]
    rows = []
    if before is not None and before.ready_s is not None:
        rows.append(("RTO", f"{before.ready_s:.1f} s to the first write (promised {report.promised_rto_s:g} s)"))
    if latest is not None and latest.verdict.loss_s is not None:
        loss = f"{latest.verdict.loss_s:.1f} s of writes, {len(latest.verdict.lost):,} rows"
        rows.append(("RPO", f"{loss} (promised {report.promised_rpo_s:g} s)"))
    ratio = first.size_bytes / first.stored_bytes if first.stored_bytes else 0.0
    stored = f"{format_size(first.stored_bytes)} stored ({ratio:.1f} : 1)"
    rows.append(("sizes", f"{format_size(first.size_bytes)} backed up, {stored}"))
    for store in report.stores:
        held = f"{format_size(store.bytes)} in {store.objects} objects, {format_size(store.wal_bytes)} of it WAL"
        rows.append((store.name, f"{held} ({store.wal_files} files), {store.url}"))
    rows += _copies(report)
    rows.append(("time", format_duration(timedelta(seconds=report.seconds))))
    kept = f"kept: {keep}; look around with drkit --config {keep}/drkit.toml list"
    rows.append(("folder", kept if keep else f"{report.folder} is removed"))
    return rows


def _copies(report: Report) -> list[tuple[str, str]]:
    if report.copies is None:
        return []
    found = {decision.name: decision for decision in report.copies.decisions}
    media = len({store.medium for store in report.stores} | {"disk"})
    sites = len({store.site for store in report.stores})
    declared = f"{found['copies'].found} copies, {media} media, {sites} sites as declared"
    if all(decision.state.value == "kept" for decision in report.copies.decisions):
        return [("3-2-1", f"{declared}, and so it is")]
    seen = f"{found['media'].found} medium, {found['offsite'].found} offsite as seen"
    return [("3-2-1", f"{declared}; {seen}: folders of one disk do not fool it")]


def _soundness(verdict: Verdict) -> str:
    if verdict.sound:
        return "No hole, none out of order, none that nobody wrote."
    wrong = (verdict.holes, verdict.out_of_order, verdict.invented, verdict.changed, verdict.beyond)
    holes, disorder, invented, changed, beyond = (len(one) for one in wrong)
    return f"WRONG: {holes} holes, {disorder} out of order, {invented} invented, {changed} changed, {beyond} too late."


def _phases(found: RestoreFigures) -> str:
    """': 2.1 s to ..., ...' from the answer's phases; "" where they are not as expected."""
    files, phases = found.answer.get("seconds"), found.answer.get("phases")
    if not isinstance(files, float) or not isinstance(phases, list):
        return ""
    ready = [one["seconds"] for one in phases if isinstance(one, dict) and one.get("name") == "ready"]
    if not ready:
        return ""
    plan_s = max(0.0, found.seconds - files - ready[0])
    return f": {plan_s:.1f} s to find the point, {files:.1f} s for the files, {ready[0]:.1f} s to replay WAL and open"


def _socket_of(data: Path) -> tuple[Path, int]:
    """Socket folder and port from the postmaster.pid of a server that runs on `data`.

    Its lines, by miscadmin.h: pid, data folder, start time, port, socket folder, address, shared memory, status.
    """
    try:
        lines = (data / "postmaster.pid").read_text().splitlines()
        return Path(lines[4]), int(lines[3])
    except (OSError, IndexError, ValueError) as error:
        raise Failed("the restored server does not run", where=str(data), why=str(error)) from error
