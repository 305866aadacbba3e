r"""Kernels that need only a Gram matrix, :math:`G \mapsto K(G)`.

Each is one function of two variances and a covariance,
:math:`K(G)_{ij} = k(G_{ii}, G_{ij}, G_{jj})`, which is what makes the processes of all sets of
points consistent with one another: points can be added without changing the others.

Why the diagonal has its own function: there the correlation is 1 exactly, where the derivative of
an arc cosine is infinite; a rounded correlation of 1 - 1e-16 would carry 1e-8 into the gradient.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.typing import Array
from deeplimits.validate import check, number
from ntk.activations import activation_names, dual
from ntk.arccosine import RectifiedMonomial
from ntk.duals import Dual

Entry = Callable[[Any, Any, Any], Any]

#: Names with a meaning of their own; all other names are those of activations.
NAMES = ("rbf", "relu", "linear", "normalized_gaussian", "arccos<order>")


@dataclass(frozen=True)
class GramKernel:
    """A map from Gram matrices to kernel matrices, entry by entry.

    Attributes:
        name: for messages and figures.
        entry: ``k(q11, q12, q22)``, elementwise, for two different points.
        variance: ``k(q, q, q)``, elementwise.
        scale_free: whether it divides by variances, so that a point of variance 0 is refused.
    """

    name: str
    entry: Entry
    variance: Callable[[Any], Any]
    scale_free: bool = False

    def matrix(self, G: Array) -> Array:
        """``K(G)`` of a symmetric ``(n, n)`` Gram matrix, for use inside ``jit``."""
        g = jnp.diagonal(G)
        same = jnp.eye(G.shape[0], dtype=bool)
        off = self.entry(g[:, None], jnp.where(same, 0.0, G), g[None, :])
        return jnp.where(same, self.variance(g)[:, None], off)

    def cross(self, g1: Array, G: Array, g2: Array) -> Array:
        """``(n, m)`` block between points of variances ``g1 (n,)`` and ``g2 (m,)``."""
        return self.entry(g1[:, None], G, g2[None, :])

    def __call__(self, G: Any) -> np.ndarray:
        """``K(G)`` as NumPy float64.

        Raises:
            ShapeError: not a square matrix.
            DomainError: a variance that is negative, or 0 where the kernel divides by it.
        """
        return _host(self, G)


@float64_scope
def _host(kernel: GramKernel, G: Any) -> np.ndarray:
    G = np.asarray(G, np.float64)
    check(
        G.ndim == 2 and G.shape[0] == G.shape[1],
        f"G must be a square Gram matrix, got shape {G.shape}.",
        ShapeError,
    )
    check_variances(kernel, np.diagonal(G), "G")
    return np.asarray(_matrix(kernel, jnp.asarray(G)))


@functools.partial(jax.jit, static_argnums=0)
def _matrix(kernel: GramKernel, G: Any) -> Any:
    return kernel.matrix(G)


def check_variances(kernel: GramKernel, g: np.ndarray, name: str) -> None:
    """Raise :class:`DomainError` for variances on which the kernel is not defined."""
    low = float(np.min(g))
    if low < 0 or (kernel.scale_free and low == 0):
        need = "> 0" if kernel.scale_free else ">= 0"
        raise DomainError(
            f"the diagonal of {name} must be {need} for the kernel {kernel.name!r}, got {low:g} at "
            f"index {int(np.argmin(g))}: the correlations of an input of length 0 are undefined. "
            "Drop that input or add a constant feature."
        )


def _rbf(q1: Any, q12: Any, q2: Any) -> Any:
    return jnp.exp(q12 - 0.5 * (q1 + q2))


def _linear(q1: Any, q12: Any, q2: Any) -> Any:
    return q12 + 0 * (q1 + q2)


def _normalized_gaussian(q1: Any, q12: Any, q2: Any) -> Any:
    scale = jnp.sqrt(q1 * q2)
    return scale * jnp.exp(q12 / scale - 1)


def _dual_kernel(name: str, rule: Dual, weight: float, bias: float, free: bool) -> GramKernel:
    """``bias + weight E[fn fn]``."""

    def entry(q1: Any, q12: Any, q2: Any) -> Any:
        q1, q12, q2 = jnp.broadcast_arrays(q1, q12, q2)
        product = q1 * q2
        scale = jnp.sqrt(jnp.where(product > 0, product, 1.0))
        eps = jnp.where(product > 0, jnp.clip((scale - q12) / scale, 0.0, 2.0), 1.0)
        return bias + weight * rule.kernel(q1, q2, eps)[0]

    def variance(q: Any) -> Any:
        return bias + weight * rule.variance(q)

    return GramKernel(name, entry, variance, free)


@functools.cache
def _named(name: str) -> GramKernel:
    if name == "rbf":
        return GramKernel("rbf", _rbf, jnp.ones_like)
    if name in ("linear", "identity"):
        return GramKernel("linear", _linear, lambda q: q)
    if name == "normalized_gaussian":
        return GramKernel(name, _normalized_gaussian, lambda q: q, scale_free=True)
    if name == "relu":
        return _dual_kernel("relu", dual("relu"), 2.0, 0.0, True)
    if name.startswith("arccos") and name[6:].isdigit():
        power = RectifiedMonomial(int(name[6:]))
        return _dual_kernel(name, power, 1 / float(power.variance(np.float64(1.0))), 0.0, True)
    try:
        rule = dual(name)
    except DomainError as error:
        raise DomainError(
            f"kernel must be one of {', '.join(NAMES)}, an activation, or a callable: {error}"
        ) from None
    return _dual_kernel(name, rule, 1.0, 0.0, False)


@functools.cache
def _of_activation(rule: Dual, W_std: float, b_std: float) -> GramKernel:
    return _dual_kernel(type(rule).__name__.lower(), rule, W_std**2, b_std**2, False)


@functools.lru_cache(maxsize=64)
def _of_callable(function: Callable[..., Any], arguments: int) -> GramKernel:
    name = getattr(function, "__name__", type(function).__name__)
    if arguments == 3:
        entry: Entry = function
    else:

        def pair(q1: Any, q12: Any, q2: Any) -> Any:
            return function(jnp.stack([jnp.stack([q1, q12]), jnp.stack([q12, q2])]))[0, 1]

        def entry(q1: Any, q12: Any, q2: Any) -> Any:
            q1, q12, q2 = jnp.broadcast_arrays(q1, q12, q2)
            flat = jax.vmap(pair)(q1.ravel(), q12.ravel(), q2.ravel())
            return flat.reshape(q12.shape)

    kernel = GramKernel(name, entry, lambda q: entry(q, q, q))
    _check_callable(kernel, function, arguments)
    return kernel


@float64_scope
def _check_callable(kernel: GramKernel, function: Callable[..., Any], arguments: int) -> None:
    """Refuse callables that are no elementwise kernel of a Gram matrix."""
    G = jnp.asarray([[1.0, 0.3, -0.2], [0.3, 0.8, 0.1], [-0.2, 0.1, 1.3]])
    advice = "It must be k(q11, q12, q22), elementwise, or K(G) -> (n, n), written in jax.numpy."
    try:
        K = np.asarray(kernel.matrix(G))
        whole = K if arguments == 3 else np.asarray(function(G))
    except (TypeError, ValueError, IndexError) as error:
        raise DomainError(
            f"kernel {kernel.name!r} fails on a Gram matrix: {error}. {advice}"
        ) from None
    if K.shape != (3, 3) or whole.shape != (3, 3) or not np.isfinite(K).all():
        raise DomainError(f"kernel {kernel.name!r} returns no finite (3, 3) matrix. {advice}")
    if np.abs(K - K.T).max() > 1e-9 or np.abs(K - whole).max() > 1e-9:
        raise DomainError(
            f"kernel {kernel.name!r} is not symmetric, or its entry (i, j) depends on other points "
            f"than i and j, so that no process has it. {advice}"
        )


def gram_kernel(kernel: Any = "rbf", *, W_std: float = 1.0, b_std: float = 0.0) -> GramKernel:
    r"""A kernel that needs only the Gram matrix of its inputs.

    .. math::

        \text{rbf: } e^{-(G_{ii} + G_{jj} - 2 G_{ij})/2}, \quad
        \text{relu: } 2 E[u_+ v_+], \quad \text{linear: } G_{ij}, \quad
        \text{normalized\_gaussian: } \sqrt{G_{ii} G_{jj}}\, e^{\rho_{ij} - 1}

    with :math:`(u, v)` Gaussian of covariance G. ``"arccos<n>"`` is the arc-cosine kernel of order
    n, scaled so that :math:`K_{ii} = G_{ii}^n` (``"relu"`` is order 1). Any other activation
    :math:`\varphi` gives :math:`K_{ij} = \sigma_b^2 + \sigma_W^2 E[\varphi(u) \varphi(v)]`.

    Args:
        kernel: a name (see above, or :func:`ntk.activation_names`), an activation from
            :func:`ntk.dual`, an elementwise function ``k(q11, q12, q22)`` of two variances and a
            covariance, a function ``K(G)`` of the whole matrix, or a :class:`GramKernel`.
        W_std: for activations from :func:`ntk.dual` only, > 0. Default 1.
        b_std: for activations from :func:`ntk.dual` only, >= 0. Default 0.

    Raises:
        DomainError: an unknown name, a function that is no such kernel, or ``W_std``, ``b_std``
            given for something else than an activation from :func:`ntk.dual`.

    Source: arXiv:2108.13097, section 3; arc-cosine kernels: Cho and Saul (2009).
    Check: test_dkm_kernels.py::test_kernels_are_gaussian_averages.
    """
    number(W_std, "W_std", above=0)
    number(b_std, "b_std", at_least=0)
    if isinstance(kernel, Dual):
        return _of_activation(kernel, float(W_std), float(b_std))
    check(
        W_std == 1 and b_std == 0,
        "W_std and b_std belong to activations: pass kernel=ntk.dual(name).",
        DomainError,
    )
    if isinstance(kernel, GramKernel):
        return kernel
    if isinstance(kernel, str):
        return _named(kernel.lower())
    if not callable(kernel):
        raise DomainError(
            f"kernel must be a name, an activation or a callable, got {type(kernel).__name__}. "
            f"Names: {', '.join((*NAMES, *activation_names()))}."
        )
    return _of_callable(kernel, _required_arguments(kernel))


def _required_arguments(function: Callable[..., Any]) -> int:
    """1 for ``K(G)``, 3 for ``k(q11, q12, q22)``."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return 3
    required = [
        p for p in parameters
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]  # fmt: skip
    if len(required) not in (1, 3):
        raise DomainError(
            f"kernel must take one argument (a Gram matrix) or three (q11, q12, q22), but "
            f"{getattr(function, '__name__', function)!r} takes {len(required)}."
        )
    return len(required)
