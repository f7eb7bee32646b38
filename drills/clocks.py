"""The clocks T0 to T12 of a drill: stamped once each by one monotonic clock, told relative to the disaster."""

from __future__ import annotations

from collections.abc import Callable

from drills.report.model import CLOCKS, Instant

NOT_REACHED = "the drill did not get that far"
_ORDER = {clock: number for number, clock in enumerate(CLOCKS)}


class Clocks:
    """Not thread-safe. The first stamp of a clock counts.

    allowance_s: what detecting and deciding (T1, T2) are declared to take, 0.0: nothing is declared. A drill decides at
    once, so all behind T2 is told that much later than it was stamped: as it would have been.
    """

    def __init__(self, monotonic: Callable[[], float], allowance_s: float = 0.0) -> None:
        self._monotonic, self.allowance_s = monotonic, allowance_s
        self._at: dict[str, float] = {}
        self._why: dict[str, str] = {}

    def stamp(self, clock: str, at_s: float | None = None) -> float:
        """It happened now, or at an instant of the same clock; the instant that counts."""
        assert clock in _ORDER
        return self._at.setdefault(clock, self._monotonic() if at_s is None else at_s)

    def omit(self, clock: str, why: str) -> None:
        """It is not measured, for this reason."""
        self._why[clock] = why

    def since_t0(self, clock: str) -> float | None:
        """Seconds behind T0, the allowance included; None where it was not stamped."""
        if clock not in self._at or "T0" not in self._at:
            return None
        declared_s = self.allowance_s if _ORDER[clock] > _ORDER["T2"] else 0.0
        return self._at[clock] - self._at["T0"] + declared_s

    def instants(self) -> tuple[Instant, ...]:
        """All thirteen, in order."""
        return tuple(self._instant(clock) for clock in CLOCKS)

    def _instant(self, clock: str) -> Instant:
        at_s = self.since_t0(clock)
        if at_s is not None:
            return Instant(clock, at_s)
        if clock in ("T1", "T2") and "T0" in self._at:
            return self._allowance(clock)
        return Instant(clock, None, self._why.get(clock, NOT_REACHED))

    def _allowance(self, clock: str) -> Instant:
        if not self.allowance_s:
            return Instant(clock, None, "not measured, and no allowance is declared: the drill knew at once")
        if clock == "T1":
            return Instant(clock, None, "within the allowance for detecting and deciding")
        return Instant(clock, self.allowance_s, "declared for detecting and deciding, not measured", declared=True)
