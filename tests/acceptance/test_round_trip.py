"""The whole way, under load: one full and two incremental backups, then points of every kind, restored and judged."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from drkit.engines.postgres.lsn import Lsn
from tests.acceptance.commits import Commit, Ledger
from tests.acceptance.scene import Scene, as_server, scene
from tests.acceptance.soundness import (
    assert_checksums,
    assert_indexes_are_whole,
    assert_manifest_matches,
    assert_pgbench_adds_up,
)
from tests.real.postgres import MAJORS, bin_dir, require

pytestmark = pytest.mark.real

KINDS = ("latest", "end", "time", "time-exclusive", "lsn", "lsn-exclusive", "xid", "xid-exclusive", "name", "end-older")


@dataclass(frozen=True, slots=True)
class Size:
    """scale: of pgbench (15 MB each) · rate: its transactions a second, 0: all it can · between: ledger rows between
    two backups.
    """

    scale: int
    rate: int
    between: int


@dataclass
class Trip:
    """A past: three backups under load in one scene, and every commit of the ledger."""

    scene: Scene
    spaces: list[Path]
    backups: list[dict[str, object]] = field(default_factory=list)
    commits: list[Commit] = field(default_factory=list)


@contextmanager
def trip(major: int, segment_mb: int, size: Size) -> Iterator[Trip]:
    settings = {"max_wal_size": "4GB", "autovacuum_naptime": "5s"}
    with scene(major, segment_mb=segment_mb, settings=settings) as one:
        server = one.server
        spaces = [server.create_tablespace("heap"), server.create_tablespace("index")]
        server.pgbench("-i", "-q", "-s", str(size.scale), "--tablespace=heap", "--index-tablespace=index")
        # What never changes again, in the default tablespace: an incremental backup must not pay for it.
        server.query(
            "create table still as select n, md5(n::text) || md5((-n)::text) from generate_series(1, 100000) n"
        )
        server.query("create index on still (n) tablespace index")
        server.query("vacuum freeze still")
        made = Trip(one, spaces)
        with Ledger(server) as ledger, _load(one, size):
            for number in range(3):
                ledger.wait_for(size.between)
                made.backups.append(one.backup("--label", f"backup {number}"))
            ledger.wait_for(size.between)
        made.commits = ledger.commits
        one.switch()
        yield made


@contextmanager
def _load(one: Scene, size: Size) -> Iterator[None]:
    """pgbench in the background for the length of the block."""
    where: list[str | Path] = ["-h", one.server.sockets, "-p", str(one.server.port), "-U", "postgres"]
    rate = ["-R", str(size.rate)] if size.rate else []
    program = (one.server.bin / "pgbench") if (one.server.bin / "pgbench").exists() else require(15) / "pgbench"
    process = as_server([program, *where, "-n", "-c", "4", "-T", "3600", *rate, "postgres"])
    try:
        yield
        assert process.poll() is None, process.stderr and process.stderr.read()
    finally:
        process.terminate()
        process.communicate(timeout=30)


@dataclass(frozen=True, slots=True)
class Point:
    """flags: for `drkit restore` · last: the highest row that must be there · under_way: rows that may be there too."""

    flags: tuple[str, ...]
    last: int
    under_way: int = 0


def point(made: Trip, kind: str, chance: random.Random) -> Point:
    """A point of this kind, at random behind the first backup, and the one right answer."""
    stop = Lsn.parse(str(made.backups[0]["stop_lsn"]))
    reachable = [c for c in made.commits if Lsn.parse(c.before) > stop and c.at > str(made.backups[0]["stopped_at"])]
    one = chance.choice(reachable[1:-1])
    named = chance.choice([c for c in reachable if c.point])
    match kind.removesuffix("-exclusive"):
        case "latest":
            return Point(("--to", "latest"), made.commits[-1].number)
        case "end":
            return _end(made, 2, ("--to", "end"))
        case "end-older":
            which = chance.randrange(2)
            return _end(made, which, ("--to", "end", "--backup", str(made.backups[which]["id"])))
        case "time":
            flags, last = ("--to", one.at), one.number
        case "lsn":
            flags, last = ("--to-lsn", one.lsn), one.number
        case "xid":
            flags, last = ("--to-xid", str(one.xid)), one.number - kind.endswith("-exclusive")
        case "name":
            flags, last = ("--to-name", named.point), named.number
        case _:
            raise ValueError(kind)
    return Point((*flags, "--exclusive") if kind.endswith("-exclusive") else flags, last)


def _end(made: Trip, which: int, flags: tuple[str, ...]) -> Point:
    """The end of a backup lies in the middle of a commit at most: that one may be there or not."""
    stop = Lsn.parse(str(made.backups[which]["stop_lsn"]))
    last = max(c.number for c in made.commits if Lsn.parse(c.lsn) <= stop)
    return Point(flags, last, sum(Lsn.parse(c.before) < stop < Lsn.parse(c.lsn) for c in made.commits))


def check(made: Trip, name: str, wanted: Point) -> str:
    """Restore to a point and judge all that can be judged; a line of figures."""
    one = made.scene
    data = one.fresh(name)
    maps: list[str | Path] = []
    for space in made.spaces:
        moved = one.fresh(f"{name}-{space.name}")
        maps += ["--tablespace", f"{space}={moved}"]
    began = time.monotonic()
    one.answer("restore", "--into", data, *wanted.flags, *maps)
    files_s = time.monotonic() - began
    assert_manifest_matches(one.server, data)
    with one.restored(name, *wanted.flags, *maps, "--delta", fresh=False) as (answer, session):
        assert answer["target_reached"] is True
        assert answer["server"]["outcome"] == "ready"
        rows = [tuple(row) for row in session.execute("select n, xid, filler = md5(n::text) from ledger order by n")]
        expected = [(c.number, c.xid, True) for c in made.commits]
        assert wanted.last <= len(rows) <= wanted.last + wanted.under_way, (len(rows), wanted)
        assert rows == expected[: len(rows)]
        assert_pgbench_adds_up(session)
        assert session.execute("select count(*) from still").fetchone() == (100000,)
        where = answer["server"]
        assert_indexes_are_whole(one.server, where["socket"], where["port"], session)
        session.execute("checkpoint")
    blocks = assert_checksums(one.server, data)
    whole_s = time.monotonic() - began
    return f"{' '.join(wanted.flags)}: {len(rows)} rows, {blocks} pages, files {files_s:.1f} s, judged {whole_s:.1f} s"


def assert_stores_what_changed(made: Trip) -> list[str]:
    """Compare the pages of each backup with those of the one before; an incremental one stores no more than these.

    Compression is allowed for at the rate of the full backup; twice that, and 1 MiB for maps and small files.
    """
    full = made.backups[0]
    rate = _int(full, "new_bytes") / _int(full, "size_bytes")
    lines = [f"full: {_int(full, 'size_bytes')} bytes, {_int(full, 'new_bytes')} stored"]
    before = _files(made, 0)
    for number, backup in enumerate(made.backups[1:], start=1):
        after = _files(made, number)
        changed = sum(_changed_bytes(before.get(path), file) for path, file in after.items())
        lines.append(f"incremental: {changed} bytes in changed pages, {_int(backup, 'new_bytes')} stored")
        assert _int(backup, "new_bytes") <= 2 * rate * changed + (1 << 20), lines
        before = after
    return lines


def _int(backup: dict[str, object], key: str) -> int:
    return int(str(backup[key]))


def _files(made: Trip, number: int) -> dict[str, Path]:
    """The files of a backup, restored and not started, by their path in it."""
    one, name = made.scene, f"files-{number}"
    data = one.fresh(name)
    maps: list[str | Path] = []
    for space in made.spaces:
        maps += ["--tablespace", f"{space}={one.fresh(f'{name}-{space.name}')}"]
    one.answer("restore", "--into", data, "--to", "end", "--backup", str(made.backups[number]["id"]), *maps)
    roots = {"": data} | {space.name: one.root / f"{name}-{space.name}" for space in made.spaces}
    return {
        f"{label}/{path.relative_to(root)}": path
        for label, root in roots.items()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def _changed_bytes(before: Path | None, after: Path) -> int:
    """Bytes of the 8 KiB pages of `after` that are not the same in `before`."""
    new, old = after.read_bytes(), before.read_bytes() if before else b""
    if new == old:
        return 0
    starts = range(0, len(new), 8192)
    return sum(len(new[at : at + 8192]) for at in starts if new[at : at + 8192] != old[at : at + 8192])


@pytest.mark.parametrize("segment_mb", [64])
def test_a_round_trip_under_load_is_exact(segment_mb: int) -> None:
    """64 MB segments, two tablespaces, one full and two incremental backups; a transaction, a time and the end."""
    major = next((one for one in (15, 18) if bin_dir(one) is not None and one in MAJORS), MAJORS[0])
    require(major)
    chance = random.Random(15)
    with trip(major, segment_mb, Size(scale=2, rate=150, between=60)) as made:
        print(*assert_stores_what_changed(made), sep="\n")
        for number, kind in enumerate(("xid-exclusive", "time", "latest")):
            print(check(made, f"r{number}", point(made, kind, chance)))


@pytest.mark.torture
@pytest.mark.parametrize(("major", "segment_mb"), [(15, 16), (18, 64)], ids=["pg15-16MB", "pg18-64MB"])
def test_ten_random_points_of_every_kind(major: int, segment_mb: int) -> None:
    require(major)
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    with trip(major, segment_mb, Size(scale=20, rate=0, between=800)) as made:
        print(*assert_stores_what_changed(made), sep="\n", flush=True)
        for number, kind in enumerate(KINDS):
            print(check(made, f"r{number}", point(made, kind, chance)), flush=True)
