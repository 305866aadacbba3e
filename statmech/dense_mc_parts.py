r"""Local fields of P-body networks from sums over spins; the tensor of P indices is never formed.

Each part gives, for one site and all columns, the field F in units of ``unit`` and the new memory.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from statmech.krawtchouk import energy_table, field_table


class SignParts:
    r"""Patterns of signs: the memory is :math:`S_\mu = \sum_i \xi_i^\mu \sigma_i` ``(K, B)``.

    Fields and energies are looked up in tables of exact integers. Only every second S occurs.
    """

    def __init__(self, patterns: Any, field: Any, scale: float, P: int, index: str):
        self.patterns, self.N = patterns, int(patterns.shape[-1])
        fields = field_table(self.N, P, index)
        # a power of two keeps every digit; it only keeps float32 from overflowing at large P
        shift = max(0, max(abs(f) for f in fields).bit_length() - 60)
        self.fields = np.array([f / 2**shift for f in fields])
        self.unit = scale * 2.0**shift
        self.energies = np.array([scale * e for e in energy_table(self.N, P, index)])
        self.bias = field / self.unit

    def memory(self, spins: Any) -> Any:
        """Sums, int32."""
        x = self.patterns.astype(spins.dtype)
        return jnp.round(jnp.matmul(x, spins)).astype(jnp.int32)

    def field(self, i: Any, spin: Any, memory: Any) -> tuple[Any, Any]:
        """Field on site i ``(B,)``, and the sums without it."""
        x = self.patterns[:, i]
        rest = memory - x.astype(jnp.int32)[:, None] * spin.astype(jnp.int32)[None, :]
        table = jnp.asarray(self.fields, spin.dtype)
        terms = table[(rest + (self.N - 1)) >> 1]
        return jnp.matmul(x.astype(spin.dtype), terms) + self.bias[i].astype(spin.dtype), rest

    def put(self, i: Any, spin: Any, rest: Any, memory: Any) -> Any:
        """The sums with site i."""
        x = self.patterns[:, i].astype(jnp.int32)
        return rest + x[:, None] * spin.astype(jnp.int32)[None, :]

    def energy(self, memory: Any) -> Any:
        """Total energy of the patterns, float64 ``(B,)``."""
        return -jnp.sum(jnp.asarray(self.energies)[(memory + self.N) >> 1], axis=0)

    def sums(self, memory: Any) -> Any:
        """The sums S ``(K, B)``."""
        return memory


class RealParts:
    r"""Real patterns: the memory holds :math:`e_1, ..., e_P` (distinct) or S alone (full).

    Why not power sums and Newton's identities: they subtract numbers of size :math:`S^P` to get
    one of size :math:`N^{P/2}`. A site is taken out of the elementary polynomials by
    :math:`e_k' = e_k - y e_{k-1}'` and put back by :math:`e_k = e_k' + y e_{k-1}'`.
    """

    def __init__(self, patterns: Any, field: Any, scale: float, P: int, index: str):
        self.patterns, self.N, self.P = patterns, int(patterns.shape[-1]), P
        self.distinct = index == "distinct"
        # sums are divided by their largest size, so that powers of them stay in range
        self.size = float(self.N)
        factor = math.factorial(P) if self.distinct else 1
        self.energy_unit = scale * factor * self.size**P
        self.unit = self.energy_unit / self.size
        self.bias = field / self.unit

    def memory(self, spins: Any) -> Any:
        """``(P, K, B)`` or ``(1, K, B)``."""
        if not self.distinct:
            return (jnp.matmul(self.patterns, spins) / self.size)[None]

        def add(i: Any, e: Any) -> Any:
            y = self._value(i, spins[i])
            before = jnp.concatenate([jnp.ones_like(e[:1]), e[:-1]])
            return e + y[None] * before

        shape = (self.P, self.patterns.shape[0], spins.shape[1])
        return jax.lax.fori_loop(0, self.N, add, jnp.zeros(shape, spins.dtype))

    def _value(self, i: Any, spin: Any) -> Any:
        return self.patterns[:, i][:, None] * spin[None, :] / self.size

    def field(self, i: Any, spin: Any, memory: Any) -> tuple[Any, Any]:
        """Field on site i ``(B,)``, and the memory without it."""
        x, y = self.patterns[:, i], self._value(i, spin)
        if self.distinct:
            rest = [memory[0] - y]
            for k in range(1, self.P):
                rest.append(memory[k] - y * rest[-1])
            terms, weight = rest[self.P - 2], x
            field = jnp.matmul(weight, terms)
            without = jnp.stack(rest)
        else:
            without = memory - y[None]
            field = jnp.zeros_like(spin)
            for k in range(1, self.P + 1, 2):
                weight = math.comb(self.P, k) * x**k / self.size ** (k - 1)
                field = field + jnp.matmul(weight, without[0] ** (self.P - k))
        return field + self.bias[i].astype(spin.dtype), without

    def put(self, i: Any, spin: Any, rest: Any, memory: Any) -> Any:
        """The memory with site i."""
        y = self._value(i, spin)
        if not self.distinct:
            return rest + y[None]
        return rest + y[None] * jnp.concatenate([jnp.ones_like(rest[:1]), rest[:-1]])

    def energy(self, memory: Any) -> Any:
        """Total energy of the patterns, float64 ``(B,)``."""
        wide = memory[-1].astype(jnp.float64)
        terms = wide if self.distinct else wide**self.P
        return -self.energy_unit * jnp.sum(terms, axis=0)

    def sums(self, memory: Any) -> Any:
        """The sums S ``(K, B)``."""
        return memory[0] * self.size
