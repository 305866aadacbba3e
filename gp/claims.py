r"""Claims of inference: posteriors, evidence and the law of training, held against simulation."""

from __future__ import annotations

import math
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ntk
from deeplimits.claims import Claim, register
from deeplimits.datasets import load, to_sphere
from deeplimits.estimates import Estimate, mean_with_error, variance_with_error
from gp.dynamics import Ensemble, TrainedEnsemble
from gp.process import GP

#: Noise variance of the synthetic targets.
NOISE = 0.1
#: Steps of gradient descent at which the trained networks are compared with the theory.
STEPS = (0, 1, 2, 4, 8, 16, 32, 64, 128)


@cache
def threes_and_eights(n: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ``n`` images of a 3 or an 8, scaled to the sphere, and their targets 1 or -1."""
    digits = load("digits")
    found = np.flatnonzero((digits.y == 3) | (digits.y == 8))[:n]
    return to_sphere(digits.X[found]), np.where(digits.y[found] == 3, 1.0, -1.0)


def _model() -> GP:
    return GP(ntk.mlp(2, "relu", W_std=1.4, b_std=0.1).nngp, noise=NOISE)


def _prior_targets(key: Any, x: np.ndarray, n: int) -> np.ndarray:
    """Targets drawn from the model itself, one data set per column, ``(points, n)``."""
    return _model().prior(x, noise=True).sample(key, n).T


def _loo_scores(key: Any, n: int) -> np.ndarray:
    """Squared leave-one-out residuals over predicted variances, for 2000 data sets."""
    x = threes_and_eights(n)[0]
    loo = _model().condition(x, _prior_targets(key, x, 2_000)).loo()
    return (loo.residual**2 / loo.var[:, None]).T


register(
    Claim(
        name="gp/loo",
        source="[rasmussen2006], eq. (5.12)",
        statement="Leave-one-out residuals of data from the model have the predicted variances.",
        theory=lambda n: np.ones(n),
        experiment=_loo_scores,
        sizes=(16,),
        z=4.0,
        quantity="squared residual over predicted variance of 16 targets",
    )
)


def _held_out_scores(key: Any, n: int) -> np.ndarray:
    """Squared errors at four points that were not used, over predicted variances."""
    x = threes_and_eights(n + 4)[0]
    targets = _prior_targets(key, x, 2_000)
    predicted = _model().condition(x[:n], targets[:n]).predict(x[n:], noise=True)
    return ((targets[n:] - predicted.mean) ** 2 / predicted.var[:, None]).T


register(
    Claim(
        name="gp/posterior-calibration",
        source="[rasmussen2006], eqs. (2.23)-(2.24)",
        statement="Errors at held-out points of data from the model have the posterior variance.",
        theory=np.ones(4),
        experiment=_held_out_scores,
        sizes=(16,),
        z=4.0,
        quantity="squared error over predicted variance at 4 points",
    )
)


def _mean_log_evidence(n: int) -> float:
    cov = _model().prior(threes_and_eights(n)[0], noise=True).cov
    return float(-0.5 * np.linalg.slogdet(2 * math.pi * math.e * cov)[1])


def _log_evidences(key: Any, n: int) -> np.ndarray:
    x = threes_and_eights(n)[0]
    groups = _prior_targets(key, x, 4_000).reshape(n, 200, 20)
    return np.array([_model().condition(x, y).log_evidence / 20 for y in groups.swapaxes(0, 1)])


register(
    Claim(
        name="gp/log-evidence",
        source="[rasmussen2006], eq. (2.30)",
        statement="Averaged over data from the model, the log evidence is minus the entropy of the "
        "data.",
        theory=_mean_log_evidence,
        experiment=_log_evidences,
        sizes=(16,),
        z=4.0,
        quantity="log evidence of one data set (nats)",
    )
)


def _only_the_readout(width: int) -> Any:
    hidden = ntk.serial(ntk.Dense(width, 1.5, 0.1), ntk.Erf())
    return ntk.serial(ntk.Frozen(hidden), ntk.Dense(1, 1.5))


def _posterior_moments() -> np.ndarray:
    x, y = threes_and_eights(10)
    post = GP(_only_the_readout(1).nngp).condition(x[:6], y[:6])
    return np.stack([post.mean(x[6:]), post.var(x[6:])])


def _interpolating_readouts(key: Any, width: int) -> Estimate:
    """Mean and variance of networks whose read-out is trained to interpolation (least squares)."""
    x, y = map(jnp.asarray, threes_and_eights(10))
    net = _only_the_readout(width)

    def one(key: Any) -> Any:
        params = net.init(key, x.shape)[1]
        features = net.layers[0].apply(params[0], x) * (1.5 / width**0.5)
        start = net.apply(params, x)[:, 0]
        gram = jnp.matmul(features[:6], features[:6].T)
        change = jnp.linalg.solve(gram, y[:6] - start[:6])
        return start[6:] + jnp.matmul(jnp.matmul(features[6:], features[:6].T), change)

    run = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=64))
    return moments(np.asarray(run(jax.random.split(key, 2_000))))


def moments(samples: np.ndarray) -> Estimate:
    """Mean and variance of samples, stacked, with their standard errors."""
    mean, variance = mean_with_error(samples), variance_with_error(samples)
    return Estimate(
        np.stack([mean.mean, variance.mean]),
        np.stack([mean.stderr, variance.stderr]),
        len(samples) - 1,
    )


register(
    Claim(
        name="gp/sample-then-optimize",
        source="Matthews, Hron, Turner and Ghahramani (2017), sample-then-optimize",
        statement="Networks whose read-out alone is trained to interpolation are draws from the "
        "NNGP posterior.",
        theory=_posterior_moments,
        experiment=_interpolating_readouts,
        sizes=(256,),
        z=4.0,
        quantity="mean and variance at 4 test digits",
    )
)


def trained_network(width: int) -> Any:
    """The network of the claim on trained ensembles: two hidden layers of erf units."""
    dense = partial(ntk.Dense, W_std=1.5, b_std=0.1)
    return ntk.serial(dense(width), ntk.Erf(), dense(width), ntk.Erf(), dense(1))


@cache
def trained_theory() -> TrainedEnsemble:
    """Twelve digits, learned at half the largest stable learning rate."""
    x, y = threes_and_eights(12)
    net = trained_network(1)
    top = float(np.linalg.eigvalsh(np.asarray(net.ntk(x)))[-1])
    return Ensemble(net, learning_rate=1 / top).train(x, y, steps=STEPS)


def trained_moments() -> np.ndarray:
    """Predicted mean and variance over initialisations, ``(2, moments of training, 4)``."""
    test = threes_and_eights(16)[0][12:]
    return np.stack([trained_theory().mean(test), trained_theory().var(test)])


def trained_outputs(key: Any, width: int, networks: int = 256) -> np.ndarray:
    """Outputs of finite networks during gradient descent, ``(networks, len(STEPS), 4)``."""
    rate = float(trained_theory().rate)
    net = trained_network(width)
    with jax.enable_x64(False):
        x, y = (jnp.asarray(a, jnp.float32) for a in threes_and_eights(16))

        def loss(params: Any) -> Any:
            f = net.apply(params, x)[:, 0]
            return 0.5 * jnp.sum((f[:12] - y[:12]) ** 2), f[12:]

        def step(params: Any, _: None) -> tuple[Any, Any]:
            (_, f), slope = jax.value_and_grad(loss, has_aux=True)(params)
            return jax.tree.map(lambda a, g: a - rate * g, params, slope), f

        def one(key: Any) -> Any:
            params = net.init(key, x.shape)[1]
            return jax.lax.scan(step, params, None, length=STEPS[-1] + 1)[1]

        run = jax.jit(lambda keys: jax.lax.map(one, keys, batch_size=4))
        return np.asarray(run(jax.random.split(key, networks)), np.float64)[:, list(STEPS)]


register(
    Claim(
        name="gp/trained-ensemble",
        source="[lee2019], section 2; discrete steps derived here",
        statement="Over initialisations, networks of width 512 trained by gradient descent have "
        "the predicted mean and variance at every moment of training.",
        theory=trained_moments,
        experiment=lambda key, width: moments(trained_outputs(key, width)),
        sizes=(512,),
        z=4.0,
        cost="slow",
        quantity="mean and variance of the output at 4 test digits",
    )
)
