"""Capacities of associative memories: published digits, other routes, simulation."""

import mpmath
import numpy as np
import pytest
import scipy.optimize
import scipy.stats

from deeplimits.errors import DomainError, ShapeError
from statmech import associative

ENSEMBLES = ("gaussian", "spherical", "binary")


def test_capacity_theorem():
    found = associative.capacity([20, 75], K=[3, 1])
    # as printed below theorem 3 of arXiv:2008.02217 (four digits), to ten digits by mpmath
    np.testing.assert_allclose(found.c, [3.1546107698, 1.3718777692], rtol=2e-11)
    np.testing.assert_allclose(found.guaranteed_N, [7.41297, 10.97325], rtol=1e-6)
    np.testing.assert_allclose(np.exp(found.log_guaranteed_N), found.guaranteed_N, rtol=1e-13)
    assert found.holds.all()
    for d, K, beta, p, c in ((20, 3, 1, 1e-3, found.c[0]), (75, 1, 1, 1e-3, found.c[1])):
        with mpmath.workdps(30):
            a = mpmath.mpf(2) / (d - 1) * (1 + mpmath.log(2 * beta * K**2 * p * (d - 1)))
            b = 2 * mpmath.mpf(K) ** 2 * beta / 5
            exact = b / mpmath.lambertw(mpmath.exp(a + mpmath.log(b)))
        assert float(c) == pytest.approx(float(exact), rel=1e-14)
    # exp(a + ln b) overflows here, Wright's function does not
    large = associative.capacity(1000, K=100.0, beta=1e300, p=1.0)
    assert np.isfinite(large.c)
    assert np.isinf(large.guaranteed_N)
    assert np.isfinite(large.log_guaranteed_N)
    assert not associative.capacity(5, p=1e-3).holds  # c = 7.2, below 2 / sqrt(p)


def test_capacity_theorem_in_high_dimension():
    d = np.array([1e4, 1e6])
    finite = associative.capacity(d, K=np.sqrt(d / (d - 1)), beta=2.0).log_guaranteed_N / d
    limit = float(associative.guaranteed_exponent(2.0))
    gap = np.abs(finite - limit)
    # corrections of order ln(d) / d
    assert gap[1] < 2e-5
    assert gap[1] / gap[0] == pytest.approx(1e-2 * 6 / 4, rel=0.3)


def test_published_capacities():
    one = associative.typical_capacity([1.0, 2.0, 5.0], patterns="spherical")
    np.testing.assert_allclose(one, [0.62257192, 0.90875401, 1.32969819], atol=5e-9)
    # closed form 1/(2e), and eight digits from the saddle-point equations
    full = associative.full_capacity([0.25, 0.5, 1.0, 3.0], patterns="gaussian")
    edge = 0.183939720585721
    np.testing.assert_allclose(full, [0.10557304, 0.15274265, edge, edge], atol=5e-9)
    assert float(full[3]) == pytest.approx(1 / (2 * np.e), rel=1e-15)
    assert float(associative.typical_capacity(0.7, patterns="gaussian")) == pytest.approx(0.455)
    assert float(associative.typical_capacity(1.7, patterns="gaussian")) == 0.5
    assert float(associative.typical_capacity(1.0, patterns="binary")) == pytest.approx(
        1 - np.log(np.cosh(1)), rel=1e-15
    )
    assert float(associative.typical_capacity(40.0, patterns="binary")) == pytest.approx(np.log(2))
    for name in ("spherical", "binary"):
        np.testing.assert_array_equal(
            associative.full_capacity([0.3, 2.0], patterns=name),
            associative.typical_capacity([0.3, 2.0], patterns=name),
        )


def numeric_free_entropy(lam, alpha, rate, top):
    """max over overlaps that occur, I(u) <= alpha, of alpha + lam u - I(u), by brute force."""
    u = np.linspace(0, top, 2_000_001)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = alpha + lam * u - rate(u)
        return np.max(np.where(rate(u) <= alpha, value, -np.inf))


RATES = {
    "gaussian": (lambda u: u**2 / 2, 6.0),
    "spherical": (lambda u: -np.log(1 - u**2) / 2, 1.0),
    "binary": (lambda u: ((1 + u) * np.log(1 + u) + (1 - u) * np.log(1 - u)) / 2, 1 - 1e-9),
}


@pytest.mark.parametrize("name", ENSEMBLES)
def test_free_entropy_by_brute_force(name):
    for lam, alpha in ((0.5, 0.4), (2.0, 0.1), (2.0, 0.6), (0.3, 0.01)):
        brute = numeric_free_entropy(lam, alpha, *RATES[name])
        found = float(associative.free_entropy(lam, alpha, patterns=name))
        # spacing 3e-6 of the grid, times the slope lam where it ends at I(u) = alpha
        assert found == pytest.approx(brute, abs=6e-6)


@pytest.mark.parametrize("name", ENSEMBLES)
def test_condensation(name):
    """Entropy alpha - I(zeta') of the noise vanishes there, and the two forms join smoothly."""
    lam = np.array([0.2, 1.0, 2.5])
    edge = associative.condensation(lam, patterns=name)
    near = [associative.free_entropy(lam, edge * (1 + s), patterns=name) for s in (-1e-6, 1e-6)]
    np.testing.assert_allclose(near[0], near[1], rtol=1e-5)  # the step in alpha, times its slope
    rate, _ = RATES[name]
    slope = (
        associative.free_entropy(lam * (1 + 1e-6), 9.0, patterns=name)
        - associative.free_entropy(lam * (1 - 1e-6), 9.0, patterns=name)
    ) / (2e-6 * lam)
    # rounding 1e-15 of Phi = 9 over the difference 2e-6 lam
    np.testing.assert_allclose(rate(slope), edge, rtol=1e-7)


@pytest.mark.parametrize("name", ENSEMBLES)
def test_basin(name):
    """A query with the smallest overlap is just retrieved: the two functions invert each other."""
    lam = np.array([0.3, 1.0, 3.0])
    for u in (0.4, 0.9):
        alpha = associative.typical_capacity(lam, patterns=name, overlap=u)
        alpha = np.maximum(alpha, 0)
        found = associative.basin(lam, alpha, patterns=name)
        kept = alpha > 0
        np.testing.assert_allclose(found[kept], u, rtol=1e-10)
        assert kept.any()
    assert np.isnan(associative.basin(1.0, 3.0, patterns=name))


def test_full_capacity_is_where_the_shortest_pattern_is_lost():
    for lam in (0.1, 0.6, 0.95, 2.0):

        def excess(rho, lam=lam):
            # a query of squared norm rho N: overlaps are Gaussian of variance rho N
            load = (rho - 1 - np.log(rho)) / 2
            liquid = load >= lam**2 * rho / 2
            noise = load + lam**2 * rho / 2 if liquid else lam * np.sqrt(2 * load * rho)
            return noise - lam * rho

        rho = scipy.optimize.brentq(excess, 1e-6, 1 - 1e-9, xtol=1e-14)
        expected = (rho - 1 - np.log(rho)) / 2
        found = float(associative.full_capacity(lam, patterns="gaussian"))
        assert found == pytest.approx(expected, rel=1e-10)  # the condition of the root in rho


def test_free_entropy_against_simulation():
    """exp(12..24) sign patterns, counted by overlap; in the liquid there is no 1/N correction."""
    theory = float(associative.free_entropy(1.0, 0.6, patterns="binary"))
    samples = associative.sample_free_entropy(1.0, 0.6, 40, trials=400, key=0)
    # Jensen: the logarithm lowers the mean by half the relative variance of the sum, over N
    relative = np.exp(40 * (np.log(np.cosh(2)) - 2 * np.log(np.cosh(1)) - 0.6))
    z = (samples.mean() - theory + relative / 2 / 40) / (samples.std() / 20)
    assert abs(z) < 4
    # condensed: below the annealed value by far more than its correction ln(N) / N
    low = associative.sample_free_entropy(1.0, 0.1, 160, trials=400, key=1)
    theory = float(associative.free_entropy(1.0, 0.1, patterns="binary"))
    assert 0 < theory - low.mean() < np.log(160) / 160
    assert 0.1 + np.log(np.cosh(1)) - low.mean() > 2 * np.log(160) / 160


def test_retrieval_against_simulation():
    """Success falls from one to zero around the predicted load, ever more steeply."""
    for name, lam, u in (("spherical", 1.0, 1.0), ("binary", 1.0, 1.0), ("spherical", 2.0, 0.7)):
        alpha = float(associative.typical_capacity(lam, patterns=name, overlap=u))
        widths = []
        for N in (round(6 / alpha), round(9 / alpha)):  # e^6 and e^9 patterns
            run = associative.critical_loads(
                lam, N, patterns=name, overlap=u, trials=150, max_patterns=200_000, key=N
            )
            found = run.success([0.7 * alpha, 1.25 * alpha])
            # the load of even odds lies between these two, clearly
            assert found.mean[0] - 3.5 * found.stderr[0] > 0.5 > found.mean[1]
            assert found.stderr.shape == (2,)
            widths.append(np.subtract(*np.quantile(run.loads, [0.75, 0.25])))
        assert found.mean[1] + 3.5 * found.stderr[1] < 0.5  # at the larger size
        assert widths[1] < widths[0]


def test_norms_round_the_transition_of_gaussian_patterns():
    fixed, random = (
        associative.critical_loads(0.5, 16, patterns="gaussian", norm=norm, trials=200, key=0)
        for norm in ("fixed", "random")
    )
    spread = [np.subtract(*np.quantile(r.competitors, [0.75, 0.25])) for r in (fixed, random)]
    # the norm alone moves ln(competitors) by lam (1 - lam/2) sqrt(2 N) = 2
    logs = [np.log(r.competitors).std() for r in (fixed, random)]
    assert logs[1] > 2 * logs[0]
    assert spread[1] > spread[0]
    assert fixed.plot([0.1, 0.2]).get_xlabel() == "load ln(P) / N"


def test_polynomial_memories():
    # 0.138 N patterns of the Hopfield network: the classical 0.36 %
    assert float(associative.polynomial_error(138, 1000, 2)) == pytest.approx(0.003552, abs=5e-7)
    for n in (2, 3, 5):
        load = associative.polynomial_capacity([100.0, 500.0], n, error=0.01)
        np.testing.assert_allclose(
            associative.polynomial_error(load, [100.0, 500.0], n), 0.01, rtol=1e-12
        )
    double = {2: 1, 3: 3, 4: 15, 5: 105}
    for n, odd in double.items():
        expected = 200.0 ** (n - 1) / (2 * odd * np.log(200))
        found = float(associative.polynomial_capacity(200, n))
        assert found == pytest.approx(expected, rel=1e-14)
    # moments: the field of a competitor, (h + 1)^n - (h - 1)^n, against its exact variance
    N, n = 400, 3
    h = 2 * np.arange(N) - (N - 1.0)
    law = scipy.stats.binom.pmf(np.arange(N), N - 1, 0.5)
    field = (h + 1) ** n - (h - 1) ** n
    signal = float(N) ** n - float(N - 2) ** n
    K = 8000
    exact = scipy.stats.norm.sf(signal / np.sqrt(K * np.sum(law * field**2)))
    # leading order in 1/N: relative corrections n / N of the argument, times its square 6.7
    assert float(associative.polynomial_error(K, N, n)) == pytest.approx(exact, rel=0.06)


def test_spin_thresholds():
    found = associative.spin_thresholds([0.0, 0.05, 0.3])
    assert float(found.rigorous[0]) == pytest.approx(np.log(2) / 2, rel=1e-15)
    assert float(found.energy[0]) == pytest.approx(0.56621917, abs=5e-9)
    assert float(found.dynamics[0]) == pytest.approx(2 - np.log(np.cosh(2)), rel=1e-14)
    assert np.all(found.rigorous <= found.energy)
    assert np.all(found.energy <= found.dynamics)
    # of a query with many errors only patterns closer than its own matter: twice the proven bound
    assert float(found.dynamics[2]) == pytest.approx(2 * float(found.rigorous[2]), rel=1e-13)
    # above the threshold of the dynamics more spins turn with N, below it (and above that of the
    # energy) fewer
    share = [
        [associative.unstable_spins(a, N, trials=4000, key=5) for N in (20, 42)]
        for a in (0.6, 0.75)
    ]
    for (small, large), sign in zip(share, (-1, 1), strict=True):
        z = (large.mean - small.mean) / np.hypot(large.stderr, small.stderr)
        assert sign * z > 4
    corrupt = associative.unstable_spins(0.3, 40, corruption=0.05, trials=1000, key=1)
    assert float(corrupt.mean) < 0.02


def test_diagram():
    lam, alpha = np.linspace(0.1, 3, 30), np.linspace(0.0, 1.0, 41)
    for name in ENSEMBLES:
        data = associative.diagram(lam, alpha, patterns=name)
        assert data["phase"].dims == ("alpha", "lam")
        below = alpha[:, None] < data["full"].values[None]
        np.testing.assert_array_equal(data["phase"].values == 0, below)
        lost = data["phase"].values >= 2
        np.testing.assert_array_equal(
            lost, np.isnan(data["basin"].values) | (data["free_entropy"].values >= lam[None])
        )
        assert bool((data["full"] <= data["typical"] + 1e-15).all())
        if "guaranteed" in data:
            bound = data["guaranteed"].values
            assert np.nanmax(bound / data["full"].values) < 1
        assert len(associative.plot_diagram(data).lines) == (4 if "guaranteed" in data else 3)
    tilted = associative.diagram(patterns="binary", overlap=0.8)
    assert set(np.unique(tilted["phase"])) <= {0, 2, 3}
    assert tilted.attrs["overlap"] == 0.8


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: associative.capacity(1), DomainError, "d must be >= 2, got 1"),
        (lambda: associative.capacity(9, K=0), DomainError, "K must be > 0"),
        (lambda: associative.capacity(9, p=2), DomainError, "p must be > 0 and <= 1, got 2"),
        (lambda: associative.capacity(np.nan), DomainError, "d must be finite"),
        (lambda: associative.guaranteed_exponent(-1), DomainError, "lam must be >= 0"),
        (lambda: associative.polynomial_error(0, 9, 3), DomainError, "K must be > 0"),
        (lambda: associative.polynomial_error(1, 9, 1), DomainError, "n must be >= 2"),
        (lambda: associative.polynomial_capacity(1, 3), DomainError, "N must be > 1"),
        (lambda: associative.polynomial_capacity(9, 3, error=0.6), DomainError, "error must be"),
        (lambda: associative.free_entropy(1, -1, patterns="binary"), DomainError, "alpha must"),
        (lambda: associative.free_entropy(1, 1, patterns="cubic"), DomainError, "patterns must be"),
        (lambda: associative.condensation(-1, patterns="binary"), DomainError, "lam must be >= 0"),
        (lambda: associative.typical_capacity(1, patterns="binary", overlap=2), DomainError,
         "overlap must be >= 0 and <= 1"),
        (lambda: associative.full_capacity(1, patterns=3), DomainError, "patterns must be one of"),
        (lambda: associative.basin(0, 1, patterns="binary"), DomainError, "lam must be > 0"),
        (lambda: associative.spin_thresholds(0.5), DomainError, "corruption must be"),
        (lambda: associative.diagram([1.0]), ShapeError, "lam must be 1-D with at least two"),
        (lambda: associative.diagram([2.0, 1.0]), DomainError, "lam must increase"),
        (lambda: associative.diagram(overlap=0), DomainError, "overlap must be > 0"),
        (lambda: associative.critical_loads(0, 9, patterns="binary", key=0), DomainError, "lam"),
        (lambda: associative.critical_loads(1, 2, patterns="binary", key=0), DomainError, "N must"),
        (lambda: associative.critical_loads(1, 9, patterns="binary", norm="l2", key=0), DomainError,
         "norm must be one of"),
        (lambda: associative.critical_loads(1, 9, patterns="binary", trials=1, key=0), DomainError,
         "trials must be >= 2"),
        (lambda: associative.sample_free_entropy(1, 1, 60, key=0), DomainError,
         "alpha \\* N must be <= 32, got 60"),
        (lambda: associative.unstable_spins(0.1, 9, corruption=0.7, key=0), DomainError,
         "corruption must be"),
        (lambda: associative.critical_loads(1.0, 9, patterns="binary", max_patterns=64, trials=4,
                                            key=0).success(0.9), DomainError, "alpha must be <="),
    ],
)  # fmt: skip
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
