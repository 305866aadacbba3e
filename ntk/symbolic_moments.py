r"""Gaussian averages of elementary terms, as formulas.

A term is :math:`c\,x^m e^{ux - sx^2} g(x)` with :math:`g` one of 1, sign(x), :math:`\delta(x)` or
:math:`\mathrm{erf}(kx + l)`. Two remarks make all averages of products of two terms elementary:
the exponential tilts the Gaussian into another one, and :math:`\mathrm{erf}(kx + l)` is the mean of
:math:`\mathrm{sign}(x + l/k + \sqrt\nu z)` over a standard normal :math:`z`, :math:`\nu = 1/2k^2`,
so that the sign is the case :math:`\nu = 0`. What remains are moments of a Gaussian with one or
two signs, which Stein's identity :math:`E[x\,h] = \mu E[h] + \sum_i \mathrm{Cov}(x, x_i) E[h_i]`
reduces to Isserlis moments and the quadrant probability.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import sympy as sp

from deeplimits.errors import UnsupportedLayerError

#: Variances and covariance; ``root`` is ``sqrt(q11 q22 - q12**2)``, kept apart because it cancels.
q11, q22, root = sp.symbols("q11 q22 root", positive=True)
q12 = sp.Symbol("q12", real=True)
#: ``angle(y, x)`` is ``atan2(y, x)``, which sympy would make ``atan(y / x)``, singular at x = 0.
angle = sp.Function("angle", real=True)


@dataclass(frozen=True)
class Term:
    r""":math:`c\,x^m e^{ux - sx^2} g(x)` with ``g`` = ``kind``: ``""``, ``"sign"`` or ``"delta"``.

    Args:
        c: coefficient, may be complex.
        m: power of x.
        u: linear exponent, may be complex.
        s: quadratic exponent, >= 0.
        kind: ``"sign"`` stands for ``sign(x + shift + sqrt(noise) z)`` averaged over normal z.
        shift: see ``kind``.
        noise: see ``kind``; >= 0.
    """

    c: sp.Expr
    m: int = 0
    u: sp.Expr = sp.S.Zero
    s: sp.Expr = sp.S.Zero
    kind: str = ""
    shift: sp.Expr = sp.S.Zero
    noise: sp.Expr = sp.S.Zero

    def derivative(self) -> list[Term]:
        """The terms of its derivative."""
        out = [
            replace(self, c=self.c * self.m, m=self.m - 1),
            replace(self, c=self.c * self.u),
            replace(self, c=-2 * self.c * self.s, m=self.m + 1),
        ]
        if self.kind == "sign" and self.noise == 0:
            out.append(Term(2 * self.c * sp.Integer(0) ** self.m, kind="delta"))
        elif self.kind == "sign":
            rate = 1 / (2 * self.noise)
            scale = sp.sqrt(2 / (sp.pi * self.noise)) * sp.exp(-rate * self.shift**2)
            u = self.u - 2 * rate * self.shift
            out.append(Term(self.c * scale, self.m, u, self.s + rate))
        return [term for term in out if term.c != 0]

    def __str__(self) -> str:
        x = sp.Symbol("x")
        out = x**self.m * sp.exp(self.u * x - self.s * x**2)
        if self.kind == "sign" and self.noise == 0:
            out *= sp.sign(x)
        elif self.kind == "sign":
            out *= sp.erf(sp.expand((x + self.shift) / sp.sqrt(2 * self.noise)))
        return str(out)


class Gauss(NamedTuple):
    """Means and covariance of (x, y), with its determinant."""

    mx: sp.Expr
    my: sp.Expr
    a: sp.Expr  # Var x
    b: sp.Expr  # Cov(x, y)
    c: sp.Expr  # Var y
    det: sp.Expr

    def swapped(self) -> Gauss:
        """x and y exchanged."""
        return Gauss(self.my, self.mx, self.c, self.b, self.a, self.det)


def tilt(first: Term, second: Term) -> tuple[Gauss, sp.Expr, sp.Expr]:
    r"""The Gaussian times the exponentials of both terms: Gaussian, exponent, and D.

    ``N(0, Q) e^{w.z - z.S.z} = e^{exponent} D^{-1/2} N(Q'w, Q')`` with ``Q' = (Q^-1 + 2S)^-1``;
    of ``w`` only the real part.
    """
    s, t, u, v = first.s, second.s, sp.re(first.u), sp.re(second.u)
    d = 1 + 2 * s * q11 + 2 * t * q22 + 4 * s * t * root**2
    a, b, c = (q11 + 2 * t * root**2) / d, q12 / d, (q22 + 2 * s * root**2) / d
    mean = (a * u + b * v, b * u + c * v)
    exponent = (mean[0] * u + mean[1] * v) / 2
    return Gauss(*mean, a, b, c, root**2 / d), exponent, d


def centred(m: int, n: int, g: Gauss) -> sp.Expr:
    """``E[(x - mx)^m (y - my)^n]``: all pairings, by the number k of pairs (x, y)."""
    if (m + n) % 2:
        return sp.S.Zero
    return sp.Add(
        *(
            sp.binomial(m, k)
            * sp.binomial(n, k)
            * sp.factorial(k)
            * sp.factorial2(m - k - 1)
            * sp.factorial2(n - k - 1)
            * g.b**k
            * g.a ** ((m - k) // 2)
            * g.c ** ((n - k) // 2)
            for k in range(m % 2, min(m, n) + 1, 2)
        )
    )


def shifted_powers(m: int, shift: sp.Expr) -> Iterator[tuple[int, sp.Expr]]:
    """``(k, c)`` with ``(x + shift)^m = sum c x^k``."""
    for k in range(m + 1) if shift != 0 else (m,):
        yield k, sp.binomial(m, k) * shift ** (m - k)


@functools.lru_cache(4096)
def isserlis(m: int, n: int, g: Gauss) -> sp.Expr:
    """``E[x^m y^n]``."""
    pairs = itertools.product(shifted_powers(m, g.mx), shifted_powers(n, g.my))
    return sp.Add(*(p * q * centred(i, j, g) for (i, p), (j, q) in pairs))


def at_zero(g: Gauss, shift: sp.Expr, noise: sp.Expr) -> tuple[Gauss, sp.Expr]:
    r"""Condition on ``X = x + shift + sqrt(noise) z = 0``: the Gaussian, and the density there."""
    var = sp.factor(g.a + noise)  # factored, so that products of square roots cancel
    mean = g.mx + shift
    density = sp.exp(-(mean**2) / (2 * var)) / sp.sqrt(2 * sp.pi * var)
    a, b, c = g.a * noise / var, g.b * noise / var, sp.factor((g.det + noise * g.c) / var)
    mx, my = g.mx - g.a / var * mean, g.my - g.b / var * mean
    return Gauss(mx, my, a, b, c, g.det * noise / var), density


@functools.lru_cache(4096)
def one_sign(m: int, n: int, g: Gauss, shift: sp.Expr, noise: sp.Expr) -> sp.Expr:
    """``E[x^m y^n sign(X)]`` with ``X = x + shift + sqrt(noise) z``."""
    if m < 0 or n < 0:
        return sp.S.Zero
    if m == 0 and n == 0:
        return sp.erf((g.mx + shift) / sp.sqrt(2 * sp.factor(g.a + noise)))
    fixed, density = at_zero(g, shift, noise)
    if m > 0:
        return (
            g.mx * one_sign(m - 1, n, g, shift, noise)
            + (m - 1) * g.a * one_sign(m - 2, n, g, shift, noise)
            + n * g.b * one_sign(m - 1, n - 1, g, shift, noise)
            + 2 * g.a * density * isserlis(m - 1, n, fixed)
        )
    return (
        g.my * one_sign(0, n - 1, g, shift, noise)
        + (n - 1) * g.c * one_sign(0, n - 2, g, shift, noise)
        + 2 * g.b * density * isserlis(0, n - 1, fixed)
    )


def _angle(y: sp.Expr, x: sp.Expr) -> sp.Expr:
    """``angle(y, x)`` with ``y = q12`` (of which it is a positive multiple): one name per angle."""
    return angle(q12, sp.sqrt(sp.factor((x * sp.cancel(q12 / y)) ** 2)))


@functools.lru_cache(4096)
def two_signs(m: int, n: int, g: Gauss, noise_x: sp.Expr, noise_y: sp.Expr) -> sp.Expr:
    """``E[x^m y^n sign(X) sign(Y)]`` for means zero."""
    if m < 0 or n < 0:
        return sp.S.Zero
    if m == 0 and n == 0:
        det = sp.factor(g.det + noise_x * g.c + noise_y * g.a + noise_x * noise_y)
        return 2 / sp.pi * _angle(g.b, sp.sqrt(det))
    if m == 0:
        return two_signs(n, m, g.swapped(), noise_y, noise_x)
    at_x, density_x = at_zero(g, sp.S.Zero, noise_x)
    at_y, density_y = at_zero(g.swapped(), sp.S.Zero, noise_y)
    zero = sp.S.Zero
    return (
        (m - 1) * g.a * two_signs(m - 2, n, g, noise_x, noise_y)
        + n * g.b * two_signs(m - 1, n - 1, g, noise_x, noise_y)
        + 2 * g.a * density_x * one_sign(n, m - 1, at_x.swapped(), zero, noise_y)
        + 2 * g.b * density_y * one_sign(m - 1, n, at_y.swapped(), zero, noise_x)
    )


@functools.lru_cache(1024)
def rectified(m: int, n: int, signs: int) -> sp.Expr:
    """``E[x^m y^n sign(x)]`` (times ``sign(y)`` for ``signs=2``) without exponentials, expanded."""
    plain = Gauss(sp.S.Zero, sp.S.Zero, q11, q12, q22, root**2)
    zero = sp.S.Zero
    if signs == 1:
        return sp.expand_mul(one_sign(m, n, plain, zero, zero))
    return sp.expand_mul(two_signs(m, n, plain, zero, zero))


def waves(first: Term, second: Term) -> sp.Expr:
    r"""``Re E[first(x) second(y)]`` for terms without sign and delta.

    An imaginary part ``w`` of the linear exponents moves the means by ``i Q'w``; real and imaginary
    parts are kept apart from the start, because sympy is slow at taking them afterwards.
    """
    g, exponent, d = tilt(first, second)
    u, v = sp.im(first.u), sp.im(second.u)
    x, y = g.a * u + g.b * v, g.b * u + g.c * v
    parts = [sp.S.Zero] * 4  # coefficients of 1, i, i^2, i^3
    pairs = itertools.product(shifted_powers(first.m, x), shifted_powers(second.m, y))
    for (i, p), (j, q) in pairs:
        parts[(first.m + second.m - i - j) % 4] += p * q * isserlis(i, j, g)
    real, imaginary = parts[0] - parts[2], parts[1] - parts[3]
    c, s = (first.c * second.c).as_real_imag()
    angle_of_wave = sp.factor(g.mx * u + g.my * v)
    size = sp.exp(sp.factor(exponent - (x * u + y * v) / 2)) / sp.sqrt(d)
    return size * (
        (c * real - s * imaginary) * sp.cos(angle_of_wave)
        - (c * imaginary + s * real) * sp.sin(angle_of_wave)
    )


def average(first: Term, second: Term) -> sp.Expr:
    """``E[first(x) second(y)]``, the real part where exponents are complex.

    Raises:
        UnsupportedLayerError: the average needs the bivariate normal distribution function or the
            error function of a complex number.
    """
    rank = {"delta": 0, "sign": 1, "": 2}
    if rank[second.kind] < rank[first.kind]:
        return average(second, first).subs({q11: q22, q22: q11}, simultaneous=True)
    if first.kind == "":
        return waves(first, second)
    if sp.im(first.u) != 0 or sp.im(second.u) != 0:
        _refuse(first, second, "the error function of a complex number")
    g, exponent, d = tilt(first, second)
    scale = first.c * second.c * sp.exp(sp.factor(exponent)) / sp.sqrt(d)
    if first.kind == "delta":
        fixed, density = at_zero(g, sp.S.Zero, sp.S.Zero)
        return scale * density * _first_margin(second, fixed.swapped())
    offsets = any(value != 0 for value in (g.mx, g.my, first.shift, second.shift))
    if not offsets and first.noise == second.noise == 0:
        # Not with the fractions of g from the start: they would not cancel.
        formula = rectified(first.m, second.m, 1 if second.kind == "" else 2)
        values = {q11: g.a, q12: g.b, q22: g.c, root: sp.sqrt(g.det)}
        return scale * formula.subs(values, simultaneous=True).replace(angle, _angle)
    if second.kind == "":
        return scale * one_sign(first.m, second.m, g, first.shift, first.noise)
    if offsets:
        _refuse(first, second, "the bivariate normal distribution function")
    return scale * two_signs(first.m, second.m, g, first.noise, second.noise)


def _refuse(first: Term, second: Term, what: str) -> None:
    raise UnsupportedLayerError(
        f"The average of {first} at one input times {second} at the other needs {what}. No "
        "elementary formula exists where sign or erf meets sin or cos, or where both factors have "
        "a sign or erf and one of them an exp(a*x) or an offset. Use ntk.dual(callable, "
        "kinks=(...)), which integrates numerically."
    )


def _first_margin(term: Term, g: Gauss) -> sp.Expr:
    """``E[x^m g(x)]`` of a term without its exponential, under the first margin of ``g``."""
    if term.kind == "delta":
        return at_zero(g, sp.S.Zero, sp.S.Zero)[1]
    if term.kind == "sign":
        return one_sign(term.m, 0, g, term.shift, term.noise)
    return isserlis(term.m, 0, g)
