"""The part of the conformance suite that is about replacing creates, which repair makes."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

from storage_backends.api import ObjectInfo, StorageBackend, key
from storage_backends.errors import AlreadyExists, NotFound, StorageError, Unavailable

_REPAIRERS = 4
_TRIES = 20


class Opens(Protocol):
    """The subject, as far as it is needed here."""

    @property
    def open(self) -> Callable[[], StorageBackend]: ...
    @property
    def big_bytes(self) -> int: ...


def _put(backend: StorageBackend, data: bytes, replacing: ObjectInfo | None = None) -> ObjectInfo:
    with backend.create(key("t/one"), len(data), replacing=replacing) as upload:
        for at in range(0, len(data), 1 << 20):
            upload.write(data[at : at + (1 << 20)])
        return upload.commit()


def _get(backend: StorageBackend) -> bytes:
    with backend.open(key("t/one")) as reader:
        return reader.read()


def _refused(kind: type[StorageError], call: Callable[[], object]) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was expected, and nothing was raised")


def replaces_what_it_names(subject: Opens) -> None:
    """As commit, stat and list tell of it."""
    backend = subject.open()
    told = _put(backend, b"damaged")
    for data in (b"sound", b"", b"longer than it was"):
        made = _put(backend, data, told)
        assert (made.key, made.size_bytes, _get(backend)) == ("t/one", len(data), data)
        told = backend.stat(key("t/one"))
        made = _put(backend, b"between", told)
        (told,) = backend.list("t/")
        assert told.size_bytes == 7
    assert [info.key for info in backend.list("t/")] == ["t/one"]


def versions_tell_objects_apart(subject: Opens) -> None:
    """Three ways to ask tell the same version; another object under the key has another one."""
    backend = subject.open()
    made = _put(backend, b"damaged")
    (listed,) = backend.list("t/")
    assert made.version and made.version == backend.stat(key("t/one")).version == listed.version
    assert _put(backend, b"changed", made).version != made.version


def replaces_nothing_else(subject: Opens) -> None:
    backend = subject.open()
    first = _put(backend, b"first")
    backend.delete(key("t/one"))
    _refused(NotFound, lambda: _put(backend, b"sound", first))
    _refused(NotFound, lambda: backend.stat(key("t/one")))
    _put(backend, b"healed by another")
    _refused(AlreadyExists, lambda: _put(backend, b"sound", first))
    assert _get(backend) == b"healed by another"
    _refused(AlreadyExists, lambda: _put(backend, b"sound"))


def the_old_one_is_there_until_commit(subject: Opens) -> None:
    backend = subject.open()
    first = _put(backend, b"first")
    with backend.create(key("t/one"), 5, replacing=first) as upload:
        upload.write(b"soun")
        assert _get(backend) == b"first"
    assert _get(backend) == b"first", "left without commit"
    with backend.create(key("t/one"), 5, replacing=first) as upload:
        upload.write(b"sound")
        upload.abort()
    assert _get(backend) == b"first", "aborted"
    assert backend.stat(key("t/one")).version == first.version


def who_replaces_second_is_told(subject: Opens) -> None:
    backend = subject.open()
    first = _put(backend, b"first")
    with backend.create(key("t/one"), replacing=first) as early, backend.create(key("t/one"), replacing=first) as late:
        early.write(b"early")
        late.write(b"later")
        late.commit()
        _refused(AlreadyExists, early.commit)
    assert _get(backend) == b"later"


def a_replacing_one_that_lost_its_object_leaves_nothing(subject: Opens) -> None:
    backend = subject.open()
    first = _put(backend, b"first")
    with backend.create(key("t/one"), replacing=first) as upload:
        upload.write(b"sound")
        backend.delete(key("t/one"))
        _refused(NotFound, upload.commit)
    assert [info.key for info in backend.list("t/")] == []


def big_ones_replace_and_are_replaced(subject: Opens) -> None:
    backend = subject.open()
    data = (b"0123456789abcdef" * (subject.big_bytes // 16 + 1))[: subject.big_bytes + 5]
    first = _put(backend, b"small")
    big = _put(backend, data, first)
    assert _get(backend) == data
    _refused(AlreadyExists, lambda: _put(backend, data[::-1], first))
    assert _get(backend) == data
    _put(backend, b"small again", big)
    assert _get(backend) == b"small again"


def repairers_at_once_leave_a_sound_one(subject: Opens) -> None:
    """Where the store itself refuses the second one, one wins at most; the object is sound in any case.

    A store may answer that it is too busy with others' writes (Ceph's gateway: HTTP 500): then they try again.
    """
    backend = subject.open()
    for turn in range(5):
        if turn:
            backend.delete(key("t/one"))
        damaged = _put(backend, b"damaged %d" % turn)
        sound = b"sound %d" % turn * 50

        def heal(_: int, damaged: ObjectInfo = damaged, sound: bytes = sound) -> bool:
            for _ in range(_TRIES):
                try:
                    _put(backend, sound, damaged)
                except AlreadyExists:
                    return False
                except Unavailable:
                    continue
                return True
            return False

        with ThreadPoolExecutor(_REPAIRERS) as pool:
            won = list(pool.map(heal, range(_REPAIRERS)))
        assert _get(backend) == sound
        assert not backend.traits.conditional_replace or won.count(True) <= 1, won


CHECKS = (
    replaces_what_it_names,
    versions_tell_objects_apart,
    replaces_nothing_else,
    the_old_one_is_there_until_commit,
    who_replaces_second_is_told,
    a_replacing_one_that_lost_its_object_leaves_nothing,
    big_ones_replace_and_are_replaced,
    repairers_at_once_leave_a_sound_one,
)
