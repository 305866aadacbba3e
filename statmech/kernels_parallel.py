r"""Kernels that move all spins at once: hidden-unit Gibbs sampling, and the Little dynamics.

They look alike and sample different laws. With hidden Gaussian units z the spins are independent
given z, and alternating the two is Gibbs sampling of the Boltzmann law. Without them (every spin
against the old state of all others) the stationary law is that of Little's model.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from deeplimits.typing import Key
from statmech.kernels import State, changed, decide, thresholds


def dual(factors: Any, field: Any, unit: float) -> tuple[Any, Any]:
    r"""Gibbs sampling with hidden Gaussian units, for :math:`J = unit\, X^\top X`.

    .. math:: e^{\frac{\beta\,unit}{2} \|X\sigma\|^2} \propto \int dy\,
              e^{-\frac{\beta\,unit}{2} \|y\|^2 + \beta\,unit\, y \cdot X\sigma}, \qquad
              y \mid \sigma \sim \mathcal{N}(X\sigma, T/unit), \quad
              \sigma_i \mid y \text{ in the field } unit\,(X^\top y)_i.

    Two matrix products a sweep; the default on an accelerator. The diagonal of J is a constant of
    the energy for spins of -1 and 1, so that the law is the one of the other kernels, with detailed
    balance. Autocorrelation times are up to twice those of the sequential sweep.

    Args:
        factors: X ``(K, N)``.
        field: external field ``(N,)`` in units of ``unit``.
        unit: > 0.

    Returns:
        ``(start, sweep)`` as in :class:`statmech.kernels.Kernel`, with memory X sigma ``(K, B)``.

    Source: J. Hubbard, Phys. Rev. Lett. 3, 77 (1959); as a sampler derived here.

    Check: ``tests/statmech/test_kernels_exact.py::test_dual_kernel``
    """
    dtype = factors.dtype

    def start(spins: Any) -> State:
        return State(spins, jnp.matmul(factors, spins))

    def sweep(state: State, key: Key, T: Any) -> tuple[State, Any]:
        for_hidden, for_spins = jax.random.split(key)
        noise = jax.random.normal(for_hidden, state.memory.shape, dtype)
        hidden = state.memory + noise * jnp.sqrt(T / jnp.asarray(unit, dtype))[None, :]
        fields = jnp.matmul(factors.T, hidden) + field[:, None]
        t = thresholds("heatbath", for_spins, state.spins.shape, T, unit, dtype)
        spins = decide("heatbath", fields, state.spins, t)
        return State(spins, jnp.matmul(factors, spins)), changed(state.spins, spins)

    return start, sweep


def little(parts: Any) -> tuple[Any, Any]:
    r"""Synchronous heat bath: every spin is drawn in the field of the old state.

    .. math:: \pi_L(\sigma) \propto e^{\beta b \cdot \sigma} \prod_i 2 \cosh \beta h_i(\sigma)

    (h with the external field b). This is not a fast way to the Boltzmann law: at the same
    temperature energies, phases and capacities differ, and pairs of states may alternate. The share
    of spins changed per sweep gives the overlap of successive states, 1 - 2 ``acceptance``.

    Args:
        parts: the pieces of a coupling; its diagonal (by default zero) enters the field.

    Returns:
        ``(start, sweep)`` as in :class:`statmech.kernels.Kernel`, with fields ``(N, B)`` and what
        the coupling carries as memory.

    Source: W. A. Little, Math. Biosci. 19, 101 (1974); stationary law: P. Peretto, Biol. Cybern.
        50, 51 (1984).

    Check: ``tests/statmech/test_kernels_exact.py::test_little_kernel``
    """

    def start(spins: Any) -> State:
        return State(spins, parts.all_fields(spins))

    def sweep(state: State, key: Key, T: Any) -> tuple[State, Any]:
        t = thresholds("heatbath", key, state.spins.shape, T, parts.unit, parts.dtype)
        fields = state.memory[0]
        spins = decide("heatbath", fields, state.spins, t)
        return State(spins, parts.all_fields(spins)), changed(state.spins, spins)

    return start, sweep
