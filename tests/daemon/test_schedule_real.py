"""The schedule as the daemon has it, on a real server: the bell rings, a backup stands in the catalogue."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.jobs.backup_world import BackupWorld
from tests.real.postgres import Server, new_server, require, run

PROJECT = Path(__file__).parents[2]

_DAEMON = """
import json, os, sys, time
from datetime import timedelta
from pathlib import Path
from threading import Thread

from drkit.cli.wire_schedule import scheduler
from drkit.config.load import load
from drkit.core.cancel import CancelToken
from drkit.core.clock import SystemClock
from drkit.core.log import StreamLog
from drkit.daemon.facts_json import run_json

class Telling:
    def tell(self, kind, level, cluster, text, **fields):
        print(kind, text, file=sys.stderr)

path = Path(sys.argv[1])
class Clock(SystemClock):  # ahead, so that the bell rings soon
    ahead = timedelta(seconds=58 - min(58, SystemClock().now().second))

    def now(self):
        return super().now() + self.ahead

clock, token = Clock(), CancelToken()
log = StreamLog(sys.stderr, run_id="test", clock=clock)
part = scheduler(load(path, {}, Path("/")).config, path, os.environ, clock, log, Telling(), look_s=0.2)
thread = Thread(target=part.run, args=(token,))
thread.start()
limit = clock.monotonic() + 240
wanted = {"backup", "check"}
while not wanted <= {record.job for record in part.recent()} and clock.monotonic() < limit:
    time.sleep(0.1)
token.cancel("the test is over")
thread.join()
print(json.dumps([run_json(record) for record in part.recent()]))
"""


@pytest.fixture
def pg15() -> Iterator[Server]:
    """One server of PostgreSQL 15, not started."""
    require(15)
    server = new_server(15)
    yield server
    server.close()


@pytest.mark.real
@pytest.mark.timeout(300)
def test_a_scheduled_backup_and_check(pg15: Server) -> None:
    world = BackupWorld(pg15)
    world.extra = "".join(f'\n[[schedule]]\njob = "{job}"\ncron = "* * * * *"\n' for job in ("backup", "check"))
    world.write_config()
    world.start()
    done = run(["env", f"PYTHONPATH={PROJECT}", sys.executable, "-c", _DAEMON, world.config], check=False)
    assert done.returncode == 0, done.stderr
    records = {record["job"]: record for record in json.loads(done.stdout.splitlines()[-1])}
    backup = records["backup"]
    assert backup["outcome"] == "done", done.stderr
    assert backup["answer"]["id"] in [one["id"] for one in world.listed()]
    assert records["check"]["outcome"] in ("done", "failed")
    assert records["check"]["answer"]["cluster"] == "orders"
    answer = json.loads(world.drkit("--json", "list", "--newest", "1").stdout)
    assert len(answer["backups"]) == 1
    assert answer["leases"] == []
