"""Pseudo-inverse rule: published lines, thermodynamics, quadrature of the R-transform."""

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize

from deeplimits import DomainError, ShapeError
from statmech.pseudo_inverse import pseudo_inverse, pseudo_inverse_diagram, pseudo_inverse_line

ALPHA = np.array([0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9])
T_M = [0.703750552, 0.592728569, 0.447408172, 0.345224315, 0.200111712, 0.098482737, 0.025287491]
M_AT = [0.64392659, 0.74280912, 0.84370455, 0.89918892, 0.95815453, 0.98555123, 0.99766918]
T_C = [0.6555919134, 0.5271329211, 0.3600750819, 0.2441972676, 0.0888051283]


def r_transform(x, alpha):
    """The branch that is alpha at 0, for any x."""
    root = np.sqrt((x - 1) ** 2 + 4 * alpha * x)
    return 2 * alpha / ((1 - x) + root) if x < 1 else (x - 1 + root) / (2 * x)


def test_lines_against_published_digits():
    spinodal = pseudo_inverse_line("spinodal", ALPHA)
    np.testing.assert_allclose(spinodal["T"], T_M, atol=5.1e-10)  # the last digit
    # m varies as the root of T near the spinodal: eight digits of it need sixteen of T
    np.testing.assert_allclose(spinodal["m"], M_AT, atol=1.1e-8)
    transition = pseudo_inverse_line("transition", ALPHA)
    np.testing.assert_allclose(transition["T"][:5], T_C, atol=5.1e-11)
    # the paramagnet still has entropy at the transition, also at high load
    warm = pseudo_inverse(ALPHA, transition["T"].values, "paramagnet")
    assert (warm.U > warm.f).all()


def test_state_against_the_equation_of_state():
    alpha, T = np.array([0.3, 0.3, 0.5, 0.1]), np.array([0.2, 0.3, 0.15, 0.5])
    state = pseudo_inverse(alpha, T)
    for a, t, m in zip(alpha, T, state.m, strict=True):
        equation = lambda m, a=a, t=t: m - np.tanh(m / t * (1 - r_transform((1 - m**2) / t, a)))  # noqa: E731
        # the largest root, bracketed from the published spinodal upward
        root = scipy.optimize.brentq(equation, m - 0.02 * (1 - m), 1 - 1e-12, xtol=1e-15)
        assert m == pytest.approx(root, abs=1e-14)  # tolerance of the root finder
        assert equation(min(m + 0.01 * (1 - m), 1)) > 0 > equation(m - 0.01 * (1 - m))
    np.testing.assert_allclose(state.m[:3], [0.998077, 0.9725967, 0.9970462], atol=5e-7)
    assert state.stable.all()
    assert (state.residual < 1e-14).all()
    cold = pseudo_inverse(0.9, [0.0, 1e-4])
    assert cold.m[0] == 1
    assert cold.f[0] == -0.5


@pytest.mark.parametrize(
    ("branch", "alpha", "T"), [("retrieval", 0.3, 0.3), ("paramagnet", 0.6, 0.2)]
)
def test_thermodynamics(branch, alpha, T):
    b, h = 1 / T, 1e-4
    g = lambda b: b * pseudo_inverse(alpha, 1 / b, branch).f  # noqa: E731
    slope = (8 * (g(b + h) - g(b - h)) - (g(b + 2 * h) - g(b - 2 * h))) / (12 * h)
    state = pseudo_inverse(alpha, T, branch)
    assert state.U == pytest.approx(slope, rel=1e-10)  # rounding over h
    # the free energy by quadrature of the R-transform
    q = float(state.q)
    x = (1 - q) / T
    G = 0.5 * scipy.integrate.quad(r_transform, 0, x, args=(alpha,), epsabs=1e-13)[0]
    field = state.m / T * (1 - r_transform(x, alpha))
    f = -T * (state.m**2 / (2 * T) - field * state.m + G + np.log(2 * np.cosh(field)))
    assert state.f == pytest.approx(f, rel=1e-12)
    h = 1e-5
    slope = (r_transform(x + h, alpha) - r_transform(x - h, alpha)) / (2 * h)
    assert state.replicon == pytest.approx(1 - slope * x**2, abs=1e-9)  # h^2 and rounding / h


def test_missing_branches_are_nan():
    state = pseudo_inverse(0.3, [0.3, 0.35])
    assert state.exists.tolist() == [True, False]
    assert np.isnan(state.m[1])
    assert np.isnan(state.f[1])
    assert not state.stable[1]


def test_diagram():
    diagram = pseudo_inverse_diagram(np.linspace(0.1, 0.9, 9), np.linspace(0.05, 0.8, 16))
    names = diagram["phase"].attrs["flag_meanings"].split()
    at = lambda a, t: names[int(diagram["phase"].sel(alpha=a, T=t, method="nearest"))]  # noqa: E731
    assert at(0.3, 0.2) == "retrieval"
    assert at(0.3, 0.3) == "retrieval_metastable"
    assert at(0.3, 0.5) == "paramagnet"
    assert diagram["T_M"].attrs["line"] == "spinodal"


def test_bad_input():
    with pytest.raises(DomainError, match=r"alpha must lie in \(0, 1\), got 1"):
        pseudo_inverse(1.0, 0.1)
    with pytest.raises(DomainError, match="T must be >= 0"):
        pseudo_inverse(0.5, -0.1)
    with pytest.raises(DomainError, match="T must be finite"):
        pseudo_inverse(0.5, np.nan)
    with pytest.raises(DomainError, match="branch must be one of"):
        pseudo_inverse(0.5, 0.1, "glass")
    with pytest.raises(DomainError, match="T must be > 0 in the paramagnet"):
        pseudo_inverse(0.5, 0.0, "paramagnet")
    with pytest.raises(ShapeError, match="alpha and T do not broadcast"):
        pseudo_inverse([0.1, 0.2], [0.1, 0.2, 0.3])
    with pytest.raises(DomainError, match="kind must be one of"):
        pseudo_inverse_line("at", [0.1])
    with pytest.raises(ShapeError, match="alpha must be a vector"):
        pseudo_inverse_line("spinodal", 0.1)
