"""All jobs are green and nothing can be restored: `drkit status` is red at once and names what is wrong, the daemon
tells it, and an outside check is red when the daemon is not there to tell anything."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.scene import DRKIT, Scene, as_server, newest_major, scene
from tests.acceptance.test_rows import fill
from tests.daemon.receiver import Receiver, receiver
from tests.real.postgres import give
from tests.real.wal_archive import until

pytestmark = pytest.mark.real

PROMISES = """
[cluster.main.objectives]
max_backup_age = "1h"
"""


@dataclass
class Well:
    """Two backups and six archived segments on targets a and b; every test leaves it as it found it."""

    scene: Scene
    segments: list[str]
    backups: list[str]

    def status(self) -> tuple[int, dict[str, Any]]:
        return self.asked("status")

    def liveness(self) -> tuple[int, dict[str, Any]]:
        return self.asked("check", "--liveness")

    def asked(self, *words: str) -> tuple[int, dict[str, Any]]:
        done = self.scene.drkit(*words, "--json", check=False)
        assert done.stdout, done.stderr
        answer: dict[str, Any] = json.loads(done.stdout)
        return done.returncode, answer


def bad(answer: dict[str, Any]) -> list[tuple[str, str]]:
    """(kind, target) of what is bad."""
    return [(one["kind"], one["target"]) for one in answer["findings"] if one["level"] == "bad"]


def texts(answer: dict[str, Any]) -> str:
    return "\n".join(one["text"] for one in answer["findings"])


@contextmanager
def lost(*paths: Path) -> Iterator[None]:
    """Files that are gone for as long as the block lasts."""
    aside = [path.with_name(f".{path.name}.aside") for path in paths]
    kept = [(path, path.read_bytes(), path.stat()) for path in paths]
    assert len(aside) == len(kept) and kept
    for path in paths:
        path.unlink()
    try:
        yield
    finally:
        for path, data, facts in kept:
            path.write_bytes(data)
            give(path)
            path.chmod(facts.st_mode & 0o777)
            os.utime(path, ns=(facts.st_atime_ns, facts.st_mtime_ns))


@pytest.fixture(scope="module")
def well() -> Iterator[Well]:
    with scene(newest_major(), segment_mb=1, extra=PROMISES) as one:
        config = one.config.read_text().replace("[daemon]\n", f'[daemon]\nsocket = "{one.root}/sock"\n')
        one.config.write_text(config)
        one.server.query("create table t (n int)")
        backups = [str(one.backup()["id"])]
        segments = fill(one, 3)
        backups.append(str(one.backup()["id"]))
        segments += fill(one, 3)
        yield Well(one, segments, backups)


def test_row_14_what_is_whole_is_green(well: Well) -> None:
    code, answer = well.status()
    assert (code, answer["state"]) == (0, "protected"), answer
    assert [one["protected"] for one in answer["clusters"][0]["targets"]] == [True, True]
    assert answer["clusters"][0]["exposure_s"] is not None
    done = well.scene.drkit("status")
    assert "main: protected" in done.stdout and "no daemon runs" in done.stdout


@pytest.mark.parametrize("targets", ["a", "ab"])
def test_row_14_a_middle_segment_is_gone(well: Well, targets: str) -> None:
    name = well.segments[4]
    with lost(*(well.scene.wal_objects(one)[name] for one in targets)):
        code, answer = well.status()
        text = well.scene.drkit("status", check=False).stdout
    assert code == 10
    assert answer["state"] == ("at risk" if targets == "a" else "not protected")
    assert {("wal.gap", one) for one in targets} <= set(bad(answer))
    assert name in texts(answer)
    assert ("AT RISK" if targets == "a" else "NOT PROTECTED") in text and name in text


def test_row_14_the_last_segment_is_gone_everywhere_and_the_server_knows_of_it(well: Well) -> None:
    with lost(*(well.scene.wal_objects(one)[well.segments[-1]] for one in "ab")):
        code, answer = well.status()
    assert (code, answer["state"]) == (10, "not protected")
    assert set(bad(answer)) == {("wal.lacking", "a"), ("wal.lacking", "b")}
    assert well.segments[-1] in texts(answer)


@pytest.mark.parametrize("targets", ["a", "ab"])
@pytest.mark.parametrize("which", [0, 1])
def test_row_14_a_manifest_is_gone(well: Well, targets: str, which: int) -> None:
    """Of the older one too: it is a backup that retention believes in."""
    ident = well.backups[which]
    paths = [next((well.scene.place(one) / "clusters").glob(f"*/manifests/{ident}")) for one in targets]
    with lost(*paths):
        code, answer = well.status()
    assert code == 10 and answer["state"] != "protected"
    assert {("backup.damaged", one) for one in targets} <= set(bad(answer))
    assert ident in texts(answer)


def test_row_14_every_manifest_is_gone(well: Well) -> None:
    with lost(*(path for one in "ab" for path in (well.scene.place(one) / "clusters").glob("*/manifests/*"))):
        code, answer = well.status()
    assert (code, answer["state"]) == (10, "not protected")
    assert all(ident in texts(answer) for ident in well.backups)


def test_row_14_a_pack_is_gone(well: Well) -> None:
    pack = next((well.scene.place("b") / "clusters").glob(f"*/packs/{well.backups[0]}/*"))
    with lost(pack):
        code, answer = well.status()
    assert code == 10 and ("backup.damaged", "b") in bad(answer)
    assert pack.name in texts(answer)


def test_row_14_the_key_slots_of_a_target_are_gone(well: Well) -> None:
    with lost(*(path for path in (well.scene.place("a") / "keys").rglob("*") if path.is_file())):
        code, answer = well.status()
    assert (code, answer["state"]) == (10, "at risk")
    assert ("key.slot", "a") in bad(answer)
    assert not [one for one in bad(answer) if one[1] == "b"]


@pytest.mark.parametrize("how", ["gone", "another"])
def test_row_14_the_key_is_gone_or_is_another(well: Well, how: str) -> None:
    key = well.scene.root / "master.key"
    with lost(key):
        if how == "another":
            well.scene.drkit("key", "new", key)
        code, answer = well.status()
        key.unlink(missing_ok=True)
    assert (code, answer["state"]) == (10, "not protected")
    assert ("key.missing", "") in bad(answer)
    assert "key" in texts(answer)


def test_row_14_a_target_that_is_away_is_7_and_unknown(well: Well) -> None:
    place = well.scene.place("b")
    place.rename(place.with_name("away"))
    try:
        code, answer = well.status()
    finally:
        place.with_name("away").rename(place)
    assert (code, answer["state"]) == (7, "at risk")
    assert {one["name"]: one["protected"] for one in answer["clusters"][0]["targets"]} == {"a": True, "b": None}


# --- with a daemon ------------------------------------------------------------------------------------------------


@contextmanager
def daemon(well: Well) -> Iterator[subprocess.Popen[str]]:
    """A running daemon that answers on its socket."""
    process = as_server([DRKIT, "--config", well.scene.config, "daemon"])
    try:
        until(lambda: process.poll() is not None or well.status()[1]["daemon"]["alive"], well.scene.server)
        assert process.poll() is None, process.stderr.read() if process.stderr else ""
        yield process
    finally:
        process.kill()
        process.wait()
        if process.stderr is not None:
            process.stderr.close()


@contextmanager
def configured(well: Well, text: str) -> Iterator[None]:
    before = well.scene.config.read_text()
    well.scene.config.write_text(before + text)
    try:
        yield
    finally:
        well.scene.config.write_text(before)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_row_14_an_outside_check_is_red_when_the_daemon_is_down(well: Well, number: signal.Signals) -> None:
    assert well.liveness()[0] == 0, "none was ever seen, none is expected"
    with daemon(well) as process:
        until(lambda: well.status()[1]["daemon"]["beat"] is not None, well.scene.server)
        code, answer = well.liveness()
        assert (code, answer["ok"], answer["findings"]) == (0, True, []), answer
        process.send_signal(number)
        process.wait()
        code, answer = well.liveness()
        assert code == 10 and bad(answer)[0][0] in ("daemon.down", "daemon.silent")
        assert well.status()[0] == 10
    (well.scene.root / "spool" / "heartbeat").unlink()


def test_row_14_an_outside_check_is_red_where_no_daemon_runs_the_schedule(well: Well) -> None:
    with configured(well, '\n[[schedule]]\njob = "backup"\ncron = "0 1 * * *"\n'):
        code, answer = well.liveness()
    assert (code, bad(answer)) == (10, [("daemon.down", "")])


def test_row_14_the_check_on_another_host_judges_by_what_the_targets_show(well: Well) -> None:
    """No spool, no socket: the age of the newest backup against what is promised."""
    other = well.scene.root / "other"
    other.mkdir()
    give(other)
    config = well.scene.root / "other.toml"
    text = well.scene.config.read_text()
    text = text.replace(f"{well.scene.root}/spool", f"{other}/spool").replace(
        f"{well.scene.root}/sock", f"{other}/sock"
    )
    codes = {}
    for age in ("1h", "1ms"):
        config.write_text(text.replace('max_backup_age = "1h"', f'max_backup_age = "{age}"'))
        done = well.scene.drkit("check", "--liveness", "--json", config=config, check=False)
        codes[age] = (done.returncode, bad(json.loads(done.stdout)))
    assert codes["1h"] == (0, [])
    assert codes["1ms"] == (10, [("objective.max_backup_age", "")])


@pytest.fixture
def person() -> Iterator[Receiver]:
    with receiver() as one:
        yield one


def test_row_14_the_daemon_tells_of_it_and_that_it_is_over(well: Well, person: Receiver) -> None:
    """At its first look; the next daemon knows what was told, and tells that it is over."""
    name = well.segments[4]
    path = well.scene.wal_objects("a")[name]
    data = path.read_bytes()
    with configured(well, f'\n[notify]\nwebhook = "{person.url}"\n'):
        path.unlink()
        with daemon(well) as process:
            event = person.find("wal.gap", "problem")
            assert (event["target"], event["about"]) == ("a", name)
            path.write_bytes(data)
            give(path)
            process.terminate()
            process.wait()
        with daemon(well):
            event = person.find("wal.gap", "over")
            assert (event["target"], event["about"]) == ("a", name)
        told = [(one["kind"], one["state"], one["text"]) for one in person.events]
        assert [state for kind, state, _ in told if kind == "wal.gap"] == ["problem", "over"], told
    (well.scene.root / "spool" / "heartbeat").unlink()
