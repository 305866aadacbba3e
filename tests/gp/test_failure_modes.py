"""Awkward data for every model: a documented error, a warning, or the right answer.

A row of ``MODELS`` maps ``(kernel, X, y, noise)`` to a function that predicts means at new inputs.
"""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from deeplimits import DeepLimitsError, JitterWarning, NotPositiveDefiniteError, ShapeError
from gp.bayesian_ensemble import bayesian_ensemble
from gp.classify import Classifier
from gp.cross_entropy import CrossEntropyEnsemble
from gp.dynamics import Ensemble
from gp.mixture_training import ScaleMixtureEnsemble
from gp.mixtures import ScaleMixture
from gp.pathwise import pathwise
from gp.process import GP
from gp.scale_priors import BurrXII, InverseGamma
from gp.stream import stream


def rbf(x, z=None, length=1.0):
    z = x if z is None else z
    return jnp.exp(-0.5 * jnp.sum((x[:, None] - z[None]) ** 2, axis=-1) / length**2)


def network(kernel):
    return SimpleNamespace(nngp=kernel, ntk=lambda x, z=None: 2 * kernel(x, z))


def labels_of(y):
    return (np.asarray(y) > 0).astype(int)


def log_odds(p):
    return np.log(p[:, 1] / p[:, 0])


REGRESSION = {
    "GP": lambda k, x, y, s: GP(k, noise=s).condition(x, y).mean,
    "stream": lambda k, x, y, s: stream(GP(k, noise=s)).update(x, y).posterior.mean,
    "Student-t": lambda k, x, y, s: ScaleMixture(k, InverseGamma(2, 2), s).condition(x, y).mean,
    "Burr": lambda k, x, y, s: ScaleMixture(k, BurrXII(2, 1.5), s).condition(x, y).mean,
    "Ensemble": lambda k, x, y, s: (
        lambda ens: lambda xs: ens.mean(xs)[0]
    )(Ensemble(network(k), ridge=2 * s).train(x, y, times=np.inf)),
    "BayesianEnsemble": lambda k, x, y, s: (
        bayesian_ensemble(network(k), x, y, noise=2 * s).posterior.mean
    ),
}  # fmt: skip
UNSCALED = {
    "unscaled noise": lambda k, x, y, s: (
        ScaleMixture(k, InverseGamma(2, 2), s, noise_scaled=False).condition(x, y).mean
    ),
    "ScaleMixtureEnsemble": lambda k, x, y, s: (
        ScaleMixtureEnsemble(network(k), InverseGamma(2, 2), "last").train(x, y, time=3.0).mean
    ),
}
CLASSIFIERS = {
    "probit": lambda k, x, y, s: (
        lambda post: lambda xs: log_odds(post.predict_proba(xs))
    )(Classifier(k).condition(x, labels_of(y), classes=(0, 1))),
    "softmax": lambda k, x, y, s: (
        lambda post: lambda xs: np.diff(post.latent(xs).mean, axis=1)[:, 0]
    )(Classifier(k, "softmax").condition(x, labels_of(y), classes=(0, 1))),
    "random scale": lambda k, x, y, s: (
        lambda post: lambda xs: log_odds(post.predict_proba(xs))
    )(Classifier(k, prior=InverseGamma(2, 2)).condition(x, labels_of(y), classes=(0, 1))),
    "cross-entropy": lambda k, x, y, s: (
        lambda ens: lambda xs: np.diff((ens.logits(xs) - _start(ens, xs)).mean(1)[-1])[:, 0]
    )(CrossEntropyEnsemble(network(k)).train(
        x, labels_of(y), key=0, classes=(0, 1), times=[0.0, 5.0], draws=4)),
}  # fmt: skip
MODELS = {**REGRESSION, **UNSCALED, **CLASSIFIERS}
every_model = pytest.mark.parametrize("fit", MODELS.values(), ids=MODELS)
every_regression = pytest.mark.parametrize("fit", REGRESSION.values(), ids=REGRESSION)


def _start(ens, xs):
    return ens.logits(xs)[:1]


X = np.array([[0.0, 0.3], [1.0, -0.5], [-0.7, 0.9], [0.4, 1.5]])
Y = np.array([1.0, -1.0, 0.5, -0.8])
XS = np.array([[0.2, 0.2], [-0.5, 0.1]])


@every_model
def test_duplicate_rows(fit):
    """Repeated rows are no obstacle, and equal inputs get equal predictions."""
    x, y = np.concatenate([X, X[:2]]), np.concatenate([Y, Y[:2]])
    mean = fit(rbf, x, y, 0.1)(np.concatenate([XS, X[:1], X[:1]]))
    assert np.isfinite(mean).all()
    # rows of one matrix product; initial functions at repeated inputs agree to its root
    assert mean[2] == pytest.approx(mean[3], abs=1e-6)
    once = fit(rbf, X, Y, 0.1)(X[:1])[0]
    assert mean[2] * Y[0] > once * Y[0] * 0.99  # more evidence does not weaken the prediction


@every_regression
def test_duplicates_are_averaged(fit):
    """Two observations of a point are one of their mean with half the noise."""
    x, y = np.concatenate([X, X[:1]]), np.append(Y, 3.0)
    mean = fit(rbf, x, y, 0.1)(XS)
    noise = np.array([0.05, 0.1, 0.1, 0.1])
    exact = GP(rbf, noise=noise).condition(X, np.append(2.0, Y[1:])).mean(XS)
    np.testing.assert_allclose(mean, exact, rtol=1e-10)  # condition number 50


@every_model
def test_contradictory_labels(fit):
    """Opposite labels at one point, alone in the data: no information, an answer of zero."""
    x, y = np.repeat(X[:1], 2, axis=0), np.array([1.0, -1.0])
    mean = fit(rbf, x, y, 0.1)(np.concatenate([X[:1], XS]))
    # symmetric up to rounding; means of four draws of initial functions are not symmetric
    if fit is not CLASSIFIERS["cross-entropy"]:
        np.testing.assert_allclose(mean, 0, atol=1e-9)
    assert np.isfinite(mean).all()


@every_model
def test_kernels_that_are_not_positive_definite(fit):
    def indefinite(x, z=None):
        return rbf(x, z) - 0.9

    with pytest.raises(NotPositiveDefiniteError, match=r"eigenvalue|positive"):
        fit(indefinite, X, Y, 1e-3)(XS)


@every_model
def test_one_point(fit):
    mean = fit(rbf, X[:1], Y[:1], 0.1)(np.concatenate([X[:1], [[50.0, 0.0]]]))
    assert mean[0] > 0
    assert mean[1] == pytest.approx(0, abs=1e-9)  # far away the prior mean


@every_regression
def test_one_point_exactly(fit):
    mean = fit(rbf, X[:1], Y[:1], 0.1)(XS)
    np.testing.assert_allclose(mean, np.asarray(rbf(XS, X[:1]))[:, 0] / 1.1, rtol=1e-12)


@pytest.mark.parametrize(
    "fit", [*REGRESSION.values(), *UNSCALED.values()], ids=[*REGRESSION, *UNSCALED]
)
def test_no_outputs_and_no_points(fit):
    with pytest.raises(ShapeError, match=r"y must have shape \(4,\) or \(4, outputs\).*\(4, 0\)"):
        fit(rbf, X, np.zeros((4, 0)), 0.1)
    with pytest.raises(ShapeError, match="must not be empty"):
        fit(rbf, X[:0], Y[:0], 0.1)


@pytest.mark.parametrize("fit", CLASSIFIERS.values(), ids=CLASSIFIERS)
def test_no_points_to_classify(fit):
    with pytest.raises(ShapeError, match="must not be empty"):
        fit(rbf, X[:0], Y[:0], 0.1)


@every_model
def test_badly_conditioned_float32(fit):
    """A kernel that float32 rounds to an indefinite matrix: noise hides it, or an error says so."""
    x = np.linspace(0, 1, 40)[:, None]
    y = np.sin(6 * x[:, 0])
    xs = np.array([[0.31], [0.77]])
    smooth = lambda a, b=None: rbf(a, b, 2.0)  # noqa: E731
    exact = fit(smooth, x, y, 0.1)(xs)
    rough = fit(smooth, x.astype(np.float32), y, 0.1)(xs.astype(np.float32))
    assert np.isfinite(rough).all()
    if fit is CLASSIFIERS["cross-entropy"]:
        return  # other eigenvectors, so other draws of the initial functions
    # kernel rounded to 1e-7 of its size, 40 entries, over noise 0.1; with unscaled noise the scale
    # of these smooth data is 2e4, and so many times smaller is the noise
    tol = 2e-2 if fit is UNSCALED["unscaled noise"] else 1e-3
    np.testing.assert_allclose(rough, exact, atol=tol)


@every_regression
def test_badly_conditioned_float32_without_noise(fit):
    x = np.linspace(0, 1, 40)[:, None].astype(np.float32)
    y = np.sin(6 * x[:, 0])
    smooth = lambda a, b=None: rbf(a, b, 2.0)  # noqa: E731
    if fit is REGRESSION["Ensemble"]:
        # modes below rounding stay untrained, and are counted
        ens = Ensemble(network(smooth)).train(x, y, times=np.inf)
        assert ens.n_null > 30
        assert np.isfinite(ens.mean(x)).all()
        return
    with pytest.raises(DeepLimitsError, match=r"not positive definite|noise must be > 0"):
        fit(smooth, x, y, 0.0)


@pytest.mark.parametrize("name", ["GP", "Student-t", "Burr"])
def test_contradictory_labels_without_noise_are_flagged(name):
    x = np.concatenate([X, X[:1]])
    with pytest.warns(JitterWarning, match="changes the model"):
        mean = REGRESSION[name](rbf, x, np.append(Y, 3.0), 0.0)
    # the average, with what a jitter of 1e-15 leaves of its digits
    assert mean(X[:1])[0] == pytest.approx(2.0, abs=0.5)


def test_pathwise_draws_at_duplicates():
    x, y = np.concatenate([X, X[:2]]), np.concatenate([Y, Y[:2]])
    draws = pathwise(GP(rbf, noise=0.1).condition(x, y), 3, key=0)
    values = np.asarray(draws(np.concatenate([X[:1], X[:1]])))
    assert np.isfinite(values).all()
    np.testing.assert_allclose(values[:, 0], values[:, 1], atol=1e-6)
