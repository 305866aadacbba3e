r"""Claim: parallel tempering of the SK model, extrapolated in its size, against Parisi's solution.

Below the transition the energy approaches its limit as :math:`N^{-2/3}`, then :math:`N^{-1}`, above
it in whole powers of 1/N. From three sizes one combination is free of the first two powers.
Two powers are needed: one alone, fitted to 16 to 128 spins, misses the energy at T = 0.6 by 4e-3.
Closer to the transition two do not suffice (at T = 1.2 they miss by 1.5e-3), hence no temperatures
from there. The third power shifts the limits below T_c by half a standard error or so.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from deeplimits.claims import Claim, register
from deeplimits.estimates import Estimate
from statmech.coupling_matrix import sk_coupling
from statmech.parisi import parisi
from statmech.tempering import parallel_tempering

#: Temperatures of the walkers, and those of them that are compared.
LADDER = (0.45, 0.55, 0.65, 0.77, 0.9, 1.08, 2.0)
TEMPERATURES = (0.45, 0.55, 0.65, 2.0)
#: Spins: disorder samples, sweeps of burn-in, measured sweeps.
PLAN = {16: (3000, 25, 25), 48: (1500, 50, 40), 128: (500, 200, 60)}


def theory() -> np.ndarray:
    r"""Energy; mean square overlap, above T_c times N; 0 for the identity at each size. ``(5, T)``.

    Above T_c the overlap is Gaussian, of variance :math:`1 / (N (1 - T^{-2}))`.
    """
    states = [parisi("sk", T, 2 if T < 1 else 0) for T in TEMPERATURES]
    q2 = [s.moment(2) if s.T < 1 else 1 / (1 - s.T**-2) for s in states]
    zero = np.zeros((len(PLAN), len(states)))
    return np.concatenate([[[s.U for s in states]], [q2], zero])


def trace_controls(J: np.ndarray) -> np.ndarray:
    r"""Traces of the powers 2, 3, 4 of the couplings per spin less their means, ``(samples, 3)``.

    .. math:: [\mathrm{tr} J^2] = N - 1, \quad [\mathrm{tr} J^3] = 0, \quad
              [\mathrm{tr} J^4] = (N - 1)(2N - 1) / N

    Source: derived here, by counting closed walks.
    Check: ``tests/statmech/test_claims_tempering.py::test_traces``
    """
    N = J.shape[-1]
    square = np.matmul(J, J)
    traces = [np.trace(square, axis1=1, axis2=2), (square * J).sum((1, 2)), (square**2).sum((1, 2))]
    means = [N - 1, 0, (N - 1) * (2 * N - 1) / N]
    return (np.stack(traces, axis=1) - np.array(means)) / N


def controlled_mean(x: np.ndarray, controls: np.ndarray) -> tuple[Any, Any]:
    """Mean of x ``(samples,)`` and its error, less what controls of mean zero explain of it.

    Check: ``tests/statmech/test_claims_tempering.py::test_controlled_mean``
    """
    design = np.column_stack([np.ones(len(x)), controls])
    coefficients = np.linalg.lstsq(design, x, rcond=None)[0]
    left = x - design @ coefficients
    return coefficients[0], left.std(ddof=design.shape[1]) / len(x) ** 0.5


def measure(key: Any, N: int) -> tuple[np.ndarray, np.ndarray]:
    r"""Energy, :math:`[\langle q^2 \rangle]` and identity at N spins: means and errors, ``(3, T)``.

    Integration by parts over the couplings gives :math:`[U]/N = -(1 - [\langle q^2 \rangle])/2T` at
    every N. What a sample adds to the difference of the two sides is 0 on average in equilibrium
    (and high on the way there, so that the identity tells when the burn-in was too short), and
    strongly correlated with the energy: with the traces it takes off nine tenths of the variance.
    """
    samples, burn_in, sweeps = PLAN[N]
    for_disorder, for_run = jax.random.split(key)
    coupling = sk_coupling(N, key=for_disorder, samples=samples)
    run = parallel_tempering(
        coupling, LADDER, key=for_run, sweeps=sweeps, burn_in=burn_in, replicas=4, progress=False
    )
    traces = trace_controls(np.asarray(coupling.J, np.float64))
    mean, error = np.zeros((2, 3, len(TEMPERATURES)))
    for t, T in enumerate(TEMPERATURES):
        row = LADDER.index(T)
        u = run.series["energy"][row].mean((-2, -1))
        q2 = (run.overlaps[row] ** 2).mean((-2, -1))
        identity = u + (1 - q2) / (2 * T)
        none = np.zeros((samples, 0))
        columns = [(u, np.column_stack([traces, identity])), (q2, none), (identity, none)]
        for i, (x, controls) in enumerate(columns):
            mean[i, t], error[i, t] = controlled_mean(x, controls)
    return mean, error


def limit_weights(sizes: Any, powers: Any) -> np.ndarray:
    r"""Weights w with which :math:`\sum_N w_N y_N` is the limit of y for corrections of two powers.

    Check: ``tests/statmech/test_claims_tempering.py::test_limit``
    """
    N = np.asarray(sizes, float)
    equations = np.stack([np.ones(len(N)), *(N**-p for p in powers)])
    return np.asarray(np.linalg.solve(equations, np.array([1.0, 0.0, 0.0])))


def experiment(key: Any, size: int) -> Estimate:
    """Limits of energy and square overlap from all sizes, and the identity at each. ``(5, T)``."""
    sizes = np.array(list(PLAN))
    found = [measure(k, int(N)) for k, N in zip(jax.random.split(key, 3), sizes, strict=True)]
    mean, error = np.moveaxis(np.array(found), 0, -1)  # (3, T, sizes)
    warm = np.array(TEMPERATURES) > 1
    scale = np.where(warm[:, None], sizes, 1)
    mean[1], error[1] = mean[1] * scale, error[1] * scale
    weights = np.stack([limit_weights(sizes, (1, 2) if w else (2 / 3, 1)) for w in warm])
    limit = (weights * mean[:2]).sum(-1)
    spread = np.sqrt((weights**2 * error[:2] ** 2).sum(-1))
    dof = min(samples for samples, _, _ in PLAN.values()) - 1
    return Estimate(np.concatenate([limit, mean[2].T]), np.concatenate([spread, error[2].T]), dof)


register(
    Claim(
        name="statmech/sk-tempering",
        source="G. Parisi, J. Phys. A 13, L115 (1980); corrections of size: T. Aspelmeier, "
        "A. Billoire, E. Marinari and M. A. Moore, J. Phys. A 41, 324008 (2008)",
        statement="Energy and mean square overlap of the SK model from parallel tempering, "
        "extrapolated in N, are those of Parisi's solution, and obey their identity at each N.",
        theory=theory,
        experiment=experiment,
        sizes=(max(PLAN),),
        z=4.0,
        cost="slow",
        quantity="u, [<q^2>] (times N at T = 2) from 16, 48, 128 spins at T = .45, .55, .65, 2; "
        "u + (1 - [<q^2>]) / 2T at each",
    )
)
