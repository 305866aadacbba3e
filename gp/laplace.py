r"""Laplace's approximation for C classes with softmax probabilities and one latent per class.

.. math:: p(c \mid f) = \frac{e^{f_c}}{\sum_{c'} e^{f_{c'}}}, \qquad f_c \sim GP(0, k)
    \text{ independently}

Newton's method finds the mode; a Gaussian with the curvature there replaces the posterior. Every
class has its own ``n x n`` matrix and only their sum couples them, so that nothing of size
``nC x nC`` is formed.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

#: Newton's method stops when the objective rises by less than this, in nats per point.
TOLERANCE = 1e-13
MOST_STEPS = 40
#: Halvings of a Newton step that are tried at most.
_HALVINGS = 12
#: Smaller probabilities count as 0: they change no float64 sum, and denormal numbers are slow.
_SMALLEST = 1e-30


class Mode(NamedTuple):
    r"""The mode of the latent functions.

    Attributes:
        weights: a with :math:`f_c = K a_c`; equal to label minus probability, ``(C, n)``.
        log_evidence: approximate log probability of the labels.
        steps: Newton steps that were used.
        gap: norm :math:`(\sum_c d_c^\top K d_c)^{1/2}` of d = a - (label - probability), a bound
            on the distance to the mode in prior standard deviations (strong concavity).
    """

    weights: Any
    log_evidence: Any
    steps: Any
    gap: Any


def _objective(K: Any, a: Any, labels: Any) -> tuple[Any, Any]:
    """Log posterior of ``f = K a`` up to a constant, and f ``(C, n)``."""
    f = jnp.matmul(a, K)
    log_lik = jnp.sum(labels * f) - jnp.sum(jax.scipy.special.logsumexp(f, axis=0))
    return log_lik - 0.5 * jnp.sum(a * f), f


def curvature(K: Any, p: Any) -> tuple[Any, Any, Any]:
    r"""What a posterior with the precision :math:`W = D - D R (R^\top D R)^{-1} R^\top D` needs.

    R sums over the classes; :math:`R^\top D R = 1` for the curvature of the softmax.

    Args:
        K: covariance of every latent function ``(n, n)``.
        p: the diagonals of D, >= 0 ``(C, n)``.

    Returns:
        :math:`E_c = D_c^{1/2} (1 + D_c^{1/2} K D_c^{1/2})^{-1} D_c^{1/2}` ``(C, n, n)``; the
        Cholesky factor of :math:`\sum_c E_c`; and half the log determinant of
        :math:`(1 + K W)\, R^\top D R`.
    """
    root = jnp.sqrt(jnp.where(p < _SMALLEST, 0.0, p))
    n = K.shape[0]
    matrix = jnp.eye(n)[None] + root[:, :, None] * K[None] * root[:, None, :]
    chol = jnp.linalg.cholesky(matrix)
    diagonal = jax.vmap(jnp.diag)(root)
    half = jax.vmap(lambda c, d: jax.scipy.linalg.solve_triangular(c, d, lower=True))(
        chol, diagonal
    )
    E = jnp.matmul(half.swapaxes(1, 2), half)
    total = jnp.linalg.cholesky(jnp.sum(E, axis=0))
    log_det = jnp.sum(jnp.log(jnp.diagonal(chol, axis1=1, axis2=2)))
    return E, total, log_det + jnp.sum(jnp.log(jnp.diagonal(total)))


def _newton(K: Any, f: Any, labels: Any) -> Any:
    r"""The weights of the full Newton step.

    With :math:`b = W f + y - p`, :math:`a = b - W (K^{-1} + W)^{-1} b`, by the inversion lemma for
    :math:`W = \mathrm{diag}(p) - \Pi \Pi^\top`.
    """
    p = jax.nn.softmax(f, axis=0)
    E, total, _ = curvature(K, p)
    b = p * f - p * jnp.sum(p * f, axis=0)[None, :] + labels - p
    c = jnp.einsum("cij,cj->ci", E, jnp.matmul(b, K))
    shared = jax.scipy.linalg.cho_solve((total, True), jnp.sum(c, axis=0))
    return b - c + jnp.einsum("cij,j->ci", E, shared)


@jax.jit
def softmax_mode(
    K: Float[Array, "n n"], labels: Float[Array, "C n"], start: Float[Array, "C n"]
) -> Mode:
    """The mode of the latent functions for the covariance K and one-hot labels (float64).

    A Newton step that lowers the objective is halved until it does not; the objective is concave,
    so that the mode is unique. ``start`` are weights to begin with; zeros do.

    Source: Rasmussen and Williams (2006), algorithm 3.3; their evidence lacks the determinant of
    the coupling between the classes, which is included here.
    Check: test_classify.py::test_laplace_against_dense_algebra.
    """

    def step(state: Any) -> Any:
        a, value, _, count = state
        goal = _newton(K, jnp.matmul(a, K), labels)

        def worse(inner: Any) -> Any:
            return (inner[1] < value) & (inner[2] < _HALVINGS)

        def halve(inner: Any) -> Any:
            rate, _, tries = inner
            new = _objective(K, a + 0.5 * rate * (goal - a), labels)[0]
            return 0.5 * rate, new, tries + 1

        one = jnp.ones((), K.dtype)
        rate, new, _ = jax.lax.while_loop(worse, halve, (one, _objective(K, goal, labels)[0], 0))
        better = new > value
        a = jnp.where(better, a + rate * (goal - a), a)
        return a, jnp.maximum(new, value), new - value, count + 1

    n = K.shape[0]
    value = _objective(K, start, labels)[0]
    unfinished = lambda s: (s[2] > TOLERANCE * n) & (s[3] < MOST_STEPS)  # noqa: E731
    state = (start, value, jnp.asarray(jnp.inf, K.dtype), 0)
    a, value, _, count = jax.lax.while_loop(unfinished, step, state)
    f = jnp.matmul(a, K)
    p = jax.nn.softmax(f, axis=0)
    log_det = curvature(K, p)[2]
    d = a - labels + p
    gap = jnp.sqrt(jnp.maximum(jnp.sum(d * jnp.matmul(d, K)), 0.0))
    # the exact weights at this f, so that predictions are those of the mode to second order
    return Mode(labels - p, value - log_det, count, gap)


@jax.jit
def softmax_mode_at_scales(
    K: Float[Array, "n n"], labels: Float[Array, "C n"], scales: Float[Array, " J"]
) -> Mode:
    """:func:`softmax_mode` of ``s2 K`` at increasing scales (fields ``(J, ...)``).

    Each begins with the latent functions of the one before: from zero, the first Newton step at a
    scale of 1e6 ends where all probabilities are 0 or 1 and the curvature vanishes.
    """

    def one(latent: Any, s2: Any) -> tuple[Any, Mode]:
        mode = softmax_mode(s2 * K, labels, latent / s2)
        return s2 * mode.weights, mode

    return jax.lax.scan(one, jnp.zeros_like(labels), scales)[1]


@jax.jit
def class_latent(
    K: Float[Array, "n n"],
    precision: Float[Array, "J C n"],
    weights: Float[Array, "J C n"],
    scales: Float[Array, " J"],
    cross: Float[Array, "m n"],
    prior: Float[Array, " m"],
) -> tuple[Float[Array, "J m C"], Float[Array, "J m C C"]]:
    r"""Latent means and covariances across the classes at new inputs, for every scale.

    .. math:: \mathrm{cov}_{cc'} = \delta_{cc'} (k_{**} - k_*^\top E_c k_*)
        + k_*^\top E_c (\textstyle\sum_b E_b)^{-1} E_{c'} k_*

    Args:
        K: training kernel at unit scale.
        precision: D of :func:`curvature` for every scale: the probabilities at the mode, or the
            precisions of expectation propagation.
        weights: a with mean :math:`k_* a_c`, for every scale.
        scales: the scales.
        cross: kernel between new and training inputs, at unit scale.
        prior: kernel of every new input with itself, at unit scale.

    Source: Rasmussen and Williams (2006), eq. (3.42).
    """

    def one(node: Any) -> Any:
        d, a, s2 = node
        E, total, _ = curvature(s2 * K, d)
        k = s2 * cross
        b = jnp.einsum("cij,mj->cim", E, k)
        half = jax.vmap(lambda x: jax.scipy.linalg.solve_triangular(total, x, lower=True))(b)
        own = s2 * prior[None, :] - jnp.einsum("mi,cim->cm", k, b)
        shared = jnp.einsum("cim,dim->mcd", half, half)
        cov = shared + jax.vmap(jnp.diag, in_axes=1)(own)
        return jnp.matmul(k, a.T), cov

    return jax.lax.map(one, (precision, weights, scales))
