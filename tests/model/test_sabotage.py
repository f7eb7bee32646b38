"""Each rule matters: without it the protocol breaks a law, and the explorer shows how (`pytest -s` prints it)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from tests.model.explorer import Law
from tests.model.histories import HISTORIES, LONG
from tests.model.laws import Laws
from tests.model.world import PROPOSED, Rules

ADOPTS = "a backup adopts from one that expires"


@dataclass(frozen=True, slots=True)
class Sabotage:
    """Rules switched to the wrong side, the history that shows it, the law broken, a step that the trace must have."""

    history: str
    law: str
    step: str
    wrong: tuple[str, ...]

    @property
    def rules(self) -> Rules:
        return replace(PROPOSED, **{name: not getattr(PROPOSED, name) for name in self.wrong})


LAWS: dict[str, Callable[[Laws], Law]] = {
    "(a)": lambda laws: laws.whole,
    "(b)": lambda laws: laws.kept,
    "(b, adopted)": lambda laws: laws.adopted,
    "(c)": lambda laws: laws.buried,
    "(d)": lambda laws: laws.untorn,
    "(f)": lambda laws: laws.unreported,
    "(h)": lambda laws: laws.clean,
    "(i)": lambda laws: laws.on_hold,
    "(j)": lambda laws: laws.over,
}

SABOTAGES = {
    "no second look and no fence": Sabotage(ADOPTS, "(b, adopted)", "E: tombstones P/1", ("second_look", "fences")),
    "a lapsed lease counts as none": Sabotage(ADOPTS, "(b)", "runs out", ("fences",)),
    "manifest before its data": Sabotage(ADOPTS, "(a)", "W: creates manifest", ("manifest_last", "verdicts")),
    "manifest before the WAL": Sabotage(
        "WAL is archived meanwhile", "(a)", "W: creates the verdict", ("manifest_last",)
    ),
    "lease after the listings": Sabotage(
        ADOPTS,
        "(b, adopted)",
        "W: creates its lease",
        ("lease_before_listing", "looks_before_stop", "second_look"),
    ),
    "manifests listed before leases": Sabotage(ADOPTS, "(b)", "E: lists leases", ("leases_before_manifests",)),
    "data listed after leases": Sabotage(ADOPTS, "(b)", "E: tombstones W/1", ("data_before_leases",)),
    "data tombstoned before its backups": Sabotage(
        "a dead run is adopted", "(b)", "E: tombstones R/1", ("backups_first",)
    ),
    "a tombstone deleted to save an object": Sabotage(
        "two expirers of one backup", "(c)", "deletes the tombstone", ("tombstones_final",)
    ),
    "adoption through nothing in via": Sabotage(ADOPTS, "(b)", "E: tombstones P/1", ("lease_names_via",)),
    "no verdict": Sabotage("a first backup", "(f)", "W: creates manifest W", ("verdicts",)),
    "no grace": Sabotage("a restore reads what expires", "(d)", "misses data", ("grace",)),
    "WAL without a floor": Sabotage("WAL is archived meanwhile", "(b)", "tombstones wal/1", ("wal_floor",)),
    "copied manifest before its data": Sabotage(
        "a pending target is completed", "(a)", "C: creates the manifest", ("copy_data_first", "verdicts")
    ),
    "a copy ignores tombstones": Sabotage(
        "a copy meets tombstones", "(b)", "C: creates the verdict", ("copy_heeds_tombstones",)
    ),
    "a copy beside an expirer that knows one target and no fence": Sabotage(
        "a target dropped out of a backup", "(b)", "E: tombstones W/1", ("fences", "pending_is_not_dead")
    ),
    "a manifest deleted that a lease adopts through": Sabotage(
        "two rounds of expiry", "(b)", "E: deletes manifest Q", ("via_keeps_manifest", "second_look")
    ),
    "tombstones copied between targets": Sabotage(
        "two targets decided differently", "(b)", "C: copies tombstone", ("copies_every_tombstone",)
    ),
    "withdrawals copied between targets": Sabotage(
        "a withdrawal on one target", "(b)", "C: copies withdrawn", ("copies_withdrawals",)
    ),
    "a pending run taken for dead": Sabotage("a target dropped out of a backup", "(h)", "", ("pending_is_not_dead",)),
    "a run taken for dead that goes on elsewhere": Sabotage(
        "a target dropped out of a backup that goes on", "(h)", "E: withdraws W", ("looks_abroad",)
    ),
    "a backup removed while its heir is pending": Sabotage(
        "a pending target is completed", "(h)", "", ("pending_is_not_dead",)
    ),
    "a copy whose lease names only what lies there": Sabotage(
        "a copy into nothing of what expires", "(b)", "F: tombstones P/1", ("copy_names_runs",)
    ),
    "an expirer without a lease of its own": Sabotage(
        "a backup is put on hold while it expires", "(i)", "H: lists tombstones: in time", ("expirer_has_lease",)
    ),
    "a hold that does not wait for an expirer at work": Sabotage(
        "a backup is put on hold while it expires", "(i)", "H: lists tombstones: in time", ("hold_waits",)
    ),
    "a hold that only waits for a lease to run out": Sabotage(
        "a backup is put on hold while it expires", "(i)", "H: lists tombstones: in time", ("hold_stops_the_late",)
    ),
    "a held backup copied before its hold": Sabotage(
        "a copy of what is on hold, and its source is lost", "(i)", "E: tombstones backup P", ("copies_holds_first",)
    ),
    "a hold copied before its release": Sabotage(
        "a copy of what was on hold, and its source is lost",
        "(j)",
        "C: copies the hold of P",
        ("copies_releases_first",),
    ),
    "repair deletes, then creates": Sabotage("two repairers and expiry", "(b)", "deletes P/1", ("repair_replaces",)),
}


@pytest.mark.parametrize("name", SABOTAGES)
def test_the_sabotaged_protocol_is_caught(name: str) -> None:
    sabotage = SABOTAGES[name]
    outcome = HISTORIES[sabotage.history].judged(sabotage.rules, LAWS[sabotage.law])
    print(f"\n{name}, in: {sabotage.history}\n{outcome}")
    assert outcome.broken is not None, "the explorer did not notice"
    assert outcome.broken.startswith(sabotage.law)
    assert not sabotage.step or any(sabotage.step in step for step in outcome.trace)


@pytest.mark.torture
def test_a_copy_that_does_not_look_at_its_lease_before_the_manifest_is_caught() -> None:
    sabotage = Sabotage("", "(b)", "", ("copy_looks_at_lease",))
    history = LONG["a copy into nothing of what expires, two rounds there"]
    outcome = history.judged(sabotage.rules, LAWS[sabotage.law], 3_000_000)
    print(f"\n{outcome}")
    assert outcome.broken is not None and "(b) W was promised good on 1" in outcome.broken


@pytest.mark.parametrize(
    "wrong",
    [("fences",), ("lease_before_listing", "looks_before_stop"), ("second_look",), ("looks_before_stop",)],
)
def test_it_takes_every_one_of_those_rules_to_lose_adopted_data(wrong: tuple[str, ...]) -> None:
    """The sabotages above switch off several rules at once because each is a belt for the others."""
    sabotage = Sabotage(ADOPTS, "(b, adopted)", "", wrong)
    outcome = HISTORIES[ADOPTS].judged(sabotage.rules, LAWS[sabotage.law])
    assert outcome.broken is None, f"\n{outcome}"
