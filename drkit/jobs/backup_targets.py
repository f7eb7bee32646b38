"""The targets that take part in a backup: where a lease stands. One that fails leaves the run and is named."""

from __future__ import annotations

from collections.abc import Sequence

from drkit.core.errors import DrkitError, Failed
from drkit.jobs.backup_archiver import LASTING
from drkit.jobs.means import Means
from drkit.repository.inventory import Inventory
from drkit.repository.layout import DESCRIPTOR, ClusterLayout, RunId
from drkit.repository.leases import Lease, LeaseTerms, tombstones
from drkit.repository.target import Target
from storage_backends.errors import StorageError

LEASE_S = 900


class Participants:
    """required: how many targets must hold the backup. `out`: why each other configured target does not take part.

    `lasting`: those of them that waiting does not bring back.
    """

    def __init__(self, means: Means, layout: ClusterLayout, run: RunId, host: str, required: int) -> None:
        self._means, self._layout, self._run = means, layout, run
        self._host, self._required = host, required
        self.leases: dict[str, Lease] = {}
        self.out: dict[str, str] = {name: str(error) for name, error in means.repository.absent.items()}
        self.lasting: dict[str, str] = {}

    @property
    def targets(self) -> list[Target]:
        return [t for t in self._means.repository.targets if t.name in self.leases and t.name not in self.out]

    def lease(self, via: Sequence[RunId]) -> None:
        """Step 1 of the protocol on every target. Raises Failed where too few are left."""
        terms = LeaseTerms("backup", self._run, via, self._host, LEASE_S)
        means = self._means
        for target in means.repository.targets:
            try:
                lease = Lease(target, self._layout, terms, means.repository.data_key, means.clock, means.entropy)
                self.leases[target.name] = lease
            except StorageError as error:
                self.drop(target.name, error)
        self.check()

    def drop(self, name: str, error: Exception | str) -> None:
        self.out[name] = str(error)
        if isinstance(error, LASTING):
            self.lasting[name] = str(error)
        self._means.log.warn("target left the backup", target=name, why=str(error))

    def check(self) -> None:
        """Raises Failed unless enough targets are left."""
        if len(self.targets) < self._required:
            raise Failed(
                f"{len(self.targets)} targets can take the backup, {self._required} must",
                why="; ".join(f"{n}: {why}" for n, why in self.out.items()),
                cure="`drkit check` tries each target",
            )

    def tombstones(self) -> frozenset[str]:
        """Union over the targets that take part; one that cannot be asked leaves the run."""
        found: frozenset[str] = frozenset()
        for target in self.targets:
            try:
                found |= tombstones(target, self._layout, self._means.repository.ring)
            except (StorageError, DrkitError) as error:
                self.drop(target.name, error)
        self.check()
        return found

    def silent(self) -> dict[str, str]:
        """Configured targets that are out, or do not answer just now, and why; these stay in the run."""
        found = dict(self.out)
        for target in self.targets:
            try:
                target.backend.stat(DESCRIPTOR)
            except StorageError as error:
                found[target.name] = str(error)
        return found

    def inventories(self) -> list[Inventory]:
        return [Inventory(target, self._layout, self._means.repository.ring) for target in self.targets]

    def renew(self) -> None:
        """Renew what is due; a target whose lease cannot be renewed leaves the run."""
        for target in self.targets:
            try:
                self.leases[target.name].renew_if_due()
            except (StorageError, DrkitError) as error:
                self.drop(target.name, error)

    def release(self) -> None:
        """Best effort: a lease that stays runs out by itself."""
        for target in self._means.repository.targets:
            lease = self.leases.get(target.name)
            if lease is None:
                continue
            try:
                lease.release()
            except StorageError as error:
                self._means.log.warn("lease stays until it runs out", target=target.name, why=str(error))
