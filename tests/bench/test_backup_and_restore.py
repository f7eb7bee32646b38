"""Backup and restore beside what the machine's own tools need for the same bytes, alternating in one run.

    make bench                             scale 50, some 800 MiB
    DRKIT_BENCH_SCALE=270 make bench       the size of docs/decisions

It prints medians and ratios and judges nothing: machines differ, ratios in one run less so.
"""

from __future__ import annotations

import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.real.postgres import MakeServer, Server, give, give_tree, make_folder, server_user

pytestmark = [pytest.mark.bench, pytest.mark.real]

_ROUNDS = 3
_PAIRS = (("backup", "tar | zstd | openssl"), ("incremental", "backup"), ("restore", "openssl | zstd | tar"))
_BIN = Path(sys.executable).parent


def _drkit(config: Path, *words: str) -> None:
    subprocess.run([_BIN / "drkit", "--config", config, "-q", *words], check=True, user=server_user(), cwd="/")


def _shell(command: str) -> None:
    subprocess.run(["bash", "-o", "pipefail", "-c", command], check=True, user=server_user(), cwd="/")


def _configure(server: Server, folder: Path, targets: int) -> Path:
    lines = [f'[cluster.bench]\nconnection = "{server.conninfo()}"\nsite = "here"']
    for number in range(targets):
        lines.append(f'[target.t{number}]\nurl = "file://{folder}/t{number}"\nsite = "here"')
    lines.append(f'[keys]\nfile = "{folder}/key"\n[daemon]\nspool = "{folder}/spool"\n')
    config = folder / "drkit.toml"
    config.write_text("\n".join(lines))
    give_tree(folder)
    _drkit(config, "init", "--yes")
    return config


def _timed(work: Callable[[], None], before: Callable[[], None]) -> float:
    before()
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def test_backup_and_restore(pg_server: MakeServer, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_folder("drkit-bench-")
    server = pg_server()
    try:
        config = _configure(server, folder, 1)
        server.set(archive_mode="on", archive_command=f"{_BIN}/drkit-wal push --config {config} %p")
        server.restart()
        server.pgbench("-i", "-q", "-s", os.environ.get("DRKIT_BENCH_SCALE", "50"))
        rows = _measure(server, folder, config)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    size = rows.pop("size")[0]
    with capsys.disabled():
        sys.stdout.write(f"\n{size / 2**20:.0f} MiB, medians of {_ROUNDS}, zstd level 3\n")
        for name, peer in _PAIRS:
            ours, theirs = statistics.median(rows[name]), statistics.median(rows[peer])
            sys.stdout.write(f"{name:<12} {ours:6.2f} s   {peer:<22} {theirs:6.2f} s   ratio {ours / theirs:.2f}\n")


def _measure(server: Server, folder: Path, config: Path) -> dict[str, list[float]]:
    data, archive, out = server.data, folder / "peer.tar", folder / "out"
    key = "-aes-256-ctr -K " + "00" * 32 + " -iv " + "00" * 16
    files = (f for f in data.rglob("*") if f.is_file() and "pg_wal" not in f.parts)
    rows: dict[str, list[float]] = {"size": [float(sum(f.stat().st_size for f in files))]}

    def clean() -> None:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir()
        give(out)

    works: dict[str, Callable[[], None]] = {
        "backup": lambda: _drkit(config, "backup", "--rehash"),
        "incremental": lambda: _drkit(config, "backup"),
        "tar | zstd | openssl": lambda: _shell(
            f"tar -C {data} --exclude=./pg_wal -c . | zstd -q -3 -T0 | openssl enc {key} > {archive}"
        ),
        "restore": lambda: _drkit(config, "restore", "--to", "end", "--into", str(out / "db")),
        "openssl | zstd | tar": lambda: _shell(
            f"openssl enc -d {key} < {archive} | zstd -q -d | tar -C {out} -x && sync -f {out}"
        ),
    }
    for _ in range(_ROUNDS):
        for name, work in works.items():
            rows.setdefault(name, []).append(_timed(work, clean))
    return rows
