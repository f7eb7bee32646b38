"""A backed-up cluster with a tablespace, its server stopped, and the folders that restores of it are killed in."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.faults.deaths import DIED, Mortal
from tests.jobs.backup_world import BackupWorld
from tests.jobs.pg_world import World
from tests.real.postgres import Server, give_tree, server_user

ROWS = 3000
CONTROL = "into/global/pg_control"
State = Mapping[str, tuple[int, int, int, bytes]]
Facts = Mapping[str, tuple[int, int, int, int, int]]


@dataclass
class Scene:
    """The destination is always the folder `into`, with its tablespace in `space`: two restores are comparable.

    reference: how both are after a restore that nobody killed · stale, half: what a restore with --delta may meet.
    """

    server: Server
    world: BackupWorld = field(init=False)
    reference: State = field(init=False)

    def __post_init__(self) -> None:
        self.root = self.server.root
        self.into, self.space = self.root / "into", self.root / "space"
        self.templates = self.root / "templates"
        self.templates.mkdir()
        self.world = BackupWorld(self.server)
        self.world.start()
        self._tell()
        self.mortals = {True: Mortal(None), False: Mortal(server_user())}
        self._prepare()

    def _tell(self) -> None:
        """One small database, a backup of it, changes after it; then the server stops, and all is quiet."""
        server = self.server
        server.query("update pg_database set datistemplate = false")
        for name in ("template0", "template1"):
            server.query(f"drop database {name}")
        self.live_space = server.create_tablespace("live")
        server.query(f"create table t tablespace live as select generate_series(1, {ROWS}) i")
        server.query(f"create table u as select g, repeat(md5(g::text), 9) x from generate_series(1, {ROWS}) g")
        self.world.backup()
        server.query("update t set i = -i")
        server.query("update u set x = '' where g % 7 = 0")
        server.query("create table later as select 1 a")
        server.stop()

    def _prepare(self) -> None:
        status, effects = self.restore(delta=False)
        assert status == 0
        middle = len(effects)  # of 2 points at each
        self.reference = self.state()
        self.check_start()
        self.reset(None)
        assert self.restore(delta=False, die_at=middle)[0] == DIED
        assert CONTROL not in self.state()
        self._keep("half")
        self.reset(None)
        copy(self.server.data, self.into)
        copy(self.live_space, self.space)
        (self.into / "stranger").mkdir()
        (self.into / "stranger/letter").write_text("dear")
        give_tree(self.into / "stranger")
        self._keep("stale")

    def close(self) -> None:
        for mortal in self.mortals.values():
            mortal.close()

    # -- the folders --

    def _keep(self, name: str) -> None:
        (self.templates / name).mkdir()
        for place in (self.into, self.space):
            copy(place, self.templates / name / place.name)

    def reset(self, template: str | None) -> None:
        """Make the destination what it was in a template; None: there is none."""
        for place in (self.into, self.space):
            shutil.rmtree(place, ignore_errors=True)
            if template is not None:
                copy(self.templates / template / place.name, place)

    def state(self) -> State:
        """Every path of the destination and its tablespace: mode, owner and content, no times."""
        found: dict[str, tuple[int, int, int, bytes]] = {}
        for path in paths_below(self.into, self.space):
            status, content = path.lstat(), b""
            if path.is_symlink():
                content = os.fsencode(path.readlink())
            elif path.is_file():
                content = path.read_bytes()
            found[str(path.relative_to(self.root))] = status.st_mode, status.st_uid, status.st_gid, content
        return found

    def outside(self) -> Facts:
        """All else: targets, the cluster itself, its tablespace. Any write shows in the time of change (st_ctime).

        Without the spool, where a restore keeps how fast it was.
        """
        found = {}
        for path in paths_below(*self.world.folders.values(), self.server.data, self.live_space):
            one = path.lstat()
            found[str(path)] = one.st_mode, one.st_uid, one.st_size, one.st_mtime_ns, one.st_ctime_ns
        beside = {path for path in self.root.iterdir() if path not in (self.into, self.space)}
        return found | {str(path): (0, 0, 0, 0, 0) for path in beside}

    # -- restores --

    def restore(self, *, delta: bool, die_at: int = -1, root: bool = False) -> tuple[int, list[str]]:
        """(exit status, effects); die_at: as `deaths.dying` · root: as ourselves, who may be root."""
        flags = ["--to", "end", f"--tablespace={self.live_space}={self.space}", *["--delta"] * delta]
        words: list[str | Path] = ["--config", self.world.config, "-q", "restore", "--into", self.into, *flags]
        return self.mortals[root].run(*words, die_at=die_at)

    def check_start(self) -> None:
        """A server starts from the destination and holds what was backed up; without pg_control none does."""
        world = World(self.server)
        control = self.root / CONTROL
        aside = control.rename(self.root / "pg_control")
        assert "could not find the database system" in world.refuses_to_start(self.into)
        aside.rename(control)
        with world.started(self.into) as session:
            rows = session.execute("select count(*), min(i), (select sum(length(x)) from u) from t").fetchone()
            assert rows == (ROWS, 1, ROWS * 9 * 32)
            assert session.execute("select to_regclass('later')").fetchone() == (None,)
        self.into.with_suffix(".log").unlink()


def paths_below(*roots: Path) -> Iterator[Path]:
    """The roots that exist and all that is in them; links are not followed."""
    for root in roots:
        if root.exists():
            yield root
        for folder, names, files in os.walk(root):
            yield from (Path(folder) / name for name in (*names, *files))


def copy(source: Path, target: Path) -> None:
    """With owners, modes and times."""
    subprocess.run(["cp", "-a", source, target], check=True)
