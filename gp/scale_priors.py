r"""Laws of the random scale :math:`s^2` that multiplies the variance of the last layer.

Each law has its density in the logarithm :math:`u = \log s^2`, where nothing overflows, written in
JAX so that evidences can be differentiated with respect to its parameters. A law is any object with
the methods of :class:`ScalePrior`; a bare log density is wrapped by :class:`LogDensity`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jax.tree_util import GetAttrKey
from jaxtyping import Float
from scipy.special import beta as beta_function
from scipy.special import betaln as log_beta
from scipy.special import poch

from deeplimits.errors import DomainError
from deeplimits.precision import float64_scope
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_key, check, finite, integer, is_traced, number
from gp.predictive import LOG_2PI, standard_normal
from gp.scale_quadrature import MomentUndefinedError


@runtime_checkable
class ScalePrior(Protocol):
    """What a law of the scale must offer."""

    def log_density_of_log(self, u: Any) -> Any:
        """Log density of ``u = log s2``, Jacobian included, elementwise on NumPy or JAX arrays."""
        ...

    def moment(self, order: float) -> float:
        """``E[s2^order]``."""
        ...

    def sample(self, key: Any, n: int) -> np.ndarray:
        """``n`` independent scales."""
        ...


@float64_scope
def density_of_log(prior: ScalePrior, u: np.ndarray) -> Float[np.ndarray, "..."]:
    """``prior.log_density_of_log(u)`` as NumPy float64."""
    return np.asarray(prior.log_density_of_log(u), np.float64)


def log_density(prior: ScalePrior, s2: ArrayLike) -> Float[np.ndarray, "..."]:
    r"""Log density of a law at the scales ``s2``, NumPy float64.

    .. math:: \log p(s^2) = \log p_u(\log s^2) - \log s^2

    Args:
        prior: a law of the scale.
        s2: scales > 0, any shape.

    Raises:
        DomainError: a scale that is not positive and finite.

    Source: change of variables. Check: test_scale_priors.py::test_density_against_scipy.
    """
    s2 = np.asarray(s2, np.float64)
    finite(s2, "s2")
    check(bool(np.all(s2 > 0)), f"s2 must be > 0, got a minimum of {np.min(s2)}.", DomainError)
    u = np.log(s2)
    return np.asarray(density_of_log(prior, u) - u)


def _number(value: Any, name: str, **bounds: float) -> Any:
    """A Python float within bounds; a tracer as it is."""
    number(value, name, **bounds)
    return value if is_traced(value) else float(value)


def _parameters(prior: Any, *names: str) -> None:
    """Check that the named parameters are positive, and store them as Python floats."""
    for name in names:
        object.__setattr__(prior, name, _number(getattr(prior, name), name, above=0))


def _moment_exists(low: float, order: float, high: float, what: str) -> None:
    number(order, "order")
    check(
        low < order < high,
        f"E[s2^{order:g}] of {what} does not exist: the order must lie between {low:g} and "
        f"{high:g}.",
        MomentUndefinedError,
    )


@float64_scope
def _gamma(key: Any, shape: float, n: int) -> np.ndarray:
    """Logarithms of gamma variables: those of a small shape underflow."""
    draws = jax.random.loggamma(as_key(key), shape, (integer(n, "n", at_least=1),), jnp.float64)
    return np.asarray(draws)


@float64_scope
def _log_uniform(key: Any, n: int) -> np.ndarray:
    shape = (integer(n, "n", at_least=1),)
    return -np.asarray(jax.random.exponential(as_key(key), shape, jnp.float64))


#: Coefficients of Stirling's series, in powers of 1 / a^2, times 1 / a.
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188)


def _library(*values: Any) -> tuple[Any, Any]:
    """JAX where a value is a JAX array (a gradient may be wanted), else NumPy, which is faster."""
    if any(isinstance(value, jax.Array) for value in values):
        return jnp, jax.scipy.special
    return np, scipy.special


def _gamma_height(a: Any) -> Any:
    """``a log a - a - log Gamma(a)``; by Stirling's series from 20 on, where that cancels."""
    xp, special = _library(a)
    large, small = xp.maximum(a, 20.0), xp.minimum(a, 20.0)
    series = sum(c * large ** (-2.0 * i - 1) for i, c in enumerate(_STIRLING))
    asymptotic = 0.5 * xp.log(large / (2 * np.pi)) - series
    return xp.where(a < 20.0, small * xp.log(small) - small - special.gammaln(small), asymptotic)


def log_rising(a: Any, h: Any) -> Any:
    r""":math:`\log\Gamma(a + h) - \log\Gamma(a) - h \log a`, in NumPy or JAX, for a, h > 0.

    Why not gammaln or betaln: differences of the first lose all digits for a large a, and JAX's
    betaln is wrong by 1e-6 when its larger argument exceeds 8 (JAX 0.10.2).

    Check: test_scale_priors.py::test_gamma_ratios.
    """
    xp, _ = _library(a, h)
    return (a + h) * xp.log1p(h / a) - h + _gamma_height(a) - _gamma_height(a + h)


def _log_beta(a: Any, b: Any) -> Any:
    r""":math:`\log B(a, b)`, by the same route."""
    xp, _ = _library(a, b)
    mixing = a * xp.log1p(b / a) + b * xp.log1p(a / b)
    return _gamma_height(a + b) - _gamma_height(a) - _gamma_height(b) - mixing


@dataclass(frozen=True)
class InverseGamma:
    r"""Inverse gamma law of the scale; mixtures with it are Student-t in closed form.

    .. math:: p(s^2) = \frac{b^a}{\Gamma(a)}\, s^{-2(a+1)} e^{-b/s^2}

    Args:
        a: shape > 0; the Student-t law of the function has 2a degrees of freedom.
        b: scale > 0, in units of :math:`s^2`.

    Raises:
        DomainError: a or b is not positive and finite.

    Source: arXiv:2107.01408, section 3. Check: test_scale_priors.py::test_density_against_scipy.
    """

    a: Any
    b: Any

    def __post_init__(self) -> None:
        _parameters(self, "a", "b")

    def log_density_of_log(self, u: Any) -> Any:
        """Log density of ``u = log s2``, elementwise.

        Written around the maximum ``log(b/a)``: the textbook form loses ``a log a`` units in the
        last place, everything for a = 1e15.
        """
        xp, _ = _library(u, self.a, self.b)
        v = u - xp.log(self.b / self.a)
        return _gamma_height(self.a) - self.a * (v + xp.expm1(-v))

    def moment(self, order: float) -> float:
        r""":math:`E[s^{2r}] = b^r\, \Gamma(a - r) / \Gamma(a)`, for r < a.

        Raises:
            MomentUndefinedError: r >= a.
        """
        _moment_exists(-np.inf, order, float(self.a), f"InverseGamma(a={self.a:g})")
        return float(self.b**order / poch(self.a - order, order))

    @property
    def mean(self) -> float:
        """:math:`b / (a - 1)`; infinite for a <= 1."""
        return float(self.b) / (float(self.a) - 1) if self.a > 1 else np.inf

    @property
    def var(self) -> float:
        """:math:`b^2 / ((a-1)^2 (a-2))`; infinite for a <= 2."""
        return self.mean**2 / (float(self.a) - 2) if self.a > 2 else np.inf

    def sample(self, key: Any, n: int = 1) -> np.ndarray:
        """``n`` independent scales, ``(n,)``."""
        return np.exp(np.log(self.b) - _gamma(key, self.a, n))


@dataclass(frozen=True)
class BurrXII:
    r"""Burr law of type XII: tails :math:`P(s^2 > x) \sim x^{-ck}`.

    .. math:: p(s^2) = c k\, s^{2(c-1)} (1 + s^{2c})^{-k-1}

    Args:
        c: shape > 0; the density at small scales is :math:`s^{2(c-1)}`.
        k: shape > 0. c = 1 is the Lomax law.

    Raises:
        DomainError: c or k is not positive and finite.

    Source: arXiv:2107.01408, section 4. Check: test_scale_priors.py::test_density_against_scipy.
    """

    c: Any
    k: Any

    def __post_init__(self) -> None:
        _parameters(self, "c", "k")

    def log_density_of_log(self, u: Any) -> Any:
        """Log density of ``u = log s2``, elementwise."""
        xp, _ = _library(u, self.c, self.k)
        cu = self.c * u
        return xp.log(self.c * self.k) + cu - (self.k + 1) * xp.logaddexp(cu, 0.0)

    def moment(self, order: float) -> float:
        r""":math:`k\, B(k - r/c, 1 + r/c)`, for :math:`-c < r < ck`.

        Raises:
            MomentUndefinedError: r outside.
        """
        c, k = float(self.c), float(self.k)
        _moment_exists(-c, order, c * k, f"BurrXII(c={c:g}, k={k:g})")
        return k * float(beta_function(k - order / c, 1 + order / c))

    @property
    def mean(self) -> float:
        """Mean; infinite for ck <= 1."""
        return self.moment(1.0) if self.c * self.k > 1 else np.inf

    @property
    def var(self) -> float:
        """Variance; infinite for ck <= 2."""
        return self.moment(2.0) - self.mean**2 if self.c * self.k > 2 else np.inf

    def sample(self, key: Any, n: int = 1) -> np.ndarray:
        """``n`` independent scales ``(n,)``, by inversion of :math:`P(s^2 > x)`."""
        t = -_log_uniform(key, n) / float(self.k)
        return np.exp((t + np.log(-np.expm1(-t))) / float(self.c))


@dataclass(frozen=True)
class BetaPrime:
    r"""Beta-prime law; (1/2, 1/2) is a half-Cauchy law of the standard deviation.

    .. math:: p(s^2) = \frac{s^{2(\alpha-1)} (1 + s^2)^{-\alpha-\beta}}{B(\alpha, \beta)}

    Args:
        alpha, beta: shapes > 0.

    Raises:
        DomainError: alpha or beta is not positive and finite.

    Source: textbook. Check: test_scale_priors.py::test_density_against_scipy.
    """

    alpha: Any
    beta: Any

    def __post_init__(self) -> None:
        _parameters(self, "alpha", "beta")

    def log_density_of_log(self, u: Any) -> Any:
        """Log density of ``u = log s2``, elementwise."""
        xp, _ = _library(u, self.alpha, self.beta)
        total = self.alpha + self.beta
        constant = _log_beta(self.alpha, self.beta)
        return self.alpha * u - total * xp.logaddexp(u, 0.0) - constant

    def moment(self, order: float) -> float:
        r""":math:`B(\alpha + r, \beta - r) / B(\alpha, \beta)`, for :math:`-\alpha < r < \beta`.

        Raises:
            MomentUndefinedError: r outside.
        """
        a, b = float(self.alpha), float(self.beta)
        _moment_exists(-a, order, b, f"BetaPrime(alpha={a:g}, beta={b:g})")
        return float(np.exp(log_beta(a + order, b - order) - log_beta(a, b)))

    @property
    def mean(self) -> float:
        """Mean; infinite for beta <= 1."""
        return self.moment(1.0) if self.beta > 1 else np.inf

    @property
    def var(self) -> float:
        """Variance; infinite for beta <= 2."""
        return self.moment(2.0) - self.mean**2 if self.beta > 2 else np.inf

    def sample(self, key: Any, n: int = 1) -> np.ndarray:
        """``n`` independent scales ``(n,)``, as a ratio of gamma variables."""
        above, below = jax.random.split(as_key(key))
        return np.exp(_gamma(above, self.alpha, n) - _gamma(below, self.beta, n))


@dataclass(frozen=True)
class LogNormal:
    r"""Log-normal law, :math:`\log s^2 \sim N(\mu, \sigma^2)`.

    Args:
        mu: mean of :math:`\log s^2`.
        sigma: its standard deviation, > 0.

    Raises:
        DomainError: mu is not finite, or sigma not positive and finite.

    Source: textbook. Check: test_scale_priors.py::test_density_against_scipy.
    """

    mu: Any
    sigma: Any

    def __post_init__(self) -> None:
        _parameters(self, "sigma")
        object.__setattr__(self, "mu", _number(self.mu, "mu"))

    def log_density_of_log(self, u: Any) -> Any:
        """Log density of ``u = log s2``, elementwise."""
        xp, _ = _library(u, self.mu, self.sigma)
        z = (u - self.mu) / self.sigma
        return -0.5 * (z**2 + LOG_2PI) - xp.log(self.sigma)

    def moment(self, order: float) -> float:
        r""":math:`\exp(r\mu + r^2\sigma^2/2)`, for every r."""
        number(order, "order")
        return float(np.exp(order * self.mu + 0.5 * (order * self.sigma) ** 2))

    @property
    def mean(self) -> float:
        """Mean."""
        return self.moment(1.0)

    @property
    def var(self) -> float:
        """Variance."""
        return float(np.expm1(float(self.sigma) ** 2)) * self.mean**2

    def sample(self, key: Any, n: int = 1) -> np.ndarray:
        """``n`` independent scales, ``(n,)``."""
        return np.exp(self.mu + self.sigma * standard_normal(key, (integer(n, "n", at_least=1),)))


def _register(law: Any) -> None:
    """Make a law a pytree of its parameters, rebuilt without checks (JAX puts gradients there)."""
    names = tuple(law.__dataclass_fields__)

    def rebuild(_: None, leaves: Any) -> Any:
        new = object.__new__(law)
        for name, leaf in zip(names, leaves, strict=True):
            object.__setattr__(new, name, leaf)
        return new

    def values(prior: Any) -> tuple[Any, ...]:
        return tuple(getattr(prior, name) for name in names)

    jax.tree_util.register_pytree_with_keys(
        law,
        lambda prior: (tuple(zip(map(GetAttrKey, names), values(prior), strict=True)), None),
        rebuild,
        lambda prior: (values(prior), None),
    )


for _law in (InverseGamma, BurrXII, BetaPrime, LogNormal):
    _register(_law)
