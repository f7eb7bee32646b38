"""The table covers every error of both trees."""

import errno

import pytest

from drkit.cli.exits import TABLE, problem
from drkit.core import errors
from storage_backends import errors as storage


def every(root: type[BaseException]) -> list[type[BaseException]]:
    return [root, *(below for child in root.__subclasses__() for below in every(child))]


def test_every_error_stands_in_the_table_with_its_own_code() -> None:
    ours = [kind for kind in every(errors.DrkitError) if kind.__module__ == errors.__name__]
    theirs = [kind for kind in every(storage.StorageError) if kind.__module__ == storage.__name__]
    families = {*ours, *storage.StorageError.__subclasses__()}
    assert families <= set(TABLE)
    assert all(any(base in families for base in kind.__mro__) for kind in theirs if kind is not storage.StorageError)
    for kind in ours:
        assert issubclass(kind, errors.DrkitError)
        assert TABLE[kind][0] == kind.code


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (storage.NotFound("x"), "missing", 5),
        (storage.AlreadyExists("x"), "conflict", 6),
        (storage.Unavailable("x"), "unreachable", 7),
        (storage.Denied("x"), "denied", 7),
        (storage.OutOfSpace("x", why="12 GiB wanted"), "no-space", 1),
        (storage.Damaged("x"), "damage", 9),
        (storage.NotThisTarget("x"), "not-this-target", 7),
        (storage.Unsupported("x"), "unsupported", 3),
        (OSError(errno.ENOSPC, "No space left on device", "/backup"), "no-space", 1),
        (KeyboardInterrupt(), "cancelled", 130),
        (ZeroDivisionError(), "internal", 1),
    ],
)
def test_storage_and_system(error: BaseException, code: str, status: int) -> None:
    found = problem(error)
    assert (found.code, found.exit) == (code, status)


def test_a_full_disk_names_its_place() -> None:
    assert problem(OSError(errno.ENOSPC, "No space left on device", "/backup")).where == "/backup"


def test_a_group_is_told_by_the_cause_that_says_most() -> None:
    group = ExceptionGroup("both", [ValueError("odd"), ExceptionGroup("in", [errors.Damage("a page")])])
    assert problem(group).code == "damage"


def test_further_causes_are_told() -> None:
    error = errors.Failed("first")
    error.add_note("also in copy/b: second")
    assert problem(error).also == ("also in copy/b: second",)


def test_a_new_kind_of_error_has_the_code_of_its_family() -> None:
    class Special(errors.Damage):
        pass

    assert problem(Special("x")).exit == 9
