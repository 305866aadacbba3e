"""Fixed points and roots on problems with known answers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
from jax.scipy.special import erf

from deeplimits.errors import ConvergenceError, DomainError, PrecisionError, ShapeError
from deeplimits.gaussian import trapezoid_rule
from deeplimits.roots import Root, bracketed_root, find_root, fixed_point, multi_start


def ising(m, beta):
    """Mean-field magnet: m = tanh(beta m)."""
    return jnp.tanh(beta * m)


NODES, WEIGHTS = trapezoid_rule(401)


def hopfield(x, args):
    """Replica-symmetric Hopfield model at T > 0, x = (m, q), args = (alpha, T)."""
    (m, q), (alpha, temperature) = x, args
    beta = 1 / temperature
    noise = jnp.sqrt(alpha * q) / (1 - beta * (1 - q))
    field = jnp.tanh(beta * (m + noise * NODES))
    return jnp.stack([WEIGHTS @ field, WEIGHTS @ field**2])


def circle(x, radius2):
    return jnp.stack([x[0] ** 2 + x[1] ** 2 - radius2, x[0] - x[1]])


@pytest.mark.optimized
def test_ising():
    root = fixed_point(ising, 0.5, args=2.0, branch="ferromagnet")
    assert isinstance(root, Root)
    want = scipy.optimize.brentq(lambda m: np.tanh(2 * m) - m, 0.5, 1, xtol=1e-15)
    assert abs(root.x - want) < 4e-16  # rounding of a well-conditioned root
    assert abs(root.x - np.tanh(2 * root.x)) == root.residual
    assert root.branch == "ferromagnet"
    assert bool(root.converged)
    assert bool(root.stable)
    np.testing.assert_allclose(root.spectral_radius, 2 * (1 - want**2), rtol=1e-14)
    other = fixed_point(ising, -0.5, args=2.0)
    assert other.x == -root.x
    unstable = fixed_point(ising, 0.0, args=2.0)
    assert unstable.x == 0
    assert not bool(unstable.stable)
    np.testing.assert_allclose(unstable.spectral_radius, 2.0)
    assert abs(fixed_point(ising, 0.5, args=0.5).x) < 1e-12  # tol


@pytest.mark.optimized
def test_ising_at_and_near_the_critical_point():
    critical = fixed_point(ising, 0.5, args=1.0)
    # A triple root: m - tanh m = m^3/3 cannot be told from 0 below m = 1e-6.
    assert abs(critical.x) < 1e-6
    assert abs(critical.x) <= 10 * critical.abs_err
    np.testing.assert_allclose(critical.spectral_radius, 1.0, atol=1e-12)
    near = fixed_point(ising, 0.5, args=1 + 1e-6)
    # m^2 = 3 (beta - 1)(1 + O(beta - 1)); conditioning 1/(2 (beta - 1)) = 5e5 times 1e-16.
    np.testing.assert_allclose(near.x, np.sqrt(3e-6), rtol=2e-6)
    assert near.abs_err < 1e-9


def test_without_polish():
    plain = fixed_point(ising, 0.5, args=2.0, polish=False, damping=0.2)
    polished = fixed_point(ising, 0.5, args=2.0)
    # The damped iteration stops at residual 1e-12; the distance is 1/(1 - 0.17) times that.
    np.testing.assert_allclose(plain.x, polished.x, atol=2e-12)
    assert 1e-13 < plain.residual < 1e-12
    assert polished.residual < 2e-16


@pytest.mark.parametrize(
    ("alpha", "temperature"), [(0.05, 0.2), (0.05, 0.4), (0.1, 0.2), (0.01, 0.6)]
)
def test_hopfield_against_scipy(alpha, temperature):
    root = fixed_point(hopfield, [0.99, 0.99], args=(alpha, temperature))
    beta = 1 / temperature

    def equations(x):
        """The same two averages by adaptive quadrature."""
        m, q = x
        noise = np.sqrt(alpha * q) / (1 - beta * (1 - q))
        gauss = lambda z: np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)  # noqa: E731
        t = lambda z: np.tanh(beta * (m + noise * z))  # noqa: E731
        average = lambda f: scipy.integrate.quad(f, -10, 10, epsabs=1e-13, limit=200)[0]  # noqa: E731
        return [average(lambda z: gauss(z) * t(z)) - m, average(lambda z: gauss(z) * t(z) ** 2) - q]

    found = scipy.optimize.root(equations, root.x + 1e-3, tol=1e-12)
    np.testing.assert_allclose(root.x, found.x, atol=1e-10)  # hybr stops at relative step 1e-12
    assert bool(root.stable)


def test_implicit_derivative():
    def m(beta):
        return fixed_point(ising, 0.5, args=beta).x

    beta = 1.7
    value = m(beta)
    slope = value * (1 - value**2) / (1 - beta * (1 - value**2))
    # Closed form from the implicit function theorem by hand; conditioning 1/(1 - 0.5).
    np.testing.assert_allclose(jax.grad(m)(beta), slope, rtol=1e-14)
    np.testing.assert_allclose(jax.jacfwd(m)(beta), slope, rtol=1e-14)
    second = (jax.grad(m)(beta + 1e-4) - jax.grad(m)(beta - 1e-4)) / 2e-4
    # Central difference of the first derivative: h^2 m''''/6.
    np.testing.assert_allclose(jax.grad(jax.grad(m))(beta), second, rtol=1e-6)
    closure = jax.grad(lambda b: fixed_point(lambda m: jnp.tanh(b * m), 0.5).x)(beta)
    np.testing.assert_allclose(closure, slope, rtol=1e-14)


def test_implicit_derivative_of_a_system():
    def x(args):
        return fixed_point(hopfield, jnp.array([0.99, 0.99]), args=args).x

    by_alpha, by_temperature = jax.jacrev(x)((0.05, 0.4))
    h = 1e-5
    for got, shift in ((by_alpha, (h, 0.0)), (by_temperature, (0.0, h))):
        up = x((0.05 + shift[0], 0.4 + shift[1]))
        down = x((0.05 - shift[0], 0.4 - shift[1]))
        # h^2 f'''/6 = 1e-8 relative at most, plus rounding 1e-16/h = 1e-11.
        np.testing.assert_allclose(got, (up - down) / (2 * h), rtol=1e-6)


def test_jit_and_vmap():
    betas = jnp.array([0.5, 1.2, 2.0])
    batch = jax.jit(jax.vmap(lambda b: fixed_point(ising, 0.5, args=b)))(betas)
    single = [fixed_point(ising, 0.5, args=b).x for b in betas]
    np.testing.assert_allclose(batch.x, single, atol=1e-15)  # the order of operations may differ
    assert batch.converged.all()
    failed = jax.jit(lambda x: fixed_point(lambda y: y + 1.0, x))(0.0)
    assert np.isnan(failed.x)
    assert not bool(failed.converged)


@pytest.mark.optimized
def test_failures_are_named():
    with pytest.raises(ConvergenceError, match=r"residual 0\.\d+.*10000 steps.*damping=0.9"):
        fixed_point(lambda x: 3.9 * x * (1 - x), 0.3, damping=0.0)
    with pytest.raises(ConvergenceError, match="left the domain"):
        fixed_point(lambda x: 2 * x**2 + 1, 0.5)
    quiet = fixed_point(lambda x: 2 * x**2 + 1, 0.5, on_fail="nan")
    assert np.isnan(quiet.x)
    with pytest.raises(ConvergenceError, match=r"find_root did not converge.*bracketed_root"):
        find_root(lambda x: x**2 + 1, 1.0)


def test_a_small_residual_alone_is_no_root():
    """Just past a fold x^2 + delta has residual 1e-9 and no root."""
    with pytest.raises(ConvergenceError, match="did not converge"):
        fixed_point(lambda x: x - (x**2 + 1e-9), 0.5)
    # Loose tolerance: the residual passes, the estimated distance (3e-4 to 1e-2) does not.
    with pytest.raises(ConvergenceError, match="no root is near"):
        fixed_point(lambda x: x - (x**4 + 1e-9), 0.5, tol=1e-8, max_steps=100_000)


def test_find_root():
    root = find_root(circle, [1.0, 0.2], args=2.0)
    np.testing.assert_allclose(root.x, [1, 1], rtol=1e-15)
    slope = jax.jacfwd(lambda r: find_root(circle, jnp.array([1.0, 0.2]), args=r).x)(2.0)
    np.testing.assert_allclose(slope, [0.25, 0.25], rtol=1e-14)  # x = sqrt(r/2)
    # x -> x + g(x) at sqrt 2 has slope 1 + 2 sqrt 2: unstable; the other root has 1 - 2 sqrt 2.
    up = find_root(lambda x: x**2 - 2, 1.0)
    np.testing.assert_allclose([up.x, up.spectral_radius], [2**0.5, 1 + 8**0.5], rtol=1e-15)
    down = find_root(lambda x: (2 - x**2) / 4, 1.0)
    assert bool(down.stable)


def test_bracketed_root():
    lo, hi = np.array([[0.0], [3.0]]), np.array([2.0, 2.9])
    with pytest.raises(DomainError, match=r"lo=3 .*hi=2 .*2 such brackets"):
        bracketed_root(jnp.cos, lo, hi)
    root = bracketed_root(jnp.cos, [0.0, 3.0], [3.0, 6.0])
    np.testing.assert_allclose(root.x, [np.pi / 2, 3 * np.pi / 2], rtol=4e-16)
    np.testing.assert_array_equal(root.stable, [True, False])  # slopes 1 - 1 and 1 + 1
    grid = bracketed_root(jnp.cos, lo[:1], np.array([2.0, 2.9]))
    assert grid.x.shape == (1, 2)
    steep = bracketed_root(lambda x: 1e9 * (jnp.exp(x) - 3), 0.0, 3.0)
    np.testing.assert_allclose(steep.x, np.log(3), rtol=4e-16)
    assert bracketed_root(lambda x: x, 0.0, 1.0).x == 0
    assert bracketed_root(lambda x: x - 1, 0.0, 1.0).x == 1
    slopes = jax.vmap(
        jax.grad(lambda a: bracketed_root(lambda x, a: x**2 - a, 0.0, 3.0, args=a).x)
    )(jnp.array([2.0, 4.0]))
    np.testing.assert_allclose(slopes, [1 / 8**0.5, 0.25], rtol=1e-14)
    with pytest.raises(ConvergenceError, match="jump or a pole"):
        bracketed_root(lambda x: 1 / x, -1.0, 3.0)


def test_bracketed_root_hopfield_capacity():
    """alpha_c(T = 0) from the stationarity of alpha(y): the fold in explicit form."""

    def root_alpha(y):
        """sqrt(2 alpha) as a function of y on the saddle: erf(y)/y - 2 exp(-y^2)/sqrt(pi)."""
        return erf(y) / y - 2 / jnp.sqrt(jnp.pi) * jnp.exp(-(y**2))

    y = bracketed_root(jax.grad(root_alpha), 1.0, 2.5).x
    capacity = root_alpha(y) ** 2 / 2
    assert abs(capacity - 0.137905566) < 1e-9  # the published digits (Amit et al. 1987: 0.138)


def test_multi_start():
    found = multi_start(
        ising,
        np.linspace(-1, 1, 9),
        args=2.0,
        method="newton",
        label=lambda m: "paramagnet" if abs(m) < 0.1 else "magnet",
    )
    assert found.labels == ("magnet", "paramagnet", "magnet")
    assert [bool(root.stable) for root in found] == [True, False, True]
    np.testing.assert_allclose(found.roots.x, [-found[2].x, 0, found[2].x], atol=1e-12)
    assert found.basin.sum() + found.dropped == 9
    stable_only = multi_start(ising, np.array([-0.9, -0.3, 0.2, 0.7]), args=2.0)
    assert len(stable_only) == 2
    np.testing.assert_array_equal(stable_only.basin, [2, 2])
    assert stable_only[0].branch == "0"


def test_multi_start_drops_what_wanders():
    def runaway(x):
        return jnp.where(x > 2, x + 1, jnp.tanh(2 * x))

    found = multi_start(runaway, np.array([0.5, 3.0, 4.0]), max_steps=50)
    assert len(found) == 1
    assert found.dropped == 2
    with pytest.raises(ConvergenceError, match="none of the 2 starts"):
        multi_start(runaway, np.array([3.0, 4.0]), max_steps=50)


def test_multi_start_sorts_vectors():
    found = multi_start(
        lambda x, r: x + circle(x, r), [[1.0, 0.5], [-1.0, -2.0]], args=2.0, method="newton"
    )
    np.testing.assert_allclose(found.roots.x, [[-1, -1], [1, 1]], rtol=1e-12)


@pytest.mark.parametrize(
    ("call", "error", "match"),
    [
        (lambda: fixed_point(ising, np.nan, args=1.0), DomainError, "the start must be finite"),
        (lambda: fixed_point(ising, 0.1, args=1.0, damping=1.0), DomainError, "damping must be"),
        (lambda: fixed_point(ising, 0.1, args=1.0, tol=1e-17), DomainError, "tol must be"),
        (lambda: fixed_point(ising, 0.1, args=1.0, max_steps=0), DomainError, "max_steps must be"),
        (lambda: fixed_point(ising, 0.1, args=1.0, on_fail="x"), DomainError, "on_fail must be"),
        (lambda: fixed_point(lambda x: x[0], [0.1, 0.2]), ShapeError, r"shape .* \(2,\), got \(\)"),
        (lambda: find_root(lambda x: (x, x), 0.1), ShapeError, "got tuple"),
        (lambda: find_root(ising, 0.1, args=1.0, on_fail="x"), DomainError, "on_fail must be"),
        (lambda: bracketed_root(jnp.cos, np.inf, 2.0), DomainError, "the start must be finite"),
        (lambda: bracketed_root(lambda x: x[None], 0.0, 2.0), ShapeError, "one array of the shape"),
        (lambda: multi_start(ising, 0.5, args=1.0), ShapeError, "n_starts"),
        (lambda: multi_start(ising, [0.5], args=1.0, method="x"), DomainError, "method must be"),
        (lambda: multi_start(ising, [0.5], args=1.0, same=0.0), DomainError, "same must be > 0"),
    ],
)
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_needs_x64():
    with jax.enable_x64(False), pytest.raises(PrecisionError, match="fixed_point needs float64"):
        fixed_point(ising, 0.5, args=2.0)
