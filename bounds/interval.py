r"""Interval bound propagation through random networks: how fast certified boxes grow.

A box of widths w goes through a linear layer with widths :math:`|W| w`, and a ReLU halves the
mean width in expectation, exactly, since the box (l, u) is as likely as (-u, -l). The mean width
therefore grows from one ReLU layer to the next by

.. math:: g = n\, E|W| / 2 = n \sigma_w / \sqrt{2\pi} \quad \text{(Gaussian weights)},

at any width, while the variance of signals is multiplied by :math:`n \sigma_w^2 / 2`. Boxes keep
their size at :math:`\sigma_w = \sqrt{2\pi} / n`, signals at :math:`\sqrt{2 / n}`: an
initialisation for certified training loses a factor :math:`\pi / n` of signal per layer.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr

from deeplimits import plotting
from deeplimits.errors import DomainError, ShapeError
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_real, choice, finite, integer, number

#: :math:`E|w|` in units of the standard deviation.
MEAN_MODULUS = {"gaussian": math.sqrt(2 / math.pi), "uniform": math.sqrt(3) / 2, "sign": 1.0}
SCHEMES = ("kaiming", "ibp")


def ibp_growth(
    fan_in: ArrayLike,
    sigma_w: ArrayLike | str = "kaiming",
    *,
    law: str = "gaussian",
    slope: float = 0.0,
    skip: int = 0,
) -> xr.Dataset:
    r"""Expected width of interval bounds, layer by layer, of a random network.

    Each layer is linear; every layer but the first comes after an activation with slope 1 above
    zero and ``slope`` below (0 ReLU, 1 none), which multiplies the mean width by (1 + slope)/2.

    Args:
        fan_in: ``(L,)`` inputs of every layer: units for dense layers, kernel positions times
            input channels (k^2 c) for convolutions without padding.
        sigma_w: standard deviation of the weights, > 0, one number or one a layer; ``"kaiming"``
            keeps the variance of signals, ``"ibp"`` the width of boxes behind the first layer.
        law: of the weights: ``"gaussian"``, ``"uniform"`` or ``"sign"``; all symmetric, so that
            the result is exact.
        slope: of the activation below zero, in [0, 1].
        skip: 0 without residual branches; otherwise layers 1..skip, skip+1..2 skip, ... after the
            first are branches whose bounds are added to their input's (then exact up to terms
            of order 1/fan-in).

    Returns:
        Dataset over ``layer``: ``sigma_w``, ``growth`` (factor on the mean width by this layer
        alone), ``width`` (mean width after the layer, and after a branch with its input, relative
        to the input box), ``variance`` (factor on the variance of signals by this layer alone),
        ``signal`` (variance after the layer, likewise). Without activation on the input the first
        layer has twice the growth of a ReLU layer.

    Raises:
        ShapeError: not one sigma a layer, layers that do not fill the branches.
        DomainError: fan-ins below 1, sigmas that are not positive, an unknown law or scheme.

    Source: derived here; ``"ibp"``: arXiv:2103.17268.
    Check: tests/bounds/test_interval.py::test_growth_of_random_networks
    """
    n = np.atleast_1d(np.asarray(as_real(fan_in, "fan_in"), np.float64))
    finite(n, "fan_in")
    if n.ndim != 1 or not n.size or (n < 1).any() or (n != np.rint(n)).any():
        raise DomainError(f"fan_in must be whole numbers >= 1, one a layer, got {fan_in}.")
    choice(law, "law", tuple(MEAN_MODULUS))
    number(slope, "slope", at_least=0, at_most=1)
    integer(skip, "skip", at_least=0)
    if skip and (len(n) - 1) % skip:
        raise ShapeError(
            f"fan_in must hold one layer and then full branches of {skip}, got {len(n)} layers."
        )
    hidden = np.arange(len(n)) > 0
    shrink = np.where(hidden, (1 + slope) / 2, 1.0)
    power = np.where(hidden, (1 + slope**2) / 2, 1.0)
    sigma = _sigmas(sigma_w, n, law, slope)
    growth = n * sigma * MEAN_MODULUS[law] * shrink
    variance = n * sigma**2 * power
    data = {
        "sigma_w": sigma,
        "growth": growth,
        "width": _through(growth, skip),
        "variance": variance,
        "signal": _through(variance, skip),
    }
    return xr.Dataset(
        {name: ("layer", values) for name, values in data.items()},
        coords={"layer": np.arange(1, len(n) + 1), "fan_in": ("layer", n)},
        attrs={"law": law, "slope": float(slope), "skip": skip},
    )


def _sigmas(sigma_w: Any, n: np.ndarray, law: str, slope: float) -> np.ndarray:
    if isinstance(sigma_w, str):
        choice(sigma_w, "sigma_w", SCHEMES)
        if sigma_w == "kaiming":
            return np.sqrt(2 / ((1 + slope**2) * n))
        return 2 / ((1 + slope) * MEAN_MODULUS[law] * n)
    sigma = np.asarray(as_real(sigma_w, "sigma_w"), np.float64)
    finite(sigma, "sigma_w")
    if not (sigma > 0).all():
        raise DomainError(f"sigma_w must be > 0, got {sigma_w}.")
    if sigma.ndim > 1 or sigma.size not in (1, len(n)):
        raise ShapeError(f"sigma_w must be one number or {len(n)}, got shape {sigma.shape}.")
    return np.broadcast_to(sigma, n.shape).copy()


def _through(factors: np.ndarray, skip: int) -> np.ndarray:
    """Running product; at the end of a branch the value at its start is added."""
    values = np.cumprod(factors)
    if not skip:
        return values
    start = current = factors[0]
    for i in range(1, len(factors)):
        current = current * factors[i]
        if i % skip == 0:
            start = current = current + start
        values[i] = current
    return values


def ibp_bounds(
    weights: Sequence[ArrayLike],
    lower: ArrayLike,
    upper: ArrayLike,
    *,
    biases: Sequence[ArrayLike] | None = None,
    slope: float = 0.0,
) -> list[tuple[np.ndarray, np.ndarray]]:
    r"""Interval bounds on the pre-activations of every layer of a given network.

    .. math:: (c, r) \to (W c + b,\ |W| r), \qquad (l, u) \to (\varphi(l), \varphi(u))

    Args:
        weights: ``(out, in)`` matrices, first layer first.
        lower, upper: ``(..., in)`` box of inputs, lower <= upper.
        biases: ``(out,)`` vectors; default none.
        slope: as in :func:`ibp_growth`.

    Returns:
        For each layer the pair ``(lower, upper)``, ``(..., out)``.

    Raises:
        ShapeError: no layers, shapes that do not fit. DomainError: NaN, lower above upper.

    Source: arXiv:1810.12715. Check: tests/bounds/test_interval.py::test_bounds_hold
    """
    low, high = (np.asarray(as_real(a, s), float) for a, s in ((lower, "lower"), (upper, "upper")))
    finite(low, "lower")
    finite(high, "upper")
    number(slope, "slope", at_least=0, at_most=1)
    if low.shape != high.shape or not low.ndim:
        raise ShapeError(f"lower and upper must agree, got shapes {low.shape} and {high.shape}.")
    if (low > high).any():
        raise DomainError("lower must not exceed upper.")
    if not len(weights) or (biases is not None and len(biases) != len(weights)):
        raise ShapeError("weights must hold at least one matrix, and biases as many vectors.")
    out = []
    for i, matrix in enumerate(weights):
        W = np.asarray(as_real(matrix, f"weights[{i}]"), float)
        if W.ndim != 2 or W.shape[1] != low.shape[-1]:
            raise ShapeError(f"weights[{i}] must have shape (out, {low.shape[-1]}), got {W.shape}.")
        centre, radius = (high + low) / 2 @ W.T, (high - low) / 2 @ np.abs(W).T
        centre = centre if biases is None else centre + np.asarray(biases[i], float)
        out.append((centre - radius, centre + radius))
        low, high = (np.where(v > 0, v, slope * v) for v in out[-1])
    return out


def ibp_tradeoff(fan_in: ArrayLike, W_std: ArrayLike, *, law: str = "gaussian") -> xr.Dataset:
    r"""Growth of boxes and of signals per ReLU layer over the scale of the weights.

    Args:
        fan_in: ``(p,)`` whole numbers >= 1.
        W_std: ``(m,)`` scale :math:`\sigma_w \sqrt n`, > 0; critical for signals at 2^(1/2).
        law: as in :func:`ibp_growth`.

    Returns:
        Dataset over ``fan_in`` and ``W_std``: ``growth``, ``variance``; over ``fan_in``:
        ``W_std_ibp``, where boxes keep their size, and ``variance_ibp``, what is left of the
        signal per layer there (:math:`\pi / n` for Gaussian weights).

    Raises:
        DomainError: as :func:`ibp_growth`.

    Source: derived here. Check: tests/bounds/test_interval.py::test_incompatibility
    """
    n = np.atleast_1d(np.asarray(as_real(fan_in, "fan_in"), np.float64))
    W = np.atleast_1d(np.asarray(as_real(W_std, "W_std"), np.float64))
    finite(W, "W_std")
    if not (W > 0).all():
        raise DomainError(f"W_std must be > 0, got {W_std}.")
    boxes = ibp_growth(n, "ibp", law=law)
    modulus = MEAN_MODULUS[law]
    critical = boxes["sigma_w"].values * np.sqrt(n)
    dims = ("fan_in", "W_std")
    return xr.Dataset(
        {
            "growth": (dims, np.sqrt(n)[:, None] * W * modulus / 2),
            "variance": (dims, np.broadcast_to(W**2 / 2, (len(n), len(W))).copy()),
            "W_std_ibp": ("fan_in", critical),
            "variance_ibp": ("fan_in", critical**2 / 2),
        },
        coords={"fan_in": n, "W_std": W},
        attrs={"law": law},
    )


def plot_incompatibility(dataset: xr.Dataset, *, ax: Any = None, **kw: Any) -> Any:
    """Factors per layer against the scale of the weights; both are 1 at no common scale.

    Args:
        dataset: from :func:`ibp_tradeoff`.
        ax: axes to draw on; default a new figure.
        **kw: passed to ``plot``.

    Check: tests/bounds/test_interval.py::test_incompatibility
    """
    ax = plotting.axes(ax)
    W = dataset["W_std"].values
    ax.loglog(W, dataset["variance"].values[0], color="black", **{"label": "signal", **kw})
    for i, n in enumerate(dataset["fan_in"].values):
        color = plotting.COLORS[i % (len(plotting.COLORS) - 1)]
        ax.loglog(W, dataset["growth"].values[i], color=color, label=f"box, fan-in {n:g}", **kw)
        ax.plot(dataset["W_std_ibp"].values[i], dataset["variance_ibp"].values[i], "o", color=color)
    ax.axhline(1, color="gray", linewidth=0.8)
    ax.set(xlabel=r"W_std = $\sigma_w \sqrt{n}$", ylabel="factor per layer")
    ax.legend()
    return ax
