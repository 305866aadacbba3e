r"""The pseudo-inverse (projection) rule: retrieval up to load 1, in closed form along the branch.

.. math:: H = -\tfrac12 \sigma^\top J \sigma, \qquad J = X^\top (X X^\top)^{-1} X

J is the projector onto :math:`\alpha N` patterns; given the retrieved one it is rotationally
invariant, with R-transform R. In the retrieval state the noise vanishes (q = m^2), so that

.. math:: m = \tanh\{\beta m [1 - R(\beta (1 - m^2))]\}

is the whole theory. With the field w = atanh(m) as parameter and
:math:`y = (1 - m^2)\, w / m = 2 w / \sinh 2w` it reads

.. math:: T = \frac{m}{w}\, \frac{1 - \alpha - y}{1 - y}

so that nothing is iterated and 1 - m may be as small as it likes. The diagonal of J, about alpha,
is kept in the energies: a constant. There is no continuous spin-glass transition.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import xarray as xr
from jax import lax

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_real, choice, finite

BRANCHES = ("retrieval", "paramagnet")
#: Halvings of a bracket: to the last bit.
HALVINGS = 80


@register_dataclass
@dataclasses.dataclass(frozen=True)
class PseudoInverseState:
    """A replica-symmetric state; every field has the shape of the broadcast ``alpha`` and ``T``.

    Attributes:
        alpha, T: load and temperature.
        m, q: overlap with the retrieved pattern, Edwards-Anderson parameter (m squared).
        f, U: free energy and energy per spin, the diagonal of the couplings included.
        replicon: eigenvalue 1 - beta^2 R'(c) (1 - m^2)^2, positive where locally stable.
        stable: on the stable side of the spinodal, with a positive replicon.
        residual: violation of the equation of state.
        exists: False where the branch has no solution; the other fields are NaN there.
        branch: its name.
    """

    alpha: Any
    T: Any
    m: Any
    q: Any
    f: Any
    U: Any
    replicon: Any
    stable: Any
    residual: Any
    exists: Any
    branch: str = dataclasses.field(metadata={"static": True})


@float64_scope
def pseudo_inverse(alpha: ArrayLike, T: ArrayLike, branch: str = "retrieval") -> PseudoInverseState:
    r"""Overlap, energies and stability of a network with the pseudo-inverse rule.

    .. math:: f = -\frac1\beta \left\{\frac{\beta m^2}{2} - w m + G(\beta(1 - m^2))
              + \ln 2\cosh w\right\}, \qquad G(x) = \tfrac12 \int_0^x R

    Args:
        alpha: load, in (0, 1).
        T: temperature, >= 0, broadcast with ``alpha``.
        branch: ``"retrieval"`` or ``"paramagnet"``.

    Returns:
        :class:`PseudoInverseState` in float64; NaN where the branch does not exist.

    Raises:
        DomainError: a load outside (0, 1), a negative temperature, NaN, an unknown branch; the
            paramagnet at T = 0.
        ShapeError: shapes that do not broadcast.

    Source: I. Kanter and H. Sompolinsky, Phys. Rev. A 35, 380 (1987); the parametrisation is
        derived here.

    Check: tests/statmech/test_pseudo_inverse.py
    """
    choice(branch, "branch", BRANCHES)
    a, t = _check(alpha, T)
    if branch == "paramagnet":
        if (t == 0).any():
            raise DomainError("T must be > 0 in the paramagnet: it has frozen at T = 0.")
        fields = _paramagnet(a, t)
    else:
        fields = _retrieval(a, t)
    fields = {name: np.asarray(value)[()] for name, value in fields.items()}
    return PseudoInverseState(alpha=a[()], T=t[()], branch=branch, **fields)


def _check(alpha: Any, T: Any) -> tuple[np.ndarray, np.ndarray]:
    pair = [np.asarray(as_real(v, n), float) for v, n in ((alpha, "alpha"), (T, "T"))]
    for values, name in zip(pair, ("alpha", "T"), strict=True):
        finite(values, name)
    if not ((pair[0] > 0) & (pair[0] < 1)).all():
        raise DomainError(
            f"alpha must lie in (0, 1), got {pair[0].min():g} to {pair[0].max():g}: more than N "
            "patterns have no pseudo-inverse."
        )
    if not (pair[1] >= 0).all():
        raise DomainError(f"T must be >= 0, got {pair[1].min():g}.")
    try:
        a, t = np.broadcast_arrays(*pair)
    except ValueError as error:
        raise ShapeError(f"alpha and T do not broadcast: {error}") from error
    return a, t


def _y(w: Any) -> Any:
    """2 w / sinh 2w without overflow; 1 at w = 0."""
    small = jnp.abs(w) < 1e-8
    safe = jnp.where(small, 1.0, w)
    value = 4 * safe * jnp.exp(-2 * safe) / -jnp.expm1(-4 * safe)
    return jnp.where(small, 1 - 2 * w**2 / 3, value)


def _temperature(w: Any, alpha: Any) -> Any:
    """T of the retrieval branch with field w; negative below its lower end."""
    y = _y(w)
    return jnp.tanh(w) / w * (1 - alpha - y) / (1 - y)


def _bisect(above: Any, low: Any, high: Any) -> Any:
    """Where ``above`` turns from True (at ``low``) to False, elementwise."""

    def step(_: int, ends: tuple[Any, Any]) -> tuple[Any, Any]:
        low, high = ends
        middle = (low + high) / 2
        inside = above(middle)
        return jnp.where(inside, middle, low), jnp.where(inside, high, middle)

    low, high = lax.fori_loop(0, HALVINGS, step, (low, high))
    return (low + high) / 2


@jax.jit
def _spinodal(alpha: Any) -> tuple[Any, Any]:
    """Field and temperature of the largest T on the branch."""
    start = _bisect(lambda w: _y(w) > 1 - alpha, jnp.zeros_like(alpha), jnp.full_like(alpha, 700.0))
    slope = jax.grad(lambda w, a: jnp.sum(_temperature(w, a)))
    w = _bisect(lambda w: slope(w, alpha) > 0, start, start + 60)
    return w, _temperature(w, alpha)


@jax.jit
def _retrieval(alpha: Any, T: Any) -> dict[str, Any]:
    """The stable side of the branch: the larger field at a temperature."""
    w_top, T_top = _spinodal(alpha)
    exists = T <= T_top
    cold = T == 0
    t = jnp.where(cold | ~exists, T_top / 2, T)
    w = _bisect(lambda w: _temperature(w, alpha) > t, w_top, (1 - alpha) / t + 1)
    m, y = jnp.tanh(w), _y(w)
    log_2cosh = w + jnp.log1p(jnp.exp(-2 * w))
    rest = 1 / jnp.cosh(jnp.minimum(w, 350.0)) ** 2  # 1 - m^2
    slope = alpha / (1 - y) ** 2 / _inverse_slope(y, alpha)  # R'
    R = alpha / (1 - y)
    free = -t * (m**2 / (2 * t) - w * m + _half_integral(y, alpha) + log_2cosh)
    fields = {
        "m": jnp.where(cold, 1, m),
        "q": jnp.where(cold, 1, m**2),
        "f": jnp.where(cold, -0.5, free),
        "U": jnp.where(cold, -0.5, -0.5 * (m**2 + R * rest)),
        "replicon": jnp.where(cold, 1, 1 - slope * (rest / t) ** 2),
        "residual": jnp.where(cold, 0, jnp.abs(m - jnp.tanh(m * (1 - R) / t))),
    }
    fields = {name: jnp.where(exists, value, jnp.nan) for name, value in fields.items()}
    stable = exists & (fields["replicon"] > 0)
    return fields | {"stable": stable, "exists": exists}


def _inverse_slope(y: Any, alpha: Any) -> Any:
    """dx/dy of x = y (1 - y) / (1 - alpha - y), the argument of R."""
    s = 1 - alpha
    return ((1 - 2 * y) * (s - y) + y * (1 - y)) / (s - y) ** 2


def _half_integral(y: Any, alpha: Any) -> Any:
    """G = half the integral of R from 0 to x, with x = y (1 - y) / (1 - alpha - y)."""
    s = 1 - alpha
    return 0.5 * (-jnp.log1p(-y) + s * jnp.log1p(-y / s) + alpha * y / (s - y))


@jax.jit
def _paramagnet(alpha: Any, T: Any) -> dict[str, Any]:
    """The state m = 0; the high-temperature expression, continued."""
    x, s = 1 / T, 1 - alpha
    # s - y = y (1 - y) / x, so that nothing cancels at low temperature
    y = 2 * s * x / ((1 + x) + jnp.sqrt((1 + x) ** 2 - 4 * s * x))
    gap = y * (1 - y) / x
    G = 0.5 * (-jnp.log1p(-y) + s * jnp.log(gap / s) + alpha * y / gap)
    R = alpha / (1 - y)
    slope = alpha / (1 - y) ** 2 * gap**2 / ((1 - 2 * y) * gap + y * (1 - y))
    zero = jnp.zeros_like(x)
    replicon = 1 - slope * x**2
    return {
        "m": zero,
        "q": zero,
        "f": -T * (G + jnp.log(2.0)),
        "U": -0.5 * R,
        "replicon": replicon,
        "residual": zero,
        "stable": replicon > 0,
        "exists": jnp.ones_like(x, bool),
    }


@float64_scope
def pseudo_inverse_line(kind: str, alpha: ArrayLike) -> xr.Dataset:
    """A line of the phase diagram: temperature over the load.

    Args:
        kind: ``"spinodal"`` (retrieval states exist below it) or ``"transition"`` (they have a
            lower free energy than the paramagnet below it; NaN where that is below 1e-9 of the
            spinodal). The paramagnet there has positive entropy: it freezes e times colder.
        alpha: ``(n,)`` loads in (0, 1).

    Returns:
        ``xarray.Dataset`` with ``T`` and ``m`` over ``alpha``.

    Raises:
        ShapeError, DomainError: as :func:`pseudo_inverse`; an unknown kind.

    Source: as :func:`pseudo_inverse`. Check: tests/statmech/test_pseudo_inverse.py
    """
    choice(kind, "kind", ("spinodal", "transition"))
    a = _check(alpha, 0.0)[0]
    if a.ndim != 1:
        raise ShapeError(f"alpha must be a vector of loads, got shape {a.shape}.")
    w, top = (np.asarray(v) for v in _spinodal(jnp.asarray(a)))
    if kind == "spinodal":
        T, m = top, np.tanh(w)
    else:
        T = np.asarray(_crossing(jnp.asarray(a), jnp.asarray(top)))
        m = np.where(np.isnan(T), np.nan, pseudo_inverse(a, np.nan_to_num(T)).m)
    names = {"spinodal": "retrieval states appear", "transition": "retrieval states win"}
    attrs = {"line": kind, "long_name": names[kind]}
    return xr.Dataset({"T": ("alpha", T, attrs), "m": ("alpha", m)}, coords={"alpha": ("alpha", a)})


@jax.jit
def _crossing(alpha: Any, top: Any) -> Any:
    """Temperature below which the retrieval state has the lower free energy."""

    def wins(log_T: Any) -> Any:
        T = jnp.exp(log_T)
        return _retrieval(alpha, T)["f"] < _paramagnet(alpha, T)["f"]

    # It falls as exp(-c / (1 - alpha)); free energies per T are resolved down to 1e-9.
    low = jnp.log(1e-9 * top)
    return jnp.where(wins(low), jnp.exp(_bisect(wins, low, jnp.log(top))), jnp.nan)


def pseudo_inverse_diagram(alpha: ArrayLike = None, T: ArrayLike = None) -> xr.Dataset:
    """Regions and lines over load and temperature, in the form of :mod:`statmech.phase`.

    Args:
        alpha: ``(n,)`` increasing loads in (0, 1); default 200 between 0.005 and 0.995.
        T: ``(n,)`` increasing temperatures, > 0; default 200 up to 1.1.

    Raises:
        ShapeError, DomainError: as :func:`pseudo_inverse`.
    """
    a = np.linspace(0.005, 0.995, 200) if alpha is None else np.asarray(as_real(alpha, "alpha"))
    t = np.linspace(0.0055, 1.1, 200) if T is None else np.asarray(as_real(T, "T"))
    grid = (
        pseudo_inverse(a[None, :], t[:, None]),
        pseudo_inverse(a[None, :], t[:, None], "paramagnet"),
    )
    phase = np.where(grid[0].exists, np.where(grid[0].f < grid[1].f, 2, 1), 0)
    frozen = grid[1].U < grid[1].f  # no entropy is left
    phase = np.where(frozen & (phase == 0), 3, phase)
    spinodal, transition = (pseudo_inverse_line(k, a)["T"] for k in ("spinodal", "transition"))
    flags = {
        "flag_values": [0, 1, 2, 3],
        "flag_meanings": "paramagnet retrieval_metastable retrieval glass",
    }
    return xr.Dataset(
        {
            "phase": (("T", "alpha"), phase, flags),
            "m_retrieval": (("T", "alpha"), grid[0].m),
            "f_retrieval": (("T", "alpha"), grid[0].f),
            "f_paramagnet": (("T", "alpha"), grid[1].f),
            "T_M": spinodal,
            "T_c": transition,
        },
        coords={
            "alpha": ("alpha", a, {"long_name": "load"}),
            "T": ("T", t, {"long_name": "temperature"}),
        },
        attrs={
            "model": "pseudo_inverse",
            "title": "Pseudo-inverse rule",
            "source": "Kanter and Sompolinsky (1987)",
        },
    )
