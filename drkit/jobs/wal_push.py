"""Archive one WAL file: check, compress, seal, store on all targets, acknowledge by the policy's rule.

The order of effects, each durable before the next:

    1  look at every target for an object of this name, and compare
    2  create what is missing, on all targets at once
    3  record what is still missing as a debt, with the sealed bytes, in the spool
    4  return: PostgreSQL may now remove the segment

A death anywhere before 4 means that PostgreSQL hands the file over again: 1 then finds what is there.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from drkit.core.clock import Clock
from drkit.core.errors import Conflict, Damage, DrkitError, Failed, Unreachable
from drkit.core.log import Log
from drkit.core.units import format_time
from drkit.jobs.fanout import Answers, Patience, ask_all
from drkit.jobs.wal_debts import Payment, pay_in_passing
from drkit.jobs.wal_source import WalSource, open_source
from drkit.repository.layout import ClusterLayout
from drkit.repository.repository import Problem, Repository
from drkit.repository.spool import Debt, Spool
from drkit.repository.target import Target
from drkit.repository.wal import Blob, Met, Outcome, Packed, kind_of, meet, pack, quarantine, seal, store
from policies.acks import AckRule
from storage_backends.errors import StorageError


@dataclass(frozen=True, slots=True)
class PushSettings:
    """cluster: the configured name · level: of zstd · pay: how much of earlier debts is paid in passing."""

    cluster: str
    data_dir: Path
    rule: AckRule
    level: int = 1
    patience: Patience = field(default_factory=Patience)
    pay: Payment = field(default_factory=Payment)


@dataclass(frozen=True, slots=True)
class Pushed:
    """identity: of its content, hex · acknowledged: targets that have it
    owed: target -> why it lacks it (in the spool) · paid: earlier debts
    """

    file: str
    system_identifier: int
    identity: str
    stored_bytes: int
    acknowledged: tuple[str, ...]
    owed: Mapping[str, str]
    paid: int = 0


def push(path: Path, repository: Repository, spool: Spool, settings: PushSettings, clock: Clock, log: Log) -> Pushed:
    """Archive the file at `path` under its name. On return it is durable where the rule wants it.

    Raises Conflict where a valid object of other content is met (the newcomer is then in quarantine), Unreachable
    where too few targets took it, OutOfSpace where a debt could not be recorded, and what `open_source` raises.
    """
    with open_source(path, settings.data_dir, None, clock.sleep) as source:
        pushed = push_source(source, repository, spool, settings, clock, log)
    alive = [t for t in repository.targets if t.name in pushed.acknowledged]
    paid = pay_in_passing(repository, alive, spool, settings.pay, clock, log)
    return replace(pushed, paid=paid)


def push_source(
    source: WalSource, repository: Repository, spool: Spool, settings: PushSettings, clock: Clock, log: Log
) -> Pushed:
    """Archive an open file that was checked; pays no earlier debts. Durable and raising as `push`."""
    spool.pin_system(settings.cluster, source.system_identifier)
    packed = pack(repository.ring, source.name.text, source.file, source.segment_bytes, settings.level)
    if packed.facts.size_bytes != source.size_bytes:
        raise Damage("the file changed while it was read", where=source.name.text)
    source.check_unchanged()
    return _Push(repository, spool, settings, clock, log, source, packed).run()


_Call = Callable[[Target], Met | None]
_Rule = Callable[[Collection[str]], bool]


class _Push:
    """One file on its way to the targets."""

    def __init__(
        self,
        repository: Repository,
        spool: Spool,
        settings: PushSettings,
        clock: Clock,
        log: Log,
        source: WalSource,
        packed: Packed,
    ) -> None:
        self.repository, self.spool, self.settings, self.clock, self.log = repository, spool, settings, clock, log
        self.packed, self.file, self.identity = packed, packed.facts.file, packed.facts.identity
        self.system = source.system_identifier
        self.layout = ClusterLayout(self.system)
        self.problems: dict[str, Problem] = {}

    def run(self) -> Pushed:
        rule, asked = self.settings.rule, self._asked()
        looked = self._ask(asked, self._look, rule.met)
        self._refuse_conflict(asked, looked)
        blob = self._blob(looked)
        lacking = [t for t in asked if t.name in looked.good and looked.good[t.name] is None]
        there = {name for name, met in looked.good.items() if met is not None and met.there}
        stored = self._ask(lacking, lambda t: self._store(t, blob), lambda names: rule.met(there.union(names)))
        self._refuse_conflict(asked, stored)
        met = {name: m for found in (looked, stored) for name, m in found.good.items() if m is not None}
        acknowledged = tuple(sorted(name for name, one in met.items() if one.there))
        self._remember(asked, acknowledged)
        if not rule.met(acknowledged):
            raise self._too_few(acknowledged, met)
        owed = self._owed(acknowledged, met)
        if owed:
            self._owe(owed, blob)
        lacking_it = {name: why for name, why, _ in owed}
        self.log.info("wal archived", file=self.file, targets=",".join(acknowledged), owed=",".join(lacking_it))
        return Pushed(self.file, self.system, self.identity.hex(), blob.size_bytes, acknowledged, lacking_it)

    def _asked(self) -> Sequence[Target]:
        """Targets that failed just now are left out, unless the rule cannot be met without them."""
        resting = self.spool.resting(self.clock.now())
        awake = [t for t in self.repository.targets if t.name not in resting]
        if not self.settings.rule.reachable({t.name for t in awake}):
            return self.repository.targets
        self.problems |= {
            t.name: Unreachable("the target failed just now", where=t.where, why=resting[t.name])
            for t in self.repository.targets
            if t.name in resting
        }
        return awake

    def _ask(self, targets: Sequence[Target], call: _Call, met: _Rule) -> Answers[Met | None]:
        def enough(answers: Mapping[str, Met | None]) -> bool:
            return met({name for name, one in answers.items() if one is None or one.there})

        found = ask_all(targets, call, enough, self.settings.patience, self.clock)
        self.problems |= found.failed
        return found

    def _look(self, target: Target) -> Met | None:
        return meet(self.repository.ring, target, self.layout, self.file, self.identity)

    def _store(self, target: Target, blob: Blob) -> Met:
        return store(self.repository.ring, target, self.layout, self.file, blob, self.identity)

    def _blob(self, looked: Answers[Met | None]) -> Blob:
        """The sealed bytes that one of the targets holds already, else our own."""
        for target in self.repository.targets:
            met = looked.good.get(target.name)
            if met is not None and met.blob is not None:
                return met.blob
        return seal(self.repository.ring, self.packed, self.layout.archived(self.file), kind_of(self.file))

    def _refuse_conflict(self, asked: Sequence[Target], found: Answers[Met | None]) -> None:
        """What a target cannot take without changing or bringing back something goes to quarantine there."""
        bad = (Outcome.CONFLICT, Outcome.EXPIRED)
        rivals = [(t, met) for t in asked if (met := found.good.get(t.name)) and met.outcome in bad]
        if not rivals:
            return
        kept, notes = [], []
        for target, met in rivals:
            try:
                kept.append(f"{target.where}: {self._quarantine(target, met)}")
            except (StorageError, DrkitError) as error:
                notes.append(f"{target.where}: it could not be put into quarantine: {error}")
        self.log.error("wal conflict", file=self.file, targets=",".join(t.name for t, _ in rivals))
        if rivals[0][1].outcome is Outcome.EXPIRED:
            what, cure = f"{self.file} was archived and expired long ago", "was this server set back to an old state?"
        else:
            what, cure = f"another {self.file} is archived already; it stays", "do two servers archive as one?"
        conflict = Conflict(
            what,
            where=", ".join(t.where for t, _ in rivals),
            why=f"this one is in quarantine: {', '.join(kept)}" if kept else "this one was not stored",
            cure=f"{cure} compare it with what `drkit wal get {self.file} /tmp/{self.file}` fetches; "
            "`drkit check` tells what else is wrong",
        )
        for note in notes:
            conflict.add_note(note)
        raise conflict

    def _quarantine(self, target: Target, met: Met) -> str:
        return quarantine(self.repository.ring, target, self.layout, self.packed, met.rival)

    def _remember(self, asked: Sequence[Target], acknowledged: Collection[str]) -> None:
        """Let the next segment not wait for a target that failed now; those that could not be opened as well."""
        now = self.clock.now()
        resting = self.spool.resting(now)
        for target in asked:
            if target.name in acknowledged:
                self.spool.answered(target.name)
        failed = {t.name: self.problems[t.name] for t in asked if t.name in self.problems}
        failed |= {name: problem for name, problem in self.repository.absent.items() if name not in resting}
        for name, problem in failed.items():
            self.spool.failed(name, now, str(problem))

    def _owed(self, acknowledged: Collection[str], met: Mapping[str, Met]) -> list[tuple[str, str, bool]]:
        """(target, why, blocked) for each that lacks it."""
        owed = []
        for name in sorted(self.settings.rule.targets.difference(acknowledged)):
            one = met.get(name)
            if one is None:
                problem = self.problems.get(name) or self.repository.absent.get(name)
                owed.append((name, str(problem or "it could not be opened"), False))
            else:
                owed.append((name, one.why, True))
        return owed

    def _owe(self, owed: Sequence[tuple[str, str, bool]], blob: Blob) -> None:
        since = format_time(self.clock.now())
        facts = (self.system, self.file, self.identity.hex(), blob.digest.hex(), blob.size_bytes, since)
        self.spool.owe([Debt(name, *facts, why, blocked) for name, why, blocked in owed], blob)
        for name, why, blocked in owed:
            self.log.warn("wal owed", file=self.file, target=name, blocked=blocked, why=why)

    def _too_few(self, acknowledged: Collection[str], met: Mapping[str, Met]) -> DrkitError:
        causes = {**self.repository.absent, **self.problems}
        whys = [f"{name}: {problem}" for name, problem in sorted(causes.items())]
        whys += [f"{name}: {one.outcome.value}, {one.why}" for name, one in sorted(met.items()) if not one.there]
        whys += self.settings.rule.reasons
        kind = Unreachable if causes else Failed
        took = f"{' and '.join(acknowledged)} alone cannot acknowledge it" if acknowledged else "no target took it"
        return kind(
            f"{self.file} is not archived: {took}",
            where=", ".join(sorted(self.settings.rule.targets)),
            why="; ".join(whys),
            cure="PostgreSQL keeps the file and hands it over again; `drkit check` tries each target",
        )
