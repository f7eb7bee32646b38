"""What lies on a target, to be damaged behind drkit's back: a folder, or a bucket of a real S3 service."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Protocol

from tests.real.postgres import give
from tests.real.rgw import RgwServer


class Shelf(Protocol):
    """Objects by key, whatever holds them."""

    def listed(self) -> list[str]: ...
    def read(self, key: str) -> bytes: ...
    def write(self, key: str, data: bytes) -> None: ...
    def delete(self, key: str) -> None: ...


@dataclass(frozen=True, slots=True)
class FolderShelf:
    root: Path

    def listed(self) -> list[str]:
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())

    def read(self, key: str) -> bytes:
        return (self.root / key).read_bytes()

    def write(self, key: str, data: bytes) -> None:
        (self.root / key).write_bytes(data)
        give(self.root / key)

    def delete(self, key: str) -> None:
        (self.root / key).unlink()


class BucketShelf:
    """url: `s3://bucket/prefix` of a target."""

    def __init__(self, rgw: RgwServer, url: str) -> None:
        self._bucket, _, prefix = url.removeprefix("s3://").partition("/")
        self._prefix = f"{prefix}/"
        self._client = rgw.client()

    def listed(self) -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._prefix)
        return sorted(one["Key"].removeprefix(self._prefix) for page in pages for one in page.get("Contents", ()))

    def read(self, key: str) -> bytes:
        found: bytes = self._client.get_object(Bucket=self._bucket, Key=self._prefix + key)["Body"].read()
        return found

    def write(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=self._prefix + key, Body=data)

    def delete(self, key: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)


def last(shelf: Shelf, pattern: str) -> str:
    """The last key that fits, `*` standing for anything."""
    return [key for key in shelf.listed() if fnmatchcase(key, pattern)][-1]


def flip(data: bytes) -> bytes:
    """One bit in the middle the other way round."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 8]) + data[middle + 1 :]


Hurt = Callable[[Shelf, str], None]


def flipped(shelf: Shelf, key: str) -> None:
    shelf.write(key, flip(shelf.read(key)))


def lost(shelf: Shelf, key: str) -> None:
    shelf.delete(key)


@contextmanager
def hurt(how: Hurt, *objects: tuple[Shelf, str]) -> Iterator[Mapping[str, bytes]]:
    """Objects that are damaged or gone for as long as the block lasts; yields what they were."""
    before = [(shelf, key, shelf.read(key)) for shelf, key in objects]
    for shelf, key, _ in before:
        how(shelf, key)
    try:
        yield {key: data for _, key, data in before}
    finally:
        for shelf, key, data in before:
            shelf.write(key, data)
