"""The repository: targets that opened, keys, and what could not be reached. Opening creates nothing."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import NoReturn

from drkit.core.errors import ConfigError, Conflict, Damage, DrkitError, KeyMissing, Unreachable
from drkit.crypto.container import DataKey
from drkit.crypto.keys import Entropy, Ring
from drkit.crypto.slots import Secret
from drkit.repository.identity import Descriptor, SlotsGone, read_descriptor, unlock_target
from drkit.repository.layout import KEYS
from drkit.repository.pins import Pin, Pins
from drkit.repository.rescue import rescued
from drkit.repository.retirement import returned
from drkit.repository.target import Target
from storage_backends.errors import NotFound, NotThisTarget, StorageError

Problem = DrkitError | StorageError
_NOBODY = Pin("", "")


@dataclass(frozen=True, slots=True)
class Repository:
    """targets: those that opened, in configured order; absent: why each other one did not.

    rescued: those of `targets` that are only read, by their key slots, and what is wrong with their descriptor.
    """

    ring: Ring
    targets: Sequence[Target]
    absent: Mapping[str, Problem]
    data_key: DataKey = field(repr=False)
    rescued: Mapping[str, Problem] = field(default_factory=dict)

    def target(self, name: str) -> Target:
        for target in self.targets:
            if target.name == name:
                return target
        problem = self.absent.get(name)
        if problem is not None:
            raise problem
        raise Conflict(f"there is no target {name!r}", cure="the configuration names them: `drkit policy explain`")


def open_repository(
    targets: Sequence[Target],
    failed: Mapping[str, Problem],
    secret: Secret,
    pins: Pins,
    *,
    entropy: Entropy,
    unsaved: Callable[[Problem], None] | None = None,
    reading: bool = False,
) -> Repository:
    """Open on all targets that answer; `failed` are those whose backend could not even be made.

    reading: nothing will be written: where no target opens, one whose descriptor alone is damaged serves.

    Raises what kept the last one from opening when none did; KeyMissing and Conflict at once: they concern all.
    Pins what is new (durable); where that cannot be kept, `unsaved` is told, and without one it is raised. A target
    that answers as another one, or that was retired, is not used, and is in `absent`.
    """
    absent: dict[str, Problem] = dict(failed)
    descriptors: dict[str, Descriptor] = {}
    known = {
        pin.repository for name, pin in pins.targets.items() if name in failed or name in {t.name for t in targets}
    }
    for target in targets:
        try:
            descriptors[target.name] = _identify(target, pins, known)
        except (StorageError, DrkitError) as error:
            absent[target.name] = error
    opened = [t for t in targets if t.name in descriptors]
    if not opened:
        return _rescue(targets, absent, secret, pins, entropy) if reading else _fail(absent)
    if len({d.repository for d in descriptors.values()}) > 1:
        raise Conflict(
            "the targets belong to different repositories",
            where=", ".join(f"{n}: {d.repository.hex()[:8]}" for n, d in descriptors.items()),
            cure="`drkit init` joins an empty target; one of another repository needs a URL of its own",
        )
    ring = _unlock(secret, opened, descriptors, pins.epoch, absent)
    opened = [t for t in opened if t.name not in absent]
    idents = {t.name: descriptors[t.name].target.hex() for t in opened}
    refused, unasked = returned(ring, opened, idents, pins.retired)
    absent |= unasked
    absent |= refused
    opened = [t for t in opened if t.name not in absent]
    try:
        _remember(pins, ring, {t.name: descriptors[t.name] for t in opened}, {idents[name] for name in refused})
    except (ConfigError, StorageError) as error:
        if unsaved is None:
            raise
        unsaved(error)
    if not opened:
        raise _none(absent)
    for target in () if reading else opened:
        target.prove()
    return Repository(ring, tuple(opened), absent, DataKey(ring, entropy))


def _rescue(
    targets: Sequence[Target], absent: Mapping[str, Problem], secret: Secret, pins: Pins, entropy: Entropy
) -> Repository:
    """On targets whose descriptor alone is damaged, by what their key slots prove. Nothing is pinned.

    Raises as `open_repository` where none has a slot that opens.
    """
    proven: dict[str, Ring] = {}
    for target in targets:
        if isinstance(absent[target.name], Damage):
            with suppress(StorageError):
                ring = rescued(target, secret, pins.targets.get(target.name))
                if ring is not None and pins.targets.get(target.name, _NOBODY).target not in pins.retired:
                    proven[target.name] = ring
    if not proven:
        return _fail(absent)
    ring = max(proven.values(), key=lambda one: one.epoch)
    names = [name for name, one in proven.items() if one.repository == ring.repository]
    left = {name: problem for name, problem in absent.items() if name not in names}
    why = {name: absent[name] for name in names}
    return Repository(ring, tuple(t for t in targets if t.name in names), left, DataKey(ring, entropy), why)


def _fail(absent: Mapping[str, Problem]) -> NoReturn:
    raise _none(absent)


def refuse_strangers(targets: Sequence[Target], pins: Pins) -> None:
    """For who is about to make descriptors: an empty place where a target was before is an unmounted disk.

    Raises NotThisTarget where a target that this host has used is not there, or is another; Damage.
    """
    used = pins.used()
    for target in targets:
        if target.name not in used:
            continue
        try:
            _identify(target, pins, ())
        except NotThisTarget as error:
            cure = (
                "is the right disk mounted, the bucket right? a new place gets a name of its own; where the old one is "
            )
            cure += f"lost for good: `drkit target retire {target.name}`, or, without another target, remove it from "
            cure += "pins.json in the spool"
            raise NotThisTarget(error.what, where=error.where, why=error.why, cure=cure) from None


def _identify(target: Target, pins: Pins, known: Collection[str]) -> Descriptor:
    """The target's descriptor, compared with its pin; known: repositories (hex) that the configured targets pin."""
    pin = pins.targets.get(target.name)
    try:
        found = read_descriptor(target)
    except NotFound:
        raise NotThisTarget(
            "there is no repository",
            where=target.where,
            why="this host has used the target before" if pin else "the object 'repository' is missing",
            cure="is the disk mounted, the bucket right?" + ("" if pin else " a new target is made by `drkit init`"),
        ) from None
    if pin is not None and (pin.repository, pin.target) != (found.repository.hex(), found.target.hex()):
        raise NotThisTarget(
            "this is not the target that this host knows",
            where=target.where,
            why=f"it says {found.target.hex()[:8]} of repository {found.repository.hex()[:8]}",
            cure="is another disk mounted there? a wanted change: remove the target from pins.json in the spool",
        )
    if pin is None and known and found.repository.hex() not in known:
        raise NotThisTarget(
            "the target belongs to another repository than the other targets",
            where=target.where,
            why=f"it says {found.repository.hex()[:8]}, this host knows {', '.join(k[:8] for k in sorted(known))}",
            cure="one of another repository needs a configuration of its own",
        )
    return found


def _unlock(
    secret: Secret,
    opened: Sequence[Target],
    descriptors: Mapping[str, Descriptor],
    epoch: int,
    absent: dict[str, Problem],
) -> Ring:
    """The keys, from the first target that leads to `epoch` or a later one, else from the one that leads furthest.

    Every target is authenticated with them; those that do not are in `absent`.
    """
    ring: Ring | None = None
    locked: list[KeyMissing | Damage] = []
    for target in opened:
        try:
            found = unlock_target(secret, target, descriptors[target.name])
        except (KeyMissing, Damage) as error:  # of its slots: what it holds is as good with the keys of another target
            locked.append(error)
            continue
        except (StorageError, DrkitError) as error:
            absent[target.name] = error
            continue
        ring = found if ring is None or found.epoch > ring.epoch else ring
        if ring.epoch >= epoch:
            break
    if ring is None:
        raise _locked(locked, absent)
    for target in opened:
        try:
            descriptors[target.name].authenticate(ring)
        except DrkitError as error:
            absent[target.name] = error
    return ring


def _locked(errors: Sequence[KeyMissing | Damage], absent: Mapping[str, Problem]) -> Problem:
    """Why no target could be unlocked. A sound slot that does not open proves a wrong key; a damaged one nothing."""
    wrong = [error for error in errors if isinstance(error, KeyMissing) and not isinstance(error, SlotsGone)]
    damaged = [error for error in errors if isinstance(error, Damage)]
    if not errors or wrong:
        return wrong[-1] if wrong else _none(absent)
    why = "; ".join([*(str(error) for error in errors), *(f"{name}: {error}" for name, error in absent.items())])
    cure = f"put what was below {KEYS} back from any copy of a target, it is the same on all; without it no key opens"
    if absent:
        cure = f"bring {' or '.join(absent)} back, or {cure}"
    if damaged:
        return Damage("no target's key slots can be read", where=KEYS, why=why, cure=cure)
    return SlotsGone("no target has a key slot", where=KEYS, why=why, cure=cure)


def _remember(pins: Pins, ring: Ring, descriptors: Mapping[str, Descriptor], retired: Collection[str]) -> None:
    if ring.epoch < pins.epoch:
        raise Conflict(
            f"the repository shows key epoch {ring.epoch}, this host has seen {pins.epoch}",
            why="a target was rolled back to before a key rotation",
            cure="restore the key slots of the newer epoch from another target before anything is written",
        )
    news = {n: Pin(d.repository.hex(), d.target.hex()) for n, d in descriptors.items() if n not in pins.targets}
    if news or ring.epoch > pins.epoch or not pins.retired.issuperset(retired):
        pins.targets.update(news)
        pins.retired.update(retired)
        pins.epoch = ring.epoch
        pins.save()


def _none(absent: Mapping[str, Problem]) -> Problem:
    if len(absent) == 1:
        return next(iter(absent.values()))
    why = "; ".join(f"{name}: {error}" for name, error in absent.items()) or "none is configured"
    if absent and all(isinstance(error, Damage) for error in absent.values()):
        first = next(iter(absent.values()))
        return Damage(f"no target can be used: {first.what}", where=", ".join(absent), why=why, cure=first.cure)
    return Unreachable("no target can be used", why=why, cure="`drkit check` tries each of them")
