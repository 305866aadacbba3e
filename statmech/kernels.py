r"""What a Monte Carlo kernel is, and the random thresholds that all of them share.

A kernel works on one disorder sample and on B independent columns (chains and temperatures) at
once: spins ``(N, B)``, temperatures ``(B,)``. Disorder samples are added outside by ``jax.vmap``.

A coupling is anything with

- ``N``: number of spins; ``samples``: number of disorder samples, or None for a single one;
- ``kernels``: names of the kernels it offers, the first of which is the default;
- ``patterns``: ``(K, N)`` or ``(samples, K, N)`` against which overlaps are measured, or None;
- ``cast(dtype)``: itself with floating arrays of that dtype;
- ``kernel(name, rule, block_size)``: a :class:`Kernel`, called inside ``jit`` on one sample;

registered as a pytree whose leaves all have the disorder axis first when ``samples`` is not None.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp

from deeplimits.typing import Array, Key

KERNELS = ("blocked", "dual", "site", "little")
RULES = ("heatbath", "metropolis")
#: Columns that fill the vector registers of common CPUs.
LANES = 8


class State(NamedTuple):
    """Spins ``(N, B)`` and what a kernel carries along with them (overlaps, fields, energies)."""

    spins: Any
    memory: Any


class Kernel(NamedTuple):
    """One way to move spins, as four functions.

    Attributes:
        start: spins ``(N, B)`` -> :class:`State`; recomputes the memory from the spins alone.
        sweep: (state, key, T ``(B,)``) -> (state, number of changed spins ``(B,)``), N updates.
        energy: state -> energies per spin ``(B,)``, float64.
        overlaps: state -> overlaps with the patterns ``(K, B)``; ``(0, B)`` without patterns.
        lanes: a multiple of this number of columns is done in less time than a few less.
    """

    start: Callable[[Any], State]
    sweep: Callable[[State, Key, Any], tuple[State, Any]]
    energy: Callable[[State], Any]
    overlaps: Callable[[State], Any]
    lanes: int = 1


def aligned(kernel: Kernel, columns: int) -> Kernel:
    """The kernel with idle columns up to a multiple of its ``lanes``; only its spins show them.

    Products of matrices with 28 columns take a third longer than with 32, loops over them half as
    long again. Few columns are left as they are.
    """
    extra = -columns % kernel.lanes
    if extra == 0 or 2 * columns <= kernel.lanes:
        return kernel

    def start(spins: Any) -> State:
        return kernel.start(jnp.pad(spins, ((0, 0), (0, extra)), mode="edge"))

    def sweep(state: State, key: Key, T: Any) -> tuple[State, Any]:
        state, flips = kernel.sweep(state, key, jnp.pad(T, (0, extra), mode="edge"))
        return state, flips[:columns]

    def energy(state: State) -> Any:
        return kernel.energy(state)[:columns]

    def overlaps(state: State) -> Any:
        return kernel.overlaps(state)[:, :columns]

    return Kernel(start, sweep, energy, overlaps)


class Coupling(Protocol):
    """What :func:`statmech.simulate` needs to know about a Hamiltonian (see the module)."""

    @property
    def N(self) -> int:
        """Number of spins."""
        ...

    @property
    def samples(self) -> int | None:
        """Number of disorder samples, None for a single one."""
        ...

    @property
    def kernels(self) -> tuple[str, ...]:
        """Names of the kernels offered, the default first."""
        ...

    @property
    def patterns(self) -> Any:
        """Patterns for the overlaps, or None."""
        ...

    def cast(self, dtype: Any) -> Any:
        """The same coupling in another floating dtype."""
        ...

    def kernel(self, name: str, rule: str, block_size: int) -> Kernel:
        """The functions of one kernel."""
        ...


def random_words(key: Key, shape: tuple[int, int], dtype: Any) -> jax.Array:
    """Random unsigned integers, as wide as ``dtype``.

    Why not ``jax.random.bits`` of 32 bits: the generator makes 64 at a time and throws half away.
    """
    rows, columns = shape
    if jnp.dtype(dtype) == jnp.float64:
        return jax.random.bits(key, shape, jnp.uint64)
    both = jax.random.bits(key, ((rows + 1) // 2, columns), jnp.uint64)
    halves = [(both >> 32).astype(jnp.uint32), both.astype(jnp.uint32)]
    return jnp.concatenate(halves)[:rows]


def thresholds(
    rule: str, key: Key, shape: tuple[int, int], T: jax.Array, unit: float, dtype: Any
) -> jax.Array:
    r"""Random thresholds that turn an update into one comparison.

    With the local field h = ``unit`` F and uniform u:

    .. math:: \text{heat bath: } \sigma' = \mathrm{sign}(F - t), \; t = \frac{T}{2\,unit}
              \ln\frac{u}{1-u}, \qquad
              \text{Metropolis: flip if } \sigma F \le t, \; t = -\frac{T}{2\,unit} \ln u.

    u has 32 random bits and is never 0; in the heat bath one bit is the sign of the logit, so that
    both tails reach :math:`2^{-33}`, where those of a float32 uniform stop at :math:`2^{-24}`. At
    T = 0 the heat bath keeps thresholds of random sign and vanishing size: a spin without field is
    drawn at random, as in the limit T -> 0.

    Args:
        rule: ``"heatbath"`` or ``"metropolis"``.
        key: random key.
        shape: ``(N, B)``.
        T: temperatures ``(B,)`` >= 0, of ``dtype``.
        unit: field in units of the coupling, > 0.
        dtype: float32 or float64 (53 of 64 bits then).

    Returns:
        Array of ``shape`` and ``dtype``.

    Source: R. J. Glauber, J. Math. Phys. 4, 294 (1963) for the heat bath; the rest derived here.

    Check: ``tests/statmech/test_kernels.py::test_thresholds_follow_the_logistic_law``
    """
    words = random_words(key, shape, dtype)
    width = words.dtype.itemsize * 8
    half = jnp.asarray(0.5, dtype)
    scale = T[None, :] * jnp.asarray(0.5 / unit, dtype)
    if rule == "metropolis":
        u = (words.astype(dtype) + half) * jnp.asarray(2.0**-width, dtype)
        return -jnp.log(u) * scale
    top = jnp.asarray(1 << (width - 1), words.dtype)
    low = (words & ~top).astype(dtype)
    v = (low + half) * jnp.asarray(2.0**-width, dtype)  # in (0, 1/2]
    size = jnp.maximum(-jnp.log(v / (1 - v)) * scale, jnp.asarray(jnp.finfo(dtype).tiny, dtype))
    return jnp.where(words >= top, size, -size)


def decide(rule: str, field: jax.Array, spin: jax.Array, threshold: jax.Array) -> jax.Array:
    """New spins from fields, old spins and thresholds of one shape (see :func:`thresholds`)."""
    up = jnp.ones((), field.dtype)
    if rule == "heatbath":
        return jnp.where(field > threshold, up, -up)
    return jnp.where(spin * field <= threshold, -spin, spin)


def changed(before: Array, after: Array) -> jax.Array:
    """Number of spins per column that differ."""
    return jnp.sum(jnp.abs(after - before), axis=0) * jnp.asarray(0.5, after.dtype)
