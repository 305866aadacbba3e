"""The Hopfield network at T = 0 with one step: published values, independent quadrature, limits."""

import itertools

import numpy as np
import pytest
import scipy.integrate
from scipy.special import erf, log_ndtr

import statmech
from deeplimits.errors import DomainError


def test_capacity():
    s = statmech.hopfield_1rsb_capacity()
    assert s.alpha == pytest.approx(0.138186490, abs=6e-10)  # 0.138186 in Steffan and Kuehn
    assert s.m == pytest.approx(0.966778, abs=1e-7)
    assert s.C == pytest.approx(0.05289808, abs=1e-7)
    assert s.q0 == pytest.approx(0.99648816, abs=1e-8)
    assert s.E == pytest.approx(-0.501466052, abs=6e-10)
    assert s.residual < 1e-12
    assert np.isnan(s.E_rs)


def functional(m, q0, C, mu, alpha):
    """The energy as a function of its order parameters, by adaptive quadrature."""
    A, B = 1 - C - mu * (1 - q0), 1 - C
    r0, gap = q0 / A**2, (1 - q0) / (A * B)
    a, b = np.sqrt(alpha * r0), np.sqrt(alpha * gap)

    def integrand(h):
        log_I = (mu * b) ** 2 / 2 + np.logaddexp(
            mu * h + log_ndtr(h / b + mu * b), -mu * h + log_ndtr(-h / b + mu * b)
        )
        return np.exp(-(((h - m) / a) ** 2) / 2) / (a * np.sqrt(2 * np.pi)) * log_I

    edges = [m - 9 * a, *np.array([-1.0, -0.1, 0.1, 1.0]) * min(b, 9 * a), m + 9 * a]
    edges = sorted(np.clip(edges, m - 9 * a, m + 9 * a))
    mean = sum(
        scipy.integrate.quad(integrand, *pair, epsabs=1e-13, limit=200)[0]
        for pair in itertools.pairwise(edges)
    )
    return (
        alpha / 2
        + m**2 / 2
        + alpha / (2 * mu) * np.log(A / B)
        - alpha * q0 / (2 * A)
        + alpha / 2 * ((r0 + gap) * C + mu * (r0 + gap - r0 * q0))
        - mean / mu
    )


@pytest.mark.parametrize(("alpha", "branch"), [(0.1, "spin_glass"), (0.1375, "retrieval")])
def test_energy_is_stationary(alpha, branch):
    s = statmech.hopfield_1rsb(alpha, branch)
    at = np.array([s.m, s.q0, s.C, s.mu])
    assert functional(*at, alpha) == pytest.approx(s.E, abs=1e-11)  # the quadrature
    size = np.array([1.0, 1 - s.q0, s.C, s.mu])
    for i in range(1 if branch == "spin_glass" else 0, 4):
        step = 2e-4 * size * np.eye(4)[i]
        up, down = functional(*(at + step), alpha), functional(*(at - step), alpha)
        # the odd part is of third order in the step, the even one of second order
        assert abs(up - down) < 1e-3 * abs(up + down - 2 * s.E) + 2e-11


def test_spin_glass_energies():
    known = {
        0.05: (-0.489780687, -0.496722298),
        0.1: (-0.560758688, -0.570623138),
        0.5: (-0.860150743, -0.882499470),
        1.0: (-1.084406915, -1.116194447),
    }
    for alpha, (one, rs) in known.items():
        s = statmech.hopfield_1rsb(alpha)
        assert (s.E, s.E_rs) == (pytest.approx(one, abs=6e-10), pytest.approx(rs, abs=6e-10))
        assert s.m == 0
        assert s.r1 > s.r0
    # many patterns: the SK model, with the diagonal -alpha / 2 ... left out, corrections 1/sqrt
    far = statmech.hopfield_1rsb(1000.0)
    sk = statmech.sk(0.0, rsb=1)
    assert far.E / np.sqrt(1000) == pytest.approx(sk.f, abs=0.02)
    assert far.q0 == pytest.approx(sk.q[0], abs=0.02)


def test_ground_state():
    alpha = statmech.hopfield_1rsb_ground_state()
    assert alpha == pytest.approx(0.056141611, abs=6e-10)
    # retrieval from m = erf(y), written out
    y = 1 / np.sqrt(2 * alpha)
    for _ in range(50):
        y = erf(y) / (np.sqrt(2 * alpha) + 2 / np.sqrt(np.pi) * np.exp(-y * y))
    m = erf(y)
    retrieval = alpha / 2 - m**2 / 2 - (m / y) ** 2 / 4
    assert statmech.hopfield_1rsb(alpha).E == pytest.approx(retrieval, abs=1e-11)


def test_retrieval_branch():
    s = statmech.hopfield_1rsb(0.13, "retrieval")
    # replica symmetry is a lower bound on the energy; it breaks by 1e-6 here
    assert s.E_rs == pytest.approx(-0.500912373835, abs=1e-11)
    assert 0 < s.E - s.E_rs < 2e-6
    assert s.m == pytest.approx(0.987211891, abs=1e-4)
    assert s.m != pytest.approx(0.987211891)


def test_refusals():
    with pytest.raises(DomainError, match="branch must be one of"):
        statmech.hopfield_1rsb(0.1, "paramagnet")
    with pytest.raises(DomainError, match=r"alpha must be >= 0\.001"):
        statmech.hopfield_1rsb(0.0)
    with pytest.raises(DomainError, match="retrieval with broken replica symmetry is followed"):
        statmech.hopfield_1rsb(0.15, "retrieval")
