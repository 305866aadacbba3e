r"""Gaussian-process classification by Monte Carlo: the reference for the approximations.

.. math:: f_c = s\, Q \Lambda^{1/2} z_c, \qquad s^2 = F^{-1}(\Phi(g)), \qquad z_c, g \sim N(0, 1)

In these coordinates the prior is one standard normal law, whatever the law F of the scale, and
elliptical slice sampling needs no step size.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import blackjax
import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from blackjax.diagnostics import effective_sample_size, potential_scale_reduction

from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_key, integer
from gp.classify import Classifier, class_index, probit_probabilities
from gp.linalg import Kernel, eigh_psd, kernel_diagonal, kernel_matrix
from gp.process import inputs, size_guard
from gp.scale_quantiles import quantile_table

#: Modes of the kernel below this fraction of the largest are left out: they move f by 1e-7.
_RANK = 1e-14


@dataclass(frozen=True)
class ClassifierDraws:
    """Draws from the posterior of a classifier; made by :func:`sample_classifier`.

    Attributes:
        X: training inputs.
        classes: the classes, sorted.
        basis: :math:`Q \\Lambda^{-1/2}` of the modes that were kept ``(n, r)``.
        z: whitened latent functions ``(chains, draws, r, C)``; C = 1 for two classes with probit.
        s2: scales ``(chains, draws)``; 1 without a prior.
        probit: whether the likelihood is the probit.
        ess: effective number of draws of the log-likelihood, over all chains.
        rhat: its potential scale reduction; near 1 when the chains agree.
        kernel: the kernel callable.
    """

    X: Any
    classes: np.ndarray
    basis: np.ndarray
    z: np.ndarray
    s2: np.ndarray
    probit: bool
    ess: float
    rhat: float
    kernel: Kernel

    def predict_proba(self, Xs: Any, *, key: Any = 0) -> np.ndarray:
        """Probabilities of the classes ``(m, C)``, averaged over the draws.

        Args:
            Xs: inputs ``(m, d)``, features as in training.
            key: for the latent values at ``Xs`` given those at X (not used with one function).

        Raises:
            ShapeError, DomainError: bad inputs or key.
        """
        xs = inputs(Xs, "Xs", self.X)
        cross = kernel_matrix(self.kernel, xs, self.X)[0] @ self.basis
        var = np.maximum(kernel_diagonal(self.kernel, xs) - np.sum(cross**2, axis=1), 0.0)
        z = self.z.reshape(-1, *self.z.shape[2:])
        s = np.sqrt(self.s2).reshape(-1)[:, None]
        if z.shape[2] == 1:
            mean = s * (z[..., 0] @ cross.T)
            p = scipy.special.ndtr(mean / np.sqrt(1 + s**2 * var)).mean(axis=0)
            return np.stack([1 - p, p], axis=1)
        rng = np.random.default_rng(np.asarray(jax.random.key_data(as_key(key))))
        total = np.zeros((len(cross), z.shape[2]))
        law = probit_probabilities if self.probit else partial(scipy.special.softmax, axis=1)
        for draw, scale in zip(z, s[:, 0], strict=True):
            noise = np.sqrt(var)[:, None] * rng.standard_normal(total.shape)
            total += law(scale * (cross @ draw + noise))
        return total / len(z)


@float64_scope
def sample_classifier(
    model: Classifier,
    X: Any,
    labels: Any,
    *,
    key: Any,
    classes: Any = None,
    draws: int = 500,
    warmup: int = 200,
    thin: int = 5,
    chains: int = 4,
) -> ClassifierDraws:
    """Draws from the exact posterior of a :class:`gp.Classifier` by elliptical slice sampling.

    Args:
        model: the classifier; its likelihood and its law of the scale are used as they are.
        X, labels, classes: as in :meth:`gp.Classifier.condition`.
        key: a ``jax.random.key`` or an integer seed.
        draws: draws kept per chain, >= 4. Default 500.
        warmup: steps that are thrown away, >= 0. Default 200.
        thin: steps per kept draw, >= 1. Default 5.
        chains: independent chains, >= 2. Default 4.

    Raises:
        ShapeError, DomainError: bad inputs, labels or options.
        NotPositiveDefiniteError: the kernel matrix is indefinite beyond rounding.

    Source: I. Murray, R. P. Adams, D. J. C. MacKay, arXiv:1001.0175 (by blackjax); the scale in
        the ellipse derived here.

    Check: test_classify_mcmc.py::test_monte_carlo_agrees.
    """
    for name, value, least in [
        ("draws", draws, 4), ("warmup", warmup, 0), ("thin", thin, 1), ("chains", chains, 2)
    ]:  # fmt: skip
        integer(value, name, at_least=least)
    x = inputs(X, "X")
    n = x.shape[0]
    known, index = class_index(labels, n, classes)
    probit = model.likelihood != "softmax"
    size_guard(n, model.max_points, "X")
    matrix, dtype = kernel_matrix(model.kernel, x)
    values, vectors = eigh_psd(matrix, name="the kernel matrix of X", dtype=dtype)
    kept = values > _RANK * values[-1]
    roots, vectors = np.sqrt(values[kept]), vectors[:, kept]
    outputs = 1 if probit and len(known) == 2 else len(known)
    table = _quantiles(model.prior)
    data = {"root": vectors * roots, "index": index, **table}
    keys = jax.random.split(as_key(key), chains)
    shape = (len(roots), outputs)
    sizes = (draws, warmup, thin)
    z, u, height = _run(keys, jax.tree.map(jnp.asarray, data), shape, probit, sizes)
    height = np.asarray(height)
    ess = float(effective_sample_size(jnp.asarray(height)))
    rhat = float(potential_scale_reduction(jnp.asarray(height)))
    return ClassifierDraws(
        x, known, vectors / roots, np.asarray(z), np.exp(np.asarray(u)), probit, ess, rhat,
        model.kernel,
    )  # fmt: skip


#: Normal quantiles of the table: all that a chain visits.
_QUANTILES = np.linspace(-8.0, 8.0, 1025)


def _quantiles(prior: Any) -> dict[str, np.ndarray]:
    """Normal quantiles, the logarithm u of the scale there, and du/dg."""
    g = _QUANTILES
    if prior is None:
        zero = np.zeros_like(g)
        return {"g": g, "log_s2": zero, "slope": zero}
    u, slope = quantile_table(prior, g)
    return {"g": g, "log_s2": u, "slope": slope}


def _log_scale(data: Any, g: Any) -> Any:
    """The logarithm of the scale at the normal quantile g: cubic Hermite interpolation, whose
    error is of fourth order in the distance 1/64 of the table's entries.
    """
    table = data["g"]
    step = table[1] - table[0]
    i = jnp.clip(jnp.floor((g - table[0]) / step).astype(jnp.int32), 0, len(table) - 2)
    t = (g - table[i]) / step
    left, right = data["log_s2"][i], data["log_s2"][i + 1]
    first, last = step * data["slope"][i], step * data["slope"][i + 1]
    chord = right - left
    return left + t * (
        first + t * ((3 * chord - 2 * first - last) + t * (first + last - 2 * chord))
    )


#: Where the largest of the noisy functions may lie, relative to the larger of f at the label and
#: the maximum of the others.
_HEIGHTS = np.linspace(-9.0, 9.0, 37)


def _log_likelihood(data: Any, probit: bool, position: Any) -> Any:
    z, g = position
    u = _log_scale(data, g[0])
    f = jnp.exp(0.5 * u) * jnp.matmul(data["root"], z)
    if f.shape[1] == 1:
        return jnp.sum(jax.scipy.special.log_ndtr((2.0 * data["index"] - 1.0) * f[:, 0]))
    chosen = jnp.take_along_axis(f, data["index"][:, None], axis=1)[:, 0]
    if not probit:
        return jnp.sum(chosen - jax.scipy.special.logsumexp(f, axis=1))
    # the integrand phi(h - chosen) prod_b Phi(h - f_b) peaks between the label's and the largest f
    heights = jnp.asarray(_HEIGHTS)[None, :] + 0.5 * (chosen + jnp.max(f, axis=1))[:, None]
    own = heights - chosen[:, None]
    log_p = -0.5 * own**2 - jax.scipy.special.log_ndtr(own)
    log_p += jnp.sum(jax.scipy.special.log_ndtr(heights[:, :, None] - f[:, None, :]), axis=2)
    step = np.log((_HEIGHTS[1] - _HEIGHTS[0]) / np.sqrt(2 * np.pi))
    return jnp.sum(jax.scipy.special.logsumexp(log_p, axis=1) + step)


@partial(jax.jit, static_argnames=("shape", "probit", "sizes"))
def _run(
    keys: Any, data: Any, shape: tuple[int, int], probit: bool, sizes: tuple[int, int, int]
) -> tuple[Any, Any, Any]:
    """Latent functions, logarithms of the scale and log-likelihoods of all chains."""
    draws, warmup, thin = sizes
    dim = shape[0] * shape[1] + 1
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        sampler = blackjax.elliptical_slice(
            partial(_log_likelihood, data, probit), mean=jnp.zeros(dim), cov=jnp.ones(dim)
        )

        def moved(state: Any, key: Any) -> Any:
            return sampler.step(key, state)[0], None

        def kept(state: Any, key: Any) -> Any:
            state = jax.lax.scan(moved, state, jax.random.split(key, thin))[0]
            z, g = state.position
            u = _log_scale(data, g[0])
            return state, (z, u, state.logdensity)

        def chain(key: Any) -> Any:
            first, before, after = jax.random.split(key, 3)
            flat = jax.random.normal(first, (dim,))
            state = sampler.init((flat[1:].reshape(shape), flat[:1]))
            state = jax.lax.scan(moved, state, jax.random.split(before, warmup))[0]
            return jax.lax.scan(kept, state, jax.random.split(after, draws))[1]

        return jax.vmap(chain)(keys)


register_dataclass(
    ClassifierDraws,
    ["X", "basis", "z", "s2", "ess", "rhat", "classes"],
    ["probit", "kernel"],
)
