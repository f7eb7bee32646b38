"""Which targets and data folders are one place, or lie in each other, as far as their text tells.

Links and other names of a host are seen only by who takes a look (`drkit.jobs.check_places`).
"""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from urllib.parse import unquote, urlsplit

_PORTS = {"http": 80, "https": 443}
_AWS = ".amazonaws.com"


@dataclass(frozen=True, slots=True)
class Place:
    """store: 'file' for this host's folders, else endpoint and bucket; path: without '/' at its ends, "" for all."""

    store: str
    path: str

    def holds(self, other: Place) -> bool:
        """Whether `other` is this place or lies in it."""
        inside = not self.path or other.path == self.path or other.path.startswith(f"{self.path}/")
        return self.store == other.store and inside


def place_of(url: str, endpoint: str | None) -> Place:
    """Of a target. '..' goes by the text; the parts of a bucket's keys are left as they are, '//' is a name there."""
    parts = urlsplit(url)
    if parts.scheme == "file":
        return folder(Path(unquote(parts.path)))
    return Place(f"{_service(endpoint)} {parts.netloc}", unquote(parts.path).strip("/"))


def folder(path: Path) -> Place:
    return Place("file", posixpath.normpath(str(path)).strip("/"))


def _service(endpoint: str | None) -> str:
    """An S3 service by host and port; all of AWS is one, as no two buckets of it have one name."""
    parts = urlsplit(endpoint or "")
    host = parts.hostname or ""
    if not host or host.endswith(_AWS):
        return "AWS"
    return f"{host}:{parts.port or _PORTS.get(parts.scheme, 0)}"


def clashes(targets: Mapping[str, tuple[str, Place]], data_folders: Mapping[str, Path]) -> Iterator[str]:
    """A sentence for each pair that is one place or nested. targets: name -> (URL as written, place); data folders by
    cluster."""
    for (one, (one_url, a)), (two, (two_url, b)) in combinations(targets.items(), 2):
        if a == b:
            urls = one_url if one_url == two_url else f"{one_url}, {two_url}"
            yield f"targets {one!r} and {two!r} are the same place: {urls}"
        elif a.holds(b):
            yield f"target {two!r} ({two_url}) lies inside target {one!r} ({one_url})"
        elif b.holds(a):
            yield f"target {one!r} ({one_url}) lies inside target {two!r} ({two_url})"
    for cluster, path in data_folders.items():
        data = folder(path)
        for name, (url, place) in targets.items():
            if data.holds(place):
                yield f"target {name!r} ({url}) lies inside the data folder of cluster {cluster!r}, {path}"
            elif place.holds(data):
                yield f"the data folder of cluster {cluster!r}, {path}, lies inside target {name!r} ({url})"
