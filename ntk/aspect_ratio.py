r"""The best ratio of depth to width from the information that outputs share.

In the limit of infinite width the outputs of a random network are independent. At finite width they
share information, which first grows with depth (features are learnt jointly) and then falls
(fluctuations take over). For the density of largest entropy with given two- and four-point
functions on m outputs, with :math:`x = V/(n K^2)`,

.. math:: S(m) = \tfrac m2 \ln(2\pi e K) - \tfrac{m(m+2)}{16} x^2 + \tfrac{m(m+2)(m+8)}{48} x^3
   + O(x^4),

so that two halves :math:`m_1 + m_2 = n_L` of the outputs share
:math:`I = m_1 m_2 [x^2/8 - (20 + 3 n_L) x^3/48]`. At criticality :math:`x = \nu r` with
:math:`r = L/n`.

The cubic term neglects the true six-point function of the network: the optimum is an estimate of
the order of magnitude, and is sharp only in its dependence on the activation.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from deeplimits.errors import ConvergenceError, DomainError
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import integer, number
from ntk.activations import dual as dual_of
from ntk.arccosine import ABRelu
from ntk.closed_forms import Linear
from ntk.exact_homogeneous import slopes_of
from ntk.single_input_asymptotics import local_numbers


@functools.partial(
    register_dataclass,
    data_fields=["ratio", "nu", "information"],
    meta_fields=["n_out", "residual"],
)
@dataclass(frozen=True)
class AspectRatio:
    """The ratio of depth to width at which halves of the outputs share most information.

    Attributes:
        ratio: optimal depth / width.
        nu: growth per layer of ``V / K^2``.
        information: mutual information of two halves of the outputs there, in nats.
        n_out: number of outputs.
        residual: weight gamma of the skip connections.
    """

    ratio: float
    nu: float
    information: float
    n_out: int
    residual: float

    def depth(self, width: float) -> float:
        """The optimal number of layers at a given width (not rounded)."""
        return self.ratio * float(number(width, "width", at_least=1))

    def curve(self, ratio: Any) -> np.ndarray:
        """Mutual information in nats at other ratios depth / width, where the series holds."""
        half = self.n_out / 2
        return mutual_information(self.nu * np.asarray(ratio, float), half, half)

    def plot(self, ax: Any = None) -> Any:
        """Mutual information against depth / width, with the optimum."""
        from deeplimits import plotting

        ax = plotting.axes(ax)
        r = np.linspace(0, 1.5 * self.ratio, 200)
        ax.plot(r, self.curve(r))
        ax.plot([self.ratio], [self.information], "o", label=f"optimum {self.ratio:.3g}")
        ax.set(xlabel="depth / width", ylabel="shared information (nats)")
        ax.legend()
        return ax


def entropy(x: Any, m: float, K: float = 1.0) -> Any:
    """Entropy in nats of m outputs with variance K and ``x = V / (n K^2)``, to third order in x."""
    x = np.asarray(x, float)
    gaussian = m / 2 * math.log(2 * math.pi * math.e * K)
    return gaussian - m * (m + 2) / 16 * x**2 + m * (m + 2) * (m + 8) / 48 * x**3


def mutual_information(x: Any, m1: float, m2: float) -> Any:
    """Information in nats that m1 and m2 outputs share: ``S(m1) + S(m2) - S(m1 + m2)``."""
    x = np.asarray(x, float)
    return m1 * m2 * (x**2 / 8 - (20 + 3 * (m1 + m2)) * x**3 / 48)


def fluctuation_growth(
    activation: Any, residual: float = 0.0, *, three_point: bool = True
) -> float:
    r"""Growth per layer of ``V / K^2`` at criticality, with skip connections of weight gamma.

    For :math:`z' = b + W\sigma(z) + \gamma z` at the critical
    :math:`C_W = (1 - \gamma^2)/A_2` or :math:`(1-\gamma^2)/\sigma_1^2`:

    .. math:: \nu = (1-\gamma^2)\Bigl[(1-\gamma^2)(3\tfrac{A_4}{A_2^2} - 1) + 4\gamma^2\Bigr]
       + \tfrac4\pi \gamma(1+\gamma)(1-\gamma^2) \frac{(a_+^2 - a_-^2)^2}{A_2^2}
       \quad\text{or}\quad \tfrac23(1-\gamma^4) .

    The last term of the first form comes from the three-point function
    :math:`E[z_i z_k^2]`, which skip connections carry from layer to layer if the activation is not
    odd. It vanishes in the first layer and is often left out; asymptotically it is there (ReLU,
    gamma^2 = 1/2: 5.32 per layer instead of 2.25).

    Args:
        activation: scale-invariant, or smooth with K* = 0.
        residual: gamma in [0, 1), default 0.
        three_point: include the last term, default True.

    Raises:
        UnsupportedLayerError: another universality class.
        DomainError: gamma out of range.

    Source:
        [roberts2022], section 5.4 and appendix B; the three-point term derived here.
        Check: ``tests/ntk/test_aspect_ratio.py``.
    """
    gamma = float(number(residual, "residual", at_least=0, below=1))
    return _growth(_invariants(activation), gamma, three_point)


def _invariants(activation: Any) -> tuple[float, float] | None:
    """``(3 A4/A2^2 - 1, (a_+^2 - a_-^2)^2 / A2^2)``, or None in the class K* = 0."""
    dual = dual_of(activation)
    if not isinstance(dual, ABRelu | Linear):
        local_numbers(dual)
        return None
    a, b = slopes_of(dual)
    A2, A4 = (a**2 + b**2) / 2, (a**4 + b**4) / 2
    return 3 * A4 / A2**2 - 1, (b**2 - a**2) ** 2 / A2**2


def _growth(invariants: tuple[float, float] | None, gamma: Any, three_point: bool) -> Any:
    if invariants is None:
        return 2 / 3 * (1 - gamma**4)
    plain, odd = invariants
    rest = 1 - gamma**2
    nu = rest * (rest * plain + 4 * gamma**2)
    return nu + (4 / math.pi * gamma * (1 + gamma) * rest * odd if three_point else 0.0)


def optimal_aspect_ratio(
    n_out: int = 1,
    activation: Any = "relu",
    *,
    residual: float = 0.0,
    nu: float | None = None,
    three_point: bool = True,
) -> AspectRatio:
    r"""The ratio of depth to width at which the outputs share most information.

    .. math:: r^* = \frac{4}{(20 + 3 n_L)\, \nu}

    One output: 0.0870 for linear, 0.0348 for ReLU, 0.2609 for tanh and the like.

    Args:
        n_out: number of outputs n_L >= 1, default 1 (continued in m: halves of half an output).
        activation: scale-invariant, or smooth with K* = 0; not used if nu is given.
        residual: weight gamma of skip connections in [0, 1), default 0.
        nu: growth per layer of ``V / K^2``, > 0, if known.
        three_point: see :func:`fluctuation_growth`.

    Returns:
        :class:`AspectRatio`.

    Raises:
        UnsupportedLayerError: no closed form of nu for the activation; pass nu.
        DomainError: an argument out of its range.

    Source:
        [roberts2022], appendix A. Check: ``tests/ntk/test_aspect_ratio.py``.
    """
    n_out = integer(n_out, "n_out", at_least=1)
    if nu is None:
        nu = fluctuation_growth(activation, residual, three_point=three_point)
    nu = float(number(nu, "nu", above=0))
    x = 4 / (20 + 3 * n_out)
    information = float(mutual_information(x, n_out / 2, n_out / 2))
    return AspectRatio(x / nu, nu, information, n_out, float(residual))


def optimal_residual(
    ratio: float, n_out: int = 1, activation: Any = "relu", *, three_point: bool = True
) -> float:
    r"""The weight gamma of skip connections that makes a given depth / width optimal.

    Solves :math:`\nu(\gamma) = 4/((20 + 3 n_L) r)` on the branch that ends at :math:`\gamma = 1`.

    Args:
        ratio: depth / width r > 0.
        n_out, activation, three_point: as in :func:`optimal_aspect_ratio`.

    Returns:
        gamma in (0, 1).

    Raises:
        DomainError: r is below the smallest optimum over gamma, so that no skip connection is
            needed.
        UnsupportedLayerError: no closed form of nu for the activation.

    Source:
        [roberts2022], appendix B. Check: ``tests/ntk/test_aspect_ratio.py``.
    """
    from scipy.optimize import brentq

    ratio = float(number(ratio, "ratio", above=0))
    n_out = integer(n_out, "n_out", at_least=1)
    target = 4 / ((20 + 3 * n_out) * ratio)

    invariants = _invariants(activation)

    def excess(gamma: Any) -> Any:
        return _growth(invariants, gamma, three_point) - target

    grid = np.linspace(0, 1 - 1e-12, 401)
    values = excess(grid)
    above = np.flatnonzero(values > 0)
    if len(above) == 0:
        smallest = target * ratio / (target + float(values.max()))
        raise DomainError(
            f"ratio {ratio:g} is below {smallest:.3g}, the smallest optimal depth / width for this "
            "activation: the network is shallow already. Use no skip connections."
        )
    if above[-1] == len(grid) - 1:
        raise ConvergenceError(f"ratio {ratio:g} is too large: gamma is within 1e-12 of 1.")
    return float(brentq(excess, grid[above[-1]], grid[above[-1] + 1], xtol=1e-15))
