"""Copies of a repository that can be broken without harm to the others, and what bad input does to them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.scene import Scene, folder
from tests.real.postgres import give, give_tree


@dataclass(frozen=True, slots=True)
class Copy:
    """The targets a and b as they were, the key and this host's state, below `root`; `config` leads to them.

    words: what patterns and command lines are filled from.
    """

    scene: Scene
    root: Path
    config: Path
    words: Mapping[str, str]

    @property
    def key(self) -> Path:
        return self.root / "master.key"

    @property
    def destination(self) -> Path:
        """Where a restore shall go; not there yet."""
        return self.root / "destination"

    def objects(self, pattern: str, on: str = "ab") -> list[Path]:
        """Stored objects on the targets by a glob below each target's root; at least one."""
        found = sorted(p for name in on for p in (self.root / name).glob(pattern.format(**self.words)) if p.is_file())
        assert found, pattern
        return found


def copy_of(scene: Scene, name: str, words: Mapping[str, str]) -> Copy:
    """A new copy; the targets stay the same targets to this host. Adds the words `copy` and `destination`."""
    root = scene.fresh(name)
    for part in ("a", "b", "spool"):
        shutil.copytree(scene.root / part, root / part)
    shutil.copy2(scene.root / "master.key", root / "master.key")
    give_tree(root)
    targets = [folder(root, "a", "site-a"), folder(root, "b", "site-b")]
    config = scene.write_config(root / "drkit.toml", targets, key=root / "master.key", spool=root / "spool")
    return Copy(scene, root, config, {**words, "copy": str(root), "destination": str(root / "destination")})


def lose(pattern: str) -> Callable[[Copy], None]:
    """Remove objects from both targets."""

    def change(copy: Copy) -> None:
        for path in copy.objects(pattern):
            path.unlink()

    return change


def flip(pattern: str, at: float = 0.5, on: str = "ab") -> Callable[[Copy], None]:
    """Flip one bit in the objects, at this part of their length; on: the targets, both unless told."""

    def change(copy: Copy) -> None:
        for path in copy.objects(pattern, on):
            data = bytearray(path.read_bytes())
            data[int(len(data) * at)] ^= 4
            path.write_bytes(data)

    return change


def truncate(pattern: str) -> Callable[[Copy], None]:
    """Cut the objects to two thirds on both targets."""

    def change(copy: Copy) -> None:
        for path in copy.objects(pattern):
            path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])

    return change


def unmount(*names: str) -> Callable[[Copy], None]:
    """Leave an empty folder where a target was, as an unmounted disk does."""

    def change(copy: Copy) -> None:
        for name in names:
            (copy.root / name).rename(copy.root / f"{name}.away")
            (copy.root / name).mkdir()
            give(copy.root / name)

    return change


def configure(text: str) -> Callable[[Copy], None]:
    """Append to the configuration."""

    def change(copy: Copy) -> None:
        with copy.config.open("a") as file:
            file.write(f"\n{text}\n")

    return change


def connect(conninfo: str) -> Callable[[Copy], None]:
    """Another connection string."""

    def change(copy: Copy) -> None:
        text = copy.config.read_text()
        changed = re.sub(r'connection = ".*"', f'connection = "{conninfo}"', text)
        assert changed != text
        copy.config.write_text(changed)

    return change


def spool(place: str) -> Callable[[Copy], None]:
    """Another spool."""

    def change(copy: Copy) -> None:
        text = copy.config.read_text()
        changed = text.replace(f'spool = "{copy.root / "spool"}"', f'spool = "{place}"')
        assert changed != text
        copy.config.write_text(changed)

    return change


def occupy(*files: str) -> Callable[[Copy], None]:
    """Put files of someone else into the destination."""

    def change(copy: Copy) -> None:
        for name in files:
            path = copy.destination / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("not yours")
        give_tree(copy.destination)

    return change


def nothing(_: Copy) -> None:
    """Break nothing."""
