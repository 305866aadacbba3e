r"""Activations whose infinitely wide and deep networks are Bayes-consistent classifiers.

On a manifold of dimension ``d`` the limit is consistent if the exponent of its singular kernel is
``d``, that is :math:`a = b^{-d/2}`. These functions give such activations; each is normalised and a
dual, so it serves in :class:`ntk.Activation`, :func:`ntk.mlp` and :func:`ntk.infinite_depth`.
"""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import scipy.optimize

from deeplimits.errors import DomainError
from deeplimits.precision import float64_scope
from deeplimits.roots import bracketed_root
from deeplimits.validate import choice, integer, number
from ntk.closed_forms import Sin
from ntk.duals import Dual
from ntk.hermite_series import series_dual


def activation_for_dimension(
    d: int, degree: int | None = None, b: float | None = None, *, family: str = "polynomial"
) -> Dual:
    r"""An activation with exponent :math:`2\alpha = d`.

    .. math:: \hat\varphi(\rho) = b^{-d/2} \rho + \sum_{k=2}^{\text{degree}} c_k \rho^k, \qquad
       c_k \ge 0, \quad \sum c_k = 1, \quad \sum k\,c_k = b

    Among all solutions the one with the smallest :math:`\sum k^2 c_k`. With the defaults these are
    the published ones: :math:`(\rho^7 + \rho)/2` for ``d = 1``, else
    :math:`2^{-d/2}\rho^3 + (1 - 2^{1-d/2})\rho^2 + 2^{-d/2}\rho`.

    Args:
        d: dimension of the manifold on which the inputs lie, >= 1: the sphere in ``R^(d+1)``.
        degree: highest Hermite order, 2..100; default 3 (7 for ``d = 1``).
        b: slope at correlation 1, > 1: near-duplicates are told apart in
            :math:`\ln(1/\varepsilon)/\ln b` layers. Default 2 (4 for ``d = 1``).
        family: ``"polynomial"``, or ``"sine"`` for :func:`sine_for_dimension`.

    Returns:
        A dual with ``E[fn(z)^2] = 1``.

    Raises:
        DomainError: no such activation: the mean order :math:`(b - a)/(1 - a)` of the terms beyond
            the first must lie in [2, degree].

    Source: [radhakrishnan2023], corollary 1 and its code; linear programme derived here.
    Check: tests/ntk/test_infinite_depth.py::test_activation_for_dimension
    """
    d = integer(d, "d", at_least=1)
    if choice(family, "family", ("polynomial", "sine")) == "sine":
        if degree is not None or b is not None:
            raise DomainError("the sine family has no degree or b; its frequency follows from d.")
        return sine_for_dimension(d)
    degree = integer(degree if degree is not None else (7 if d == 1 else 3), "degree", at_least=2)
    slope = float(number(b if b is not None else (4.0 if d == 1 else 2.0), "b", above=1.0))
    return series_dual(_coefficients(d, degree, slope))


def _coefficients(d: int, degree: int, b: float) -> np.ndarray:
    a = b ** (-d / 2)
    order = np.arange(2, degree + 1)
    found = scipy.optimize.linprog(
        (order**2).astype(float), A_eq=np.stack([np.ones(len(order)), order]), b_eq=[1 - a, b - a]
    )
    if not found.success:
        mean = (b - a) / (1 - a)
        raise DomainError(
            f"no activation of degree {degree} has exponent {d} with b = {b:g}: its orders beyond "
            f"the first would have mean {mean:.4g}, which must lie in [2, {degree}]. "
            + ("Raise degree or lower b." if mean > degree else "Raise b (and degree).")
        )
    c = np.concatenate([[0.0, a], np.maximum(found.x, 0)])
    c[c < 1e-14] = 0.0
    return c


@float64_scope
def sine_for_dimension(d: int) -> Sin:
    r"""The sine :math:`\varphi \propto \sin(\sqrt t\, z)` with exponent :math:`2\alpha = d`.

    .. math:: \hat\varphi(\rho) = \frac{\sinh t\rho}{\sinh t}, \quad a = \frac{t}{\sinh t}, \quad
       b = t \coth t, \qquad -2 \ln a = d \ln b

    Args:
        d: dimension >= 2. As t falls to 0 the exponent falls to 1, which it does not reach.

    Raises:
        DomainError: ``d < 2``.

    Source: [radhakrishnan2023], section "Results" and its code (whose parameter is t).
    Check: tests/ntk/test_infinite_depth.py::test_activation_for_dimension
    """
    d = integer(d, "d", at_least=1)
    if d < 2:
        raise DomainError(
            f"no sine has exponent {d}: it exceeds 1 for all frequencies. Use the polynomials."
        )

    def excess(t):  # type: ignore[no-untyped-def]
        log_sinh = t + jnp.log(-jnp.expm1(-2 * t)) - math.log(2.0)
        return 2 * (log_sinh - jnp.log(t)) - d * jnp.log(t / jnp.tanh(t))

    t = float(bracketed_root(excess, 0.05, 40.0 * d).x)
    return Sin(math.sqrt(-2 / math.expm1(-2 * t)), math.sqrt(t))
