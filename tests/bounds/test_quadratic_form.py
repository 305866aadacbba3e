"""Distribution function of a Gaussian quadratic form: closed forms in many digits, deep tails."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
import scipy.stats

from bounds.quadratic_form import log_cdf_quadratic_form
from deeplimits import DomainError, ShapeError

SPECTRUM = 1.3 * 0.7 ** np.arange(30)


def log_cdf_exponentials(x, lam):
    """Two outputs: a sum of independent exponentials, whose law is a sum of exponentials."""
    with mpmath.workdps(700):
        lam = [mpmath.mpf(float(v)) for v in lam]
        total = mpmath.mpf(0)
        for i, a in enumerate(lam):
            weight = mpmath.fprod(a / (a - b) for j, b in enumerate(lam) if j != i)
            total += weight * mpmath.exp(-mpmath.mpf(float(x)) / (2 * a))
        return float(mpmath.log1p(-total))


def log_cdf_poisson_mixture(x, lam, r2, n):
    """One scale: a Poisson mixture of chi-squared laws."""
    with mpmath.workdps(60):
        x, half = mpmath.mpf(x) / lam / 2, mpmath.mpf(r2) / lam / 2
        terms = (
            mpmath.exp(-half) * half**j / mpmath.factorial(j)
            * mpmath.gammainc(mpmath.mpf(n) / 2 + j, 0, x, regularized=True)
            for j in range(400)
        )  # fmt: skip
        return float(mpmath.log(mpmath.fsum(terms)))


def test_many_scales_against_a_closed_form_in_many_digits():
    mean = 2 * SPECTRUM.sum()
    x = mean * np.array([1e-20, 1e-6, 1e-3, 0.03, 0.3, 0.9, 0.999, 1.0, 1.1, 2.0, 5.0])
    expected = np.array([log_cdf_exponentials(v, SPECTRUM) for v in x])
    got = log_cdf_quadratic_form(x, SPECTRUM, np.zeros(30), outputs=2)
    assert expected.min() < -1000  # far beyond the underflow of the probability
    # 1e-13: rounding of 30 logarithms times the height of the saddle, and of the sum of 400 nodes
    np.testing.assert_allclose(got, expected, rtol=1e-13)


@pytest.mark.parametrize(("lam", "r2", "n"), [(1.0, 0.0, 1), (0.4, 3.0, 5), (2.0, 60.0, 40)])
def test_one_scale_against_a_poisson_mixture(lam, r2, n):
    mean = n * lam + r2
    x = mean * np.array([1e-8, 1e-3, 0.1, 0.6, 0.98, 1.3])
    expected = [log_cdf_poisson_mixture(v, lam, r2, n) for v in x]
    spread = np.zeros(n)
    spread[: n // 2 + 1] = r2 / (n // 2 + 1)  # only the total counts
    got = log_cdf_quadratic_form(x, np.full(n, lam), spread)
    # one degree of freedom decays slowest along the contour
    np.testing.assert_allclose(got, expected, rtol=1e-13 if n > 1 else 3e-14)


def test_upper_tail_keeps_relative_accuracy():
    x = np.array([3.0, 10.0, 40.0, 120.0])
    got = log_cdf_quadratic_form(x, np.ones(3), np.zeros(3))
    # log P = log1p(-Q): the relative accuracy of Q
    np.testing.assert_allclose(got, np.log1p(-scipy.stats.chi2.sf(x, 3)), rtol=1e-13)


def test_constants_and_ends():
    assert log_cdf_quadratic_form(0.5, [0.0, 0.0], [0.25, 0.25]) == 0
    assert log_cdf_quadratic_form(0.49, [0.0, 0.0], [0.25, 0.25]) == -np.inf
    got = log_cdf_quadratic_form(np.array([-1.0, 0.0, 0.4, np.inf]), [0.0, 1.0], [0.5, 0.0])
    np.testing.assert_array_equal(got, [-np.inf, -np.inf, -np.inf, 0.0])
    # a direction of no variance shifts the threshold
    shifted = log_cdf_quadratic_form(1.7, [0.0, 1.0], [0.5, 0.3])
    plain = log_cdf_quadratic_form(1.2, [1.0], [0.3])
    assert shifted == pytest.approx(plain, rel=1e-14)  # rounding
    # units cancel
    scaled = log_cdf_quadratic_form(1.2e-200, [1e-200], [0.3e-200])
    assert scaled == pytest.approx(plain, rel=1e-14)  # rounding


def test_derivatives_against_closed_forms():
    # lam d/dlam of ln F(x / lam) is -(x / lam) f / F for each of n equal variances together
    n, lam, x = 7, 0.8, 3.1
    density = scipy.stats.chi2.pdf(x / lam, n) / scipy.stats.chi2.cdf(x / lam, n)
    value = lambda x, lam, r2: log_cdf_quadratic_form(x, lam, r2)  # noqa: E731
    zero, equal = jnp.zeros(n), jnp.full(n, lam)
    by_x, by_lam, by_r2 = jax.jit(jax.grad(value, (0, 1, 2)))(jnp.asarray(x), equal, zero)
    np.testing.assert_allclose(by_x, density / lam, rtol=1e-12)  # rounding of the sum over nodes
    np.testing.assert_allclose(by_lam.sum(), -x / lam**2 * density, rtol=1e-12)
    np.testing.assert_allclose(by_lam, by_lam[0], rtol=1e-12)
    # a Poisson mixture: d/d r2 at 0 is (F_{n+2} - F_n) / (2 lam F_n)
    up, same = (scipy.stats.chi2.cdf(x / lam, k) for k in (n + 2, n))
    np.testing.assert_allclose(by_r2, (up - same) / same / 2 / lam, rtol=1e-12)


def test_bad_input():
    with pytest.raises(ShapeError, match="lam and r2 must be vectors of one length"):
        log_cdf_quadratic_form(1.0, [1.0, 2.0], [1.0])
    with pytest.raises(ShapeError, match="lam and r2 must be vectors"):
        log_cdf_quadratic_form(1.0, [], [])
    with pytest.raises(DomainError, match=r"lam must be >= 0, got -1"):
        log_cdf_quadratic_form(1.0, [-1.0], [1.0])
    with pytest.raises(DomainError, match="r2 must be finite"):
        log_cdf_quadratic_form(1.0, [1.0], [np.nan])
    with pytest.raises(DomainError, match="x must not be NaN"):
        log_cdf_quadratic_form(np.nan, [1.0], [1.0])
    with pytest.raises(DomainError, match="outputs must be >= 1"):
        log_cdf_quadratic_form(1.0, [1.0], [1.0], outputs=0)
