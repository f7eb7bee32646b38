"""`drkit init` on folders, as a process: what it makes, and what it leaves alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from moto.server import ThreadedMotoServer

from tests.storage_backends.mounts import need_root

SECRETS = ("ACCESS_KEY", "SECRET_KEY")
APP = [sys.executable, "-m", "drkit.cli.app"]


class Place:
    """A configuration with targets in folders of `root`; no server."""

    def __init__(self, root: Path) -> None:
        self.root, self.config, self.key = root, root / "drkit.toml", root / "master.key"

    def configure(self, more: str = "", **folders: Path) -> None:
        text = f'[cluster.main]\n[keys]\nfile = "{self.key}"\n[daemon]\nspool = "{self.root}/spool"\n{more}\n'
        for name, folder in folders.items():
            text += f'[target.{name}]\nurl = "{folder.as_uri()}"\nsite = "{name}"\n'
        self.config.write_text(text)

    def drkit(self, *words: str, **env: str) -> subprocess.CompletedProcess[str]:
        clean = {name: value for name, value in os.environ.items() if not name.startswith("DRKIT_")}
        line = [*APP, "--config", str(self.config), "-q", *words]
        return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False, env=clean | env)

    def refusal(self, *words: str, **env: str) -> tuple[int, dict[str, str]]:
        done = self.drkit("--json", *words, **env)
        assert done.returncode != 0, done.stdout
        error: dict[str, str] = json.loads(done.stderr.splitlines()[-1])["error"]
        return done.returncode, error

    def files(self) -> set[Path]:
        return {path for path in self.root.rglob("*") if path.is_file() and path != self.config}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_no_key_is_made_beside_an_existing_repository(place: Place) -> None:
    """A new key would open nothing of it, and would look as if it were the one to keep."""
    place.configure(a=place.root / "a")
    assert place.drkit("init", "--yes").returncode == 0
    kept = place.key.rename(place.root / "kept.key")
    before = place.files()
    status, error = place.refusal("init", "--yes")
    assert (status, error["code"]) == (8, "key")
    assert str(place.key) in error["where"] and str(place.root / "a") in error["why"] and "copy" in error["cure"]
    assert place.files() == before

    place.configure(fresh=place.root / "fresh", a=place.root / "a")
    assert place.refusal("init", "--yes")[0] == 8, "one repository is enough, wherever it stands in the list"
    assert place.files() == before
    kept.rename(place.key)
    assert place.drkit("init", "--yes").returncode == 0


def test_a_second_init_changes_nothing(place: Place) -> None:
    place.configure(a=place.root / "a", b=place.root / "b")
    first = json.loads(place.drkit("--json", "init", "--yes").stdout)
    before = {path: path.read_bytes() for path in place.files()}
    second = json.loads(place.drkit("--json", "init").stdout)
    assert first["key_file_created"] == str(place.key) and second["key_file_created"] is None
    assert first["targets"] == second["targets"] and first["repository"] == second["repository"]
    assert {path: path.read_bytes() for path in place.files()} == before


@pytest.mark.parametrize("left", ["an empty folder", "nothing"])
def test_a_disk_that_is_not_mounted_is_never_founded_anew(place: Place, left: str) -> None:
    """Else backups would go to the disk below the mount point, and the real one would be the stranger afterwards."""
    a, away = place.root / "a", place.root / "away"
    place.configure(a=a, b=place.root / "b")
    assert place.drkit("init", "--yes").returncode == 0
    a.rename(away)
    if left == "an empty folder":
        a.mkdir()
    before = {path: path.read_bytes() for path in place.files()}
    status, error = place.refusal("init", "--yes")
    assert status == 7 and "mounted" in error["cure"] + error["why"] and str(a) in error["where"] + error["why"]
    assert {path: path.read_bytes() for path in place.files()} == before
    assert a.exists() == (left == "an empty folder")
    if a.exists():
        assert "drkit target retire a" in error["cure"]
        a.rmdir()
    away.rename(a)
    assert place.drkit("init").returncode == 0

    away = a.rename(away)
    assert place.drkit("target", "retire", "a", "--yes").returncode == 0
    assert place.drkit("init", "--yes").returncode == 0, "the place can be used again as a new target"
    assert place.drkit("list").returncode == 0


def test_one_folder_under_two_names_is_refused_before_anything_is_written(place: Place) -> None:
    real = place.root / "a"
    real.mkdir()
    (place.root / "alias").symlink_to("a")
    place.configure(a=real, b=place.root / "alias")
    status, error = place.refusal("init", "--yes")
    assert (status, error["code"], error["where"]) == (3, "config", "b")
    assert f"targets a and b are the same place, {real}" in error["why"] and error["cure"]
    assert place.files() <= {place.root / "spool" / "pins.json"} and not place.key.exists()

    (real / "inner").mkdir()
    place.configure(a=real, b=place.root / "alias" / "inner")
    status, error = place.refusal("init", "--yes")
    assert status == 3 and "target b lies inside target a" in error["why"]
    assert not place.key.exists()


def test_a_bind_mount_hides_nothing(place: Place) -> None:
    need_root()
    for name in ("a", "b"):
        (place.root / name).mkdir()
    subprocess.run(["mount", "--bind", place.root / "a", place.root / "b"], check=True)
    try:
        place.configure(a=place.root / "a", b=place.root / "b")
        status, error = place.refusal("init", "--yes")
    finally:
        subprocess.run(["umount", place.root / "b"], check=True)
    assert status == 3 and "are the same place" in error["why"]


def test_one_bucket_under_two_names_of_its_host_is_found_by_its_identity(place: Place) -> None:
    store = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    store.start()
    try:
        _, port = store.get_host_and_port()
        urlopen(Request(f"http://127.0.0.1:{port}/both", method="PUT"), timeout=30).close()
        text = ""
        for name, host in (("one", "127.0.0.1"), ("two", "localhost")):
            text += f'[target.{name}]\nurl = "s3://both/p"\nendpoint = "http://{host}:{port}"\nsite = "x"\n'
            text += 'addressing = "path"\nregion = "us-east-1"\n'
        place.configure(text)
        keys = {f"DRKIT_TARGET__{name}__{part}": "mock" for name in ("ONE", "TWO") for part in SECRETS}
        status, error = place.refusal("init", "--yes", **keys)
    finally:
        store.stop()
    assert (status, error["code"]) == (3, "config"), error
    assert "targets one and two are the same place: both answer as" in error["why"]


@pytest.mark.parametrize(
    ("label", "told"),
    [("x" * 201, "201 characters"), ("two\nlines", "cannot be printed"), ("\x1b[31mred", "cannot be printed")],
)
def test_a_label_is_short_and_printable(place: Place, label: str, told: str) -> None:
    """It is shown in every list: what could break that is refused before the server or a target is asked."""
    place.configure(a=place.root / "never")
    status, error = place.refusal("backup", "--label", label)
    assert (status, error["code"]) == (2, "usage")
    assert told in error["why"] and "200 printable" in error["cure"]
    assert not (place.root / "never").exists()


def test_the_longest_label_is_taken(place: Place) -> None:
    place.configure(a=place.root / "never")
    status, error = place.refusal("backup", "--label", "ü" * 200)
    assert (status, error["code"]) != (2, "usage"), "what is missing is something else"
