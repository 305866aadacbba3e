import matplotlib.pyplot as plt
import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from deeplimits import DomainError
from deeplimits.statistics import family_threshold
from gp.dkm import DKM

#: One point, linear kernel: everything is an integral over one number.
ONE = DKM("linear", 1, 3.0, 0.1, jitter=0.0).fit([[1.0]], [2.0], tol=1e-10)
BEST = 1.478808
X = np.array([[1.0], [-0.4]])
Y = np.array([1.2, -0.8])
NU, NOISE = 4.0, 0.1
FITTED = DKM("rbf", 1, NU, NOISE).fit(X, Y)


def exact_moments(n):
    """Mean and standard deviation of G for N = n by quadrature of the Wishart density."""

    def log_density(g):
        wishart = scipy.stats.gamma.logpdf(g, 1.5 * n, scale=2 / (3 * n))
        return wishart + n * scipy.stats.norm.logpdf(2.0, 0.0, np.sqrt(g + 0.1))

    top = log_density(BEST)
    moments = [
        scipy.integrate.quad(
            lambda g, k=k: g**k * np.exp(log_density(g) - top),
            1e-9, 12, points=[BEST], limit=400, epsabs=1e-13, epsrel=1e-12,
        )[0]
        for k in range(3)
    ]  # fmt: skip
    mean = moments[1] / moments[0]
    return mean, np.sqrt(moments[2] / moments[0] - mean**2)


def test_the_limit_of_one_point():
    """Bias 1/N and spread N^-1/2 with the coefficients of the expansion about the optimum."""
    assert ONE.grams.item() == pytest.approx(BEST, abs=5e-7)  # digits given
    sizes = np.array([16.0, 64.0, 256.0])
    mean, std = np.array([exact_moments(n) for n in sizes]).T
    bias = mean - ONE.grams.item()
    assert sizes[-1] * bias[-1] == pytest.approx(0.1272, abs=1e-4)
    assert np.sqrt(sizes[-1]) * std[-1] == pytest.approx(0.816, abs=5e-4)
    # local exponents differ from -1 and -1/2 by the next order, of relative size 1/N
    for values, exponent in ((bias, -1.0), (std, -0.5)):
        local = np.diff(np.log(values)) / np.diff(np.log(sizes))
        assert abs(local[-1] - exponent) < 1 / sizes[1]
        assert abs(local[-1] - exponent) < 0.5 * abs(local[0] - exponent)


def two_points(n):
    """Mean and standard deviation of G for two points, by quadrature over its three entries.

    Over G11, G22 and the correlation, with scipy's Wishart density and the naive likelihood.
    """
    K = np.exp(np.outer(X, X) - 0.5 * (X**2 + X.T**2))
    a, wa = np.polynomial.legendre.leggauss(48)
    width = NU * n
    low, high = max(0.0, 1.05 - 5.5 / np.sqrt(width)), 1.05 + 5.5 / np.sqrt(width)
    u, wu = low + 0.5 * (high - low) * (a + 1), wa  # square roots of the diagonal
    rho = np.tanh(np.arctanh(K[0, 1]) + 9 / np.sqrt(width) * a)
    g1, g2, r = np.meshgrid(u**2, u**2, rho, indexing="ij")
    cross = r * np.sqrt(g1 * g2)
    inverse = np.linalg.inv(K)
    trace = inverse[0, 0] * g1 + inverse[1, 1] * g2 + 2 * inverse[0, 1] * cross
    log_p = 0.5 * (width - 3) * np.log(g1 * g2 * (1 - r**2)) - 0.5 * width * trace
    k = np.exp(cross - 0.5 * (g1 + g2))
    det = (1 + NOISE) ** 2 - k**2
    quadratic = ((1 + NOISE) * (Y @ Y) - 2 * k * Y[0] * Y[1]) / det
    log_p += n * -0.5 * (quadratic + np.log(det))
    # volume: dG11 dG22 dG12 with G = u^2 and G12 = rho u1 u2
    volume = 4 * np.sqrt(g1 * g2) * np.sqrt(g1 * g2) * (1 - r**2)
    w = np.exp(log_p - log_p.max()) * volume
    w *= wu[:, None, None] * wu[None, :, None] * wa[None, None, :]
    w /= w.sum()
    entries = [g1, cross, g2]
    mean = np.array([np.sum(w * e) for e in entries])
    square = np.array([np.sum(w * e**2) for e in entries])
    return mean, np.sqrt(square - mean**2)


@pytest.mark.slow
@pytest.mark.optimized
def test_sampler_against_quadrature():
    """Both sets of coordinates, several widths; exact bias and spread shrink as they should."""
    rows = np.triu_indices(2)
    cases = [(1, "features"), (1, "bartlett"), (4, "bartlett"), (16, "bartlett")]
    for n, method in cases:
        draws = FITTED.sample_finite(n, n, draws=1000, method=method)
        assert draws.method == method
        mean, std = two_points(n)
        z = (draws.mean[0][rows] - mean) / draws.stderr[0][rows]
        assert np.abs(z).max() < family_threshold(4.0, 12), (n, method, z)
        # a standard deviation has relative error sqrt(kurtosis - 1) / 2 / sqrt(ess), up to 2 here
        assert np.abs(draws.std[0][rows] / std - 1).max() < 8 / np.sqrt(draws.ess.min())
        assert draws.rhat.max() < 1.02
        assert 0.6 < draws.acceptance < 0.98  # aim: 0.8
    draws.plot(plt.figure().gca(), limit=FITTED.grams)
    plt.close("all")


def test_the_limit_of_two_points():
    sizes = np.array([16.0, 64.0])
    mean, std = np.array([two_points(n) for n in sizes]).transpose(1, 0, 2)
    bias = mean - FITTED.grams[0][np.triu_indices(2)]
    for values, exponent in ((bias, -1.0), (std, -0.5)):
        local = np.log(np.abs(values[1] / values[0])) / np.log(4)
        np.testing.assert_allclose(local, exponent, atol=0.1 / sizes[0])  # next order, times 0.1


def test_refusals():
    for match, width, options in [
        ("width must be > 0", 0.0, {}),
        ("draws must be", 2, {"draws": 1}),
        ("chains must be", 2, {"chains": 1}),
        ("method must be one of", 2, {"method": "hmc"}),
        ("need nu \\* width > 1", 0.2, {"method": "bartlett"}),
        ("whole numbers", 0.2, {}),
    ]:
        with pytest.raises(DomainError, match=match):
            FITTED.sample_finite(0, width, **options)
    taylor = DKM(penalty="taylor_sym").nngp(X, Y)
    with pytest.raises(DomainError, match="belongs to penalty"):
        taylor.sample_finite(0, 2)
