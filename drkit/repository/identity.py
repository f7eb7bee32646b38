"""Descriptors: which repository a target belongs to (docs/format.md, section 4). Only `found` creates one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from drkit.core.errors import Conflict, Damage, KeyMissing
from drkit.crypto.container import DataKey, Json, check_digest, open_object, parse_header, parse_open_section, seal_json
from drkit.crypto.keys import Entropy, Ring
from drkit.crypto.slots import Secret, new_ring, seal_slot, unlock
from drkit.repository.layout import DESCRIPTOR, KEYS, Kind
from drkit.repository.retirement import returned
from drkit.repository.target import Target
from storage_backends.api import Key, key
from storage_backends.errors import AlreadyExists, NotFound


class SlotsGone(KeyMissing):
    """A target has no key slot: no key can open it, which says nothing of the key."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """Identity of one target: repository and target are 16 bytes; key_id is that of epoch 1, hex."""

    repository: bytes
    target: bytes
    key_id: str
    data: bytes

    def authenticate(self, ring: Ring) -> None:
        """Raises Damage unless the holder of the key wrote this descriptor."""
        open_object(ring, self.data, kind=Kind.DESCRIPTOR, name=DESCRIPTOR)


def read_descriptor(target: Target) -> Descriptor:
    """Raises NotFound where there is none, Damage where it is not one or its digest does not hold."""
    data = target.read(DESCRIPTOR)
    try:
        check_digest(data, target.where)
    except Damage as error:
        raise _damaged(target, f"{error.what}, {error.why}") from None
    header, value, _ = parse_open_section(data, target.where)
    if header.kind != Kind.DESCRIPTOR or value.get("repository") != header.repository.hex():
        raise Damage("the object 'repository' is not a descriptor", where=target.where)
    try:
        return Descriptor(header.repository, bytes.fromhex(str(value["target"])), str(value["key_id"]), data)
    except (KeyError, ValueError) as error:
        raise Damage("the descriptor is not as the format says", where=target.where, why=str(error)) from error


def _damaged(target: Target, why: str) -> Damage:
    return Damage(
        "the repository's descriptor is damaged",
        where=f"{target.where}: {DESCRIPTOR}",
        why=why,
        cure=f"put the object {str(DESCRIPTOR)!r} back from a copy of this very target, each has its own; "
        "the backups and the WAL there are not touched by this",
    )


def slots_of(target: Target) -> Iterator[tuple[str, bytes]]:
    """All key slots of a target: (name, bytes)."""
    for info in target.backend.list(KEYS):
        yield info.key, target.read(info.key)


def unlock_target(secret: Secret, target: Target, descriptor: Descriptor) -> Ring:
    """Open the key slots of one target.

    Raises KeyMissing where sound slots are there and the secret opens none, Damage where a slot that might have opened
    is not whole, SlotsGone where there is none.
    """
    infos = list(target.backend.list(KEYS))
    if not infos:
        cure = f"copy everything below {KEYS} by hand from another target that has it: it is the same on all"
        raise SlotsGone("the target has no key slot", where=target.where, why=f"nothing is below {KEYS}", cure=cure)

    def read(key: Key) -> Callable[[], bytes]:
        return lambda: _whole_slot(target, key)

    ring = unlock(secret, [(info.key, read(info.key)) for info in infos], descriptor.key_id, target.where)
    descriptor.authenticate(ring)
    return ring


def _whole_slot(target: Target, key: Key) -> bytes:
    """A slot whose digest holds: a flipped bit in it must not read as a wrong key."""
    data = target.read(key)
    try:
        check_digest(data, key)
    except Damage as error:
        cure = f"copy {key} by hand from a target that has it whole: it is the same on all"
        raise Damage("a key slot is damaged", where=f"{target.where}: {key}", why=error.what, cure=cure) from None
    return data


def found(
    targets: Sequence[Target], secret: Secret, *, now: str, entropy: Entropy
) -> tuple[Ring, dict[str, Descriptor]]:
    """Make the repository on every target, or join targets to the one that is there. Idempotent.

    Two at once end with one identity: the first target in the byte order of URLs decides by conditional create.
    Durable on return. Raises Conflict where two targets already belong to different repositories, Retired for one that
    was retired.
    """
    ordered = sorted(targets, key=lambda t: t.backend.url)
    for target in ordered:
        _probe(target, entropy)
    known = _known(ordered)
    ring = _adopt_or_make(ordered, known, secret, now, entropy)
    _refuse_retired(ring, [t for t in ordered if t.name in known], known)
    source = next(t for t in ordered if t.name in known)
    slots = {n: d for n, d in slots_of(source) if parse_header(d, n).repository == ring.repository}
    for target in ordered:
        if target.name not in known:
            try:
                known[target.name] = _join(target, ring, secret, slots, now, entropy)
            except AlreadyExists:  # another init was faster
                known[target.name] = read_descriptor(target)
    for descriptor in known.values():
        if descriptor.repository != ring.repository:
            raise Conflict("a target got another repository meanwhile", cure="run `drkit init` again")
        descriptor.authenticate(ring)
    return ring, known


def _probe(target: Target, entropy: Entropy) -> None:
    """One create, so that a store which ignores conditions is found out before anything depends on them.

    Raises Unsupported with the cure where it does, unless the configuration accepts it.
    """
    name = key(f"canaries/init-{entropy(8).hex()}")
    target.write(name, [b"drkit"], 5)
    target.backend.delete(name)


def _known(targets: Sequence[Target]) -> dict[str, Descriptor]:
    known = {}
    for target in targets:
        try:
            known[target.name] = read_descriptor(target)
        except NotFound:
            continue
    ids = {d.repository for d in known.values()}
    if len(ids) > 1:
        names = ", ".join(f"{name}: {d.repository.hex()[:8]}" for name, d in sorted(known.items()))
        raise Conflict(
            "the targets belong to different repositories",
            where=names,
            why="nothing was written",
            cure="give the target that does not belong here a URL of its own",
        )
    return known


def _refuse_retired(ring: Ring, there: Sequence[Target], known: dict[str, Descriptor]) -> None:
    refused, unasked = returned(ring, there, {t.name: known[t.name].target.hex() for t in there})
    for problem in (*refused.values(), *unasked.values()):
        raise problem


def _adopt_or_make(
    ordered: Sequence[Target], known: dict[str, Descriptor], secret: Secret, now: str, entropy: Entropy
) -> Ring:
    for target in ordered:
        if target.name in known:
            return unlock_target(secret, target, known[target.name])
    first = ordered[0]
    ring = new_ring(entropy(16), entropy)
    try:
        known[first.name] = _join(first, ring, secret, {}, now, entropy)
    except AlreadyExists:
        known[first.name] = read_descriptor(first)
        return unlock_target(secret, first, known[first.name])
    return ring


def _join(
    target: Target, ring: Ring, secret: Secret, slots: dict[str, bytes], now: str, entropy: Entropy
) -> Descriptor:
    """Slots first, then the descriptor: a crash between leaves rubbish, never a repository without a key."""
    if not slots:
        name, slot = seal_slot(ring, secret, created_at=now, entropy=entropy)
        slots[name] = slot.joined()
    for name, data in slots.items():
        try:
            target.write(Key(name), [data], len(data))
        except AlreadyExists:
            continue
    value: Json = {
        "name": DESCRIPTOR,
        "format": 1,
        "repository": ring.repository.hex(),
        "target": entropy(16).hex(),
        "key_id": ring.key_id(1),
        "created_at": now,
    }
    first = Ring(ring.repository, {1: ring.master(1)}, ring.lifetime)
    target.put(DESCRIPTOR, seal_json(DataKey(first, entropy), Kind.DESCRIPTOR, entropy(16), value))
    return read_descriptor(target)
