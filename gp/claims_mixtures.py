r"""Claims on random scales: laws of mixtures held against finite networks and simulated data.

Heavy tails spoil the standard error of a variance, so that laws are compared through the share of
outcomes below predicted quantiles.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ntk
from deeplimits.claims import Claim, register
from gp.mixture_training import ScaleMixtureEnsemble
from gp.mixtures import ScaleMixture
from gp.predictive import standard_normal
from gp.scale_priors import BurrXII, InverseGamma

#: Probabilities at which distribution functions are compared.
LEVELS = (0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.98)
#: The law of the scale of the networks: Student-t with 4 degrees of freedom.
PRIOR = InverseGamma(2.0, 2.0)
NETWORKS = 4_000
TRAIN = 5


@cache
def small_data() -> tuple[np.ndarray, np.ndarray]:
    """Eight points in six dimensions, of which five carry targets."""
    rng = np.random.default_rng(3)
    return 2 * rng.normal(size=(8, 6)), 0.25 * rng.normal(size=TRAIN)


def network() -> Any:
    """One hidden layer of erf units and a read-out of unit variance."""
    return ntk.mlp(1, "erf", W_std=1.0, b_std=0.0)


def quantiles_of(layers: str) -> np.ndarray:
    """Predicted quantiles at the three test points ``(levels, 3)``."""
    x, y = small_data()
    if layers == "none":
        law: Any = ScaleMixture(network().nngp, PRIOR).prior_law(x[TRAIN:])
    else:
        model = ScaleMixtureEnsemble(network(), PRIOR, layers)
        law = model.train(x[:TRAIN], y).predict(x[TRAIN:])
    return np.stack([law.quantile(p) for p in LEVELS])


def finite_outputs(key: Any, width: int, layers: str, n: int = NETWORKS) -> np.ndarray:
    r"""Outputs of ``n`` finite networks at the test points after training, ``(n, 3)``.

    One hidden layer, so that its tangent kernel is written out: the read-out contributes
    :math:`\phi\phi^\top / N`, the first layer
    :math:`(x x^\top / d) \sum_j v_j^2 \phi_j' \phi_j'^\top / N`. Training follows the linearised
    network to its end.
    """
    points, targets = small_data()
    for_scale, for_weights = jax.random.split(key)
    scales = jnp.asarray(PRIOR.sample(for_scale, n))
    x, y = jnp.asarray(points), jnp.asarray(targets)
    inner = jnp.matmul(x, x.T) / x.shape[1]

    def one(arguments: Any) -> Any:
        key, s2 = arguments
        first, second = jax.random.split(key)
        w = jax.random.normal(first, (x.shape[1], width)) / x.shape[1] ** 0.5
        v = jnp.sqrt(s2) * jax.random.normal(second, (width,))
        z = jnp.matmul(x, w)
        phi = jax.scipy.special.erf(z)
        start = jnp.matmul(phi, v) / width**0.5
        kernel = jnp.matmul(phi, phi.T) / width
        if layers == "all":
            slope = v[None, :] * (2 / jnp.pi**0.5) * jnp.exp(-(z**2))
            kernel = kernel + inner * jnp.matmul(slope, slope.T) / width
        if layers == "none":
            return start[TRAIN:]
        change = jnp.linalg.solve(kernel[:TRAIN, :TRAIN], y - start[:TRAIN])
        return start[TRAIN:] + jnp.matmul(kernel[TRAIN:, :TRAIN], change)

    run = jax.jit(lambda keys, s2: jax.lax.map(one, (keys, s2), batch_size=100))
    return np.asarray(run(jax.random.split(for_weights, n), scales))


def below(layers: str) -> Any:
    """An experiment: which outputs lie below the predicted quantiles, ``(n, levels, 3)``."""

    def experiment(key: Any, width: int, n: int = NETWORKS) -> np.ndarray:
        outputs = finite_outputs(key, width, layers, n)
        return (outputs[:, None, :] <= quantiles_of(layers)).astype(float)

    return experiment


def levels() -> np.ndarray:
    """What the shares must be, ``(levels, 3)``."""
    return np.repeat(np.array(LEVELS)[:, None], 3, axis=1)


for _name, _layers, _statement in [
    ("initial", "none", "Wide networks with an inverse gamma scale are Student-t at the start"),
    ("last-layer", "last", "After training of the last layer they are Student-t with the prior's "
     "degrees of freedom"),
    ("all-layers", "all", "After training of all layers (linearised) they follow a mixture in "
     "which centre and width depend on the scale"),
]:  # fmt: skip
    register(
        Claim(
            name=f"gp/scale-mixture-{_name}",
            source="arXiv:2107.01408, sections 3 and 5"
            if _layers != "all"
            else "derived here, after arXiv:2107.01408",
            statement=f"{_statement}.",
            theory=levels,
            experiment=below(_layers),
            sizes=(1024,),
            z=4.0,
            quantity="share of 4000 networks below 7 predicted quantiles at 3 inputs",
        )
    )


def _calibration(key: Any, n: int) -> np.ndarray:
    """Which held-out targets lie below predicted quantiles, for data from the model itself."""
    rng = np.random.default_rng(5)
    x = rng.normal(size=(n + 1, 2))
    prior, noise, sets = BurrXII(2.0, 1.5), 0.2, 400
    kernel = network().nngp
    for_scale, for_data = jax.random.split(key)
    root = np.linalg.cholesky(np.asarray(kernel(x)) + noise * np.eye(n + 1))
    draws = standard_normal(for_data, (sets, n + 1)) @ root.T
    y = draws * np.sqrt(prior.sample(for_scale, sets))[:, None]
    matrix = np.asarray(kernel(x))
    model = ScaleMixture(lambda a, b=None: _rows(matrix, a, b), prior, noise)
    index = np.arange(n + 1.0)[:, None]
    shares = []
    for row in y:
        law = model.condition(index[:n], row[:n]).marginals(index[n:], noise=True)
        shares.append(law.cdf(row[n:]) <= np.array(LEVELS))
    return np.array(shares, float)


def _rows(matrix: np.ndarray, a: Any, b: Any) -> np.ndarray:
    """A kernel on row numbers."""
    rows = np.asarray(a[:, 0]).astype(int)
    return matrix[np.ix_(rows, rows if b is None else np.asarray(b[:, 0]).astype(int))]


register(
    Claim(
        name="gp/scale-mixture-calibration",
        source="arXiv:2107.01408, section 4",
        statement="Held-out targets of data with a Burr scale have the predicted distribution.",
        theory=np.array(LEVELS),
        experiment=_calibration,
        sizes=(6,),
        z=4.0,
        quantity="share of 400 targets below 7 predicted quantiles",
    )
)
