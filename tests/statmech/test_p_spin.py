"""p-spin glasses and the random energy model: published values, quadrature, other routes."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate

import statmech
from deeplimits.errors import DomainError, ShapeError
from statmech.p_spin_averages import tilted_averages

#: p: T_d, q_d, T_c, q_c, T_G, e0; for p = 3 the literature has 0.682, 0.651 and 0.240.
TABLE = {
    3: (0.68159804, 0.643144, 0.65138523, 0.813518, 0.24026004, -0.813534964),
    4: (0.67841105, 0.814779, 0.61688329, 0.948088, 0.12784112, -0.825470542),
    5: (0.70014171, 0.881270, 0.60695173, 0.981568, 0.07412685, -0.829629328),
    6: (0.72747557, 0.914901, 0.60329581, 0.992590, None, -0.831275520),
    10: (0.83828983, 0.963086, 0.60068775, 0.999688, None, -0.832495034),
}


def test_table():
    for p, expected in TABLE.items():
        s = statmech.p_spin(p)
        for value, known in zip((s.T_d, s.q_d, s.T_c, s.q_c, s.T_G, s.e0), expected, strict=True):
            if known is not None:
                digits = len(str(known).split(".")[1])
                assert value == pytest.approx(known, abs=0.6 * 10.0**-digits)
        assert s.e_rs == -np.sqrt(p / np.pi)
    # the limit: the random energy model
    last = statmech.p_spin(40)
    assert last.T_c == pytest.approx(statmech.rem().T_c, abs=1e-9)
    assert last.e0 == pytest.approx(statmech.rem().e0, abs=1e-9)
    assert (last.T_G, last.x_G) == (0.0, 0.0)


@pytest.mark.parametrize(("x", "y"), [(0.7, 0.6), (0.9, 2.0), (0.2, 1.5), (1e-4, 2.5)])
def test_tilted_averages_against_quadrature(x, y):
    u = y / x

    def integrand(z, f):
        tail = np.exp(-2 * u * z)
        return 2 * np.exp(-(z**2) / 2 + y * z + x * np.log1p(tail)) / np.sqrt(2 * np.pi) * f(tail)

    def integral(f):
        breaks = [0.0, 1 / u, 5 / u, 25 / u, *np.linspace(25 / u + 0.1, 15.0, 8)]
        parts = itertools.pairwise(breaks)
        return sum(
            scipy.integrate.quad(lambda z: integrand(z, lambda t: f(z, t)), a, b, epsabs=1e-13)[0]
            for a, b in parts if b > a
        )  # fmt: skip

    norm = integral(lambda z, t: 1.0)
    found = tilted_averages(jnp.float64(x), jnp.float64(y))
    # quadrature to 1e-13 on each of eleven pieces
    assert float(found.log_norm) == pytest.approx(np.log(norm), abs=1e-11)
    energy = integral(lambda z, t: u * z + np.log1p(t)) / norm
    assert float(found.log_2cosh) == pytest.approx(energy, rel=1e-11)
    for name, n in (("sech2", 1), ("sech4", 2)):
        value = integral(lambda z, t, n=n: (4 * t / (1 + t) ** 2) ** n) / norm
        assert float(getattr(found, name)) == pytest.approx(value, rel=1e-9, abs=1e-12)


def test_states_against_the_parisi_functional():
    T = np.array([0.0, 0.2, 0.5, 0.66])
    s = statmech.p_spin_state(3, T)
    for i in (0, 2):
        other = statmech.parisi(3, T[i], 1)
        assert s.f[i] == pytest.approx(other.f, abs=1e-11)  # quadratic in gradients of 1e-9
    assert s.q[2] == pytest.approx(other.q[1], abs=1e-6)
    assert s.q[3] == 0
    assert s.x[2] == pytest.approx(other.x[0], abs=1e-6)
    assert s.U[2] == pytest.approx(other.U, abs=1e-6)
    assert other.gap < 1e-7  # between T_G and T_c one step is exact
    assert s.stable[2]
    assert not s.stable[1]
    assert s.branch.tolist()[-2:] == ["glass", "paramagnet"]
    # below Gardner's temperature two steps are better
    assert statmech.parisi(3, 0.2, 2).f > s.f[1] + 1e-6


def test_states_join_at_the_transitions():
    at = statmech.p_spin(3)
    T = np.array([at.T_c - 1e-6, at.T_c + 1e-6, at.T_G, 1e-5])
    s = statmech.p_spin_state(3, T)
    # f and U are continuous: their slopes times 2e-6
    assert s.f[0] == pytest.approx(s.f[1], abs=1e-6)
    assert s.U[0] == pytest.approx(s.U[1], abs=2e-5)
    assert s.q[0] == pytest.approx(at.q_c, abs=1e-5)
    assert s.replicon[2] == pytest.approx(0, abs=1e-9)
    assert s.f[3] == pytest.approx(at.e0, abs=1e-7)
    assert s.x[3] / 1e-5 == pytest.approx(at.mu0, abs=1e-4)
    # entropy by thermodynamics: central difference, 1e-8
    around = statmech.p_spin_state(3, np.array([0.4 - 1e-4, 0.4, 0.4 + 1e-4]))
    assert (around.f[0] - around.f[2]) / 2e-4 == pytest.approx(around.S[1], abs=1e-7)


def test_complexity():
    at = statmech.p_spin(3)
    e, complexity = statmech.p_spin_complexity(3, np.array([at.mu0, 1.1, 1.1 + 1e-5, 1.1 - 1e-5]))
    assert e[0] == pytest.approx(at.e0, abs=1e-13)
    assert abs(complexity[0]) < 1e-13
    # Legendre transform: d Sigma / d e = mu; central difference
    slope = (complexity[2] - complexity[3]) / (e[2] - e[3])
    assert slope == pytest.approx(1.1, abs=1e-6)
    assert complexity[1] > 0
    assert e[1] > at.e0


def test_rem():
    at = statmech.rem()
    assert at.T_c == pytest.approx(0.600561204393, abs=1e-12)
    assert at.e0 == pytest.approx(-0.832554611158, abs=1e-12)
    s = statmech.rem_state([0.0, 0.3, at.T_c, 0.8])
    np.testing.assert_allclose(s.f[:3], at.e0, rtol=1e-15)
    assert s.f[3] == pytest.approx(-0.8 * np.log(2) - 1 / 3.2, rel=1e-14)
    np.testing.assert_allclose(s.x, [0, 0.3 / at.T_c, 1, 1], rtol=1e-14)
    assert s.S[3] == pytest.approx(np.log(2) - 1 / (4 * 0.64), rel=1e-14)


def test_rem_finite():
    # two energies: ln Z = mean + ln 2cosh of half the difference, a Gaussian of variance 1/4
    mean = scipy.integrate.quad(
        lambda x: np.exp(-(x**2) / 2) * np.log(2 * np.cosh(x)) / np.sqrt(2 * np.pi), -12, 12
    )[0]
    assert statmech.rem_finite(1, 0.5) == pytest.approx(-0.5 * mean, abs=1e-10)  # quadrature
    limit = statmech.rem_state(0.3).f
    gaps = [statmech.rem_finite(n, 0.3) - limit for n in (25, 50, 100)]
    assert gaps[0] > gaps[1] > gaps[2] > 0
    # Derrida: E ln Z = -N beta e0 - (beta / 2 beta_c) ln N + const
    growth = [n * g / 0.3 for n, g in zip((25, 50, 100), gaps, strict=True)]
    beta_c_over_beta = 0.3 / statmech.rem().T_c
    missing = 1 - np.diff(growth) / np.log(2) * 2 * beta_c_over_beta
    # what is missing from the coefficient falls as ln N / N: by 0.61 from 25 to 50
    assert 0 < missing[1] < 0.65 * missing[0] < 0.07
    # above T_c they vanish exponentially
    assert statmech.rem_finite(60, 1.0) == pytest.approx(statmech.rem_state(1.0).f, abs=1e-6)


def test_refusals():
    with pytest.raises(DomainError, match="p must be >= 3"):
        statmech.p_spin(2)
    with pytest.raises(DomainError, match=r"p must lie in 3\.\.40"):
        statmech.p_spin(41)
    with pytest.raises(DomainError, match="T must be 0 or >="):
        statmech.p_spin_state(3, -0.1)
    with pytest.raises(ShapeError, match="T must not be empty"):
        statmech.p_spin_state(3, [])
    with pytest.raises(DomainError, match="mu must be > 0"):
        statmech.p_spin_complexity(3, 0.0)
    with pytest.raises(DomainError, match="T must be >= 0"):
        statmech.rem_state(-1.0)
    with pytest.raises(DomainError, match="N must be at most 200"):
        statmech.rem_finite(201, 1.0)
    with pytest.raises(DomainError, match="T must be >= "):
        statmech.rem_finite(100, 0.01)
