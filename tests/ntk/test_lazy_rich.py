"""Lazy and rich: gradient flow by an ODE solver, linear programming, one step measured."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.optimize import linprog

import ntk
from deeplimits import ConvergenceError, DomainError, PrecisionError, ShapeError
from ntk.lazy_rich import abc_exponents, diagonal_network, kernel_movement

RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((5, 12)), RNG.standard_normal(5)


def gradient_flow(alpha):
    """The predictor after long gradient flow, by LSODA on the 24 parameters."""

    def velocity(_, w):
        u, v = np.split(w, 2)
        pull = X.T @ (X @ (u * u - v * v) - Y)
        return np.concatenate([-2 * u * pull, 2 * v * pull])

    end = 4000 if alpha < 0.1 else 400
    flow = solve_ivp(velocity, (0, end), np.full(24, alpha), method="LSODA", rtol=1e-11, atol=1e-13)
    u, v = np.split(flow.y[:, -1], 2)
    return u * u - v * v


def test_diagonal_against_gradient_flow():
    alphas = [0.01, 0.3, 3.0]
    found = diagonal_network(X, Y, alphas)
    for alpha, beta in zip(alphas, found.beta, strict=True):
        # the solver's tolerance, accumulated over the plateau at small alpha
        np.testing.assert_allclose(beta, gradient_flow(alpha), atol=1e-9)
    assert found.residual.max() < 1e-13  # rounding


def test_diagonal_optimality():
    alpha = 0.2
    found = diagonal_network(X, Y, alpha)
    z = found.beta / alpha**2
    slope = np.arcsinh(z / 2)  # q'
    # stationarity: q'(beta/alpha^2) lies in the row space of X
    coefficients, *_ = np.linalg.lstsq(X.T, slope, rcond=None)
    np.testing.assert_allclose(X.T @ coefficients, slope, atol=1e-12)  # rounding of lstsq
    np.testing.assert_allclose(coefficients, found.dual, atol=1e-11)  # condition number of X

    def potential(beta):
        z = beta / alpha**2
        return np.sum(2 - np.sqrt(4 + z**2) + z * np.arcsinh(z / 2))

    # q' is the derivative of q, and moving along the constraint increases the potential
    null = np.linalg.svd(X)[2][5:]
    for move in 0.1 * RNG.standard_normal((20, 7)) @ null:
        assert potential(found.beta + move) > potential(found.beta)


def test_diagonal_limits():
    found = diagonal_network(X, Y, [1e-8, 1e-4, 1e-2, 1.0, 10.0, 1e3])
    np.testing.assert_allclose(found.kernel, np.linalg.pinv(X) @ Y, atol=1e-13)  # rounding
    sparse = linprog(np.ones(24), A_eq=np.hstack([X, -X]), b_eq=Y)
    # excess over the minimum falls as 1/log(1/alpha^2): about 1e-3 at 1e-8, and never below 0
    assert 0 <= found.l1[0] / sparse.fun - 1 < 0.05
    assert (np.diff(found.l1[:5]) > 0).all()
    # sinh z = z + z^3/6 with z ~ 1/alpha^2
    assert found.distance[5] < 1e-10
    assert found.distance[3] / found.distance[4] == pytest.approx(1e4, rel=0.3)


def test_diagonal_derivatives():
    def norm(alpha):
        return diagonal_network(X, Y, alpha).l1

    h = 1e-5
    slope = float(jax.grad(norm)(0.3))
    # h^2 times the third derivative, and rounding over h
    assert slope == pytest.approx((norm(0.3 + h) - norm(0.3 - h)) / (2 * h), rel=1e-7)


def test_abc_table():
    table = {"ntk": 0.5, "standard": 0.5, "mup": 0.0, "mean_field": 0.0}
    for name, r in table.items():
        for depth in (2, 3, 5):
            found = abc_exponents(name, depth)
            assert found.r == r
            assert found.regime == ("kernel" if r else "feature learning")
            assert len(found.a) == depth + 1
            # a common shift of all scales changes nothing but the names of the exponents
            shifted = abc_exponents(
                ([x + 0.3 for x in found.a], [x - 0.3 for x in found.b], found.c - 0.6)
            )
            assert shifted.r == pytest.approx(r, abs=1e-12)
            assert shifted.regime == found.regime
    unstable = abc_exponents(((0, 0, 0), (0, 0.5, 0.5), 0))  # standard with a constant rate
    assert (unstable.regime, unstable.r) == ("unstable", -1.0)
    frozen = abc_exponents(((0, 0.5, 0.5), (0, 0, 0), 0.5))  # a rate that vanishes
    assert frozen.regime == "trivial"
    assert abc_exponents(((0, 0.5, 0.5), (0, 0.2, 0), 0)).regime == "unstable"


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ntk", "mup"])
@pytest.mark.optimized
def test_abc_one_step(name):
    from ntk.claims_spectra import feature_change

    widths = np.array([64, 512])
    sizes = [feature_change(jax.random.key(1), int(n), name, draws=16) for n in widths]
    slope = np.log(sizes[1].mean() / sizes[0].mean()) / np.log(8)
    noise = np.hypot(*(s.std() / 4 / s.mean() for s in sizes)) / np.log(8)
    # four standard errors, and 0.05 for terms of higher order in 1/width
    assert abs(slope + abc_exponents(name).r) < 4 * noise + 0.05


def test_kernel_movement():
    x, y = RNG.standard_normal((4, 3)), np.array([1.0, -1.0, 1.0, 0.5])
    net = ntk.mlp(1, "tanh", W_std=1.5, b_std=0.1, width=64)
    params = net.init(jax.random.key(0), x.shape)[1]
    lazy, rich = (kernel_movement(net.apply, params, x, y, alpha=a) for a in (100.0, 1.0))
    for moved in (lazy, rich):
        assert 0 < moved.loss < 1e-8
    # first order in the change of the parameters, which is 1/alpha
    assert rich.relative / lazy.relative == pytest.approx(100, rel=0.3)
    linear = ntk.linearize(net.apply, params)
    assert kernel_movement(linear, params, x, y).relative < 1e-13  # does not move: rounding
    stopped = kernel_movement(net.apply, params, x, y, max_steps=3)
    assert int(stopped.steps) == 3


def test_plot():
    ax = diagonal_network(X, Y, [1e-8, 1e-4, 1e-2, 1.0, 10.0, 1e3]).plot()
    assert "alpha" in ax.get_xlabel()


def test_refusals():
    with pytest.raises(DomainError, match="parameterization must be one of 'ntk'"):
        abc_exponents("xavier")
    with pytest.raises(ShapeError, match="one number per layer, at least 2, got 2 and 3"):
        abc_exponents(((0, 0), (0, 0, 0), 0))
    with pytest.raises(DomainError, match="alpha must be > 0"):
        diagonal_network(X, Y, [1.0, 0.0])
    with pytest.raises(ShapeError, match="n <= d"):
        diagonal_network(X.T, np.ones(12), 1.0)
    with pytest.raises(DomainError, match="linearly independent rows"):
        diagonal_network(np.ones((2, 4)), np.ones(2), 1.0)
    with pytest.raises(ConvergenceError, match="after 2 steps"):
        diagonal_network(X, Y, [1e-8], max_steps=2)
    with pytest.raises(DomainError, match=r"rate must be > 0\.0 and < 2\.0"):
        kernel_movement(lambda p, x: x, {}, X, Y, rate=3.0)
    with jax.enable_x64(False), pytest.raises(PrecisionError, match="needs float64"):
        kernel_movement(lambda p, x: x, jnp.zeros(2), X, Y)
