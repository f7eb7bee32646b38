"""Retirement of targets (docs/format.md, section 9): a record on the others that one must not be used again."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from drkit.core.errors import Conflict, Damage, KeyMissing
from drkit.crypto.container import DataKey, Json, open_object, seal_json
from drkit.crypto.keys import Entropy, Ring
from drkit.repository.layout import Kind
from drkit.repository.target import Target
from storage_backends.api import Key
from storage_backends.errors import AlreadyExists, Damaged, NotFound, StorageError

RETIRED = "retired/"
_NAME = re.compile(rf"{RETIRED}([0-9a-f]{{32}})\Z")


class Retired(Conflict):
    """A target was retired, and answers all the same."""


@dataclass(frozen=True, slots=True)
class Retirement:
    """target: the id of the target (hex, 32 digits) · name: under which it was configured, "" where nobody knew."""

    target: str
    name: str
    reason: str
    at: str

    @property
    def key(self) -> Key:
        return retirement_key(self.target)


def retirement_key(target: str) -> Key:
    return Key(f"{RETIRED}{target}")


def retire(record: Retirement, on: Sequence[Target], *, data_key: DataKey, ring: Ring, entropy: Entropy) -> Retirement:
    """Write the record to these targets, the same bytes; durable on return. The one that stands: where one of them has
    an earlier one, that is kept and goes to the others.

    Raises StorageError; Damage where what stands under its name does not open.
    """
    for one in on:
        try:
            return _put(*_read(ring, one, record.target), on, ring)
        except NotFound:
            continue
    value: Json = {
        "name": record.key,
        "target": record.target,
        "configured": record.name,
        "reason": record.reason,
        "at": record.at,
    }
    return _put(record, seal_json(data_key, Kind.RETIREMENT, entropy(16), value).joined(), on, ring)


def _put(record: Retirement, sealed: bytes, on: Sequence[Target], ring: Ring) -> Retirement:
    for one in on:
        try:
            one.write(record.key, [sealed], len(sealed))
        except AlreadyExists:
            read_retirement(ring, one, record.target)
    return record


def read_retirement(ring: Ring, on: Target, target: str) -> Retirement:
    """One record, authenticated. Raises NotFound, Damage, KeyMissing or what kept it from being read."""
    return _read(ring, on, target)[0]


def _read(ring: Ring, on: Target, target: str) -> tuple[Retirement, bytes]:
    key = retirement_key(target)
    sealed = on.read(key)
    value = open_object(ring, sealed, kind=Kind.RETIREMENT, name=key).json
    if value.get("target") != target:
        raise Damage("a retirement names another target", where=f"{on.where}: {key}", why=str(value.get("target")))
    name, reason, at = (str(value.get(member) or "") for member in ("configured", "reason", "at"))
    return Retirement(target, name, reason, at), sealed


def listed(on: Target) -> list[str]:
    """Ids of the targets that a record on this one names; not authenticated. Raises StorageError."""
    found = (_NAME.match(info.key) for info in on.backend.list(RETIRED))
    return [name[1] for name in found if name]


def retirements(ring: Ring, targets: Sequence[Target]) -> tuple[dict[str, Retirement], dict[str, list[str]]]:
    """All records by target id, each from the first target where it opens; and who holds each.

    What does not open anywhere is left out: only who has the key may retire a target. Raises StorageError.
    """
    records: dict[str, Retirement] = {}
    holders: dict[str, list[str]] = {}
    for target in targets:
        for ident in listed(target):
            found = _opened(ring, target, ident)
            if found is not None:
                records.setdefault(ident, found)
                holders.setdefault(ident, []).append(target.name)
    return records, holders


def _opened(ring: Ring, on: Target, ident: str) -> Retirement | None:
    try:
        return read_retirement(ring, on, ident)
    except (Damage, Damaged, KeyMissing, NotFound):
        return None


def returned(
    ring: Ring, targets: Sequence[Target], idents: Mapping[str, str], known: Iterable[str] = ()
) -> tuple[dict[str, Retired], dict[str, StorageError]]:
    """Which of the targets were retired: name -> the error to refuse it with; and who could not be asked.

    idents: target name -> its id, hex · known: ids that this host remembers as retired. A record that does not open
    retires nobody. One listing for each target, nothing more where no record concerns them.
    """
    names = {ident: name for name, ident in idents.items()}
    refused = {names[ident]: _refusal(names[ident], ident, None) for ident in known if ident in names}
    unasked: dict[str, StorageError] = {}
    for target in targets:
        try:
            for ident in listed(target):
                if ident not in names:
                    continue
                found = _opened(ring, target, ident)
                if found is not None:
                    refused[names[ident]] = _refusal(names[ident], ident, found)
        except StorageError as error:
            unasked[target.name] = error
    return refused, unasked


def _refusal(name: str, ident: str, record: Retirement | None) -> Retired:
    told = f"at {record.at}" + (f": {record.reason}" if record.reason else "") if record else "as this host remembers"
    return Retired(
        "the target was retired",
        where=f"target {name}, id {ident[:8]}",
        why=told,
        cure=f"remove [target.{name}] from the configuration; to use the place again, empty it and run `drkit init`. "
        "In an emergency it can be read by a configuration of its own, with another [daemon] spool and no other target",
    )
