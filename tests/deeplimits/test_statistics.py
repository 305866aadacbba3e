"""Error bars: coverage on laws with known answers, and independent routes (scipy, enumeration)."""

import math
import warnings

import jax
import numpy as np
import pytest
import scipy.signal
import scipy.stats

from deeplimits import statistics as st
from deeplimits.errors import DomainError, PrecisionWarning, ShapeError


def normals(seed, shape):
    return np.array(jax.random.normal(jax.random.key(seed), shape))


def ar1(seed, phi, chains, n):
    """Stationary AR(1) with unit variance: x_t = phi x_{t-1} + noise, tau = (1+phi)/(1-phi)."""
    noise = normals(seed, (chains, n))
    noise[:, 1:] *= math.sqrt(1 - phi**2)
    return scipy.signal.lfilter([1.0], [1.0, -phi], noise, axis=-1)


def binomial_bounds(trials, p, z=4.0):
    """Allowed number of hits: four standard deviations around trials * p."""
    half = z * math.sqrt(trials * p * (1 - p))
    return trials * p - half, trials * p + half


# --- independent samples -------------------------------------------------------------------------


def test_mean_coverage():
    """|z| < t_{0.975} holds in 95% of 4000 experiments with 10 samples each."""
    x = normals(0, (10, 4000)) * 3.0 + 7.0
    e = st.mean_with_error(x)
    assert e.dof == 9
    z = st.z_score(e.mean, e.stderr, 7.0)
    hits = np.sum(np.abs(z) < scipy.stats.t.ppf(0.975, 9))
    low, high = binomial_bounds(4000, 0.95)
    assert low < hits < high


def test_mean_axis_and_dtype():
    x = normals(1, (3, 50, 2))
    e = st.mean_with_error(x, axis=1)
    np.testing.assert_allclose(e.mean, x.mean(1), rtol=1e-13)  # summation order
    np.testing.assert_allclose(e.stderr, scipy.stats.sem(x, axis=1), rtol=1e-13)
    low = st.mean_with_error(np.full(10, 0.1, np.float32) + np.arange(10, dtype=np.float32))
    assert low.mean.dtype == np.float64
    assert st.mean_with_error([1, 2, 3]).mean == 2.0


@pytest.mark.parametrize("law", ["normal", "exponential", "sign"])
def test_variance_error_matches_replication(law):
    """The predicted standard error equals the scatter of s^2 over 20 000 replications."""
    n, replicas = 50, 20_000
    key = jax.random.key(2)
    draw = {
        "normal": lambda: jax.random.normal(key, (n, replicas)),
        "exponential": lambda: jax.random.exponential(key, (n, replicas)),
        "sign": lambda: jax.random.rademacher(key, (n, replicas), dtype="float64") + 0.5,
    }[law]
    e = st.variance_with_error(np.asarray(draw()))
    fourth = {"normal": 3.0, "exponential": 9.0, "sign": 1.0}[law]
    exact = math.sqrt((fourth - (n - 3) / (n - 1)) / n)
    # unbiased: mean of s^2 over replications within 4 of its own standard errors
    assert abs(st.z_score(e.mean.mean(), exact / math.sqrt(replicas), 1.0)) < 4
    # the scatter of s^2: 1/sqrt(2 replicas) = 0.5% for light tails, x4 for the heavy one
    assert e.mean.std() == pytest.approx(exact, rel=0.06)
    ratio = math.sqrt(np.mean(e.stderr**2)) / exact
    # normal: bias O(n^-3), statistical error 0.2%; exponential: plugged-in moments of a heavy tail;
    # sign: the leading term vanishes and the mean's fluctuation, 4/n^2 beside 2/n^2, takes over
    allowed = {"normal": (0.99, 1.01), "exponential": (0.85, 1.0), "sign": (1.6, 1.9)}[law]
    assert allowed[0] < ratio < allowed[1]


def test_variance_error_of_balanced_signs_is_not_negative():
    e = st.variance_with_error([1.0, -1.0] * 10)
    assert e.mean == pytest.approx(20 / 19, rel=1e-14)
    assert np.isfinite(e.stderr)
    assert e.stderr >= 0


def test_covariance_error_matches_replication():
    n, replicas = 60, 8000
    z = normals(3, (n, 2, replicas))
    x, y = z[:, 0], 0.6 * z[:, 0] + 0.8 * z[:, 1]
    # each replica is one variable: the diagonal of the cross-covariance matrix would hold
    # 8000^2 entries, so replicas are evaluated one by one
    results = [st.covariance_with_error(x[:, r], y[:, r]) for r in range(replicas)]
    value = np.array([r.mean for r in results])
    error = np.array([r.stderr for r in results])
    exact = math.sqrt((1 + 0.6**2) / (n - 1))  # Gaussian: (c11 c22 + c12^2) / (n - 1)
    assert abs(st.z_score(value.mean(), exact / math.sqrt(replicas), 0.6)) < 4
    assert value.std() == pytest.approx(exact, rel=0.04)  # 4 / sqrt(2 * 8000) = 3%
    assert math.sqrt(np.mean(error**2)) == pytest.approx(exact, rel=0.01)  # statistical: 0.3%


def test_covariance_matrix_agrees_with_numpy_and_variance():
    x = normals(4, (40, 3)) @ np.array([[1.0, 0.5, 0], [0, 1, -2], [0.3, 0, 1]])
    e = st.covariance_with_error(x)
    np.testing.assert_allclose(e.mean, np.cov(x.T), rtol=1e-12, atol=1e-13)  # rounding
    v = st.variance_with_error(x)
    np.testing.assert_allclose(np.diag(e.mean), v.mean, rtol=1e-12)
    np.testing.assert_allclose(np.diag(e.stderr), v.stderr, rtol=1e-12)
    assert st.covariance_with_error(x, x[:, 0]).mean.shape == (3,)


@pytest.mark.parametrize("function", [st.mean_with_error, st.variance_with_error])
def test_bad_samples(function):
    with pytest.raises(ShapeError, match="at least"):
        function([1.0])
    with pytest.raises(DomainError, match="finite"):
        function([1.0, 2.0, np.nan, 3.0])
    with pytest.raises(DomainError, match="real numbers"):
        function(np.array([1j, 2, 3, 4]))
    with pytest.raises(ShapeError, match="no axis 1"):
        function([1.0, 2.0, 3.0, 4.0], axis=1)
    with pytest.raises(ShapeError, match="rectangular"):
        function([[1.0, 2.0], [1.0]])


def test_bad_pairs():
    with pytest.raises(ShapeError, match=r"\(n, d\)"):
        st.covariance_with_error(np.ones((5, 2)), np.ones((6, 2)))
    with pytest.raises(ShapeError, match="at least 4"):
        st.covariance_with_error(np.ones((3, 2)))


# --- comparison with theory ----------------------------------------------------------------------


def test_z_score():
    assert st.z_score(3.0, 0.3, 2.0, 0.4) == pytest.approx(2.0, rel=1e-14)
    np.testing.assert_array_equal(
        st.z_score([1.0, 2.0, 0.0], 0.0, 1.0), np.array([0.0, np.inf, -np.inf])
    )
    with pytest.raises(DomainError, match="error must be >= 0"):
        st.z_score(1.0, -0.1, 1.0)
    with pytest.raises(DomainError, match="expected_error must be >= 0"):
        st.z_score(1.0, 0.1, 1.0, np.nan)


def test_family_threshold():
    assert st.family_threshold(4.0) == pytest.approx(4.0, rel=1e-12)
    # definition, by an independent route: chance that all of 100 stay below
    bound = st.family_threshold(3.0, 100)
    inside = 1 - 2 * scipy.stats.norm.sf(bound)
    assert inside**100 == pytest.approx(1 - 2 * scipy.stats.norm.sf(3.0), rel=1e-12)
    # simulated: t-distributed scores, 20 comparisons, 5% false alarms
    z05 = scipy.stats.norm.isf(0.025)
    samples = normals(5, (6, 20, 5000))
    e = st.mean_with_error(samples)
    worst = np.abs(e.mean / e.stderr).max(0)
    alarms = np.sum(worst > st.family_threshold(z05, 20, dof=5))
    low, high = binomial_bounds(5000, 0.05)
    assert low < alarms < high
    assert 8.2 < st.family_threshold(8.0, 100) < 9.0  # p = 1e-15 survives the subtraction
    for bad in [{"z": 0.0}, {"z": 1.0, "count": 0}, {"z": 1.0, "dof": 0}]:
        with pytest.raises(DomainError, match="must be"):
            st.family_threshold(**bad)


@pytest.mark.parametrize("with_errors", [True, False])
def test_power_law_coverage(with_errors):
    """The 95% interval holds the true exponent in about 95% of 2000 fits."""
    sizes = np.array([32, 64, 128, 256, 512])
    noise = 0.03 * normals(6, (2000, 5))
    truth = 2.5 * sizes**-1.0
    hits = 0
    for e in noise:
        values = truth * np.exp(e)
        errors = 0.03 * values if with_errors else None
        hits += -1.0 in st.power_law_fit(sizes, values, errors).exponent
    low, high = binomial_bounds(2000, 0.95)
    # with errors the Birge ratio only ever widens the interval: coverage up to 98% measured
    assert low < hits < (0.995 * 2000 if with_errors else high)


def test_power_law_matches_scipy_and_is_exact():
    sizes = np.array([1.0, 2.0, 5.0, 9.0])
    values = np.array([3.0, 1.4, 0.7, 0.33])
    fit = st.power_law_fit(sizes, values, level=0.9)
    line = scipy.stats.linregress(np.log(sizes), np.log(values))
    assert float(fit.exponent) == pytest.approx(line.slope, rel=1e-12)
    assert fit.exponent.stderr == pytest.approx(line.stderr, rel=1e-12)
    half = scipy.stats.t.ppf(0.95, 2) * line.stderr
    assert fit.exponent.high == pytest.approx(line.slope + half, rel=1e-12)
    assert math.isnan(fit.chi2)
    exact = st.power_law_fit(sizes, 7 * sizes**-1.5, 0.1 * sizes**-1.5)
    np.testing.assert_allclose(exact(sizes), 7 * sizes**-1.5, rtol=1e-12)
    assert exact.chi2 < 1e-20
    covariance = np.linalg.inv(
        sum((7 / 0.1) ** 2 * np.outer(v, v) for v in np.stack([np.log(sizes), np.ones(4)], 1))
    )
    assert exact.exponent.stderr == pytest.approx(math.sqrt(covariance[0, 0]), rel=1e-9)
    assert str(exact.exponent).startswith("-1.5 [")


def test_power_law_widens_on_curvature():
    sizes = np.array([2.0, 4, 8, 16, 32])
    values = 1 / sizes + 3 / sizes**2
    tight = st.power_law_fit(sizes, values, 1e-4 * values)
    assert tight.chi2 > 100
    plain = st.power_law_fit(sizes, values)
    assert tight.exponent.stderr == pytest.approx(plain.exponent.stderr, rel=1e-6)


def test_power_law_bad_input():
    with pytest.raises(ShapeError, match="at least 3"):
        st.power_law_fit([1, 2], [1, 2])
    with pytest.raises(ShapeError, match="one length"):
        st.power_law_fit([1, 2, 3], [1, 2, 3, 4])
    with pytest.raises(DomainError, match="values must be > 0"):
        st.power_law_fit([1, 2, 3], [1, 0, 3])
    with pytest.raises(DomainError, match="errors must be > 0"):
        st.power_law_fit([1, 2, 3], [1, 1, 3], [1, 0, 1])
    with pytest.raises(DomainError, match="all be equal"):
        st.power_law_fit([2, 2, 2], [1, 1, 3])
    with pytest.raises(DomainError, match="level must be"):
        st.power_law_fit([1, 2, 3], [1, 2, 3], level=1.0)


# --- bootstrap -----------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["bca", "percentile"])
def test_bootstrap_matches_scipy(method):
    x = np.asarray(jax.random.exponential(jax.random.key(7), (80,)))
    ours = st.bootstrap(x, np.std, key=8, n=4000, level=0.9, method=method)
    theirs = scipy.stats.bootstrap(
        (x,), np.std, n_resamples=4000, confidence_level=0.9, rng=np.random.default_rng(9),
        method={"bca": "BCa", "percentile": "percentile"}[method],
    )  # fmt: skip
    # a quantile at 5% of 4000 resamples scatters by about 2/sqrt(4000) of the width: 4 of these
    # (for the difference of two) is 0.18
    width = theirs.confidence_interval.high - theirs.confidence_interval.low
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.18 * width)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.18 * width)
    assert ours.stderr == pytest.approx(theirs.standard_error, rel=0.07)  # 4 / sqrt(4000)
    assert float(ours) == pytest.approx(np.std(x), rel=1e-14)


def test_bca_moves_towards_the_long_tail():
    """For the variance of skewed data the percentile interval sits too low; BCa corrects it up."""
    x = np.asarray(jax.random.exponential(jax.random.key(10), (60,)))
    bca = st.bootstrap(x, np.var, key=0)
    plain = st.bootstrap(x, np.var, key=0, method="percentile")
    assert bca.low > plain.low
    assert bca.high > plain.high


def test_bootstrap_coverage_of_a_paired_statistic():
    """95% intervals of a correlation coefficient, 200 experiments of 40 pairs."""
    z = normals(11, (200, 40, 2))
    z[..., 1] = 0.5 * z[..., 0] + math.sqrt(0.75) * z[..., 1]

    def correlation(rows):
        return np.corrcoef(rows.T)[0, 1]

    hits = sum(0.5 in st.bootstrap(rows, correlation, key=i, n=400) for i, rows in enumerate(z))
    # BCa at 40 pairs covers 93-95% (second-order accurate): four deviations below 93%
    assert binomial_bounds(200, 0.93)[0] < hits


def test_bootstrap_of_arrays_reproducible_and_checked():
    x = normals(12, (30, 2))
    a = st.bootstrap(x, lambda s: s.mean(0), key=3, n=200)
    b = st.bootstrap(x, lambda s: s.mean(0), key=jax.random.key(3), n=200)
    assert a.low.shape == (2,)
    np.testing.assert_array_equal(a.low, b.low)
    constant = st.bootstrap(np.ones(10), np.mean, key=0, n=100)
    assert (constant.low, constant.high) == (1.0, 1.0)
    with pytest.raises(ShapeError, match="at least 3"):
        st.bootstrap([1.0, 2.0], np.mean, key=0)
    with pytest.raises(DomainError, match="n must be >= 100"):
        st.bootstrap(x, np.mean, key=0, n=10)
    with pytest.raises(DomainError, match="method"):
        st.bootstrap(x, np.mean, key=0, method="basic")
    with pytest.raises(DomainError, match="key must be"):
        st.bootstrap(x, np.mean, key=1.5)
    with pytest.raises(DomainError, match="the statistic must be finite"):
        st.bootstrap(x, lambda s: np.nan, key=0)


# --- correlated series ---------------------------------------------------------------------------


@pytest.mark.parametrize("phi", [0.0, 0.5, 0.9, -0.5])
def test_autocorrelation_time_of_ar1(phi):
    """Mean over 200 chains against (1+phi)/(1-phi), and the error bar against the scatter."""
    exact = (1 + phi) / (1 - phi)
    t = st.autocorrelation_time(ar1(13, phi, 200, 20_000))
    mean = st.mean_with_error(t.tau)
    # the window W leaves out exactly phi^W (1 + phi)/(1 - phi)
    left_out = abs(phi) ** t.window.min() * exact
    assert abs(mean.mean - exact) < 4 * mean.stderr + left_out
    scatter = t.tau.std(ddof=1)
    # Sokal's formula holds for tau >> 1; it is an upper bound when the chain is nearly white
    ratio = t.stderr.mean() / scatter
    assert (0.8 < ratio < 1.25) if phi == 0.9 else ratio > 0.8
    assert t.reliable.all()


def test_autocorrelation_time_short_chain_is_flagged():
    t = st.autocorrelation_time(ar1(14, 0.98, 5, 400))
    assert not t.reliable.any()
    # constant chains say nothing
    t = st.autocorrelation_time(np.ones((2, 100)))
    assert np.isnan(t.tau).all()
    assert not t.reliable.any()


def test_autocorrelation_time_by_direct_sum():
    """The FFT route equals the plain double loop."""
    x = ar1(15, 0.6, 1, 600)[0]
    t = st.autocorrelation_time(x)
    d = x - x.mean()
    rho = np.array([d[: 600 - k] @ d[k:] / (600 - k) for k in range(300)])
    rho /= rho[0]
    tau = [1 + 2 * rho[1:w].sum() + rho[w] for w in range(1, 300)]
    w = next(i for i in range(1, 300) if i >= 5 * max(tau[i - 1], 1))
    raw = tau[w - 1]
    assert t.window == w
    assert t.tau == pytest.approx(raw * (1 + 2 * w / 600) / (1 + raw / 600), rel=1e-10)
    assert t.tau.shape == ()


def test_effective_sample_size():
    """sd / sqrt(ESS) of one chain equals the scatter of chain means over 400 chains."""
    x = ar1(16, 0.8, 400, 4000)
    predicted = x.std(-1) / np.sqrt(st.effective_sample_size(x))
    scatter = x.mean(-1).std(ddof=1)
    # scatter: 4 / sqrt(2 * 400) = 14%
    assert predicted.mean() == pytest.approx(scatter, rel=0.14)


def test_blocking_of_ar1():
    """z of the mean over 300 chains has unit variance, and a level is found."""
    n = 8192
    results = [st.blocking(x) for x in ar1(17, 0.8, 300, n)]
    assert all(r.plateau for r in results)
    exact = math.sqrt(9.0 / n)
    errors = np.array([r.stderr for r in results])
    # bias and noise of the error at the chosen level: a few per cent each
    assert errors.mean() == pytest.approx(exact, rel=0.08)
    z = np.array([r.mean / r.stderr for r in results])
    # variance of 300 z: 1 +- 4 sqrt(2/300) = 0.33, plus the same few per cent
    assert z.var() == pytest.approx(1.0, abs=0.4)
    noise = np.array([r.stderr_error for r in results]).mean()
    assert errors.std() == pytest.approx(noise, rel=0.5)  # levels differ between chains


def test_blocking_levels_and_independence():
    x = normals(18, (4096,))
    r = st.blocking(x)
    np.testing.assert_allclose(r.errors[0], scipy.stats.sem(x), rtol=1e-12)
    np.testing.assert_allclose(r.errors[3], scipy.stats.sem(x.reshape(-1, 8).mean(1)), rtol=1e-12)
    assert r.block_sizes[3] == 8
    assert r.stderr == pytest.approx(1 / 64, rel=0.25)  # error of the error at block 32: 6%
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert st.blocking(np.ones(4096)).stderr == 0.0


def test_blocking_warns_when_too_short():
    x = np.cumsum(normals(19, (512,)))  # a random walk never forgets
    with pytest.warns(PrecisionWarning, match="lower bound"):
        r = st.blocking(x)
    assert not r.plateau
    assert r.stderr == r.errors.max()


def test_bad_series():
    with pytest.raises(ShapeError, match="1-D"):
        st.blocking(np.ones((20, 20)))
    with pytest.raises(ShapeError, match="at least 8"):
        st.blocking(np.ones(4))
    with pytest.raises(ShapeError, match="at least 8"):
        st.autocorrelation_time(np.ones((50, 3)))
    with pytest.raises(DomainError, match="c must be > 0"):
        st.autocorrelation_time(np.ones(50), c=0)
    with pytest.raises(DomainError, match="finite"):
        st.effective_sample_size([0.0] * 20 + [np.inf])


def test_records_are_pytrees():
    leaves = jax.tree_util.tree_leaves(st.mean_with_error([1.0, 2.0, 4.0]))
    assert len(leaves) == 3
