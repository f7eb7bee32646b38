"""How many acknowledgements are enough."""

from itertools import chain, combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.acks import AckRule, Wanted, rule_for

names = st.sampled_from(["a", "b", "c", "d", "e"])
devices = st.dictionaries(names, st.sampled_from(["data", "s3", "disk2", None]), min_size=1)


def rule_or_none(wanted: Wanted, targets: dict[str, str | None]) -> AckRule | None:
    try:
        return rule_for(wanted, targets, {"data"})
    except ValueError:
        return None


def subsets(members: frozenset[str]) -> list[frozenset[str]]:
    sizes = range(len(members) + 1)
    return [frozenset(c) for c in chain.from_iterable(combinations(sorted(members), n) for n in sizes)]


wanteds = st.one_of(st.none(), st.sampled_from(["quorum", "all"]), st.integers(min_value=1, max_value=6))


@pytest.mark.parametrize(
    ("wanted", "targets", "needed"),
    [(None, 1, 1), (None, 2, 1), (None, 3, 2), (None, 5, 3), ("quorum", 2, 2), ("all", 3, 3), (2, 3, 2)],
)
def test_numbers(wanted: Wanted, targets: int, needed: int) -> None:
    assert rule_for(wanted, {f"t{n}": f"d{n}" for n in range(targets)}).needed == needed


def test_a_target_on_the_servers_device_never_stands_in() -> None:
    rule = rule_for(1, {"local": "data", "vault": "s3"}, {"data"})
    assert not rule.met({"local"})
    assert rule.met({"vault"})
    assert "local" in rule.reasons[0]
    both = rule_for(2, {"local": "data", "vault": "s3"}, {"data"})
    assert not both.met({"vault"})
    assert both.met({"local", "vault"})


def test_where_all_share_the_servers_device_all_count_and_it_is_said() -> None:
    rule = rule_for(None, {"a": "data", "b": "data"}, {"data"})
    assert rule.met({"a"})
    assert "one lost disk loses everything" in rule.reasons[-1]


@pytest.mark.parametrize("wanted", [0, 4])
def test_impossible_numbers(wanted: int) -> None:
    with pytest.raises(ValueError, match="cannot come from 3"):
        rule_for(wanted, {"a": None, "b": None, "c": None})


@given(wanteds, devices)
def test_it_can_always_be_met_and_never_without_one_apart(wanted: Wanted, targets: dict[str, str | None]) -> None:
    rule = rule_or_none(wanted, targets)
    if rule is None:
        return
    assert rule.met(targets), "all of them together suffice: archiving can never stop for good"
    for acknowledged in subsets(rule.targets):
        if rule.met(acknowledged):
            assert not rule.apart or acknowledged & rule.apart
            assert all(rule.met(acknowledged | {more}) for more in rule.targets), "more never harms"


@given(devices)
def test_two_quorums_share_a_target(targets: dict[str, str | None]) -> None:
    rule = rule_for("quorum", targets, {"data"})
    voters = rule.apart or rule.targets
    met = [acknowledged & voters for acknowledged in subsets(rule.targets) if rule.met(acknowledged)]
    assert all(one & other for one in met for other in met)
