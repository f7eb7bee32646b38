"""Key files and the derivation of keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drkit.core.errors import KeyMissing
from drkit.crypto.keys import KEY_BYTES, format_key_file, parse_key_file, unwrap, wrap
from tests.crypto.rings import ring

secrets = st.binary(min_size=KEY_BYTES, max_size=KEY_BYTES)


@given(secrets, st.text(st.characters(codec="ascii", exclude_characters="\r\x0b\x0c\x1c\x1d\x1e"), max_size=80))
def test_a_key_file_gives_back_its_key(secret: bytes, comment: str) -> None:
    text = format_key_file(secret, comment)
    assert parse_key_file(text, "f") == secret
    assert parse_key_file(text.upper(), "f") == secret
    assert parse_key_file("\n  " + text.strip() + " \r\n\n", "f") == secret


@given(secrets, st.data())
def test_one_mistyped_character_is_refused(secret: bytes, data: st.DataObject) -> None:
    line = format_key_file(secret, "").strip()
    at = data.draw(st.integers(0, len(line) - 1))
    other = data.draw(st.characters(codec="ascii", categories=["L", "N", "P"]))
    if other.lower() == line[at].lower():
        return
    changed = line[:at] + other + line[at + 1 :]
    with pytest.raises(KeyMissing) as found:
        parse_key_file(changed, "/etc/key")
    assert found.value.where == "/etc/key"
    assert secret.hex() not in str(found.value) + found.value.cure


@given(secrets, st.integers(0, 80), st.integers(0, 80))
def test_exchanged_and_missing_characters_are_refused(secret: bytes, one: int, two: int) -> None:
    line = format_key_file(secret, "").strip()
    letters = list(line)
    letters[one % len(line)], letters[two % len(line)] = letters[two % len(line)], letters[one % len(line)]
    swapped = "".join(letters)
    if swapped != line:
        with pytest.raises(KeyMissing):
            parse_key_file(swapped, "f")
    with pytest.raises(KeyMissing):
        parse_key_file(line[: one % len(line)] + line[one % len(line) + 1 :], "f")


@pytest.mark.parametrize(
    "text", ["", "# only a comment\n", "DRKIT-KEY-1:00:00", "DRKIT-KEY-1", "a:b:c", "DRKIT-KEY-1::"]
)
def test_what_is_no_key_file_says_what_one_is(text: str) -> None:
    with pytest.raises(KeyMissing) as found:
        parse_key_file(text, "f")
    assert found.value.cure


def test_two_keys_in_one_file_are_refused() -> None:
    with pytest.raises(KeyMissing):
        parse_key_file(format_key_file(bytes(32), "") + format_key_file(b"1" * 32, ""), "f")


def test_all_derived_keys_differ() -> None:
    one, two = ring(1, 2), ring(1, 2, repository=b"z" * 16)
    found = [one.fingerprint_key, one.identity_key, two.fingerprint_key, two.identity_key]
    for keys in (one, two):
        for epoch in (1, 2):
            found += [keys.wrap_key(epoch), keys.wal_key(epoch), keys.successor_key(epoch)]
            found.append(bytes.fromhex(keys.key_id(epoch)))
    assert len(set(found)) == len(found)


def test_a_ring_shows_no_secret() -> None:
    keys = ring(1, 2)
    text = f"{keys!r} {keys}"
    assert keys.lifetime.hex() not in text and repr(keys.lifetime) not in text
    assert all(repr(master) not in text and master.hex() not in text for master in keys.masters.values())


def test_an_unknown_epoch_says_which_are_known() -> None:
    with pytest.raises(KeyMissing, match=r"epoch 3.*\[1, 2\]"):
        ring(1, 2).wrap_key(3)


@given(secrets, secrets, st.integers(0, 40 * 8 - 1))
def test_key_wrap_opens_only_what_it_wrapped(kek: bytes, key: bytes, bit: int) -> None:
    wrapped = wrap(kek, key)
    assert wrapped == wrap(kek, key) and unwrap(kek, wrapped) == key
    broken = bytearray(wrapped)
    broken[bit // 8] ^= 1 << bit % 8
    assert unwrap(kek, bytes(broken)) is None
    assert unwrap(kek, wrapped[:-8]) is None and unwrap(kek, b"") is None
