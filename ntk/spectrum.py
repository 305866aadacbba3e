r"""Spectra of dot-product kernels on spheres, degree by degree (hypercubes: :mod:`ntk.hypercube`).

On either domain with its uniform probability measure, a kernel that depends on the overlap t alone
is diagonal in polynomials of degree k: :math:`\kappa(t) = \sum_k \lambda_k N_k P_k(t)`.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import scipy.special

from deeplimits.errors import ConvergenceError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.special import legendre_rule
from deeplimits.typing import Array
from deeplimits.validate import choice, integer, number
from ntk.kernel_profile import kernel_profile
from ntk.zonal import (
    Tail,
    degeneracies,
    find_tail,
    projections,
)
from ntk.zonal import (
    power_kernel_eigenvalues as power_kernel_eigenvalues,
)

_EPS = float(np.finfo(np.float64).eps)


@functools.partial(
    register_dataclass,
    data_fields=["eigenvalues", "degeneracies", "abs_err", "trace", "tail"],
    meta_fields=["d", "domain"],
)
@dataclasses.dataclass(frozen=True, eq=False)
class Spectrum:
    """Eigenvalues of a dot-product kernel by degree k = 0 .. k_max.

    Attributes:
        eigenvalues: ``(k_max + 1,)``, of the integral operator with the uniform distribution.
        degeneracies: ``(k_max + 1,)`` multiplicities N_k.
        abs_err: ``(k_max + 1,)`` estimated absolute errors (quadrature and rounding).
        trace: the kernel at t = 1, which is the sum of all eigenvalues with multiplicity.
        tail: leading non-analytic terms (:class:`ntk.zonal.Tail`), or None.
        d: ambient dimension.
        domain: ``"sphere"`` or ``"hypercube"``.
    """

    eigenvalues: Array
    degeneracies: Array
    abs_err: Array
    trace: float
    tail: Tail | None
    d: int
    domain: str

    @property
    def resolved(self) -> Array:
        """Which eigenvalues exceed ten times their estimated error."""
        return np.abs(self.eigenvalues) > 10 * self.abs_err

    @property
    def power(self) -> Array:
        """Part of the trace in each degree, ``eigenvalues * degeneracies``."""
        return self.eigenvalues * self.degeneracies

    @property
    def missing(self) -> float:
        """Trace of what is left out: the degrees above k_max and those below rounding."""
        kept = np.where(self.resolved, self.power, 0.0)
        return float(self.trace - math.fsum(kept.tolist()))

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """Eigenvalues against degree, logarithmic, with the predicted tail where there is one."""
        return plot_degrees(self, ax=ax, **kw)


def plot_degrees(spectrum: Spectrum, *, ax: Any = None, **kw: Any) -> Any:
    """Resolved positive eigenvalues against degree, with the asymptotic tail as a thin line.

    Args:
        spectrum: from :func:`sphere_spectrum` or :func:`hypercube_spectrum`.
        ax: axes to draw on; default a new figure.
        **kw: passed to ``plot`` (``label``, ``color``).

    Returns:
        The axes.

    Check: tests/ntk/test_spectrum.py::test_plots.
    """
    from deeplimits import plotting

    ax = plotting.axes(ax)
    k = np.arange(len(spectrum.eigenvalues))
    keep = spectrum.resolved & (spectrum.eigenvalues > 0) & (k > 0)
    (line,) = ax.loglog(
        k[keep],
        spectrum.eigenvalues[keep],
        **{"marker": "o", "linestyle": "", "markersize": 4, **kw},
    )
    if spectrum.tail is not None and len(k) > 8:
        predicted = spectrum.tail.predict(k)
        shown = (k >= 4) & (predicted > 1e-6 * np.abs(predicted).max(initial=0))
        ax.loglog(k[shown], predicted[shown], color=line.get_color(), linewidth=0.8)
    ax.set(xlabel="degree k", ylabel="eigenvalue")
    return ax


@float64_scope
def sphere_spectrum(
    kernel: Any,
    d: int,
    k_max: int,
    *,
    get: str = "ntk",
    argument: str = "auto",
    radius: float | None = None,
    tol: float = 1e-12,
) -> Spectrum:
    r"""Eigenvalues of a dot-product kernel on the sphere in d dimensions, by degree.

    .. math:: \lambda_k = \frac{\Gamma(d/2)}{\sqrt\pi\,\Gamma((d-1)/2)}
              \int_0^\pi \kappa(\cos\theta) P_k(\cos\theta) \sin^{d-2}\theta\, d\theta

    Gauss-Legendre nodes in the angle, with :math:`\varepsilon = 2\sin^2(\theta/2)` handed to the
    kernel. Why not Gegenbauer nodes in t: kernels of piecewise linear activations have square roots
    at t = +-1, which are analytic in the angle; 40 nodes then do what 1000 nodes in t do.

    Args:
        kernel: a network of this package or its method ``net.ntk`` or ``net.nngp``; a kernel on
            points, ``k(X, Z=None) -> (n, m)``; or a function of one array (elementwise).
        d: ambient dimension, >= 2.
        k_max: largest degree, >= 0.
        get: ``"ntk"`` (default) or ``"nngp"`` of a network.
        argument: what ``kernel`` takes if it is no network: ``"points"`` (X and Z),
            ``"correlation"`` (the overlap t of unit vectors) or ``"eps"`` (1 - t, accurate where t
            is near 1). Default ``"auto"``: points if there is a second argument without default or
            with the default None; else the one of t and 1 - t that makes ``kernel`` positive
            definite, which implies that it is largest at coincident inputs.
        radius: length of the points; default sqrt(d) for a network, so that x.x/d = 1, and 1 for a
            kernel on points.
        tol: largest ``abs_err`` relative to the largest value of the kernel. Default 1e-12.

    Returns:
        :class:`Spectrum`; ``.tail`` is found for kernels with half-integer powers at the ends.

    Raises:
        DomainError: an argument out of range, a kernel that depends on more than the angle between
            its inputs, or a function that could be one of t as well as of 1 - t.
        ShapeError: a function that does not act elementwise, a kernel that does not map points to
            ``(n, m)``.
        ConvergenceError: the quadrature does not reach ``tol`` (a kernel that is not analytic in
            the angle).

    Source: Funk-Hecke formula; quadrature in the angle and error estimate derived here.

    Check: tests/ntk/test_spectrum.py::test_sphere_values, ::test_power_kernel_closed_form,
        ::test_forms_of_a_kernel.
    """
    d = integer(d, "d", at_least=2)
    k_max = integer(k_max, "k_max", at_least=0)
    tol = number(tol, "tol", above=0.0)
    profile = kernel_profile(kernel, d, get, argument, radius)
    multiplicity = degeneracies("sphere", d, k_max)
    trace = float(profile(np.zeros(1))[0])
    values, errors = _quadrature(profile, d, k_max, tol * _size(profile))
    return Spectrum(values, multiplicity, errors, trace, find_tail(profile, d), d, "sphere")


def _size(profile: Callable[[Any], Array]) -> float:
    """Largest modulus on a grid of angles."""
    return float(np.abs(profile(np.linspace(0, np.pi, 65))).max())


def _quadrature(
    profile: Callable[[Any], Array], d: int, k_max: int, goal: float
) -> tuple[Array, Array]:
    """Projections with their errors; the number of nodes grows until two rules agree."""
    # sin^(d-2) is a bump of width 1/sqrt(d), and P_k oscillates k/2 times
    first = nodes = 24 + k_max + 4 * math.isqrt(d)
    last = None
    while True:
        sums, sizes = _one_rule(profile, d, k_max, nodes)
        rounding = (4 + np.sqrt(np.arange(k_max + 1))) * _EPS * sizes
        if last is not None:
            errors = np.abs(sums - last) + rounding
            if errors.max() <= goal:
                return sums, errors
            if nodes > 5 * first:
                raise ConvergenceError(
                    f"the projections changed by up to {errors.max():.3g} (allowed {goal:.3g}) at "
                    f"{nodes} nodes: the kernel is not analytic in the angle. Give a larger tol, "
                    "or check the kernel for jumps."
                )
        last, nodes = sums, round(1.4 * nodes) + 8


def _one_rule(profile: Callable[[Any], Array], d: int, k_max: int, nodes: int) -> tuple[Any, Any]:
    x, w = legendre_rule(nodes)
    theta = np.pi * x
    log_norm = scipy.special.gammaln(d / 2) - scipy.special.gammaln((d - 1) / 2)
    density = np.exp(log_norm + (d - 2) * np.log(np.sin(theta))) * np.sqrt(np.pi)
    return projections("sphere", d, k_max, np.cos(theta), w * density * profile(theta))


@float64_scope
def mercer_coefficients(
    target: Any, d: int, k_max: int, *, argument: str = "eps", tol: float = 1e-12
) -> np.ndarray:
    r"""Coefficients by degree of a function of one direction, :math:`f(x) = g(x \cdot x_0)`.

    .. math:: v_k = \sqrt{N_k} \int g(t) P_k(t), \qquad E[f^2] = \sum_k v_k^2

    :math:`|v_k|` is the length of the vector of Mercer coefficients of degree k (all of it lies
    along one harmonic), which is what :func:`ntk.learning_curve` takes with ``degeneracies``.

    Args:
        target: function g of one array, elementwise; of eps or of the overlap (``argument``).
        d: ambient dimension of the sphere, >= 2.
        k_max: largest degree.
        argument, tol: as for :func:`sphere_spectrum`; tol is relative to the largest ``|g|``.

    Returns:
        NumPy float64 ``(k_max + 1,)``.

    Raises:
        DomainError, ShapeError, ConvergenceError: as for :func:`sphere_spectrum`.

    Source: Funk-Hecke formula. Check: tests/ntk/test_spectrum.py::test_mercer_coefficients.
    """
    d = integer(d, "d", at_least=2)
    k_max = integer(k_max, "k_max", at_least=0)
    choice(argument, "argument", ("eps", "correlation"))
    profile = kernel_profile(target, d, "ntk", argument, None)
    goal = number(tol, "tol", above=0.0) * _size(profile)
    values, _ = _quadrature(profile, d, k_max, goal)
    return values * np.sqrt(degeneracies("sphere", d, k_max))
