"""The real process: what it answers, where, and with which exit code."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from drkit.cli.verbs import VERBS, Family, fault_exit

APP = [sys.executable, "-m", "drkit.cli.app"]


def drkit(*words: str, cwd: Path | None = None, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DRKIT_")}
    return subprocess.run(
        [*APP, *words], capture_output=True, text=True, timeout=120, check=False, cwd=cwd, env=clean | env
    )


def test_help_lists_every_verb_and_imports_none() -> None:
    done = drkit("--help")
    assert done.returncode == 0
    assert done.stderr == ""
    for name, member in VERBS.items():
        assert (f"  {name} " in done.stdout) == bool(member.part)
    script = "import sys; from drkit.cli.app import main; main(['--help']); print(*sys.modules)"
    modules = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    loaded = set(modules.splitlines()[-1].split())
    heavy = {"pydantic", "rich", "boto3", "psycopg", "cryptography", "numpy", "drkit.config.model", "drkit.cli.list"}
    assert not loaded & heavy


@pytest.mark.parametrize("family", [name for name, member in VERBS.items() if isinstance(member, Family)])
def test_help_of_a_family(family: str) -> None:
    member = VERBS[family]
    assert isinstance(member, Family)
    done = drkit(family, "--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in member.verbs)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["lst"], "did you mean 'list'?"),
        (["--nope"], "No such option"),
        (["key", "nwe"], "did you mean 'new'?"),
        (["--config"], "--config"),
    ],
)
def test_a_wrong_command_line_is_2(words: list[str], told: str) -> None:
    done = drkit(*words)
    assert done.returncode == 2
    assert done.stdout == ""
    assert told in done.stderr
    as_json = drkit("--json", *words)
    answer = json.loads(as_json.stderr)
    assert answer["schema"] == "drkit.error/1"
    assert answer["error"]["code"] == "usage"
    assert set(answer["error"]) >= {"code", "what", "where", "why", "cure"}


def test_no_words_is_help_and_2() -> None:
    done = drkit()
    assert done.returncode == 2
    assert "Usage: drkit" in done.stderr


def test_version() -> None:
    done = drkit("--version")
    assert done.returncode == 0
    assert done.stdout.startswith("drkit ")
    number = done.stdout.split()[1]
    for words in (["--version", "--json"], ["--json", "--version"]):
        assert json.loads(drkit(*words).stdout) == {"schema": "drkit.version/1", "version": number}


@pytest.mark.parametrize(
    "words",
    [
        ["wal", "get"],
        ["wal", "get", "--nope", "a", "b"],
        ["--nope", "wal", "get", "a", "b"],
        ["--config", "/does/not/exist", "wal", "get", "000000010000000000000001", "/tmp/x"],
        ["archive-get", "--json"],
    ],
)
def test_no_mistake_in_wal_get_looks_like_an_absent_segment(words: list[str]) -> None:
    assert drkit(*words).returncode >= 126


def test_every_mistake_in_wal_push_is_1() -> None:
    assert drkit("wal", "push", "--nope").returncode == 1
    assert drkit("archive-push").returncode == 1
    assert fault_exit(["--json", "wal", "push", "x"]) == 1
    assert fault_exit(["restore", "--to", "wal"]) is None


def test_an_answer_that_cannot_be_written_is_no_success() -> None:
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([*APP, "--help"], stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1
    assert "no space left" in done.stderr


def test_a_reader_that_left_is_no_traceback() -> None:
    read_fd, write_fd = os.pipe()
    os.close(read_fd)
    with os.fdopen(write_fd, "w") as broken:
        done = subprocess.run([*APP, "--help"], stdout=broken, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 141
    assert done.stderr == ""


VERB = """
import sys, types
from typing import Annotated
import typer
from drkit.cli import context, verbs
from drkit.cli.app import main
from drkit.core.errors import {error}

def run(ctx: typer.Context, text: str = "", label: Annotated[str, typer.Option()] = "") -> int | None:
    '''Try something.'''
    given = context.of(ctx)
    if label == "flags":
        print(given.json, given.verbosity, given.color, given.config_path)
        return None
    if label == "status":
        return 7
    if label == "load":
        given.load()
    raise {error}({arguments})

module = types.ModuleType("drkit.cli.probe")
module.run = run
sys.modules["drkit.cli.probe"] = module
verbs.VERBS["probe"] = verbs.Verb("probe", "try", "Set up")
sys.exit(main(sys.argv[1:]))
"""


def probe(*words: str, error: str = "Failed", arguments: str = "'it'", cwd: Path | None = None) -> tuple[int, str, str]:
    script = VERB.format(error=error, arguments=arguments)
    done = subprocess.run(
        [sys.executable, "-c", script, *words], capture_output=True, text=True, timeout=120, check=False, cwd=cwd
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        ("UsageError", "usage", 2),
        ("ConfigError", "config", 3),
        ("Refused", "refused", 4),
        ("Missing", "missing", 5),
        ("Conflict", "conflict", 6),
        ("Unreachable", "unreachable", 7),
        ("KeyMissing", "key", 8),
        ("Damage", "damage", 9),
        ("PromiseBroken", "promise", 10),
        ("Failed", "failed", 1),
        ("Cancelled", "cancelled", 1),
    ],
)
def test_every_error_has_its_code(error: str, code: str, status: int) -> None:
    arguments = "'it broke', where='s3://id:hunter2@host/b', why='a disk', cure='mount it'"
    got, out, err = probe("probe", "--json", error=error, arguments=arguments)
    assert (got, out) == (status, "")
    answer = json.loads(err)["error"]
    assert answer["code"] == code
    assert (answer["what"], answer["why"], answer["cure"]) == ("it broke", "a disk", "mount it")
    assert "hunter2" not in err
    got, _, err = probe("probe", error=error, arguments=arguments)
    assert got == status
    assert err.splitlines()[0] == "drkit: it broke"
    assert "  cure:  mount it" in err


def test_global_flags_are_taken_before_and_behind_the_verb(tmp_path: Path) -> None:
    for words in (
        ["--json", "-vv", "--no-color", "--config", "x.toml", "probe", "--label", "flags"],
        ["probe", "--label", "flags", "--json", "-vv", "--no-color", "--config", "x.toml"],
    ):
        assert probe(*words) == (0, "True 2 False x.toml\n", "")
    assert probe("-q", "probe", "--label", "flags") == (0, "False -1 True None\n", "")
    assert "--json" in probe("probe", "--help")[1]


def test_a_verb_may_choose_its_status() -> None:
    assert probe("probe", "--label", "status")[0] == 7


def test_the_configuration_is_loaded_when_wanted_and_3_when_wrong(tmp_path: Path) -> None:
    status, _, err = probe("probe", "--label", "load", "--config", "gone.toml", "--json", cwd=tmp_path)
    assert status == 3
    assert "gone.toml" in json.loads(err)["error"]["where"]


def test_a_defect_is_short_and_1_and_has_its_traceback_with_v() -> None:
    status, out, err = probe("probe", error="Failed", arguments="1/0")
    assert (status, out) == (1, "")
    assert "ZeroDivisionError" in err
    assert "Traceback" not in err
    status, _, err = probe("probe", "-v", error="Failed", arguments="1/0")
    assert status == 1
    assert "Traceback" in err
