r"""Critical initialisation: the variances of weights and biases at which depth does no harm.

Criticality asks that small perturbations neither grow nor decay, along the input and across it:
:math:`\chi_\parallel(K^*) = \chi_\perp(K^*) = 1`. How a deep network then behaves depends only on
the universality class of the activation, which is read off here from its expansion at 0 or found by
a root search in the variance.

With :math:`A_2 = (a_+^2 + a_-^2)/2` from the slopes at :math:`0^\pm`, the expansions
:math:`\langle\sigma^2\rangle = A_2 K (1 + a_1 K^p + \dots)` and
:math:`\langle\sigma'^2\rangle = A_2 (1 + b_1 K^p + \dots)` give for :math:`a_1 < 0` the class K*=0,

.. math:: K_\ell \to (-p\,a_1 \ell)^{-1/p}, \qquad
   \prod \chi_\perp \sim \ell^{-p_\perp}, \qquad p_\perp = \frac{b_1}{p\,a_1},

with :math:`p = 1` for a smooth activation (tanh) and :math:`p = 1/2` for one whose second
derivative jumps at 0 (ELU, softsign), or whose slope does (SELU).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits import plotting
from deeplimits.errors import DomainError, NoCriticalInitialisation, UnsupportedLayerError
from deeplimits.precision import float64_scope
from deeplimits.typing import ArrayLike
from deeplimits.validate import integer, number
from ntk.activations import dual as to_dual
from ntk.criticality import expansion, roots
from ntk.duals import Dual
from ntk.single_input import Averages, averages, check_averages, host_averages

SCALE_INVARIANT, K_ZERO, HALF_STABLE = "scale-invariant", "K*=0", "half-stable"


@dataclasses.dataclass(frozen=True)
class CriticalInit:
    r"""A critical initialisation; see :func:`critical_init`.

    Attributes:
        activation: name or type.
        universality: ``"scale-invariant"``, ``"K*=0"`` or ``"half-stable"``.
        C_b, C_W: variances of biases and of weights times fan-in.
        K_star: the critical variance; NaN for scale-invariant activations, where any is.
        power: ``p`` of the expansion at 0 (K*=0 class; infinite if the activation is linear around
            0, with corrections like exp(-1/K)); else NaN.
        a1, b1: coefficients of :math:`K^p` in the expansions of
            :math:`\langle\sigma^2\rangle / A_2 K` and :math:`\langle\sigma'^2\rangle / A_2`
            (K*=0 class, finite power; else 0).
        p_perp: exponent of the decay of the product of :math:`\chi_\perp` over depth.
        d_chi_parallel: :math:`d\chi_\parallel/dK` at ``K_star`` (half-stable class; else NaN).
        value: :math:`\langle\sigma^2\rangle / K` at small variances (K*=0), at any
            (scale-invariant), or at ``K_star`` (half-stable).
        reason: how the class was decided.
        depth_law: the variance at large depth, in words.
    """

    activation: str
    universality: str
    C_b: float
    C_W: float
    K_star: float
    power: float
    a1: float
    b1: float
    p_perp: float
    d_chi_parallel: float
    value: float
    reason: str
    depth_law: str

    @property
    def W_std(self) -> float:
        """``sqrt(C_W)``, the argument of :func:`ntk.Dense`."""
        return math.sqrt(self.C_W)

    @property
    def b_std(self) -> float:
        """``sqrt(C_b)``."""
        return math.sqrt(self.C_b)

    def variance(self, depth: ArrayLike) -> np.ndarray:
        r"""Leading behaviour of the variance at large depth.

        .. math:: (-p\,a_1 \ell)^{-1/p} \quad (K^*=0), \qquad
           K^* - \frac{2}{\chi_\parallel' \ell} \quad (\text{half-stable})

        The second line is reached from the stable side only. NaN for scale-invariant activations,
        whose variance stays what it is, and for an infinite power.
        """
        depth = np.asarray(depth, np.float64)
        if self.universality == HALF_STABLE:
            return np.asarray(self.K_star - 2 / (self.d_chi_parallel * depth))
        if self.universality == K_ZERO and math.isfinite(self.power):
            return np.asarray((-self.power * self.a1 * depth) ** (-1 / self.power))
        return np.full_like(depth, np.nan)

    def learning_rates(
        self, depth: int, *, b: float = 1.0, W: float = 1.0
    ) -> tuple[np.ndarray, np.ndarray]:
        r"""Learning rates of all layers with which each adds the same to the final NTK.

        .. math:: \lambda_b^{(\ell)} = b\,\ell^{-p_\perp} L^{p_\perp - 1}, \qquad
           \lambda_W^{(\ell)} = W\,\ell^{1/p - p_\perp} L^{p_\perp - 1}

        for the class K*=0, and ``b / L``, ``W / L`` otherwise. They multiply gradients in the
        parameterisation with weights of variance ``C_W / fan_in`` (``lambda_W`` per fan-in).

        Args:
            depth: number of layers ``L``, >= 1.
            b, W: scales for biases and weights, > 0, default 1.

        Returns:
            ``(lambda_b, lambda_W)`` for layers 1 to ``L``; :meth:`ntk_limit` is the NTK.

        Raises:
            DomainError: an argument out of range, or an infinite power.

        Source:
            arXiv:2106.10165, section 9.4 (equivalence principle); other powers derived here. Check:
            ``tests/ntk/test_critical_init.py::test_equivalence_principle``.
        """
        L = integer(depth, "depth", at_least=1)
        number(b, "b", above=0.0)
        number(W, "W", above=0.0)
        if math.isinf(self.power):
            raise DomainError(
                f"{self.activation} is linear around 0, so its variance decays like 1/ln(depth) "
                "and no power of the depth balances the layers. Use the same rates in all of them."
            )
        layer = np.arange(1, L + 1, dtype=np.float64)
        if self.universality != K_ZERO:
            return np.full(L, b / L), np.full(L, W / L)
        common = layer**-self.p_perp * L ** (self.p_perp - 1)
        return b * common, W * common * layer ** (1 / self.power)

    def ntk_limit(self, K: float | None = None, *, b: float = 1.0, W: float = 1.0) -> float:
        r"""NTK of one input in the last layer with :meth:`learning_rates`, for large depth.

        .. math:: b + W A_2 K, \qquad b + W A_2 (-p\,a_1)^{-1/p}, \qquad
           b + W \langle\sigma^2\rangle

        Args:
            K: variance of the input (scale-invariant activations only).
            b, W: as for :meth:`learning_rates`.

        Raises:
            DomainError: ``K`` missing or superfluous, or an infinite power.
        """
        needed = self.universality == SCALE_INVARIANT
        if needed != (K is not None):
            raise DomainError(
                f"K is {'needed' if needed else 'fixed'} in class {self.universality}."
            )
        if K is None:
            K = self.K_star if self.universality == HALF_STABLE else float(self.variance(1.0))
        if not math.isfinite(K):
            raise DomainError(f"the NTK of {self.activation} has no power law; see learning_rates.")
        return b + W * self.value * K

    def plot(self, ax: Any = None) -> Any:
        """The variance over depth from three starts, by the layer map itself."""
        ax = plotting.axes(ax)
        dual = to_dual(self.activation)
        scale = self.K_star if self.universality == HALF_STABLE else 1.0
        with jax.enable_x64(True):
            start = jnp.asarray([0.5, 1.0, 1.5]) * scale

            def layer(K: Any, _: None) -> tuple[Any, Any]:
                new = self.C_b + self.C_W * averages(dual, K)[0]
                return new, new

            path = np.asarray(jax.lax.scan(layer, start, None, length=1000)[1])
        ax.loglog(np.arange(1, 1001), path)
        ax.set(xlabel="layer", ylabel="variance K", title=f"{self.activation}: {self.universality}")
        return ax


@float64_scope
def critical_init(activation: str | Dual | Callable[[Any], Any]) -> CriticalInit:
    r"""The critical initialisation of an activation, with its universality class.

    .. math:: \chi_\parallel(K^*) = \chi_\perp(K^*) = 1, \qquad
       C_W = 1 / \langle\sigma'^2\rangle_{K^*}, \qquad C_b = K^* - C_W \langle\sigma^2\rangle_{K^*}

    Decision: (1) averages proportional to K at all variances: scale-invariant; (2) expansion at 0
    with a stable fixed point: K*=0; (3) the smallest K in [1e-3, 1e3] that solves the two equations
    with ``C_b >= 0``: half-stable, because both slopes being 1 the map touches the diagonal there.

    Args:
        activation: a name, a dual, or an elementwise function (see :func:`ntk.dual`).

    Returns:
        :class:`CriticalInit`.

    Raises:
        NoCriticalInitialisation: none exists; the message says why.
        ConvergenceError: the averages of a numerical activation miss 1e-9.

    Source:
        Roberts, Yaida & Hanin, arXiv:2106.10165, sections 5.2-5.4 (classes; expansions with
        half-integer powers derived here). Check: ``tests/ntk/test_critical_init.py``.
    """
    dual = to_dual(activation)
    name = activation if isinstance(activation, str) else _name(activation)
    if not dual.differentiable:
        raise NoCriticalInitialisation(
            f"{name} has no critical initialisation: it jumps, so chi_perp is infinite."
        )
    found = _scale_invariant(name, dual)
    if found is not None:
        return found
    found, why_not_zero = _at_zero(name, dual)
    return found or _at_a_root(name, dual, why_not_zero)


def _name(activation: Any) -> str:
    return getattr(activation, "__name__", type(activation).__name__)


def _scale_invariant(name: str, dual: Dual) -> CriticalInit | None:
    """The class of linear, ReLU, leaky ReLU and the modulus."""
    K = np.geomspace(1e-6, 1e6, 13)
    a = host_averages(dual, K)
    ratios = np.concatenate([a.value / K, a.slope])
    if not np.all(np.isfinite(ratios)) or ratios[0] <= 0 or np.ptp(ratios) > 1e-12 * ratios[0]:
        return None
    check_averages(dual, K, a)
    return CriticalInit(
        activation=name,
        universality=SCALE_INVARIANT,
        C_b=0.0,
        C_W=1 / float(ratios[0]),
        K_star=math.nan,
        power=math.nan,
        a1=0.0,
        b1=0.0,
        p_perp=0.0,
        d_chi_parallel=math.nan,
        value=float(ratios[0]),
        reason="<ss> is proportional to K and <s's'> constant, so both slopes are 1 at every K.",
        depth_law="K stays what it is",
    )


def _at_zero(name: str, dual: Dual) -> tuple[CriticalInit | None, str]:
    """The class K*=0, or why it does not apply."""
    try:
        A2, terms = expansion(dual)
    except UnsupportedLayerError:
        return None, "it is a kernel without an activation"
    if isinstance(terms, str):
        return None, terms
    power, a1, b1 = terms
    if a1 >= 0:
        return None, (
            f"K* = 0 is unstable: <ss> = {A2:.4g} K (1 + {a1:.4g} K^{power:.3g} + ...) grows "
            "faster than K"
        )
    flat = math.isinf(power)
    return CriticalInit(
        activation=name,
        universality=K_ZERO,
        C_b=0.0,
        C_W=1 / A2,
        K_star=0.0,
        power=power,
        a1=0.0 if flat else a1,
        b1=0.0 if flat else b1,
        p_perp=0.0 if flat else b1 / (power * a1),
        d_chi_parallel=math.nan,
        value=A2,
        reason=f"s(0) = 0 and K* = 0 is stable: <ss> < {A2:.6g} K, with corrections "
        + ("that vanish faster than any power of K." if flat else f"of order K^{power:.3g}."),
        depth_law="K falls to 0 as 1/ln(l)"
        if flat
        else f"K -> ({-power * a1:.6g} l)^{-1 / power:.3g}",
    ), ""


def _at_a_root(name: str, dual: Dual, why_not_zero: str) -> CriticalInit:
    """The smallest variance at which both susceptibilities are 1, with biases that exist."""
    found, searched = roots(dual)
    negative = []
    for K in found:
        at = host_averages(dual, np.full(1, K))
        check_averages(dual, np.full(1, K), at)
        C_W = 1 / float(at.slope[0])
        C_b = K - C_W * float(at.value[0])
        if C_b >= 0:
            return _half_stable(name, K, C_b, C_W, at, why_not_zero)
        negative.append(f"K = {K:.4g} needs C_b = {C_b:.3g} < 0")
    raise NoCriticalInitialisation(
        f"{name} has no critical initialisation: {why_not_zero}; "
        f"{'; '.join(negative) or searched}. Shift or scale the activation, or use mean_field and "
        "order_to_chaos for its edge of chaos."
    )


def _half_stable(
    name: str, K: float, C_b: float, C_W: float, at: Averages, why_not_zero: str
) -> CriticalInit:
    bend = C_W * float(at.dd_value[0])
    side = "above" if bend < 0 else "below"
    return CriticalInit(
        activation=name,
        universality=HALF_STABLE,
        C_b=C_b,
        C_W=C_W,
        K_star=K,
        power=math.nan,
        a1=0.0,
        b1=0.0,
        p_perp=0.0,
        d_chi_parallel=bend,
        value=float(at.value[0]) / K,
        reason=f"{why_not_zero}; chi_parallel = chi_perp = 1 at K* = {K:.8g}.",
        depth_law=f"|K - K*| -> {abs(2 / bend):.4g} / l from {side}; on the other side K leaves",
    )
