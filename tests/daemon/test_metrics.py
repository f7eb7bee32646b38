"""Metrics parse as Prometheus reads them, say what is known and nothing else, and cost a daemon nothing."""

from __future__ import annotations

import http.client
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from drkit.core.cancel import CancelToken
from drkit.core.errors import ConfigError
from drkit.daemon import metrics_server
from drkit.daemon.api import Outcome
from drkit.daemon.metrics import CONTENT_TYPE, Family, families, render
from drkit.daemon.metrics_server import MetricsServer
from drkit.daemon.watch import Looked
from tests.daemon.facts import HOUR, NOW, archive, facts, record
from tests.daemon.wal_host import Told

ANSWER = {
    "findings": [{"cluster": "orders", "level": "bad"}, {"cluster": "orders", "level": "bad"}],
    "clusters": [
        {
            "cluster": "orders",
            "state": "at risk",
            "exposure_s": 12.5,
            "rto_forecast_s": None,
            "promises": {"rpo_s": 60.0, "rto_s": None},
            "passed_drill": {"at": "2026-06-30T00:00:00Z", "rto_s": 1062.0, "rpo_s": 4.1},
            "targets": [
                {
                    "name": "a",
                    "protected": True,
                    "error": "",
                    "backup": {
                        "stopped_at": "2026-06-30T23:00:00Z", "size_bytes": 100, "stored_bytes": 10, "new_bytes": 1,
                    },
                    "windows": [
                        {"timeline": 2, "from": "2026-06-01T00:00:00Z", "to": None, "gaps": [{"missing": 1}]}
                    ],
                },
                {"name": "b", "protected": None, "error": "away", "backup": None, "windows": []},
            ],
        }
    ],
}  # fmt: skip
_LINE = re.compile(r'(drkit_[a-z_]+)(?:\{((?:[a-z_]+="(?:[^"\\\n]|\\.)*",?)*)\})? (-?[0-9.e+]+)\Z')


def page(**kept: Looked) -> str:
    whole = facts(recent=[record(), record(Outcome.FAILED)], archives=[archive(ready=3, oldest=NOW - HOUR, owed=2)])
    looked = kept.get("looked", Looked(NOW, ANSWER))
    return render(families(whole, looked, NOW, version='1"0\\', waiting={"webhook": 3}))


def parsed(text: str) -> dict[str, float]:
    """Sample -> value; fails where a line is not as the format says, or a sample comes twice or without its head."""
    found: dict[str, float] = {}
    known: set[str] = set()
    assert text.endswith("\n")
    for line in text.splitlines():
        if line.startswith("# HELP "):
            assert line.split()[2] not in known
        elif line.startswith("# TYPE "):
            name, kind = line.split()[2:]
            known.add(name)
            assert kind == "gauge"
        else:
            match = _LINE.match(line)
            assert match and match[1] in known, line
            sample = line.rsplit(" ", 1)[0]
            assert sample not in found
            found[sample] = float(match[3])
    return found


def test_the_page_says_what_is_known() -> None:
    found = parsed(page())
    orders, a = '{cluster="orders"}', '{cluster="orders",target="a"}'
    bell = '{bell="backup.orders.1",kind="backup",cluster="orders"}'
    expected = {
        "drkit_protected" + orders: 0,
        "drkit_target_protected" + a: 1,
        'drkit_target_protected{cluster="orders",target="b"}': 0,
        'drkit_target_readable{cluster="orders",target="b"}': 0,
        "drkit_backup_last_age_seconds" + a: 3600,
        "drkit_backup_last_size_bytes" + a: 100,
        "drkit_archive_lag_seconds" + orders: 3600,
        "drkit_archive_waiting_files" + orders: 3,
        "drkit_debt_files" + a: 2,
        "drkit_debt_age_seconds" + a: 3600,
        "drkit_rpo_exposure_seconds" + orders: 12.5,
        'drkit_objective_seconds{cluster="orders",objective="rpo"}': 60,
        "drkit_drill_last_pass_rto_seconds" + orders: 1062,
        'drkit_window_gaps{cluster="orders",target="a",timeline="2"}': 1,
        'drkit_runs{kind="backup",cluster="orders",outcome="failed"}': 1,
        "drkit_next_run_timestamp_seconds" + bell: (NOW + HOUR).timestamp(),
        'drkit_findings{cluster="orders",level="bad"}': 2,
        'drkit_notifications_waiting{channel="webhook"}': 3,
        "drkit_look_success": 1,
        "drkit_daemon_start_time_seconds": (NOW - HOUR).timestamp(),
    }
    assert {name: found.get(name) for name in expected} == expected


def test_what_is_not_known_has_no_sample() -> None:
    text = page()
    for name in ("drkit_rto_forecast_seconds", "drkit_window_end_timestamp_seconds"):
        assert name not in text
    assert not [name for name in parsed(text) if "backup_last" in name and 'target="b"' in name]
    blind = parsed(page(looked=Looked(why="it hangs")))
    assert blind["drkit_look_success"] == 0
    assert not [name for name in blind if name.startswith(("drkit_protected", "drkit_target", "drkit_backup"))]


def test_labels_are_escaped() -> None:
    text = Family("drkit_x", "A \\ and\na line.", (({"name": 'a"b\\c\nd'}, 1.5),)).text()
    assert text.splitlines() == [
        "# HELP drkit_x A \\\\ and\\na line.", "# TYPE drkit_x gauge", 'drkit_x{name="a\\"b\\\\c\\nd"} 1.5',
    ]  # fmt: skip


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (of prometheus) is not installed")
def test_promtool_has_nothing_to_say() -> None:
    done = subprocess.run(["promtool", "check", "metrics"], input=page(), capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


# --- the listener -------------------------------------------------------------------------------------------------


@contextmanager
def listening(text: Callable[[], str] = page, connection_s: float = 30.0) -> Iterator[int]:
    server, token = MetricsServer("127.0.0.1", 0, text, Told(), connection_s=connection_s), CancelToken()
    thread = threading.Thread(target=server.run, args=(token,))
    thread.start()
    try:
        yield server.port()
    finally:
        token.cancel()
        thread.join(60)
    assert not thread.is_alive()


def get(port: int, path: str, method: str = "GET") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request(method, path)
    answer = connection.getresponse()
    return answer.status, answer.headers["Content-Type"], answer.read().decode()


def test_two_paths_and_no_more() -> None:
    with listening() as port:
        assert get(port, "/metrics") == (200, CONTENT_TYPE, page())
        assert get(port, "/healthz")[::2] == (200, "ok\n")
        assert get(port, "/")[0] == 404
        assert get(port, "/../etc/passwd")[0] == 404
        assert get(port, "/metrics", "POST")[0] == 501


@pytest.mark.parametrize("host", ["0.0.0.0", "192.0.2.1", "::"])
def test_only_this_host_is_answered(host: str) -> None:
    with pytest.raises(ConfigError) as error:
        MetricsServer(host, 0, page, Told())
    assert "proxy" in error.value.cure


def test_a_port_that_is_taken_is_told_of_and_had_as_soon_as_it_is_free() -> None:
    """Whoever takes it does not keep the daemon from starting."""
    told, token = Told(), CancelToken()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        server = MetricsServer("127.0.0.1", port, page, told, again_s=0.05)
        thread = threading.Thread(target=server.run, args=(token,))
        thread.start()
        while ("metrics.away", "") not in told.kinds:
            assert thread.is_alive()
    assert server.port() == port
    assert get(port, "/healthz")[0] == 200
    assert told.kinds[-1] == ("metrics.back", "")
    token.cancel()
    thread.join(60)
    assert not thread.is_alive()


def test_who_stops_before_the_port_is_free_stops() -> None:
    told, token = Told(), CancelToken()
    with socket.create_server(("127.0.0.1", 0)) as other:
        server = MetricsServer("127.0.0.1", other.getsockname()[1], page, told, again_s=600.0)
        thread = threading.Thread(target=server.run, args=(token,))
        thread.start()
        while not told.kinds:
            assert thread.is_alive()
        token.cancel()
        thread.join(60)
        assert not thread.is_alive()


def test_who_says_nothing_is_cut_off_and_others_are_served(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(connection_s=0.5) as port:
        silent = [socket.create_connection(("127.0.0.1", port)) for _ in range(metrics_server.CONNECTIONS)]
        for one in silent:
            one.settimeout(30)
            assert one.recv(1) == b""
            one.close()
        assert get(port, "/healthz")[0] == 200


def test_one_connection_too_many_is_closed_at_once() -> None:
    with listening() as port:
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(metrics_server.CONNECTIONS)]
        extra = socket.create_connection(("127.0.0.1", port))
        extra.settimeout(30)
        assert extra.recv(1) == b""
        for one in [*held, extra]:
            one.close()


# --- the rules that go with it ------------------------------------------------------------------------------------

RULES = Path(__file__).parents[2] / "docs" / "alerts" / "drkit.rules.yml"


def test_the_rules_ask_for_metrics_that_are_there() -> None:
    asked = set(re.findall(r"\bdrkit_[a-z_]+", RULES.read_text()))
    names = {family.name for family in families(facts(), Looked(), NOW, version="0")}
    assert asked and asked <= names


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool (of prometheus) is not installed")
def test_promtool_takes_the_rules() -> None:
    done = subprocess.run(["promtool", "check", "rules", RULES], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
