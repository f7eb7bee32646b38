"""The code beside the model: the same random histories on both, and the same things left after each step.

Backups and their deaths, adoption, leases that run out, targets that are away and come back, whole and killed runs of
expiry with a grace or none, replication whole and killed, damage and loss with repairs, holds and their releases; on
targets in memory and in folders whose clock the test turns.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.model.in_step import InStep

HISTORIES, STEPS = 24, 16
LONG_HISTORIES = int(os.environ.get("DRKIT_TEST_HISTORIES", "400"))
LONG_STEPS = 40


def run(root: Path, seed: int, steps: int) -> None:
    history = InStep(root, seed)
    choices = [
        *[history.backup] * 5,
        *[history.expire] * 5,
        *[history.replicate] * 4,
        *[history.wait] * 2,
        *[history.leave] * 2,
        *[history.hurt] * 2,
        history.repair,
        history.hold,
        history.release,
    ]
    for _ in range(steps):
        history.rng.choice(choices)()
        history.check()


@pytest.mark.parametrize("seed", range(HISTORIES))
def test_the_code_does_what_the_model_does(tmp_path: Path, seed: int) -> None:
    run(tmp_path, seed, STEPS)


@pytest.mark.torture
@pytest.mark.parametrize("seed", range(1000, 1000 + LONG_HISTORIES))
def test_the_code_does_what_the_model_does_in_long_histories(tmp_path: Path, seed: int) -> None:
    run(tmp_path, seed, LONG_STEPS)
