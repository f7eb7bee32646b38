"""[drill.NAME], and the smaller configuration that a drill's recovery gets."""

from __future__ import annotations

import tomllib
from datetime import timedelta
from pathlib import Path

import pytest

from drkit.config.derive import recovery_config, recovery_environment
from drkit.config.load import check
from drkit.core.errors import ConfigError

BASE = """
[cluster.orders]
connection = "service=orders"
site = "fra"
sacrificial = true
[target.local]
url = "file:///backup/orders"
site = "fra"
[target.vault]
url = "s3://vault/prod"
site = "dub"
endpoint = "https://s3.dub.example"
timeout = "45s"
allow_unconditional = true
medium = "object"
[keys]
passphrase_command = "cat \\"the words\\""
[drill.monthly]
scenario = "region-loss"
point = "random-instant:14d"
deny_sites = ["fra"]
rto = "30m"
[[drill.monthly.probe]]
name = "open"
sql = "select true"
[drill.monthly.deadlines]
restore = "1h"
"""
HERE = Path("/etc/drkit/drkit.toml")


def test_a_drill_of_the_configuration() -> None:
    config = check(tomllib.loads(BASE), HERE)
    drill = config.drill["monthly"]
    assert (drill.scenario, drill.rto, drill.rpo, drill.ledger) == ("region-loss", timedelta(minutes=30), None, False)
    assert drill.deadlines.restore == timedelta(hours=1) and drill.deadlines.steady == timedelta(minutes=5)
    assert drill.probe[0].sql == "select true" and config.cluster["orders"].sacrificial


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ('scenario = "flood"', "drill.x.scenario = 'flood': allowed"),
        ('scenario = "disk-lost"\ncluster = "nobody"', "drill.x names the cluster 'nobody'"),
        ('scenario = "disk-lost"\nledgr = true', "did you mean 'ledger'?"),
        ('scenario = "dropped-table"', "it needs ledger = true"),
        ('scenario = "disk-lost"\nmin_size = 5', "5 has no unit"),
    ],
)
def test_what_is_wrong_is_named_and_costs_nothing_else(line: str, told: str) -> None:
    """Archiving goes by the same file."""
    config = check(tomllib.loads(f"{BASE}[drill.x]\n{line}\n"), HERE)
    assert list(config.wrong_drills) == ["x"] and told in config.wrong_drills["x"]
    assert list(config.drill) == ["monthly"]


def test_a_name_that_no_drill_may_have_and_a_drill_that_is_no_table() -> None:
    wrong = check(tomllib.loads(f'{BASE}[drill."A b"]\nscenario = "disk-lost"\n[drill]\nscenario = "flood"'), HERE)
    assert wrong.wrong_drills["A b"] == "[drill.A b]: a name has a-z, 0-9, '-' and '_', 40 at most"
    assert wrong.wrong_drills["scenario"] == "drill.scenario = 'flood': is a table"
    bare = f"drill = 5\n{BASE.partition('[drill.monthly]')[0]}"
    assert check(tomllib.loads(bare), HERE).wrong_drills == {"": "drill = 5: is a table"}


def test_what_else_is_wrong_is_still_refused() -> None:
    with pytest.raises(ConfigError, match="backups is not a known key") as error:
        check(tomllib.loads(f'{BASE}[drill.x]\nscenario = "flood"\n[backups]\nworkers = 1\n'), HERE)
    assert "drill" not in error.value.why.partition("(allowed")[0]


def test_a_recovery_knows_no_more_than_it_needs() -> None:
    config = check(tomllib.loads(BASE), HERE)
    text = recovery_config(config, cluster="orders", targets={"vault"}, state=Path("/box/spool"))
    small = check(tomllib.loads(text), HERE)
    assert list(small.target) == ["vault"] and small.target["vault"] == config.target["vault"]
    assert small.keys == config.keys and small.daemon.spool == Path("/box/spool")
    assert small.daemon.socket.is_relative_to("/box/spool") and not small.drill
    escrowed = recovery_config(
        config, cluster="orders", targets={"vault"}, state=Path("/s"), key_file=Path("/safe/key")
    )
    keys = check(tomllib.loads(escrowed), HERE).keys
    assert keys.file == Path("/safe/key") and keys.passphrase_command is None


def test_a_recovery_gets_secrets_from_the_environment_and_no_overrides() -> None:
    given = {
        "HOME": "/root",
        "PATH": "/bin",
        "AWS_PROFILE": "x",
        "DRKIT_CONFIG": "/etc/other.toml",
        "DRKIT_DAEMON__SPOOL": "/var/lib/drkit",
        "DRKIT_KEYS__PASSPHRASE": "words",
        "DRKIT_TARGET__VAULT__SECRET_KEY": "s",
    }
    kept = recovery_environment(given)
    assert sorted(kept) == ["AWS_PROFILE", "DRKIT_KEYS__PASSPHRASE", "DRKIT_TARGET__VAULT__SECRET_KEY", "HOME"]
