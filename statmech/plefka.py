"""Naive mean-field (first-order Plefka) magnetisations of dense networks."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_real, finite, integer, number
from statmech.dense_mc import DenseCoupling
from statmech.dense_mc_parts import RealParts


@register_dataclass
@dataclasses.dataclass(frozen=True)
class MeanField:
    """Magnetisations ``m`` ``(N, B)`` or ``(N,)``, largest last change, whether it is small."""

    m: Any
    residual: float
    converged: bool


@float64_scope
def plefka(
    coupling: DenseCoupling,
    start: ArrayLike,
    *,
    T: float,
    steps: int = 1000,
    damping: float = 0.5,
) -> MeanField:
    r"""Iterate the naive mean-field equations of a dense network, for comparison with Monte Carlo.

    .. math:: m_i = \tanh \beta h_i(m), \qquad h_i = -\partial H(m) / \partial m_i,

    the Plefka expansion cut after its first order. **An approximation**: the reaction term is left
    out, which costs an error of second order in the couplings over T, and at high load the wrong
    spin-glass noise. :func:`statmech.simulate` is exact at a similar cost: arXiv:2212.00606 and
    arXiv:2211.14067 put an approximation of Plefka's into Monte Carlo, to evaluate the tensor of
    couplings faster; here the tensor is never formed, and this is not their scheme.

    Args:
        coupling: :func:`statmech.dense_coupling` with distinct indices, one disorder sample.
        start: magnetisations in [-1, 1], ``(N,)`` or ``(N, B)``: which solution is found.
        T: temperature > 0.
        steps: iterations, >= 1, default 1000.
        damping: share of the old magnetisation in [0, 1), default 1/2.

    Returns:
        :class:`MeanField`; ``converged`` if the last residual is below 1e-10.

    Raises:
        DomainError: arguments out of range; full sums (not linear in each m); several samples.
        ShapeError: start of the wrong shape.

    Source: T. Plefka, J. Phys. A 15, 1971 (1982), first order.

    Check: ``tests/statmech/test_plefka.py::test_error_is_of_second_order``
    """
    number(T, "T", above=0)
    integer(steps, "steps", at_least=1)
    number(damping, "damping", at_least=0, below=1)
    if coupling.index != "distinct" or coupling.samples is not None:
        raise DomainError("plefka needs a coupling with distinct indices and one disorder sample.")
    m = np.asarray(as_real(start, "start"), np.float64)
    if m.ndim not in (1, 2) or m.shape[0] != coupling.N:
        raise ShapeError(f"start must have shape ({coupling.N},) or (N, B), got {m.shape}.")
    finite(m, "start")
    if np.abs(m).max() > 1:
        raise DomainError("start must lie in [-1, 1].")
    columns = jnp.asarray(m.reshape(coupling.N, -1))
    stored, field = (jnp.asarray(x, jnp.float64) for x in (coupling.stored, coupling.field))
    out, residual = _iterate(
        stored, field, columns, 1.0 / T, damping, steps, coupling.scale, coupling.P
    )
    gap = float(residual)
    return MeanField(np.asarray(out).reshape(m.shape), gap, gap < 1e-10)


@functools.partial(jax.jit, static_argnames=("scale", "P"))
def _iterate(
    x: Any, field: Any, m: Any, beta: Any, damping: Any, steps: Any, scale: float, P: int
) -> Any:
    parts = RealParts(x, field, scale, P, "distinct")
    sites = jnp.arange(x.shape[-1])

    def target(m: Any) -> Any:
        memory = parts.memory(m)
        fields = jax.lax.map(lambda i: parts.field(i, m[i], memory)[0], sites)
        return jnp.tanh(beta * parts.unit * fields)

    def step(_: Any, m: Any) -> Any:
        return damping * m + (1 - damping) * target(m)

    m = jax.lax.fori_loop(0, steps, step, m)
    return m, jnp.max(jnp.abs(target(m) - m))
