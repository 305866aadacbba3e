"""Records of bounds and estimates: units, words, and the price of choosing."""

import dataclasses
import math

import jax
import pytest

from bounds.result import Bound, Estimate, best
from deeplimits import DomainError


def hoeffding(delta, n=100, emp=0.1):
    return Bound(
        emp + math.sqrt(math.log(1 / delta) / (2 * n)),
        holds="probability",
        delta=delta,
        n=n,
        trivial=1.0,
        reference="Hoeffding",
        assumptions=("independent samples",),
        at_delta=lambda d: hoeffding(d, n, emp),
    )


def test_float_bits_and_words():
    info = Estimate(math.log(8.0), stderr=0.1, method="counting", bracket=(1.0, 3.0))
    assert float(info) == math.log(8.0)
    assert info.bits == pytest.approx(3.0, rel=1e-15)  # rounding
    assert "2.07944 +- 0.1 nats by counting; between 1 and 3" in info.explain()
    bound = hoeffding(0.05)
    text = bound.explain()
    assert "risk <= 0.222387 with probability at least 0.95 (n = 100)" in text
    assert "Assumes: independent samples" in text
    with pytest.raises(DomainError, match="bits are for quantities in nats"):
        _ = bound.bits


def test_vacuous_bounds_say_so():
    assert not hoeffding(0.05).vacuous
    assert hoeffding(0.05, n=1).vacuous
    assert "vacuous" in hoeffding(0.05, n=1).explain()
    assert Bound(math.nan, trivial=1.0).vacuous
    assert Bound(0.0, direction="lower", trivial=0.0).vacuous
    assert not Bound(5.0).vacuous


def test_records_are_pytrees():
    bound = hoeffding(0.05)
    doubled = jax.tree.map(lambda x: 2 * x, bound)
    assert doubled.value == 2 * bound.value
    assert doubled.assumptions == bound.assumptions


def test_best_pays_for_the_choice():
    loose, tight = hoeffding(0.05, n=50), hoeffding(0.05, n=100)
    got = best([loose, tight])
    assert float(got) == float(hoeffding(0.025, n=100))  # not that at 0.05
    assert got.delta == 0.05
    assert got.terms["candidates"] == 2
    assert float(best([tight])) == float(tight)  # nothing to pay
    sure = Bound(0.2, holds="always")
    assert float(best([sure, tight])) == 0.2
    lower = [Bound(v, direction="lower") for v in (0.1, 0.3)]
    assert float(best(lower)) == 0.3


def test_best_refuses_what_cannot_be_compared():
    bound = hoeffding(0.05)
    with pytest.raises(DomainError, match="non-empty list of Bound"):
        best([])
    with pytest.raises(DomainError, match="non-empty list of Bound"):
        best([0.3])
    with pytest.raises(DomainError, match="same quantity"):
        best([bound, Bound(0.1, target="gap")])
    with pytest.raises(DomainError, match="rigor 'heuristic'"):
        best([bound, Bound(0.1, rigor="heuristic")])
    with pytest.raises(DomainError, match="mix bounds in expectation"):
        best([bound, Bound(0.1, holds="expectation")])
    with pytest.raises(DomainError, match="cannot be computed at a smaller delta"):
        best([bound, dataclasses.replace(bound, at_delta=None)])
