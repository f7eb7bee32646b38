"""`drkit policy check | explain`: promises against evidence."""

from __future__ import annotations

import os
import pwd
import sys
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from drkit.cli.context import of
from drkit.cli.exits import DONE, PROMISE
from drkit.cli.render import answer_json, table, use_color
from drkit.cli.wire import Wiring, open_wiring
from drkit.core.errors import Damage, Unreachable
from drkit.core.units import format_duration, format_time
from storage_backends.errors import StorageError

if TYPE_CHECKING:
    from drkit.config.explain import Setting
    from drkit.config.model import Cluster, Config
    from drkit.config.model import Target as TargetConfig
    from drkit.daemon.seen_drills import Drills
    from drkit.jobs.policy_facts import PolicyFacts, PolicyOrder, Stored
    from drkit.jobs.policy_judge import Copy, Judgement
    from drkit.jobs.policy_server import Server
    from policies.objectives import Promises

_PAINT = {"kept": "32", "yes": "32", "BROKEN": "1;31", "NO": "1;31", "UNKNOWN": "33"}
_LOSSES_SHOWN = 8
_LOST = {
    "target": "target {}",
    "site": "everything at site {}",
    "credential": "{}, in wrong hands",
    "key": "whatever opens key slot {}",
}


# --- check --------------------------------------------------------------------------------------------------------


def check(ctx: typer.Context, cluster: Annotated[str | None, typer.Argument(metavar="[CLUSTER]")] = None) -> int:
    """Is every promise kept right now? Copies counted, ages, and what loss would be the last. Exit 10 where not."""
    from drkit.daemon.seen_drills import by_drill
    from drkit.jobs.policy_facts import gather
    from drkit.jobs.policy_judge import judge
    from drkit.jobs.policy_server import ask_server
    from policies.decision import State

    context = of(ctx)
    with open_wiring(context) as wiring:
        name, found = wiring.cluster(cluster)
        order = order_of(wiring, name, found)
        server = ask_server(order.connection, order.data_dir, wiring.clock.sleep)
        stored, drills = _seen(wiring, order, server)
        facts = by_drill(gather(order, server, stored, wiring.clock.now()), drills)
        judgement = judge(facts, order.promises)
        if context.json:
            answer_json("drkit.policy.check/1", check_json(facts, judgement, order.promises))
        else:
            _show(facts, judgement, order.promises, color=context.color)
        return DONE if judgement.state is State.KEPT else PROMISE


def order_of(wiring: Wiring, name: str, cluster: Cluster) -> PolicyOrder:
    """What the configuration promises for a cluster."""
    from drkit.jobs.policy_facts import Declared, PolicyOrder
    from drkit.jobs.rates import read_rates
    from policies.facts import Terms

    config, plain = wiring.config, Terms()
    promises = promises_of(cluster)
    terms = Terms(
        max_verify_age=promises.max_verify_age or plain.max_verify_age,
        max_drill_age=promises.max_drill_age or plain.max_drill_age,
        needed_for=config.retention.pitr_window or plain.needed_for,
    )
    targets = tuple(
        Declared(one, target.site, target.medium, credential(one, target, os.environ))
        for one, target in config.target.items()
    )
    return PolicyOrder(
        cluster=name,
        site=cluster.site,
        connection=cluster.connection,
        data_dir=cluster.data_dir,
        targets=targets,
        rule=config.copies.rule,
        wal_ack=config.copies.wal_ack,
        promises=promises,
        terms=terms,
        rates=read_rates(config.daemon.spool),
    )


def promises_of(cluster: Cluster) -> Promises:
    from policies.objectives import Promises

    given = cluster.objectives
    return Promises(given.rpo, given.rto, given.max_backup_age, given.max_verify_age, given.max_drill_age)


def credential(name: str, target: TargetConfig, env: Mapping[str, str]) -> str:
    """A name for who may delete there, without reading a secret: two targets with one name fall together."""
    if target.scheme == "file":
        return f"user {pwd.getpwuid(os.geteuid()).pw_name} on {os.uname().nodename}"
    given = env.get(f"DRKIT_TARGET__{name.upper().replace('-', '_')}__ACCESS_KEY")
    if given:
        return f"access key {given}"
    if target.access_key_file is not None:
        return f"access key in {target.access_key_file}"
    if target.credentials_command is not None:
        return f"credentials of {target.credentials_command.split()[0]}"
    return f"profile {target.profile}" if target.profile else f"AWS credentials of {os.uname().nodename}"


def _seen(wiring: Wiring, order: PolicyOrder, server: Server) -> tuple[Stored, Drills]:
    """What the targets hold; that none answers is an answer too."""
    from drkit.daemon.seen_drills import Drills, read_drills
    from drkit.jobs.policy_facts import nothing_answers, read_stored

    try:
        means = wiring.means(reading=True)
    except (StorageError, Unreachable, Damage) as error:
        return nothing_answers(order, str(error)), Drills()
    stored = read_stored(order, means, server.system_identifier)
    if stored.catalogue is None:
        return stored, Drills()
    return stored, read_drills(means.repository, stored.catalogue.layout.system_identifier, order.cluster)


# --- its answer ---------------------------------------------------------------------------------------------------


def check_json(facts: PolicyFacts, judgement: Judgement, promises: Promises) -> dict[str, object]:
    """The members of drkit.policy.check/1 (docs/json.md)."""
    situation, report = facts.situation, judgement.report
    catalogue = facts.stored.catalogue
    return {
        "cluster": situation.cluster.name,
        "system_identifier": str(catalogue.layout.system_identifier) if catalogue else None,
        "at": situation.now,
        "state": judgement.state.value,
        "rule": str(situation.rule),
        "measured_rule": str(judgement.measured),
        "instant": report.now.instant if report.now else None,
        "decisions": [
            {"name": d.name, "state": d.state.value, "needed": d.needed, "found": d.found, "reasons": d.reasons}
            for d in judgement.decisions
        ],
        "copies": [_copy_json(copy) for copy in judgement.copies],
        "backups_alone": report.now.backups_alone if report.now else 0,
        "newest_compliant": report.newest,
        "lag_s": report.lag,
        "short": [{"from": one.start, "to": one.end, "state": one.state.value} for one in report.short],
        "objectives": [
            {"name": name, "promised_s": promised, "actual_s": actual, "state": state}
            for name, promised, actual, state in objectives(facts, judgement, promises)
        ],
        "breaches": [
            {"promise": b.promise, "promised": b.promised, "actual": b.actual, "why": b.why, "cure": b.cure}
            for b in judgement.breaches
        ],
        "losses": [[{"kind": one.kind, "name": one.name} for one in sorted(loss)] for loss in judgement.losses],
    }


def _copy_json(copy: Copy) -> dict[str, object]:
    return {
        "name": copy.name,
        "kind": copy.kind,
        "site": copy.site,
        "medium": copy.medium,
        "device": copy.device,
        "counts": copy.counts,
        "why": copy.why,
        "newest_instant": copy.newest,
        "newest_backup": copy.backup,
    }


def objectives(
    facts: PolicyFacts, judgement: Judgement, promises: Promises
) -> Iterator[tuple[str, timedelta, timedelta | None, str]]:
    """Each promise of time: its name, what was promised, what is known, and kept, broken or unknown."""
    seen, now = facts.objectives, facts.situation.now

    def age(at: datetime | None) -> timedelta | None:
        return None if at is None else now - at

    rows = (
        ("rpo", promises.rpo, seen.exposure),
        ("rto", promises.rto, seen.rto_forecast),
        ("max_backup_age", promises.max_backup_age, age(seen.backup_at)),
        ("max_verify_age", promises.max_verify_age, age(seen.verified_at)),
        ("max_drill_age", promises.max_drill_age, age(seen.drilled_at)),
    )
    for name, promised, actual in rows:
        if promised is None:
            continue
        missed = [breach for breach in judgement.breaches if breach.promise == name]
        known = any(breach.actual is not None for breach in missed)
        yield name, promised, actual, "broken" if known else "unknown" if missed else "kept"


# --- in words -----------------------------------------------------------------------------------------------------


class _Words:
    """Lines on stdout; a state is always a word, colour only underlines it."""

    def __init__(self, color: bool) -> None:
        self._color = use_color(sys.stdout, color)

    def state(self, value: str, width: int = 0) -> str:
        word = {"kept": "kept", "broken": "BROKEN", "unknown": "UNKNOWN"}[value]
        padded = f"{word:<{width}}"
        return f"\x1b[{_PAINT[word]}m{padded}\x1b[0m" if self._color else padded

    def line(self, text: str = "") -> None:
        sys.stdout.write(text.rstrip() + "\n")


def _show(facts: PolicyFacts, judgement: Judgement, promises: Promises, *, color: bool) -> None:
    words, situation = _Words(color), facts.situation
    head = f"{situation.cluster.name}: rule {situation.rule} and every objective: "
    words.line(head + words.state(judgement.state.value))
    words.line()
    _show_copies(words, judgement, color)
    words.line()
    _show_rule(words, judgement)
    for name, promised, actual, state in objectives(facts, judgement, promises):
        seen = "nothing is known" if actual is None else f"{format_duration(actual)} now"
        words.line(f"{name:<15} {words.state(state, 8)} at most {format_duration(promised)} promised, {seen}")
        for breach in judgement.breaches:
            if breach.promise == name:
                words.line(f"{'':<24} {breach.why}" + (f": {breach.cure}" if breach.cure else ""))
    _show_losses(words, judgement)


def _show_copies(words: _Words, judgement: Judgement, color: bool) -> None:
    """Who counts, and below it why each other one does not."""
    rows = [
        (
            copy.name if copy.kind == "target" else f"{copy.name} (primary)",
            {True: "yes", False: "NO", None: "UNKNOWN"}[copy.counts],
            copy.site,
            copy.medium,
            _second(copy.newest) if copy.newest else "-",
            copy.backup or "-",
        )
        for copy in judgement.copies
    ]
    table(("copy", "counts", "site", "medium", "newest instant (UTC)", "newest good backup"), rows, color=color)
    for copy in judgement.copies:
        if not copy.counts:
            words.line(f"  {copy.name} {'does not count' if copy.counts is False else 'is not known'}: {copy.why}")


def _show_rule(words: _Words, judgement: Judgement) -> None:
    report, measured = judgement.report, judgement.measured
    for one in judgement.decisions:
        count = f"{one.found} of {one.needed}" if one.needed else "none allowed"
        words.line(f"{one.name:<15} {words.state(one.state.value, 8)} {count}")
        if one.state.value != "kept":
            for reason in one.reasons:
                words.line(f"{'':<24} {reason}")
    if report.now is None:
        words.line("Nothing is known to be restorable: no target shows a good backup with its WAL.")
        return
    words.line(f"backups alone   {report.now.backups_alone}")
    words.line(f"judged at       {_second(report.now.instant)} UTC, the newest instant that a target can restore")
    if report.newest is None or report.lag is None:
        words.line(f"newest good     no instant is known to meet {measured}")
    else:
        lag = format_duration(max(report.lag, timedelta(0)))
        words.line(f"newest good     {_second(report.newest)} UTC meets {measured}, {lag} ago")
    for gap in report.short:
        span = f"from {_second(gap.start)} to {_second(gap.end)}" if gap.start < gap.end else f"at {_second(gap.end)}"
        words.line(f"{'':<15} {words.state(gap.state.value, 8)} {span} UTC")
    words.line()


def _second(moment: datetime) -> str:
    return format_time(moment)[:19].replace("T", " ")


def _show_losses(words: _Words, judgement: Judgement) -> None:
    if judgement.report.now is None:
        return
    words.line()
    words.line("Recovery would be impossible after the loss of")
    least = min((len(loss) for loss in judgement.losses), default=0)
    smallest = sorted(sorted(loss) for loss in judgement.losses if len(loss) == least)
    for loss in smallest[:_LOSSES_SHOWN]:
        words.line("  " + " and ".join(_LOST[one.kind].format(one.name) for one in loss))
    rest = len(judgement.losses) - min(len(smallest), _LOSSES_SHOWN)
    if rest:
        words.line(f"  or one of {rest} other combinations (--json names them)")


# --- explain ------------------------------------------------------------------------------------------------------


def explain(ctx: typer.Context, cluster: Annotated[str | None, typer.Argument(metavar="[CLUSTER]")] = None) -> int:
    """What was promised, in words, and every setting with where it comes from; reads the configuration alone."""
    from drkit.config.explain import explain as settings_of

    context = of(ctx)
    loaded = context.load()
    config, settings = loaded.config, settings_of(loaded, os.environ)
    names = [config.cluster_named(cluster)[0]] if cluster is not None else sorted(config.cluster)
    promises = [(one, list(sentences(config, config.cluster[one]))) for one in names]
    if context.json:
        answer_json(
            "drkit.policy.explain/1",
            {
                "file": str(loaded.path),
                "clusters": [
                    {"cluster": one, "promises": [{"key": k, "value": v, "means": m} for k, v, m in rows]}
                    for one, rows in promises
                ],
                "settings": [{"key": s.key, "value": s.value, "source": s.source} for s in settings],
            },
        )
        return DONE
    words = _Words(context.color)
    for one, rows in promises:
        words.line(f"What is promised for {one}:")
        for key, value, means in rows:
            words.line(f"  {key}: {value or 'not set'}")
            words.line(f"      {means}")
        words.line()
    _show_settings(settings, context.color)
    return DONE


def _show_settings(settings: list[Setting], color: bool) -> None:
    rows = [(s.key, s.value or "-", s.source) for s in settings]
    table(("setting", "value", "from"), rows, color=color)


def sentences(config: Config, cluster: Cluster) -> Iterator[tuple[str, str, str]]:
    """(key, value as written, what it means) of every promise; "" for a value where nothing is promised."""
    from drkit.config.explain import written

    rule, ack = config.copies.rule, config.copies.wal_ack
    media = f"{rule.media} different media" if rule.media > 1 else "any medium"
    text = f"{rule.copies} copies on {media}, the live primary one of them while it is well"
    if rule.offsite:
        text += f", {rule.offsite} of them at another site than {cluster.site}"
    if rule.immutable:
        text += f", {rule.immutable} that nobody can delete"
    if rule.zero_errors:
        text += ", no finding open, and a drill that passed"
    yield "copies.rule", str(rule), text + "."
    count = len(config.target)
    default = "a majority of the targets has" if count >= 3 else "one target has"
    words: dict[object, str] = {None: default, "quorum": "a majority of the targets has", "all": "every target has"}
    wanted = words.get(ack) or f"{ack} of {count} targets have"
    apart = "a target on a device of the server never stands in for another"
    yield "copies.wal_ack", written(ack), f"A WAL segment is archived once {wanted} it; {apart}."
    need = config.copies.backup_ack
    yield "copies.backup_ack", str(need), f"A backup is done once it is whole on {need} of {count} targets."
    meanings = {
        "rpo": ("At most the last {} of commits are lost with the server.", "How much may be lost is not promised."),
        "rto": ("A restore takes at most {}.", "How long a restore may take is not promised."),
        "max_backup_age": ("The newest good backup is at most {} old.", "No age of backups is promised."),
        "max_verify_age": ("What is stored was verified in the last {}.", "No verification is promised."),
        "max_drill_age": ("A restore was drilled in the last {}.", "No drill is promised."),
    }
    for key, (promised, nothing) in meanings.items():
        value = written(getattr(cluster.objectives, key))
        yield f"objectives.{key}", value, promised.format(value) if value else nothing
    window = written(config.retention.pitr_window)
    kept = f"Expiry keeps every instant of the last {window} restorable."
    yield "retention.pitr_window", window, kept if window else "No time to go back to is promised."
