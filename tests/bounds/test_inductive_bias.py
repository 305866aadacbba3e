"""Inductive-bias information: exact values, sampled ones, trends, and what cannot be reached."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from bounds.inductive_bias import inductive_bias, sample_losses
from bounds.loss_samples import inductive_bias_from_losses, sankaran
from bounds.quadratic_form import log_cdf_quadratic_form
from deeplimits import DomainError, NotPositiveDefiniteError, ShapeError, z_score


def posterior(d, n, n_test, seed):
    """Noise-free posterior of an RBF process on the cube at a target drawn from it."""
    rng = np.random.default_rng(seed)
    X = rng.uniform(-1, 1, size=(n + n_test, d))
    K = np.exp(-((X[:, None] - X[None]) ** 2).sum(-1) / 2) + 1e-10 * np.eye(n + n_test)
    f = np.linalg.cholesky(K) @ rng.normal(size=n + n_test)
    weights = np.linalg.solve(K[:n, :n], K[:n, n:])
    cov = K[n:, n:] - K[n:, :n] @ weights
    return weights.T @ f[:n], (cov + cov.T) / 2, f[n:]


@pytest.fixture(scope="module")
def case():
    return posterior(4, 20, 40, 0)


def test_isotropic_posterior_is_a_chi_squared_law():
    n, k, var, eps = 12, 3, 0.7, np.array([0.2, 0.7, 1.5])
    mean = np.zeros((n, k))
    got = inductive_bias(mean, var * np.eye(n), mean, eps)
    expected = -scipy.stats.chi2.logcdf(eps * n * k / var, n * k)
    np.testing.assert_allclose(got.value, expected, rtol=1e-13)  # rounding
    assert got.terms["mean_loss"] == pytest.approx(var, rel=1e-14)


def test_against_sampled_hypotheses(case):
    mean, cov, y = case
    losses = sample_losses(mean, cov, y, n_samples=20_000, key=1)
    eps = np.quantile(losses, [0.01, 0.1, 0.5, 0.9])
    share = (losses[:, None] <= np.round(eps, 3)).mean(0)
    exact = np.exp(-inductive_bias(mean, cov, y, np.round(eps, 3)).value)
    stderr = np.sqrt(exact * (1 - exact) / len(losses))
    assert np.abs(z_score(share, stderr, exact)).max() < 3.5  # four scores
    # outputs are independent: two of them, with different residuals, add in the losses
    two = sample_losses(
        np.stack([mean, -mean], 1), cov, np.stack([y, y], 1), n_samples=20_000, key=2
    )
    half = inductive_bias(np.stack([mean, -mean], 1), cov, np.stack([y, y], 1), np.median(two))
    assert abs(np.exp(-half.value) - 0.5) < 4 * 0.5 / len(two) ** 0.5


#: Nats at eps = .05 and n_test = 100, mean of ten seeds, to the digits of an earlier computation.
TREND = {
    (3, 30): 0.26, (4, 30): 7.893, (6, 30): 61.4, (8, 30): 108.6, (12, 30): 142.8,
    (4, 2): 35.3, (4, 5): 29.2, (4, 10): 24.8, (4, 20): 14.2, (4, 40): 4.2, (4, 80): 0.04,
}  # fmt: skip


@pytest.mark.parametrize(("d", "n"), TREND)
def test_trends_with_dimension_and_data_are_reproduced(d, n):
    values = [float(inductive_bias(*posterior(d, n, 100, seed)[:3])) for seed in range(10)]
    digits = len(str(TREND[d, n]).partition(".")[2])
    assert np.mean(values) == pytest.approx(TREND[d, n], abs=0.51 * 10**-digits)  # its last digit


def test_trends_with_error_and_test_points():
    eps = np.array([0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005])
    values = [inductive_bias(*posterior(4, 30, 100, seed)[:3], eps).value for seed in range(10)]
    known = [0.0, 0.31, 2.44, 7.89, 21.0, 35.4, 53.5]
    np.testing.assert_allclose(np.mean(values, axis=0), known, atol=0.05)  # digits known
    more = [np.mean([float(inductive_bias(*posterior(8, 30, m, s)[:3])) for s in range(5)])
            for m in (20, 100, 200)]  # fmt: skip
    # grows with the test set, less than in proportion
    assert more[0] < more[1] < 5 * more[0]
    assert more[1] < more[2] < 2 * more[1]


def test_derivatives(case):
    mean, cov, y = case
    rng = np.random.default_rng(2)
    root = rng.normal(size=cov.shape) / 20
    moves = root @ root.T, rng.normal(size=mean.shape), 1.0
    value = lambda m, c, e: inductive_bias(m, c, y, e).value  # noqa: E731
    by_mean, by_cov, by_eps = jax.jit(jax.grad(value, (0, 1, 2)))(
        jnp.asarray(mean), jnp.asarray(cov), jnp.asarray(0.05)
    )
    h = 1e-5
    for got, change in (
        ((by_cov * moves[0]).sum(), lambda s: (mean, cov + s * moves[0], 0.05)),
        ((by_mean * moves[1]).sum(), lambda s: (mean + s * moves[1], cov, 0.05)),
        (by_eps, lambda s: (mean, cov, 0.05 + s * 0.01)),
    ):
        slope = (value(*change(h)) - value(*change(-h))) / (2 * h)
        slope = slope / 0.01 if got is by_eps else slope
        assert got == pytest.approx(slope, rel=1e-6)  # h^2 and rounding / h
    # coinciding eigenvalues: the derivative of the trace part is that of a chi-squared law
    n = 6
    slope = jax.grad(lambda c: inductive_bias(np.zeros(n), c, np.zeros(n), 0.4).value)(jnp.eye(n))
    x = 0.4 * n
    density = scipy.stats.chi2.pdf(x, n) / scipy.stats.chi2.cdf(x, n)
    np.testing.assert_allclose(slope, np.eye(n) * x * density / n, rtol=1e-12, atol=1e-14)


def test_unreachable_errors_and_confident_posteriors_warn(case):
    mean, cov, y = case
    known = np.zeros_like(cov)
    got = inductive_bias(mean, known, y, 1e-3)
    assert got.value == np.inf
    assert "unreachable" in got.warnings[0]
    assert got.terms["constant_loss"] == pytest.approx(np.mean((mean - y) ** 2), rel=1e-14)
    assert inductive_bias(mean, known, y, 1e3).value == 0
    confident = inductive_bias(mean, 1e-6 * cov, y, 0.05)
    assert confident.value > 1000
    assert "confident and wrong" in confident.warnings[0]
    assert np.isfinite(confident.value)
    assert confident.bits == confident.value / np.log(2)


def test_counting(case):
    mean, cov, y = case
    eps = 0.3
    losses = sample_losses(mean, cov, y, n_samples=2000, key=3)
    got = inductive_bias_from_losses(losses, eps, n_test=40)
    hits = int((losses <= eps).sum())
    assert got.value == pytest.approx(-np.log(hits / 2000))
    assert got.bracket[0] < float(inductive_bias(mean, cov, y, eps)) < got.bracket[1]
    interval = scipy.stats.binomtest(hits, 2000).proportion_ci(0.95)  # Clopper-Pearson
    np.testing.assert_allclose(np.exp(-np.array(got.bracket))[::-1], interval, rtol=1e-12)
    none = inductive_bias_from_losses(losses, 1e-9)
    assert none.value == np.inf
    # no hit in S: -ln(1 - (alpha/2)^(1/S))
    assert none.bracket[0] == pytest.approx(-np.log(1 - 0.025 ** (1 / 2000)), rel=1e-12)
    assert "none of 2000" in none.warnings[0]
    assert none.ceiling == np.log(2000)


def test_published_fit_is_right_for_one_scale_and_wrong_for_many(case):
    fit = {"method": "ncx2-fit", "n_samples": 1000, "key": 0}
    flat = np.zeros(20), np.eye(20), np.full(20, 0.7)
    one, exact = inductive_bias(*flat, 0.149, **fit), float(inductive_bias(*flat, 0.149))
    # The law is in the fitted family. At 0.1 of the mean, 20 degrees of freedom and 1000 samples
    # the fit has a spread of 0.88 nats and a bias of 0.4.
    assert abs(one.value - exact) < 0.4 + 3 * 0.88
    many = inductive_bias(*case, 1e-3, **fit)
    assert many.rigor == "heuristic"
    assert many.value < 0.7 * float(inductive_bias(*case, 1e-3))
    assert any("extrapolated" in text for text in many.warnings)


def test_sankaran_is_a_normal_approximation():
    x = np.array([15.0, 30.0, 60.0])
    z = [sankaran(v, 20.0, 10.0) for v in x]
    # an approximation of the law to a few 1e-3 in probability
    assert np.abs(scipy.stats.norm.cdf(z) - scipy.stats.ncx2.cdf(x, 20, 10)).max() < 3e-3


def test_same_number_as_the_quadratic_form(case):
    mean, cov, y = case
    lam, basis = np.linalg.eigh(cov)
    r2 = (basis.T @ (mean - y)) ** 2
    expected = -log_cdf_quadratic_form(0.05 * len(y), np.maximum(lam, 0), r2)
    assert float(inductive_bias(mean, cov, y, 0.05)) == pytest.approx(expected, rel=1e-12)


def test_bad_input(case):
    mean, cov, y = case
    with pytest.raises(ShapeError, match="mean and y_test must have one shape"):
        inductive_bias(mean, cov, y[:-1])
    with pytest.raises(ShapeError, match=r"cov must be \(40, 40\)"):
        inductive_bias(mean, np.eye(3), y)
    with pytest.raises(DomainError, match="eps must be > 0"):
        inductive_bias(mean, cov, y, 0.0)
    with pytest.raises(DomainError, match="y_test must be finite"):
        inductive_bias(mean, cov, np.full_like(y, np.nan))
    with pytest.raises(DomainError, match="method must be one of"):
        inductive_bias(mean, cov, y, method="fit")
    with pytest.raises(NotPositiveDefiniteError, match="cov must be positive semi-definite"):
        inductive_bias(mean, -np.eye(40), y)
    with pytest.raises(DomainError, match="key must be"):
        inductive_bias(mean, cov, y, method="ncx2-fit")
    with pytest.raises(DomainError, match="losses must be a vector of numbers >= 0"):
        inductive_bias_from_losses([-1.0, 2.0], 0.1)
    with pytest.raises(DomainError, match="losses must vary"):
        inductive_bias_from_losses([1.0, 1.0], 0.1, method="ncx2-fit")
    with pytest.raises(DomainError, match="eps must be > 0"):
        inductive_bias_from_losses([1.0, 2.0], -1.0)
