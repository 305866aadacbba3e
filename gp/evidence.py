"""Log evidence of a Gaussian process, as a differentiable function and over a grid of kernels."""

from __future__ import annotations

from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr

from deeplimits.errors import NotPositiveDefiniteError, ShapeError
from deeplimits.precision import float64_scope, require_x64
from deeplimits.validate import as_square, as_targets, check, number
from gp.linalg import check_matrix, factorize
from gp.predictive import LOG_2PI, as_noise, gaussian_log_density, whiten


def log_evidence(K: Any, y: Any, noise: Any) -> jax.Array:
    r"""Log marginal likelihood as a differentiable JAX function (float64, jit, grad, vmap).

    .. math:: -\tfrac12 y^\top K_n^{-1} y - \tfrac12 \log\det K_n - \tfrac n2 \log 2\pi,
        \qquad K_n = K + \mathrm{diag}(\mathrm{noise})

    No jitter is added. Where :math:`K_n` is not positive definite the value is NaN, because no
    error can be raised inside ``jit``.

    Args:
        K: symmetric kernel matrix ``(n, n)``.
        y: targets ``(n,)`` or ``(n, C)``; outputs add up.
        noise: variance, scalar or ``(n,)``, >= 0.

    Returns:
        A float64 scalar, in nats.

    Raises:
        PrecisionError: x64 is off.
        ShapeError, DomainError: concrete arguments of the wrong shape, sign or symmetry.

    Source: Rasmussen and Williams (2006), eq. (2.30).
    Check: test_evidence.py::test_log_evidence_gradients.
    """
    require_x64("gp.log_evidence")
    K = as_square(K)
    n = K.shape[0]
    y = jnp.asarray(as_targets(y, n)).astype(jnp.float64)
    noise = jnp.broadcast_to(jnp.asarray(as_noise(noise, n)).astype(jnp.float64), (n,))
    chol = jnp.linalg.cholesky(jnp.asarray(K).astype(jnp.float64) + jnp.diag(noise))
    white = jax.scipy.linalg.solve_triangular(chol, y, lower=True)
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(chol)))
    return -0.5 * (jnp.sum(white**2) + y.shape[1] * (log_det + n * LOG_2PI))


@float64_scope
def log_evidence_grid(gram: Any, y: Any, *, noise: float, **axes: Any) -> xr.Dataset:
    """Log evidence over a grid of kernel hyper-parameters.

    Example: ``kernel = jax.jit(lambda X, W_std, b_std: ntk.mlp(2, "erf", W_std=W_std,
    b_std=b_std).nngp(X))``, then ``log_evidence_grid(functools.partial(kernel, X), y, noise=0.05,
    W_std=np.linspace(1, 2, 9), b_std=np.linspace(0, 1, 9))``; the kernel is compiled once for the
    whole grid (``X`` is an argument, or it would be compiled in as a constant).

    Args:
        gram: callable of the hyper-parameters (keywords, floats) that returns the ``(n, n)`` kernel
            matrix of the training inputs.
        y: targets ``(n,)`` or ``(n, C)``.
        noise: noise variance, >= 0.
        axes: one non-empty 1-D array per hyper-parameter.

    Returns:
        Dataset with variables ``log_evidence`` (nats; NaN where the matrix is not positive
        definite) and ``jitter`` (what had to be added to the diagonal) over the axes, in order.

    Raises:
        ShapeError, DomainError: bad targets, noise, axes or kernel matrix.
    """
    number(noise, "noise", at_least=0)
    targets = np.asarray(as_targets(y, len(y) if hasattr(y, "__len__") else 0), np.float64)
    grids = {name: np.asarray(values, np.float64) for name, values in axes.items()}
    bad = [name for name, grid in grids.items() if grid.ndim != 1 or grid.size == 0]
    check(
        bool(grids) and not bad,
        f"give every hyper-parameter as a non-empty 1-D array; missing or wrong: {bad or 'all'}.",
        ShapeError,
    )
    n = len(targets)
    points = []
    for point in product(*grids.values()):
        value = gram(**dict(zip(grids, map(float, point), strict=True)))
        matrix, dtype = check_matrix(value, (n, n), symmetric=True)
        points.append(_evidence_point(matrix, targets, noise, dtype))
    shape = tuple(len(grid) for grid in grids.values())
    table = np.array(points).reshape(*shape, 2)
    names = tuple(grids)
    return xr.Dataset(
        {"log_evidence": (names, table[..., 0]), "jitter": (names, table[..., 1])}, coords=grids
    )


def _evidence_point(matrix: np.ndarray, y: np.ndarray, noise: float, dtype: Any) -> tuple:
    try:
        factor = factorize(matrix, noise, name="the training covariance", dtype=dtype)
    except NotPositiveDefiniteError:
        return np.nan, np.nan
    return gaussian_log_density(factor.chol, whiten(factor.chol, y)), factor.jitter
