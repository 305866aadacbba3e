r"""Couplings made of patterns: the Hebbian and the pseudo-inverse rule, :math:`J = w X^\top X`.

The N x N matrix is never formed: a sweep works on the K overlaps :math:`X \sigma`. The other
couplings are in :mod:`statmech.coupling_matrix`; what a coupling has to offer to be simulated is
written in :mod:`statmech.kernels`.
"""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Any

import jax.numpy as jnp
import numpy as np
import scipy.linalg

from deeplimits.errors import DeepLimitsWarning, DomainError, ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import as_real, choice, finite, number
from statmech.kernels import LANES, RULES, Kernel
from statmech.kernels_blocked import blocked, site
from statmech.kernels_parallel import dual, little
from statmech.kernels_parts import FactorParts


@functools.partial(
    register_dataclass,
    data_fields=("factors", "field", "mixing", "reference"),
    meta_fields=("weight", "diagonal", "rule"),
)
@dataclasses.dataclass(frozen=True)
class FactoredCoupling:
    r"""A Hamiltonian :math:`H = -\frac{w}{2} \sum_{i \ne j} (X^\top X)_{ij} \sigma_i \sigma_j
    - \sum_i b_i \sigma_i`, held by its factors X.

    Attributes:
        factors: X, ``(K, N)``, or ``(samples, K, N)`` for several disorder samples.
        field: external field b, ``(N,)`` or ``(samples, N)``.
        mixing: ``(K, K)`` such that ``mixing @ factors`` are the stored patterns; None if the
            factors are the patterns.
        reference: patterns that overlaps are measured with, None for the stored ones.
        weight: w.
        diagonal: whether the terms i = j (a constant of the energy) are kept.
        rule: name of the learning rule.
    """

    factors: Any
    field: Any
    mixing: Any
    reference: Any
    weight: float
    diagonal: bool
    rule: str

    @property
    def N(self) -> int:
        """Number of spins."""
        return int(self.factors.shape[-1])

    @property
    def samples(self) -> int | None:
        """Number of disorder samples, None for a single one."""
        return int(self.factors.shape[0]) if np.ndim(self.factors) == 3 else None

    @property
    def patterns(self) -> Any:
        """Patterns that overlaps are measured with, ``(K, N)`` or ``(samples, K, N)``."""
        if self.reference is not None:
            return self.reference
        return self.factors if self.mixing is None else np.matmul(self.mixing, self.factors)

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels, the default on a CPU first."""
        return ("blocked", "dual", "site", "little")

    def matrix(self) -> np.ndarray:
        """J as a dense array, ``(N, N)`` or ``(samples, N, N)``, float64; for small N."""
        x = np.asarray(self.factors, np.float64)
        J = self.weight * np.matmul(np.swapaxes(x, -1, -2), x)
        return J if self.diagonal else J * (1 - np.eye(self.N))

    def cast(self, dtype: Any) -> FactoredCoupling:
        """The same coupling with all arrays in a floating dtype."""

        def to(x: Any) -> Any:
            return None if x is None else jnp.asarray(x, dtype)

        return dataclasses.replace(
            self,
            factors=to(self.factors),
            field=to(self.field),
            mixing=to(self.mixing),
            reference=to(self.reference),
        )

    def kernel(self, name: str, rule: str, block_size: int) -> Kernel:
        """The functions of one kernel (:class:`statmech.kernels.Kernel`), for one sample."""
        choice(name, "kernel", self.kernels)
        choice(rule, "rule", RULES)
        parts = FactorParts(self.factors, self.field, self.weight, self.diagonal)
        if name == "dual":
            start, sweep = dual(self.factors, parts.bias, self.weight)
        elif name == "little":
            start, sweep = little(parts)
        else:
            start, sweep = {"blocked": blocked, "site": site}[name](parts, rule, block_size)

        def memory(state: Any) -> Any:
            return state.memory[1] if name == "little" else state.memory

        def energy(state: Any) -> Any:
            return parts.energy(state.spins, memory(state))

        def overlaps(state: Any) -> Any:
            if self.reference is not None:
                return jnp.matmul(self.reference, state.spins) / self.N
            m = memory(state) / self.N
            return m if self.mixing is None else jnp.matmul(self.mixing, m)

        return Kernel(start, sweep, energy, overlaps, LANES)


def hebbian_coupling(
    patterns: ArrayLike,
    *,
    c: float = 0.5,
    field: ArrayLike | None = None,
    reference: ArrayLike | None = None,
    diagonal: bool = False,
) -> FactoredCoupling:
    r"""The Hebbian rule.

    .. math:: H = -\frac{c}{N} \sum_\mu \sum_{i \ne j} \xi_i^\mu \xi_j^\mu \sigma_i \sigma_j
              - \sum_i b_i \sigma_i, \qquad J = \frac{2c}{N} \xi^\top \xi

    c = 1/2 is the normalisation of :func:`statmech.hopfield`; for multitasking networks with
    normalisation g take c = 1/(2g).

    Args:
        patterns: ``(K, N)`` real: -1 and 1, diluted, or averages of examples; ``(samples, K, N)``
            for independent networks.
        c: prefactor, > 0, default 1/2.
        field: external field b: a number, ``(N,)``, or ``(samples, N)``; default none.
        reference: patterns that overlaps are measured with, where they are not the stored ones
            (archetypes of examples), ``(K', N)`` or ``(samples, K', N)``.
        diagonal: keep the terms i = j. They are a constant of the energy and do not enter
            single-spin dynamics; in synchronous dynamics they do. Default False.

    Returns:
        :class:`FactoredCoupling`.

    Raises:
        ShapeError: not two or three axes, an axis of length 0, shapes that do not match.
        DomainError: NaN or infinite entries, ``c <= 0``.

    Warns:
        DeepLimitsWarning: ``diagonal=True``; the message says what it does.

    Source: J. J. Hopfield, PNAS 79, 2554 (1982) [hopfield1982].

    Check: ``tests/statmech/test_coupling.py::test_energies_against_the_matrix``
    """
    x = as_patterns(patterns)
    number(c, "c", above=0)
    return _factored(x, None, reference, field, 2 * float(c) / x.shape[-1], diagonal, "hebbian")


def pseudo_inverse_coupling(
    patterns: ArrayLike,
    *,
    c: float = 0.5,
    field: ArrayLike | None = None,
    diagonal: bool = False,
) -> FactoredCoupling:
    r"""The pseudo-inverse (projection) rule, for patterns of any correlation.

    .. math:: J = 2c\, X^\top (X X^\top)^{-1} X = 2c\, Q^\top Q, \qquad X = L Q,

    with orthonormal rows Q from a QR factorisation, so that no inverse is formed and the kernels
    work on K rows as for the Hebbian rule. H as there.

    Args:
        patterns: ``(K, N)`` linearly independent rows, or ``(samples, K, N)``.
        c: prefactor, > 0, default 1/2: the projector itself.
        field: external field: a number, ``(N,)``, or ``(samples, N)``; default none.
        diagonal: keep the terms i = j, whose sum over i is the constant 2cK. Default False.

    Returns:
        :class:`FactoredCoupling`; its overlaps are those with ``patterns``.

    Raises:
        ShapeError: as for :func:`hebbian_coupling`.
        DomainError: likewise; rows that are linearly dependent (K > N, repeated patterns).

    Source: L. Personnaz, I. Guyon and G. Dreyfus, J. Physique Lett. 46, 359 (1985); I. Kanter and
        H. Sompolinsky, Phys. Rev. A 35, 380 (1987).

    Check: ``tests/statmech/test_coupling.py::test_pseudo_inverse_is_the_projector``
    """
    x = np.asarray(as_patterns(patterns), np.float64)
    number(c, "c", above=0)
    ranks = np.linalg.matrix_rank(x)
    if np.any(ranks < x.shape[-2]):
        raise DomainError(
            f"patterns must be linearly independent, but {x.shape[-2]} rows of length "
            f"{x.shape[-1]} have rank {int(np.min(ranks))}. Drop repeated or dependent patterns."
        )
    stack = x.reshape(-1, *x.shape[-2:])
    pairs = [scipy.linalg.qr(one.T, mode="economic") for one in stack]
    q = np.stack([q.T for q, _ in pairs]).reshape(x.shape)
    mixing = np.stack([r.T for _, r in pairs]).reshape(*x.shape[:-1], x.shape[-2])
    return _factored(q, mixing, None, field, 2 * float(c), diagonal, "pseudo_inverse")


def _factored(
    x: Any, mixing: Any, reference: Any, field: Any, weight: float, diagonal: bool, rule: str
) -> FactoredCoupling:
    reference = as_reference(reference, (*x.shape[:-2], x.shape[-1]))
    if diagonal:
        warnings.warn(
            "diagonal=True: the self-couplings J_ii shift every energy by a constant and act on "
            "the spins in synchronous (little) dynamics only.",
            DeepLimitsWarning,
            stacklevel=3,
        )
    field = as_field(field, (*x.shape[:-2], x.shape[-1]))
    return FactoredCoupling(x, field, mixing, reference, weight, bool(diagonal), rule)


def as_patterns(patterns: ArrayLike, name: str = "patterns") -> Array:
    """Patterns ``(K, N)`` or ``(samples, K, N)`` of real numbers, integers left as they are.

    Raises:
        ShapeError: other numbers of axes, or an axis of length 0.
        DomainError: not real, NaN or infinite.
    """
    x = np.asarray(patterns) if not hasattr(patterns, "dtype") else patterns
    if x.dtype.kind not in "iu":
        x = as_real(x, name)
    if x.ndim not in (2, 3) or 0 in x.shape:
        raise ShapeError(f"{name} must have shape (K, N) or (samples, K, N), got {x.shape}.")
    finite(x, name)
    result: Array = x
    return result


def as_reference(reference: ArrayLike | None, shape: tuple[int, ...]) -> Array | None:
    """Patterns for overlaps that belong to spins of ``shape``, ``(N,)`` or ``(samples, N)``.

    Raises:
        ShapeError: patterns of other spins or samples.
        DomainError: not real, NaN or infinite.
    """
    if reference is None:
        return None
    x = as_patterns(reference, "reference")
    if (*x.shape[:-2], x.shape[-1]) != shape:
        wanted = (*shape[:-1], "K", shape[-1])
        raise ShapeError(
            "reference must have the spins and samples of the coupling, shape "
            f"({', '.join(map(str, wanted))}), got {x.shape}."
        )
    return x


def as_field(field: ArrayLike | None, shape: tuple[int, ...]) -> np.ndarray:
    """External field as float64 of ``shape``, ``(N,)`` or ``(samples, N)``.

    Raises:
        ShapeError: a field that does not broadcast to ``shape``.
        DomainError: not real, NaN or infinite.
    """
    if field is None:
        return np.zeros(shape)
    b = np.asarray(as_real(field, "field"), np.float64)
    finite(b, "field")
    if b.ndim > len(shape) or any(n not in (1, m) for n, m in zip(b.shape[::-1], shape[::-1])):  # noqa: B905
        raise ShapeError(f"field must be a number or have shape {shape}, got {b.shape}.")
    return np.array(np.broadcast_to(b, shape))
