r"""Duals derived from a formula: the averages of an activation given as a sympy expression.

The expression is written as a sum of terms :math:`c\,x^m e^{ux - sx^2} g(x)` with :math:`g` one of
1, sign and erf (sin and cos have imaginary :math:`u`), whose averages are formulas
(:mod:`ntk.symbolic_moments`). sympy's own integration of the bivariate integral does not end.
"""

from __future__ import annotations

import functools
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, NoReturn

import jax
import jax.numpy as jnp
import sympy as sp
from jax import lax

from deeplimits.errors import DomainError, UnsupportedLayerError
from ntk.coordinates import floating, safe_ratio, safe_sqrt
from ntk.duals import Dual
from ntk.symbolic_moments import Term, angle, average, q11, q12, q22, root

_X = sp.Symbol("x", real=True)
_KINKED = (sp.Max, sp.Min, sp.Abs, sp.Heaviside, sp.sign, sp.Piecewise)
_REMEDY = (
    "derive_dual handles sums and products of polynomials, exp(a*x - b*x**2), sin, cos, sinh, "
    "cosh, erf(a*x + b) and kinks at 0 (Heaviside, sign, Abs, Max, Min, Piecewise). "
    "Use ntk.dual(callable, kinks=(...)), which integrates numerically."
)


@jax.tree_util.register_static
@dataclass(frozen=True)
class Derivation:
    """Formulas of the Gaussian averages of an activation.

    Args:
        expr: the activation, in the real symbol x.
        K: ``E[f(x) f(y)]`` in ``symbols``.
        Kdot: ``E[f'(x) f'(y)]`` in ``symbols``; where ``f`` jumps it diverges for parallel inputs.
        mean: ``E[f(x)]`` in ``q11``.
        symbols: ``(q11, q12, q22)``, the first and last positive.
        dual: the same as a :class:`ntk.duals.Dual`, for layers.
    """

    expr: sp.Expr
    K: sp.Expr
    Kdot: sp.Expr
    mean: sp.Expr
    symbols: tuple[sp.Symbol, sp.Symbol, sp.Symbol]
    dual: SymbolicDual


def derive_dual(expr: Any, x: Any) -> Derivation:
    r"""Formulas for the Gaussian averages of an activation given as a sympy expression.

    .. math:: K = E[f(x) f(y)], \quad \dot K = E[f'(x) f'(y)], \qquad
        (x, y) \sim N(0, [[q_{11}, q_{12}], [q_{12}, q_{22}]])

    Sums and products of polynomials, ``exp(a x - b x^2)`` (b >= 0), sin, cos, sinh, cosh, erf and
    kinks at 0 (Heaviside, sign, Abs, Max, Min, Piecewise), with these exceptions, which need the
    bivariate normal distribution function or the error function of a complex number: products of
    two different erf or sign factors (``erf(x)**2``); sign or erf together with sin or cos in one
    activation (``relu(x) + sin(x)``); sign or erf multiplied by ``exp(a x)``, and ``erf(x + b)``
    (ELU). Floats are read as the short decimal fractions that they print as.

    Args:
        expr: sympy expression in ``x`` alone, or what ``sympy.sympify`` accepts.
        x: its sympy symbol.

    Returns:
        A :class:`Derivation` with the formulas and a dual.

    Raises:
        UnsupportedLayerError: no elementary formula; the message names the factor.
        DomainError: no expression, other symbols than ``x``, the imaginary unit, or growth like
            ``exp(x**2)``.

    Source: derived here: Isserlis' theorem, Stein's and Price's identities, tilted Gaussians.

    Check: ``tests/ntk/test_symbolic.py::test_formulas_agree_with_quadrature``.
    """
    if not isinstance(x, sp.Symbol):
        raise DomainError(f"x must be a sympy symbol, got {x!r}. Use x = sympy.Symbol('x').")
    try:
        expr = sp.nsimplify(sp.sympify(expr).subs(x, _X), rational=True)
    except (sp.SympifyError, TypeError, AttributeError) as error:
        raise DomainError(f"expr must be a sympy expression, got {expr!r}.") from error
    if expr.has(sp.I):
        raise DomainError(f"expr must be real for real {x}, got {expr}. Write it with sin and cos.")
    if expr.free_symbols - {_X}:
        names = ", ".join(sorted(str(symbol) for symbol in expr.free_symbols - {_X}))
        raise DomainError(
            f"expr must hold no symbol but {x}; it also holds {names}. Substitute numbers."
        )
    averages = _derive(expr)
    K, Kdot = _readable(averages.K), _readable(averages.Kdot)
    mean = _readable(averages.mean)
    return Derivation(expr, K, Kdot, mean, (q11, q12, q22), SymbolicDual(expr))


class _Averages(NamedTuple):
    """Averages as formulas in q11, q12, q22 and root; whether the activation jumps."""

    K: sp.Expr
    Kdot: sp.Expr
    mean: sp.Expr
    jumps: bool


@functools.lru_cache(256)
def _derive(expr: sp.Expr) -> _Averages:
    terms = _read(expr)
    slopes = _merge([slope for term in terms for slope in term.derivative()])
    return _Averages(
        sp.Add(*(average(a, b) for a in terms for b in terms)),
        sp.Add(*(average(a, b) for a in slopes for b in slopes)),
        sp.Add(*(average(a, Term(sp.S.One)) for a in terms)),
        any(slope.kind == "delta" for slope in slopes),
    )


@jax.tree_util.register_static
@dataclass(frozen=True)
class SymbolicDual(Dual):
    """The dual of an activation given as a sympy expression; made by :func:`derive_dual`.

    The formulas are evaluated as derived, with the determinant from ``eps``. The gap handed on is
    ``1 - K / sqrt(K(q1) K(q2))``, with the absolute accuracy of the dtype; the registered duals
    (``ntk.Relu``, ``ntk.Erf``, ...) keep relative accuracy for near-duplicate inputs.

    Args:
        expr: sympy expression in the real symbol ``x``.
    """

    expr: sp.Expr

    @property
    def kinks(self) -> tuple[float, ...]:  # type: ignore[override]
        """0 if the expression has a kink there."""
        return (0.0,) if self.expr.has(*_KINKED) else ()

    @property
    def differentiable(self) -> bool:  # type: ignore[override]
        """False if the activation jumps at 0."""
        return not _derive(self.expr).jumps

    def fn(self, x: Any) -> Any:
        """The activation, elementwise."""
        x = floating(x)
        right, left = _sides(self.expr)
        if not self.kinks:
            return _compiled(right, (_X,))(x)
        middle = self.expr.subs(_X, 0)
        if not middle.is_finite:  # such as x / Abs(x)
            middle = (right.subs(_X, 0) + left.subs(_X, 0)) / 2
        right_of_0, left_of_0 = (_compiled(side, (_X,))(x) for side in (right, left))
        return jnp.where(x > 0, right_of_0, jnp.where(x < 0, left_of_0, float(middle)))

    def kernel(self, q1: Any, q2: Any, eps: Any) -> tuple[Any, Any, Any]:
        """``(K, Kdot, eps_out)``; see :meth:`ntk.duals.Dual.kernel`."""
        q1, q2, eps = _positive(q1), _positive(q2), floating(eps)
        averages, symbols = _derive(self.expr), (q11, q12, q22, root)
        scale = jnp.sqrt(q1) * jnp.sqrt(q2)
        cov, side = scale * (1 - eps), safe_sqrt(eps * (2 - eps))
        K = _compiled(averages.K, symbols)(q1, cov, q2, scale * side)
        if averages.jumps:
            apart = jnp.where(side > 0, side, 1)
            Kdot = _compiled(averages.Kdot, symbols)(q1, cov, q2, scale * apart)
            Kdot = jnp.where(side > 0, Kdot, 0)
        else:
            Kdot = _compiled(averages.Kdot, symbols)(q1, cov, q2, scale * side)
        norm = safe_sqrt(self._norm(q1)) * safe_sqrt(self._norm(q2))
        smooth = jnp.maximum(q1, q2) > _floor(q1)
        product = jnp.where(smooth, K, lax.stop_gradient(K))  # as in _norm
        gap = jnp.clip(1 - safe_ratio(product, norm, 0.0), 0, 2)
        return K, Kdot, jnp.where((eps == 0) & (q1 == q2), 0, gap)

    def _norm(self, q: Any) -> Any:
        """The variance, without its derivative at zero inputs, where quotients of it overflow."""
        above = q > _floor(q)
        return jnp.where(
            above, self.variance(jnp.where(above, q, 1)), lax.stop_gradient(self.variance(q))
        )

    def variance(self, q: Any) -> Any:
        """``K`` at equal inputs."""
        q = _positive(q)
        return _compiled(_derive(self.expr).K, (q11, q12, q22, root))(q, q, q, jnp.zeros_like(q))

    def mean(self, q: Any) -> Any:
        """``E[f(sqrt(q) z)]``."""
        return _compiled(_derive(self.expr).mean, (q11,))(_positive(q))


def _floor(q: Any) -> float:
    """The variance that replaces 0: so little that products of two still are normal numbers."""
    return float(jnp.finfo(q.dtype).tiny) ** 0.48


def _positive(q: Any) -> Any:
    """Variances, with 0 replaced by almost 0."""
    q = floating(q)
    return jnp.maximum(q, _floor(q))


@functools.lru_cache(1024)
def _compiled(formula: sp.Expr, symbols: tuple[sp.Symbol, ...]) -> Callable[..., Any]:
    """JAX function of a formula, in the dtype of its arguments."""
    names = {
        name: getattr(jnp, name) for name in ("exp", "sqrt", "sin", "cos", "sinh", "cosh", "sign")
    }
    special = {"erf": jax.scipy.special.erf, "erfc": jax.scipy.special.erfc, "angle": jnp.arctan2}
    function = sp.lambdify(symbols, _numbers(formula), modules=[names | special], cse=True)
    return lambda *args: function(*args) + jnp.zeros_like(sum(args))


def _numbers(formula: sp.Expr) -> sp.Expr:
    """Constants as floats, which JAX treats as weakly typed; exponents stay exact."""
    if formula.is_Symbol:
        return formula
    if not formula.free_symbols:
        return formula if formula.is_Integer and abs(formula) < 2**31 else formula.evalf(17)
    if formula.is_Pow:
        return sp.Pow(_numbers(formula.base), formula.exp, evaluate=False)
    return formula.func(*(_numbers(arg) for arg in formula.args))


def _read(expr: sp.Expr) -> list[Term]:
    """``expr`` as a sum of terms."""
    right, left = _sides(expr)
    smooth = (right + left) / 2 + sp.sign(_X) * (right - left) / 2
    smooth = smooth.replace(sp.erfc, lambda z: 1 - sp.erf(z))
    smooth = smooth.rewrite([sp.sin, sp.cos, sp.sinh, sp.cosh], sp.exp)
    return _merge([_read_term(term, _X) for term in sp.Add.make_args(sp.expand(smooth))])


def _merge(terms: list[Term]) -> list[Term]:
    """Add the coefficients of equal terms."""
    total: dict[Term, sp.Expr] = defaultdict(lambda: sp.S.Zero)
    for term in terms:
        total[replace(term, c=sp.S.One)] += term.c
    return [replace(term, c=c) for term, c in total.items() if sp.simplify(c) != 0]


def _sides(expr: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """The formulas without kinks that hold for x > 0 and for x < 0."""
    if not expr.has(*_KINKED):
        return expr, expr
    p = sp.Symbol("p", positive=True)
    right, left = expr.subs(_X, p), expr.subs(_X, -p)
    for side, back in ((right, _X), (left, -_X)):
        for node in side.atoms(*_KINKED):
            _refuse(node.subs(p, back), "has a kink away from 0")
        if side.has(sp.nan, sp.zoo):
            _refuse(expr, "is undefined on one side of 0")
    return right.subs(p, _X), left.subs(p, -_X)


def _refuse(factor: sp.Expr, why: str) -> NoReturn:
    raise UnsupportedLayerError(f"The factor {factor} {why}. {_REMEDY}")


def _read_term(term: sp.Expr, x: sp.Symbol) -> Term:
    """One product as a :class:`Term`."""
    c, power, exponent, signs, erfs = sp.S.One, 0, sp.S.Zero, 0, []
    for factor in sp.Mul.make_args(term):
        base, n = factor.as_base_exp()
        if not factor.has(x):
            c *= factor
        elif isinstance(factor, sp.exp):
            exponent += factor.args[0]
        elif base.is_number and base.is_positive:
            exponent += n * sp.log(base)
        elif base == x and n.is_Integer and n > 0:
            power += int(n)
        elif base == sp.sign(x) and n.is_Integer and n > 0:
            signs += int(n)
        elif isinstance(factor, sp.erf):
            erfs.append(factor)
        else:
            _refuse(factor, "belongs to no family with elementary averages")
    c, u, s = _read_exponent(c, sp.expand(exponent), x)
    out = Term(c, power, u, s, "sign" if signs % 2 else "")
    if len(erfs) + signs % 2 > 1:
        _refuse(term, "multiplies two of erf and sign, which has no elementary average")
    out = _with_erf(out, erfs[0], x) if erfs else out
    if power > _largest_power(out):
        _refuse(term, f"has a power above {_largest_power(out)}, whose algebra takes minutes")
    return out


def _largest_power(term: Term) -> int:
    """Largest power of x beside the other factors of ``term`` that takes seconds."""
    if term.kind == "sign":
        return 3 if term.noise != 0 else 4 if term.s != 0 else 10
    if term.s != 0:
        return 2 if term.u != 0 else 8
    return 4 if term.u != 0 else 30


def _read_exponent(c: sp.Expr, exponent: sp.Expr, x: sp.Symbol) -> tuple[sp.Expr, ...]:
    """``c e^{c0}``, ``u`` and ``s`` of ``c exp(exponent)`` = ``c exp(c0 + u x - s x^2)``."""
    if not exponent.is_polynomial(x) or sp.degree(exponent, x) > 2:
        _refuse(sp.exp(exponent), "is not exp(a + b*x - c*x**2)")
    s = -exponent.coeff(x, 2)
    if not s.is_real:
        _refuse(sp.exp(exponent), "oscillates quadratically")
    if s.is_negative:
        raise DomainError(
            f"{sp.exp(exponent)} has an infinite second moment for variances q >= {-1 / (4 * s)}. "
            "Use an activation that grows more slowly than exp(c*x**2)."
        )
    return c * sp.exp(exponent.coeff(x, 0)), exponent.coeff(x, 1), s


def _with_erf(term: Term, factor: sp.Expr, x: sp.Symbol) -> Term:
    """``term`` times ``erf(k x + l)``."""
    inner = sp.expand(factor.args[0])
    k, shift = inner.coeff(x, 1), inner.coeff(x, 0)
    if sp.expand(inner - k * x - shift) != 0 or not (k.is_real and shift.is_real):
        _refuse(factor, "is not erf(a*x + b)")
    return replace(
        term,
        c=term.c * sp.sign(k),
        kind="sign",
        shift=shift / k,
        noise=1 / (2 * k**2),
    )


def _readable(formula: sp.Expr) -> sp.Expr:
    """In q11, q12 and q22 alone, equal roots and functions collected, fractions reduced."""
    formula = formula.subs(root, sp.sqrt(q11 * q22 - q12**2)).replace(angle, sp.atan2)
    collected: dict[sp.Expr, sp.Expr] = defaultdict(lambda: sp.S.Zero)
    for product in _products(formula):
        rational, other = _split(product)
        collected[other] += rational
    return sp.Add(*(sp.factor(sp.together(r)) * other for other, r in collected.items()))


def _products(value: sp.Expr) -> Iterator[sp.Expr]:
    """The products of which ``value`` is the sum; rational factors stay as they are."""
    for term in sp.Add.make_args(value):
        factors = sp.Mul.make_args(term)
        sums = [f.args for f in factors if f.is_Add and not _is_rational(f)]
        rest = sp.Mul(*(f for f in factors if not f.is_Add or _is_rational(f)))
        if not sums:
            yield rest
            continue
        for choice in itertools.product(*sums):
            yield from _products(sp.Mul(rest, *choice))


def _is_rational(factor: sp.Expr) -> bool:
    """Whether ``factor`` is a rational function with rational coefficients."""
    numbers = factor.atoms(sp.Number, sp.NumberSymbol)
    return bool(factor.is_rational_function()) and all(n.is_Rational for n in numbers)


def _split(product: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """A product as (rational function) times (exponentials, roots, functions)."""
    rational, other = sp.S.One, sp.S.One
    for factor in sp.Mul.make_args(product):
        base, n = factor.as_base_exp()
        if _is_rational(factor):
            rational *= factor
        elif isinstance(factor, sp.exp):
            argument = sp.factor(factor.args[0])
            other *= sp.exp(sp.expand(argument) if argument.is_polynomial() else argument)
        elif n.is_Rational and n.q == 2 and not base.is_number:
            other *= sp.sqrt(base)
            rational *= base ** (n - sp.Rational(1, 2))
        else:
            other *= factor
    return rational, other
