"""The two pairwise couplings in pieces, from which the kernels are put together.

Fields are in units of the coupling, ``h = unit * F``: with patterns of -1, 0, 1 every F is then an
integer, so that sums are exact in float32 whatever their order, and a vanishing field is exactly 0.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp


class FactorParts:
    """``J = weight * X.T @ X`` without its diagonal; the memory is ``X @ spins``, ``(K, B)``."""

    reads_spins = False

    def __init__(self, factors: Any, field: Any, weight: float, diagonal: bool):
        self.factors, self.unit, self.diagonal = factors, weight, diagonal
        self.N: int = factors.shape[-1]
        self.dtype: Any = factors.dtype
        self.bias = field / weight
        self.own = jnp.sum(factors**2, axis=0)

    def memory(self, spins: Any) -> Any:
        """Overlaps times N."""
        return jnp.matmul(self.factors, spins)

    def take(self, sites: Any) -> Any:
        """Columns of X ``(K, b)`` and as rows ``(b, K)``, diagonal and external field."""
        columns = self.factors[:, sites]
        return columns, columns.T, self.own[sites], self.bias[sites]

    def within(self, rows: Any, sites: Any) -> Any:
        """Couplings of a block."""
        different = sites[:, None] != sites[None, :]
        return jnp.matmul(rows[1], rows[0]) * different.astype(self.dtype)

    def fields(self, rows: Any, block: Any, spins: Any, memory: Any) -> Any:
        """Fields of a block from the overlaps."""
        _, x, own, bias = rows
        return jnp.matmul(x, memory) - own[:, None] * block + bias[:, None]

    def absorb(self, rows: Any, memory: Any, change: Any, work: Any) -> Any:
        """New overlaps."""
        return memory + jnp.matmul(rows[0], change)

    def all_fields(self, spins: Any) -> Any:
        """Fields of the synchronous dynamics, and the overlaps."""
        overlaps = self.memory(spins)
        fields = jnp.matmul(self.factors.T, overlaps) + self.bias[:, None]
        return (fields if self.diagonal else fields - self.own[:, None] * spins), overlaps

    def energy(self, spins: Any, overlaps: Any) -> Any:
        """Energy per spin, float64."""
        wide = jnp.float64
        pairs = jnp.sum(overlaps.astype(wide) ** 2, axis=0)
        if not self.diagonal:
            pairs = pairs - jnp.sum(self.own.astype(wide))
        outside = jnp.sum(self.bias[:, None] * spins, axis=0).astype(wide)
        return -self.unit * (pairs / 2 + outside) / self.N


class MatrixParts:
    """A dense symmetric J with zero diagonal (its diagonal apart); the memory is the energy."""

    reads_spins = True
    unit = 1.0

    def __init__(self, J: Any, own: Any, field: Any, diagonal: bool):
        self.J, self.own, self.bias, self.diagonal = J, own, field, diagonal
        self.N: int = J.shape[-1]
        self.dtype: Any = J.dtype

    def memory(self, spins: Any) -> Any:
        """Total energy, kept up to date by the work done on the spins."""
        return self.total(spins, self.all_fields(spins)[0])

    def total(self, spins: Any, fields: Any) -> Any:
        """Total energy from the fields of all spins, float64."""
        terms = spins * (fields + self.bias[:, None])
        return -jnp.sum(terms.astype(jnp.float64), axis=0) / 2

    def take(self, sites: Any) -> Any:
        """Rows of J and external field."""
        return self.J[sites], self.bias[sites]

    def within(self, rows: Any, sites: Any) -> Any:
        """Couplings of a block."""
        return rows[0][:, sites]

    def fields(self, rows: Any, block: Any, spins: Any, memory: Any) -> Any:
        """Fields of a block from all spins."""
        return jnp.matmul(rows[0], spins[: self.N]) + rows[1][:, None]

    def absorb(self, rows: Any, memory: Any, change: Any, work: Any) -> Any:
        """New energy."""
        return memory - work.astype(jnp.float64)

    def all_fields(self, spins: Any) -> Any:
        """Fields of the synchronous dynamics (and nothing else to carry)."""
        fields = jnp.matmul(self.J, spins) + self.bias[:, None]
        return (fields + self.own[:, None] * spins if self.diagonal else fields), None
