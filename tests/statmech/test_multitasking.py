"""Multitasking networks: exact averages against enumeration, mpmath, descent and closed forms."""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.optimize

import statmech
from deeplimits.errors import DomainError, ShapeError
from statmech import multitasking_average as average


def examples(M, r, supervised=True):
    return SimpleNamespace(M=M, r=r, supervised=supervised)


def outcomes(d, M=None, r=None):
    """Every (probability, true entry, normalised mean of examples), example by example."""
    if M is None:
        return [(d, 0, 0.0), ((1 - d) / 2, 1, 1.0), ((1 - d) / 2, -1, -1.0)]
    R = r**2 + (1 - r**2) / M
    found = [(d, 0, 0.0)]
    for xi in (1, -1):
        for chi in itertools.product((1, -1), repeat=M):
            p = np.prod([(1 + c * r) / 2 for c in chi])
            found.append(((1 - d) / 2 * p, xi, xi * sum(chi) / M / np.sqrt(R)))
    return found


def brute(K, d, T, m, M=None, r=None):
    """Order parameters, overlaps and free energy at m by a sum over all joint outcomes."""
    table = outcomes(d, M, r)
    p, xi, x = (np.array(v, float) for v in zip(*table, strict=True))
    index = np.array(list(itertools.product(range(len(table)), repeat=K)))
    weight, X, XI = p[index].prod(1), x[index], xi[index]
    y = X @ np.asarray(m)
    spin = np.tanh(y / T)
    f = np.sum(np.square(m)) / 2 - T * weight @ np.logaddexp(y / T, -y / T)
    return (weight * spin) @ X, (weight * spin) @ XI, f


def test_against_enumeration_of_every_example():
    found = statmech.multitasking(3, 0.3, 0.1, examples=examples(5, 0.7))
    Mhat, m, f = brute(3, 0.3, 0.1, found.Mhat, 5, 0.7)  # all of the 65^3 outcomes
    np.testing.assert_allclose(Mhat, found.Mhat, atol=1e-12)  # the goal of the solver is 1e-13
    np.testing.assert_allclose(m, found.m, atol=1e-12)
    assert float(found.f) == pytest.approx(f, rel=1e-13)


def test_published_states():
    """States confirmed by Monte Carlo, to the digits given."""
    noisy = statmech.multitasking(3, 0.3, 0.1, examples=examples(5, 0.7))
    np.testing.assert_allclose(noisy.m, [0.61647, 0.24055, 0.0539], atol=6e-6)
    assert noisy.stable
    collapsed = statmech.multitasking(2, 0.6, [0.05, 0.0], examples=examples(10, 0.5))
    np.testing.assert_allclose(collapsed.m[0], 0.29417, atol=6e-6)
    assert collapsed.branch.tolist() == ["parallel", "hierarchical"]


def test_zero_temperature():
    for K in (3,):
        limit = statmech.multitasking_hierarchy_limit(K)
        assert 1 - 2 * limit + limit**K == pytest.approx(0, abs=1e-14)
        d = np.array([0.1, 0.3, limit - 1e-3, limit + 1e-3])
        closed = statmech.multitasking_hierarchy(K, d)
        np.testing.assert_array_equal(closed.stable, [True, True, True, False])
        found = statmech.multitasking(K, d, 0.0, branch="hierarchical")
        np.testing.assert_allclose(found.m[:3], closed.m[:3], atol=1e-15)
        np.testing.assert_allclose(found.E[:3], closed.E[:3], rtol=1e-14)
        assert np.abs(found.m[3] - closed.m[3]).max() > 1e-3  # spins have turned
    for K, value in ((3, 0.618034), (4, 0.543689), (5, 0.518790)):
        assert statmech.multitasking_hierarchy_limit(K) == pytest.approx(value, abs=6e-7)
    assert statmech.multitasking_hierarchy_limit(2) == 1.0


def test_intermediate_and_parallel_regimes():
    """Spins that no longer follow one pattern: values from an independent search."""
    found = statmech.multitasking(3, [0.55, 0.95, 0.3], 0.0)
    np.testing.assert_allclose(found.m[0], [0.404, 0.293, 0.182], atol=6e-4)
    assert float(found.E[0]) == pytest.approx(-0.1413, abs=1e-4)
    assert found.E[0] < statmech.multitasking_hierarchy(3, 0.55).E
    np.testing.assert_allclose(found.m[1], [0.0499, 0.0476, 0.0452], atol=6e-5)
    assert found.branch.tolist() == ["intermediate", "intermediate", "hierarchical"]
    assert found.stable.all()
    five = statmech.multitasking(5, 0.95, 0.0).m
    np.testing.assert_allclose(five, [0.0497, 0.0475, 0.0454, 0.0432, 0.0411], atol=6e-5)


def test_best_state_by_a_rival_search():
    """No descent of scipy from 60 random starts finds a lower free energy, T = 0 included."""
    rng = np.random.default_rng(0)
    for d, T in ((0.55, 0.0), (0.7, 0.1), (0.5, 0.15)):
        table = average.states(3, None)
        p = np.asarray(average.probabilities(table, d))

        def f(m, p=p, T=T, x=table.x):
            y = np.abs(x @ m)
            extra = T * np.log1p(np.exp(-2 * y / T)) if T else 0
            return np.sum(m**2) / 2 - p @ (y + extra)

        starts = rng.uniform(0, 1, (60, 3)) * (1 - d)
        options = {"xatol": 1e-10, "fatol": 1e-14, "maxiter": 2000}
        rival = min(
            scipy.optimize.minimize(f, m, method="Nelder-Mead", options=options).fun for m in starts
        )
        found = float(statmech.multitasking(3, d, T).f)
        assert found <= rival + 1e-12
        assert found == pytest.approx(rival, abs=1e-8)  # what the simplex leaves


def test_gradient_and_hessian():
    """The map is the gradient of f, and the matrix its second derivative."""
    table = average.states(3, (5, 0.7))
    p, m = average.probabilities(table, 0.4), np.array([0.4, 0.2, 0.1])
    args = (0.2, 0.8)
    slope = jax.grad(lambda m: average.free_energy(table, p, m, *args))(m)
    np.testing.assert_allclose(0.8 * slope, m - average.overlaps(table, p, m, *args), atol=1e-14)
    bend = jax.hessian(lambda m: average.free_energy(table, p, m, *args))(m)
    np.testing.assert_allclose(0.8 * bend, average.hessian(table, p, m, *args), atol=1e-13)
    assert float(p.sum()) == pytest.approx(1, rel=1e-14)


def test_onset():
    d = np.array([0.3, 0.64, 0.69])
    np.testing.assert_allclose(statmech.multitasking_onset(d), 1 - d, rtol=1e-15)
    np.testing.assert_allclose(statmech.multitasking_onset(d, g="diluted"), 1.0, rtol=1e-15)
    above = statmech.multitasking(3, d, 1.001 * (1 - d))
    below = statmech.multitasking(3, d, 0.97 * (1 - d))
    assert above.branch.tolist() == ["paramagnet"] * 3
    # pure below 2/3, parallel above
    assert below.branch.tolist() == ["pure", "pure", "parallel"]
    assert statmech.multitasking_parallel_onset() == pytest.approx(2 / 3, rel=1e-15)
    # Landau: M^2 just below the onset from the quartic term, both states
    with mpmath.workdps(30):
        d_, T = mpmath.mpf("0.3"), mpmath.mpf("0.69")
        mean = lambda m: (1 - d_) * mpmath.tanh(m / T)  # noqa: E731
        pure = mpmath.findroot(lambda m: mean(m) - m, 0.15)
    found = statmech.multitasking(3, 0.3, 0.69)
    np.testing.assert_allclose(found.m, [float(pure), 0, 0], atol=1e-12)
    # with examples: the fourth moment of their mean
    value = [(x**4, p) for p, xi, x in outcomes(0.0, 10, 0.5) if xi]
    kurtosis = sum(v * p for v, p in value)
    assert statmech.multitasking_parallel_onset(examples(10, 0.5)) == pytest.approx(
        1 - kurtosis / 3, rel=1e-12
    )


def test_diluted_normalisation_is_a_change_of_temperature():
    a = statmech.multitasking(3, 0.3, 0.2)
    b = statmech.multitasking(3, 0.3, 0.2 / 0.7, g="diluted")
    np.testing.assert_allclose(a.m, b.m, atol=1e-12)
    assert float(b.f) == pytest.approx(float(a.f) / 0.7, rel=1e-12)
    assert float(b.E) == pytest.approx(float(a.E) / 0.7, rel=1e-12)


def test_derivatives():
    """Implicit derivatives in d and T against differences, and f = E - T S."""

    def all_of(p):
        state = statmech.multitasking(3, p[0], p[1])
        return jnp.append(state.m, state.f)

    slopes = np.asarray(jax.jacfwd(all_of)(jnp.array([0.3, 0.2])))
    h = 2e-5
    ends = statmech.multitasking(
        3, 0.3 + h * np.array([-1, 1, 0, 0, 0]), 0.2 + h * np.array([0, 0, -1, 1, 0])
    )
    values = np.column_stack([ends.m, ends.f])
    differences = np.stack([values[1] - values[0], values[3] - values[2]]) / (2 * h)
    # central differences: h^2 = 4e-10 times third derivatives of 1e4
    np.testing.assert_allclose(slopes.T, differences, atol=5e-6)
    assert np.abs(slopes[:2]).min() > 0.01
    entropy = -slopes[3, 1]
    assert float(ends.f[4]) == pytest.approx(float(ends.E[4]) - 0.2 * entropy, rel=1e-12)
    assert entropy > 0


def test_unsupervised_stability():
    """The Hessian in all K M overlaps with single examples, by enumeration of every example."""
    d, T, M, r = 0.2, 0.12, 2, 0.4
    for T in (0.12, 0.6):
        found = statmech.multitasking(1, d, T, examples=examples(M, r, supervised=False))
        R = r**2 + (1 - r**2) / M
        n0 = float(found.Mhat[0]) * np.sqrt(R)

        def f(n, T=T, R=R):
            total = d * np.log(2.0)
            for xi in (1, -1):
                for chi in itertools.product((1, -1), repeat=M):
                    p = np.prod([(1 + c * r) / 2 for c in chi]) * (1 - d) / 2
                    y = sum(xi * c * v for c, v in zip(chi, n, strict=True)) / (R * M * T)
                    total = total + p * jnp.logaddexp(y, -y)
            return jnp.sum(n**2) / (2 * R * M) - T * total

        point = jnp.full(M, n0)
        assert np.abs(jax.grad(f)(point)).max() < 1e-12
        lowest = np.linalg.eigvalsh(np.asarray(jax.hessian(f)(point)))[0]
        assert bool(found.stable) == bool(lowest > 0)
        soft = average.example_stiffness(
            average.states(1, (M, r)), average.probabilities(average.states(1, (M, r)), d),
            found.Mhat, T, 1.0, M, R,
        )  # fmt: skip
        assert float(soft) / (R * M) == pytest.approx(lowest, rel=1e-10)


def test_one_step():
    noisy = examples(15, 0.4)
    rho = (1 - 0.16) / (15 * 0.16)
    gaussian = statmech.multitasking_one_step_gaussian(3, 0.3, rho=rho)
    np.testing.assert_allclose(gaussian, [0.6069, 0.2378, 0.0906], atol=6e-5)
    exact = statmech.multitasking_one_step(3, 0.3, examples=noisy)
    rng = np.random.default_rng(0)
    N = 400_000
    xi = rng.choice([-1, 0, 1], p=[0.35, 0.3, 0.35], size=(N, 3))
    right = rng.binomial(15, 0.7, size=(N, 3))
    x = xi * (2 * right - 15) / 15
    spin = np.sign(x @ (0.3 ** np.arange(3)))
    samples = spin[:, None] * xi
    z = (samples.mean(0) - exact) / (samples.std(0) / np.sqrt(N))
    assert np.abs(z).max() < 4
    assert np.abs((samples.mean(0) - gaussian) / (samples.std(0) / np.sqrt(N))).max() > 3
    # without noise nothing moves
    clean = statmech.multitasking_one_step(3, 0.3, examples=examples(1, 1.0))
    np.testing.assert_allclose(clean, statmech.multitasking_hierarchy(3, 0.3).m, atol=1e-15)
    np.testing.assert_allclose(
        statmech.multitasking_one_step_gaussian(3, 0.3, rho=0.0), clean, atol=1e-15
    )


def test_examples_needed():
    needed = statmech.multitasking_examples_needed([1.0, 0.5, 0.3, 0.1])
    for r, M in zip([0.5, 0.3, 0.1], needed[1:], strict=True):
        entropy = [(1 - r**2) / (n * r**2) for n in (M - 1, M)]
        assert entropy[0] >= 1 - 1e-12
        assert entropy[1] < 1
    assert needed.tolist() == [1, 4, 11, 100]


def test_diagram():
    from statmech.multitasking_diagram import diagram
    from statmech.phase import phase_diagram, plot_phase_diagram

    made = diagram(3, np.linspace(0, 0.96, 25), np.linspace(0.005, 1.005, 21), starts=16)
    codes = made["phase"].values
    expected = made["T"].values[:, None] > made["onset"].values[None]
    np.testing.assert_array_equal(codes == 0, expected)
    assert float(made["residual"].quantile(0.98)) < 1e-11
    assert set(np.unique(codes)) == {0, 1, 2, 3, 4}
    assert len(plot_phase_diagram(made).lines) == 1
    again = phase_diagram("multitasking", K=3, d=[0.1, 0.2], T=[0.1, 0.2], starts=16)
    assert again["phase"].shape == (2, 2)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: statmech.multitasking(0, 0.1, 0.1), DomainError, "K must be >= 1"),
        (lambda: statmech.multitasking(2, 1.0, 0.1), DomainError, r"d must be in \[0, 1\), got 1"),
        (lambda: statmech.multitasking(2, -0.1, 0.1), DomainError, r"d must be in \[0, 1\)"),
        (lambda: statmech.multitasking(2, 0.1, -1), DomainError, "T must be >= 0, got -1"),
        (lambda: statmech.multitasking(2, 0.1, np.nan), DomainError, "T must be finite"),
        (lambda: statmech.multitasking(2, 0.1, 0.1, g="half"), DomainError, "g must be one of"),
        (lambda: statmech.multitasking(2, 0.1, 0.1, branch="x"), DomainError, "branch must be"),
        (lambda: statmech.multitasking(2, 0.1, 0.1, starts=-1), DomainError, "starts must be"),
        (lambda: statmech.multitasking(2, 0.1, 0.1, examples=3), DomainError, "examples must be"),
        (lambda: statmech.multitasking(2, 0.1, 0.1, examples=examples(0, 0.5)), DomainError,
         r"examples.M must be >= 1"),
        (lambda: statmech.multitasking(2, 0.1, 0.1, examples=examples(3, 0.0)), DomainError,
         r"examples.r must be > 0"),
        (lambda: statmech.multitasking(8, 0.1, 0.1, examples=examples(9, 0.5)), DomainError,
         "K = 8 patterns with 11 possible entries"),
        (lambda: statmech.multitasking_hierarchy(2, 1.5), DomainError, "d must be in"),
        (lambda: statmech.multitasking_hierarchy(2, 0.5, g="x"), DomainError, "g must be one of"),
        (lambda: statmech.multitasking_hierarchy_limit(0), DomainError, "K must be >= 1"),
        (lambda: statmech.multitasking_onset(-1), DomainError, "d must be in"),
        (lambda: statmech.multitasking_parallel_onset(7), DomainError, "examples must be"),
        (lambda: statmech.multitasking_one_step(2, 2.0, examples=None), DomainError, "d must be"),
        (lambda: statmech.multitasking_one_step_gaussian(2, 0.1, rho=-1), DomainError, "rho must"),
        (lambda: statmech.multitasking_examples_needed(0.0), DomainError, r"r must be in \(0, 1\]"),
    ],
)  # fmt: skip
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_bad_grids():
    from statmech.multitasking_diagram import diagram

    with pytest.raises(ShapeError, match="d must be 1-D"):
        diagram(2, d=0.1)
    with pytest.raises(DomainError, match="T must increase"):
        diagram(2, T=[0.2, 0.1])
