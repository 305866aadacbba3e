"""Every registered claim, run with a fixed seed: fast ones always, slow ones with their marker."""

import json

import pytest

from deeplimits.claims import claims

pytestmark = pytest.mark.optimized  # simulations: two thirds of their time is running


@pytest.mark.parametrize(
    "claim",
    [
        pytest.param(c, id=c.name, marks=[pytest.mark.slow] if c.cost == "slow" else [])
        for c in claims()
    ],
)
def test_claim(claim):
    comparison = claim.run(key=0)
    assert comparison.passed, comparison.table()
    json.dumps(comparison.to_dict(), allow_nan=False)
