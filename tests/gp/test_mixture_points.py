"""Leave-one-out and one-step predictions of scale mixtures, against conditioning again."""

import jax
import numpy as np
import pytest

from deeplimits import PrecisionWarning
from gp.mixture_points import ScalePredictions
from gp.mixtures import ScaleMixture
from gp.scale_density import LogDensity
from gp.scale_priors import BetaPrime, BurrXII, InverseGamma
from gp.scale_quadrature import ImproperPosteriorError

NOISE = 0.1
CASES = [
    (InverseGamma(1.7, 2.3), True),
    (BurrXII(2.0, 1.5), True),
    (InverseGamma(1.7, 2.3), False),
    (BetaPrime(1.5, 2.5), False),
]
each_case = pytest.mark.parametrize(
    ("prior", "scaled"), CASES, ids=lambda v: type(v).__name__ if not isinstance(v, bool) else v
)


def rbf(x, z=None):
    z = x if z is None else z
    return np.exp(-0.5 * ((x[:, None] - z[None]) ** 2).sum(-1))


def data(outputs=None):
    rng = np.random.default_rng(0)
    return rng.normal(size=(6, 2)), 2 * rng.normal(size=6 if outputs is None else (6, outputs))


def held_against(found, i, post, x, y):
    """Entry ``i`` of ``found`` against a posterior that has not seen point i."""
    law = post.marginals(x[i : i + 1], noise=True)
    # quadratures exact to rounding; condition numbers below 1e2
    np.testing.assert_allclose(found.mean[i], law.mean[0], rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(found.var[i], law.var[0], rtol=1e-8)
    np.testing.assert_allclose(found.log_score[i], law.pointwise(y[i : i + 1])[0], rtol=1e-9)
    joint = post.predict(x[i : i + 1], noise=True).log_prob(y[i : i + 1])
    assert found.joint_log_score[i] == pytest.approx(joint, rel=1e-9)


@pytest.mark.parametrize("outputs", [None, 2])
@each_case
def test_against_refitting(prior, scaled, outputs):
    x, y = data(outputs)
    model = ScaleMixture(rbf, prior, NOISE, scaled)
    post = model.condition(x, y)
    loo, steps = post.loo(), post.prequential()
    for i in range(6):
        rest = np.delete(np.arange(6), i)
        held_against(loo, i, model.condition(x[rest], y[rest]), x, y)
        if i > 1:
            held_against(steps, i, model.condition(x[:i], y[:i]), x, y)
    assert steps.joint_log_score.sum() == pytest.approx(post.log_evidence, rel=1e-9)
    assert loo.mean.shape == loo.log_score.shape == y.shape
    assert loo.rmse == pytest.approx(np.sqrt(np.mean((y - loo.mean) ** 2)), rel=1e-14)
    np.testing.assert_allclose(loo.residual, y - loo.mean, atol=1e-14)
    if outputs is None:
        np.testing.assert_allclose(steps.log_score, steps.joint_log_score, rtol=1e-13)
    assert isinstance(jax.tree.map(lambda leaf: leaf, loo), ScalePredictions)


def test_quadrature_agrees_with_the_closed_form():
    x, y = data()
    law = InverseGamma(1.7, 2.3)
    exact = ScaleMixture(rbf, law, NOISE).condition(x, y)
    same = LogDensity(lambda s2: -2.7 * np.log(s2) - 2.3 / s2)
    nodes = ScaleMixture(rbf, same, NOISE).condition(x, y)
    for name in ("loo", "prequential"):
        a, b = getattr(exact, name)(), getattr(nodes, name)()
        for field in ("mean", "var", "log_score", "joint_log_score"):
            # both exact to rounding
            np.testing.assert_allclose(getattr(a, field), getattr(b, field), rtol=1e-9, atol=1e-12)


def test_variances_that_do_not_exist_are_infinite():
    x, y = data()
    for prior in (InverseGamma(0.4, 1.0), BurrXII(0.5, 0.8)):
        steps = ScaleMixture(rbf, prior, NOISE).condition(x, y).prequential()
        # tail exponent 0.4 + i / 2 of the scale after i targets: the mean needs more than 1
        np.testing.assert_array_equal(np.isinf(steps.var[:2]), [True, True])
        assert np.isfinite(steps.var[3:]).all()
        assert np.isfinite(steps.log_score).all()


def test_an_improper_law_has_leave_one_out_but_no_first_prediction():
    x, y = data()
    improper = LogDensity(lambda s2: -np.log(s2), normalise=False)
    model = ScaleMixture(rbf, improper, NOISE)
    loo = model.condition(x, y).loo()
    rest = np.arange(1, 6)
    held_against(loo, 0, model.condition(x[rest], y[rest]), x, y)
    with pytest.raises(ImproperPosteriorError, match="the scale prior diverges"):
        model.condition(x, y).prequential()


def test_an_outlier_beyond_the_nodes_warns():
    x, y = data()
    y[0] = 1e6
    from gp.scale_priors import LogNormal

    post = ScaleMixture(rbf, LogNormal(0.0, 0.3), NOISE).condition(x, y)
    with pytest.warns(PrecisionWarning, match="beyond the nodes"):
        post.loo()
