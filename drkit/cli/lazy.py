"""A group of commands that imports a verb only when it is run or asked for its own help."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import replace
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from drkit.cli import context
from drkit.cli.verbs import VERBS, Family, Verb
from drkit.core.errors import UsageError

STYLE: dict[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": None,  # rich's help alone would cost more than all other imports together
    "pretty_exceptions_enable": False,
    "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 110},
}


class LazyGroup(TyperGroup):
    """The root: its members are the rows of `VERBS`; those without a part are aliases and not shown."""

    members: Mapping[str, Verb | Family] = VERBS

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self._shown())

    def _shown(self) -> Mapping[str, Verb | Family]:
        return {name: member for name, member in self.members.items() if member.part}

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        member = self.members.get(cmd_name)
        if member is None:
            return None
        return _verb(cmd_name, member) if isinstance(member, Verb) else _family(cmd_name, member)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        if not args[0].startswith("-") and args[0] not in self.members:
            close = get_close_matches(args[0], self.members)
            cure = f"did you mean {' or '.join(repr(name) for name in close)}?" if close else "see drkit --help"
            raise UsageError(f"{ctx.command_path} has no command {args[0]!r}", cure=cure)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """The overview by parts, from the table alone."""
        shown = self._shown()
        for part in dict.fromkeys(member.part for member in shown.values()):
            rows = [(name, member.help) for name, member in shown.items() if member.part == part]
            with formatter.section(part):
                formatter.write_dl(rows)


def _family(name: str, family: Family) -> Any:
    group = type("FamilyGroup", (LazyGroup,), {"members": family.verbs})
    app = typer.Typer(cls=group, no_args_is_help=True, **STYLE)

    @app.callback()
    def root() -> None:
        pass

    command = get_command(app)
    command.name, command.help = name, _sentence(family.help)
    command.params += _global_flags()
    return command


def _verb(name: str, verb: Verb) -> Any:
    """The command of one verb, with the global flags accepted behind its name as well."""
    module_name = f"drkit.cli.{verb.module}"
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name != module_name:
            raise
        raise UsageError(f"'drkit {name}' is not part of this version", cure="`drkit --help` lists what is") from error
    app = typer.Typer(**STYLE)
    app.command(name=name)(getattr(module, verb.function))
    command: Any = get_command(app)
    command.help = command.help or _sentence(verb.help)
    for parameter in command.params:
        if parameter.param_type_name == "argument" and parameter.metavar is not None:
            parameter.get_usage_pieces = partial(_usage, parameter.metavar)
    taken = {option for parameter in command.params for option in parameter.opts}
    for parameter in _global_flags():
        if not taken.intersection(parameter.opts):
            command.params.append(parameter)
    return command


def _usage(metavar: str, ctx: Any) -> list[str]:
    """The usage line shows a metavar as it is written: it has the brackets of what may be left out."""
    return [metavar] if metavar else []


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text[-1] in ".?!" else ".")


def _global_flags() -> list[Any]:
    """The parameters --config, --json, -v, -q and --no-color; each changes the Context and is then forgotten."""
    app = typer.Typer(**STYLE)
    app.command()(_flags)
    command: Any = get_command(app)
    for parameter in command.params:
        parameter.expose_value = False
    return list(command.params)


def _config(ctx: typer.Context, value: Path | None) -> None:
    if value is not None:
        ctx.obj = replace(context.of(ctx), config_path=value)


def _json(ctx: typer.Context, value: bool) -> None:
    if value:
        ctx.obj = replace(context.of(ctx), json=True)


def _verbose(ctx: typer.Context, value: int) -> None:
    if value:
        ctx.obj = replace(context.of(ctx), verbosity=max(0, context.of(ctx).verbosity) + value)


def _quiet(ctx: typer.Context, value: bool) -> None:
    if value:
        ctx.obj = replace(context.of(ctx), verbosity=-1)


def _no_color(ctx: typer.Context, value: bool) -> None:
    if value:
        ctx.obj = replace(context.of(ctx), color=False)


def _flags(
    config: Annotated[
        Path | None, typer.Option("--config", metavar="FILE", help="the configuration", callback=_config)
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="answer with one JSON object", callback=_json, is_eager=True)
    ] = False,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="say more", callback=_verbose, show_default=False)
    ] = 0,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="only the answer and errors", callback=_quiet)] = False,
    no_color: Annotated[bool, typer.Option("--no-color", help="no colours, as NO_COLOR=1", callback=_no_color)] = False,
) -> None:
    """Holds the global flags; never run."""


def root_command() -> Any:
    """`drkit` itself."""
    app = typer.Typer(cls=LazyGroup, no_args_is_help=True, **STYLE)

    @app.callback()
    def root(
        ctx: typer.Context,
        version: Annotated[bool, typer.Option("--version", help="print the version", callback=_version)] = False,
    ) -> None:
        """Backup, point-in-time recovery and disaster recovery for PostgreSQL, proven by drills."""

    command: Any = get_command(app)
    command.params += _global_flags()
    return command


def _version(ctx: typer.Context, value: bool) -> None:
    """Not eager, as --json is: it is known by now, wherever it stands."""
    if value:
        from importlib.metadata import version

        from drkit.cli.render import answer_json

        if context.of(ctx).json:
            answer_json("drkit.version/1", {"version": version("drkit")})
        else:
            typer.echo(f"drkit {version('drkit')}")
        raise typer.Exit()
