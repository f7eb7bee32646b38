"""Descriptors: which repository a target belongs to (docs/format.md, section 4). Only `found` creates one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from drkit.core.errors import Conflict, Damage, KeyMissing
from drkit.crypto.container import DataKey, Json, open_object, parse_header, parse_open_section, seal_json
from drkit.crypto.keys import Entropy, Ring
from drkit.crypto.slots import Secret, new_ring, seal_slot, unlock
from drkit.repository.layout import DESCRIPTOR, KEYS, Kind
from drkit.repository.target import Target
from storage_backends.api import Key, key
from storage_backends.errors import AlreadyExists, NotFound


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
    """Raises NotFound where there is none, Damage where it is not one."""
    data = target.read(DESCRIPTOR)
    header, value, _ = parse_open_section(data, target.where)
    if header.kind != Kind.DESCRIPTOR or value.get("repository") != header.repository.hex():
        raise Damage("the object 'repository' is not a descriptor", where=target.where)
    try:
        return Descriptor(header.repository, bytes.fromhex(str(value["target"])), str(value["key_id"]), data)
    except (KeyError, ValueError) as error:
        raise Damage("the descriptor is not as the format says", where=target.where, why=str(error)) from error


def slots_of(target: Target) -> Iterator[tuple[str, bytes]]:
    """All key slots of a target: (name, bytes)."""
    for info in target.backend.list(KEYS):
        yield info.key, target.read(info.key)


def unlock_target(secret: Secret, target: Target, descriptor: Descriptor) -> Ring:
    """Open the key slots of one target; raises KeyMissing where the secret opens none."""
    infos = list(target.backend.list(KEYS))
    if not infos:
        raise KeyMissing(
            "the target has no key slot", where=target.where, cure="another target of the repository still has them"
        )

    def read(key: Key) -> Callable[[], bytes]:
        return lambda: target.read(key)

    ring = unlock(secret, [(info.key, read(info.key)) for info in infos], descriptor.key_id, target.where)
    descriptor.authenticate(ring)
    return ring


def found(
    targets: Sequence[Target], secret: Secret, *, now: str, entropy: Entropy
) -> tuple[Ring, dict[str, Descriptor]]:
    """Make the repository on every target, or join targets to the one that is there. Idempotent.

    Two at once end with one identity: the first target in the byte order of URLs decides by conditional create.
    Durable on return. Raises Conflict where two targets already belong to different repositories.
    """
    ordered = sorted(targets, key=lambda t: t.backend.url)
    for target in ordered:
        _probe(target, entropy)
    known = _known(ordered)
    ring = _adopt_or_make(ordered, known, secret, now, entropy)
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
        "format": 0,
        "repository": ring.repository.hex(),
        "target": entropy(16).hex(),
        "key_id": ring.key_id(1),
        "created_at": now,
    }
    first = Ring(ring.repository, {1: ring.master(1)}, ring.lifetime)
    target.put(DESCRIPTOR, seal_json(DataKey(first, entropy), Kind.DESCRIPTOR, entropy(16), value))
    return read_descriptor(target)
