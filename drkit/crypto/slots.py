"""Key slots: how a secret that a person keeps opens the repository's master keys (docs/format.md, section 3)."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from drkit.core.errors import Damage, KeyMissing
from drkit.crypto.container import DataKey, Json, Sealed, open_object, parse_open_section, seal_json
from drkit.crypto.keys import KEY_BYTES, Entropy, Ring, derive, unwrap, wrap

KIND_SLOT = 2
_SCRYPT_DEFAULT = (1 << 17, 8, 1)  # 128 MiB, about 0.4 s on one core
_SCRYPT_MAX_N, _SCRYPT_MAX_R, _SCRYPT_MAX_P, _SCRYPT_MAX_NR = 1 << 20, 16, 4, 1 << 23


@dataclass(frozen=True, slots=True)
class Secret:
    """What opens a slot. provider: `keyfile` (32 bytes) or `passphrase` (UTF-8); source: for messages only."""

    provider: str
    value: bytes
    source: str

    def __repr__(self) -> str:
        return f"Secret({self.provider}, from {self.source})"


def slot_name(epoch: int, slot: str) -> str:
    return f"keys/{epoch:08x}/{slot}"


def _kek(secret: Secret, repository: bytes, slot: str, parameters: Json) -> bytes:
    if secret.provider == "keyfile":
        return derive(secret.value, salt=repository + _hex({"slot": slot}, "slot"), info=b"drkit keyfile")
    n, r, p = (_whole(parameters, name) for name in ("n", "r", "p"))
    if n > _SCRYPT_MAX_N or r > _SCRYPT_MAX_R or p > _SCRYPT_MAX_P or n * r > _SCRYPT_MAX_NR:
        raise Damage("a key slot asks for more work than the format allows", where=slot, why=f"n={n} r={r} p={p}")
    salt = _hex(parameters, "salt")
    try:
        return Scrypt(salt=salt, length=KEY_BYTES, n=n, r=r, p=p).derive(secret.value)
    except ValueError as error:
        raise Damage("a key slot is not as the format says", where=slot, why=str(error)) from error


def _whole(values: Json, name: str) -> int:
    value = values.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise Damage("a key slot is not as the format says", why=f"{name} is {value!r}")
    return value


def _hex(values: Json, name: str) -> bytes:
    try:
        return bytes.fromhex(str(values[name]))
    except (KeyError, ValueError):
        raise Damage("a key slot is not as the format says", why=f"{name} is missing or not hex") from None


def new_ring(repository: bytes, entropy: Entropy) -> Ring:
    """A new repository's keys: one master of epoch 1 and the lifetime key."""
    return Ring(repository, {1: entropy(KEY_BYTES)}, entropy(KEY_BYTES))


def seal_slot(ring: Ring, secret: Secret, *, created_at: str, entropy: Entropy) -> tuple[str, Sealed]:
    """A slot of the ring's newest epoch that `secret` opens; returns its key name and the object."""
    epoch, slot = ring.epoch, entropy(8).hex()
    parameters: Json = {}
    if secret.provider == "passphrase":
        n, r, p = _SCRYPT_DEFAULT
        parameters = {"salt": entropy(16).hex(), "n": n, "r": r, "p": p}
    own = ring.wrap_key(epoch)
    value: Json = {
        "name": slot_name(epoch, slot),
        "epoch": epoch,
        "key_id": ring.key_id(epoch),
        "provider": secret.provider,
        "parameters": parameters,
        "master": wrap(_kek(secret, ring.repository, slot, parameters), ring.master(epoch)).hex(),
        "lifetime": wrap(own, ring.lifetime).hex(),
        "predecessors": [
            {"epoch": e, "master": wrap(own, ring.master(e)).hex()} for e in sorted(ring.masters) if e != epoch
        ],
        "proof": _proof(ring, epoch).hex() if epoch > 1 else "",
        "created_at": created_at,
    }
    return str(value["name"]), seal_json(DataKey(ring, entropy), KIND_SLOT, entropy(16), value)


def _proof(ring: Ring, epoch: int) -> bytes:
    message = b"drkit epoch" + ring.repository + epoch.to_bytes(4, "little") + bytes.fromhex(ring.key_id(epoch))
    return hmac.digest(ring.successor_key(epoch - 1), message, "sha256")


def open_slot(secret: Secret, data: bytes, name: str) -> Ring | None:
    """The keys behind one slot, or None where it is of another provider or another secret's.

    Raises Damage where the secret fits and the slot is not whole: nobody else could have made such a slot.
    """
    header, value, _ = parse_open_section(data, name)
    if header.kind != KIND_SLOT:
        raise Damage("the object is of another kind", where=name, why=f"kind {header.kind}")
    if value.get("provider") != secret.provider:
        return None
    epoch, slot = _whole(value, "epoch"), name.rsplit("/", 1)[-1]
    if slot_name(epoch, slot) != name or header.epoch != epoch:
        raise Damage("a key slot belongs under another name", where=name, why=f"epoch {epoch}")
    parameters = value.get("parameters")
    kek = _kek(secret, header.repository, slot, parameters if isinstance(parameters, dict) else {})
    master = unwrap(kek, _hex(value, "master"))
    if master is None:
        return None
    own = Ring(header.repository, {epoch: master}, b"").wrap_key(epoch)
    lifetime = unwrap(own, _hex(value, "lifetime"))
    if lifetime is None:
        raise Damage("a key slot's lifetime key does not open", where=name)
    masters = {epoch: master} | _predecessors(value, own, name)
    ring = Ring(header.repository, masters, lifetime)
    open_object(ring, data, kind=KIND_SLOT, name=name)
    if ring.key_id(epoch) != value.get("key_id"):
        raise Damage("a key slot's key id is not that of its key", where=name)
    if epoch > 1 and not hmac.compare_digest(_proof(ring, epoch).hex(), str(value.get("proof"))):
        raise Damage("a key of a new epoch is not vouched for by the one before", where=name, why=f"epoch {epoch}")
    return ring


def _predecessors(value: Json, own: bytes, name: str) -> dict[int, bytes]:
    """The masters of all earlier epochs, opened with the wrap key of the slot's own."""
    listed, masters = value.get("predecessors"), {}
    for item in listed if isinstance(listed, list) else []:
        if not isinstance(item, dict):
            raise Damage("a key slot is not as the format says", where=name, why="its predecessors")
        found = unwrap(own, _hex(item, "master"))
        if found is None:
            raise Damage("a key slot holds an earlier key that does not open", where=name, why=str(item.get("epoch")))
        masters[_whole(item, "epoch")] = found
    return masters


def unlock(secret: Secret, slots: Iterable[tuple[str, Callable[[], bytes]]], key_id: str, where: str) -> Ring:
    """Open the newest epoch that `secret` opens and that leads to the descriptor's `key_id` of epoch 1.

    slots: (name, read) pairs in any order. A slot that is not whole does not keep the others from opening.
    Raises KeyMissing with what was tried, or Damage where a slot that might have opened is damaged.
    """
    tried = 0
    damage: Damage | KeyMissing | None = None
    for name, read in sorted(slots, key=lambda item: item[0], reverse=True):
        tried += 1
        try:
            ring = open_slot(secret, read(), name)
        except (Damage, KeyMissing) as error:
            damage = damage or error
            continue
        if ring is not None and 1 in ring.masters and ring.key_id(1) == key_id:
            return ring
    if damage is not None:
        raise damage
    raise KeyMissing(
        f"the key from {secret.source} opens no slot of this repository",
        where=where,
        why=f"{tried} slots tried",
        cure="is this the repository's key file? its escrowed copy opens it too",
    )
