"""The parts of the claim on tempering: means of the controls, and what is left after them."""

import itertools

import numpy as np
import pytest

from statmech.claims_tempering import (
    LADDER,
    PLAN,
    TEMPERATURES,
    controlled_mean,
    limit_weights,
    theory,
    trace_controls,
)
from statmech.spin_glass import sk


def test_traces():
    """Against Gaussian expectations by a product rule that is exact for polynomials of degree 5."""
    N = 3
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    pairs = list(itertools.combinations(range(N), 2))
    grid = np.array(list(itertools.product(range(3), repeat=len(pairs))))
    J = np.zeros((len(grid), N, N))
    for k, (i, j) in enumerate(pairs):
        J[:, i, j] = J[:, j, i] = nodes[grid[:, k]] / N**0.5
    law = np.prod(weights[grid] / weights.sum(), axis=1)
    # 27 terms of size 1
    np.testing.assert_allclose(law @ trace_controls(J), 0, atol=1e-14)
    assert np.all(law @ trace_controls(J) ** 2 > 0.1)  # they do vary


def test_controlled_mean():
    rng = np.random.default_rng(0)
    controls, noise = rng.standard_normal((2000, 2)), 0.1 * rng.standard_normal(2000)
    mean, error = controlled_mean(3 + controls @ np.array([1.0, -2.0]) + noise, controls)
    assert abs(mean - 3) < 4 * error
    # the error of the noise alone; its relative error is 1/sqrt(2 * 2000), five of them
    assert error == pytest.approx(0.1 / 2000**0.5, rel=0.08)
    plain, spread = controlled_mean(noise, np.zeros((2000, 0)))
    # the same sums in another order
    np.testing.assert_allclose(
        [plain, spread], [noise.mean(), noise.std(ddof=1) / 2000**0.5], rtol=1e-10, atol=1e-15
    )


@pytest.mark.parametrize("powers", [(2 / 3, 1), (1, 2)])
def test_limit(powers):
    sizes = np.array(list(PLAN), float)
    y = 1.5 - 0.7 * sizes ** -powers[0] + 4.0 * sizes ** -powers[1]
    # a system of condition 1e3
    np.testing.assert_allclose(limit_weights(sizes, powers) @ y, 1.5, rtol=1e-12)


def test_theory():
    """Its energies and overlaps obey the identity, and are not those of replica symmetry."""
    values = theory()
    T = np.array(TEMPERATURES)
    assert set(TEMPERATURES) <= set(LADDER)
    cold = T < 1
    # the error of the descent, of second order in the energy and of first in the overlap
    np.testing.assert_allclose(values[0, cold], -(1 - values[1, cold]) / (2 * T[cold]), atol=1e-6)
    assert values[0, ~cold] == pytest.approx(-1 / (2 * T[~cold]), abs=1e-8)
    # standard errors of the claim are 1.8e-3 at the lowest temperature
    assert values[0, 0] - float(sk(TEMPERATURES[0]).U) > 5 * 1.8e-3
