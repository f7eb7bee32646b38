"""The table of verbs: where each one lives and its line of help, so that help imports none of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

from drkit.cli.exits import ABSENCE_UNPROVEN, FAILED


@dataclass(frozen=True, slots=True)
class Verb:
    """A command: the function `function` of `drkit.cli.<module>`.

    help:        its line in the overview
    part:        the heading it stands under; "" leaves it out of the overview (aliases)
    fault_exit:  the exit status of every error, where the caller is PostgreSQL and not a person
    """

    module: str
    help: str
    part: str = ""
    function: str = "run"
    fault_exit: int | None = None


@dataclass(frozen=True, slots=True)
class Family:
    """Commands under one word: `drkit wal push`."""

    help: str
    part: str
    verbs: Mapping[str, Verb | Family]


SETUP, SAVE, RECOVER, PROVE, HERE = "Set up", "Save", "Recover", "Prove", "Commands"

_WAL_PUSH = Verb("wal", "archive one WAL segment (archive_command)", HERE, function="push", fault_exit=FAILED)
_WAL_GET = Verb("wal", "fetch one WAL segment (restore_command)", HERE, function="get", fault_exit=ABSENCE_UNPROVEN)

VERBS: dict[str, Verb | Family] = {
    "init": Verb("init", "create the keys (once) and the repository on every target", SETUP),
    "check": Verb("check", "find everything that would stop a backup, archiving or a restore", SETUP),
    "key": Family(
        "master keys: make them and see which are in use",
        SETUP,
        {
            "new": Verb("key", "make a new key file", HERE, function="new"),
            "list": Verb("key", "the key slots of the repository", HERE, function="list_keys"),
        },
    ),
    "target": Family(
        "the targets, and how one is retired",
        SETUP,
        {
            "list": Verb("target", "the targets and their state", HERE, function="list_targets"),
            "retire": Verb("target", "never use a target again", HERE, function="retire"),
        },
    ),
    "demo": Verb("demo", "try it: a server, a backup, a disaster and a restore, in one folder", SETUP),
    "backup": Verb("backup", "take a backup", SAVE),
    "wal": Family(
        "archive and fetch WAL; lag and gaps",
        SAVE,
        {
            "push": _WAL_PUSH,
            "get": _WAL_GET,
            "status": Verb("wal", "how far each target is, and what is missing", HERE, function="status"),
        },
    ),
    "verify": Verb("verify", "is everything stored still whole? --repair mends it from another target", PROVE),
    "replicate": Verb("replicate", "bring every target up to date from the others", SAVE),
    "expire": Verb("expire", "what may go by retention, with a reason for each; only --apply deletes", SAVE),
    "hold": Family(
        "keep backups or WAL from ever expiring",
        SAVE,
        {
            "add": Verb("hold", "hold a backup, or a span of WAL", HERE, function="add"),
            "list": Verb("hold", "what is on hold, and why", HERE, function="list_holds"),
            "release": Verb("hold", "let it expire again", HERE, function="release"),
        },
    ),
    "list": Verb("list", "the backups", RECOVER),
    "show": Verb("show", "one backup in full", RECOVER),
    "windows": Verb("windows", "the times that can be restored, per target and timeline, with gaps", RECOVER),
    "restore": Verb("restore", "bring a cluster back to a point in time", RECOVER),
    "daemon": Verb("daemon", "archive, pay debts and run the schedule, until told to stop", SAVE),
    "status": Verb("status", "is all well? backups, archiving, drills and runs, judged", PROVE),
    "drill": Family(
        "prove that it comes back: run drills, and read what they found",
        PROVE,
        {
            "list": Verb("drill", "the drills that can be run, and how each ended last", HERE, function="list_drills"),
            "history": Verb("drill", "the reports of past drills", HERE, function="history"),
            "show": Verb("drill", "one report: text, JSON, JUnit or a page", HERE, function="show"),
            "run": Verb("drill_run", "strike, restore into a sandbox, check every row, judge, clean up", HERE),
            "tidy": Verb("drill_tidy", "remove what killed drills left", HERE),
            "ledger": Family(
                "rows with a journal, for exercises by hand",
                HERE,
                {
                    "run": Verb("drill_ledger", "write rows, and note what was acknowledged", HERE),
                    "judge": Verb("drill_ledger", "what of it came back", HERE, function="judge"),
                },
            ),
        },
    ),
    "policy": Family(
        "promises against evidence",
        PROVE,
        {
            "check": Verb("policy", "is every promise kept right now?", HERE, function="check"),
            "explain": Verb("policy", "what was promised, what is configured and why", HERE, function="explain"),
        },
    ),
    # What fingers of other tools' users type.
    "info": Verb("list", "the backups"),
    "archive-push": replace(_WAL_PUSH, part=""),
    "archive-get": replace(_WAL_GET, part=""),
}


def jobs() -> frozenset[str]:
    """What this version can be asked to do on a schedule: its verbs, and the families that `run`."""
    return frozenset(name for name, verb in VERBS.items() if isinstance(verb, Verb) or "run" in verb.verbs)


def fault_exit(words: list[str]) -> int | None:
    """The exit status that any error has for these arguments, found even where they cannot be parsed.

    A recovering server takes 1 to 125 of its restore_command for 'no such segment' and promotes: a wrong
    flag or a broken configuration must never look so.
    """
    plain = [word for word in words if not word.startswith("-")]
    for name, verb in VERBS.items():
        if isinstance(verb, Verb):
            if verb.fault_exit is not None and name in plain:
                return verb.fault_exit
            continue
        for inner, member in verb.verbs.items():
            if isinstance(member, Verb) and member.fault_exit is not None and (name, inner) in pairwise(plain):
                return member.fault_exit
    return None
