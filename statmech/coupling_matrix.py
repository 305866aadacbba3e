"""Couplings given by a symmetric matrix, one or a batch of disorder samples, and the SK model."""

from __future__ import annotations

import dataclasses
import functools
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DeepLimitsWarning, DomainError, ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import as_key, as_real, choice, finite, integer, number
from statmech.coupling import as_field, as_reference
from statmech.kernels import LANES, RULES, Kernel
from statmech.kernels_blocked import blocked, site
from statmech.kernels_parallel import little
from statmech.kernels_parts import MatrixParts


@functools.partial(
    register_dataclass,
    data_fields=("J", "own", "field", "reference"),
    meta_fields=("diagonal", "rule"),
)
@dataclasses.dataclass(frozen=True)
class MatrixCoupling:
    r"""A Hamiltonian :math:`H = -\sum_{i<j} J_{ij} \sigma_i \sigma_j - \sum_i b_i \sigma_i`.

    Attributes:
        J: symmetric with zero diagonal, ``(N, N)`` or ``(samples, N, N)``.
        own: the diagonal that was given, ``(N,)`` or ``(samples, N)``.
        field: external field b, ``(N,)`` or ``(samples, N)``.
        reference: patterns that overlaps are measured with, or None.
        diagonal: whether ``own`` is kept.
        rule: name of the ensemble.
    """

    J: Any
    own: Any
    field: Any
    reference: Any
    diagonal: bool
    rule: str

    @property
    def N(self) -> int:
        """Number of spins."""
        return int(self.J.shape[-1])

    @property
    def samples(self) -> int | None:
        """Number of disorder samples, None for a single one."""
        return int(self.J.shape[0]) if np.ndim(self.J) == 3 else None

    @property
    def patterns(self) -> Any:
        """Patterns that overlaps are measured with, or None."""
        return self.reference

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels, the default first."""
        return ("blocked", "site", "little")

    def matrix(self) -> np.ndarray:
        """J as it is used, float64."""
        J = np.asarray(self.J, np.float64)
        return J + np.asarray(self.own)[..., None] * np.eye(self.N) if self.diagonal else J

    def cast(self, dtype: Any) -> MatrixCoupling:
        """The same coupling with all arrays in a floating dtype."""
        reference = None if self.reference is None else jnp.asarray(self.reference, dtype)
        J, own, field = (jnp.asarray(x, dtype) for x in (self.J, self.own, self.field))
        return MatrixCoupling(J, own, field, reference, self.diagonal, self.rule)

    def kernel(self, name: str, rule: str, block_size: int) -> Kernel:
        """The functions of one kernel (:class:`statmech.kernels.Kernel`), for one sample."""
        choice(name, "kernel", self.kernels)
        choice(rule, "rule", RULES)
        parts = MatrixParts(self.J, self.own, self.field, self.diagonal)
        if name == "little":
            start, sweep = little(parts)
        else:
            start, sweep = {"blocked": blocked, "site": site}[name](parts, rule, block_size)

        def energy(state: Any) -> Any:
            if name == "little":
                return parts.total(state.spins, state.memory[0]) / self.N
            return state.memory / self.N

        def overlaps(state: Any) -> Any:
            if self.reference is None:
                return jnp.zeros((0, state.spins.shape[1]), self.J.dtype)
            return jnp.matmul(self.reference, state.spins) / self.N

        return Kernel(start, sweep, energy, overlaps, LANES)


def matrix_coupling(
    J: ArrayLike,
    *,
    field: ArrayLike | None = None,
    reference: ArrayLike | None = None,
    diagonal: bool = False,
) -> MatrixCoupling:
    r"""Couplings from a symmetric matrix, :math:`H = -\frac12 \sum_{i \ne j} J_{ij} \sigma_i
    \sigma_j - \sum_i b_i \sigma_i`.

    Args:
        J: ``(N, N)`` symmetric, or ``(samples, N, N)``.
        field: external field: a number, ``(N,)``, or ``(samples, N)``; default none.
        reference: patterns that overlaps are measured with, ``(K, N)`` or ``(samples, K, N)``.
        diagonal: keep a non-zero diagonal of J. It is a constant of the energy and acts on the
            spins in synchronous dynamics only. Default False.

    Returns:
        :class:`MatrixCoupling`.

    Raises:
        ShapeError: J not square, shapes that do not match.
        DomainError: NaN or infinite entries; J not symmetric, for which no energy exists.

    Warns:
        DeepLimitsWarning: J has a diagonal; the message says what is done with it.

    Source: textbook. Check: ``tests/statmech/test_coupling.py::test_energies_against_the_matrix``
    """
    J = np.asarray(as_real(J, "J"))
    if J.ndim not in (2, 3) or J.shape[-1] != J.shape[-2] or 0 in J.shape:
        raise ShapeError(f"J must have shape (N, N) or (samples, N, N), got {J.shape}.")
    finite(J, "J")
    gap, scale = np.abs(J - np.swapaxes(J, -1, -2)).max(), np.abs(J).max()
    if gap > (1e-12 if J.dtype == np.float64 else 1e-6) * scale:
        raise DomainError(
            f"J must be symmetric, but |J - J.T| reaches {gap:.3g} (largest entry {scale:.3g}). "
            "Without symmetry there is no energy, and no Gibbs sampler. Use (J + J.T) / 2."
        )
    own = np.array(np.diagonal(J, axis1=-2, axis2=-1))
    if own.any():
        constant = -float(own.mean()) / 2
        done = (
            f"kept: it shifts the energy per spin by {constant:.6g} and acts in synchronous "
            "(little) dynamics"
            if diagonal
            else f"set to zero, which leaves out the constant {constant:.6g} of the energy per spin"
        )
        warnings.warn(f"the diagonal of J is {done}.", DeepLimitsWarning, stacklevel=2)
    J = J * (1 - np.eye(J.shape[-1], dtype=J.dtype))
    return _matrix(J, own, field, reference, diagonal, "matrix")


def _matrix(
    J: Any, own: Any, field: Any, reference: Any, diagonal: bool, rule: str
) -> MatrixCoupling:
    shape = (*J.shape[:-2], J.shape[-1])
    patterns = as_reference(reference, shape)
    return MatrixCoupling(J, own, as_field(field, shape), patterns, bool(diagonal), rule)


def sk_coupling(
    N: int,
    *,
    key: Key,
    samples: int | None = None,
    J0: float = 0.0,
    law: str = "gaussian",
    field: ArrayLike | None = None,
) -> MatrixCoupling:
    r"""Random couplings of the Sherrington-Kirkpatrick model.

    .. math:: H = -\sum_{i<j} J_{ij} \sigma_i \sigma_j - \sum_i b_i \sigma_i, \qquad
              J_{ij} \sim \mathcal{N}(J_0 / N, 1/N) \quad (i < j)

    Args:
        N: number of spins, >= 2.
        key: random key or integer seed. Sample number s is the same whatever ``samples``.
        samples: number of independent disorder samples, >= 1; default None: one without an axis.
        J0: ferromagnetic bias, default 0.
        law: ``"gaussian"`` or ``"binary"`` (plus or minus :math:`N^{-1/2}`, the same limit).
        field: external field: a number, ``(N,)``, or ``(samples, N)``; default none.

    Returns:
        :class:`MatrixCoupling` in float32 (each realisation is exact as it stands).

    Raises:
        DomainError: arguments out of range; more than 16 GB of couplings.

    Source: D. Sherrington and S. Kirkpatrick, Phys. Rev. Lett. 35, 1792 (1975).

    Check: ``tests/statmech/test_coupling.py::test_sk_moments``
    """
    integer(N, "N", at_least=2)
    number(J0, "J0")
    choice(law, "law", ("gaussian", "binary"))
    count = 1 if samples is None else integer(samples, "samples", at_least=1)
    memory_guard(8.0 * count * N**2, "the couplings", "Take fewer samples or spins.")
    keys = jax.vmap(lambda s: jax.random.fold_in(as_key(key), s))(jnp.arange(count))
    # symmetrised here: XLA rounds an entry and its mirror image differently when it fuses them
    upper = np.asarray(_upper_triangles(keys, N, law))
    J = upper + np.swapaxes(upper, -1, -2)
    J += np.float32(J0 / N) * (1 - np.eye(N, dtype=np.float32))
    J = J[0] if samples is None else J
    return _matrix(J, np.zeros(J.shape[:-1], np.float32), field, None, False, "sk")


@functools.partial(jax.jit, static_argnames=("N", "law"))
def _upper_triangles(keys: Any, N: int, law: str) -> Any:
    """``(samples, N, N)`` float32, zero on and below the diagonal, variance 1/N above."""

    def one(key: Any) -> Any:
        draw = jax.random.normal if law == "gaussian" else jax.random.rademacher
        return jnp.triu(draw(key, (N, N), jnp.float32), 1) * jnp.float32(N**-0.5)

    return jax.lax.map(one, keys)


def memory_guard(need: float, what: str, remedy: str, limit: float = 16e9) -> None:
    """Raise :class:`DomainError` if ``need`` bytes are more than ``limit``, with the estimate."""
    if need > limit:
        raise DomainError(
            f"{what} would take {need / 1e9:.3g} GB, more than the {limit / 1e9:.3g} GB that this "
            f"function allocates. {remedy}"
        )
