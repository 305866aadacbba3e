"""Monte Carlo simulation of spin models, batched over chains, temperatures and disorder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import as_key, as_real, choice, finite, integer
from statmech import montecarlo_checkpoint as checkpoints
from statmech.coupling_matrix import memory_guard
from statmech.kernels import KERNELS, RULES, Coupling
from statmech.montecarlo_core import Layout
from statmech.montecarlo_record import Simulation
from statmech.montecarlo_run import Run

#: Sites per block of the blocked kernels; a divisor of N in this range saves the filling up.
BLOCK_SIZES = (32, 64)
#: Spin updates between two returns to Python (and refreshes of what kernels carry along).
CHUNK_UPDATES = 2e8


@float64_scope
def simulate(
    coupling: Coupling,
    *,
    key: Key,
    T: ArrayLike,
    sweeps: int,
    chains: int = 64,
    kernel: str = "auto",
    rule: str = "heatbath",
    start: Any = "random",
    target: ArrayLike = 0,
    burn_in: int | None = None,
    every: int = 1,
    dtype: str = "float32",
    block_size: int | None = None,
    progress: bool = True,
    checkpoint: str | Path | None = None,
) -> Simulation:
    r"""Sample spins from :math:`e^{-H(\sigma)/T}` (or Little's law) by Monte Carlo.

    Kernels, one sweep being N updates:

    - ``"blocked"``: sites in order, one after the other, at the speed of matrix products;
    - ``"dual"``: all spins given hidden Gaussian units, for couplings :math:`X^\top X`, T > 0;
    - ``"site"``: sites at random, with detailed balance;
    - ``"little"``: all spins given the old state, synchronously. **Another stationary law**, that
      of Little's model: not a fast way to the Boltzmann law.

    Columns (temperatures times chains) and disorder samples are batched. Energies accumulate in
    float64, whatever ``dtype``.

    Args:
        coupling: :func:`statmech.hebbian_coupling`, :func:`statmech.pseudo_inverse_coupling`,
            :func:`statmech.matrix_coupling`, :func:`statmech.sk_coupling`,
            :func:`statmech.dense_coupling`, :func:`statmech.p_spin_coupling`, or any object as
            described in :mod:`statmech.kernels`.
        key: random key or integer seed.
        T: temperature >= 0 in units of the coupling, a number or ``(temperatures,)``. T = 0 is
            the limit itself: a spin follows the sign of its field; without field the heat bath
            draws it, Metropolis flips it.
        sweeps: measured sweeps, >= 1, a multiple of ``every``.
        chains: independent chains per temperature and disorder sample, >= 1, default 64.
        kernel: as above; ``"auto"`` (default): the coupling's first kernel on a CPU, and on an
            accelerator ``"dual"`` where it is offered, for the heat bath at T > 0.
        rule: ``"heatbath"`` (default) or ``"metropolis"`` (blocked and site only).
        start: ``"random"``, ``"pattern"`` (each chain at its ``target``; zeros of diluted patterns
            are drawn, other entries give their sign), or spins of -1 and 1 that broadcast to
            ``(temperatures, samples, chains, N)`` without the axes that are absent.
        target: index of the pattern whose overlap is recorded, a number or ``(chains,)``.
        burn_in: sweeps before the first measured one, >= 0; default a quarter of ``sweeps``.
        every: sweeps per measurement, >= 1, default 1.
        dtype: ``"float32"`` or ``"float64"``. Sums of patterns of -1, 0, 1 are exact in both.
        block_size: sites per block, >= 1; changes the speed, not the trajectory. Default: chosen.
        progress: show a bar if the run takes longer than two seconds.
        checkpoint: file (``.npz``) to which the run is saved every half minute, at its end, and
            when it is interrupted. If it exists the run goes on where it stopped, with the same
            result bit by bit; with a larger ``sweeps`` a finished run is prolonged (its energies
            are then those of one long run up to rounding).

    Returns:
        :class:`statmech.montecarlo_record.Simulation`.

    Raises:
        DomainError: an argument out of range; a kernel that the coupling does not offer; "dual" at
            T = 0; "dual" or "little" with Metropolis; more memory than 16 GB.
        ShapeError: ``T``, ``start`` or ``target`` of the wrong shape.
        DataError: a checkpoint that is damaged or of another run.

    Source: heat bath: R. J. Glauber, J. Math. Phys. 4, 294 (1963); Metropolis et al., J. Chem.
        Phys. 21, 1087 (1953); the batching derived here.

    Check: ``tests/statmech/test_montecarlo.py::test_against_enumeration``, and the claims
        ``statmech/monte-carlo-*``.
    """
    temperatures = _temperatures(T)
    integer(chains, "chains", at_least=1)
    integer(every, "every", at_least=1)
    if block_size is None:
        block_size = _block_size(coupling.N)
    integer(block_size, "block_size", at_least=1)
    if integer(sweeps, "sweeps", at_least=1) % every:
        raise DomainError(f"sweeps must be a multiple of every = {every}, got {sweeps}.")
    burn_in = sweeps // 4 if burn_in is None else integer(burn_in, "burn_in", at_least=0)
    choice(dtype, "dtype", ("float32", "float64"))
    name = _choose_kernel(coupling, kernel, rule, temperatures)
    columns = temperatures.size * chains
    size = coupling.N * columns * (coupling.samples or 1)
    memory_guard(
        8.0 * size * (3 if dtype == "float32" else 6) + 16.0 * sweeps / every * size / coupling.N,
        "this simulation",
        "Take fewer chains, temperatures or samples, or a larger every.",
    )
    key = as_key(key)
    aims = _targets(coupling, target, chains)
    spins = _start(coupling, start, aims, jax.random.fold_in(key, 1), T, temperatures, chains)
    chunk = int(np.clip(CHUNK_UPDATES / size, 1, 1000))
    layout = Layout(
        name, rule, block_size, temperatures.size, chains, max(1, chunk // every), dtype
    )
    run = Run(
        coupling, spins, jax.random.fold_in(key, 0), temperatures, aims, layout,
        sweeps=sweeps, burn_in=burn_in, every=every, chunk=chunk,
    )  # fmt: skip
    checkpoints.execute(run, Path(checkpoint) if checkpoint is not None else None, progress)
    return run.result(np.ndim(T) > 0)


def _temperatures(T: ArrayLike) -> np.ndarray:
    """Temperatures ``(n,)`` float64."""
    values = np.asarray(as_real(T, "T"), np.float64)
    if values.ndim > 1 or values.size == 0:
        raise ShapeError(f"T must be a number or have shape (temperatures,), got {values.shape}.")
    finite(values, "T")
    if np.any(values < 0):
        raise DomainError(f"T must be >= 0, got {values.min():g}.")
    return np.atleast_1d(values)


def _choose_kernel(coupling: Any, kernel: str, rule: str, T: np.ndarray) -> str:
    """The kernel to use, after checks of the combination."""
    choice(kernel, "kernel", ("auto", *KERNELS))
    choice(rule, "rule", RULES)
    offered = tuple(coupling.kernels)
    if kernel == "auto":
        fast = "dual" in offered and rule == "heatbath" and bool(np.all(T > 0))
        return "dual" if fast and jax.default_backend() != "cpu" else offered[0]
    if kernel not in offered:
        raise DomainError(
            f"kernel must be one of {', '.join(map(repr, offered))} for this coupling, "
            f"got {kernel!r}."
        )
    if kernel in ("dual", "little") and rule != "heatbath":
        raise DomainError(f"kernel {kernel!r} is a heat bath, got rule={rule!r}.")
    if kernel == "dual" and np.any(T == 0):
        raise DomainError(
            "kernel 'dual' needs T > 0: at T = 0 it stops in states that single-spin dynamics "
            "leaves. Use 'blocked'."
        )
    return kernel


def _block_size(N: int) -> int:
    """The largest divisor of N in the range of good sizes, or the upper end of the range."""
    low, high = BLOCK_SIZES
    return next((b for b in range(high, low - 1, -1) if N % b == 0), high)


def _targets(coupling: Any, target: ArrayLike, chains: int) -> np.ndarray:
    """Index of the recorded pattern for each chain ``(chains,)``."""
    aims = np.asarray(target)
    if aims.shape not in ((), (chains,)):
        raise ShapeError(f"target must be an integer or have shape ({chains},), got {aims.shape}.")
    number = 1 if coupling.patterns is None else coupling.patterns.shape[-2]
    if aims.dtype.kind not in "iu" or np.any((aims < 0) | (aims >= number)):
        raise DomainError(f"target must be integers in 0..{number - 1}, got {target!r}.")
    return np.array(np.broadcast_to(aims, (chains,)), np.int32)


def _start(
    coupling: Any,
    start: Any,
    aims: np.ndarray,
    key: Any,
    T: ArrayLike,
    temperatures: np.ndarray,
    chains: int,
) -> np.ndarray:
    """First spins, ``(N, B)`` or ``(samples, N, B)``, int8."""
    disorder = () if coupling.samples is None else (coupling.samples,)
    full = (temperatures.size, *disorder, chains, coupling.N)
    if isinstance(start, str):
        choice(start, "start", ("random", "pattern"))
        spins = np.asarray(jax.random.rademacher(key, full, jnp.int8))
        if start == "pattern":
            if coupling.patterns is None:
                raise DomainError(
                    "start='pattern' needs a coupling with patterns. Give reference=patterns "
                    "to the coupling, or spins as start."
                )
            sign = np.sign(np.asarray(coupling.patterns)).astype(np.int8)[..., aims, :]
            spins = np.where(sign == 0, spins, sign)
    else:
        given = np.asarray(start)
        if given.dtype.kind not in "iuf" or not np.isin(given, (-1, 1)).all():
            raise DomainError("start must hold spins of -1 and 1 only, or be 'random', 'pattern'.")
        if np.ndim(T) == 0 and given.ndim == len(full):
            raise ShapeError(_start_message(full[1:], given.shape))
        try:
            spins = np.broadcast_to(given, full).astype(np.int8)
        except ValueError as error:
            allowed = full if np.ndim(T) else full[1:]
            raise ShapeError(_start_message(allowed, given.shape)) from error
    # (temperatures, samples, chains, N) -> (samples, N, temperatures * chains)
    spins = np.moveaxis(spins, (0, -2, -1), (-2, -1, -3))
    return np.ascontiguousarray(spins.reshape(*disorder, coupling.N, -1))


def _start_message(allowed: tuple[int, ...], came: tuple[int, ...]) -> str:
    return f"start must broadcast to {allowed} (chains and spins last), got shape {came}."
