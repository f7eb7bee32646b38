"""Makes docs/commands.md from the command line itself: `python -m tests.docs.commands` writes it."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from drkit.cli.lazy import root_command
from drkit.cli.verbs import VERBS, Family, Verb

PAGE = Path(__file__).parents[2] / "docs" / "commands.md"
_HEAD = """\
# Commands

Made from `drkit/cli` by `python -m tests.docs.commands`; a test compares the two.

`drkit [GLOBAL FLAGS] COMMAND ...`; global flags may stand behind the command as well. CLUSTER may be left out where the
configuration has one. Data goes to stdout, progress and events to stderr. `--json` answers with one object
([schemas](json.md)); exit codes are [here](exit-codes.md), the configuration [here](configuration.md).

| global flag | |
|---|---|
"""
_GLOBAL = ("--config", "--json", "--verbose", "--quiet", "--no-color", "--help")


def page() -> str:
    """The whole page."""
    root = root_command()
    parts = [_HEAD, *(_row(p) for p in root.params if p.opts[0] in _GLOBAL), "\n"]
    parts += [f"Aliases for fingers of other tools: {_aliases()}.\n"]
    for path, command, about in commands(root, VERBS, "drkit"):
        arguments = " ".join(_argument(p) for p in command.params if p.param_type_name == "argument")
        parts.append(f"\n## `{' '.join((path, arguments)).strip()}`\n\n{about}\n")
        rows = [_row(p) for p in command.params if p.param_type_name == "option" and not _is_global(p) and not p.hidden]
        if rows:
            parts += ["\n| flag | |\n|---|---|\n", *rows]
    return "".join(parts)


def commands(group: Any, members: Mapping[str, Verb | Family], path: str) -> Iterator[tuple[str, Any, str]]:
    """(words, command, what it does) of every command that help shows, those of families after one another."""
    for name, member in members.items():
        if not member.part:
            continue
        command = group.get_command(None, name)
        if isinstance(member, Family):
            yield from commands(command, member.verbs, f"{path} {name}")
        else:
            yield f"{path} {name}", command, _one_line(command.help)


def _aliases() -> str:
    pairs = []
    for name, member in VERBS.items():
        if not member.part and isinstance(member, Verb):
            words = member.module if member.function == "run" else f"{member.module} {member.function}"
            pairs.append(f"`{name}` is `{words}`")
    return ", ".join(pairs)


def _is_global(parameter: Any) -> bool:
    return parameter.opts[0] in _GLOBAL and not parameter.expose_value


def _argument(parameter: Any) -> str:
    name = parameter.metavar or parameter.name.upper()
    return name if parameter.required or name.startswith("[") else f"[{name}]"


def _row(parameter: Any) -> str:
    names = ", ".join([*sorted(parameter.opts, key=len, reverse=True), *parameter.secondary_opts])
    value = "" if parameter.is_flag or parameter.count else f" {parameter.metavar or 'VALUE'}"
    default = parameter.default
    told = default not in (None, False, 0, "", ()) and not callable(default) and not parameter.count
    text = _one_line(parameter.help or "") + (f" (default: {default})" if told else "")
    cells = (f"`{names}{value}`", text)
    return f"| {' | '.join(cell.replace('|', '&#124;' if '`' not in cell else '/') for cell in cells)} |\n"


def _one_line(text: str) -> str:
    return " ".join(inspect.cleandoc(text or "").split())


if __name__ == "__main__":
    PAGE.write_text(page())
