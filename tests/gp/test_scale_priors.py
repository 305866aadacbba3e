import jax
import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest
import scipy.stats

from deeplimits import DomainError, PrecisionWarning
from gp.scale_density import LogDensity
from gp.scale_priors import (
    BetaPrime,
    BurrXII,
    InverseGamma,
    LogNormal,
    ScalePrior,
    density_of_log,
    log_density,
    log_rising,
)
from gp.scale_quadrature import ImproperPosteriorError, MomentUndefinedError, integrate

PAIRS = [
    (InverseGamma(1.7, 2.3), scipy.stats.invgamma(1.7, scale=2.3)),
    (InverseGamma(80, 90), scipy.stats.invgamma(80, scale=90)),
    (BurrXII(2.0, 1.5), scipy.stats.burr12(2.0, 1.5)),
    (BurrXII(0.7, 4), scipy.stats.burr12(0.7, 4)),
    (BetaPrime(0.5, 0.5), scipy.stats.betaprime(0.5, 0.5)),
    (LogNormal(0.3, 1.2), scipy.stats.lognorm(1.2, scale=np.exp(0.3))),
]
each_prior = pytest.mark.parametrize(("prior", "reference"), PAIRS, ids=lambda p: str(p)[:24])
S2 = np.geomspace(1e-3, 1e4, 29)


@each_prior
def test_density_against_scipy(prior, reference):
    assert isinstance(prior, ScalePrior)
    # a few roundings of terms of size up to 100
    np.testing.assert_allclose(log_density(prior, S2), reference.logpdf(S2), rtol=1e-12, atol=1e-12)


@each_prior
def test_density_in_jax_is_that_in_numpy(prior, reference):
    u = np.linspace(-30.0, 30.0, 13)
    in_jax = prior.log_density_of_log(jax.numpy.asarray(u))
    assert in_jax.dtype == np.float64
    np.testing.assert_allclose(in_jax, density_of_log(prior, u), rtol=1e-13, atol=1e-13)


@each_prior
def test_quadrature_normalises_and_has_the_moments(prior, reference):
    nodes = integrate(lambda u: density_of_log(prior, u), "a law")
    assert abs(nodes.log_integral) < 1e-12  # rounding
    assert nodes.error < 1e-13
    assert nodes.weights.sum() == pytest.approx(1, abs=1e-12)
    assert nodes.mean == pytest.approx(prior.mean, rel=1e-11)
    for order in (-0.4, 0.3):
        expected = reference.expect(lambda x, r=order: x**r) if order < 0 else None
        if np.isfinite(prior.mean):
            assert nodes.moment(order) == pytest.approx(prior.moment(order), rel=1e-11)
            # adaptive quadrature of scipy on an integrand with a cusp at 0
            assert expected is None or prior.moment(order) == pytest.approx(expected, rel=1e-6)


@each_prior
def test_moments_against_scipy(prior, reference):
    if np.isfinite(prior.mean):
        assert prior.mean == pytest.approx(reference.mean(), rel=1e-12)
    else:
        assert not np.isfinite(reference.mean())
    if np.isfinite(prior.var):
        assert prior.var == pytest.approx(reference.var(), rel=1e-10)  # difference of two moments


@each_prior
def test_samples(prior, reference):
    draws = prior.sample(3, 4000)
    assert draws.shape == (4000,)
    assert scipy.stats.kstest(draws, reference.cdf).pvalue > 1e-3
    np.testing.assert_array_equal(draws[:1], prior.sample(jax.random.key(3), 4000)[:1])


def test_inverse_gamma_of_large_shape_keeps_its_digits():
    for a in (19.0, 21.0, 1e9, 1e15):
        b = mp.mpf(3)
        exact = []
        for s2 in (3 / a * 0.999, 3 / a * (1 + 1e-8)):
            x, shape = mp.mpf(s2), mp.mpf(a)
            with mp.workdps(60):
                exact.append(shape * mp.log(b) - mp.loggamma(shape) - shape * mp.log(x) - b / x)
        prior = InverseGamma(a, 3.0)
        found = density_of_log(prior, np.log([3 / a * 0.999, 3 / a * (1 + 1e-8)]))
        # the rounding of log s2, times the slope of the density, which is a (s2 a / b - 1)
        for value, reference, slope in zip(found, exact, (1e-3 * a, 1e-8 * a), strict=True):
            room = 1e-13 + 8 * 2.2e-16 * slope * abs(np.log(3 / a)) + a * 1e-31
            assert abs(value - float(reference)) < room + 1e-14 * abs(float(reference))


def test_log_density_wrapper():
    law = LogDensity(lambda s2: -s2 + 7.0)  # exponential law, not normalised
    assert law.nodes.log_integral == pytest.approx(7, abs=1e-13)
    np.testing.assert_allclose(log_density(law, S2[:15]), -S2[:15], rtol=1e-13, atol=1e-13)
    assert [law.mean, law.moment(2.0)] == pytest.approx([1, 2], rel=1e-12)
    assert scipy.stats.kstest(law.sample(0, 4000), scipy.stats.expon.cdf).pvalue > 1e-3
    raw = LogDensity(lambda s2: -s2 + 7.0, normalise=False)
    assert float(log_density(raw, 1.0)) == pytest.approx(6, abs=1e-14)


def test_a_density_with_a_jump_is_integrated_with_a_warning_and_an_honest_error():
    with pytest.warns(PrecisionWarning, match="kinks or jumps"):
        law = LogDensity(lambda s2: np.where(s2 < 2, 0.0, -np.inf)).nodes
    true_error = abs(law.log_integral - np.log(2))
    # the trapezoid rule is off by about half a step at a jump, and so is its change
    assert 1e-8 < true_error < 3 * law.error


def test_priors_are_pytrees():
    prior = BurrXII(2, 1.5)
    assert jax.tree.leaves(prior) == [2.0, 1.5]
    doubled = jax.tree.map(lambda x: 2 * x, prior)
    assert doubled == BurrXII(4.0, 3.0)
    slope = jax.grad(lambda p: p.log_density_of_log(jax.numpy.asarray(0.7)))(prior)
    step = 1e-6
    up, down = (log_density(BurrXII(2 + d, 1.5), np.exp(0.7)) for d in (step, -step))
    # central difference: error step^2 times a third derivative of order 1, rounding 1e-16 / step
    assert float(slope.c) == pytest.approx(float(up - down) / (2 * step), rel=1e-8)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: InverseGamma(0.0, 1.0), "a must be > 0"),
        (lambda: InverseGamma(1.0, -1.0), "b must be > 0"),
        (lambda: BurrXII(-1.0, 1.0), "c must be > 0"),
        (lambda: BurrXII(1.0, np.nan), "k must be finite"),
        (lambda: BetaPrime(0.0, 1.0), "alpha must be > 0"),
        (lambda: BetaPrime(1.0, 0.0), "beta must be > 0"),
        (lambda: LogNormal(np.inf, 1.0), "mu must be finite"),
        (lambda: LogNormal(0.0, 0.0), "sigma must be > 0"),
        (lambda: LogDensity(3.0), "function must be a log density"),
        (lambda: log_density(LogNormal(0.0, 1.0), [1.0, 0.0]), "s2 must be > 0"),
        (lambda: log_density(LogNormal(0.0, 1.0), [np.nan]), "s2 must be finite"),
        (lambda: LogNormal(0.0, 1.0).sample(0, 0), "n must be >= 1"),
        (lambda: BurrXII(1.0, 1.0).sample("a", 2), "key must be"),
        (lambda: LogDensity(lambda s2: s2 * np.nan).nodes, "must be a number below infinity"),
        (lambda: LogDensity(lambda s2: -np.inf * s2).nodes, "zero everywhere"),
    ],
)
def test_bad_input(make, match):
    with pytest.raises(DomainError, match=match):
        make()


@pytest.mark.parametrize(
    ("prior", "order"),
    [
        (InverseGamma(1.5, 1.0), 1.5),
        (BurrXII(2.0, 1.0), 2.0),
        (BurrXII(2.0, 1.0), -2.0),
        (BetaPrime(0.5, 0.5), 1.0),
        (LogDensity(lambda s2: -2 * np.log1p(s2)), 1.0),
    ],
)
def test_undefined_moments(prior, order):
    with pytest.raises(MomentUndefinedError, match="does not exist"):
        prior.moment(order)


def test_infinite_moments_are_infinite():
    assert InverseGamma(1.0, 2.0).mean == InverseGamma(2.0, 2.0).var == np.inf
    assert BurrXII(1.0, 1.0).mean == BurrXII(2.0, 1.0).var == np.inf
    assert BetaPrime(1.0, 1.0).mean == BetaPrime(1.0, 2.0).var == np.inf
    assert LogDensity(lambda s2: -2 * np.log1p(s2)).mean == np.inf


def test_improper_density():
    with pytest.raises(ImproperPosteriorError, match="the scale prior diverges"):
        _ = LogDensity(lambda s2: -np.log(s2)).nodes


@pytest.mark.parametrize("a", [0.3, 1.7, 12.0, 30.0, 1e3, 1e8, 1e15])
@pytest.mark.parametrize("h", [0.5, 10.0, 400.0])
def test_gamma_ratios(a, h):
    with mp.workdps(50):
        rising = mp.loggamma(mp.mpf(a) + h) - mp.loggamma(a) - h * mp.log(a)
        log_beta = mp.loggamma(a) + mp.loggamma(h) - mp.loggamma(mp.mpf(a) + h)
        at = mp.mpf("0.3")
        density = a * at - (mp.mpf(a) + h) * mp.log(1 + mp.exp(at)) - log_beta
    # rounding of the largest terms: h, and the logarithm of the gamma function of h
    scale = h + float(abs(mp.loggamma(h))) + abs(float(rising))
    for number in (float, jnp.float64):
        found = float(log_rising(number(a), number(h)))
        assert found == pytest.approx(float(rising), abs=4e-15 * (scale + 10))
        law = BetaPrime(number(a), number(h)) if number is float else None
        if law is not None and a < 1e4:
            # the two terms of the density have this size
            slack = 1e-15 * (a + h) * 10
            assert float(law.log_density_of_log(0.3)) == pytest.approx(float(density), abs=slack)
            traced = jax.jit(lambda b: BetaPrime(a, b).log_density_of_log(jnp.float64(0.3)))(h)
            assert float(traced) == pytest.approx(float(density), abs=slack)
