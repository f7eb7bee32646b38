"""What must hold of two targets that two hosts write to, judged from what lies there while nobody works.

Damage that the test itself did excuses what it must, and nothing else: on its own target, until it is mended.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from drkit.engines.postgres.lsn import Lsn
from drkit.repository.catalogue import Backup, Catalogue, State
from drkit.repository.holds import read_holds
from drkit.repository.layout import Kind, RunId
from drkit.repository.leases import Verdict, read_verdict, tombstones
from storage_backends.api import Key
from storage_backends.errors import NotFound
from tests.faults.two_hosts import MIN_FULL, Scene

STAYS = ("repository", "keys/", "reader.py", "retired/", "reports/", "evidence/")
BELOW_STAYS = ("tombstones/", "verdicts/", "holds/", "history/", "summaries/", "binding")


def stop_of(backup: Backup) -> int:
    return Lsn.parse(backup.summary.stop_lsn).value


@dataclass
class Laws:
    """stops: end of every backup that was ever seen, by id · good: what was good on each target at the last look

    hurt: keys that the test damaged, by target · safe: hold -> (backup, targets where it was told to be safe)
    gone: keys with a tombstone that were deleted, by target · returned: those of them that were seen again.
    """

    scene: Scene
    stops: dict[str, int] = field(default_factory=dict)
    ever_good: dict[str, set[str]] = field(default_factory=dict)
    good: dict[str, set[str]] = field(default_factory=dict)
    hurt: dict[str, set[str]] = field(default_factory=dict)
    spoiled: dict[str, set[str]] = field(default_factory=dict)
    safe: dict[str, tuple[str, tuple[str, ...]]] = field(default_factory=dict)
    gone: dict[str, set[str]] = field(default_factory=dict)
    returned: dict[str, set[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for table in (self.ever_good, self.good, self.hurt, self.spoiled, self.gone, self.returned):
            for name in self.scene.names:
                table[name] = set()

    # --- damage ---

    def damage(self, rng: random.Random) -> str:
        """Damage or delete one object on one target that the other one has sound; what was done."""
        catalogue = self.scene.catalogue()
        both = [one for one in catalogue.backups if set(one.good_on) == set(self.scene.names)]
        if not both:
            return ""
        backup = rng.choice(both)
        keys = [str(catalogue.layout.manifest(backup.summary.run))]
        keys += [reference.key(catalogue.layout) for reference in backup.references]
        name, other = rng.sample(self.scene.names, 2)
        keys = [key for key in keys if key not in self.spoiled[other]]
        if not keys:
            return ""
        key = rng.choice(sorted(keys))
        self.hurt[name].add(key)
        self.spoiled[name].add(key)
        backend = self.scene.backends[name]
        if rng.random() < 0.5:
            backend.delete(Key(key))
            return f"deleted {key} on {name}"
        info = backend.stat(Key(key))
        with backend.open(Key(key)) as reader:
            data = bytearray(reader.read())
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        with backend.create(Key(key), len(data), replacing=info) as upload:
            upload.write(data)
            upload.commit()
        self.scene.give_back(name, key)
        return f"flipped a bit of {key} on {name}"

    def touched(self, backup: Backup, name: str) -> bool:
        """Whether the test damaged something of a backup on a target that is not mended yet."""
        layout = self.scene.layout
        keys = {str(layout.manifest(backup.summary.run)), *(r.key(layout) for r in backup.references)}
        return bool(keys & self.hurt[name])

    # --- the look after each round ---

    def look(self) -> Catalogue:
        """Compare what is there with what was; raises AssertionError."""
        catalogue = self.scene.catalogue()
        assert not catalogue.unreadable, catalogue.unreadable
        self.stops |= {one.summary.backup: stop_of(one) for one in catalogue.backups}
        for name in self.scene.names:
            self._nothing_returns(name)
            good = {one.summary.backup for one in catalogue.backups if name in one.good_on}
            for one in catalogue.backups:
                self._is_honest(one, name)
            known = {one.summary.backup: one for one in catalogue.backups}
            for backup in sorted(self.good[name] - good):
                one_known = known.get(backup)
                excused = one_known is None or self.touched(one_known, name)
                assert self._could_go(name, backup) or (one_known is not None and excused), (
                    f"{backup} is lost on {name}: {one_known.standings[name] if one_known else 'no manifest'}"
                )
            self.ever_good[name] |= good
            self.good[name] = good
        self._holds_survive(catalogue)
        return catalogue

    def _could_go(self, name: str, backup: str) -> bool:
        """So many newer ones were good there that retention may have let it go, and nobody held it."""
        held = any(one == backup and name in targets for one, targets in self.safe.values())
        newer = [one for one in self.ever_good[name] if self.stops[one] > self.stops[backup]]
        return len(newer) >= MIN_FULL and not held

    def _nothing_returns(self, name: str) -> None:
        ring, target = self.scene.repository().ring, self.scene.target(name)
        there = self.scene.keys(name)
        buried = tombstones(target, self.scene.layout, ring)
        assert self.gone[name] <= buried, "a tombstone is final"
        self.returned[name] |= self.gone[name] & there
        self.gone[name] |= buried - there

    def _is_honest(self, one: Backup, name: str) -> None:
        """Whoever was called good, and has no tombstone of its own, is whole but for what the test damaged."""
        layout = self.scene.layout
        target, run = self.scene.target(name), one.summary.run
        try:
            verdict = read_verdict(target, layout, run, self.scene.repository().ring)
        except NotFound:
            verdict = None
        standing = one.standings[name]
        if verdict is not Verdict.GOOD or standing.state is State.GOOD:
            return
        if standing.state is State.EXPIRED and str(layout.manifest(run)) in standing.why:
            return
        assert self.touched(one, name), f"{one.summary.backup} on {name}: {standing}"

    def _holds_survive(self, catalogue: Catalogue) -> None:
        known = {one.summary.backup: one for one in catalogue.backups}
        for hold, (backup, targets) in self.safe.items():
            for name in targets:
                if backup not in self.ever_good[name]:
                    continue
                one = known.get(backup)
                assert one is not None, f"{backup} is on hold ({hold}) and gone from {name}"
                assert name in one.good_on or self.touched(one, name), f"{backup} on {name}: {one.standings[name]}"

    # --- after a repair while nobody works ---

    def mended(self, catalogue: Catalogue, findings: Iterable[Mapping[str, Any]]) -> None:
        """What the test damaged is mended, or was let go by the other target before anybody could.

        findings: of a verification after the repair.
        """
        left = {(str(one["target"]), str(one["key"])): one for one in findings if one["outcome"] in ("left", "lost")}
        for (name, key), one in left.items():
            assert key in self.hurt[name], f"damaged by nobody: {one}"
            other = next(n for n in self.scene.names if n != name)
            manifests = {str(self.scene.layout.manifest(RunId.parse(run))) for run in one["needed_by"]}
            assert (manifests | {key}) & catalogue.inventories[other].tombstones, f"not mended: {one}"
        for name in self.scene.names:
            self.hurt[name] = {key for target, key in left if target == name}

    # --- in the end ---

    def rubbish(self, name: str, catalogue: Catalogue) -> set[str]:
        """Keys that nothing reaches: there are none once expiry has done its work and nobody does any more."""
        layout, inventory = self.scene.layout, catalogue.inventories[name]
        good = [one for one in catalogue.backups if name in one.good_on]
        reached = set[str]()
        for one in good:
            reached.add(str(layout.manifest(one.summary.run)))
            for reference in one.references:
                reached.add(reference.key(layout))
                if reference.kind == Kind.MAP:
                    reached.add(str(layout.data(Kind.FINGERPRINTS, reference.name)))
        floor = min((one.summary.start_wal for one in good), default="")
        stays = (*STAYS, *(f"{layout.root}{below}" for below in BELOW_STAYS))
        wal = layout.folder("wal")
        assert inventory.target.name == name
        left = {str(path) for path in (self.scene.root / name).rglob("*.tmp")}  # of folders alone
        return left | {
            key
            for key in self.scene.keys(name) - reached
            if not key.startswith(stays) and not (key.startswith(wal) and key.rpartition("/")[2] >= floor)
        }

    def release(self, hold: str) -> None:
        del self.safe[hold]

    def in_force(self) -> set[str]:
        return {hold.id for hold in read_holds(self.scene.repository(), self.scene.layout).holds}
