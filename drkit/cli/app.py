"""The way in: arguments to a verb, every error to a message and an exit code, never 0."""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from drkit.cli.context import Context
from drkit.cli.exits import DONE, FAILED, INTERRUPTED, PIPE_CLOSED, USAGE, Problem, problem
from drkit.cli.lazy import root_command
from drkit.cli.render import show_error, use_color
from drkit.cli.verbs import fault_exit


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command line (without the program's name); returns the exit status of the process."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # numpy starts threads for algebra, which nothing here needs
    _need_streams()
    try:
        status = _run(words)
        sys.stdout.flush()
        return status
    except BrokenPipeError as error:
        if not _reader_left():
            return _report(words, error)
        return fault_exit(words) or PIPE_CLOSED
    except OSError as error:
        return _report(words, error)


def _run(words: list[str]) -> int:
    """The verb's own status, or the table's for its error."""
    command = root_command()
    try:
        with command.make_context("drkit", words.copy(), obj=Context()) as ctx:
            result = command.invoke(ctx)
        return result if isinstance(result, int) else DONE
    except typer.Exit as ended:
        return ended.exit_code
    except SystemExit as ended:
        return fault_exit(words) or (ended.code if isinstance(ended.code, int) else FAILED)
    except typer.Abort:
        return _show(words, Problem("cancelled", FAILED, "given up"))
    except typer.TyperException as wrong:
        return _usage(words, wrong)
    except BrokenPipeError:
        raise
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001  the root of the main thread
        return _report(words, error)


def _usage(words: list[str], wrong: typer.TyperException) -> int:
    if not words or type(wrong).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(f"{wrong}\n")
        return USAGE
    text = getattr(wrong, "format_message", wrong.__str__)()
    path = getattr(getattr(wrong, "ctx", None), "command_path", "drkit")
    return _show(words, Problem("usage", USAGE, text.rstrip("."), cure=f"see {path} --help"))


def _report(words: list[str], error: BaseException) -> int:
    found = problem(error)
    if not found.expected and _flag(words, "-v", "-vv", "-vvv", "--verbose"):
        import traceback

        traceback.print_exception(error)
    return _show(words, found)


def _show(words: list[str], found: Problem) -> int:
    """Tell it on stderr; a stderr that is gone changes nothing about the status."""
    try:
        color = use_color(sys.stderr, not _flag(words, "--no-color"))
        show_error(found, as_json=_flag(words, "--json"), color=color)
        sys.stderr.flush()
    except OSError:
        pass
    return found.exit if found.exit == INTERRUPTED else fault_exit(words) or found.exit


def _flag(words: list[str], *names: str) -> bool:
    """Whether a flag was given, read off the words: an error may come before they were parsed."""
    before = words[: words.index("--")] if "--" in words else words
    return any(name in before for name in names)


def _reader_left() -> bool:
    """Whether stdout is what broke; it is then turned to /dev/null, so that the interpreter ends in peace."""
    poll = select.poll()
    try:
        poll.register(sys.stdout.fileno(), 0)
    except (OSError, ValueError):
        return False
    if not any(events & (select.POLLERR | select.POLLHUP) for _, events in poll.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def _need_streams() -> None:
    """A caller that closed stdout or stderr (`>&-`) gets a status all the same."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  open as long as the process
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w")  # noqa: SIM115  open as long as the process


if __name__ == "__main__":
    sys.exit(main())
