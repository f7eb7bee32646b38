"""What is read, what overrides it, and how a wrong setting is told."""

from datetime import timedelta
from pathlib import Path

import pytest

from drkit.config.explain import explain
from drkit.config.load import Loaded, load
from drkit.config.values import Compression
from drkit.core.errors import ConfigError, Missing, UsageError
from drkit.core.units import Span
from policies.rule import Rule
from tests.config.example import TEXT


def loaded(tmp_path: Path, text: str = TEXT, env: dict[str, str] | None = None) -> Loaded:
    path = tmp_path / "drkit.toml"
    path.write_text(text)
    return load(path, env or {}, tmp_path)


def refused(tmp_path: Path, text: str = TEXT, env: dict[str, str] | None = None) -> str:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, text, env)
    return str(caught.value)


def test_values_are_typed(tmp_path: Path) -> None:
    config = loaded(tmp_path).config
    assert config.cluster["orders"].objectives.rpo == timedelta(seconds=60)
    assert config.copies.rule == Rule(3, 2, 1, 1, zero_errors=True)
    assert config.retention.monthly == Span(months=12)
    assert config.backup.compression == Compression("zstd", 3)
    assert config.target["vault-2"].scheme == "s3"
    assert config.schedule[0].deny_sites == ("fra",)
    assert config.copies.backup_ack == 1
    assert config.retention.daily is None


def test_the_environment_overrides_the_file(tmp_path: Path) -> None:
    env = {
        "DRKIT_CLUSTER__ORDERS__OBJECTIVES__RPO": "5m",
        "DRKIT_TARGET__VAULT_2__ALLOW_UNCONDITIONAL": "true",
        "DRKIT_BACKUP__WORKERS": "4",
        "DRKIT_COPIES__RULE": "2-1-0",
        "DRKIT_COPIES__WAL_ACK": "all",
        "DRKIT_CONFIG": "elsewhere",
    }
    found = loaded(tmp_path, env=env)
    config = found.config
    assert config.cluster["orders"].objectives.rpo == timedelta(minutes=5)
    assert config.target["vault-2"].allow_unconditional is True
    assert config.backup.workers == 4
    assert config.copies.rule == Rule(2, 1, 0)
    assert config.copies.wal_ack == "all"
    assert found.sources["backup.workers"] == "DRKIT_BACKUP__WORKERS"


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('rule    = "3-2-1-1-0"', 'rules = "3-2-1"', ["copies.rules", "did you mean 'rule'", "backup_ack"]),
        ('rule    = "3-2-1-1-0"', 'rule = "1-2-1"', ["copies.rule", "no 1 copies"]),
        ('rule    = "3-2-1-1-0"', "rule = 3", ["copies.rule '3' is not a rule", "3-2-1"]),
        ('rpo = "60s"', "rpo = 60", ["cluster.orders.objectives.rpo", "no unit", "30m"]),
        ('rpo = "60s"', 'rpo = "1mo"', ["objectives.rpo", "differ in length"]),
        ('medium = "disk"', 'medium = "floppy"', ["target.local.medium", "floppy", "'disk', 'object'"]),
        ("wal_ack = 1", "wal_ack = 3", ["wal_ack = 3", "is 2"]),
        ("wal_ack = 1", "wal_ack = 0", ["copies.wal_ack", "at least 1"]),
        ("wal_ack = 1", 'wal_ack = "most"', ["copies.wal_ack", "'quorum' or 'all'"]),
        ("service=orders", "host=a password=hunter2", ["connection", "never here"]),
        ("service=orders", "postgresql://u:hunter2@h/db", ["connection", "never here"]),
        ("service=orders", "postgresql://h/db?password=hunter2", ["connection", "never here"]),
        ("s3://orders-vault", "s3://id:hunter2@orders-vault", ["target.vault-2.url", "never here"]),
        ("file:///backup/orders", "ftp://backup", ["target.local.url", "ftp", "file:///"]),
        ("file:///backup/orders", "file://backup/orders", ["target.local.url", "ABSOLUTE"]),
        ("Europe/Berlin", "Mars/Olympus", ["retention.timezone", "Mars/Olympus"]),
        ("0 9 1 * *", "daily", ["schedule[1].cron", "minute hour"]),
        ('scenario = "region-loss"', "", ["schedule[1]", "scenario"]),
        ("[cluster.orders]", "[cluster.Orders]", ["cluster.Orders"]),
        ("/var/lib/postgresql", "var/lib/postgresql", ["cluster.orders.data_dir", "absolute"]),
        ('medium = "disk"', 'profile = "x"', ["target.local", "a folder has no profile"]),
        ("[keys]", "[kyes]", ["kyes", "did you mean 'keys'"]),
        ("[keys]", '[keys]\npassphrase_file = "/p"', ["keys", "one of file"]),
        ("[keys]", "[keys", ["not TOML", "line"]),
        ('site   = "fra"', "", ["target.local.site", "required"]),
    ],
)
def test_a_wrong_setting_names_file_key_and_what_is_allowed(
    tmp_path: Path, old: str, new: str, told: list[str]
) -> None:
    assert old in TEXT
    text = refused(tmp_path, TEXT.replace(old, new, 1))
    for part in [str(tmp_path / "drkit.toml"), *told]:
        assert part in text
    assert "hunter2" not in text


def test_all_wrong_settings_are_told_at_once(tmp_path: Path) -> None:
    text = refused(tmp_path, TEXT.replace('"60s"', "60").replace('"disk"', '"floppy"'))
    assert "2 settings are wrong" in text
    assert "objectives.rpo" in text
    assert "target.local.medium" in text


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("DRKIT_BACKUP__WORKERS", "many", "backup.workers (set by DRKIT_BACKUP__WORKERS)"),
        ("DRKIT_BAKCUP__WORKERS", "4", "bakcup (set by DRKIT_BAKCUP__WORKERS)"),
        ("DRKIT_SCHEDULE__CRON", "x", "DRKIT_SCHEDULE__CRON"),
        ("DRKIT_BACKUP__", "x", "names no key"),
        ("DRKIT_COPIES__RULE", '"2-1-0"\nx = 1', "rule"),
    ],
)
def test_a_wrong_variable_is_named(tmp_path: Path, name: str, value: str, told: str) -> None:
    assert told in refused(tmp_path, env={name: value})


@pytest.mark.parametrize(
    ("url", "endpoint", "told"),
    [
        ("file:///backup/orders/", "", "'local' and 'again' are the same place"),
        ("file:///backup/./x/../orders", "", "the same place"),
        ("file:////backup//orders", "", "the same place"),
        ("file:///backup/%6Frders", "", "the same place"),
        ("file:///backup/orders/deep/er", "", "'again' (file:///backup/orders/deep/er) lies inside target 'local'"),
        ("file:///backup", "", "'local' (file:///backup/orders) lies inside target 'again'"),
        ("s3://orders-vault/prod/", "https://s3.dub.example/", "the same place"),
        ("s3://orders-vault/prod", "https://S3.dub.example:443", "the same place"),
        ("s3://orders-vault/prod/more", "https://s3.dub.example", "lies inside target 'vault-2'"),
        ("s3://orders-vault", "https://s3.dub.example", "lies inside target 'again'"),
        ("file:///var/lib/postgresql/18/main/backup", "", "inside the data folder of cluster 'orders'"),
        ("file:///var/lib/postgresql/18/main", "", "inside the data folder of cluster 'orders'"),
        ("file:///var/lib", "", "the data folder of cluster 'orders', /var/lib/postgresql/18/main, lies inside target"),
    ],
)
def test_two_places_that_are_one_or_nested_are_refused(tmp_path: Path, url: str, endpoint: str, told: str) -> None:
    second = f'\n[target.again]\nurl = "{url}"\nsite = "x"\n'
    if endpoint:
        second += f'endpoint = "{endpoint}"\n'
    assert told in refused(tmp_path, TEXT + second)


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("file:///backup/orders2", ""),
        ("s3://orders-vault/prod", ""),
        ("s3://orders-vault/prod", "https://s3.dub.example:8443"),
        ("s3://orders-vault/prod2", "https://s3.dub.example"),
        ("s3://orders-vault-2/prod", "https://s3.dub.example"),
        ("file:///var/lib/postgresql/18/main-backup", ""),
    ],
)
def test_places_that_only_look_alike_are_two(tmp_path: Path, url: str, endpoint: str) -> None:
    second = f'\n[target.again]\nurl = "{url}"\nsite = "x"\n'
    if endpoint:
        second += f'endpoint = "{endpoint}"\n'
    assert len(loaded(tmp_path, TEXT + second).config.target) == 3


def test_one_bucket_of_aws_has_many_endpoints(tmp_path: Path) -> None:
    second = '\n[target.one]\nurl = "s3://b/p"\nsite = "x"\n'
    third = '\n[target.two]\nurl = "s3://b/p"\nsite = "x"\nendpoint = "https://s3.eu-west-1.amazonaws.com"\n'
    assert "the same place" in refused(tmp_path, TEXT + second + third)


def test_without_targets(tmp_path: Path) -> None:
    assert "there is no target" in refused(tmp_path, "")


def test_the_cluster_may_be_left_out_where_there_is_one(tmp_path: Path) -> None:
    config = loaded(tmp_path).config
    assert config.cluster_named(None)[0] == "orders"
    with pytest.raises(Missing, match="orders"):
        config.cluster_named("order")
    two = loaded(tmp_path, TEXT + "\n[cluster.second]\n").config
    with pytest.raises(UsageError, match="orders, second"):
        two.cluster_named(None)


def test_explain_tells_sources_and_no_secret(tmp_path: Path) -> None:
    env = {"DRKIT_BACKUP__RATE": "100MB", "DRKIT_KEYS__PASSPHRASE": "hunter2", "DRKIT_TARGET__LOCAL__SECRET_KEY": "h2"}
    settings = {setting.key: setting for setting in explain(loaded(tmp_path, env=env), env)}
    assert settings["backup.rate"].source == "DRKIT_BACKUP__RATE"
    assert settings["copies.rule"].value == "3-2-1-1-0"
    assert settings["copies.backup_ack"].source == "default"
    assert settings["retention.pitr_window"].source == str(tmp_path / "drkit.toml")
    assert settings["schedule[1].cron"].source == str(tmp_path / "drkit.toml")
    assert settings["keys.passphrase"].value == "***"
    assert "hunter2" not in str(settings)
