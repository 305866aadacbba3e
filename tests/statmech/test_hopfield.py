"""States of the Hopfield network: published numbers, other quadratures, other algorithms."""

import jax
import mpmath
import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import erf

from deeplimits.errors import DomainError, PrecisionError, ShapeError
from statmech.hopfield import hopfield
from statmech.hopfield_lines import hopfield_capacity

#: alpha, T, U of retrieval states, five decimals published with Monte Carlo.
ENERGIES = [(0.05, 0.2, -0.49943), (0.05, 0.4, -0.47669), (0.1, 0.2, -0.49788)]
#: alpha, energy and overlap of retrieval states at T = 0.
COLD = [
    (0.05, -0.500000356383, 0.999992228),
    (0.1, -0.500154209347, 0.997999266),
    (0.13, -0.500912373835, 0.987211891),
    (0.1375, -0.501405398821, 0.972952758),
]


def equations_by_mpmath(s):
    """Violations of the equations for m and q, and f, from tanh-sinh quadrature."""
    with mpmath.workdps(20):
        m, q, r, alpha, T = map(mpmath.mpf, map(float, (s.m, s.q, s.r, s.alpha, s.T)))
        a = mpmath.sqrt(alpha * r)
        cuts = sorted({mpmath.mpf(-11), -m / a - 6 * T / a, -m / a, -m / a + 6 * T / a, 0, 11})

        def mean(f):
            return mpmath.quad(lambda z: f((m + a * z) / T) * mpmath.npdf(z), cuts)

        C = (1 - q) / T
        log = mean(lambda x: mpmath.log(2 * mpmath.cosh(x)))
        f = alpha / 2 + m**2 / 2 + alpha * T / 2 * (mpmath.log(1 - C) - q / T / (1 - C))
        f += alpha * r * (1 - q) / T / 2 - T * log
        replicon = 1 - alpha * r / T**2 / q * mean(lambda x: mpmath.sech(x) ** 4)
        gaps = (
            mean(mpmath.tanh) - m,
            mean(lambda x: mpmath.tanh(x) ** 2) - q,
            q / (1 - C) ** 2 / r - 1,
        )
        return [float(g) for g in gaps], float(f), float(replicon)


@pytest.mark.parametrize("branch", ["retrieval", "unstable", "spin_glass"])
def test_identical_equations_by_mpmath(branch):
    states = hopfield([0.05, 0.1], [0.4, 0.02], branch)
    for i in range(2):
        one = jax.tree.map(lambda v, i=i: v[i], states)
        gaps, f, replicon = equations_by_mpmath(one)
        np.testing.assert_allclose(gaps, 0.0, atol=2e-14)  # rounding, times 1/T in 1 - C
        assert one.f == pytest.approx(f, abs=2e-14)
        assert one.replicon == pytest.approx(replicon, rel=1e-11, abs=1e-12)  # 1/T^2 of rounding
    assert np.all(states.residual < 1e-14)


def test_energies():
    alpha, T, U = np.array(ENERGIES).T
    s = hopfield(alpha, T)
    np.testing.assert_allclose(s.U, U, atol=5e-6)  # half of the last decimal
    cases = {"retrieval": (0.1, 0.2), "spin_glass": (0.1, 0.7), "paramagnet": (0.1, 1.5)}
    for branch, at in cases.items():
        load, heat = at
        beta, h = 1 / heat, 1e-4
        near = hopfield(load, 1 / (beta + h * np.array([-2, -1, 1, 2])), branch)
        slope = np.dot((near.f * (beta + h * np.array([-2, -1, 1, 2]))), [1, -8, 8, -1]) / (12 * h)
        # fourth order: h^4 = 1e-16 times a fifth derivative below 1e3; rounding 1e-16/h
        assert hopfield(load, heat, branch).U == pytest.approx(slope, abs=2e-11)


def test_zero_temperature():
    alpha, E, m = np.array(COLD).T
    s = hopfield(alpha, 0.0)
    np.testing.assert_allclose(s.f, E, atol=5e-13)  # 12 decimals published
    np.testing.assert_allclose(s.m, m, atol=5e-10)
    np.testing.assert_allclose(s.U, s.f, rtol=1e-14)
    assert s.locally_stable.all()
    assert not s.stable.any()
    # the scalar equation of y = m / sqrt(2 alpha r), its largest root
    for i, load in enumerate(alpha):
        y = brentq(lambda y, load=load: y * (np.sqrt(2 * load) + 2 / np.sqrt(np.pi)
                   * np.exp(-(y**2))) - erf(y), 1.512, 20, xtol=1e-15)  # fmt: skip
        assert s.m[i] == pytest.approx(erf(y), abs=1e-13)  # conditioning near the spinodal
    glass = hopfield(alpha, 0.0, "spin_glass")
    np.testing.assert_allclose(glass.r, (1 + np.sqrt(2 / (np.pi * alpha))) ** 2, rtol=1e-13)
    np.testing.assert_allclose(glass.U, -1 / np.pi - np.sqrt(2 * alpha / np.pi), rtol=1e-13)
    # no step between T = 0 and small T
    np.testing.assert_allclose(hopfield(alpha, 1e-12).f, s.f, atol=1e-12)  # entropy times T


def test_unstable_branch():
    s = hopfield([0.1, 0.1, 0.13, 0.02, 0.0, 0.15, 0.1], [0.107, 0.0, 0.0, 0.0, 0.2, 0.1, 1.2],
                 "unstable")  # fmt: skip
    assert list(s.exists) == [True] * 4 + [False] * 3
    assert not s.locally_stable.any()
    assert not s.stable.any()
    assert s.m[0] == pytest.approx(0.8576, abs=5e-5)  # where iteration was once seen to stop
    for i in (1, 2, 3):  # the other root of the scalar equation at T = 0
        load = s.alpha[i]
        y = brentq(lambda y, load=load: y * (np.sqrt(2 * load) + 2 / np.sqrt(np.pi)
                   * np.exp(-(y**2))) - erf(y), 0.1, 1.51, xtol=1e-15)  # fmt: skip
        assert s.m[i] == pytest.approx(erf(y), abs=1e-12)  # conditioning of the root
    # it starts at the spinodal, and the barrier is higher than the state that it surrounds
    T = np.array([0.0, 0.2, 0.5, 0.9])
    edge = hopfield_capacity(T) * (1 - 1e-8)
    # the distance 1e-8 enters as a square root
    np.testing.assert_allclose(hopfield(edge, T, "unstable").m, hopfield(edge, T).m, atol=2e-3)
    inside = edge * np.array([0.1, 0.5, 0.5, 0.9])
    assert np.all(hopfield(inside, T, "unstable").f > hopfield(inside, T).f)


def test_critical_point():
    s = hopfield(hopfield_capacity() * (1 - 1e-14), 0.0)
    # the distance 1e-14 from the end enters as a square root
    assert s.m == pytest.approx(0.967417115685, abs=1e-7)
    assert s.r == pytest.approx(1.485802845741, abs=1e-6)
    assert s.C == pytest.approx(0.179611796225, abs=1e-6)


def test_iteration_reaches_the_same_state():
    """Another algorithm: damped iteration with Gauss-Hermite quadrature from m = q = 1."""
    alpha, T = np.array([0.02, 0.05, 0.08, 0.03]), np.array([0.6, 0.45, 0.35, 0.2])
    z, w = np.polynomial.hermite_e.hermegauss(150)
    w = w / w.sum()
    m, q = np.ones(4), np.ones(4)
    for _ in range(3000):
        r = q / (1 - (1 - q) / T) ** 2
        t = np.tanh((m[:, None] + np.sqrt(alpha * r)[:, None] * z) / T[:, None])
        m, q = (m + t @ w) / 2, (q + t**2 @ w) / 2
    s = hopfield(alpha, T)
    # 150 nodes: poles at pi T / (2 sqrt(alpha r)) > 0.9 leave 1e-9
    np.testing.assert_allclose(s.m, m, atol=1e-8)
    np.testing.assert_allclose(s.q, q, atol=1e-8)
    assert s.stable.all()


def test_branches_end():
    edge = hopfield_capacity([0.0, 0.02287, 0.2, 0.5, 0.9])
    T = np.array([0.0, 0.02287, 0.2, 0.5, 0.9])
    inside, outside = hopfield(edge * (1 - 1e-9), T), hopfield(edge * (1 + 1e-9), T)
    assert inside.exists.all()
    assert np.all(inside.residual < 1e-13)
    assert not outside.exists.any()
    assert np.isnan(outside.m).all()
    # re-entrance: no retrieval at T = 0, but above
    assert list(hopfield(0.138, [0.0, 0.02, 0.06]).exists) == [False, True, False]
    hot = hopfield([0.0, 0.01, 0.0], [0.9, 1.0, 1.5])
    assert list(hot.exists) == [True, False, False]
    assert hot.m[0] == pytest.approx(np.tanh(hot.m[0] / 0.9), abs=1e-15)
    glass = hopfield(0.25, [1.4999, 1.5, 2.0], "spin_glass")
    assert list(glass.exists) == [True, False, False]
    assert not glass.stable.any()
    assert glass.f[0] == pytest.approx(hopfield(0.25, 1.4999, "paramagnet").f, abs=1e-11)
    assert not hopfield(0.0, 0.5, "spin_glass").exists
    para = hopfield(0.25, [0.9, 1.2, 1.6], "paramagnet")
    assert list(para.exists) == [False, True, True]
    assert list(para.stable) == [False, False, True]
    assert np.isnan(para.f[0])


def test_derivatives():
    alpha, T = 0.1, 0.2

    @jax.jit
    def along(da, dT):
        return jax.jvp(lambda a, T: hopfield(a, T).m, (alpha, T), (da, dT))[1]

    found = [along(1.0, 0.0), along(0.0, 1.0)]
    h = 1e-5 * np.array([1, -1, 0, 0]), 1e-5 * np.array([0, 0, 1, -1])
    m = hopfield(alpha + h[0], T + h[1]).m
    # second order: 1e-10 times a third derivative of 100
    np.testing.assert_allclose(found, [(m[0] - m[1]) / 2e-5, (m[2] - m[3]) / 2e-5], rtol=2e-7)
    with jax.enable_x64(False), pytest.raises(PrecisionError, match="hopfield inside"):
        jax.jit(lambda T: hopfield(0.1, T).m)(0.2)


def test_bad_input():
    with pytest.raises(DomainError, match=r"alpha must be >= 0, got -0\.1"):
        hopfield(-0.1, 0.2)
    with pytest.raises(DomainError, match="T must be >= 0"):
        hopfield(0.1, [0.2, -1.0])
    with pytest.raises(DomainError, match="T must be finite"):
        hopfield(0.1, np.nan)
    with pytest.raises(DomainError, match="branch must be one of"):
        hopfield(0.1, 0.2, "glass")
    with pytest.raises(ShapeError, match="must broadcast"):
        hopfield([0.1, 0.2], [0.1, 0.2, 0.3])
    with pytest.raises(ShapeError, match="alpha must not be empty"):
        hopfield([], 0.1)
