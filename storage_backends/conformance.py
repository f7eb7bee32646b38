"""The suite that every backend must pass, for backends of this project and of others.

With pytest, where `subject` makes a `Subject` on a new, empty target for each test:

    @pytest.mark.parametrize("check", conformance.CHECKS, ids=lambda check: check.__name__)
    def test_conformance(check: conformance.Check, subject: conformance.Subject) -> None:
        check(subject)

A check raises AssertionError; one that does not apply to a subject returns at once.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, timedelta

from storage_backends import conformance_replacing
from storage_backends.api import Key, ObjectInfo, StorageBackend, key
from storage_backends.errors import (
    AlreadyExists,
    NotFound,
    NotThisTarget,
    StorageError,
    Unavailable,
    Unsupported,
)

_WRITERS = 8


@dataclass(frozen=True, slots=True)
class Subject:
    """What is examined.

    open: opens the same, at first empty target; a new backend each time. in_processes: `open` can be pickled
    and other processes see the same target. big_bytes: a size that the backend does not write in one piece.
    unreachable: opens a target whose store does not answer. missing: opens one whose root is not there, or
    raises NotThisTarget itself.
    """

    open: Callable[[], StorageBackend]
    in_processes: bool = False
    big_bytes: int = 1024 * 1024
    unreachable: Callable[[], StorageBackend] | None = None
    missing: Callable[[], StorageBackend] | None = None


Check = Callable[[Subject], None]


def put(backend: StorageBackend, name: str, data: bytes, size_known: bool = True) -> ObjectInfo:
    """Create one object of a few bytes."""
    with backend.create(key(name), len(data) if size_known else None) as upload:
        upload.write(data)
        return upload.commit()


def get(backend: StorageBackend, name: str, start: int = 0, length: int | None = None) -> bytes:
    """Read one object, or a range of it."""
    with backend.open(key(name), start, length) as reader:
        return reader.read()


def _names(infos: Iterable[ObjectInfo]) -> list[str]:
    return [info.key for info in infos]


def _refused(kind: type[StorageError], call: Callable[[], object]) -> StorageError:
    try:
        call()
    except kind as error:
        return error
    raise AssertionError(f"{kind.__name__} was expected, and nothing was raised")


def reads_what_was_written(subject: Subject) -> None:
    backend = subject.open()
    for name, data in {"t/one": b"one", "t/empty": b"", "t/zeros": bytes(70_000)}.items():
        info = put(backend, name, data)
        assert (info.key, info.size_bytes) == (name, len(data))
        assert get(backend, name) == data
        found = backend.stat(key(name))
        assert (found.key, found.size_bytes) == (name, len(data))


def other_backends_see_it(subject: Subject) -> None:
    put(subject.open(), "t/one", b"one")
    assert get(subject.open(), "t/one") == b"one"


def size_may_be_unknown(subject: Subject) -> None:
    backend = subject.open()
    assert put(backend, "t/one", b"one", size_known=False).size_bytes == 3
    assert get(backend, "t/one") == b"one"
    assert put(backend, "t/empty", b"", size_known=False).size_bytes == 0


def buffers_may_be_reused(subject: Subject) -> None:
    backend = subject.open()
    buffer = bytearray(b"first ")
    with backend.create(key("t/reused")) as upload:
        upload.write(buffer)
        buffer[:] = b"second"
        upload.write(memoryview(buffer)[:3])
        upload.write(b"")
        upload.commit()
    assert get(backend, "t/reused") == b"first sec"


def visible_only_at_commit(subject: Subject) -> None:
    backend = subject.open()
    with backend.create(key("t/late"), 6) as upload:
        upload.write(b"not ye")
        _refused(NotFound, lambda: backend.stat(key("t/late")))
        _refused(NotFound, lambda: backend.open(key("t/late")))
        assert _names(backend.list("t/")) == []
        upload.commit()
    assert _names(backend.list("t/")) == ["t/late"]


def never_overwrites(subject: Subject) -> None:
    backend = subject.open()
    put(backend, "t/one", b"first")
    for other in (b"second", b"first", b""):
        _refused(AlreadyExists, lambda other=other: put(backend, "t/one", other))  # type: ignore[misc]
    assert get(backend, "t/one") == b"first"


def who_commits_second_loses(subject: Subject) -> None:
    backend = subject.open()
    with backend.create(key("t/race")) as early, backend.create(key("t/race")) as late:
        early.write(b"early")
        late.write(b"late")
        late.commit()
        _refused(AlreadyExists, early.commit)
    assert get(backend, "t/race") == b"late"


def abort_leaves_nothing(subject: Subject) -> None:
    backend = subject.open()
    upload = backend.create(key("t/gone"))
    upload.write(b"gone")
    upload.abort()
    upload.abort()
    _refused(NotFound, lambda: backend.stat(key("t/gone")))
    assert _names(backend.list("t/")) == []
    put(backend, "t/gone", b"anew")


def leaving_without_commit_aborts(subject: Subject) -> None:
    backend = subject.open()
    with backend.create(key("t/gone")) as upload:
        upload.write(b"gone")
    _refused(NotFound, lambda: backend.stat(key("t/gone")))
    assert _names(backend.list("t/")) == []


def abort_after_commit_does_nothing(subject: Subject) -> None:
    backend = subject.open()
    with backend.create(key("t/one")) as upload:
        upload.write(b"one")
        upload.commit()
        upload.abort()
    assert get(backend, "t/one") == b"one"


def ranges(subject: Subject) -> None:
    backend = subject.open()
    data = bytes(range(256)) * 16
    put(backend, "t/ranges", data)
    for start, length in [(0, 1), (0, 4096), (10, 100), (4095, 1), (4000, 5000), (7, None), (0, None), (9, 0)]:
        stop = len(data) if length is None else start + length
        assert get(backend, "t/ranges", start, length) == data[start:stop], (start, length)
    for start, length in [(4096, None), (4096, 10), (100_000, 1), (100_000, None)]:
        assert get(backend, "t/ranges", start, length) == b"", (start, length)
    _refused(NotFound, lambda: backend.open(key("t/absent"), 5, 0))


def ranges_of_an_empty_object(subject: Subject) -> None:
    backend = subject.open()
    put(backend, "t/empty", b"")
    for start, length in [(0, None), (0, 0), (0, 10), (5, None)]:
        assert get(backend, "t/empty", start, length) == b"", (start, length)


def reads_are_never_short(subject: Subject) -> None:
    backend = subject.open()
    data = bytes(range(251)) * 1000
    put(backend, "t/steps", data)
    with backend.open(key("t/steps"), 1, len(data) - 2) as reader:
        steps = [reader.read(size) for size in (0, 1, 100_000, 65_536)]
        assert [len(step) for step in steps] == [0, 1, 100_000, 65_536]
        assert b"".join(steps) + reader.read() == data[1:-1]
        assert reader.read() == reader.read(1) == b""


def big_objects(subject: Subject) -> None:
    backend = subject.open()
    block = bytes(range(256)) * 256
    data = (block * (subject.big_bytes // len(block) + 2))[: subject.big_bytes + 12_345]
    for name, size_known in (("t/big", True), ("t/big-unknown", False)):
        with backend.create(key(name), len(data) if size_known else None) as upload:
            for at in range(0, len(data), 300_000):
                upload.write(data[at : at + 300_000])
            _refused(NotFound, lambda name=name: backend.stat(key(name)))  # type: ignore[misc]
            assert upload.commit().size_bytes == len(data)
        assert backend.stat(key(name)).size_bytes == len(data)
        assert get(backend, name) == data
        assert get(backend, name, len(data) - 7, 100) == data[-7:]


def big_objects_never_overwrite(subject: Subject) -> None:
    backend = subject.open()
    put(backend, "t/big", b"small")
    upload = None
    try:
        upload = backend.create(key("t/big"), subject.big_bytes + 1)
        upload.write(bytes(subject.big_bytes + 1))
        upload.commit()
    except AlreadyExists:
        pass
    else:
        raise AssertionError("a big object overwrote a small one")
    finally:
        if upload is not None:
            upload.abort()
    assert get(backend, "t/big") == b"small"


def a_big_object_may_be_dropped(subject: Subject) -> None:
    backend = subject.open()
    with backend.create(key("t/big"), subject.big_bytes + 1) as upload:
        upload.write(bytes(subject.big_bytes + 1))
    assert _names(backend.list("t/")) == []


# In the order of their bytes: '+' '-' '.' come before '/', digits and '=' after it, then A-Z _ a-z.
_ORDERED = [
    "t/a+b",
    "t/a-b",
    "t/a-b.d/x",
    "t/a.b",
    "t/a/b",
    "t/a/b-c/d",
    "t/a/b.c/d",
    "t/a/c/d/e",
    "t/a0",
    "t/a=",
    "t/aB",
    "t/a_b",
    "t/ab/c",
    "t/b",
]


def lists_in_byte_order(subject: Subject) -> None:
    backend = subject.open()
    names = _ORDERED
    assert names == sorted(names)
    for name in reversed(names):
        put(backend, name, name.encode())
    assert _names(backend.list("t/")) == names
    assert [info.size_bytes for info in backend.list("t/")] == [len(name) for name in names]
    for prefix in ["", "t", "t/a", "t/a/", "t/a/b", "t/a/b.", "t/a-", "t/ab", "t/b", "t/c", "u", "t/b/", "t/a-b."]:
        expected = [name for name in names if name.startswith(prefix)]
        found = [name for name in _names(backend.list(prefix)) if name.startswith("t/")]
        assert found == expected, prefix


def lists_after_a_key(subject: Subject) -> None:
    backend = subject.open()
    names = _ORDERED
    for name in names:
        put(backend, name, b"")
    for prefix in ("t/", "t/a", "t/a/"):
        for after in [*names, "t/", "t/a", "t/a/", "t/a/b-", "t/a/z", "t/a.", "s", "t/a/b-c/", "u"]:
            expected = [name for name in names if name.startswith(prefix) and name > after]
            assert _names(backend.list(prefix, after)) == expected, (prefix, after)


def odd_prefixes_list_nothing(subject: Subject) -> None:
    backend = subject.open()
    put(backend, "t/one", b"")
    for prefix in ("t/one/", "t/onex", "t//", "t/../t/", "../", "t/.one", "/", "t/ /"):
        assert _names(backend.list(prefix)) == [], prefix


def lists_many(subject: Subject) -> None:
    backend = subject.open()
    names = [f"t/many/{number:05}" for number in range(1100)]
    with ThreadPoolExecutor(_WRITERS) as pool:
        list(pool.map(lambda name: put(backend, name, b""), names))
    assert _names(backend.list("t/many/")) == names
    assert _names(backend.list("t/many/", "t/many/00049")) == names[50:]


def delete_is_idempotent(subject: Subject) -> None:
    backend = subject.open()
    put(backend, "t/one", b"one")
    put(backend, "t/one-more", b"more")
    backend.delete(key("t/one"))
    backend.delete(key("t/one"))
    backend.delete(key("t/never/there"))
    _refused(NotFound, lambda: backend.stat(key("t/one")))
    assert _names(backend.list("t/")) == ["t/one-more"]
    put(backend, "t/one", b"anew")
    assert get(backend, "t/one") == b"anew"


def a_deleted_object_is_not_misread(subject: Subject) -> None:
    """Who reads while it is deleted gets all its bytes, or an error."""
    backend = subject.open()
    data = bytes(range(256)) * 4096
    put(backend, "t/one", data)
    with backend.open(key("t/one")) as reader:
        first = reader.read(1000)
        backend.delete(key("t/one"))
        try:
            assert first + reader.read() == data
        except StorageError:
            pass


def absence_is_not_found(subject: Subject) -> None:
    backend = subject.open()
    assert list(backend.list("t/")) == []
    put(backend, "t/a/b", b"")
    for name in ("t/absent", "absent", "t/a/b/c", "t/a", "t"):
        _refused(NotFound, lambda name=name: backend.stat(key(name)))  # type: ignore[misc]
        _refused(NotFound, lambda name=name: backend.open(key(name)))  # type: ignore[misc]
        backend.delete(key(name))
    assert get(backend, "t/a/b") == b""


def _asked(backend: StorageBackend) -> dict[str, Callable[[], object]]:
    return {
        "stat": lambda: backend.stat(key("t/one")),
        "open": lambda: backend.open(key("t/one")),
        "open nothing": lambda: backend.open(key("t/one"), 0, 0),
        "list": lambda: list(backend.list("t/")),
        "delete": lambda: backend.delete(key("t/one")),
        "create": lambda: put(backend, "t/one", b"one"),
    }


def silence_is_unavailable(subject: Subject) -> None:
    if subject.unreachable is None:
        return
    for verb, call in _asked(subject.unreachable()).items():
        error = _refused(Unavailable, call)
        assert error.retryable and error.where, verb


def a_missing_root_is_not_this_target(subject: Subject) -> None:
    if subject.missing is None:
        return
    try:
        backend = subject.missing()
    except NotThisTarget:
        return
    for call in _asked(backend).values():
        _refused(NotThisTarget, call)


def bad_keys_are_refused(subject: Subject) -> None:
    backend = subject.open()
    bad = ["", "/", "/a", "a/", "a//b", ".", "..", "a/../b", "../a", ".a", "a/.b", "a b", "a\0b", "a\n", "a:b"]
    bad += ["ä", "a/名", "a\\b", "a%2Fb", "a.tmp", "a.tmp/b", "a/b.tmp", "~a", "a*", "x" * 513]
    for name in bad:
        _refused(Unsupported, lambda name=name: key(name))  # type: ignore[misc]
        forged = Key(name)
        _refused(Unsupported, lambda forged=forged: backend.create(forged))  # type: ignore[misc]
        _refused(Unsupported, lambda forged=forged: backend.open(forged))  # type: ignore[misc]
        _refused(Unsupported, lambda forged=forged: backend.stat(forged))  # type: ignore[misc]
        _refused(Unsupported, lambda forged=forged: backend.delete(forged))  # type: ignore[misc]


def times_are_aware_and_the_stores_own(subject: Subject) -> None:
    backend = subject.open()
    first = put(backend, "t/one", b"one")
    second = put(backend, "t/two", b"two")
    listed = list(backend.list("t/"))
    for made, found in zip((first, second), listed, strict=True):
        assert made.modified_at.tzinfo is UTC and found.modified_at.tzinfo is UTC
        assert abs(made.modified_at - found.modified_at) <= timedelta(seconds=2)
        looked_up = backend.stat(found.key)
        assert abs(found.modified_at - looked_up.modified_at) < timedelta(seconds=1)


def _try_to_create(backend: StorageBackend, name: str, data: bytes) -> bool:
    try:
        put(backend, name, data)
    except AlreadyExists:
        return False
    return True


def one_of_many_threads_wins(subject: Subject) -> None:
    backend = subject.open()
    put(backend, "t/warm", b"")
    for turn in range(5):
        name = f"t/race/{turn}"
        bodies = [f"writer {number}".encode() * 100 for number in range(_WRITERS)]
        with ThreadPoolExecutor(_WRITERS) as pool:
            won = list(pool.map(lambda body: _try_to_create(backend, name, body), bodies))  # noqa: B023
        assert sum(won) == 1, won
        assert get(backend, name) == bodies[won.index(True)]


def _create_all(open_backend: Callable[[], StorageBackend], writer: int, names: list[str]) -> list[bool]:
    backend = open_backend()
    return [_try_to_create(backend, name, f"writer {writer}".encode()) for name in names]


def one_of_two_processes_wins(subject: Subject) -> None:
    if not subject.in_processes:
        return
    names = [f"t/race/{number}" for number in range(40)]
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        runs = [pool.submit(_create_all, subject.open, writer, names) for writer in range(2)]
        won = [run.result() for run in runs]
    backend = subject.open()
    for name, first, second in zip(names, *won, strict=True):
        assert first != second, name
        assert get(backend, name) == (b"writer 0" if first else b"writer 1")


def traits_are_consistent(subject: Subject) -> None:
    backend = subject.open()
    put(backend, "t/one", b"one")
    traits = backend.traits
    assert traits.scheme and traits.device and backend.url.startswith(traits.scheme + ":")
    assert traits.atomic_create_max_bytes <= traits.max_object_bytes
    assert traits.conditional_create == (traits.atomic_create_max_bytes > 0)
    assert subject.open().url == backend.url
    backend.close()


CHECKS: tuple[Check, ...] = (
    reads_what_was_written,
    other_backends_see_it,
    size_may_be_unknown,
    buffers_may_be_reused,
    visible_only_at_commit,
    never_overwrites,
    who_commits_second_loses,
    abort_leaves_nothing,
    leaving_without_commit_aborts,
    abort_after_commit_does_nothing,
    ranges,
    ranges_of_an_empty_object,
    reads_are_never_short,
    big_objects,
    big_objects_never_overwrite,
    a_big_object_may_be_dropped,
    lists_in_byte_order,
    lists_after_a_key,
    odd_prefixes_list_nothing,
    lists_many,
    delete_is_idempotent,
    a_deleted_object_is_not_misread,
    absence_is_not_found,
    silence_is_unavailable,
    a_missing_root_is_not_this_target,
    bad_keys_are_refused,
    times_are_aware_and_the_stores_own,
    one_of_many_threads_wins,
    one_of_two_processes_wins,
    traits_are_consistent,
    *conformance_replacing.CHECKS,
)
