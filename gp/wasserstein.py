r"""The 2-Wasserstein distance between Gaussian laws, and its gradient also at singular ones.

.. math::

    W_2^2\big(N(m_1, A), N(m_2, B)\big) = |m_1 - m_2|^2 + \mathrm{tr} A + \mathrm{tr} B
    - 2 \big\| A^{1/2} B^{1/2} \big\|_*

with the nuclear norm :math:`\|\cdot\|_*` (sum of the singular values).

Why not the textbook :math:`\mathrm{tr} (A^{1/2} B A^{1/2})^{1/2}`: it takes the square root of
eigenvalues that carry the rounding of the largest one, which leaves half of the digits of a smooth
kernel. Singular values of the product of two roots keep them. Why not differentiate that: the
derivative of an eigendecomposition divides by gaps between eigenvalues, 0/0 for equal ones.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from deeplimits.errors import ShapeError
from deeplimits.precision import float64_scope
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import as_real, as_square, check, finite, is_traced, number
from gp.linalg import eigh_psd

#: Singular values below this share of the largest are read as 0 in the gradient.
CUT = 1e-13
_EPS = float(np.finfo(np.float64).eps)


def _eigh(matrix: Float[Array, "n n"]) -> tuple[Float[Array, " n"], Float[Array, "n n"]]:
    """Eigenvalues and eigenvectors; those below rounding become exactly 0.

    An eigenvalue of 1e-17 that should be 0 would add 3e-9 to every singular value it meets.
    """
    values, vectors = jnp.linalg.eigh(matrix, symmetrize_input=True)
    floor = values.shape[-1] * _EPS * jnp.max(jnp.abs(values), initial=0.0)
    return jnp.where(values > floor, values, 0.0), vectors


def _factor(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """``F`` with ``F F^T = matrix``."""
    values, vectors = _eigh(matrix)
    return vectors * jnp.sqrt(values)[None, :]


@jax.custom_jvp
def overlap(A: Float[Array, "n n"], B: Float[Array, "n n"]) -> Float[Array, ""]:
    r"""The nuclear norm :math:`\|A^{1/2} B^{1/2}\|_*` of two covariances, differentiable.

    .. math:: \partial \|\cdot\|_* / \partial A = \tfrac12 B^{1/2} (B^{1/2} A B^{1/2})^{+1/2}
              B^{1/2}

    with the pseudo-inverse of the root, cut at 1e-13 of its largest value; symmetric for B. It is
    the largest covariance :math:`E[x \cdot y]` of two vectors with these laws.

    Args:
        A, B: positive semi-definite ``(n, n)``, float64, not checked.

    Source: Olkin and Pukelsheim, Linear Algebra Appl. 48, 257 (1982).
    Check: test_wasserstein.py::test_gradient_by_differences.
    """
    product = _factor(A).T @ _factor(B)
    return jnp.sum(jnp.linalg.svd(product, compute_uv=False))


@overlap.defjvp
def _overlap_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    left, right = (_factor(matrix) for matrix in primals)
    u, s, vt = jnp.linalg.svd(left.T @ right, full_matrices=False)
    kept = s > CUT * jnp.max(s, initial=0.0)
    root = jnp.where(kept, 1 / jnp.sqrt(jnp.where(kept, s, 1.0)), 0.0)[None, :]
    for_a, for_b = right @ (vt.T * root), left @ (u * root)
    slope = sum(
        0.5 * jnp.sum(half * (tangent @ half))
        for half, tangent in zip((for_a, for_b), tangents, strict=True)
    )
    return jnp.sum(s), slope


@jax.custom_jvp
def _root(matrix: Float[Array, "n n"]) -> Float[Array, "n n"]:
    values, vectors = _eigh(matrix)
    return (vectors * jnp.sqrt(values)[None, :]) @ vectors.T


@_root.defjvp
def _root_jvp(primals: Any, tangents: Any) -> tuple[Any, Any]:
    """Sylvester's equation ``X dX + dX X = dA`` in the eigenbasis."""
    values, vectors = _eigh(primals[0])
    roots = jnp.sqrt(values)
    total = roots[:, None] + roots[None, :]
    inner = vectors.T @ tangents[0] @ vectors
    inner = jnp.where(total > 0, inner / jnp.where(total > 0, total, 1.0), 0.0)
    return (vectors * roots[None, :]) @ vectors.T, vectors @ inner @ vectors.T


def as_covariance(matrix: ArrayLike, name: str) -> Any:
    """A positive semi-definite float64 matrix; tracers are not checked.

    Raises:
        ShapeError, DomainError: not a square, symmetric, finite matrix of real numbers.
        NotPositiveDefiniteError: an eigenvalue is negative beyond rounding.
    """
    matrix = as_square(matrix, name)
    if not is_traced(matrix):
        eigh_psd(np.asarray(matrix, np.float64), name=name, dtype=matrix.dtype)
    return jnp.asarray(matrix, jnp.float64)


def covariance_pair(K1: ArrayLike, K2: ArrayLike) -> tuple[Any, Any]:
    """Two covariances of one size.

    Raises:
        ShapeError, DomainError, NotPositiveDefiniteError: as :func:`as_covariance`; two sizes.
    """
    pair = as_covariance(K1, "K1"), as_covariance(K2, "K2")
    if pair[0].shape != pair[1].shape:
        raise ShapeError(
            f"K1 and K2 must have one shape, got {pair[0].shape} and {pair[1].shape}: both laws "
            "are those of the function values on the same points."
        )
    return pair


@float64_scope
def sqrtm_psd(matrix: ArrayLike) -> Any:
    r"""The positive semi-definite square root, differentiable also at equal or zero eigenvalues.

    .. math:: X^2 = A, \qquad X\, dX + dX\, X = dA

    Directions in which both A and the root vanish get derivative 0; the true one is infinite there
    unless dA vanishes too.

    Args:
        matrix: positive semi-definite ``(n, n)``.

    Returns:
        ``(n, n)``, NumPy float64; a JAX array inside ``grad``, ``jit`` and ``vmap``.

    Raises:
        ShapeError, DomainError: not a square, symmetric, finite matrix of real numbers.
        NotPositiveDefiniteError: an eigenvalue is negative beyond rounding.

    Source: Higham, Functions of Matrices (2008), chapter 6.
    Check: test_wasserstein.py::test_square_root.
    """
    root = _root(as_covariance(matrix, "matrix"))
    return root if is_traced(root) else np.asarray(root)


def _mean_distance(mean1: Any, mean2: Any, n: int) -> Any:
    means = []
    for value, name in ((mean1, "mean1"), (mean2, "mean2")):
        value = jnp.zeros(n) if value is None else jnp.asarray(as_real(value, name))
        check(
            value.shape == (n,),
            f"{name} must have shape ({n},) like the covariances, got {value.shape}.",
            ShapeError,
        )
        finite(value, name)
        means.append(value.astype(jnp.float64))
    return jnp.sum((means[0] - means[1]) ** 2)


@float64_scope
def wasserstein2(
    K1: ArrayLike, K2: ArrayLike, *, mean1: ArrayLike | None = None, mean2: ArrayLike | None = None
) -> Any:
    r"""The squared 2-Wasserstein distance between two Gaussian laws.

    .. math:: W_2^2 = |m_1 - m_2|^2 + \mathrm{tr} K_1 + \mathrm{tr} K_2
              - 2 \big\| K_1^{1/2} K_2^{1/2} \big\|_*

    Differentiable (once) in all four arguments, with :math:`\partial W_2^2 / \partial K_1 = I - T`,
    :math:`T = K_2^{1/2} (K_2^{1/2} K_1 K_2^{1/2})^{+1/2} K_2^{1/2}`. Where :math:`K_1` is singular
    this is the derivative within its range, which is finite.

    Args:
        K1, K2: covariances ``(n, n)``, positive semi-definite, in squared units of the function.
        mean1, mean2: means ``(n,)``; None for 0.

    Returns:
        The distance SQUARED, >= 0, a float; divide by n for the mean squared error per point. A JAX
        scalar inside ``grad``, ``jit`` and ``vmap``.

    Raises:
        ShapeError, DomainError: bad shapes, or entries that are not finite real numbers.
        NotPositiveDefiniteError: an eigenvalue is negative beyond rounding.

    Source: Gelbrich, Math. Nachr. 147, 185 (1990).
    Check: test_wasserstein.py::test_against_mpmath, ::test_gradient_by_differences.
    """
    A, B = covariance_pair(K1, K2)
    gaussian = jnp.trace(A) + jnp.trace(B) - 2 * overlap(A, B)
    total = _mean_distance(mean1, mean2, A.shape[0]) + jnp.maximum(gaussian, 0.0)
    return total if is_traced(total) else float(total)


def kl_shifted(A: Any, B: Any, nugget: Any) -> Any:
    """KL(N(0, A + nugget I) || N(0, B + nugget I)) in nats, differentiable, nothing checked."""
    shift = nugget * jnp.eye(A.shape[0])
    a, b = jnp.linalg.cholesky(A + shift), jnp.linalg.cholesky(B + shift)
    white = jax.scipy.linalg.solve_triangular(b, a, lower=True)
    logs = jnp.sum(jnp.log(jnp.diagonal(b)) - jnp.log(jnp.diagonal(a)))
    return 0.5 * (jnp.sum(white**2) - A.shape[0]) + logs


@float64_scope
def kl_gaussian(K1: ArrayLike, K2: ArrayLike, *, nugget: float) -> Any:
    r"""The Kullback-Leibler divergence between two centred Gaussian laws with noise added to both.

    .. math:: KL = \tfrac12 \big[\mathrm{tr} (B^{-1} A) - n + \log|B| - \log|A|\big], \qquad
              A = K_1 + \nu I, \quad B = K_2 + \nu I

    For smooth kernels it is a function of the nugget more than of the kernels, so there is no
    default.

    Args:
        K1, K2: covariances ``(n, n)``.
        nugget: the variance :math:`\nu` > 0 added to both diagonals, in squared units of the
            function.

    Returns:
        Nats, a float; a JAX scalar inside ``grad`` and ``jit``.

    Raises:
        ShapeError, DomainError, NotPositiveDefiniteError: as :func:`wasserstein2`; nugget <= 0.

    Source: Rasmussen and Williams (2006), eq. (A.23).
    Check: test_wasserstein.py::test_kl_against_mpmath.
    """
    A, B = covariance_pair(K1, K2)
    number(nugget, "nugget", above=0)
    total = kl_shifted(A, B, nugget)
    return total if is_traced(total) else float(total)
