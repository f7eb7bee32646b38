"""What is stored again: as little as brings a backup within its limits, the thinnest first, never more than allowed."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.compaction import Chosen, Frames, Limits, Packs, Totals, choose, choose_maps, is_thin

LIMITS = Limits(runs=4, share=10.0, least_bytes=0, slack_bytes=0)


@st.composite
def backups(draw: st.DrawFn) -> tuple[Frames, Packs]:
    """Packs of some runs, each with frames in use and bytes beside them that nobody uses."""
    packs = draw(st.integers(1, 12))
    rows = draw(st.lists(st.tuples(st.integers(0, packs - 1), st.integers(1, 1000), st.floats(0.001, 1)), max_size=60))
    rows += [(number, 100, 1.0) for number in range(packs)]
    frames = Frames(
        np.array([pack for pack, _, _ in rows]),
        np.array([float(sealed) for _, sealed, _ in rows]),
        np.array([sealed * used for _, sealed, used in rows]),
    )
    live = np.bincount(frames.pack, weights=frames.sealed)
    dead = np.array(draw(st.lists(st.integers(0, 3000), min_size=packs, max_size=packs)))
    run = draw(st.lists(st.integers(0, 9), min_size=packs, max_size=packs))
    return frames, Packs(live + dead, np.array(run))


def totals(frames: Frames, packs: Packs, chosen: Chosen) -> Totals:
    """Of the backup before (nothing chosen), or of the next one, where only what is chosen changes."""
    moved = float(frames.useful[chosen].sum())
    kept = np.unique(frames.pack[~chosen])
    return Totals(
        int(frames.useful.sum()),
        int(frames.sealed[~chosen].sum() + moved),
        int(packs.size[kept].sum() + moved),
        len(np.unique(packs.run[kept])) + bool(moved),
    )


def nothing(frames: Frames) -> Chosen:
    return np.zeros(len(frames.pack), dtype=np.bool_)


@given(backups())
def test_the_next_backup_is_within_all_limits(made: tuple[Frames, Packs]) -> None:
    frames, packs = made
    chosen = choose(frames, packs, LIMITS)
    assert not is_thin(totals(frames, packs, chosen), replace(LIMITS, slack_bytes=2))


@given(backups())
def test_what_is_in_order_stays_as_it_is(made: tuple[Frames, Packs]) -> None:
    frames, packs = made
    if not is_thin(totals(frames, packs, nothing(frames)), LIMITS):
        assert not choose(frames, packs, replace(LIMITS, slack_bytes=2)).any()


@given(backups(), st.floats(0, 1))
def test_one_backup_stores_again_what_it_may_and_no_more(made: tuple[Frames, Packs], share: float) -> None:
    frames, packs = made
    chosen = choose(frames, packs, replace(LIMITS, share=share))
    assert frames.useful[chosen].sum() <= 3 * share * frames.useful.sum() + 0.001


@given(backups())
def test_a_byte_that_changed_costs_at_most_four_for_the_fetch(made: tuple[Frames, Packs]) -> None:
    frames, packs = made
    chosen = choose(frames, packs, replace(LIMITS, store=1e9, runs=100))
    dead = float((frames.sealed - frames.useful)[chosen].sum())
    assert frames.useful[chosen].sum() <= dead / (LIMITS.fetch - 1) + 0.001
    fill = frames.useful / frames.sealed
    assert not chosen.any() or fill[chosen].max() <= fill[~chosen].min(initial=1.0) + 1e-9, "the thinnest first"


def test_small_runs_are_stored_together_and_large_ones_stay() -> None:
    sizes = np.array([5000.0, 4000, 30, 20, 10, 3000])
    frames, packs = Frames(np.arange(6), sizes, sizes), Packs(sizes, np.arange(6))
    assert choose(frames, packs, LIMITS).tolist() == [False, False, True, True, True, True]
    assert not choose(frames, packs, replace(LIMITS, runs=6)).any()


def test_a_pack_of_which_one_frame_lives_is_emptied() -> None:
    frames = Frames(np.array([0, 1, 1]), np.full(3, 100.0), np.full(3, 100.0))
    packs = Packs(np.array([1000.0, 200.0]), np.zeros(2, dtype=np.int64))
    assert choose(frames, packs, LIMITS).tolist() == [True, False, False]


@pytest.mark.parametrize(("dead", "chosen"), [(40.0, [False, False]), (60.0, [True, False])])
def test_maps_are_made_anew_where_they_weigh(dead: float, chosen: list[bool]) -> None:
    size, used = np.array([dead + 10, 100.0]), np.array([10.0, 100.0])
    assert choose_maps(size, used, 1000.0, LIMITS).tolist() == chosen


def test_bytes_that_nobody_misses_are_left_alone() -> None:
    frames = Frames(np.zeros(2, dtype=np.int64), np.full(2, 1000.0), np.full(2, 100.0))
    packs = Packs(np.array([2000.0]), np.zeros(1, dtype=np.int64))
    assert choose(frames, packs, LIMITS).any()
    assert not choose(frames, packs, replace(LIMITS, slack_bytes=2000)).any()
