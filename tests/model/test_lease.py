"""The one case where a listing that is not atomic matters: an object replaced while it is listed."""

from __future__ import annotations

from itertools import permutations

from tests.model.explorer import explore
from tests.model.lease import Lister, Renewer, never_missed
from tests.model.world import Thing, World

ONE = World((frozenset({Thing("lease", "1")}),))


def test_a_listing_in_key_order_never_misses_a_lease() -> None:
    for renewals in (2, 3, 4):
        order = tuple(str(epoch) for epoch in range(1, renewals + 1))
        outcome = explore(ONE, [Renewer(renewals, behind=1), Lister(order)], [never_missed], 10_000)
        assert outcome.broken is None, f"\n{outcome}"


def test_a_listing_in_folder_order_misses_a_lease_whose_renewal_deletes_the_epoch_before() -> None:
    outcome = explore(ONE, [Renewer(2, behind=1), Lister(("2", "1"))], [never_missed], 10_000)
    print(f"\n{outcome}")
    assert outcome.broken is not None


def test_it_misses_none_when_a_renewal_keeps_the_epoch_before() -> None:
    """At most one renewal falls into a listing: a listing is shorter than the time between two renewals."""
    both = World((frozenset({Thing("lease", "0"), Thing("lease", "1")}),))
    for order in permutations(("0", "1", "2")):
        outcome = explore(both, [Renewer(2, behind=2), Lister(order)], [never_missed], 10_000)
        assert outcome.broken is None, f"\n{outcome}"
