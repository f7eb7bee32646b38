"""How many targets must have stored something before it counts as safe."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Literal

Wanted = int | Literal["quorum", "all"] | None


@dataclass(frozen=True, slots=True)
class AckRule:
    """needed: of all targets · apart_needed: of those that do not share a device with the server.

    A target on the device of the data folder or of pg_wal dies with it and never stands in for one apart.
    """

    targets: frozenset[str]
    apart: frozenset[str]
    needed: int
    apart_needed: int
    reasons: tuple[str, ...] = ()

    def met(self, acknowledged: Collection[str]) -> bool:
        """Whether these targets suffice; unknown names are no targets."""
        stored = self.targets.intersection(acknowledged)
        return len(stored) >= self.needed and len(stored & self.apart) >= self.apart_needed

    def reachable(self, alive: Collection[str]) -> bool:
        """Whether it can be met at all while only these targets answer."""
        return self.met(alive)


def rule_for(wanted: Wanted, devices: Mapping[str, str | None], server_devices: Collection[str] = ()) -> AckRule:
    """The rule for targets (name -> device, None where unknown) beside a server on `server_devices`.

    wanted None: one with up to two targets that count, a majority of them from three on. Where every target
    shares a device with the server there is nothing better to wait for: all count, and the reasons say so.
    Raises ValueError for a number that these targets cannot reach.
    """
    if not devices:
        raise ValueError("there is no target that could acknowledge")
    beside = sorted(name for name, device in devices.items() if device is not None and device in server_devices)
    apart = frozenset(devices) - frozenset(beside)
    reasons = tuple(f"{name} is on a device of the server and does not count" for name in beside)
    if not apart:
        reasons += ("no target is apart from the server: one lost disk loses everything",)
    counting = len(apart) or len(devices)
    majority = counting // 2 + 1
    if wanted is None:
        needed = 1 if counting <= 2 else majority
    elif wanted == "quorum":
        needed = majority
    elif wanted == "all":
        needed = len(devices)
    else:
        needed = wanted
    if not 1 <= needed <= len(devices):
        raise ValueError(f"{needed} acknowledgements cannot come from {len(devices)} targets")
    apart_needed = min(needed, len(apart))
    if apart and needed > len(apart):
        reasons += (f"{needed} are wanted, but {len(apart)} of the targets are apart from the server",)
    return AckRule(frozenset(devices), apart, needed, apart_needed, reasons)
