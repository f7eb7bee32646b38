"""A source with a bit of everything, and a server that was recovered from a copy of it to the reference's LSN."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from drills.checks.api import Reference, Scene
from drills.checks.reference import record
from drills.journal import digest_of
from drills.ledger import Entry, Moment
from drkit.core.cancel import CancelToken
from drkit.engines.postgres.session import Session
from tests.engines.copies import copy_of, prepare
from tests.real.postgres import Server, free_port, give_tree, make_folder, new_server, require

DATABASE = "app"
OTHER = "other Db"
LEDGER = "drkit_drill.ledger"
WRITERS = ("w1", "w2")
Copied = tuple[Server, Scene]
KEPT = 20  # rows of each writer before the reference; 5 more come after it
SCHEMA = (
    "create schema drkit_drill",
    f"create table {LEDGER} (writer text, number bigint, payload text, primary key (writer, number))",
    """create table orders (id bigint generated always as identity primary key, customer text not null, cents int,
       placed timestamptz default '2026-01-01 00:00+00', weight float8 default 0.1)""",
    "insert into orders (customer, cents) select 'customer ' || n, n * 7 from generate_series(1, 2000) n",
    "create index orders_customer on orders (customer)",
    "create table lines (id serial primary key, orders bigint references orders, long text)",
    "insert into lines (orders, long) select n, repeat(md5(n::text), 400) from generate_series(1, 20) n",
    'create schema "mixed Case"',
    'create table "mixed Case"."tab.le ü" (t text, "whole row" int, line text)',
    """insert into "mixed Case"."tab.le ü" values ('a', 1, 'x'), (null, 2, 'ü'), (null, 2, 'ü')""",
    "create table small (only_date date primary key)",
    "insert into small values ('2026-02-01')",
    "create table empty (id int)",
    "create unlogged table scratch (id int)",
    "insert into scratch values (1)",
    "create materialized view totals as select count(*), sum(cents) from orders",
    "create table busy (at timestamptz)",
    "create sequence free",
    "create table manual (id serial)",
    "insert into manual values (50)",
    "select lo_from_bytea(0, 'a large object')",
)
CLUSTER = (
    "create role readers",
    "create role app login connection limit 5",
    "grant readers to app",
    "alter role app set statement_timeout = '1min'",
    f"alter database {DATABASE} set work_mem = '8MB'",
)


@dataclass
class World:
    """A source and what was restored of it. `scene` stays as it is: tests that harm a server take a `copy`."""

    source: Server
    restored: Server
    scene: Scene

    def copy(self) -> Copied:
        """Another server with the restored one's files, running; the caller closes it."""
        self.restored.stop()
        server = Server(self.restored.major, self.restored.bin, make_folder(), free_port())
        shutil.copytree(self.restored.data, server.data)
        shutil.copyfile(self.restored.log, server.log)
        give_tree(server.root)
        self.restored.start()
        run_here(server)
        server.start()
        return server, scene_of(server, self.scene.reference, self.scene.entries or ())

    def close(self) -> None:
        for server in (self.source, self.restored):
            server.close()


def build(major: int, *, checksums: bool = True) -> World:
    source = new_server(major, checksums=checksums, segment_mb=1)
    restored = Server(major, require(major), make_folder(), free_port())
    try:
        return _build(source, restored)
    except BaseException:
        source.close()
        restored.close()
        raise


def _build(source: Server, restored: Server) -> World:
    archive = source.root / "archive"
    source.archive_to(archive)
    source.start()
    fill(source)
    copied = copy_of(source)
    entries = write_ledger(source, 1, KEPT)
    reference = record(Connect(source), DATABASE, CancelToken(), others=[OTHER], may_move=["public.busy"])
    late = write_ledger(source, KEPT + 1, KEPT + 5)
    source.query("select pg_switch_wal()")
    source.stop()
    shutil.move(copied.data, restored.data)
    run_here(restored)
    settings = {
        "restore_command": f"cp {archive}/%f %p",
        "recovery_target_lsn": reference.lsn,
        "recovery_target_inclusive": "off",
        "recovery_target_timeline": "1",
        "recovery_target_action": "promote",
    }
    prepare(replace(copied, data=restored.data), settings)
    give_tree(restored.root)
    restored.start()
    wait_promoted(restored)
    scene = scene_of(restored, reference, [*entries, *late])
    return World(source, restored, scene)


def fill(source: Server) -> None:
    source.query(f"create database {DATABASE}")
    source.query(f'create database "{OTHER}"')
    for sql in CLUSTER:
        source.query(sql)
    with source.connect(DATABASE) as session:
        for sql in SCHEMA:
            session.execute(sql)
    with source.connect(f"'{OTHER}'") as session:
        session.execute("create table elsewhere as select n from generate_series(1, 10) n")


def write_ledger(source: Server, first: int, last: int) -> list[Entry]:
    """Rows `first` to `last` of each writer, one commit each; row n is sent at n s and acknowledged 0.5 s later."""
    entries = []
    with source.connect(DATABASE) as session:
        for number in range(first, last + 1):
            for writer in WRITERS:
                payload = f"payload {number} of {writer}"
                session.execute(f"insert into {LEDGER} values (%s, %s, %s)", (writer, number, payload))
                entries.append(Entry(writer, number, digest_of(payload), float(number), number + 0.5))
    return entries


def run_here(server: Server) -> None:
    """Settings of a copied folder that its own place wants."""
    server.sockets.mkdir(mode=0o777, exist_ok=True)
    here = {"port": str(server.port), "unix_socket_directories": str(server.sockets)}
    server.set(**here, archive_mode="off")
    give_tree(server.root)


def wait_promoted(server: Server) -> None:
    """Return when the log says so: connections are taken a little earlier."""
    for _ in range(600):
        if "database system is ready to accept connections" in server.log.read_text():
            return
        time.sleep(0.05)
    raise AssertionError(server.log.read_text())


@dataclass(frozen=True)
class Connect:
    server: Server

    def __call__(self, database: str) -> Session:
        from psycopg.conninfo import make_conninfo

        return Session.open(make_conninfo(self.server.conninfo(), dbname=database), "drkit check")


def scene_of(server: Server, reference: Reference, entries: Sequence[Entry]) -> Scene:
    return Scene(
        connect=Connect(server),
        conninfo=server.conninfo(),
        databases=[DATABASE, OTHER, "postgres"],
        programs=server.bin,
        data_dir=server.data,
        log=server.log,
        reference=reference,
        entries=entries,
        until=Moment(KEPT + 0.6, KEPT + 0.7),
        ledger_table=LEDGER,
        timeline=1,
        stopped_for="before WAL location",
        token=CancelToken(),
        stop=server.stop,
        start=server.start,
        at_reference=True,
    )


def programs_without(server: Server, *missing: str) -> Path:
    """A folder of links to the server's programs but some."""
    folder = server.root / "programs"
    folder.mkdir()
    for program in server.bin.iterdir():
        if program.name not in missing:
            (folder / program.name).symlink_to(program)
    give_tree(server.root)
    return folder
