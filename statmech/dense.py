r"""Dense (P-body) Hebbian networks, and learning from noisy examples: replica-symmetric states.

.. math:: H = -c\,\frac{P!}{N^{P-1}} \sum_{\mu=1}^{\alpha N^{P-1}} \sum_{i_1 < \dots < i_P}
              \hat x^\mu_{i_1} \cdots \hat x^\mu_{i_P}\, \sigma_{i_1} \cdots \sigma_{i_P}

with :math:`\hat x = \xi` for perfect patterns. Capacities and learning thresholds at T = 0 are in
:mod:`statmech.dense_capacity`, lines in :mod:`statmech.dense_lines`, the diagram in
:mod:`statmech.dense_diagram`.
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
from deeplimits.validate import choice, is_traced, number
from statmech import dense_saddle as saddle
from statmech.dense_averages import in_chunks, response
from statmech.dense_glass import glass_overlap, one_step_glass, ordinary_overlap
from statmech.dense_noise import INDEX, check_bodies, chord, curvature, padded_kernel
from statmech.examples import PERFECT, Examples
from statmech.hopfield import at_least_zero

BRANCHES = ("retrieval", "unstable", "spin_glass", "paramagnet")


@register_dataclass
@dataclasses.dataclass(frozen=True)
class DenseState:
    r"""A replica-symmetric state; every field has the shape of the broadcast ``alpha`` and ``T``.

    Attributes:
        alpha, T: load :math:`K/N^{P-1}` and temperature.
        Mhat: overlap with the average example, :math:`N^{-1} \sum \hat x \sigma`.
        m: overlap with the archetype.
        nhat: :math:`\hat M \sqrt{1 + \rho}`, the overlap with the examples divided by r.
        q: Edwards-Anderson order parameter (inside a state, where replica symmetry is broken).
        f, U: free energy and energy per spin.
        replicon: :math:`1 - \beta^2 \alpha c^2 \kappa k''(q) E\,\mathrm{sech}^4`; negative where
            replica symmetry is broken (minus infinity in frozen states at T = 0).
        locally_stable: a minimum within replica symmetry.
        stable: ``locally_stable``, and the replicon is positive.
        residual: largest violation of the equations for the overlap and for the noise.
        exists: False where the branch has no solution; the other fields are NaN there.
        branch: its name.
    """

    alpha: Any
    T: Any
    Mhat: Any
    m: Any
    nhat: Any
    q: Any
    f: Any
    U: Any
    replicon: Any
    locally_stable: Any
    stable: Any
    residual: Any
    exists: Any
    branch: str = dataclasses.field(metadata={"static": True})


def dense_hebbian(
    P: int,
    alpha: ArrayLike,
    T: ArrayLike,
    *,
    c: float = 0.5,
    index: str = "distinct",
    examples: Examples | None = None,
    branch: str = "retrieval",
) -> DenseState:
    r"""Order parameters, energies and stability of one branch of a dense Hebbian network.

    .. math:: \hat M = E\,\hat x \tanh\beta(c P \hat x \hat M^{P-1} + \sqrt V z), \quad
              q = E \tanh^2, \quad m = E\,\xi\tanh, \quad V = \alpha c^2 \kappa\, k'(q)

    .. math:: f = c(P-1) \hat M^P - \tfrac12 \beta\alpha c^2\kappa\,[k(1) - k(q)]
              + \tfrac12 \beta V (1 - q) - T\,E \ln 2\cosh

    k is :func:`noise_kernel` and :math:`\kappa` = 1, or
    :math:`(1 + \rho_P)/(1 + \rho)^P` for unsupervised learning. For P = 2 with examples patterns
    react to the noise and V is :math:`4 c^2 \alpha \tilde r`,

    .. math:: \tilde r = \frac{q}{(1 - C)^2} + \frac{(M - 1) \ell^2 q}{(1 - \ell C)^2}, \quad
              C = 2c\beta (1 - q), \quad \ell = \frac{\rho}{1 + \rho}

    (supervised: the first term alone).

    Args:
        P: number of spins in an interaction, 2 to 20. P = 2 without examples is
            :func:`statmech.hopfield`, and refused here.
        alpha: load, K = alpha N^(P-1), >= 0, any shape.
        T: temperature, >= 0, broadcast with alpha. T = 0 is the exact limit.
        c: prefactor of the energy, > 0, default 1/2.
        index: ``"distinct"`` indices (default) or ``"full"`` sums, see :func:`noise_kernel`.
        examples: :class:`Examples`, default perfect patterns.
        branch: ``"retrieval"`` (up to the spinodal), ``"unstable"`` (the other solution with an
            overlap, the barrier of retrieval), ``"paramagnet"`` (no overlap; q = 0, except for odd
            P with full sums, where coincident indices act as random fields) or ``"spin_glass"``
            (distinct: one-step replica-symmetry breaking, below the static transition of the P-spin
            glass; full, even P: q > 0 with replica symmetry, which is an approximation there).

    Returns:
        :class:`DenseState`. NaN and ``exists=False`` where the branch does not exist: never
        another branch in its place. Inside ``jit``, ``vmap`` and ``grad`` retrieval branches are
        JAX arrays with derivatives by the implicit function theorem; otherwise NumPy float64.

    Raises:
        DomainError: a parameter out of range; P = 2 without examples, with full sums, or for the
            spin glass; the spin glass with full sums and odd P.
        ShapeError: alpha and T do not broadcast.
        PrecisionError: inside a transformation, in float32.

    Source: arXiv:2212.00606 (supervised), arXiv:2211.14067 (unsupervised), E. Gardner, J. Phys. A
        20, 3453 (1987) (perfect patterns); finite M, full sums and P = 2 unsupervised: derived
        here. In the first two papers P is even and the load is written with other constants.

    Check: ``tests/statmech/test_dense.py``
    """
    check_bodies(P)
    c = float(number(c, "c", above=0.0))
    choice(index, "index", INDEX)
    choice(branch, "branch", BRANCHES)
    _check_case(P, index, examples, branch)
    load, temperature = at_least_zero(alpha, "alpha"), at_least_zero(T, "T")
    try:
        shape = np.broadcast_shapes(np.shape(load), np.shape(temperature))
    except ValueError as error:
        raise ShapeError(
            f"alpha and T must broadcast, got shapes {np.shape(load)} and {np.shape(temperature)}."
        ) from error
    if is_traced(load) or is_traced(temperature):
        require_x64("dense_hebbian inside a transformation")
        return _traced(P, load, temperature, shape, c, index, examples, branch)
    return _concrete(P, load, temperature, shape, c, index, examples, branch)


def _check_case(P: int, index: str, examples: Any, branch: str) -> None:
    if examples is not None and not isinstance(examples, Examples):
        raise DomainError(f"examples must be statmech.Examples or None, got {examples!r}.")
    if P == 2 and examples is None:
        raise DomainError(
            "P = 2 without examples is the Hopfield network: use statmech.hopfield(alpha, T) "
            "(c = 1/2; T scales with 2c)."
        )
    if P == 2 and index == "full":
        raise DomainError("index must be 'distinct' for P = 2: equal indices are a constant there.")
    if P == 2 and branch == "spin_glass":
        raise DomainError("branch='spin_glass' needs P >= 3; for P = 2 see statmech.hopfield.")
    if branch == "spin_glass" and index == "full" and P % 2 == 1:
        raise DomainError(
            "with index='full' and odd P there is no separate spin glass: q > 0 at every T. "
            "Use branch='paramagnet'."
        )
    if P == 2 and examples is not None and np.isinf(examples.M) and not examples.supervised:
        raise DomainError("unsupervised P = 2 needs finite M: Examples(M, r, supervised=False).")


def build(P: int, index: str, examples: Examples | None) -> tuple[saddle.Model, float]:
    """The equations, and the load times which factor enters them (kappa k'(1))."""
    kernel = padded_kernel(P, index)
    scale = float(np.arange(len(kernel)) @ kernel)
    law, kappa, copies, ell = PERFECT, 1.0, 0.0, 0.0
    if examples is not None:
        law, kappa = examples.law(), examples.noise(P)
        if P == 2 and not examples.supervised:
            rho = examples.entropy
            copies, ell = float(examples.M - 1), rho / (1 + rho)
    factor = 1.0 if P == 2 else kappa * scale
    size = 8 ** int(np.ceil(np.log2(len(law.x)) / 3))
    # atoms of no weight, so that few programs are compiled
    atoms: Any = [jnp.asarray(np.pad(v, (0, size - len(v)))) for v in law]
    law = type(law)(*atoms)
    model = saddle.Model(
        *(jnp.asarray(float(P)), jnp.asarray(kernel / scale), law),
        *(jnp.asarray(copies), jnp.asarray(ell)),
    )
    return model, factor


def padded(values: Any) -> jax.Array:
    """Repeat the last entry up to a power of four, so that few programs are compiled."""
    size = 4 ** int(np.ceil(np.log2(max(len(values), 1)) / 2))
    return jnp.asarray(np.pad(values, (0, size - len(values)), mode="edge"))


def unit(P: int, c: float) -> float:
    """The energy in units of which temperatures enter."""
    return 2 * c if P == 2 else c


@float64_scope
def _concrete(
    P: int,
    alpha: Any,
    T: Any,
    shape: tuple[int, ...],
    c: float,
    index: str,
    examples: Examples | None,
    branch: str,
) -> DenseState:
    load, temperature = (np.broadcast_to(np.asarray(v, np.float64), shape) for v in (alpha, T))
    n = load.size
    flat_load, flat_T = load.ravel(), temperature.ravel()
    if branch == "spin_glass" and index == "distinct":
        glass = one_step_glass(P, flat_load * noise_factor(P, examples), flat_T, c)
        state = DenseState(alpha=flat_load, T=flat_T, **glass, branch=branch)
    else:
        model, factor = build(P, index, examples)
        rows, place = np.unique(flat_T, return_inverse=True)
        table = _table(padded(rows), model, P, c, branch)
        args = (padded(v) for v in (flat_load, flat_T, place.ravel()))
        state = _state(*args, table, model, jnp.float64(factor), jnp.float64(c), branch)
    scale = np.sqrt(1 + examples.entropy) if examples is not None else 1.0
    state = dataclasses.replace(state, nhat=state.Mhat * scale)
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:n].reshape(shape)[()], state)


def noise_factor(P: int, examples: Examples | None) -> float:
    """kappa."""
    return 1.0 if examples is None else examples.noise(P)


def _traced(
    P: int,
    alpha: Any,
    T: Any,
    shape: tuple[int, ...],
    c: float,
    index: str,
    examples: Examples | None,
    branch: str,
) -> DenseState:
    if branch == "spin_glass":
        raise DomainError("branch='spin_glass' cannot be differentiated: call it outside of jit.")
    load, temperature = (
        jnp.ravel(jnp.broadcast_to(jnp.asarray(v, jnp.float64), shape)) for v in (alpha, T)
    )
    model, factor = build(P, index, examples)
    table = _table(jax.lax.stop_gradient(temperature), model, P, c, branch)
    state = _state(load, temperature, jnp.arange(load.size), table, model, factor, c, branch)
    scale = np.sqrt(1 + examples.entropy) if examples is not None else 1.0
    state = dataclasses.replace(state, nhat=state.Mhat * scale)
    return jax.tree.map(lambda leaf: leaf.reshape(shape), state)


def _table(rows: Any, model: saddle.Model, P: int, c: float, branch: str) -> Any:
    """The curves of the retrieval branches at temperatures ``(n,)``, None for the other states."""
    return curves(rows / unit(P, c), model) if branch in ("retrieval", "unstable") else None


@jax.jit
def curves(T: Any, model: saddle.Model) -> saddle.Branches:
    """Retrieval at temperatures ``(n,)`` in units of the energy: one program for many callers."""
    out: Any = in_chunks(lambda t: saddle.branches(t, model), 8 * model.law.x.size, T)
    return out


@partial(jax.jit, static_argnames="branch")
def _state(
    alpha: Any,
    T: Any,
    place: Any,
    table: Any,
    model: saddle.Model,
    factor: Any,
    c: Any,
    branch: str,
) -> DenseState:
    A = root(alpha * factor)
    scale = jnp.where(model.P == 2, 2 * c, c)
    t = T / scale
    atoms = model.law.x.size
    state: Any
    if branch in ("retrieval", "unstable"):
        table = jax.lax.stop_gradient(table)

        def one(A: Any, t: Any, place: Any) -> DenseState:
            at = jax.tree.map(lambda leaf: leaf[place], table)
            M, k = saddle.solve(A, t, at, model, stable=branch == "retrieval")
            return describe(A, t, M, k * saddle.signal(M, model), model, branch)

        state = in_chunks(one, atoms, A, t, place)
    else:
        a = ordinary_overlap(A, t, model) if branch == "paramagnet" else glass_overlap(A, t, model)
        state = describe(A, t, 0 * a, a, model, branch)
    # back to the units of the user
    units = {"alpha": alpha, "T": T, "f": scale * state.f, "U": scale * state.U}
    out: DenseState = dataclasses.replace(state, **units)
    return out


def root(x: Any) -> Any:
    """Square root with a finite derivative at 0."""
    return jnp.where(x > 0, jnp.sqrt(jnp.where(x > 0, x, 1.0)), 0.0)


def describe(A: Any, t: Any, M: Any, a: Any, model: saddle.Model, branch: str) -> DenseState:
    """The record, in units of the energy scale, of the state with overlap M and noise a."""
    exists = ~(jnp.isnan(a) | jnp.isnan(M))
    M, a = jnp.where(exists, M, jnp.nan), jnp.where(exists, a, jnp.nan)
    s = saddle.signal(M, model)
    g = response(s, a, t, model.law)
    pair, P, A2 = model.P == 2, model.P, A**2
    D, E = 1 - g.C, 1 - model.ell * g.C
    safe_D = jnp.where(D > 0, D, 1.0)
    # terms of the noise, and of the reacting patterns of P = 2
    between = A2 * g.C * chord(model.kernel, g.q) / 2

    def patterns(single: Any, copies: Any) -> Any:
        return A2 / 2 * (single + model.copies * copies)

    ell = model.ell
    pair_f = patterns(1 + t * jnp.log(safe_D) - g.q / safe_D, ell + t * jnp.log(E) - ell * g.q / E)
    pair_U = patterns(1 - 1 / safe_D, ell - ell / E) - a**2 * g.C / 2
    body = jnp.where(pair, M**2 / 2 + pair_f, (P - 1) * M * s / P - between)
    U = jnp.where(pair, -(M**2) / 2 + pair_U, -M * s / P - 2 * between)
    power = jnp.where(
        pair,
        (1 / safe_D**2 + model.copies * (ell / E) ** 2),
        curvature(model.kernel, g.q),
    )
    ratio = A2 * power * g.sech4
    replicon = 1 - jnp.where(ratio > 0, ratio / jnp.where(t > 0, t, 0.0), 0.0) + 0 * a
    stays = exists & (branch != "unstable")
    gap = jnp.abs(g.M - M) if branch in ("retrieval", "unstable") else 0 * a
    return DenseState(
        alpha=A2,
        T=t,
        Mhat=M,
        m=g.m + 0 * a,
        nhat=M,
        q=g.q + 0 * a,
        f=body + a**2 * g.C / 2 - g.log_2cosh,
        U=U,
        replicon=replicon,
        locally_stable=stays,
        stable=stays & (replicon > 0),
        residual=jnp.maximum(gap, noise_gap(A, a, g, model)),
        exists=exists,
        branch=branch,
    )


def noise_gap(A: Any, a: Any, g: Any, model: saddle.Model) -> Any:
    """Violation of the equation of the noise."""
    pair = A * root(g.q * saddle.pair_power(g.C, model)) - a * (1 - g.C)
    power = saddle.slope(model.kernel, g.q)
    return jnp.abs(jnp.where(model.P == 2, pair, A * root(power) - a))
