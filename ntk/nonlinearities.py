"""Activations as layers; names and arguments follow ``neural_tangents.stax``.

Each returns an :class:`ntk.layers.Activation` around a dual; formulas, sources and accuracy are
documented there (:mod:`ntk.arccosine`, :mod:`ntk.closed_forms`, :mod:`ntk.polynomials`,
:mod:`ntk.piecewise`, :mod:`ntk.elu`, :mod:`ntk.activations`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ntk import arccosine, closed_forms, elu, formula, piecewise, polynomials
from ntk.activations import dual
from ntk.layers import Activation


def Relu() -> Activation:
    """``max(x, 0)``."""
    return Activation(arccosine.Relu())


def LeakyRelu(alpha: Any) -> Activation:
    """``max(x, 0) + alpha min(x, 0)``."""
    return Activation(arccosine.ABRelu(alpha, 1.0))


def ABRelu(a: Any, b: Any) -> Activation:
    """``a min(x, 0) + b max(x, 0)``."""
    return Activation(arccosine.ABRelu(a, b))


def Abs() -> Activation:
    """``|x|``."""
    return Activation(arccosine.ABRelu(-1.0, 1.0))


def RectifiedMonomial(degree: int) -> Activation:
    """``max(x, 0) ** degree``."""
    return Activation(arccosine.RectifiedMonomial(degree))


def Step() -> Activation:
    """Heaviside step; has an NNGP kernel but no NTK."""
    return Activation(arccosine.Step())


def Sign() -> Activation:
    """Sign; has an NNGP kernel but no NTK."""
    return Activation(arccosine.Sign())


def Linear() -> Activation:
    """``x``."""
    return Activation(closed_forms.Linear())


def Erf(a: Any = 1.0, b: Any = 1.0, c: Any = 0.0) -> Activation:
    """``a erf(b x) + c``."""
    return Activation(closed_forms.Erf(a, b, c))


def Sigmoid_like() -> Activation:
    """``erf(x / 2.402...) / 2 + 1/2``, within 0.01 of the logistic :func:`Sigmoid`."""
    return Activation(closed_forms.sigmoid_like())


def Gelu(approximate: bool = False) -> Activation:
    """``x Phi(x)``; ``approximate=True`` is the tanh form, with its own (numerical) kernel."""
    return Activation(dual("gelu_tanh") if approximate else closed_forms.Gelu())


def Sin(a: Any = 1.0, b: Any = 1.0, c: Any = 0.0) -> Activation:
    """``a sin(b x + c)``."""
    return Activation(closed_forms.Sin(a, b, c))


def Cos(a: Any = 1.0, b: Any = 1.0, c: Any = 0.0) -> Activation:
    """``a cos(b x + c)``."""
    return Activation(closed_forms.Cos(a, b, c))


def Rbf(gamma: Any = 1.0) -> Activation:
    """``sqrt(2) sin(sqrt(2 gamma) x + pi/4)``, whose kernel is ``exp(-gamma |x - y|^2)``."""
    return Activation(closed_forms.Rbf(gamma))


def Exp(a: Any = 1.0, b: Any = 1.0) -> Activation:
    """``a exp(b x)``."""
    return Activation(closed_forms.Exp(a, b))


def ExpNormalized(gamma: Any = 1.0, shift: Any = -1.0) -> Activation:
    """Kernel ``sqrt(q1 q2) exp(gamma (rho + shift))``; there is no finite network."""
    return Activation(closed_forms.ExpNormalized(gamma, shift))


def Gaussian(a: Any = 1.0, b: Any = -1.0) -> Activation:
    """``a exp(b x^2)``."""
    return Activation(closed_forms.Gaussian(a, b))


def Gabor() -> Activation:
    """``exp(-x^2) sin(x)``."""
    return Activation(closed_forms.Gabor())


def Monomial(degree: int) -> Activation:
    """``x ** degree``."""
    return Activation(polynomials.Monomial(degree))


def Polynomial(coef: Sequence[Any]) -> Activation:
    """``sum_i coef[i] x^i``."""
    return Activation(polynomials.Polynomial(tuple(coef)))


def Hermite(degree: int) -> Activation:
    """Normalised probabilists' Hermite polynomial (for any variance)."""
    return Activation(polynomials.Hermite(degree))


def Elu(alpha: Any = 1.0) -> Activation:
    """``x`` for x > 0, else ``alpha (exp(x) - 1)``."""
    return Activation(elu.Elu(alpha))


def Selu() -> Activation:
    """Scaled ELU with the self-normalising constants."""
    return Activation(dual("selu"))


def Celu(alpha: Any = 1.0) -> Activation:
    """``x`` for x > 0, else ``alpha (exp(x / alpha) - 1)``."""
    return Activation(elu.Celu(alpha))


def HardTanh() -> Activation:
    """``clip(x, -1, 1)``."""
    return Activation(piecewise.hard_tanh())


def Relu6() -> Activation:
    """``clip(x, 0, 6)``."""
    return Activation(piecewise.relu6())


def HardSigmoid() -> Activation:
    """``clip(x + 3, 0, 6) / 6``."""
    return Activation(piecewise.hard_sigmoid())


def SoftShrink(threshold: float = 0.5) -> Activation:
    """``sign(x) max(|x| - threshold, 0)``."""
    return Activation(piecewise.soft_shrink(threshold))


def PiecewiseLinear(*args: Any, **kwargs: Any) -> Activation:
    """Any continuous piecewise-linear function; see :class:`ntk.piecewise.PiecewiseLinear`."""
    return Activation(piecewise.PiecewiseLinear(*args, **kwargs))


def Tanh() -> Activation:
    """Hyperbolic tangent."""
    return Activation(dual("tanh"))


def Sigmoid() -> Activation:
    """Logistic sigmoid."""
    return Activation(dual("sigmoid"))


def Silu() -> Activation:
    """``x sigmoid(x)`` (also called swish)."""
    return Activation(dual("silu"))


def Softplus() -> Activation:
    """``log(1 + exp(x))``."""
    return Activation(dual("softplus"))


def Softsign() -> Activation:
    """``x / (1 + |x|)``."""
    return Activation(dual("softsign"))


def Arctan() -> Activation:
    """``arctan(x)``."""
    return Activation(dual("arctan"))


def Mish() -> Activation:
    """``x tanh(softplus(x))``."""
    return Activation(dual("mish"))


def Elementwise(
    fn: Callable[[Any], Any],
    nngp_fn: Callable[[Any, Any, Any], Any] | None = None,
    d_nngp_fn: Callable[[Any, Any, Any], Any] | None = None,
    *,
    kinks: Sequence[float] = (),
) -> Activation:
    """Any activation ``fn``, with your formula for its kernel if you have one.

    Args:
        fn: elementwise JAX function.
        nngp_fn: ``(cov12, var1, var2) -> E[fn(x) fn(y)]``; without it the average is computed
            numerically, with error control (see :func:`ntk.dual`).
        d_nngp_fn: its derivative with respect to ``cov12``; by automatic differentiation if absent.
        kinks: points where ``fn`` or its derivative jumps.
    """
    if nngp_fn is None:
        return Activation(dual(fn, kinks=tuple(kinks)))
    return Activation(formula.FormulaDual(fn, nngp_fn, d_nngp_fn, tuple(kinks)))


def ElementwiseNumerical(
    fn: Callable[[Any], Any], deg: int | None = None, df: Any = None, *, kinks: Sequence[float] = ()
) -> Activation:
    """Any activation by quadrature; ``deg`` and ``df`` are accepted for compatibility.

    The number of nodes follows from an error estimate and the derivative from automatic
    differentiation, so ``deg`` and ``df`` have no effect.
    """
    return Activation(dual(fn, kinks=tuple(kinks)))
