"""The bytes of the format do not move: today's code makes the published vectors, and a stranger opens them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard

from drkit.crypto.container import check_digest, open_object, parse_header, parse_open_section
from drkit.crypto.keys import parse_key_file
from drkit.crypto.slots import KIND_SLOT, Secret, open_slot
from drkit.repository.layout import Kind
from tests.format.vectors import WORDS, document

PUBLISHED = Path(__file__).parents[2] / "docs" / "format-vectors.json"
READER = Path(__file__).with_name("reader.py")


@pytest.fixture(scope="module")
def published() -> Any:
    return json.loads(PUBLISHED.read_text())


@pytest.fixture(scope="module")
def made() -> Any:
    return json.loads(json.dumps(document()))


def stored(found: Any, key: str) -> bytes:
    return bytes.fromhex(found["objects"][key]["hex"])


def test_every_kind_that_is_written_has_a_vector(published: Any) -> None:
    kinds = {found["kind"] for found in published["objects"].values()}
    later = {
        Kind.SLICE,
        Kind.SUMMARY,
        Kind.CANARY,
        Kind.RETIREMENT,
        Kind.BINDING,
        Kind.EPOCH,
    }
    assert kinds == {int(kind) for kind in Kind if kind not in later}


def test_todays_keys_are_the_published_ones(published: Any, made: Any) -> None:
    for name in ("format", "key file", "passphrase", "repository", "master keys", "lifetime key", "derived"):
        assert made[name] == published[name]


def test_todays_code_makes_the_published_bytes(published: Any, made: Any) -> None:
    assert list(made["objects"]) == list(published["objects"])
    same_compressor = made["zstandard"] == published["zstandard"]
    for key, found in published["objects"].items():
        assert made["objects"][key]["frames"] == found["frames"], key
        assert made["objects"][key].get("names") == found.get("names"), key
        if same_compressor:
            assert made["objects"][key]["hex"] == found["hex"], key


def test_todays_code_opens_the_published_bytes(published: Any) -> None:
    text = "\n".join(published["key file"])
    secret = Secret("keyfile", parse_key_file(text, "the vectors"), "the vectors")
    slots = [key for key, found in published["objects"].items() if found["kind"] == KIND_SLOT]
    rings = [ring for key in slots if (ring := open_slot(secret, stored(published, key), key)) is not None]
    rings += [ring for key in slots if (ring := open_slot(WORDS, stored(published, key), key)) is not None]
    newest = max(rings, key=lambda ring: ring.epoch)
    assert len(rings) == len(slots) == 3
    assert {str(epoch): master.hex() for epoch, master in newest.masters.items()} == published["master keys"]

    for key, found in published["objects"].items():
        data = stored(published, key)
        header, value, _ = parse_open_section(data, key)
        opened = open_object(newest, data, kind=found["kind"], name=key, object_id=None if value else header.object_id)
        assert [{"type": type_, "hex": raw.hex()} for type_, raw in opened.frames] == found["frames"]
        assert check_digest(data, key) == data[-32:]


def test_a_reader_that_knows_nothing_of_drkit_opens_them(published: Any, tmp_path: Path) -> None:
    assert zstandard.ZSTD_VERSION and "drkit" not in [
        line.split()[1].split(".")[0] for line in READER.read_text().splitlines() if line.startswith(("import", "from"))
    ]
    (tmp_path / "key").write_text("\n".join(published["key file"]))
    for key in published["objects"]:
        (tmp_path / "target" / key).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "target" / key).write_bytes(stored(published, key))
    wanted = (Kind.WAL, Kind.HISTORY, Kind.QUARANTINE, Kind.TOMBSTONE, Kind.MAP, Kind.PACK, Kind.MANIFEST)
    for key, found in published["objects"].items():
        if parse_header(stored(published, key), key).kind in wanted:
            done = subprocess.run(
                [sys.executable, "-I", READER, tmp_path / "key", tmp_path / "target", key],
                capture_output=True,
                check=True,
            )
            names = "".join(f"{name}\n" for name in found.get("names", [])).encode()
            assert done.stdout == b"".join(bytes.fromhex(frame["hex"]) for frame in found["frames"]) + names
