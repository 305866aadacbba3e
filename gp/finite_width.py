r"""Predictions of wide networks with the first correction in 1/width.

A Bayesian network with Gaussian weights is a mixture of Gaussian processes over its random metric
:math:`\hat G`, whose mean is :math:`G + G_1/n` and covariance :math:`V/n`
(:func:`ntk.finite_width`). Any function :math:`h` of the metric has the posterior mean

.. math:: E[h \mid y] = h(G) + \frac1n \Big[\partial h \cdot G_1 + \tfrac12 \partial^2 h : V
   + \partial h \cdot V \cdot \partial \ell\Big] + O(n^{-2}),

with the log evidence :math:`\ell(G)`: the data prefer some metrics. All derivatives are taken by
automatic differentiation through the posterior.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import NotPositiveDefiniteError, ShapeError
from deeplimits.precision import float64_scope, require_x64
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_square, as_targets, check, finite, is_traced, number
from gp.predictive import LOG_2PI


@register_dataclass
@dataclass(frozen=True)
class FiniteWidthPrediction:
    """Prediction of infinite width and its coefficient of 1/n.

    Attributes:
        mean: ``(T, C)`` limit of the predictive mean; ``mean_1`` its coefficient of 1/n.
        var: ``(T, C)`` predictive variance of each output, without noise, and ``var_1`` likewise.
        log_evidence, log_evidence_1: scalars in nats; NaN where there is no likelihood.
        n: the width.
    """

    mean: Any
    mean_1: Any
    var: Any
    var_1: Any
    log_evidence: Any
    log_evidence_1: Any
    n: Any

    @property
    def corrected_mean(self) -> Any:
        """``mean + mean_1 / n``."""
        return self.mean + self.mean_1 / self.n

    @property
    def corrected_var(self) -> Any:
        """``var + var_1 / n``; negative where the expansion fails (n too small)."""
        return self.var + self.var_1 / self.n

    @property
    def corrected_log_evidence(self) -> Any:
        """``log_evidence + log_evidence_1 / n``."""
        return self.log_evidence + self.log_evidence_1 / self.n


@float64_scope
def finite_width_posterior(
    G: Any, G1: Any, V: Any, y: Any, *, n: float, noise: float = 0.0
) -> FiniteWidthPrediction:
    r"""Posterior of a Bayesian network with n neurons before the read-out, to order 1/n.

    Equals the formula at the head of this module for :math:`h = m` (posterior mean) and
    :math:`h = v + m^2` (second moment); the evidence is
    :math:`\ell + \frac1n [\partial\ell \cdot G_1 + \frac12 (\partial^2 \ell + \partial\ell\,
    \partial\ell) : V]`. All outputs share one metric, so each adds to :math:`\ell`.

    Args:
        G: kernel of the output layer, ``(N + T, N + T)``, training inputs first.
        G1: its correction, ``(N + T, N + T)``.
        V: four-point vertex, ``(N + T,) * 4``, all quadruples (``closure="full"``).
        y: targets ``(N,)`` or ``(N, C)``, T >= 1.
        n: width before the read-out, > 0.
        noise: variance of the observation noise, >= 0, default 0.

    Returns:
        :class:`FiniteWidthPrediction` of NumPy float64 arrays (JAX arrays under ``jit``, ``grad``).

    Raises:
        ShapeError: shapes that do not fit, or no test input.
        DomainError: not finite or not symmetric, ``n <= 0`` or ``noise < 0``.
        NotPositiveDefiniteError: the training kernel plus noise is singular.

    Source: derived here, from the metric fluctuations of [roberts2022], chapters 4 and 6.
    Check: ``tests/gp/test_finite_width_prediction.py``; claim ``gp/finite-width-posterior``.
    """
    G, G1, targets = _gram(G, "G", y), _matrix(G1, "G1"), _targets(y, G)
    V = _four(V, "V", G)
    number(n, "n", above=0)
    number(noise, "noise", at_least=0)
    result = _posterior(G, G1, V, targets, jnp.asarray(noise, jnp.float64))
    return _record(result, n, "the training kernel plus noise")


@jax.jit
def _posterior(G: Any, G1: Any, V: Any, y: Any, noise: Any) -> tuple[Any, ...]:
    N = len(y)

    def moments(g: Any) -> Any:
        mean, var = _condition(g, g, y, noise)
        return jnp.stack([mean, var[:, None] + mean**2])

    def evidence(g: Any) -> Any:
        chol = jnp.linalg.cholesky(g[:N, :N] + noise * jnp.eye(N))
        white = jax.scipy.linalg.solve_triangular(chol, y, lower=True)
        log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(chol)))
        return -0.5 * (jnp.sum(white**2) + y.shape[1] * (log_det + N * LOG_2PI))

    score = jax.grad(evidence)(G)
    pull = jnp.einsum("abcd,cd->ab", V, (score + score.T) / 2)
    mean, second = moments(G)
    change = _slope(moments, G, G1 + pull) + _curvature(moments, G, V)
    weight = evidence(G)
    log_1 = _slope(evidence, G, G1 + pull / 2) + _curvature(evidence, G, V)
    return mean, change[0], second - mean**2, change[1] - 2 * mean * change[0], weight, log_1


@float64_scope
def finite_width_linearized(tensors: Any, y: Any, *, n: float, ridge: float = 0.0) -> Any:
    r"""Linearised networks trained to the end with their own tangent kernel, to order 1/n.

    Each network of the ensemble has one output :math:`z` and the tangent kernel :math:`\hat H` of
    its initialisation; its linearisation ends at :math:`f = z_* + \hat Q (y - z_X)`,
    :math:`\hat Q = \hat H_{*X} (\hat H_{XX} + \mathrm{ridge})^{-1}`.
    With :math:`m = Q y`, :math:`v(G, \Theta) = \mathrm{diag}[(1, -Q) G (1, -Q)^\top]` and

    .. math::
       W_{1234} = A_{1234} + B_{1324} + B_{1423}, \qquad X_{1234} = D_{1234} + F_{1324} + F_{1423},

    .. math::
       E f &= m + \tfrac1n [\partial_\Theta m \cdot \Theta_1 + \tfrac12 \partial^2_\Theta m : W], \\
       \mathrm{Var} f &= v + \tfrac1n [\partial_G v \cdot G_1 + \partial_\Theta v \cdot \Theta_1
          + \tfrac12 \partial^2_\Theta v : W + \partial_G \partial_\Theta v : X
          + \partial m \cdot W \cdot \partial m].

    The change of the tangent kernel during training (also of order 1/n) is not in it.

    Args:
        tensors: record of :func:`ntk.finite_width` at order ``"NTK"`` or higher with
            ``closure="full"``, training inputs first; or anything with G, G1, Theta, Theta1
            ``(M, M)`` and A, B, D, F ``(M, M, M, M)``.
        y: targets ``(N,)`` or ``(N, C)``; the C outputs are those of C separate networks.
        n: width before the read-out, > 0.
        ridge: added to the tangent kernel, >= 0, default 0.

    Returns:
        :class:`FiniteWidthPrediction`; the evidence is NaN.

    Raises:
        ShapeError, DomainError, NotPositiveDefiniteError: as for :func:`finite_width_posterior`.

    Source: derived here, with the tensors of [roberts2022], chapter 8.
    Check: ``tests/gp/test_finite_width_prediction.py``.
    """
    G, Theta = _gram(tensors.G, "G", y), _gram(tensors.Theta, "Theta", y)
    G1, Theta1 = _matrix(tensors.G1, "G1"), _matrix(tensors.Theta1, "Theta1")
    A, B, D, F = (_four(getattr(tensors, name), name, G) for name in "ABDF")
    number(n, "n", above=0)
    number(ridge, "ridge", at_least=0)
    W = A + jnp.einsum("acbd->abcd", B) + jnp.einsum("adbc->abcd", B)
    X = D + jnp.einsum("acbd->abcd", F) + jnp.einsum("adbc->abcd", F)
    result = _linearized(
        G, G1, Theta, Theta1, W, X, _targets(y, G), jnp.asarray(ridge, jnp.float64)
    )
    return _record(result, n, "the training tangent kernel plus ridge")


@jax.jit
def _linearized(
    G: Any, G1: Any, Theta: Any, Theta1: Any, W: Any, X: Any, y: Any, ridge: Any
) -> tuple[Any, ...]:
    def mean(h: Any) -> Any:
        return _condition(h, G, y, ridge)[0]

    def var(g: Any) -> Callable[[Any], Any]:
        return lambda h: _condition(h, g, y, ridge)[1]

    columns = jnp.eye(len(G) ** 2).reshape(-1, *G.shape)
    mixed = jax.vmap(lambda e, g: _slope(var(g), Theta, e))(
        columns, jnp.moveaxis(X, (2, 3), (0, 1)).reshape(columns.shape)
    ).sum(0)
    gradients = jax.vmap(lambda e: _slope(mean, Theta, e))(columns)  # (M^2, T, C)
    scatter = jnp.einsum("atc,ab,btc->tc", gradients, W.reshape(len(columns), -1), gradients)
    m, m_1 = mean(Theta), _slope(mean, Theta, Theta1) + _curvature(mean, Theta, W)
    v = var(G)(Theta)
    v_1 = var(G1)(Theta) + _slope(var(G), Theta, Theta1) + _curvature(var(G), Theta, W) + mixed
    none = jnp.full((), jnp.nan)
    return m, m_1, jnp.broadcast_to(v[:, None], m.shape), v_1[:, None] + scatter, none, none


def _condition(h: Any, g: Any, y: Any, noise: Any) -> tuple[Any, Any]:
    r"""Mean ``Q y`` and variances of ``z_* - Q (z_X + noise)`` for Q from ``h`` and z from ``g``.

    A general solver, not Cholesky: the derivatives run along single entries of the matrices.
    With ``h is g`` this is the posterior of a Gaussian process.
    """
    N = len(y)
    noisy = h[:N, :N] + noise * jnp.eye(N)
    Q = jnp.linalg.solve(noisy.T, h[N:, :N].T).T
    variance = jnp.diagonal(g)[N:] - jnp.einsum("ti,it->t", Q, g[:N, N:])
    if h is not g:
        variance = variance - jnp.einsum("ti,ti->t", g[N:, :N] - jnp.matmul(Q, g[:N, :N]), Q)
    return jnp.matmul(Q, y), variance


def _slope(function: Callable[[Any], Any], point: Any, direction: Any) -> Any:
    """Derivative of ``function`` at ``point`` along ``direction``."""
    return jax.jvp(function, (point,), (direction,))[1]


def _curvature(function: Callable[[Any], Any], point: Any, tensor: Any) -> Any:
    r"""Half of :math:`\partial^2 f : V`, as the sum over entries cd of derivatives along
    :math:`e_{cd}` and :math:`V_{\cdot\cdot cd}`."""
    M = len(point)
    columns = jnp.eye(M * M).reshape(-1, M, M)
    slices = jnp.moveaxis(tensor, (2, 3), (0, 1)).reshape(-1, M, M)

    def term(e: Any, v: Any) -> Any:
        return _slope(lambda p: _slope(function, p, v), point, e)

    return jax.vmap(term)(columns, slices).sum(0) / 2


def _gram(K: Any, name: str, y: Any) -> Any:
    K = jnp.asarray(as_square(K, name)).astype(jnp.float64)
    N = np.shape(y)[0] if np.ndim(y) else 0
    check(
        0 < N < len(K),
        f"{name} must hold the training inputs and one test input or more: it has {len(K)} rows "
        f"for {N} targets.",
        ShapeError,
    )
    return K


def _matrix(K: Any, name: str) -> Any:
    return jnp.asarray(as_square(K, name)).astype(jnp.float64)


def _targets(y: Any, G: Any) -> Any:
    return jnp.asarray(as_targets(y, np.shape(y)[0])).astype(jnp.float64)


def _four(tensor: Any, name: str, G: Any) -> Any:
    shape = (len(G),) * 4
    got = None if tensor is None else np.shape(tensor)
    check(
        got == shape,
        f"{name} must have shape {shape}, all quadruples of inputs, got {got}. Use "
        'ntk.finite_width(..., closure="full").',
        ShapeError,
    )
    finite(tensor, name)
    return jnp.asarray(tensor).astype(jnp.float64)


def _record(values: tuple[Any, ...], n: Any, what: str) -> FiniteWidthPrediction:
    if any(is_traced(v) for v in values):
        require_x64("gp.finite_width")
        return FiniteWidthPrediction(*(*values, n))
    arrays = [np.asarray(v) for v in values]
    check(
        bool(np.isfinite(arrays[0]).all() and np.isfinite(arrays[1]).all()),
        f"{what} is singular: add noise or drop duplicate inputs.",
        NotPositiveDefiniteError,
    )
    return FiniteWidthPrediction(*(*arrays, float(n)))
