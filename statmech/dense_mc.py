r"""Monte Carlo for dense (P-body) networks at a cost of K operations per update, whatever P."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError, ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike
from deeplimits.validate import choice, integer, number
from statmech.coupling import as_field, as_patterns, as_reference
from statmech.coupling_matrix import memory_guard
from statmech.dense_mc_parts import RealParts, SignParts
from statmech.kernels import RULES, Kernel, State
from statmech.kernels_single import ORDERS, one_at_a_time
from statmech.krawtchouk import INDEX
from statmech.patterns import NoisyExamples


@functools.partial(
    register_dataclass,
    data_fields=("stored", "field", "reference"),
    meta_fields=("P", "scale", "index", "signs"),
)
@dataclasses.dataclass(frozen=True)
class DenseCoupling:
    r"""A Hamiltonian :math:`H = -s \sum_\mu \sum_{i_1 ... i_P} \prod_a x_{i_a}^\mu \sigma_{i_a}
    - \sum_i b_i \sigma_i`.

    Attributes:
        stored: x, ``(K, N)`` or ``(samples, K, N)``: patterns, examples or averages of them.
        field: external field b, ``(N,)`` or ``(samples, N)``.
        reference: patterns that overlaps are measured with, None for the stored ones.
        P: spins per term.
        scale: s.
        index: ``"distinct"`` or ``"full"`` sums.
        signs: whether x holds signs, for which tables of integers are used.
    """

    stored: Any
    field: Any
    reference: Any
    P: int
    scale: float
    index: str
    signs: bool

    @property
    def N(self) -> int:
        """Number of spins."""
        return int(self.stored.shape[-1])

    @property
    def samples(self) -> int | None:
        """Number of disorder samples, None for a single one."""
        return int(self.stored.shape[0]) if np.ndim(self.stored) == 3 else None

    @property
    def patterns(self) -> Any:
        """Patterns that overlaps are measured with."""
        return self.stored if self.reference is None else self.reference

    @property
    def kernels(self) -> tuple[str, ...]:
        """``"blocked"``: sites in order; ``"site"``: sites at random. Both one spin at a time."""
        return ORDERS

    def cast(self, dtype: Any) -> DenseCoupling:
        """The same coupling in a floating dtype; signs stay integers of 8 bits."""
        reference = None if self.reference is None else jnp.asarray(self.reference, dtype)
        stored = jnp.asarray(self.stored, jnp.int8 if self.signs else dtype)
        field = jnp.asarray(self.field, dtype)
        return dataclasses.replace(self, stored=stored, field=field, reference=reference)

    def kernel(self, name: str, rule: str, block_size: int) -> Kernel:
        """The functions of one kernel (:class:`statmech.kernels.Kernel`), for one sample."""
        choice(name, "kernel", self.kernels)
        choice(rule, "rule", RULES)
        make = SignParts if self.signs else RealParts
        parts: Any = make(self.stored, self.field, self.scale, self.P, self.index)
        N = self.N

        def start(spins: Any) -> State:
            layers = 4 if self.signs or self.index == "full" else 3 * self.P
            memory_guard(
                8.0 * layers * self.stored.shape[-2] * spins.shape[1],
                "the sums over spins of one disorder sample",
                "Take fewer patterns, chains or temperatures.",
            )
            return State(spins, parts.memory(spins))

        def energy(state: Any) -> Any:
            outside = jnp.matmul(self.field.astype(jnp.float64), state.spins.astype(jnp.float64))
            return (parts.energy(state.memory) - outside) / N

        def overlaps(state: Any) -> Any:
            if self.reference is not None:
                return jnp.matmul(self.reference, state.spins) / N
            return parts.sums(state.memory).astype(state.spins.dtype) / N

        return Kernel(start, one_at_a_time(parts, name, rule), energy, overlaps)


def dense_coupling(
    patterns: ArrayLike | None = None,
    *,
    P: int,
    c: float = 0.5,
    index: str = "distinct",
    examples: ArrayLike | NoisyExamples | None = None,
    r: float | None = None,
    supervised: bool = True,
    field: ArrayLike | None = None,
    reference: ArrayLike | None = None,
) -> DenseCoupling:
    r"""Interactions of P spins that store patterns, or learn them from noisy examples.

    .. math:: H = -\frac{c}{N^{P-1}} \sum_\mu \sum_{i_1, ..., i_P} \prod_{a=1}^P \hat x_{i_a}^\mu
              \sigma_{i_a} - \sum_i b_i \sigma_i

    over distinct indices (each ordering counted) or all. :math:`\hat x` is the pattern; supervised
    from M examples :math:`\hat x = \frac{1}{M \sqrt R} \sum_a \eta^a`,
    :math:`R = r^2 + (1 - r^2)/M`; unsupervised the energy is that of the stored examples
    :math:`\eta^a / \sqrt R`, averaged over a. The normalisation is that of
    :func:`statmech.dense_hebbian`.

    Args:
        patterns: ``(K, N)`` real, or ``(samples, K, N)``; signs are exact and fast.
        P: spins per term, >= 2.
        c: prefactor, > 0, default 1/2.
        index: ``"distinct"`` (default) or ``"full"``: two models, with different capacities.
        examples: instead of patterns, :class:`statmech.NoisyExamples`, or ``(M, K, N)`` or
            ``(samples, M, K, N)`` of signs.
        r: quality of the examples in (0, 1], needed with an array of them.
        supervised: whether the examples of a pattern are averaged first (default True).
        field: external field b: a number, ``(N,)``, or ``(samples, N)``; default none.
        reference: patterns that overlaps are measured with, ``(K', N)`` or ``(samples, K', N)``;
            default the stored ones (unsupervised: the M K examples).

    Returns:
        :class:`DenseCoupling`, for :func:`statmech.simulate` and
        :func:`statmech.parallel_tempering`.

    Raises:
        DomainError: arguments out of range; both or neither of patterns and examples; examples
            without r; more than 16 GB of patterns.
        ShapeError: wrong number of axes, shapes that do not match.

    Source: E. Gardner, J. Phys. A 20, 3453 (1987); learning from examples as in arXiv:2212.00606
        (supervised) and arXiv:2211.14067 (unsupervised).

    Check: ``tests/statmech/test_dense_mc.py::test_energies_by_brute_force``
    """
    integer(P, "P", at_least=2)
    number(c, "c", above=0)
    choice(index, "index", INDEX)
    if (patterns is None) == (examples is None):
        raise DomainError("give either patterns or examples, not both and not neither.")
    weight = 1.0
    if examples is None:
        assert patterns is not None
        x = np.asarray(as_patterns(patterns))
    else:
        x, weight = _from_examples(examples, r, P, supervised)
    N = x.shape[-1]
    if index == "distinct" and N < P:
        raise DomainError(f"distinct indices need N >= P, got N={N} and P={P}.")
    memory_guard(8.0 * x.size, "the patterns", "Take fewer patterns or spins.")
    signs = bool(np.all(np.abs(x) == 1))
    stored = x.astype(np.int8) if signs else x.astype(np.float64)
    shape = (*x.shape[:-2], N)
    b, patterns = as_field(field, shape), as_reference(reference, shape)
    return DenseCoupling(stored, b, patterns, P, float(c) * weight / N ** (P - 1), index, signs)


def _from_examples(
    examples: ArrayLike | NoisyExamples, r: float | None, P: int, supervised: bool
) -> tuple[np.ndarray, float]:
    """What is stored and the weight of its energy."""
    if isinstance(examples, NoisyExamples):
        r = examples.r if r is None else r
        examples = examples.examples
    eta = np.asarray(examples)
    if eta.ndim not in (3, 4) or 0 in eta.shape:
        raise ShapeError(
            f"examples must have shape (M, K, N) or (samples, M, K, N), got {eta.shape}."
        )
    if eta.dtype.kind not in "iuf" or not np.all(np.abs(eta) == 1):
        raise DomainError("examples must hold -1 and 1 only.")
    if r is None:
        raise DomainError("examples need their quality r, in (0, 1].")
    number(r, "r", above=0, at_most=1)
    M, K, N = eta.shape[-3:]
    R = r**2 + (1 - r**2) / M
    if supervised:
        return eta.mean(axis=-3) / math.sqrt(R), 1.0
    return eta.reshape(*eta.shape[:-3], M * K, N), R ** (-P / 2) / M


def dense_pattern_count(P: int, alpha: float, N: int) -> int:
    r"""Number of patterns at load alpha, :math:`K = \alpha N^{P-1}` rounded (at least 1).

    Args:
        P: spins per term, >= 2.
        alpha: load, >= 0.
        N: number of spins, >= 1.

    Returns:
        K.

    Raises:
        DomainError: arguments out of range, or patterns of more than 16 GB (with the estimate).

    Source: E. Gardner, J. Phys. A 20, 3453 (1987).
    Check: ``tests/statmech/test_dense_mc.py::test_bad_input``
    """
    integer(P, "P", at_least=2)
    integer(N, "N", at_least=1)
    number(alpha, "alpha", at_least=0)
    K = max(1, round(alpha * float(N) ** (P - 1)))
    what = f"K = alpha N^(P-1) = {float(K):.3g} patterns of {N} spins"
    memory_guard(float(K) * N, what, "Take a smaller N or alpha.")
    return K
