r"""Measured learning curves of kernel ridge regression, and their prediction from real data.

Many training sets of every size are drawn, each is solved exactly, and the errors come with
standard errors, to be held against :func:`ntk.learning_curve`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError, NotPositiveDefiniteError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.statistics import z_score
from deeplimits.typing import Array, ArrayLike, Key
from deeplimits.validate import as_key, as_square, as_targets, integer, number
from ntk.gram_spectrum import gram_spectrum
from ntk.learning_curves import LearningCurve, learning_curve

_FIELDS = ["n", "test", "test_stderr", "train", "train_stderr"]


@functools.partial(register_dataclass, data_fields=_FIELDS, meta_fields=["draws"])
@dataclasses.dataclass(frozen=True, eq=False)
class RegressionCurve:
    """Measured errors of kernel regression; one entry per number of training points.

    Attributes:
        n: ``(points,)`` numbers of training points.
        test, test_stderr: mean over draws of the mean squared error at unseen points (against noisy
            targets), and its standard error. Several targets are summed.
        train, train_stderr: likewise at the training points.
        draws: number of independent training sets per entry.
    """

    n: Array
    test: Array
    test_stderr: Array
    train: Array
    train_stderr: Array
    draws: int

    def z(self, curve: Any) -> tuple[Array, Array]:
        """Scores of the measured test and training errors against a prediction at the same n.

        ``curve``: :class:`ntk.learning_curves.LearningCurve` or :class:`gp.site_curves.SiteCurve`.
        """
        if not np.array_equal(np.ravel(curve.n), self.n):
            raise ShapeError(f"the prediction is for n={curve.n}, the measurement for n={self.n}.")
        return (
            z_score(self.test, self.test_stderr, np.ravel(curve.test)),
            z_score(self.train, self.train_stderr, np.ravel(curve.train)),
        )

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """Test errors with standard errors against the number of training points, logarithmic."""
        from deeplimits import plotting

        ax = plotting.axes(ax)
        ax.errorbar(self.n, self.test, self.test_stderr, **{"fmt": "o", **kw})
        ax.set(xscale="log", yscale="log", xlabel="training points", ylabel="test error")
        return ax


@float64_scope
def regression_curve(
    kernel: Callable[..., Any],
    sample: Callable[[Any, int], tuple[Any, Any]],
    n: ArrayLike,
    *,
    key: Key,
    ridge: Any = 0.0,
    noise: Any = 0.0,
    n_test: int = 256,
    draws: int = 32,
) -> RegressionCurve:
    r"""Measured errors of kernel regression on freshly drawn data.

    .. math:: \hat f(x) = k(x, X)(k(X, X) + \delta)^{-1} y, \qquad
              y = f(X) + \sigma\xi, \quad \xi \sim N(0, 1)

    Every draw has its own training points, test points and noise.

    Args:
        kernel: ``k(X, Z) -> (n, m)`` in JAX, such as ``net.ntk``.
        sample: ``sample(key, m) -> (X, f)``, m independent points and the noiseless target there,
            ``(m,)``; in JAX, with m static.
        n: numbers of training points, integers >= 1.
        key: random key or integer seed.
        ridge: delta >= 0 on the diagonal of the Gram matrix. Default 0.
        noise: variance of the noise on training and test targets, >= 0. Default 0.
        n_test: test points per draw.
        draws: training sets per n, >= 2.

    Returns:
        :class:`RegressionCurve`.

    Raises:
        DomainError: an argument out of range.
        NotPositiveDefiniteError: a Gram matrix is singular to working precision.

    Source: derived here (a direct measurement).
    Check: tests/gp/test_regression_curves.py::test_gaussian_features, ::test_sphere.
    """
    sizes, draws = _sizes(n), integer(draws, "draws", at_least=2)
    n_test = integer(n_test, "n_test", at_least=1)
    ridge = jnp.float64(number(ridge, "ridge", at_least=0.0))
    noise = jnp.float64(number(noise, "noise", at_least=0.0))
    keys = jax.random.split(as_key(key), (len(sizes), draws))
    top = int(sizes.max())
    # not cached between calls: `kernel` may be a method of a network, which has no hash
    run = functools.partial(_fresh_errors, kernel, sample, top, n_test, ridge=ridge, noise=noise)
    errors = jax.jit(functools.partial(_all_draws, run))(jnp.asarray(sizes, jnp.float64), keys)
    return _summary(sizes, draws, errors)


@float64_scope
def subset_regression_curve(
    K: ArrayLike,
    y: ArrayLike,
    n: ArrayLike,
    *,
    key: Key,
    ridge: Any = 0.0,
    draws: int = 32,
) -> RegressionCurve:
    r"""Measured errors of kernel regression on random subsets of a data set.

    n of the N points are drawn without replacement for training; all the others are the test set.

    Args:
        K: ``(N, N)`` Gram matrix of the data set.
        y: ``(N,)`` or ``(N, targets)``; errors are summed over targets.
        n: numbers of training points, integers in 1 .. N - 1.
        key: random key or integer seed.
        ridge: delta >= 0 on the diagonal of the Gram matrix of the training points.
        draws: training sets per n, >= 2.

    Returns:
        :class:`RegressionCurve`.

    Raises:
        ShapeError, DomainError: arguments that do not match or are out of range.
        NotPositiveDefiniteError: a Gram matrix is singular to working precision.

    Source: derived here (a direct measurement).
    Check: tests/gp/test_regression_curves.py::test_subset_against_plain_numpy.
    """
    K = jnp.asarray(as_square(K, "K"), jnp.float64)
    targets = jnp.asarray(as_targets(y, K.shape[0]), jnp.float64)
    sizes, draws = _sizes(n), integer(draws, "draws", at_least=2)
    if sizes.max() >= K.shape[0]:
        raise DomainError(
            f"n must be below the number of points {K.shape[0]}, got {sizes.max()}: no test points."
        )
    ridge = jnp.float64(number(ridge, "ridge", at_least=0.0))
    keys = jax.random.split(as_key(key), (len(sizes), draws))
    n_ = jnp.asarray(sizes, jnp.float64)
    errors = _all_subsets(n_, keys, K, targets, ridge, top=int(sizes.max()))
    return _summary(sizes, draws, errors)


@float64_scope
def predicted_curve(K: ArrayLike, y: ArrayLike, n: ArrayLike, ridge: Any = 0.0) -> LearningCurve:
    r"""The learning curve of a data set from the eigen-decomposition of its whole Gram matrix.

    The data set is the population: n points are drawn from it without replacement, the others are
    the test set (:func:`ntk.learning_curve` with ``population=N``). The formula for independent
    draws is too optimistic as soon as n is some percent of N, because there a test point may be a
    training point.

    Args:
        K: ``(N, N)`` Gram matrix.
        y: ``(N,)`` or ``(N, targets)``.
        n: numbers of training points, below N.
        ridge: delta >= 0.

    Returns:
        :class:`ntk.learning_curves.LearningCurve`, errors summed over targets.

    Raises:
        ShapeError, DomainError: arguments that do not match or are out of range.
        NotPositiveDefiniteError: K has a negative eigenvalue.

    Real eigenvectors are not random: on the digits this is 1 to 5 percent too low at the test
    points. :func:`gp.site_curve` keeps the eigenvectors, for the price of some N^3 per n.

    Source: Canatar, Bordelon & Pehlevan, arXiv:2006.13198; the finite population derived here.

    Check: tests/gp/test_site_curves.py::test_equivalent_points_give_the_spectral_theory; claim
        gp/finite-population-curve.
    """
    K = as_square(K, "K")
    spectrum = gram_spectrum(K, as_targets(y, K.shape[0]))
    coefficients: Any = spectrum.coefficients
    return learning_curve(
        spectrum.eigenvalues, coefficients, n, ridge, population=spectrum.n_points
    )


def _sizes(n: Any) -> np.ndarray:
    sizes = np.atleast_1d(np.asarray(n))
    if sizes.ndim != 1 or sizes.size == 0 or sizes.dtype.kind not in "iu" or sizes.min() < 1:
        raise DomainError(f"n must be integers >= 1, got {n!r}.")
    return sizes.astype(np.int64)


def _summary(sizes: np.ndarray, draws: int, errors: Any) -> RegressionCurve:
    """Means and standard errors over draws of ``(sizes, draws, 2)`` errors."""
    errors = np.asarray(errors)
    if not np.isfinite(errors).all():
        n = int(sizes[np.flatnonzero(~np.isfinite(errors).all(axis=(1, 2)))[0]])
        raise NotPositiveDefiniteError(
            f"the Gram matrix of a training set of n={n} points is singular to working precision. "
            "Give a ridge, or drop duplicate points."
        )
    mean = errors.mean(axis=1)
    stderr = errors.std(axis=1, ddof=1) / draws**0.5
    return RegressionCurve(sizes, mean[:, 0], stderr[:, 0], mean[:, 1], stderr[:, 1], draws)


def _all_draws(run: Callable[..., Any], sizes: Any, keys: Any) -> Any:
    """``run(n, key)`` for every size and draw: ``(sizes, draws, 2)``, one program for all."""

    def of_size(pair: Any) -> Any:
        return jax.lax.map(lambda key: run(pair[0], key), pair[1])

    return jax.lax.map(of_size, (sizes, keys))


@functools.partial(jax.jit, static_argnames="top")
def _all_subsets(sizes: Any, keys: Any, K: Any, y: Any, ridge: Any, *, top: int) -> Any:
    return _all_draws(lambda n, key: _subset_errors(top, n, key, K, y, ridge), sizes, keys)


def _solve(K: Any, y: Any, n: Any, ridge: Any) -> Any:
    """Dual weights of the first ``n`` of the rows; the others are cut off, so shapes stay fixed."""
    used = (jnp.arange(K.shape[0], dtype=K.dtype) < n).astype(K.dtype)
    masked = K * (used[:, None] * used[None]) + jnp.diag(ridge * used + (1 - used))
    factor = jax.scipy.linalg.cho_factor(masked, lower=True)
    return jax.scipy.linalg.cho_solve(factor, y * used[:, None]), used


def _fresh_errors(
    kernel: Any, sample: Any, top: int, n_test: int, n: Any, key: Any, ridge: Any, noise: Any
) -> Any:
    """Test and training error of one draw of training and test points."""
    keys = jax.random.split(key, 3)
    X, f = sample(keys[0], top)
    Z, g = sample(keys[1], n_test)
    xi = jnp.sqrt(noise) * jax.random.normal(keys[2], (top + n_test, 1), jnp.float64)
    y, target = f[:, None] + xi[:top], g[:, None] + xi[top:]
    gram, cross = kernel(X, X), kernel(Z, X)
    weights, used = _solve(gram, y, n, ridge)
    test = jnp.mean((target - jnp.matmul(cross, weights)) ** 2)
    # the residual at a training point is ridge times its weight
    train = jnp.sum((ridge * weights) ** 2 * used[:, None]) / n
    return jnp.stack([test, train])


def _subset_errors(top: int, n: Any, key: Any, K: Any, y: Any, ridge: Any) -> Any:
    """Test and training error of one random subset."""
    points = K.shape[0]
    order = jax.random.permutation(key, points)
    chosen = order[:top]
    rows = K[chosen]
    weights, used = _solve(rows[:, chosen], y[chosen], n, ridge)
    residual = jnp.sum((y - jnp.matmul(rows.T, weights)) ** 2, axis=1)
    seen = jnp.zeros(points).at[chosen].add(used)
    test = jnp.sum(residual * (1 - seen)) / (points - n)
    train = jnp.sum((ridge * weights) ** 2 * used[:, None]) / n
    return jnp.stack([test, train])
