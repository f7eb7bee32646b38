"""Key slots: what opens them, what does not, and what is refused although it fits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drkit.core.errors import Damage, DrkitError, KeyMissing
from drkit.crypto import slots as module
from drkit.crypto.container import DataKey, Json, parse_open_section, seal_json
from drkit.crypto.keys import Ring
from drkit.crypto.slots import KIND_SLOT, Secret, new_ring, open_slot, seal_slot, slot_name, unlock
from tests.crypto.rings import REPOSITORY, ring, seeded

AT = "2026-03-01T12:00:00.000000Z"
FILE = Secret("keyfile", b"k" * 32, "/etc/drkit/key")
WORDS = Secret("passphrase", "größer als nötig".encode(), "the passphrase")


@pytest.fixture(autouse=True)
def quick_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SCRYPT_DEFAULT", (1 << 4, 8, 1))


def made(keys: Ring, secret: Secret = FILE, seed: int = 1) -> tuple[str, bytes]:
    name, sealed = seal_slot(keys, secret, created_at=AT, entropy=seeded(seed))
    return name, sealed.joined()


def stored(*slots: tuple[str, bytes]) -> list[tuple[str, Callable[[], bytes]]]:
    return [(name, lambda data=data: data) for name, data in slots]  # type: ignore[misc]  # bound as a default


def resealed(keys: Ring, data: bytes, **changes: object) -> tuple[str, bytes]:
    """The slot with other members, sealed again as only a holder of the key can."""
    _, value, _ = parse_open_section(data, "slot")
    changed: Json = value | changes
    return str(changed["name"]), seal_json(DataKey(keys, seeded(9)), KIND_SLOT, b"s" * 16, changed).joined()


@pytest.mark.parametrize("secret", [FILE, WORDS])
@pytest.mark.parametrize("epochs", [(1,), (1, 2), (1, 2, 3)])
def test_a_slot_leads_to_all_keys(secret: Secret, epochs: tuple[int, ...]) -> None:
    keys = ring(*epochs)
    name, data = made(keys, secret)

    found = open_slot(secret, data, name)

    assert found == keys
    assert name.startswith(f"keys/{epochs[-1]:08x}/")


def test_another_secret_opens_nothing() -> None:
    keys = ring(1, 2)
    by_file, by_words = made(keys, FILE), made(keys, WORDS, 2)
    assert open_slot(Secret("keyfile", b"x" * 32, "f"), by_file[1], by_file[0]) is None
    assert open_slot(Secret("passphrase", b"wrong", "f"), by_words[1], by_words[0]) is None
    assert open_slot(FILE, by_words[1], by_words[0]) is None
    assert open_slot(Secret("kms", b"k" * 32, "f"), by_file[1], by_file[0]) is None
    with pytest.raises(KeyMissing, match="2 slots tried"):
        unlock(Secret("keyfile", b"x" * 32, "f"), stored(by_file, by_words), keys.key_id(1), "here")


def test_a_provider_that_nobody_knows_is_passed_over() -> None:
    keys = ring()
    name, data = made(keys)
    unknown = resealed(keys, data, name=slot_name(1, "f" * 16), provider="quantum", parameters={"q": [1]})
    assert unlock(FILE, stored(unknown, (name, data)), keys.key_id(1), "here") == keys


def test_the_newest_epoch_that_opens_is_taken() -> None:
    old, new = ring(1), ring(1, 2)
    slots = stored(made(old, FILE, 1), made(new, FILE, 2))
    assert unlock(FILE, slots, old.key_id(1), "here").epoch == 2
    only_old = stored(made(old, WORDS, 1), made(new, FILE, 2))
    assert unlock(WORDS, only_old, old.key_id(1), "here").epoch == 1


def test_slots_of_a_lost_race_are_rubbish() -> None:
    mine, other = new_ring(REPOSITORY, seeded(1)), new_ring(REPOSITORY, seeded(2))
    slots = stored(made(mine, FILE, 3), made(other, FILE, 4))
    assert unlock(FILE, slots, mine.key_id(1), "here") == mine
    assert unlock(FILE, slots, other.key_id(1), "here") == other


@given(st.data())
@settings(max_examples=300)
def test_a_slot_with_any_bit_turned_round_opens_to_nothing(data: st.DataObject) -> None:
    keys = ring(1, 2)
    name, sealed = made(keys)
    bit = data.draw(st.integers(0, len(sealed) * 8 - 1))
    broken = bytearray(sealed)
    broken[bit // 8] ^= 1 << bit % 8
    try:
        found = open_slot(FILE, bytes(broken), name)
    except (Damage, KeyMissing):
        return
    assert found is None


@given(st.integers(0, 1200))
def test_a_slot_cut_short_is_refused(length: int) -> None:
    name, sealed = made(ring(1, 2))
    if length < len(sealed):
        with pytest.raises(Damage):
            open_slot(FILE, sealed[:length], name)


def test_a_damaged_slot_does_not_keep_another_from_opening() -> None:
    keys = ring()
    (good_name, good), (name, bad) = made(keys, FILE, 1), made(keys, FILE, 2)
    slots = stored((good_name, good), (name, bad[:-1]), (slot_name(1, "0" * 16), b"rubbish"), ("keys/README", b"?"))
    assert unlock(FILE, slots, keys.key_id(1), "here") == keys
    with pytest.raises(Damage):
        unlock(FILE, stored((name, bad[:-1])), keys.key_id(1), "here")


def test_a_slot_under_another_name_is_refused() -> None:
    name, data = made(ring())
    for other in (slot_name(1, "0" * 16), name.replace("00000001", "00000002")):
        assert refused(FILE, data, other)


def refused(secret: Secret, data: bytes, name: str) -> bool:
    try:
        return open_slot(secret, data, name) is None
    except DrkitError:
        return True


def test_a_new_epoch_that_its_predecessor_does_not_vouch_for_is_refused() -> None:
    keys = ring(1, 2)
    _, data = made(keys)
    stranger = dataclasses.replace(keys, masters={1: b"?" * 32, 2: keys.masters[2]})
    _, forged = made(stranger)
    proof = parse_open_section(forged, "slot")[1]["proof"]

    for wrong in ("", "00" * 32, proof):
        name, changed = resealed(keys, data, proof=wrong)
        with pytest.raises(Damage, match="vouched"):
            open_slot(FILE, changed, name)
    name, bare = resealed(keys, data, predecessors=[])
    with pytest.raises(KeyMissing, match="epoch 1"):
        open_slot(FILE, bare, name)


def test_a_wrong_key_id_is_refused() -> None:
    keys = ring()
    name, changed = resealed(keys, made(keys)[1], key_id="00" * 8)
    with pytest.raises(Damage, match="key id"):
        open_slot(FILE, changed, name)


@pytest.mark.parametrize(
    "parameters",
    [
        {"n": 1 << 21, "r": 1, "p": 1},
        {"n": 16, "r": 17, "p": 1},
        {"n": 16, "r": 8, "p": 5},
        {"n": 1 << 20, "r": 9, "p": 1},
        {"n": 15, "r": 8, "p": 1},
        {"n": 0, "r": 8, "p": 1},
        {"n": True, "r": 8, "p": 1},
        {"n": "16", "r": 8, "p": 1},
        {"r": 8, "p": 1},
        {"n": 16, "r": 8, "p": 1, "salt": "no hex"},
        {"n": 16, "r": 8, "p": 1, "salt": None},
        [],
    ],
)
def test_a_slot_cannot_ask_for_more_work_than_allowed(parameters: object) -> None:
    keys = ring()
    _, data = made(keys, WORDS)
    if isinstance(parameters, dict):
        parameters = {"salt": "00" * 16} | parameters
    name, changed = resealed(keys, data, parameters=parameters)
    with pytest.raises(Damage):
        open_slot(WORDS, changed, name)


@pytest.mark.parametrize(
    "changes",
    [
        {"epoch": "1"}, {"epoch": 2}, {"master": "zz"}, {"master": None}, {"lifetime": ""}, {"lifetime": "00" * 40},
        {"predecessors": [1]}, {"predecessors": [{"epoch": 1}]}, {"predecessors": [{"epoch": 1, "master": "00" * 40}]},
        {"name": "keys/00000001/not-hex-at-all!"},
    ],
)  # fmt: skip
def test_a_slot_with_senseless_members_is_damage(changes: dict[str, object]) -> None:
    keys = ring()
    name, changed = resealed(keys, made(keys)[1], **changes)
    assert refused(FILE, changed, name)


def test_a_secret_is_never_shown() -> None:
    assert "kkk" not in repr(FILE) and "größer" not in repr(WORDS)
