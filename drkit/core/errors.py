"""The tree of drkit's errors; each has a stable code, which `drkit.cli.exits` maps to an exit code.

    DrkitError              code · what · where · why · cure · retryable        exit
    |- UsageError           usage          a flag or argument is wrong             2
    |- ConfigError          config         the configuration is wrong              3
    |- Refused              refused        preflight said no; nothing was touched  4
    |- Missing              missing        no such backup, point, name, cluster    5
    |- Conflict             conflict       held by someone else, other content     6
    |- Unreachable          unreachable    a target or the server cannot be asked  7
    |- KeyMissing           key            a key is missing or wrong               8
    |- Damage               damage         content is not what was written         9
    |- PromiseBroken        promise        done, but short of the policy          10
    |- Failed               failed         the job did not succeed                 1
    |  `- Cancelled         cancelled      a signal or a deadline ended it         1
    `- (StorageError, of storage_backends, is translated where a job meets it)

Missing ('looked, not there') and Unreachable ('could not look') are never exchanged.
"""

from __future__ import annotations


class DrkitError(Exception):
    """what: the thing that failed · where: path, target or cluster · why: the cause · cure: a command or question."""

    code: str = "failed"
    retryable: bool = False

    def __init__(self, what: str, *, where: str = "", why: str = "", cure: str = "") -> None:
        super().__init__(what)
        self.what, self.where, self.why, self.cure = what, where, why, cure

    def __str__(self) -> str:
        text = self.what
        if self.where:
            text += f" ({self.where})"
        if self.why:
            text += f": {self.why}"
        return text


class UsageError(DrkitError):
    code = "usage"


class ConfigError(DrkitError):
    code = "config"


class Refused(DrkitError):
    code = "refused"


class Missing(DrkitError):
    code = "missing"


class Conflict(DrkitError):
    code = "conflict"


class Unreachable(DrkitError):
    code = "unreachable"
    retryable = True


class KeyMissing(DrkitError):
    code = "key"


class Damage(DrkitError):
    code = "damage"


class PromiseBroken(DrkitError):
    code = "promise"


class Failed(DrkitError):
    code = "failed"


class Cancelled(Failed):
    code = "cancelled"
