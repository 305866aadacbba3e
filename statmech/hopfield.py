r"""The Hopfield network: replica-symmetric states, by branch, at any load and temperature.

.. math:: H = -\frac{1}{2N} \sum_{\mu=1}^{\alpha N} \sum_{i \ne j}
              \xi_i^\mu \xi_j^\mu \sigma_i \sigma_j

Lines are in :mod:`statmech.hopfield_lines`, the diagram in :mod:`statmech.hopfield_diagram`,
states of few patterns in :mod:`statmech.hopfield_mixtures`.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope, require_x64
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_real, choice, finite, is_traced
from statmech import hopfield_saddle as saddle
from statmech.hopfield_averages import field_averages

BRANCHES = ("retrieval", "unstable", "spin_glass", "paramagnet")


@register_dataclass
@dataclasses.dataclass(frozen=True)
class HopfieldState:
    r"""A replica-symmetric state; every field has the shape of the broadcast ``alpha`` and ``T``.

    Attributes:
        alpha, T: load and temperature.
        m: overlap with the retrieved pattern.
        q: Edwards-Anderson order parameter.
        r: power of the noise of the other patterns, divided by alpha.
        C: susceptibility :math:`(1 - q)/T`.
        f: free energy per spin.
        U: energy per spin.
        replicon: eigenvalue :math:`1 - \beta^2 \alpha r q^{-1} \int Dz\,\mathrm{sech}^4`; negative
            where replica symmetry is broken (minus infinity in frozen states at T = 0).
        locally_stable: a minimum within replica symmetry: an initial state nearby stays there.
        stable: ``locally_stable``, and the replicon is positive.
        residual: largest violation of the equations for m and for the noise.
        exists: False where the branch has no solution; the other fields are NaN there.
        branch: its name.
    """

    alpha: Any
    T: Any
    m: Any
    q: Any
    r: Any
    C: Any
    f: Any
    U: Any
    replicon: Any
    locally_stable: Any
    stable: Any
    residual: Any
    exists: Any
    branch: str = dataclasses.field(metadata={"static": True})


def hopfield(alpha: ArrayLike, T: ArrayLike, branch: str = "retrieval") -> HopfieldState:
    r"""Order parameters, energies and stability of one branch of the Hopfield network.

    .. math:: m = \int Dz \tanh\beta(m + \sqrt{\alpha r} z), \quad
              q = \int Dz \tanh^2 \beta(m + \sqrt{\alpha r} z), \quad
              r = \frac{q}{(1 - \beta(1 - q))^2}

    .. math:: f = \frac{\alpha + m^2}{2} + \frac{\alpha}{2\beta} \Big[\ln(1 - C)
              - \frac{\beta q}{1 - C}\Big] + \frac{\alpha\beta r (1 - q)}{2}
              - \frac1\beta \int Dz \ln 2\cosh\beta(m + \sqrt{\alpha r} z)

    Args:
        alpha: load, patterns per spin, >= 0, any shape.
        T: temperature, >= 0, broadcast with alpha. T = 0 is the exact limit.
        branch: ``"retrieval"`` (the stable solution with m > 0, up to the spinodal),
            ``"unstable"`` (the other solution with m > 0, the barrier of retrieval; for alpha > 0),
            ``"spin_glass"`` (m = 0 < q, below 1 + sqrt(alpha), for alpha > 0) or ``"paramagnet"``
            (m = q = 0, above T = 1; unstable below 1 + sqrt(alpha)).

    Returns:
        :class:`HopfieldState`. NaN and ``exists=False`` where the branch does not exist: never
        another branch in its place. Inside ``jit``, ``vmap`` and ``grad`` the fields are JAX
        arrays, with derivatives by the implicit function theorem; otherwise NumPy float64.

    Raises:
        DomainError: alpha < 0, T < 0, NaN or infinite, or an unknown branch.
        ShapeError: alpha and T do not broadcast.
        PrecisionError: inside a transformation, in float32.

    Source: D. J. Amit, H. Gutfreund and H. Sompolinsky, Ann. Phys. 173, 30 (1987) [amit1987],
        sections 3 to 5; solved in the parametrisation of :mod:`statmech.hopfield_saddle`.

    Check: ``tests/statmech/test_hopfield.py``
    """
    choice(branch, "branch", BRANCHES)
    load, temperature = at_least_zero(alpha, "alpha"), at_least_zero(T, "T")
    try:
        shape = np.broadcast_shapes(np.shape(load), np.shape(temperature))
    except ValueError as error:
        raise ShapeError(
            f"alpha and T must broadcast, got shapes {np.shape(load)} and {np.shape(temperature)}."
        ) from error
    if is_traced(load) or is_traced(temperature):
        require_x64("hopfield inside a transformation")
        load, temperature = (
            jnp.ravel(jnp.broadcast_to(jnp.asarray(v, jnp.float64), shape))
            for v in (load, temperature)
        )
        rows, index = temperature, np.arange(temperature.size)
        state = _state(load, temperature, rows, jnp.asarray(index), branch)
        return jax.tree.map(lambda leaf: leaf.reshape(shape), state)
    return _concrete(load, temperature, shape, branch)


@float64_scope
def _concrete(alpha: Any, T: Any, shape: tuple[int, ...], branch: str) -> HopfieldState:
    """Numbers instead of tracers: curves are shared by points of equal temperature."""
    load, temperature = (np.broadcast_to(np.asarray(v, np.float64), shape) for v in (alpha, T))
    rows, index = np.unique(temperature.ravel(), return_inverse=True)
    n = load.size
    state = _state(
        *(padded(v) for v in (load.ravel(), temperature.ravel(), rows, index.ravel())), branch
    )
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:n].reshape(shape)[()], state)


def padded(values: Any) -> jax.Array:
    """Repeat the last entry up to 64 or a higher power of two: few programs are compiled."""
    size = 1 << max(int(np.ceil(np.log2(max(len(values), 1)))), 6)
    return jnp.asarray(np.pad(values, (0, size - len(values)), mode="edge"))


def at_least_zero(value: Any, name: str) -> Any:
    """Real numbers >= 0; tracers pass.

    Raises:
        DomainError: negative, NaN or infinite.
    """
    value = as_real(value, name)
    finite(value, name)
    if not is_traced(value):
        if np.size(value) == 0:
            raise ShapeError(f"{name} must not be empty, got shape {np.shape(value)}.")
        if np.min(value) < 0:
            raise DomainError(f"{name} must be >= 0, got {np.min(value):g}.")
    return value


@partial(jax.jit, static_argnames="branch")
def _state(alpha: Any, T: Any, rows: Any, index: Any, branch: str) -> HopfieldState:
    if branch in ("retrieval", "unstable"):
        table = saddle.rows(rows)
        stable = branch == "retrieval"

        def one(alpha: Any, T: Any, index: Any) -> HopfieldState:
            found = saddle.retrieval(alpha, T, table, index, stable=stable)
            return describe(alpha, T, *found, branch)

        return saddle.in_chunks(one, alpha, T, index)
    if branch == "spin_glass":
        return saddle.in_chunks(
            lambda alpha, T: describe(alpha, T, 0 * T, saddle.glass(alpha, T), branch), alpha, T
        )
    return paramagnet(alpha, T)


def describe(alpha: Any, T: Any, m: Any, a: Any, branch: str) -> HopfieldState:
    """The record of the state with overlap m and noise a; NaN where a is."""
    g = field_averages(m, a, T)
    exists = ~jnp.isnan(a)
    m = jnp.where(exists, m, jnp.nan)
    D = 1 - g.C
    r = g.q / D**2
    # in frozen states T = 0: beta^2 a^2 sech4 = a^2 S / T with S > 0 (0 without noise)
    ratio = a**2 * g.sech4 / g.q
    replicon = 1 - jnp.where(ratio > 0, ratio / jnp.where(T > 0, T, 0.0), 0.0) + 0 * a
    residual = jnp.maximum(jnp.abs(g.tanh - m), jnp.abs(a - jnp.sqrt(alpha * g.q) / D))
    # but for one, branches are solved where their Hessian within replica symmetry is positive
    stable = exists & (D > 0) & (branch != "unstable")
    return HopfieldState(
        alpha=alpha,
        T=T,
        m=m,
        q=g.q,
        r=r,
        C=g.C,
        f=saddle.free_energy(alpha, T, m, a, g),
        U=saddle.internal_energy(alpha, m, a, g),
        replicon=replicon,
        locally_stable=stable,
        stable=stable & (replicon > 0),
        residual=residual,
        exists=exists,
        branch=branch,
    )


def paramagnet(alpha: Any, T: Any) -> HopfieldState:
    """The solution m = q = 0, for T > 1."""
    exists = T > 1
    nan = jnp.where(exists, 0.0, jnp.nan)
    t = jnp.where(exists, T, 2.0)
    f = alpha / 2 + alpha * t / 2 * jnp.log1p(-1 / t) - t * np.log(2.0)
    replicon = 1 - alpha / (t - 1) ** 2 + nan
    stable = exists & (replicon > 0)
    zero = nan + 0 * alpha
    return HopfieldState(
        alpha=alpha,
        T=T,
        m=zero,
        q=zero,
        r=zero,
        C=1 / t + zero,
        f=f + nan,
        U=-alpha / (2 * (t - 1)) + nan,
        replicon=replicon,
        locally_stable=stable,
        stable=stable,
        residual=zero,
        exists=exists,
        branch="paramagnet",
    )
