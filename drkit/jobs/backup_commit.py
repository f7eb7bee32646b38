"""The end of a backup: its closure counted, its last WAL awaited, its manifest created where the closure is whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from drkit.core.cancel import CancelToken
from drkit.core.errors import Failed
from drkit.core.spread import AT_ONCE, spread
from drkit.crypto.container import END_BYTES, Opener, Sealed, parse_open_section
from drkit.crypto.keys import Ring
from drkit.repository.catalogue import Standing, State, judge
from drkit.repository.inventory import Inventory
from drkit.repository.layout import ClusterLayout, Kind
from drkit.repository.leases import Verdict
from drkit.repository.manifest import Reference, Summary
from drkit.repository.target import Target
from storage_backends.errors import AlreadyExists, NotFound, StorageError

_POLL_S = (0.01, 0.5)  # the first wait and the longest: an archiver that is awake has the segment there in 50 ms
_LAGGARD_S = 5.0
_OPEN_READ = 4096


def wal_reference(ring: Ring, target: Target, layout: ClusterLayout, file: str) -> tuple[Reference, int]:
    """The reference to an archived file and the key epoch it is sealed under, from its authenticated open section."""
    key = layout.archived(file)
    size = target.backend.stat(key).size_bytes
    opened = target.read(key, 0, min(size, _OPEN_READ))
    header, value, _ = parse_open_section(opened, f"{target.where}: {key}")
    opener = Opener(ring, header, memoryview(opened)[: header.open_bytes], f"{target.where}: {key}")
    end = opened if len(opened) == size else target.read(key, max(0, size - END_BYTES))
    opener.authenticate_end(end[-END_BYTES:])
    plain, identity = value["size"], bytes.fromhex(str(value["identity"]))
    assert isinstance(plain, int)
    kind = Kind.HISTORY if file.endswith(".history") else Kind.WAL
    return Reference(kind, file.encode(), plain, plain, identity), header.epoch


def await_files(
    targets: Sequence[Target],
    layout: ClusterLayout,
    files: Sequence[str],
    *,
    required: int,
    timeout_s: float,
    token: CancelToken,
    monotonic: Callable[[], float],
    stuck: Callable[[], str],
    watch: Callable[[], None],
) -> frozenset[str]:
    """Wait until `required` targets hold all `files`, and a little longer for the others; returns their names.

    stuck: says what keeps the archiver, for the message when `timeout_s` has passed. watch: called as long as too few
    hold them; what it raises ends the wait. Raises Failed.
    """
    waiting: dict[str, list[str]] = {target.name: list(files) for target in targets}
    problems: dict[str, str] = {}
    began = monotonic()
    enough_at: float | None = None
    pause_s, longest_s = _POLL_S
    while True:
        for target in targets:
            try:
                waiting[target.name] = _missing(target, layout, waiting[target.name])
                problems.pop(target.name, None)
            except StorageError as error:
                problems[target.name] = str(error)
        done = frozenset(name for name, left in waiting.items() if not left)
        now = monotonic()
        if len(done) >= required and enough_at is None:
            enough_at = now
        if len(done) == len(targets) or (enough_at is not None and now - enough_at >= _LAGGARD_S):
            return done
        if now - began >= timeout_s and enough_at is None:
            raise _never_came(waiting, problems, timeout_s, stuck())
        if enough_at is None:
            watch()
        token.wait(pause_s)
        pause_s = min(2 * pause_s, longest_s)
        token.check()


def _missing(target: Target, layout: ClusterLayout, files: Sequence[str]) -> list[str]:
    def has(file: str) -> bool:
        try:
            target.backend.stat(layout.archived(file))
        except NotFound:
            return False
        return True

    there = spread(has, files, AT_ONCE if target.far else 1)
    return [file for file, found in zip(files, there, strict=True) if not found]


def _never_came(waiting: Mapping[str, list[str]], problems: Mapping[str, str], timeout_s: float, stuck: str) -> Failed:
    lacking = sorted({name for left in waiting.values() for name in left})
    return Failed(
        f"the backup's WAL did not arrive within {timeout_s:.0f} s: {', '.join(lacking[:3])}"
        + (f" and {len(lacking) - 3} more" if len(lacking) > 3 else ""),
        where="; ".join(f"target {name}: {len(left)} missing" for name, left in waiting.items()),
        why="; ".join([stuck, *problems.values()]),
        cure="is archive_command 'drkit-wal push %p'? `drkit check` sends a segment through it",
    )


@dataclass(frozen=True, slots=True)
class Commit:
    """A manifest ready to be created, and what it needs to be judged."""

    layout: ClusterLayout
    summary: Summary
    references: Sequence[Reference]
    manifest: Sealed
    via: Sequence[str]

    def on(self, target: Target, ring: Ring, decide: Callable[[Verdict, str], Verdict]) -> Standing:
        """Steps 5 to 8 of the writer's protocol on one target; all is durable where the result is GOOD.

        decide(verdict, reason): creates the run's verdict on this target and returns the one that stands.
        """
        inventory = Inventory(target, self.layout, ring)
        inventory.look("data", "epochs", references=self.references)
        lacking = inventory.lacking(self.references, self.summary)
        if lacking:
            why = f"{len(lacking)} objects are not there yet, the first {lacking[0]}"
            return Standing(State.PENDING, why)
        hit = self._hit(inventory)
        if hit:
            return Standing(State.PENDING, f"the tombstone of {hit} came in between")
        try:
            target.put(self.layout.manifest(self.summary.run), self.manifest)
        except AlreadyExists:
            if not self._is_ours(target):
                raise
        hit = self._hit(Inventory(target, self.layout, ring))
        if hit:
            decide(Verdict.WITHDRAWN, f"the tombstone of {hit} came in between")
            return Standing(State.WITHDRAWN, f"the tombstone of {hit} came in between")
        if decide(Verdict.GOOD, "its closure was whole") is Verdict.WITHDRAWN:
            return Standing(State.WITHDRAWN, "expiry took this backup for dead: was it stopped for long?")
        inventory = Inventory(target, self.layout, ring)
        inventory.look("tombstones", "data", "epochs", "manifests", "verdicts", references=self.references)
        return judge(ring, inventory, self.summary, self.references)

    def _is_ours(self, target: Target) -> bool:
        """Whether the manifest there is this one, byte for byte."""
        with target.backend.open(self.layout.manifest(self.summary.run)) as reader:
            return all(reader.read(len(part)) == part for part in self.manifest.parts) and not reader.read(1)

    def _hit(self, inventory: Inventory) -> str:
        named = inventory.entombed(self.references, self.summary.run)
        named += [key for key in self.via if key in inventory.tombstones]
        return named[0] if named else ""
