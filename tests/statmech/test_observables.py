"""Observables against direct formulas and known laws."""

import itertools

import numpy as np
import pytest

import statmech
from deeplimits.errors import DomainError, ShapeError

RNG = np.random.default_rng(0)


def test_overlaps():
    a, b, x = (RNG.choice([-1.0, 1.0], (k, 9)) for k in (4, 4, 3))
    np.testing.assert_allclose(statmech.mattis_overlaps(a, x)[1, 2], np.mean(a[1] * x[2]))
    q = statmech.replica_overlap(a, b)
    i, j = np.triu_indices(9, 1)
    direct = np.mean(a[:, i] * a[:, j] * b[:, i] * b[:, j], axis=1)
    np.testing.assert_allclose(statmech.link_overlap(q, 9), direct, atol=1e-15)  # rounding
    for p in (2, 3, 4):
        terms = np.array(list(itertools.combinations(range(9), p)))
        direct = np.mean(np.prod((a * b)[:, terms], axis=2), axis=1)
        np.testing.assert_allclose(statmech.link_overlap(q, 9, p=p), direct, atol=1e-14)
    np.testing.assert_allclose(statmech.edwards_anderson(a / 2), 0.25)


def test_binder():
    q = RNG.normal(size=(400, 500))
    g = statmech.binder((q**2).mean(1), (q**4).mean(1))
    assert abs(g.mean) < 4 * g.stderr < 0.1  # Gaussian: 0
    fixed = statmech.binder(np.full(5, 0.25), np.full(5, 0.0625))
    np.testing.assert_allclose([fixed.mean, fixed.stderr], [1, 0], atol=1e-14)  # rounding


def test_histogram():
    q = RNG.uniform(-1, 1, size=(50, 2, 400))
    centres, P = statmech.overlap_histogram(q, bins=10, symmetric=True)
    np.testing.assert_allclose(centres, np.linspace(-0.9, 0.9, 10))
    np.testing.assert_allclose(P.mean.sum() * 0.2, 1)
    assert np.all(np.abs(P.mean - 0.5) < 4.5 * P.stderr)  # uniform density, 10 bins


def test_fluctuations():
    e = RNG.normal(size=(3, 20000))
    # relative error of a variance of 20000 samples is 1%
    np.testing.assert_allclose(statmech.specific_heat(e, 2.0, 8), 2.0, rtol=0.05)
    np.testing.assert_allclose(statmech.susceptibility(e, [2.0, 2.0, 2.0], 8), 4.0, rtol=0.05)


def test_bad_input():
    with pytest.raises(ShapeError, match="patterns must be"):
        statmech.mattis_overlaps(np.ones(3), np.ones((2, 4)))
    with pytest.raises(ShapeError, match="same number of spins"):
        statmech.replica_overlap(np.ones(3), np.ones(4))
    with pytest.raises(ShapeError, match="got a scalar"):
        statmech.edwards_anderson(0.5)
    with pytest.raises(ShapeError, match="same shape"):
        statmech.binder(np.ones(3), np.ones(4))
    with pytest.raises(DomainError, match=r"q must lie in \[-1, 1\]"):
        statmech.overlap_histogram(np.full((2, 3), 2.0))
    with pytest.raises(ShapeError, match="at least 2 values"):
        statmech.specific_heat(np.ones(1), 1.0, 4)
    with pytest.raises(DomainError, match="T must be > 0"):
        statmech.susceptibility(np.ones(3), 0.0, 4)
