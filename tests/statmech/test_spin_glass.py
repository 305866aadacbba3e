"""The SK model with replica symmetry: published values, mpmath, limits, the AT line, diagrams."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

import statmech
from deeplimits.errors import DomainError, ShapeError
from statmech.spin_glass_diagram import p_spin_diagram, sk_diagram


def test_published_values():
    s = statmech.sk(np.array([0.0, 0.2, 0.5, 0.8, 1.2]))
    expected = [-0.797884560803, -0.7772412549, -0.7923929451, -0.8651272700]
    np.testing.assert_allclose(s.f[:4], expected, atol=6e-11)  # their last digit
    np.testing.assert_allclose(s.q[1:4], [0.8279746738, 0.5303683921, 0.2089370090], atol=6e-11)
    assert s.S[0] == pytest.approx(-1 / (2 * np.pi), rel=1e-14)
    assert s.f[4] == pytest.approx(-1.2 * np.log(2) - 1 / 4.8, rel=1e-14)
    assert s.stable.tolist() == [False] * 4 + [True]
    assert s.branch.tolist() == ["spin_glass"] * 4 + ["paramagnet"]
    assert s.residual.max() < 1e-15


def test_equations_by_mpmath():
    T, h = 0.4, 0.3
    s = statmech.sk(T, h)

    def average(f):
        weight = lambda z: mpmath.exp(-(z**2) / 2) / mpmath.sqrt(2 * mpmath.pi)  # noqa: E731
        field = lambda z: (h + mpmath.sqrt(s.q) * z) / T  # noqa: E731
        points = [-12, -4, -1, 1, 4, 12]
        return float(mpmath.quad(lambda z: weight(z) * f(field(z)), points))

    # 15 digits of mpmath
    assert average(lambda x: mpmath.tanh(x) ** 2) == pytest.approx(s.q, abs=1e-13)
    assert average(mpmath.tanh) == pytest.approx(s.m, abs=1e-13)
    replicon = 1 - average(lambda x: mpmath.sech(x) ** 4) / T**2
    assert replicon == pytest.approx(s.replicon, abs=1e-12)
    f = -((1 - s.q) ** 2) / (4 * T) - T * average(lambda x: mpmath.log(2 * mpmath.cosh(x)))
    assert f == pytest.approx(s.f, abs=1e-13)


def test_zero_temperature_is_the_limit_and_thermodynamics_holds():
    fields, step = np.array([0.0, 0.4, 1.0]), 1e-4
    near, cold = statmech.sk(1e-3, fields), statmech.sk(0.0, fields)
    # f(T) = f(0) - T S(0) + O(T^2)
    np.testing.assert_allclose(near.f, cold.f - 1e-3 * cold.S, atol=2e-6)
    np.testing.assert_allclose(near.S, cold.S, atol=3e-3)
    np.testing.assert_allclose(near.m, cold.m, atol=1e-3)
    up, down = statmech.sk(0.5 + step, fields), statmech.sk(0.5 - step, fields)
    middle = statmech.sk(0.5, fields)
    # central difference: step^2 = 1e-8 times third derivatives of order one
    np.testing.assert_allclose((down.f - up.f) / (2 * step), middle.S, atol=3e-8)


def test_derivatives():
    T, h, step = jnp.float64(0.5), jnp.float64(0.3), 1e-5
    slopes = jax.jit(jax.grad(statmech.sk_overlap, argnums=(0, 1)))(T, h)
    q = [statmech.sk(0.5 + a, 0.3 + b).q for a, b in ((step, 0), (-step, 0), (0, step), (0, -step))]
    # central differences: rounding 1e-16 / 1e-5 and step^2
    assert float(slopes[0]) == pytest.approx((q[0] - q[1]) / (2 * step), abs=1e-9)
    assert float(slopes[1]) == pytest.approx((q[2] - q[3]) / (2 * step), abs=1e-9)
    assert jax.jit(statmech.sk_overlap)(jnp.array([0.5, 1.5]), jnp.zeros(2))[1] == 0


def test_at_line():
    h = np.array([0.1, 0.3, 0.5, 1.0, 0.0, 1e-3, 3.7])
    T = statmech.sk_at_temperature(h)
    expected = [0.818849854110, 0.651853782201, 0.535104943116, 0.321180570895, 1.0]
    np.testing.assert_allclose(T[:5], expected, atol=6e-13)
    # leading order 1 - T = (3 h^2 / 4)^(1/3); the next order is its square
    assert 1 - T[5] == pytest.approx((0.75e-6) ** (1 / 3), rel=0.02)
    np.testing.assert_allclose(statmech.sk_at_field(T[:4]), h[:4], rtol=1e-9)
    assert np.abs(statmech.sk(T[:4], h[:4]).replicon).max() < 1e-9  # the tolerance of the line
    assert statmech.sk_at_field([1.0, 2.0]).tolist() == [0.0, 0.0]
    # for T -> 0 the field solves (4/3) phi(h) = T
    cold = statmech.sk_at_field(1e-3)
    assert 4 / 3 * np.exp(-(cold**2) / 2) / np.sqrt(2 * np.pi) == pytest.approx(1e-3, rel=5e-3)


def test_diagrams():
    data = sk_diagram(h=[0.0, 0.5], T=[0.2, 0.6, 1.1])
    assert data.phase.values.tolist() == [[1, 1], [1, 0], [0, 0]]
    assert data["at"].attrs["line"] == "at"
    assert data["at"][0] == 1
    assert data.phase.attrs["flag_meanings"].split()[1] == "spin_glass"
    data = p_spin_diagram(p=[3, 4], T=[0.1, 0.2, 0.5, 0.66, 0.7])
    assert data.phase.values[:, 0].tolist() == [3, 3, 2, 1, 0]
    assert data.phase.values[:, 1].tolist() == [3, 2, 2, 1, 0]
    assert data["static"].values[0] == pytest.approx(0.65138523, abs=1e-8)


def test_refusals():
    with pytest.raises(DomainError, match="T must be >= 0"):
        statmech.sk(-0.1)
    with pytest.raises(ShapeError, match="T and h must not be empty"):
        statmech.sk([])
    with pytest.raises(DomainError, match="h must be finite"):
        statmech.sk(0.5, np.nan)
    with pytest.raises(DomainError, match="T must be one real number"):
        statmech.sk(np.array([0.5, 0.6]), rsb=1)
    with pytest.raises(DomainError, match="rsb must be >= 0"):
        statmech.sk(0.5, rsb=-1)
    with pytest.raises(DomainError, match="h must be 0 or have"):
        statmech.sk_at_temperature([1e-5])
    with pytest.raises(DomainError, match="T must lie in"):
        statmech.sk_at_field([0.995])
    with pytest.raises(DomainError, match="h must be 1-D, >= 0 and increasing"):
        sk_diagram(h=[1.0, 0.5])
    with pytest.raises(DomainError, match="p must hold integers"):
        p_spin_diagram(p=[3.0, 3.5])
