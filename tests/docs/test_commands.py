"""docs/commands.md says what the command line says."""

from drkit.cli.lazy import root_command
from drkit.cli.verbs import VERBS
from tests.docs.commands import PAGE, commands, page


def test_the_page_is_the_command_line() -> None:
    assert PAGE.read_text() == page(), "write it anew: python -m tests.docs.commands"


def test_every_command_and_flag_says_what_it_is_for() -> None:
    for path, command, about in commands(root_command(), VERBS, "drkit"):
        assert about.endswith("."), path
        for parameter in command.params:
            if parameter.param_type_name == "option" and not parameter.hidden:
                assert parameter.help, (path, parameter.opts)
