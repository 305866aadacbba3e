"""Couplings of p spins given by a symmetric tensor, and the p-spin glass."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError, ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import as_key, as_real, choice, finite, integer
from statmech.coupling import as_field, as_reference
from statmech.coupling_matrix import memory_guard
from statmech.kernels import LANES, RULES, Kernel, State
from statmech.kernels_single import ORDERS, one_at_a_time

#: Spins in a term: more than two (for pairs there is :class:`MatrixCoupling`), and few.
ORDER_RANGE = (3, 6)


class TensorParts:
    """The pieces for single-spin dynamics; the memory is the spins and their total energy."""

    unit = 1.0

    def __init__(self, J: Any, bias: Any, p: int):
        self.J, self.bias, self.p = J, bias, p
        self.N: int = J.shape[-1]

    def _interaction(self, i: Any, spins: Any) -> Any:
        """Field on site i from the other spins: the tensor contracted with them p - 1 times."""
        rows = self.J[i].reshape(-1, self.N)
        left = jnp.matmul(rows, spins)
        for _ in range(self.p - 2):
            left = jnp.sum(left.reshape(-1, *spins.shape) * spins[None], axis=1)
        return left[0] / math.factorial(self.p - 1)

    def memory(self, spins: Any) -> Any:
        """Spins ``(N, B)`` and energies ``(B,)`` float64."""
        fields = jax.lax.map(lambda i: self._interaction(i, spins), jnp.arange(self.N))
        terms = spins * (fields / self.p + self.bias[:, None])
        return spins, -jnp.sum(terms.astype(jnp.float64), axis=0)

    def field(self, i: Any, spin: Any, memory: Any) -> tuple[Any, Any]:
        """Field on site i, which is all that the new energy needs."""
        field = self._interaction(i, memory[0]) + self.bias[i]
        return field, (field, spin)

    def put(self, i: Any, spin: Any, rest: Any, memory: Any) -> Any:
        """Spins and energies with the new spin."""
        spins, energy = memory
        field, old = rest
        return spins.at[i].set(spin), energy - ((spin - old) * field).astype(jnp.float64)


@functools.partial(
    register_dataclass, data_fields=("J", "field", "reference"), meta_fields=("p", "rule")
)
@dataclasses.dataclass(frozen=True)
class TensorCoupling:
    r"""A Hamiltonian :math:`H = -\sum_{i_1 < \dots < i_p} J_{i_1 \dots i_p} \sigma_{i_1} \cdots
    \sigma_{i_p} - \sum_i b_i \sigma_i`.

    Attributes:
        J: symmetric, zero where two indices are equal, ``(N, ..., N)`` or ``(samples, N, ..., N)``.
        field: external field b, ``(N,)`` or ``(samples, N)``.
        reference: patterns that overlaps are measured with, or None.
        p: spins per term.
        rule: name of the ensemble.
    """

    J: Any
    field: Any
    reference: Any
    p: int
    rule: str

    @property
    def N(self) -> int:
        """Number of spins."""
        return int(self.J.shape[-1])

    @property
    def samples(self) -> int | None:
        """Number of disorder samples, None for a single one."""
        return int(self.J.shape[0]) if np.ndim(self.J) > self.p else None

    @property
    def patterns(self) -> Any:
        """Patterns that overlaps are measured with, or None."""
        return self.reference

    @property
    def kernels(self) -> tuple[str, ...]:
        """``"blocked"``: sites in order; ``"site"``: sites at random. Both one spin at a time."""
        return ORDERS

    def cast(self, dtype: Any) -> TensorCoupling:
        """The same coupling with all arrays in a floating dtype."""
        reference = None if self.reference is None else jnp.asarray(self.reference, dtype)
        J, field = jnp.asarray(self.J, dtype), jnp.asarray(self.field, dtype)
        return dataclasses.replace(self, J=J, field=field, reference=reference)

    def kernel(self, name: str, rule: str, block_size: int) -> Kernel:
        """The functions of one kernel (:class:`statmech.kernels.Kernel`), for one sample."""
        choice(name, "kernel", self.kernels)
        choice(rule, "rule", RULES)
        parts = TensorParts(self.J, self.field, self.p)

        def start(spins: Any) -> State:
            return State(spins, parts.memory(spins))

        def overlaps(state: Any) -> Any:
            if self.reference is None:
                return jnp.zeros((0, state.spins.shape[1]), self.J.dtype)
            return jnp.matmul(self.reference, state.spins) / self.N

        return Kernel(
            start,
            one_at_a_time(parts, name, rule),
            lambda state: state.memory[1] / self.N,
            overlaps,
            LANES,
        )


def tensor_coupling(
    J: ArrayLike,
    *,
    p: int,
    field: ArrayLike | None = None,
    reference: ArrayLike | None = None,
) -> TensorCoupling:
    r"""Couplings of p spins from a symmetric tensor, for Monte Carlo.

    .. math:: H = -\sum_{i_1 < \dots < i_p} J_{i_1 \dots i_p} \sigma_{i_1} \cdots \sigma_{i_p}
              - \sum_i b_i \sigma_i

    An update of one spin costs :math:`N^{p-1}` operations: systems are small.

    Args:
        J: p axes of length N, or p + 1 with the disorder samples first; symmetric under every
            exchange of indices, and zero where two of them are equal.
        p: spins per term, 3 to 6.
        field: external field: a number, ``(N,)``, or ``(samples, N)``; default none.
        reference: patterns that overlaps are measured with, ``(K, N)`` or ``(samples, K, N)``.

    Returns:
        :class:`TensorCoupling`, for :func:`statmech.simulate` and
        :func:`statmech.parallel_tempering`.

    Raises:
        ShapeError: shapes that do not match.
        DomainError: p out of range; NaN or infinite entries; J not symmetric or not zero where
            indices are equal.

    Source: textbook. Check: ``tests/statmech/test_tensor.py::test_energies_by_brute_force``
    """
    p = _order(p)
    J = np.asarray(as_real(J, "J"))
    if J.ndim not in (p, p + 1) or len(set(J.shape[-p:])) != 1 or 0 in J.shape:
        raise ShapeError(
            f"J must have {p} axes of one length (or {p + 1}, samples first), got {J.shape}."
        )
    finite(J, "J")
    scale = np.abs(J).max()
    first = J.ndim - p
    for a in range(first, J.ndim - 1):
        gap = np.abs(J - np.swapaxes(J, a, a + 1)).max()
        if gap > (1e-12 if J.dtype == np.float64 else 1e-6) * scale:
            raise DomainError(
                "J must be symmetric under every exchange of indices, but exchanging "
                f"{a - first} and {a - first + 1} changes it by {gap:.3g} (largest entry "
                f"{scale:.3g}). Average it over all orders of its indices."
            )
    equal = np.abs(np.diagonal(J, axis1=-2, axis2=-1)).max()
    if equal > 0:
        raise DomainError(
            f"J must be zero where two indices are equal, got {equal:.3g} there: a term in which a "
            "spin occurs twice has fewer spins."
        )
    return _tensor(J, p, field, reference, "tensor")


def _tensor(J: Any, p: int, field: Any, reference: Any, rule: str) -> TensorCoupling:
    shape = (*J.shape[:-p], J.shape[-1])
    return TensorCoupling(J, as_field(field, shape), as_reference(reference, shape), p, rule)


def _order(p: Any) -> int:
    low, high = ORDER_RANGE
    integer(p, "p")
    if not low <= p <= high:
        hint = " For pairs use sk_coupling or matrix_coupling." if p == 2 else ""
        raise DomainError(f"p must be between {low} and {high}, got {p}.{hint}")
    return int(p)


def p_spin_coupling(
    N: int,
    *,
    p: int = 3,
    key: Key,
    samples: int | None = None,
    field: ArrayLike | None = None,
) -> TensorCoupling:
    r"""Random couplings of the Ising p-spin glass, in the normalisation of :func:`statmech.p_spin`.

    .. math:: H = -\sum_{i_1 < \dots < i_p} J_{i_1 \dots i_p} \sigma_{i_1} \cdots \sigma_{i_p}
              - \sum_i b_i \sigma_i, \qquad
              J_{i_1 \dots i_p} \sim \mathcal{N}\Big(0, \frac{p!}{2 N^{p-1}}\Big)

    The energy of a configuration then has variance :math:`\frac N2 \prod_{k<p} (1 - k/N)`. Without
    that product, corrections to the limit begin at :math:`N^{1-p}` in the paramagnet: for them
    multiply T and the field by its root, and divide energies by it.

    Args:
        N: number of spins, >= p. All :math:`N^p` entries of the tensor are stored.
        p: spins per term, 3 to 6.
        key: random key or integer seed. Sample number s is the same whatever ``samples``.
        samples: number of independent disorder samples, >= 1; default None: one without an axis.
        field: external field: a number, ``(N,)``, or ``(samples, N)``; default none.

    Returns:
        :class:`TensorCoupling` in float32 (each realisation is exact as it stands).

    Raises:
        DomainError: arguments out of range; more than 16 GB of couplings.

    Source: E. Gardner, Nucl. Phys. B 257, 747 (1985).
    Check: ``tests/statmech/test_tensor.py::test_moments``
    """
    p = _order(p)
    integer(N, "N", at_least=p)
    count = 1 if samples is None else integer(samples, "samples", at_least=1)
    memory_guard(8.0 * count * float(N) ** p, "the couplings", "Take fewer samples or spins.")
    keys = jax.vmap(lambda s: jax.random.fold_in(as_key(key), s))(jnp.arange(count))
    indices = itertools.chain.from_iterable(itertools.combinations(range(N), p))
    terms = np.fromiter(indices, np.int32).reshape(-1, p)
    std = np.float32(math.sqrt(math.factorial(p) / (2 * float(N) ** (p - 1))))
    values = np.asarray(_normals(keys, len(terms))) * std
    J = np.zeros((count, *(N,) * p), np.float32)
    for order in itertools.permutations(range(p)):
        J[(slice(None), *terms[:, order].T)] = values
    return _tensor(J[0] if samples is None else J, p, field, None, "p-spin")


@functools.partial(jax.jit, static_argnames=("n",))
def _normals(keys: Any, n: int) -> Any:
    return jax.lax.map(lambda key: jax.random.normal(key, (n,), jnp.float32), keys)
