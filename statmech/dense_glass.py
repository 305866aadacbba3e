r"""States of dense Hebbian networks without an overlap: paramagnet and spin glass."""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from scipy.interpolate import CubicSpline

from deeplimits.typing import Array
from statmech.averages import hyperbolic_averages
from statmech.dense_noise import slope
from statmech.hopfield_saddle import bracketed
from statmech.p_spin import p_spin, p_spin_state

#: Ratios u = a/T of noise to temperature among which solutions are bracketed.
_RATIOS = np.geomspace(1e-4, 1e3, 401)


def _temperature(u: Array, A: Array, model: Any) -> Array:
    """Temperature at which a state without overlap has the ratio u (P >= 3)."""
    q = hyperbolic_averages(jnp.zeros_like(u), u).tanh2
    return A * jnp.sqrt(slope(model.kernel, q)) / u


def _noise(A: Array, T: Array, model: Any, *, largest: bool) -> Array:
    """The noise of the solution with the largest or smallest overlap q > 0; NaN if none."""
    u = jnp.asarray(_RATIOS)
    curve = _temperature(u, jnp.ones_like(u), model)
    above = A[:, None] * curve[None, :] > T[:, None]
    count = len(_RATIOS)
    if largest:
        last = count - 1 - jnp.argmax(above[:, ::-1], axis=1)
    else:
        last = jnp.argmin(above, axis=1) - 1
    some = jnp.any(above, axis=1) if largest else above[:, 0]
    inside = jnp.clip(last, 0, count - 2)
    T_safe = jnp.where(some & (T > 0), T, 1.0)
    A_safe = jnp.where(some & (A > 0), A, 1.0)

    def gap(log_u: Array) -> Array:
        return _temperature(jnp.exp(log_u), A_safe, model) - T_safe

    log_u = bracketed(gap, jnp.log(u[inside]), jnp.log(u[inside + 1]), (1.0, -1.0))
    a = jnp.exp(log_u) * T_safe
    frozen = above[:, -1] if largest else above.all(axis=1)
    # beyond the last ratio 1 - q < 1e-3: the noise of q = 1, corrected by iteration
    warm = jnp.where(T > 0, T, 1.0)

    def improve(_: Any, a: Array) -> Array:
        q = jnp.where(T > 0, hyperbolic_averages(0 * A, a / warm).tanh2, 1.0)
        return A * jnp.sqrt(slope(model.kernel, q))

    cold = jax.lax.fori_loop(0, 30, improve, A)
    return jnp.where(frozen, cold, jnp.where(some, a, jnp.nan))


def ordinary_overlap(A: Array, T: Array, model: Any) -> Array:
    """Noise of the paramagnet: 0, unless coincident indices act as random fields."""
    random_field = model.kernel[1] > 0
    a = jax.lax.stop_gradient(_noise(A, T, model, largest=False))
    a = jnp.where(random_field, jnp.where(A > 0, a, 0.0), 0.0)
    # for P = 2 the state exists above T = 1 (in units of 2c), as in the Hopfield network
    return jnp.where((model.P == 2) & (T <= 1), jnp.nan, a)


def glass_overlap(A: Array, T: Array, model: Any) -> Array:
    """Noise of the replica-symmetric spin glass; NaN above its onset."""
    return jnp.where(A > 0, _noise(A, T, model, largest=True), jnp.nan)


@cache
def glass_curves(P: int) -> tuple[Any, Any, Any]:
    """Free energy, energy and overlap of the P-spin glass against T, below its transition."""
    top = p_spin(P).T_c
    T = top * (1 - np.cos(np.linspace(0, np.pi / 2, 65)))
    T[0] = 0.0
    state = p_spin_state(P, np.minimum(T, top * (1 - 1e-12)))
    return CubicSpline(T, state.f), CubicSpline(T, state.U), CubicSpline(T, state.q)


def glass_scale(P: int, load: Any, c: float) -> Any:
    r"""J: distinct indices give the P-spin glass with energies times
    :math:`J = c \sqrt{2 \alpha\kappa P!}`."""
    return c * np.sqrt(2 * load * math.factorial(P))


def one_step_glass(P: int, load: np.ndarray, T: np.ndarray, c: float) -> dict[str, Any]:
    """Fields of the record of the spin glass with distinct indices (load: alpha kappa)."""
    J = glass_scale(P, load, c)
    relative = np.where(J > 0, T / np.where(J > 0, J, 1.0), np.inf)
    exists = (relative < p_spin(P).T_c) & (J > 0)
    rows, place = np.unique(np.where(exists, relative, 0.0), return_inverse=True)
    state = p_spin_state(P, np.where((rows > 0) & (rows < 1e-5), 1e-5, rows))
    nan = np.where(exists, 0.0, np.nan)

    def at(values: Any) -> Any:
        return np.asarray(values)[place.ravel()] + nan

    replicon = at(np.where(rows > 0, state.replicon, -np.inf))
    return {
        "Mhat": nan,
        "m": nan,
        "nhat": nan,
        "q": at(state.q),
        "f": J * at(state.f),
        "U": J * at(state.U),
        "replicon": replicon,
        "locally_stable": exists,
        "stable": exists & (replicon > 0),
        "residual": nan,
        "exists": exists,
    }
