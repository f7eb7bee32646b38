"""Verify what is stored, and repair it: a survey, one pass over all objects, a second look at what was wrong, evidence.

    survey -> pass -> continuity of WAL -> look again -> [deep] -> [repair] -> evidence

Runs beside backups, expiry and other verifications: what they change meanwhile is seen at the second look.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from drkit.core.cancel import CancelToken
from drkit.core.clock import Clock
from drkit.core.errors import KeyMissing, UsageError
from drkit.core.log import Log
from drkit.core.progress import Progress, Tally
from drkit.crypto.keys import Entropy
from drkit.jobs.means import Means
from drkit.jobs.verify_deep import DeepLook
from drkit.jobs.verify_facts import Finding, Ground, Hole, TargetTally, VerifyOrder, VerifyResult
from drkit.jobs.verify_open import Opening
from drkit.jobs.verify_repair import Repair
from drkit.jobs.verify_scan import Scan
from drkit.jobs.verify_sight import Turn
from drkit.jobs.verify_survey import Survey, by_system, choose, systems_on
from drkit.jobs.verify_wal import Continuity
from drkit.repository import evidence
from drkit.repository.evidence import Evidence, Looked
from drkit.repository.layout import Kind
from drkit.repository.names import Place, place_of
from drkit.repository.scrub import Fault
from storage_backends.api import Key
from storage_backends.errors import NotFound, StorageError


@dataclass(frozen=True, slots=True)
class Surroundings:
    """As `Means`, without a repository: a verification may go without a key."""

    clock: Clock
    entropy: Entropy
    token: CancelToken
    progress: Progress
    log: Log


def verify(order: VerifyOrder, ground: Ground, around: Surroundings) -> VerifyResult:
    """Look at everything that is in the order, and repair where it says so; evidence is durable on return.

    Damage is in the result, not raised. Raises KeyMissing where deep looks or repairs lack the key, UsageError for a
    target that is not there, Cancelled: what was repaired until then stays.
    """
    if ground.keyed is None and (order.deep or order.repair):
        what = "--repair must know that tombstones are true" if order.repair else "--deep opens what is stored"
        raise KeyMissing("this needs the key", why=f"{what}; {ground.keyless}", cure="without them no key is needed")
    known = {target.name for target in ground.targets} | set(ground.absent)
    if unknown := order.targets - known:
        raise UsageError(f"there is no target {sorted(unknown)[0]!r}", why=f"there are {', '.join(sorted(known))}")
    return _Run(order, ground, around).execute()


class _Run:
    def __init__(self, order: VerifyOrder, ground: Ground, around: Surroundings) -> None:
        self._order, self._ground, self._around = order, ground, around
        self._began_at, self._began = around.clock.now(), around.clock.monotonic()
        self._tallies = {target.name: TargetTally() for target in ground.targets}
        self._wanted = frozenset(order.targets or self._tallies) & set(self._tallies)
        self._opening = Opening(ground.keyed.ring, order.deep or bool(order.keys)) if ground.keyed else None

    def execute(self) -> VerifyResult:
        surveys = self._survey()
        turn, suspects = self._turn(surveys)
        findings, holes = self._pass(surveys, turn, suspects)
        result = VerifyResult(
            self._ground, sorted(surveys), self._told(), findings, holes, [], [], turn, self._order.deep, 0.0
        )
        if self._order.deep:
            result = self._deep(result, surveys)
        if self._order.repair and self._ground.keyed is not None:
            means = _means(self._ground, self._around)
            result = replace(result, findings=Repair(self._ground, self._order, means).run(result.findings))
        if self._order.keys:  # of a few objects: no evidence that a target is whole
            return replace(result, seconds=self._around.clock.monotonic() - self._began)
        self._clear_extra(surveys)
        key = self._keep(result)
        return replace(result, seconds=self._around.clock.monotonic() - self._began, evidence=key)

    def _told(self) -> dict[str, TargetTally]:
        return {name: one for name, one in self._tallies.items() if name in self._wanted}

    def _survey(self) -> Mapping[int, Survey]:
        failed: dict[str, str] = {}
        named = {place.system for place in map(place_of, self._order.keys) if place is not None}
        systems = systems_on(self._ground.targets, failed)
        if self._order.keys:
            systems = [system for system in systems if system in named]
        found = [Survey(system, self._ground, self._opening) for system in systems]
        for one in found:
            failed |= one.failed
        for name, why in failed.items():
            self._tallies[name].failed = why
        return by_system(choose(found, self._order.cluster))

    def _turn(self, surveys: Mapping[int, Survey]) -> tuple[Turn | None, frozenset[str]]:
        """The part of the bulk that is due, and what evidence calls unsound: that is looked at every time.

        Without the key the evidence is shut: the part then begins anywhere.
        """
        if self._order.keys:
            return None, frozenset()
        keyed, part = self._ground.keyed, self._order.part
        start = int.from_bytes(self._around.entropy(4), "big") / 2.0**32
        suspects = set(self._order.suspects)
        if keyed is not None:
            known = [evidence.read_known(keyed, system, self._began_at) for system in surveys]
            start = known[0].next_from if known else 0.0
            suspects |= {key for one in known for keys in one.unsound.values() for key in keys}
        return (None if part >= 1.0 else (start, start + part)), frozenset(suspects)

    # --- the pass ---

    def _pass(
        self, surveys: Mapping[int, Survey], turn: Turn | None, suspects: frozenset[str]
    ) -> tuple[list[Finding], list[Hole]]:
        def scan(tally: Tally) -> Scan:
            keys, wanted, opening = self._order.keys, self._wanted, self._opening
            return Scan(self._ground, surveys, self._tallies, turn, wanted, suspects, opening, tally, keys)

        silent = Tally(self._around.progress, "listing", clock=self._around.clock)
        total = scan(silent).total_bytes()
        silent.finish()
        tally = Tally(self._around.progress, "verifying", clock=self._around.clock, total_bytes=total)
        looked = scan(tally)
        wal = {system: Continuity(one, self._ground) for system, one in surveys.items()}

        def seen(target: str, place: Place, key: Key) -> None:
            if place.kind in (Kind.WAL, Kind.HISTORY) and place.system in wal:
                wal[place.system].note(target, place, key)

        looked.run(seen, self._order.workers, self._around.token)
        findings = looked.findings
        if not self._order.keys:
            findings = [*findings, *self._undecided(surveys), *self._slots_gone(surveys)]
        holes: list[Hole] = []
        for one in wal.values():
            known = {(f.target, f.key) for f in findings}
            more, gaps = one.judge(sorted(self._wanted), known, self._tallies)
            if self._order.keys:
                more, gaps = [one for one in more if one.key in self._order.keys], []
            findings, holes = [*findings, *more], [*holes, *gaps]
        for survey in surveys.values():
            survey.refresh({f.target for f in findings})
        findings = [looked.confirm(f) for f in findings]
        tally.finish()
        return sorted(findings, key=lambda f: (f.key, f.target)), holes

    def _undecided(self, surveys: Mapping[int, Survey]) -> list[Finding]:
        found: list[Finding] = []
        for survey in surveys.values():
            for target, run in survey.undecided():
                key = f"{survey.layout.folder('verdicts')}{run}"
                place = place_of(key)
                if place is not None and target in self._wanted:
                    why = "the backup's manifest is there and no verdict: it does not count as complete there"
                    found.append(Finding(target, key, place, Fault.MISSING, why, None, (), (run,)))
        return found

    def _slots_gone(self, surveys: Mapping[int, Survey]) -> list[Finding]:
        """Where no target has a key slot that leads to what the backups need. A single lost slot the pass finds."""
        backups = [b.summary for one in surveys.values() for b in one.backups.values()]
        epochs = {epoch for one in backups for epoch in one.epochs}
        newest, listed = 0, True
        for target in self._ground.targets:
            try:
                names = [info.key.split("/") for info in target.backend.list("keys/")]
            except StorageError:
                listed = False
                continue
            newest = max([newest, *(int(parts[1], 16) for parts in names if len(parts) == 3 and parts[2] != "epoch")])
        if not epochs or newest >= max(epochs) or not listed:
            return []
        key = f"keys/{max(epochs):08x}/{0:016x}"
        place = place_of(key)
        assert place is not None
        why = f"no target has a key slot of epoch {max(epochs)} or a later one: nothing can be opened"
        needed = tuple(sorted(one.backup for one in backups))
        return [Finding(name, key, place, Fault.MISSING, why, None, (), needed) for name in sorted(self._wanted)]

    # --- the rest ---

    def _deep(self, result: VerifyResult, surveys: Mapping[int, Survey]) -> VerifyResult:
        keyed = self._ground.keyed
        assert keyed is not None
        pages, files = list(result.pages), list(result.files)
        for target in self._ground.targets:
            if target.name not in self._wanted or self._tallies[target.name].failed:
                continue
            for survey in surveys.values():
                summaries = [one.summary for one in survey.good_on(target.name)]
                total = sum(one.size_bytes for one in summaries) if len(summaries) == 1 else None
                phase = f"rebuilding from {target.name}"
                tally = Tally(self._around.progress, phase, clock=self._around.clock, total_bytes=total)
                look = DeepLook(keyed.ring, target, survey.layout, result.turn, tally)
                look.run(summaries, self._order.workers, self._around.token)
                tally.finish()
                pages, files = [*pages, *look.pages], [*files, *look.files]
        return replace(result, pages=pages, files=files)

    def _clear_extra(self, surveys: Mapping[int, Survey]) -> None:
        """A backup that began and ended meanwhile has a manifest by now: its objects are no rubbish."""
        for target in self._ground.targets:
            extra = self._tallies[target.name].extra
            for manifest in list(extra):
                place = place_of(manifest)
                survey = surveys.get(place.system or -1) if place else None
                held = survey.held.get(target.name) if survey else None
                if place is None or held is None or place.last in held.manifests:
                    continue
                try:
                    target.backend.stat(Key(manifest))
                    del extra[manifest]
                except NotFound:
                    if place.last in held.leased:
                        del extra[manifest]
                except StorageError:
                    continue

    def _keep(self, result: VerifyResult) -> str:
        """Evidence for each system, on every target; what cannot be kept is told."""
        keyed, key = self._ground.keyed, ""
        for system in result.systems if keyed is not None else ():
            assert keyed is not None
            found = Evidence(
                at=self._began_at,
                system_identifier=system,
                cluster=self._order.cluster,
                deep=result.deep,
                turn=result.turn,
                targets={name: _looked(result, system, name) for name in self._wanted},
            )
            key, lacking = evidence.keep(keyed, found, entropy=self._around.entropy)
            for name, why in lacking.items():
                self._around.log.warn("evidence not kept", target=name, why=why)
        return key


def _looked(result: VerifyResult, system: int, name: str) -> Looked:
    left = [f for f in result.left if f.target == name and f.place.system in (None, system)]
    holes = [one for one in result.holes if one.target == name and one.system == system and not one.doubt]
    hurt = [one for one in result.files if one.target == name]
    pages = [one for one in result.pages if one.target == name and not one.known]
    unsound = {f.key: f.info.version for f in left if f.info is not None and f.info.version}
    count = len(left) + len(holes) + len(hurt) + len(pages)
    return Looked(name not in result.unread, count, unsound)


def _means(ground: Ground, around: Surroundings) -> Means:
    assert ground.keyed is not None
    return Means(ground.keyed, around.clock, around.entropy, around.token, around.progress, around.log)
