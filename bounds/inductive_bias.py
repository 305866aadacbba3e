r"""Inductive-bias information: what a designer must supply beyond the training set.

.. math:: I(\varepsilon) = -\ln P_{h \sim p_h}\left[L_{test}(h) \le \varepsilon\right]

with :math:`p_h` the law of hypotheses that already fit the training data. For every Gaussian law
(posterior of a network's Gaussian process, ensemble of trained wide networks, linearised network)
the probability is that of a quadratic form, computed exactly; fits of a distribution to sampled
losses, as published, extrapolate wrongly in both directions because a posterior has many scales.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from bounds.gaussian_loss import log_prob_below
from bounds.loss_samples import inductive_bias_from_losses
from bounds.quadratic_form import RELATIVE_ZERO, lower_tail
from bounds.result import Estimate
from deeplimits.errors import DomainError, NotPositiveDefiniteError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.typing import Array, ArrayLike, Key
from deeplimits.validate import as_key, as_real, as_square, choice, finite, integer, is_traced

#: Eigenvalues below minus this, relative to the largest, are no rounding errors.
NEGATIVE = 1e-8
#: Nats from which on a result is worth a remark.
CONFIDENT = 1000.0


@float64_scope
def inductive_bias(
    mean: ArrayLike,
    cov: ArrayLike,
    y_test: ArrayLike,
    eps: ArrayLike = 0.05,
    *,
    method: str = "exact",
    n_samples: int = 10_000,
    key: Key = None,
) -> Estimate:
    r"""Information needed to reach a mean squared test error of eps, for Gaussian hypotheses.

    .. math:: I = -\ln P\left[\frac{1}{n_t k} \|f - y\|^2 \le \varepsilon\right], \qquad
              f_o \sim N(m_o, \Sigma) \text{ independently for each output } o

    ``method="exact"`` is differentiable by JAX in ``mean``, ``cov`` and ``eps``, hence in the
    parameters of the kernel that made them. The value depends on the test set and its size: always
    report ``n``.

    Args:
        mean: ``(n_t,)`` or ``(n_t, k)`` means at the test points, given the training data.
        cov: ``(n_t, n_t)`` covariance shared by the outputs, positive semi-definite.
        y_test: targets of the shape of ``mean``.
        eps: mean squared error to reach, > 0; an array gives an array of values.
        method: ``"exact"``, or ``"ncx2-fit"``, the published estimator, which fits a scaled
            non-central chi-squared law to the losses of ``n_samples`` sampled hypotheses.
        n_samples, key: for ``"ncx2-fit"``.

    Returns:
        :class:`~bounds.result.Estimate` in nats. ``terms``: ``n_test``, ``outputs``,
        ``mean_loss`` (average over hypotheses), ``constant_loss`` (what no hypothesis avoids) and
        ``rank``.

    Raises:
        ShapeError: shapes that do not fit.
        DomainError: NaN or infinite entries, ``eps <= 0``, an unknown method.
        NotPositiveDefiniteError: ``cov`` has an eigenvalue below -1e-8 of the largest.

    Source: A. Boopathy et al. (2024), arXiv:2406.15941 (definition and published estimator); the
        exact value is derived here.

    Check: tests/bounds/test_inductive_bias.py
    """
    choice(method, "method", ("exact", "ncx2-fit"))
    mean, cov, y, eps = _check(mean, cov, y_test, eps)
    if method == "ncx2-fit":
        losses = sample_losses(mean, cov, y, n_samples=n_samples, key=key)
        return inductive_bias_from_losses(losses, eps, method="ncx2-fit", n_test=len(mean))
    traced = any(is_traced(a) for a in (mean, cov, y, eps))
    if traced:
        value = -jax.vmap(log_prob_below, (0, None, None))(
            (eps * mean.size).reshape(-1), cov, mean - y
        )
        return _record(value.reshape(eps.shape), mean, {}, ())
    value, crude, terms = _exact(mean, cov, mean - y, eps)
    value, terms = np.asarray(value), {k: float(v) for k, v in terms.items()}
    if terms.pop("lowest") < -NEGATIVE * terms["largest"]:
        raise NotPositiveDefiniteError(
            "cov must be positive semi-definite, but an eigenvalue is below -1e-8 of the largest. "
            "Add noise or jitter when conditioning."
        )
    notes = _notes(value, np.asarray(crude), eps, terms)
    return _record(value[()], mean, terms, notes)


def _check(mean: Any, cov: Any, y: Any, eps: Any) -> tuple[Array, ...]:
    """Arrays ``(n, k)``, ``(n, n)``, ``(n, k)`` and thresholds."""
    mean, y = (jnp.asarray(as_real(a, n), float) for a, n in ((mean, "mean"), (y, "y_test")))
    cov = jnp.asarray(as_square(cov, "cov"), float)
    if mean.ndim not in (1, 2) or mean.size == 0 or mean.shape != y.shape:
        raise ShapeError(
            "mean and y_test must have one shape, (n_test,) or (n_test, outputs), got "
            f"{mean.shape} and {y.shape}."
        )
    if len(cov) != len(mean):
        raise ShapeError(f"cov must be ({len(mean)}, {len(mean)}) like mean, got {cov.shape}.")
    for name, values in (("mean", mean), ("y_test", y)):
        finite(values, name)
    eps = jnp.asarray(as_real(eps, "eps"), float)
    if not is_traced(eps) and not bool((eps > 0).all()):
        raise DomainError(f"eps must be > 0, got {np.asarray(eps).min():g}.")
    return mean.reshape(len(mean), -1), cov, y.reshape(len(mean), -1), eps


@jax.jit
def _exact(mean: Array, cov: Array, residual: Array, eps: Array) -> tuple[Array, Array, Any]:
    """Values, where they are saddle-point values only, and the terms of the record."""
    lam, basis = jnp.linalg.eigh(cov)
    r2 = jnp.sum(jnp.matmul(basis.T, residual) ** 2, axis=-1)
    active = lam > RELATIVE_ZERO * jnp.max(lam)
    size, outputs = residual.size, residual.shape[1]

    def one(e: Array) -> tuple[Array, Array]:
        tail = lower_tail(e * size, jnp.maximum(lam, 0), r2, outputs)
        return -tail.log_cdf, tail.crude

    value, crude = lax.map(one, eps.reshape(-1))
    terms = {
        "n_test": jnp.asarray(len(mean)),
        "outputs": jnp.asarray(outputs),
        "mean_loss": (outputs * jnp.sum(jnp.maximum(lam, 0)) + jnp.sum(r2)) / size,
        "constant_loss": jnp.sum(jnp.where(active, 0, r2)) / size,
        "rank": jnp.sum(active),
        "lowest": lam[0],
        "largest": lam[-1],
    }
    return value.reshape(eps.shape) + 0.0, crude.reshape(eps.shape), terms


def _notes(value: Any, crude: Any, eps: Any, terms: dict[str, float]) -> tuple[str, ...]:
    """Warnings on unreachable errors, on confident posteriors and on lost digits."""
    del terms["largest"]
    notes = []
    if np.isinf(value).any():
        notes.append(
            f"an error of {float(np.min(eps)):g} is unreachable: directions without variance leave "
            f"{terms['constant_loss']:.4g} whatever the hypothesis."
        )
    if (value[np.isfinite(value)] > CONFIDENT).any():
        notes.append(
            "over 1000 nats: the posterior is confident and wrong, often because it has no noise "
            "and the target is rougher than the kernel; condition with noise > 0."
        )
    if crude.any():
        notes.append("the contour integral failed; the saddle-point value is given instead.")
    return tuple(notes)


def _record(value: Any, mean: Array, terms: dict[str, float], notes: tuple[str, ...]) -> Estimate:
    return Estimate(
        value=value,
        stderr=0.0,
        terms=terms,
        target="inductive bias",
        method="exact",
        n=len(mean),
        assumptions=(
            "hypotheses are Gaussian, outputs independent with one covariance",
            "mean squared error over this test set",
        ),
        reference="arXiv:2406.15941",
        warnings=notes,
    )


def sample_losses(
    mean: ArrayLike, cov: ArrayLike, y_test: ArrayLike, *, n_samples: int, key: Key
) -> np.ndarray:
    """Mean squared test errors of hypotheses drawn from a Gaussian law, ``(n_samples,)``.

    Args:
        mean, cov, y_test: as :func:`inductive_bias`.
        n_samples: >= 1.
        key: random key or integer seed.

    Raises:
        ShapeError, DomainError: as :func:`inductive_bias`.
    """
    mean, cov, y, _ = _check(mean, cov, y_test, 1.0)
    n_samples = integer(n_samples, "n_samples", at_least=1)
    draw = functools.partial(_draw_losses, n_samples=n_samples)
    return np.asarray(draw(as_key(key), cov, mean - y))


@functools.partial(jax.jit, static_argnames="n_samples")
def _draw_losses(key: Array, cov: Array, residual: Array, n_samples: int) -> Array:
    lam, basis = jnp.linalg.eigh(cov)
    std = jnp.sqrt(jnp.maximum(lam, 0))[:, None]
    centre = jnp.matmul(basis.T, residual)

    def loss(key: Array) -> Array:
        return jnp.mean((centre + std * jax.random.normal(key, residual.shape)) ** 2)

    return lax.map(loss, jax.random.split(key, n_samples), batch_size=100)
