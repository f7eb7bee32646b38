"""The rows of the table: what is measured, beside whom, and the ratio to be reached.

Each takes the scene and an empty folder, and gives samples by contestant and what they stored (bytes, or None).
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from tests.acceptance.stores import s3_target
from tests.bench.contestants import Contestant, Drkit, PgBackRest, own_folder
from tests.bench.meter import Sample, measure, measure_until
from tests.bench.scene import ROUNDS, Scene, Work, alternate, nothing
from tests.real.distance import distance
from tests.real.postgres import make_folder, run
from tests.real.rgw import ensure_installed, start

_OPENSSL = f"-aes-256-ctr -K {'00' * 32} -iv {'00' * 16}"


@dataclass(frozen=True, slots=True)
class Found:
    """What a row gave; stored: bytes by contestant, of the last run."""

    samples: Mapping[str, Sequence[Sample]]
    stored: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Row:
    """goal: our time against `peer`'s that is to be reached."""

    name: str
    what: str
    measure: Callable[[Scene, Path], Found]
    peer: str = "pgbackrest"
    goal: float | None = None


def _pair(stack: ExitStack, scene: Scene, folder: Path, targets: int = 1, level: int = 3) -> list[Contestant]:
    found: list[Contestant] = []
    for kind in (Drkit, PgBackRest):
        contestant = kind(scene.server, folder / kind.name, targets=targets, level=level)
        stack.callback(contestant.close)
        found.append(contestant)
    return found


def _shell(command: str) -> Callable[[], Sample]:
    return lambda: measure(["bash", "-o", "pipefail", "-c", command])


def _backup_work(scene: Scene, contestant: Contestant, *, full: bool) -> Work:
    return lambda: scene.archive_by(contestant), lambda: contestant.backup(full=full)


def _full(targets: int = 1, level: int = 3) -> Callable[[Scene, Path], Found]:
    def row(scene: Scene, folder: Path) -> Found:
        with ExitStack() as stack:
            pair = _pair(stack, scene, folder, targets, level)
            works = {c.name: _backup_work(scene, c, full=True) for c in pair}
            stored = {}
            for contestant in pair:
                before, work = works[contestant.name]
                before()
                work()  # warms the cache, and tells what one backup stores
                stored[contestant.name] = contestant.stored_bytes()
            if targets == 1:
                out = folder / "peer.tar"
                source = f"tar -C {scene.server.data} --exclude=./pg_wal -c ."
                works["tar | zstd | openssl"] = (
                    nothing, _shell(f"{source} | zstd -q -{level} -T0 | openssl enc {_OPENSSL} > {out}; sync {out}")
                )  # fmt: skip
                works["pg_basebackup"] = (
                    lambda: own_folder(folder / "base"),
                    lambda: measure([scene.server.bin / "pg_basebackup", "-d", scene.server.conninfo(), "-c", "fast",
                                     "-X", "none", "-D", folder / "base"]),
                )  # fmt: skip
            return Found(alternate(works), stored)

    return row


def _targets_beside_one(scene: Scene, folder: Path) -> Found:
    with ExitStack() as stack:
        works = {}
        for name, targets in (("drkit", 3), ("drkit, 1 target", 1)):
            one = Drkit(scene.server, folder / str(targets), targets=targets)
            stack.callback(one.close)
            works[name] = _backup_work(scene, one, full=True)
        return Found(alternate(works))


def _incremental(change: Callable[[Scene], None]) -> Callable[[Scene, Path], Found]:
    def row(scene: Scene, folder: Path) -> Found:
        with ExitStack() as stack:
            pair = _pair(stack, scene, folder)
            for contestant in pair:
                scene.archive_by(contestant)
                contestant.backup(full=True)
                contestant.backup(full=False)  # what the first one's own checkpoint left behind
            samples: dict[str, list[Sample]] = {c.name: [] for c in pair}
            stored = {}
            works = {c.name: _backup_work(scene, c, full=False) for c in pair}
            for turn in range(ROUNDS):
                change(scene)
                for contestant in pair[:: -1 if turn % 2 else 1]:
                    before, work = works[contestant.name]
                    before()
                    held = contestant.stored_bytes()
                    samples[contestant.name].append(work())
                    stored[contestant.name] = contestant.stored_bytes() - held
            return Found(samples, stored)

    return row


def _restore(*, delta: bool) -> Callable[[Scene, Path], Found]:
    def row(scene: Scene, folder: Path) -> Found:
        with ExitStack() as stack:
            pair = _pair(stack, scene, folder)
            works: dict[str, Work] = {}
            for contestant in pair:
                scene.archive_by(contestant)
                contestant.backup(full=True)
                out = folder / f"out-{contestant.name}"
                own_folder(out)
                if delta:
                    contestant.restore(out)
                works[contestant.name] = _restore_work(contestant, out, delta)
            if not delta:
                source, out = scene.server.data, folder / "out-cp"
                works["cp"] = lambda: own_folder(out), _shell(f"cp -a {source}/base {out}/ && sync -f {out}")
            return Found(alternate(works))

    return row


def _restore_work(contestant: Contestant, out: Path, delta: bool) -> Work:
    before: Callable[[], object] = nothing if delta else lambda: own_folder(out)
    return before, lambda: contestant.restore(out, delta=delta)


def _verify(scene: Scene, folder: Path) -> Found:
    with ExitStack() as stack:
        one = Drkit(scene.server, folder / "drkit")
        stack.callback(one.close)
        scene.archive_by(one)
        one.backup(full=True)
        tar = folder / "peer.tar"
        source = f"tar -C {scene.server.data} --exclude=./pg_wal -c ."
        _shell(f"{source} | zstd -q -3 -T0 | openssl enc {_OPENSSL} > {tar}")()
        works: dict[str, Work] = {
            "drkit": (nothing, lambda: one.run("verify", "--deep")),
            "openssl | zstd": (nothing, _shell(f"openssl enc -d {_OPENSSL} < {tar} | zstd -q -d > /dev/null")),
        }
        return Found(alternate(works))


_DISTANCE_S = 0.02


def _far(*, restore: bool) -> Callable[[Scene, Path], Found]:
    """A bucket of a Ceph gateway behind a proxy, which answers later or at once."""

    def row(scene: Scene, folder: Path) -> Found:
        with ExitStack() as stack:
            ensure_installed()
            rgw = start(make_folder("drkit-rgw-"))
            stack.callback(shutil.rmtree, rgw.folder, ignore_errors=True)
            stack.callback(rgw.stop)
            way = stack.enter_context(distance(rgw.endpoint))
            target = s3_target(rgw, folder, "cloud", way)
            one = Drkit(scene.server, folder / "drkit", bucket=[f'url = "{target.url}"', *target.lines])
            stack.callback(one.close)
            scene.archive_by(one)
            one.backup(full=True)
            out = folder / "out"

            def work(delay_s: float) -> Work:
                def before() -> None:
                    own_folder(out)
                    scene.await_archived()
                    way.delay_s = delay_s

                return before, (lambda: one.restore(out)) if restore else (lambda: one.backup(full=True))

            return Found(alternate({"drkit": work(_DISTANCE_S), "drkit, 0 ms": work(0.0)}))

    return row


def _archive(targets: int) -> Callable[[Scene, Path], Found]:
    def row(scene: Scene, folder: Path) -> Found:
        names = scene.write_segments()
        samples: dict[str, list[Sample]] = {}
        for turn in range(ROUNDS):
            kinds: list[type[Drkit] | type[PgBackRest] | None] = [Drkit, PgBackRest, None]
            for kind in kinds[:: -1 if turn % 2 else 1]:
                with ExitStack() as stack:
                    place = own_folder(folder / "turn")
                    command, pids = f"cp %p {place}/%f", [scene.server.pid()]
                    if kind is not None:
                        contestant = kind(scene.server, place / kind.name, targets=targets)
                        stack.callback(contestant.close)
                        command = contestant.archive_command
                        pids += contestant.pids
                    scene.archive_with("false")
                    scene.rearm(names)
                    name = "cp" if kind is None else kind.name
                    samples.setdefault(name, []).append(_archived(scene, command, pids))
        return Found(samples)

    return row


def _archived(scene: Scene, command: str, pids: Sequence[int]) -> Sample:
    def work() -> None:
        scene.archive_with(command)
        scene.server.query("select pg_switch_wal()")  # wakes the archiver
        scene.await_archived()

    return measure_until(work, pids)


def _replay(scene: Scene, folder: Path) -> Found:
    with ExitStack() as stack:
        pair = _pair(stack, scene, folder)
        plain = own_folder(folder / "plain")
        command = " && ".join([*(c.archive_command for c in pair), f"cp %p {plain}/%f"])
        scene.archive_with(command)
        scene.await_archived()
        for contestant in pair:
            contestant.backup(full=True)
        scene.write_segments()
        scene.server.query("select pg_create_restore_point('bench')")
        scene.archive_with(command)
        scene.server.query("select pg_switch_wal()")
        scene.await_archived()
        out = folder / "replayed"
        works: dict[str, Work] = {c.name: _replay_work(scene, c, out) for c in pair}
        link = f"ln -s {plain}/%f %p"
        works["ln -s"] = _replay_work(scene, pair[1], out, restore_command=link)
        return Found(alternate(works))


def _replay_work(scene: Scene, source: Contestant, out: Path, **others: str) -> Work:
    """Recover a fresh restore to the point, by the restore_command that the restore wrote unless `others` has one."""

    def before() -> None:
        own_folder(out)
        source.restore(out)
        settings = {
            "recovery_target": "", "recovery_target_name": "bench",
            "recovery_target_action": "shutdown", "archive_mode": "off", "port": str(scene.server.port + 1), **others,
        }  # fmt: skip
        with (out / "postgresql.auto.conf").open("a") as conf:
            conf.writelines(f"{name} = '{value}'\n" for name, value in settings.items())
        run(["sync"])

    return before, lambda: measure([scene.server.bin / "postgres", "-D", out], source.pids)


def _beside(scene: Scene, folder: Path) -> Found:
    """The same transactions with nothing beside them, and beside one full backup after another."""
    with ExitStack() as stack:
        drkit, peer = _pair(stack, scene, folder)
        assert isinstance(drkit, Drkit)
        gentle = ("backup", "--rehash", "--nice", "19", "--io", "idle")
        ways: dict[str, tuple[Contestant, Callable[[], object]]] = {
            "drkit": (drkit, lambda: drkit.backup(full=True)),
            "drkit --nice 19 --io idle": (drkit, lambda: drkit.run(*gentle)),
            "pgbackrest": (peer, lambda: peer.backup(full=True)),
            "nothing": (drkit, nothing),
        }
        return Found(alternate({name: _beside_work(scene, *way) for name, way in ways.items()}))


def _beside_work(scene: Scene, contestant: Contestant, backup: Callable[[], object]) -> Work:
    def work() -> Sample:
        done = threading.Event()

        def again() -> None:
            while not done.is_set() and backup is not nothing:
                backup()

        thread = threading.Thread(target=again)
        thread.start()
        try:
            return measure_until(lambda: scene.server.pgbench("-n", "-c", "4", "-t", "4000"), [scene.server.pid()])
        finally:
            done.set()
            thread.join()

    return lambda: scene.archive_by(contestant), work


ROWS = [
    Row("full", "full backup, zstd 3", _full(), goal=0.55),
    Row("full-fast", "full backup, zstd 1", _full(level=1), goal=0.60),
    Row("full-2", "full backup to 2 targets", _full(targets=2), goal=0.35),
    Row("full-3", "full backup to 3 targets, beside our own to 1", _targets_beside_one, "drkit, 1 target", 1.25),
    Row("incremental-none", "incremental, nothing changed", _incremental(lambda scene: None), goal=1.0),
    Row("incremental-dense", "incremental, 1 % of rows, contiguous", _incremental(Scene.update_contiguous), goal=0.8),
    Row("incremental-wide", "incremental, 1 % of rows, scattered", _incremental(Scene.update_scattered), goal=0.6),
    Row("restore", "restore", _restore(delta=False), goal=0.8),
    Row("restore-delta", "restore --delta over an intact folder", _restore(delta=True), goal=0.6),
    Row("backup-far", "full backup to S3, 20 ms away", _far(restore=False), "drkit, 0 ms", 1.15),
    Row("restore-far", "restore from S3, 20 ms away", _far(restore=True), "drkit, 0 ms", 1.15),
    Row("archive", "archiving ready segments", _archive(1), goal=0.6),
    Row("archive-2", "archiving ready segments to 2 targets", _archive(2), goal=0.6),
    Row("replay", "replaying segments", _replay, goal=0.65),
    Row("beside", "16,000 transactions beside full backups", _beside, "nothing"),
    Row("verify-deep", "verify --deep", _verify, "openssl | zstd"),
]
