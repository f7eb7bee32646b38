"""The words of the demo: what each step found, as lines and rows. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from drills.demo.report import BackupFigures, Decision, DrillFigures, Report
from drills.demo.setup import DISK_LOST, ORDERS, SITE, Target
from drills.report.model import CheckResult, Control, DrillReport, State, Verdict
from drills.report.view import VERDICT_WORDS, objective, offset, phases, promise_note, scale, seconds, visible
from drkit.core.units import format_size

BEFORE_DROP = (
    "It drops a table of its own, never one of yours, while clients write; finds the transaction in archived WAL; "
    "restores aside, to just before it; and checks what came back."
)
BEFORE_LOSS = (
    "This cluster is configured as sacrificial: the drill really kills the server under load and deletes its data "
    "folder. The target near, at the same site, is taken for lost too."
)
_STATUS_FACTS = ("target ", "exposure ", "daemon:", "  next ")
_WIDEST = 104
_BAR = 36
_WATERFALL = ("T3", "T5", "T8", "T9", "T11")  # what lies between goes into the next of these
_OWN_CHECKS = {"V1", "V2", "V3", "V4", "V5", "V6"}


# --- 1 and 2: the set-up, the daemon ------------------------------------------------------------------------------


def server(report: Report) -> Iterator[str]:
    size = format_size(report.database_bytes)
    yield f"PostgreSQL {report.version} with {report.rows:,} orders ({size}), in {report.folder}."
    yield f"It runs as the user {report.user}, with archive_command = 'drkit-wal push %p'."


def repository(targets: Sequence[Target]) -> str:
    names = [f"{target.name} ({target.medium}, {target.site})" for target in targets]
    return f"A key, and an encrypted repository on {_listed(names)}."


def _listed(names: Sequence[str]) -> str:
    """'a, b and c'."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:]))) or "no target"


def checked(findings: Sequence[dict[str, object]]) -> str:
    warnings = sum(one.get("level") == "warn" for one in findings)
    return f"{len(findings)} things looked at, none in the way" + (f"; {warnings} warnings." if warnings else ".")


def backup(run: BackupFigures) -> str:
    good = [name for name, state in run.targets.items() if state == "good"]
    return (
        f"It takes the first backup by itself, for there is none: {format_size(run.read_bytes)} read, "
        f"{format_size(run.stored_bytes)} stored on {_listed(good)} in {run.seconds:.1f} s."
    )


def status(lines: Sequence[str], targets: Sequence[Target]) -> list[str]:
    """The main lines of `drkit status`: verdict, findings without their cures, targets, exposure, the daemon."""
    levels = tuple(f"  {level}" for level in ("BAD", "UNKNOWN", "WARNING"))
    wanted = (*levels, *_STATUS_FACTS, *(f"{target.name} " for target in targets))
    return [_short(line) for at, line in enumerate(lines) if at == 0 or line.startswith(wanted)]


def _short(line: str) -> str:
    return line if len(line) <= _WIDEST else line[: _WIDEST - 4].rstrip(" ,;:") + " ..."


def after_status(decisions: Sequence[Decision]) -> str:
    """Why it cannot say better yet."""
    same_disk = any(one.state != "kept" for one in decisions)
    disk = "folders on the server's own disk do not survive it, and " if same_disk else ""
    return f"At risk, and rightly so: {disk}what no drill has proven yet is not taken for granted."


# --- 3 and 4: the drills ------------------------------------------------------------------------------------------


def verdict(report: DrillReport) -> tuple[str, str]:
    """(the verdict's word, the sentence, with what spoke against it)."""
    rest = [] if report.verdict is Verdict.PASS else [visible(reason, keep="") for reason in report.reasons]
    return VERDICT_WORDS[report.verdict].upper(), "; ".join([visible(report.sentence, keep=""), *rest])


def dropped_table(report: DrillReport) -> Iterator[tuple[str, str]]:
    yield "stopped", report.reached or "nowhere"
    loss = report.loss
    if loss is not None:
        beyond = "none from after it" if not loss.wrong else "; ".join(loss.wrong)
        yield (
            "rows",
            f"{loss.expected:,} acknowledged before the drop: {loss.kept:,} back, {loss.lost:,} lost, {beyond}",
        )
    yield from _check(report, "V2", "tables")
    yield "checks", checks(report.checks)


def disk_lost(report: DrillReport) -> Iterator[tuple[str, str]]:
    yield from waterfall(report)
    loss = report.loss
    if loss is not None:
        lost = f"{loss.lost:,} lost"
        if loss.lost and loss.loss_s is not None:
            lost += f": those of the last {seconds(loss.loss_s)}, whose WAL was on that disk alone"
        yield "rows", f"{loss.expected:,} acknowledged before it: {loss.kept:,} back, {lost}"
    yield from _check(report, ORDERS, "orders")
    read = [f"{format_size(size)} from {name}" for name, size in sorted(report.bytes_from.items()) if size]
    denied = [f"nothing from {name}" for name in report.denied if not report.bytes_from.get(name)]
    yield "read", ", ".join([*read, *denied]) + " (files, and WAL unpacked)"
    yield "checks", checks(report.checks)


def waterfall(report: DrillReport) -> Iterator[tuple[str, str]]:
    """A bar for each part of the recovery, from the disaster (the left edge) on."""
    axis, start_s = scale(report), 0.0
    found = {phase.clock: phase for phase in phases(report)}
    name = "time"
    for clock in _WATERFALL:
        phase = found[clock]
        if phase.end_s is None:
            continue
        low, high = (round(axis.share(at) * _BAR) for at in (start_s, phase.end_s))
        bar = " " * low + "#" * max(1, high - low)
        yield name, f"{offset(phase.end_s):>7}  {phase.label:<28}  {bar}"
        name, start_s = "", phase.end_s


def checks(found: Sequence[CheckResult]) -> str:
    """How many passed, which did not, and how many noticed damage that was done on purpose."""
    bad = [f"{one.check} {one.state.value}" for one in found if one.state is not State.PASSED]
    controls = [one.control for one in found if one.control is not Control.NONE]
    caught = sum(one is Control.CAUGHT for one in controls)
    passed = f"{len(found) - len(bad)} of {len(found)} passed" + (f" ({', '.join(bad)})" if bad else "")
    return f"{passed}; {caught} of {len(controls)} fail on data damaged on purpose, as they must"


def _check(report: DrillReport, name: str, title: str) -> Iterator[tuple[str, str]]:
    for one in report.checks:
        if one.check == name:
            same = "as before the disaster" if one.state is State.PASSED and name not in _OWN_CHECKS else ""
            yield title, ", ".join(filter(None, (visible(one.actual, keep="") or one.state.value, same)))


# --- 5: the figures -----------------------------------------------------------------------------------------------


def summary(report: Report) -> Iterator[tuple[str, str]]:
    disaster = report.drills[DISK_LOST]
    yield "RTO", _promised(disaster, "rto", "until writes were accepted again")
    yield "RPO", _promised(disaster, "rpo", "of acknowledged writes lost")
    yield "3-2-1", _copies(report)
    for store in report.stores:
        held = f"{format_size(store.bytes)} in {store.objects} objects, {format_size(store.wal_bytes)} of it WAL"
        yield store.name, f"{held} ({store.wal_files} files), {store.url}"
    yield "time", f"{seconds(report.seconds)} for all of it"
    look = f"kept: {report.folder}; drkit --config {report.folder}/drkit.toml drill history"
    yield "folder", look if report.kept else f"{report.folder} is removed"


def _promised(drill: DrillFigures, name: str, what: str) -> str:
    found = objective(drill.report, name)
    if found is None or found.measured_s is None:
        return "not measured"
    return f"{seconds(found.measured_s)} {what} ({promise_note(found)})"


def _copies(report: Report) -> str:
    """What was seen while the server was there, beside what the configuration says."""
    found = {one.name: one.found for one in report.decisions}
    media = len({store.medium for store in report.stores} | {"disk"})
    offsite = sum(store.site != SITE for store in report.stores)
    declared = f"{len(report.stores) + 1} copies, {media} media, {offsite} offsite"
    seen = f"{found.get('copies', 0)} copies, {_media(found.get('media', 0))}, {found.get('offsite', 0)} offsite"
    if seen == declared:
        return f"{declared}, declared and seen"
    return f"{declared} are declared; seen are {seen}: folders of one disk fool nobody"


def _media(count: int) -> str:
    return "1 medium" if count == 1 else f"{count} media"
