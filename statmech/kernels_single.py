"""Single-spin dynamics for couplings of any order, one site of all columns at a time."""

from __future__ import annotations

from typing import Any, Protocol

import jax
import jax.numpy as jnp

from deeplimits.typing import Key
from statmech.kernels import State, decide, thresholds
from statmech.kernels_blocked import drawn_sites

#: ``"blocked"``: sites in order; ``"site"``: sites at random. Both one spin at a time.
ORDERS = ("blocked", "site")


class SingleParts(Protocol):
    """The pieces of a coupling; fields in units of ``unit``."""

    N: int
    unit: float

    def memory(self, spins: Any) -> Any:
        """What is carried from site to site."""
        ...

    def field(self, i: Any, spin: Any, memory: Any) -> tuple[Any, Any]:
        """Field on site i ``(B,)``, and what :meth:`put` needs to know."""
        ...

    def put(self, i: Any, spin: Any, rest: Any, memory: Any) -> Any:
        """The memory after site i has taken the value ``spin`` ``(B,)``."""
        ...


def one_at_a_time(parts: SingleParts, order: str, rule: str) -> Any:
    """The function ``sweep`` of :class:`statmech.kernels.Kernel`: N updates, in one of the orders.

    Source: textbook. Check: ``tests/statmech/test_dense_mc.py``, ``tests/statmech/test_tensor.py``
    """

    def sweep(state: State, key: Key, T: Any) -> tuple[State, Any]:
        sites = jnp.arange(parts.N)
        if order == "site":
            for_sites, key = jax.random.split(key)
            sites = drawn_sites(for_sites, parts.N)
        t = thresholds(rule, key, state.spins.shape, T, parts.unit, state.spins.dtype)

        def update(j: Any, carry: Any) -> Any:
            spins, memory, flips = carry
            i, old = sites[j], spins[sites[j]]
            field, rest = parts.field(i, old, memory)
            new = decide(rule, field, old, t[j])
            flips = flips + jnp.abs(new - old) / 2
            return spins.at[i].set(new), parts.put(i, new, rest, memory), flips

        carry = (*state, jnp.zeros_like(state.spins[0]))
        spins, memory, flips = jax.lax.fori_loop(0, parts.N, update, carry)
        return State(spins, memory), flips

    return sweep
