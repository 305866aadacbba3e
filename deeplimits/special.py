r"""Special functions of Gaussian integrals, stable in value and derivative (float32 and float64).

Each function runs in the dtype of its inputs, broadcasts, and works under ``jit``, ``vmap`` and
``grad``. Notation: :math:`\phi` and :math:`\Phi` are the standard normal density and distribution.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import jax.scipy.special as jsp
import numpy as np

from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import integer

_LOG2 = math.log(2.0)
_SQRT2 = math.sqrt(2.0)
_SQRT2PI = math.sqrt(2.0 * math.pi)


def _floats(*values: ArrayLike) -> tuple[jax.Array, ...]:
    """Broadcast to one shape and one floating dtype (Python numbers are weak)."""
    dtype = jnp.result_type(*values)
    if not jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.zeros(()).dtype
    return tuple(jnp.broadcast_arrays(*(jnp.asarray(v, dtype) for v in values)))


@functools.cache
def legendre_rule(order: int) -> tuple[np.ndarray, np.ndarray]:
    """Gauss-Legendre nodes and weights on [0, 1].

    NumPy's weights carry relative errors up to 2e-12 at 40 nodes and more, because ``1 - x^2`` is
    formed from rounded nodes; here both are polished in extended precision where there is one.

    Args:
        order: number of nodes, at least 1.

    Returns:
        NumPy float64 ``(nodes, weights)``.

    Source: Newton's method on the three-term recursion.
    Check: tests/deeplimits/test_special.py::test_legendre_rule.
    """
    x: Any = np.polynomial.legendre.leggauss(order)[0].astype(np.longdouble)
    for _ in range(3):
        before, now = np.ones_like(x), x
        for k in range(2, order + 1):
            before, now = now, ((2 * k - 1) * x * now - (k - 1) * before) / k
        slope = order * (before - x * now) / ((1 - x) * (1 + x))
        x = x - now / slope
    weights = 1 / ((1 - x) * (1 + x) * slope**2)
    return ((1 + x) / 2).astype(np.float64), weights.astype(np.float64)


def log_cosh(x: ArrayLike) -> Array:
    r"""The logarithm of the hyperbolic cosine: even, convex, :math:`|x| - \log 2` at infinity.

    .. math:: \log\cosh x = \begin{cases} \log(1 + 2\sinh^2(x/2)) & |x| < 1\\
                             |x| + \log(1 + e^{-2|x|}) - \log 2 & |x| \ge 1\end{cases}

    Why not the textbook form: cosh overflows at 710 (89 in float32), and the second line alone
    cancels to nothing below x = 1e-8, where the answer is x^2/2. The derivative is tanh exactly.

    Args:
        x: real, any shape.

    Returns:
        Array of the shape and dtype of ``x``, relative accuracy of a few eps everywhere.

    Source: derived here.
    Check: tests/deeplimits/test_special.py::test_log_cosh.
    """
    return _log_cosh(*_floats(x))


@jax.custom_jvp
def _log_cosh(x: jax.Array) -> jax.Array:
    size = jnp.abs(x)
    near = jnp.log1p(2 * jnp.sinh(jnp.minimum(size, 1) / 2) ** 2)
    return jnp.where(size < 1, near, size + jnp.log1p(jnp.exp(-2 * size)) - _LOG2)


_log_cosh.defjvps(lambda t, _, x: t * jnp.tanh(x))


def log_ndtr(x: ArrayLike) -> Array:
    r"""The logarithm of the normal distribution function, accurate in both tails.

    .. math:: \log\Phi(x) = -x^2/2 + \log(\mathrm{erfcx}(-x/\sqrt2)/2) \quad (x < -1), \qquad
              \log(1 - \mathrm{erfc}(x/\sqrt2)/2) \quad (x \ge -1)

    Why not ``jax.scipy.special.log_ndtr``: between its switching points it takes the logarithm of
    a number that is rounded to 1 (relative error 4e-5 at x = 7; 4 % at x = 5 in float32), and its
    derivative forms ``exp(-x^2/2 - log Phi)``, which loses ``eps x^2``. Here the derivative is the
    inverse Mills ratio and the second derivative uses its continued fraction.

    Args:
        x: real, any shape.

    Returns:
        Array of the shape and dtype of ``x``.

    Source: derived here; continued fraction: Abramowitz & Stegun 26.2.14.
    Check: tests/deeplimits/test_special.py::test_log_ndtr.
    """
    return _log_ndtr(*_floats(x))


def _erfcx(t: jax.Array) -> jax.Array:
    """Scaled complementary error function of ``t >= 0``; its asymptotic series beyond 20.

    ``jax.scipy.special.erfcx`` returns 0 between 26.544 and 26.641 (JAX 0.10.2).
    """
    far = jnp.maximum(t, 20)
    small = 1 / (2 * far * far)
    series = jnp.ones_like(far)
    for k in range(15, 0, -2):  # the next term is below 1e-17
        series = 1 - k * small * series
    return jnp.where(t > 20, series / (far * math.sqrt(math.pi)), jsp.erfcx(jnp.minimum(t, 20)))


@jax.custom_jvp
def _inverse_mills(x: jax.Array) -> jax.Array:
    """``phi(x) / Phi(x)``, the derivative of log Phi."""
    lower = math.sqrt(2 / math.pi) / _erfcx(-jnp.minimum(x, 0) / _SQRT2)
    high = jnp.maximum(x, 0)
    return jnp.where(x < 0, lower, _phi(high) / jsp.ndtr(high))


def _inverse_mills_jvp(t: jax.Array, r: jax.Array, x: jax.Array) -> jax.Array:
    far = -jnp.minimum(x, -5)
    excess = far
    for k in range(24, 1, -1):  # x + r = 1/(|x| + 2/(|x| + 3/(...))): x + r itself cancels
        excess = far + k / excess
    return -t * r * jnp.where(x < -5, 1 / excess, x + r)


_inverse_mills.defjvps(_inverse_mills_jvp)


@jax.custom_jvp
def _log_ndtr(x: jax.Array) -> jax.Array:
    low = jnp.minimum(x, -1)
    lower = -(low**2) / 2 + jnp.log(_erfcx(-low / _SQRT2) / 2)
    upper = jnp.log1p(-jsp.erfc(jnp.maximum(x, -1) / _SQRT2) / 2)
    return jnp.where(x < -1, lower, upper)


_log_ndtr.defjvps(lambda t, _, x: t * _inverse_mills(x))


def log_diff_exp(a: ArrayLike, b: ArrayLike) -> Array:
    r"""The logarithm of a difference of exponentials.

    .. math:: \log(e^a - e^b) = a + \log(1 - e^{-(a - b)}), \qquad a \ge b

    Why not the textbook form: it overflows, and loses all digits when a and b are close. For
    :math:`a - b < \log 2` the logarithm is taken of expm1, otherwise log1p is used.

    Args:
        a, b: logarithms, broadcast together; ``-inf`` is the logarithm of zero.

    Returns:
        Array; ``-inf`` where ``a == b``, NaN where ``a < b`` (a negative difference).

    Source: derived here.
    Check: tests/deeplimits/test_special.py::test_log_diff_exp.
    """
    return _log_diff_exp(*_floats(a, b))


@jax.custom_jvp
def _log_diff_exp(a: jax.Array, b: jax.Array) -> jax.Array:
    gap = jnp.where(b == -jnp.inf, jnp.inf, a - b)
    close = jnp.log(-jnp.expm1(-jnp.minimum(gap, 1)))
    return a + jnp.where(gap < _LOG2, close, jnp.log1p(-jnp.exp(-gap)))


_log_diff_exp.defjvps(
    lambda t, _, a, b: -t / jnp.expm1(-jnp.where(b == -jnp.inf, jnp.inf, a - b)),
    lambda t, _, a, b: -t / jnp.expm1(jnp.where(b == -jnp.inf, jnp.inf, a - b)),
)


def hermite_functions(x: ArrayLike, n: int) -> Array:
    r"""The first ``n`` Hermite functions, orthonormal in ``L^2(dx)``.

    .. math:: h_k(x) = \frac{\mathrm{He}_k(x)}{\sqrt{k!}}\sqrt{\phi(x)}, \qquad
              \sqrt{k+1}\,h_{k+1} = x h_k - \sqrt{k}\,h_{k-1}

    Why not the polynomials: He_k overflows at k = 150 (at 30 in float32) while the functions stay
    below 1. Why not the recursion as it stands: it starts from exp(-x^2/4), which underflows
    beyond ``|x| = 54`` (19 in float32) although higher functions live there; so the recursion runs
    on rescaled values whose logarithm is carried along.

    Args:
        x: real, any shape.
        n: number of functions, ``k = 0 .. n-1``; at least 1.

    Returns:
        Array of shape ``(*x.shape, n)``.

    Raises:
        DomainError: ``n`` is not an integer >= 1.

    Source: DLMF 18.9.1 with the normalisation above.
    Check: tests/deeplimits/test_special.py::test_hermite_functions.
    """
    n = integer(n, "n", at_least=1)
    (x,) = _floats(x)
    k = jnp.arange(1, n + 1).astype(x.dtype)
    zero = jnp.zeros_like(x)

    def step(carry, k):  # type: ignore[no-untyped-def]
        before, now, log_scale = carry
        value = now * jnp.exp(log_scale)
        after = (x * now - jnp.sqrt(k - 1) * before) / jnp.sqrt(k)
        size = jax.lax.stop_gradient(jnp.maximum(jnp.abs(after), jnp.abs(now)))
        return (now / size, after / size, log_scale + jnp.log(size)), value

    start = (zero, zero + 1, -(x**2) / 4 - math.log(2 * math.pi) / 4)
    return jnp.moveaxis(jax.lax.scan(step, start, k)[1], 0, -1)


def owens_t(h: ArrayLike, a: ArrayLike) -> Array:
    r"""Owen's T function: the Gaussian mass of the wedge ``X > h, 0 < Y < a X`` for h, a > 0.

    .. math:: T(h, a) = \frac{1}{2\pi}\int_0^a \frac{e^{-h^2(1+x^2)/2}}{1+x^2}\,dx

    ``|a| <= 1``: Gauss-Legendre rule, cut where the Gaussian has decayed; otherwise the reflection
    to ``T(a h, 1/a)``. (``jax.scipy.special.owens_t`` mixes dtypes in float32.)

    Args:
        h, a: real, broadcast together; infinite values allowed. T is even in h and odd in a.

    Returns:
        Array; relative error about ``eps (1 + h^2)``, derivatives exact.

    Source: Owen (1956).
    Check: tests/deeplimits/test_special.py::test_owens_t.
    """
    return _owens_t(*_floats(h, a))


@jax.custom_jvp
@jax.jit
def _owens_t(h: jax.Array, a: jax.Array) -> jax.Array:
    size, slope = jnp.abs(h), jnp.abs(a)
    reflected = jnp.where(size == 0, 0, size * slope)
    steep = slope > 1
    near, angle = jnp.where(steep, reflected, size), jnp.where(steep, 1 / slope, slope)
    end = jnp.minimum(angle, 8.7 / near)
    total = jnp.zeros_like(h)
    for node, weight in zip(*(c.tolist() for c in legendre_rule(24)), strict=True):
        x2 = (end * node) ** 2
        total += weight * jnp.exp(-(near**2) * (1 + x2) / 2) / (1 + x2)
    wedge = end * total / (2 * math.pi)
    p, r = jsp.ndtr(-size), jsp.ndtr(-reflected)
    return jnp.sign(a) * jnp.where(steep, (p + r) / 2 - p * r - wedge, wedge)


_owens_t.defjvps(
    lambda t, _, h, a: -t * _phi(h) * jsp.erf(a * h / _SQRT2) / 2,
    lambda t, _, h, a: t * jnp.exp(-(h**2) * (1 + a**2) / 2) / (2 * math.pi * (1 + a**2)),
)


def bivariate_ndtr(h: ArrayLike, k: ArrayLike, rho: ArrayLike) -> Array:
    r"""The bivariate normal distribution function, with relative accuracy in its lower tail.

    .. math:: \Phi_2(h, k; \rho) = P(X \le h,\, Y \le k), \qquad
              \partial_\rho \Phi_2 = \frac{1}{2\pi\sqrt{1-\rho^2}}
              \exp\Big(-\frac{h^2 + k^2 - 2 h k\rho}{2(1-\rho^2)}\Big)

    Why not the textbook form (:math:`\Phi(h)\Phi(k)` plus Plackett's integral from 0 to rho): it
    cancels in the tails and its integrand is singular at :math:`\rho = \pm1`. With
    :math:`\rho = \tanh w` the integrand is
    :math:`e^{-(h^2+k^2)/4 - (h-k)^2 e^{2w}/8 - (h+k)^2 e^{-2w}/8}\,\mathrm{sech}\,w`, log-concave.
    It is integrated over the monotone side of its peak that starts at w, from the exact value
    at rho = -1 or +1, so that nothing cancels, up to a bound on where it falls to 1e-16.

    Args:
        h, k: upper limits, real or infinite.
        rho: correlation in [-1, 1]; all three broadcast together. Outside: NaN.

    Returns:
        Array; relative error about ``eps (1 + h^2 + k^2)``. The derivative with respect to rho is
        infinite at :math:`\rho = \pm1, h = \rho k`.

    Source: Plackett (1954), Drezner & Wesolowsky (1990); substitution and splitting derived here.
    Check: tests/deeplimits/test_special.py::test_bivariate_ndtr.
    """
    return _bivariate_ndtr(*_floats(h, k, rho))


@jax.custom_jvp
@jax.jit
def _bivariate_ndtr(h: jax.Array, k: jax.Array, rho: jax.Array) -> jax.Array:
    h, k = jnp.clip(h, -100, 100), jnp.clip(k, -100, 100)
    low, high = jnp.minimum(h, k), jnp.maximum(h, k)
    at_minus_one = jnp.where(h + k > 0, jsp.ndtr(low) - jsp.ndtr(-high), 0)
    at_plus_one = jsp.ndtr(low)
    eps = float(jnp.finfo(rho.dtype).eps)
    inside = jnp.clip(rho, -1 + eps / 2, 1 - eps / 2)
    minus, plus = 1 - inside, 1 + inside
    a, b = (h - k) ** 2 * plus / (8 * minus), (h + k) ** 2 * minus / (8 * plus)
    left = 2 * (a - b) + inside <= 0  # the integrand still rises at rho
    # Reflect w -> -w on the falling side, so that one formula integrates away from the peak.
    rise, fall = jnp.where(left, a, b), jnp.where(left, b, a)
    minus, plus = jnp.where(left, minus, plus), jnp.where(left, plus, minus)
    slope = 2 * (fall - rise) + (minus - plus) / 2
    # The exponent, minus its value at rho, exceeds each of these three bounds; 37 means 1e-16.
    ratio = 37 / fall
    doubly = jnp.minimum(jnp.sqrt(2 * ratio), 1 + jnp.log1p(2 * ratio)) / 2
    end = jnp.minimum(jnp.minimum(37 / slope, doubly), jnp.minimum(38 + jnp.log(2 / minus), 40))

    def add(total, rule):  # type: ignore[no-untyped-def]
        u, weight = end * rule[0], rule[1]
        decay = jnp.exp(-rise * jnp.expm1(-2 * u) - fall * jnp.expm1(2 * u))
        return total + weight * decay / (minus * jnp.exp(u) + plus * jnp.exp(-u)), None

    rule = tuple(jnp.asarray(column, rho.dtype) for column in legendre_rule(60))
    total = end * jax.lax.scan(add, jnp.zeros_like(h), rule)[0]
    peak = jnp.exp(-(h**2 + k**2) / 4 - a - b)
    side = peak * jnp.sqrt(minus * plus) * total / math.pi
    value = jnp.where(left, at_minus_one + side, at_plus_one - side)
    value = jnp.where(rho == 1, at_plus_one, jnp.where(rho == -1, at_minus_one, value))
    return jnp.where(jnp.abs(rho) <= 1, value, jnp.nan)


@_bivariate_ndtr.defjvp
def _bivariate_ndtr_jvp(primals, tangents):  # type: ignore[no-untyped-def]
    (h, k, rho), (th, tk, trho) = primals, tangents
    sine = jnp.sqrt((1 - rho) * (1 + rho))
    safe = jnp.where(sine > 0, sine, float(jnp.finfo(rho.dtype).tiny) ** 0.5)
    right, up = (k - rho * h) / safe, (h - rho * k) / safe
    density = _phi(h) * _phi(right) / jnp.where(jnp.isfinite(right) & (right == 0), sine, safe)
    tangent = th * _phi(h) * jsp.ndtr(right) + tk * _phi(k) * jsp.ndtr(up) + trho * density
    return _bivariate_ndtr(h, k, rho), tangent


def _phi(x: jax.Array) -> jax.Array:
    return jnp.exp(-(x**2) / 2) / _SQRT2PI
