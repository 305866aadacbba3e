r"""Alignment of layers of infinitely wide networks, and what a finite width takes away.

The Gram of a random layer of N units is an average of N independent rank-one matrices
:math:`g g^\top`. It scatters around its limit K, which adds to its norm and so lowers its
alignment with anything fixed:

.. math:: E\,\mathrm{CKA}_N \approx \frac{\langle K, L\rangle}{\|K\| \|L\|}
          \left(1 + \frac{V}{N \|K\|^2}\right)^{-1/2}
          \left(1 + \frac1N \left[\frac32 \frac{\mathrm{Var}\,u}{\|K\|^4}
          - \frac{\mathrm{Cov}(u, w)}{\langle K, L\rangle \|K\|^2}\right]\right)

for centred matrices, :math:`V = E\|g g^\top\|^2 - \|K\|^2`, :math:`u = g^\top K g`,
:math:`w = g^\top L g`. The first factor is the ratio of the means; the second holds the
fluctuations that are of the same order 1/N.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import ntk
from bounds.result import Estimate
from bounds.similarity.alignment import as_gram, centred, cka, nonconstant
from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import as_inputs, as_key, as_real, integer

#: Units are drawn in groups, whose scatter gives the standard error.
GROUPS = 20


@float64_scope
def wide_cka(kernel_a: Any, kernel_b: Any, X: ArrayLike, *, unbiased: bool = True) -> Estimate:
    """Alignment of the outputs of two infinitely wide random networks on the same inputs.

    Args:
        kernel_a, kernel_b: networks of :mod:`ntk` or kernels ``k(X, Z=None) -> (n, m)``. The last
            hidden layer of a network has the same alignment as its output.
        X: ``(n, d)`` or ``(n, *spatial, channels)``, n >= 4.
        unbiased: as in :func:`cka`.

    Returns:
        :class:`~bounds.result.Estimate`, exact for these inputs; its standard error is over them.

    Raises:
        ShapeError, DomainError: bad inputs or kernels, as :func:`ntk.gram` and :func:`cka`.

    Source: derived here (CKA of arXiv:1905.00414 with the kernels of arXiv:1711.00165).
    Check: tests/bounds/test_similarity_wide.py::test_layers_of_a_wide_network
    """
    X = np.asarray(as_inputs(X, "X"), np.float64)
    K, L = (ntk.gram(k, X, get="nngp", progress=False) for k in (kernel_a, kernel_b))
    return cka(K, L, unbiased=unbiased)


@float64_scope
def finite_width_cka(
    K: ArrayLike,
    L: ArrayLike,
    width: ArrayLike,
    *,
    key: Key,
    activation: Any = "relu",
    samples: int = 20_000,
    unbiased: bool = True,
) -> Estimate:
    r"""Expected alignment of a random layer of finite width with a fixed representation.

    The formula is at the top of this module; its error is of order :math:`N^{-2}`. The moments of
    one unit come from ``samples`` simulated units, the limit from the dual of the activation.

    Args:
        K: ``(n, n)`` covariance of the pre-activations (the NNGP kernel below the layer), n >= 4.
        L: ``(n, n)`` Gram of the other representation.
        width: number N of units, >= 1, any shape.
        key: random key or integer seed.
        activation: a name, a dual or a callable, default ``"relu"``.
        samples: simulated units, >= 100, rounded down to a multiple of 20; default 20 000.
        unbiased: as in :func:`cka`.

    Returns:
        :class:`~bounds.result.Estimate` of the shape of ``width``; ``terms``: ``limit`` (infinite
        width), ``ratio_of_means`` (the first factor alone), ``slope`` (coefficient of 1/N relative
        to the limit). ``stderr`` is that of the simulated moments. If the other representation is
        a random layer of an independent network too, the values relative to the limit multiply.

    Raises:
        ShapeError: Grams that are not square or differ in size, fewer than 4 samples.
        DomainError: not symmetric, NaN, a constant layer, a width or number of samples below 1.

    Source: derived here. Check: tests/bounds/test_similarity_wide.py::test_finite_width
    """
    K, L = as_gram(K, "K"), as_gram(L, "L")
    if K.shape != L.shape:
        raise ShapeError(f"K and L must be of the same samples, got {K.shape} and {L.shape}.")
    width = np.asarray(as_real(width, "width"), np.float64)
    if not (width >= 1).all():
        raise DomainError(f"width must be >= 1, got {width}.")
    integer(samples, "samples", at_least=100)
    dual, q = ntk.dual(activation), np.diag(K)
    units = _units(dual, K, as_key(key), samples // GROUPS)
    layer = np.asarray(dual.K(q[:, None], K, q[None, :]))
    A = nonconstant(centred(layer, unbiased), layer, "the layer")
    B = nonconstant(centred(L, unbiased), L, "L")
    norm, product = float((A * A).sum()), float((A * B).sum())
    each = np.array([_correction(g, A, B, norm, product, unbiased) for g in units])
    scatter, second = each.mean(0)

    def value(scatter: Any, second: Any, width: Any) -> tuple[Any, Any]:
        limit = product / np.sqrt(norm * float((B * B).sum()))
        means = limit / np.sqrt(1 + scatter / width)
        return means, means * (1 + second / width)

    means, total = value(scatter, second, width)
    groups = value(each[:, :1], each[:, 1:], width.ravel())[1]
    stderr = (groups.std(0, ddof=1) / np.sqrt(GROUPS)).reshape(width.shape)
    terms = {"limit": float(value(0.0, 0.0, 1.0)[0]), "ratio_of_means": means}
    return Estimate(
        value=total,
        stderr=stderr,
        ceiling=1.0,
        terms=terms | {"slope": float(second - scatter / 2)},
        target="CKA",
        method="1/width expansion",
        n=len(K),
        rigor="leading-order",
        holds="expectation",
        units="1",
        assumptions=("first hidden layer, or widths below it much larger: independent units",),
        reference="derived here",
    )


def _units(dual: Any, K: np.ndarray, key: Any, samples: int) -> np.ndarray:
    """Activations of simulated units ``(groups, samples, n)``."""
    values, vectors = np.linalg.eigh(K)
    if values[0] < -1e-6 * values[-1]:  # room for Grams rounded to float32
        raise DomainError(
            f"K must be positive semi-definite; its smallest eigenvalue is {values[0]:.3g}."
        )
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    z = jax.random.normal(key, (GROUPS, samples, len(K)))
    return np.asarray(dual.fn(jnp.asarray(np.asarray(z) @ root.T)))


def _correction(
    g: np.ndarray, A: np.ndarray, B: np.ndarray, norm: float, product: float, unbiased: bool
) -> tuple[float, float]:
    """Relative scatter :math:`V / |K|^2` and the coefficient of the second factor."""
    u, w = (((g @ M) * g).sum(-1) for M in (A, B))
    covariance = np.cov(u, w)
    scatter = _rank_one_norm(g, unbiased).mean() / norm - 1
    second = 1.5 * covariance[0, 0] / norm**2 - covariance[0, 1] / (product * norm)
    return float(scatter), float(second)


def _rank_one_norm(g: np.ndarray, unbiased: bool) -> np.ndarray:
    """Squared norm of the centred matrix ``g g^T``, one a unit."""
    n = g.shape[-1]
    if not unbiased:
        return np.asarray(((g - g.mean(-1, keepdims=True)) ** 2).sum(-1) ** 2)
    square, fourth = (g**2).sum(-1), (g**4).sum(-1)
    rows = g * (g.sum(-1, keepdims=True) - g)
    total = rows.sum(-1) ** 2 / ((n - 1) * (n - 2))
    return np.asarray(square**2 - fourth + total - 2 * (rows**2).sum(-1) / (n - 2))
