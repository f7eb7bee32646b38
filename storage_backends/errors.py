"""The tree of storage errors.

    StorageError                what, where, why, cure; `retryable`: the same call may go through later
    |- NotFound                 looked, and it is not there
    |- AlreadyExists            a create met an object of that key; the stored one is untouched
    |- Unavailable              could not look: network, time-out, overload           (retryable)
    |  `- Resumable             the same, and the upload is intact: repeat the call
    |- Denied                   the credentials may not do this
    |- OutOfSpace               the store is full, or a quota is spent
    |- Damaged                  the store itself says that what it holds is not what was written
    |- NotThisTarget            the folder or bucket is missing or is another one (an unmounted disk)
    `- Unsupported              the store cannot do what is asked (conditions, size, key)

'Not found' and 'could not look' are different types, always: who turns the second into the first loses data.
"""

from __future__ import annotations


class StorageError(Exception):
    """Base of all errors of this package.

    what:  the operation that failed, with the key ("create packs/ab/cd")
    where: the target's URL, without credentials
    why:   the cause, in the store's own words where it gave any
    cure:  a command or a question that helps, or ""
    """

    retryable: bool = False

    def __init__(self, what: str, *, where: str = "", why: str = "", cure: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.cure = what, where, why, cure

    def __str__(self) -> str:
        text = self.what
        if self.where:
            text += f" at {self.where}"
        if self.why:
            text += f": {self.why}"
        return text


class NotFound(StorageError):
    """The store was asked and answered that there is no such object."""


class AlreadyExists(StorageError):
    """A create lost: an object of that key is there and was not touched."""


class Unavailable(StorageError):
    """The store could not be asked, or did not answer; nothing is known about the object."""

    retryable = True


class Resumable(Unavailable):
    """Part of an upload did not get through; its bytes are kept: write(b"") or commit() sends them again."""


class Denied(StorageError):
    """The store refused these credentials for this operation."""


class OutOfSpace(StorageError):
    """No room: the message names how much was wanted and how much is free, where the store tells."""


class Damaged(StorageError):
    """The store reports that its own copy does not match what was written."""


class NotThisTarget(StorageError):
    """The root of the target (folder, bucket) is missing: an unmounted disk, a wrong name; never 'empty'."""


class Unsupported(StorageError):
    """The store cannot do this at all; retrying does not help."""
