r"""Networks of finite width at first order in 1/width: ``ntk.finite_width``.

For :math:`z^{1} = b + W x`, :math:`z^{l+1} = b + W \sigma(z^{l})` with Gaussian weights, the law of
the preactivations and of the tangent kernel is known in the limit of infinite width. This module
gives the first corrections: non-Gaussianity, scatter and mean shift of both kernels, and the change
of the tangent kernel under gradient descent (its first two derivatives in time).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any
from warnings import warn

import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DeepLimitsWarning, DomainError, ShapeError, UnsupportedLayerError
from deeplimits.precision import float64_scope
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_inputs, choice, integer, is_traced, number
from ntk.activations import dual as dual_of
from ntk.duals import Dual
from ntk.finite_width_record import FiniteWidth
from ntk.finite_width_run import (
    NODES,
    Problem,
    assemble,
    first_kernels,
    groups_of,
    rectified,
    run_groups,
    solve,
)
from ntk.finite_width_tensors import ORDERS, Constants
from ntk.gaussian_moments import stein_defect


@float64_scope
def finite_width(
    activation: Any,
    *,
    C_b: Any,
    C_W: Any,
    widths: Sequence[int],
    x: ArrayLike,
    order: str = "NTK",
    lambda_b: Any = None,
    lambda_W: Any = None,
    closure: str = "auto",
    nodes: int | None = None,
) -> FiniteWidth:
    r"""All statistics of a random network of finite width at order 1/width.

    .. math:: V' = C_W^2\, \mathrm{Cov}(\sigma_1\sigma_2, \sigma_3\sigma_4)
       + \tfrac{n_l}{n_{l-1}}\, J_{12} V J_{34}, \qquad
       J_{12}[ab] = \partial G'_{12} / \partial G_{ab},

    and likewise for the other tensors (:mod:`ntk.finite_width_tensors`), from layer to layer. No
    inverse of G is formed: coincident, parallel and zero inputs are allowed.

    Args:
        activation: name, dual or function. Smooth (five derivatives), or of the family
            ``a min(z, 0) + b max(z, 0)`` (ReLU, leaky ReLU, abs), for which averages of
            :math:`\sigma''` count the delta function at the kink.
        C_b: variance of the biases, >= 0.
        C_W: variance of the weights times the fan-in, > 0.
        widths: hidden widths n_1, n_2, ..., integers >= 1. The output layer is L = len(widths) + 1.
        x: inputs ``(M, n_0)``.
        order: "V" (G, G1, V), "NTK" (also Theta, Theta1, A, B, D, F; default), "dNTK" (P, Q) or
            "ddNTK" (R, S, T, U).
        lambda_b: learning rate of the biases, >= 0; a number or one per layer. Default C_b.
        lambda_W: learning rate of the weights times the fan-in, likewise. Default C_W; these
            defaults give the NTK of the parameterisation of neural-tangents.
        closure: "pairs": all problems of two inputs, enough for means and variances of all kernel
            entries. "full": all four-index components, by grids in up to four dimensions (smooth
            activations only if M > 2; seconds per group of four inputs). Default "auto": "full" for
            M <= 2, else "pairs".
        nodes: per axis of the grid; default refined until the relative error is 1e-9 (three or
            four inputs: 1e-6).

    Returns:
        :class:`FiniteWidth`, in NumPy arrays, or in JAX arrays if an argument is traced:
        differentiable in C_b, C_W, x and the learning rates where the activation is smooth.

    Raises:
        DomainError: an argument out of its range.
        ShapeError: inputs not ``(M, n_0)``, or a wrong number of learning rates.
        UnsupportedLayerError: the activation has other kinks, or the tensor asked for diverges.
        ConvergenceError: the averages do not converge: the variance is too large for the grid.

    Warns:
        DeepLimitsWarning: the sum of 1/width exceeds 0.3, or the excess kurtosis exceeds 1.

    Source:
        [roberts2022], chapters 4, 8, 11; derivative form derived here.
        Check: ``tests/ntk/test_finite_width.py``.
    """
    dual = _checked(dual_of(activation), choice(order, "order", ORDERS))
    x = as_inputs(x)
    if x.ndim != 2:
        raise ShapeError(f"x must have shape (M, n_0), got {x.shape}.")
    x = jnp.asarray(x).astype(jnp.float64)
    sizes = _widths(widths)
    C_b = jnp.asarray(number(C_b, "C_b", at_least=0)).astype(jnp.float64)
    C_W = jnp.asarray(number(C_W, "C_W", above=0)).astype(jnp.float64)
    rate_b = _rates(C_b if lambda_b is None else lambda_b, "lambda_b", len(sizes) + 1)
    rate_W = _rates(C_W if lambda_W is None else lambda_W, "lambda_W", len(sizes) + 1)
    closure = choice(closure, "closure", ("auto", "pairs", "full"))
    if closure == "auto" or len(x) == 1:
        closure = "full" if len(x) <= 2 else "pairs"
    if closure == "full" and len(x) > 2 and rectified(dual):
        raise UnsupportedLayerError(
            "closure='full' needs averages over three or four inputs, which have no closed form "
            "for an activation with a kink. Use closure='pairs' or a smooth activation."
        )
    if nodes is not None:
        nodes = integer(nodes, "nodes", at_least=8)
    previous = np.array([np.inf, *sizes[:-1]])
    steps = jnp.ones(len(sizes))
    constants = Constants(
        C_b * steps, C_W * steps, rate_b[1:], rate_W[1:], jnp.asarray(np.array(sizes) / previous)
    )
    kernels = first_kernels(x, C_b, C_W, rate_b[0], rate_W[0])
    problem = Problem(dual, *kernels, constants, order)
    groups = groups_of(len(x), 2 if closure == "pairs" else 4)
    if any(is_traced(a) for a in (*kernels, C_b, C_W, rate_b, rate_W)):
        m = groups.shape[1]
        tensors = run_groups(problem, groups, nodes or NODES[m][len(NODES[m]) // 3], 0.0)[0]
        error = math.nan  # one object, so that records compare equal as trees
    else:
        tensors, error = solve(problem, groups, nodes)
        rate_b, rate_W = np.asarray(rate_b), np.asarray(rate_W)
        C_b, C_W = float(C_b), float(C_W)
        _check_smooth(dual, tensors.G)
    tensors = assemble(tensors, groups, len(x), closure == "full")
    record = FiniteWidth(tensors, C_b, C_W, rate_b, rate_W, sizes, order, closure, error)
    _warn(record)
    return record


def _widths(widths: Any) -> tuple[int, ...]:
    if isinstance(widths, str) or not hasattr(widths, "__len__") or len(widths) == 0:
        raise DomainError(f"widths must list one hidden width or more, got {widths!r}.")
    return tuple(integer(n, f"widths[{i}]", at_least=1) for i, n in enumerate(widths))


def _rates(value: Any, name: str, layers: int) -> Any:
    """Learning rates as ``(layers,)``."""
    if np.isscalar(value) or getattr(value, "ndim", None) == 0:
        value = jnp.asarray(number(value, name, at_least=0)).astype(jnp.float64)
        return jnp.broadcast_to(value, (layers,))
    rates = jnp.asarray(value).astype(jnp.float64)
    if rates.shape != (layers,):
        raise ShapeError(
            f"{name} must be one number or {layers} (one per layer), got shape {rates.shape}."
        )
    if not is_traced(rates):
        for i, rate in enumerate(np.asarray(rates)):
            number(float(rate), f"{name}[{i}]", at_least=0)
    return rates


def _checked(dual: Dual, order: str) -> Dual:
    name = type(dual).__name__
    if rectified(dual):
        if order == "ddNTK":
            raise UnsupportedLayerError(
                f"order='ddNTK' contains E[s'' s''], which diverges at coincident inputs for "
                f"{name} because of its kink. Use order='dNTK' or a smooth activation."
            )
        return dual
    if dual.kinks or not dual.differentiable:
        raise UnsupportedLayerError(
            f"finite_width supports smooth activations and a min(z, 0) + b max(z, 0); {name} has "
            f"kinks at {dual.kinks}. Use a smooth version, or Monte Carlo."
        )
    return dual


def _check_smooth(dual: Dual, G: np.ndarray) -> None:
    """Refuse kinks that were not declared: their delta functions would be missing."""
    if rectified(dual):
        return
    q = np.diagonal(G, axis1=-2, axis2=-1)
    defect = max(stein_defect(dual, float(v)) for v in {q.max(), q[q > 0].min(initial=q.max())})
    # 1e-6 is far above rounding (1e-13) and far below a kink in any of five derivatives (1e-3)
    if not defect < 1e-6:
        raise UnsupportedLayerError(
            f"The activation {type(dual).__name__} does not have five continuous derivatives (its "
            f"averages violate Stein's identity by {defect:.1e}), so first-order corrections from "
            "automatic differentiation would be wrong. Declare kinks, or use a smooth activation."
        )


def _warn(record: FiniteWidth) -> None:
    if is_traced(record.layers.G):
        return
    kurtosis = np.asarray(record.kurtosis)
    worst = float(np.max(np.abs(kurtosis[np.isfinite(kurtosis)]), initial=0.0))
    if record.aspect_ratio > 0.3 or worst > 1:
        warn(
            f"The expansion in 1/width is not small: sum of 1/width = {record.aspect_ratio:.2g}, "
            f"excess kurtosis {worst:.2g}. Second-order terms matter; compare with Monte Carlo or, "
            "for piecewise-linear homogeneous activations, exact_homogeneous.",
            DeepLimitsWarning,
            stacklevel=4,
        )
