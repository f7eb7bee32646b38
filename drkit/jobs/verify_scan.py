"""One pass over all objects of all targets at once, key by key: read, compared with references and with each other."""

from __future__ import annotations

import heapq
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace

from drkit.core.cancel import CancelToken
from drkit.core.flow import Channel, Group
from drkit.core.progress import Tally
from drkit.jobs.verify_facts import Finding, Ground, Outcome, TargetTally
from drkit.jobs.verify_open import Opening
from drkit.jobs.verify_sight import Judgement, Sight, Turn, in_turn, mark, merged, right
from drkit.jobs.verify_survey import Need, Survey
from drkit.repository.layout import ClusterLayout, Kind, RunId
from drkit.repository.names import Place, Sharing, place_of
from drkit.repository.scrub import Fault, Unsound, examine
from drkit.repository.target import Target
from storage_backends.api import Key, ObjectInfo
from storage_backends.errors import NotFound, StorageError

_PATIENCE = 10  # objects in a row that cannot be read before a target counts as away
_STRANGE = 1000
_MOST = 100_000
_OF_BACKUP = (Kind.PACK, Kind.MAP, Kind.FINGERPRINTS)


Seen = Callable[[str, Place, Key], None]
"""Hears in key order of (target, place, key) of every object that is listed."""


class Scan:
    """A pass, run once. Memory: the survey, and for each worker 1 MiB and an open section."""

    def __init__(
        self,
        ground: Ground,
        surveys: Mapping[int, Survey],
        tallies: Mapping[str, TargetTally],
        turn: Turn | None,
        wanted: frozenset[str],
        suspects: frozenset[str],
        opening: Opening | None,
        tally: Tally,
        keys: frozenset[str] = frozenset(),
    ) -> None:
        """wanted: targets that are judged · suspects: keys that are read whatever the turn · keys: none but these are
        looked at; empty: all."""
        self._ground, self._surveys, self._tallies = ground, surveys, tallies
        self._turn, self._wanted, self._tally = turn, wanted, tally
        self._suspects, self._opening, self._keys = suspects | keys, opening, keys
        self._bits = {target.name: bit for bit, target in enumerate(ground.targets)}
        self._fails: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.findings: list[Finding] = []

    @property
    def targets(self) -> list[Target]:
        """Those that are judged; the others are read only where a sound copy is looked for."""
        return [t for t in self._ground.targets if t.name in self._wanted and not self._tallies[t.name].failed]

    def run(self, seen: Seen, workers: int, token: CancelToken) -> None:
        """Look at everything; `findings` then holds what is wrong, in no order. Raises Cancelled."""
        group = Group(token, name="verify")
        with group:
            work: Channel[Sight] = Channel(2 * workers, group.token, name="objects")
            for number in range(workers):
                group.start(str(number), self._work, work)
            for sight in self._sights(seen):
                work.put(sight)
            work.close()

    def _work(self, work: Channel[Sight]) -> None:
        for sight in work:
            found = self.look(sight)
            with self._lock:
                self.findings += found
                if len(self.findings) > _MOST:
                    for one in found:
                        self._tallies[
                            one.target
                        ].failed = f"more than {_MOST} objects are not sound: repair, then go on"

    # --- listing ---

    def total_bytes(self) -> int:
        """What a pass will read, by the listings. A target that cannot be listed counts nothing."""
        total = 0
        for key, infos in merged(self._streams(quiet=True)):
            place = place_of(key)
            if self._in_scope(place) and self._is_named(key) and self._is_read(key, place):
                total += sum(info.size_bytes for name, info in infos.items() if name in self._wanted)
        return total

    def _streams(self, *, quiet: bool = False) -> list[Iterator[tuple[str, str, ObjectInfo | None]]]:
        listed = [
            self._listing(target, quiet) for target in self._ground.targets if not self._tallies[target.name].failed
        ]
        expected = (filter(self._is_named, one.expected()) for one in self._surveys.values())
        return [*listed, *(((key, "", None) for key in keys) for keys in expected)]

    def _listing(self, target: Target, quiet: bool) -> Iterator[tuple[str, str, ObjectInfo | None]]:
        try:
            for info in self._infos(target) if self._keys else target.backend.list():
                yield info.key, target.name, info
        except StorageError as error:
            if not quiet:
                self._tallies[target.name].failed = str(error)  # what comes after is not missing there: not known

    def _infos(self, target: Target) -> Iterator[ObjectInfo]:
        """The named objects alone, in key order; of WAL all, as what is missing shows in what is beside it."""
        places = {key: place_of(key) for key in sorted(self._keys)}
        archived = {key: one.system for key, one in places.items() if one and one.kind in (Kind.WAL, Kind.HISTORY)}
        layouts = [ClusterLayout(system) for system in set(archived.values()) if system is not None]
        listed = [target.backend.list(one.folder(name)) for one in layouts for name in ("history", "wal")]
        return heapq.merge(_there(target, places.keys() - archived.keys()), *listed, key=lambda info: info.key)

    def _is_named(self, key: str) -> bool:
        return not self._keys or key in self._keys

    def _sights(self, seen: Seen) -> Iterator[Sight]:
        for key, infos in merged(self._streams()):
            place = place_of(key)
            if place is None:
                for name in infos:
                    strange = self._tallies[name].strange
                    strange += [key] if len(strange) < _STRANGE else []
                continue
            if not self._in_scope(place):
                continue
            for name, info in infos.items():
                self._count(name, place, info)
                seen(name, place, info.key)
            if not self._is_named(key):
                continue
            sight = Sight(Key(key), place, infos, self._need(place), self._is_read(key, place))
            if sight.read or self._missing(sight) or self._wrong_size(sight):
                yield sight

    def _in_scope(self, place: Place | None) -> bool:
        return place is not None and (place.system is None or place.system in self._surveys)

    def _is_read(self, key: str, place: Place | None) -> bool:
        return place is not None and (not place.bulk or key in self._suspects or in_turn(key, self._turn))

    def _need(self, place: Place) -> Need | None:
        """What references say of an object; fingerprints go with their map."""
        survey = self._surveys.get(place.system) if place.system is not None else None
        if survey is None:
            return None
        if place.object_id is not None and place.kind in _OF_BACKUP:
            kind = Kind.MAP if place.kind is Kind.FINGERPRINTS else place.kind
            return survey.need(kind, place.object_id)
        if place.kind in (Kind.WAL, Kind.HISTORY):
            return survey.need(Kind.HISTORY if place.last.endswith(".history") else Kind.WAL, place.last.encode())
        return None

    def _count(self, name: str, place: Place, info: ObjectInfo) -> None:
        tally = self._tallies[name]
        tally.objects += 1
        tally.stored_bytes += info.size_bytes
        if place.kind in _OF_BACKUP and place.object_id is not None and place.system is not None:
            need = self._need(place)
            if need is None or not need.reached >> self._bits[name] & 1:
                run = f"{ClusterLayout(place.system).folder('manifests')}{RunId.of_object(place.object_id)}"
                extra = tally.extra.setdefault(run, [0, 0])
                extra[0] += 1
                extra[1] += info.size_bytes

    # --- judging ---

    def look(self, sight: Sight) -> list[Finding]:
        """Judge one object on every target. What is wrong anywhere makes all of its copies be read, for a source."""
        judged = Judgement()
        for target in self.targets if sight.read else ():
            self._examine(target, sight, judged)
        missing = self._missing(sight)
        wrong = self._wrong_size(sight)
        if missing or wrong or judged.bad:
            for target in self._ground.targets:
                if target.name not in judged.sound and target.name not in judged.bad:
                    self._examine(target, sight, judged)
        self._compare(sight, judged)
        for name in [] if self._is_rubbish(sight, judged) else missing:
            if name not in judged.sound:
                judged.bad.setdefault(name, (Fault.MISSING, "it is not there"))
        return self._findings(sight, judged)

    def _examine(self, target: Target, sight: Sight, judged: Judgement) -> None:
        name = target.name
        if name not in sight.infos or self._tallies[name].failed:
            return
        tally = self._tallies[name]

        def count(size_bytes: int) -> None:
            with self._lock:
                tally.read_bytes += size_bytes
            self._tally.add(size_bytes)

        try:
            what = target, sight.key, sight.place, self._ground.repository
            look = examine(*what, count=count) if self._opening is None else self._opening.look(*what, count)
            judged.sound[name] = look
        except NotFound:
            if name in self._required(sight):
                judged.bad[name] = (Fault.MISSING, "it is not there")
        except Unsound as error:
            judged.bad[name] = (error.fault, _why(error))
        except StorageError as error:
            judged.bad[name] = (Fault.UNREADABLE, str(error))
            with self._lock:
                self._fails[name] += 1
                if self._fails[name] >= _PATIENCE:
                    tally.failed = str(error)
            return
        with self._lock:
            self._fails[name] = 0
            tally.read_objects += 1

    def _compare(self, sight: Sight, judged: Judgement) -> None:
        """With the reference, else with each other; a copy that is another one is no longer sound."""
        need, kind = sight.need, sight.place.kind
        if need is not None and kind is not Kind.FINGERPRINTS:
            for name, found in list(judged.sound.items()):
                mine = found.identity if kind in (Kind.WAL, Kind.HISTORY) else found.digest
                if mine != need.digest:
                    judged.bad[name] = (Fault.OTHER, "it is sound, and not the one that backups refer to")
                    del judged.sound[name]
            return
        if sight.place.sharing is Sharing.OWN:
            return
        marks = {name: mark(found, kind) for name, found in judged.sound.items()}
        if len(set(marks.values())) > 1:
            for name in marks:
                judged.bad[name] = (
                    Fault.OTHER,
                    f"the copies differ: {', '.join(sorted(marks))} are sound and not equal",
                )
                del judged.sound[name]

    def _is_rubbish(self, sight: Sight, judged: Judgement) -> bool:
        """A key slot of epoch 1 that came from a lost race of two `init`: the others do without it."""
        values = [found.json for found in judged.sound.values()]
        return sight.place.kind is Kind.SLOT and any(
            value.get("epoch") == 1 and value.get("key_id") != self._ground.key_id for value in values
        )

    def _required(self, sight: Sight) -> list[str]:
        """Targets that must hold it, by what is listed and referenced."""
        return [t.name for t in self.targets if self._must_have(t.name, sight)]

    def _missing(self, sight: Sight) -> list[str]:
        return [name for name in self._required(sight) if name not in sight.infos]

    def _must_have(self, name: str, sight: Sight) -> bool:
        place, bit = sight.place, self._bits[name]
        survey = self._surveys.get(place.system) if place.system is not None else None
        held = survey.held.get(name) if survey is not None else None
        if survey is not None and (held is None or held.is_buried(sight.key)):
            return False
        if place.kind is Kind.MANIFEST:
            return survey is not None and held is not None and held.is_good(survey.layout, place.last)
        if sight.need is not None and sight.need.needed >> bit & 1:
            return bool(sight.infos) or place.kind is not Kind.FINGERPRINTS
        return place.sharing is Sharing.SHARED and bool(sight.infos)

    def _wrong_size(self, sight: Sight) -> list[str]:
        """Where a referenced pack or map is listed with another size."""
        if sight.need is None or sight.place.kind not in (Kind.PACK, Kind.MAP):
            return []
        wanted = sight.need.size_bytes
        return [name for name, info in sight.infos.items() if info.size_bytes != wanted and name in self._wanted]

    def confirm(self, finding: Finding) -> Finding:
        """Look again, by now: FADED where it is right or no longer wanted. The survey must have been refreshed.

        What stays is as it was when it was last read: `info` names the very object that is not sound.
        """
        if finding.fault is Fault.UNREADABLE or finding.outcome is not Outcome.LEFT:
            return finding
        target, place = self._ground.target(finding.target), finding.place
        survey = self._surveys.get(place.system) if place.system is not None else None
        held = survey.held.get(target.name) if survey is not None else None
        if survey is not None and (held is None or held.is_buried(finding.key)):
            return finding.became(Outcome.FADED, "it was expired meanwhile")
        infos: dict[str, ObjectInfo] = {}
        for one in self._ground.targets:
            try:
                infos[one.name] = one.backend.stat(Key(finding.key))
            except NotFound:
                continue
            except StorageError as error:
                if one is target:
                    return replace(finding, fault=Fault.UNREADABLE, why=str(error))
        sight = Sight(Key(finding.key), place, infos, self._need(place), True)
        if target.name not in infos and self._unwanted(finding, survey, infos):
            return finding.became(Outcome.FADED, "it is no longer wanted there")
        judged = Judgement()
        for one in self._ground.targets:
            self._examine(one, sight, judged)
        self._compare(sight, judged)
        if target.name in judged.sound:
            return finding.became(Outcome.FADED, "it was read right when it was looked at again")
        fault, why = judged.bad.get(target.name, (Fault.MISSING, finding.why))
        sources = tuple(judged.sound) if place.sharing is not Sharing.OWN else ()
        outcome = Outcome.LOST if self._is_lost(sight, judged, fault) else Outcome.LEFT
        return replace(
            finding,
            fault=fault,
            why=why,
            info=infos.get(target.name),
            sources=sources,
            digest=right(sight, judged),
            outcome=outcome,
        )

    def _is_lost(self, sight: Sight, judged: Judgement, fault: Fault) -> bool:
        """Whether every target was asked and none has a sound copy; several that are sound and differ are not lost."""
        if judged.sound or sight.place.sharing is Sharing.OWN or (fault is Fault.OTHER and sight.need is None):
            return False
        unread = [name for name, (why, _) in judged.bad.items() if why is Fault.UNREADABLE]
        return not (unread or self._ground.absent or any(one.failed for one in self._tallies.values()))

    def _unwanted(self, finding: Finding, survey: Survey | None, infos: Mapping[str, ObjectInfo]) -> bool:
        """Whether what is not there need not be there, by what the survey says now."""
        if finding.place.kind is Kind.HISTORY:
            return False  # none is ever expired
        if survey is None:
            return not infos and not finding.needed_by
        if finding.place.kind is Kind.VERDICT:
            return finding.place.last not in survey.held[finding.target].manifests
        if not finding.needed_by:
            return not infos
        good = {one.summary.backup for one in survey.good_on(finding.target)}
        held = survey.held[finding.target]
        return not any(run in good or held.is_good(survey.layout, run) for run in finding.needed_by)

    def _findings(self, sight: Sight, judged: Judgement) -> list[Finding]:
        if not judged.bad:
            return []
        place = sight.place
        survey = self._surveys.get(place.system) if place.system is not None else None
        needed: tuple[str, ...] = ()
        if survey is not None and sight.need is not None and place.kind is not Kind.FINGERPRINTS:
            name = place.last.encode() if place.object_id is None else place.object_id
            kind = Kind.HISTORY if place.last.endswith(".history") else place.kind or 0
            needed = survey.needed_by(kind, name)
        elif place.kind in (Kind.MANIFEST, Kind.VERDICT):
            needed = (place.last,)
        sources = tuple(judged.sound) if place.sharing is not Sharing.OWN else ()
        return [
            Finding(name, sight.key, place, fault, why, sight.infos.get(name), sources, needed, right(sight, judged))
            for name, (fault, why) in sorted(judged.bad.items())
            if name in self._wanted
        ]


def _there(target: Target, keys: Collection[str]) -> Iterator[ObjectInfo]:
    for key in sorted(keys):
        with suppress(NotFound):
            yield target.backend.stat(Key(key))


def _why(error: Unsound) -> str:
    return f"{error.what}: {error.why}" if error.why else error.what
