"""Targets that are one folder under two names, or lie in each other or in the server: seen by taking a look.

What the text of the configuration tells is refused when it is loaded (`drkit.config.places`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from urllib.parse import unquote, urlsplit

from drkit.repository.target import Target


@dataclass(frozen=True, slots=True)
class Overlap:
    """target: the one that needs another place · text: what it shares, and with whom."""

    target: str
    text: str


@dataclass(frozen=True, slots=True)
class _Folder:
    """path: without links; ident: device and inode, which a bind mount cannot hide."""

    path: Path
    ident: tuple[int, int]


def server_folders(data_dir: Path) -> list[Path]:
    """The data folder, pg_wal and tablespaces, as PostgreSQL names them: any of them may be a link."""
    return [data_dir, data_dir / "pg_wal", *sorted((data_dir / "pg_tblspc").glob("*"))]


def devices_of(folders: Collection[Path]) -> frozenset[str]:
    """Device numbers as the backend of folders names them in its traits.

    A tablespace that is gone is left out: it keeps the server down, and that is told as such.
    """
    found: set[str] = set()
    for folder in folders:
        try:
            found.add(str(folder.stat().st_dev))
        except OSError:
            continue
    return frozenset(found)


def overlaps(targets: Sequence[Target], folders: Collection[Path] = ()) -> list[Overlap]:
    """Targets in folders of this host that share a folder, or lie in or around another or one of `folders`.

    A folder that cannot be looked at is left out: that it cannot is told by whoever opens the target.
    """
    places = {target.name: place for target in targets if (place := _look(_path(target))) is not None}
    servers = [place for folder in folders if (place := _look(folder)) is not None]
    return [*_between(places), *_beside(places, servers)]


def _path(target: Target) -> Path | None:
    parts = urlsplit(target.backend.url)
    return Path(unquote(parts.path)) if parts.scheme == "file" else None


def _look(path: Path | None) -> _Folder | None:
    if path is None:
        return None
    try:
        status = path.stat()
        return _Folder(path.resolve(strict=True), (status.st_dev, status.st_ino))
    except OSError:
        return None


def _between(places: Mapping[str, _Folder]) -> Iterator[Overlap]:
    for (one, a), (two, b) in combinations(places.items(), 2):
        if a.ident == b.ident:
            yield Overlap(two, f"targets {one} and {two} are the same place, {a.path}")
        elif b.path.is_relative_to(a.path):
            yield Overlap(two, f"target {two} lies inside target {one}: {b.path} is in {a.path}")
        elif a.path.is_relative_to(b.path):
            yield Overlap(one, f"target {one} lies inside target {two}: {a.path} is in {b.path}")


def _beside(places: Mapping[str, _Folder], servers: Sequence[_Folder]) -> Iterator[Overlap]:
    for name, place in places.items():
        for folder in servers:
            if place.path.is_relative_to(folder.path):
                text = f"target {name} lies inside a folder of the server: {place.path} is in {folder.path}"
            elif folder.path.is_relative_to(place.path):
                text = f"a folder of the server lies inside target {name}: {folder.path} is in {place.path}"
            else:
                continue
            yield Overlap(name, text)
            break


def twins(identities: Mapping[str, str]) -> list[Overlap]:
    """Targets that answer with one identity. identities: name -> the id in the target's descriptor."""
    by_ident: dict[str, list[str]] = {}
    for name, ident in identities.items():
        by_ident.setdefault(ident, []).append(name)
    return [
        Overlap(names[-1], f"targets {' and '.join(names)} are the same place: both answer as {ident[:8]}")
        for ident, names in by_ident.items()
        if len(names) > 1
    ]
