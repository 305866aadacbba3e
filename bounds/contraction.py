r"""Contraction coefficients: the share of an information that survives a noisy layer.

.. math:: \eta = \sup_{P, Q} \frac{KL(P_{out} \| Q_{out})}{KL(P \| Q)} \le
          \eta_{TV} = \max_{x, x'} TV(P_{out|x}, P_{out|x'})

so that :math:`I(W; T_{out}) \le \eta\, I(W; T_{in})`. The supremum is attained on two inputs, where
it is the Le Cam divergence of their outputs, maximised over the balance b:

.. math:: \eta = \max_{x, x'} \max_{0 < b < 1} LC_b, \qquad
          LC_b(P, Q) = b (1 - b) \int \frac{(P - Q)^2}{(1 - b) P + b Q}

(O. Ordentlich and Y. Polyanskiy, arXiv:2010.01987; for any f-divergence too).
"""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import jax.scipy.special as jsp
import numpy as np
import scipy.special
import xarray as xr

from bounds.result import Bound
from deeplimits.errors import DomainError, ShapeError
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_real, choice, finite, integer, is_traced, number

METHODS = ("kl", "tv")
#: Beyond this separation the coefficient of additive Gaussian noise is 1 to the last digit.
FAR = 16.0


def dropout(delta: ArrayLike, width: ArrayLike) -> Any:
    r"""Coefficient of dropout on a layer: all units are lost with probability ``delta**width``.

    .. math:: \eta = 1 - \delta^d

    Exact, and equal to that of total variation, if two inputs differ in every unit.

    Args:
        delta: probability of dropping a unit, in [0, 1]; broadcast.
        width: d >= 1 units.

    Returns:
        float64, a float for scalars; 1 at delta = 0 and 0 at delta = 1.

    Raises:
        DomainError: numbers outside these ranges, or a width that is not whole.

    Source: arXiv:2404.03176. Check: tests/bounds/test_contraction.py::test_erasures
    """
    return _erasure(delta, _count(width, "width"))


def dropconnect(delta: ArrayLike, fan_in: ArrayLike, fan_out: ArrayLike) -> Any:
    r"""Coefficient of DropConnect: all weights of a matrix are lost with ``delta**(p q)``.

    .. math:: \eta \le 1 - \delta^{p q}

    An upper bound (Doeblin), attained where two inputs give different outputs under every other
    mask.

    Args:
        delta: probability of dropping a weight, in [0, 1]; broadcast.
        fan_in, fan_out: p, q >= 1.

    Returns, Raises: as :func:`dropout`.

    Source: arXiv:2404.03176. Check: tests/bounds/test_contraction.py::test_erasures
    """
    return _erasure(delta, _count(fan_in, "fan_in") * _count(fan_out, "fan_out"))


def _erasure(delta: Any, count: Any) -> Any:
    delta = np.asarray(as_real(delta, "delta"), float)
    if not ((delta >= 0) & (delta <= 1)).all():
        raise DomainError(f"delta must be a probability in [0, 1], got {delta.min():g}.")
    with np.errstate(divide="ignore"):  # 1 - delta^d for delta near 1: expm1 keeps its digits
        value = -np.expm1(count * np.log(delta)) + 0.0
    return value if value.ndim else float(value)


def _count(value: Any, name: str) -> np.ndarray:
    x = np.asarray(value)
    if x.dtype.kind not in "iu" or not (x >= 1).all():
        raise DomainError(f"{name} must be an integer >= 1, got {value!r}.")
    return np.asarray(x, float)


def awgn(diameter: Any, noise: Any, method: str = "kl") -> Any:
    r"""Coefficient of additive Gaussian noise on vectors from a set of bounded diameter.

    .. math:: \eta = LC_{1/2}\big(N(0, 1), N(\delta, 1)\big) = 1 - e^{-\delta^2/8}\,
              E_z\,\mathrm{sech}(\delta z / 2), \qquad \eta_{TV} = \mathrm{erf}(\delta / \sqrt 8),
              \qquad \delta = D / \epsilon

    :math:`\eta \approx \delta^2/4` for small :math:`\delta`, where
    :math:`\eta_{TV} \approx 0.4\,\delta`.

    Args:
        diameter: D >= 0, largest Euclidean distance of two vectors before the noise, for units
            bounded by b ``2 * b * sqrt(width)``; infinity allowed; broadcast.
        noise: standard deviation per unit, >= 0.
        method: ``"kl"`` (tight) or ``"tv"`` (loose, of total variation).

    Returns:
        float64, a float for scalars; under ``jax.grad`` and ``jax.jit`` a JAX array. 1 without
        noise, 0 for diameter 0.

    Raises:
        DomainError: negative numbers, NaN, both 0, an unknown method.

    Source: derived here (``"kl"``); arXiv:2404.03176 (``"tv"``).
    Check: tests/bounds/test_contraction.py::test_awgn_against_quadrature
    """
    choice(method, "method", METHODS)
    if is_traced(diameter) or is_traced(noise):
        ratio = jnp.asarray(diameter) / jnp.asarray(noise)
        return _awgn(ratio, method, jnp)
    size, std = (
        np.asarray(as_real(a, k), float) for a, k in ((diameter, "diameter"), (noise, "noise"))
    )
    for x, name in ((size, "diameter"), (std, "noise")):
        if not (x >= 0).all():
            raise DomainError(f"{name} must be >= 0 and not NaN, got {x.min():g}.")
    size, std = np.broadcast_arrays(size, std)
    if ((size == 0) & (std == 0)).any() or (np.isinf(size) & np.isinf(std)).any():
        raise DomainError("diameter / noise must be defined, got 0 / 0 or infinity / infinity.")
    with np.errstate(divide="ignore", over="ignore"):
        value = _awgn(size / std, method, np)
    return value if value.ndim else float(value)


def _awgn(ratio: Any, method: str, xp: Any) -> Any:
    """Both coefficients as functions of D / noise, in NumPy or JAX.

    Why not 1 minus the average of sech: it cancels for small ratios. The density form
    E tanh^2(x ratio / 2), x ~ N(ratio / 2, 1), has only positive terms; its poles lie pi / ratio
    from the axis, which 1200 nodes resolve to the last digit up to the ratio FAR.
    """
    if method == "tv":
        return (scipy.special.erf if xp is np else jsp.erf)(ratio / math.sqrt(8))
    near = xp.minimum(ratio, FAR)[..., None]
    nodes = np.linspace(-9.5, 9.5, 1201)
    weights = np.exp(-(nodes**2) / 2)
    weights = weights / weights.sum()
    x = xp.asarray(nodes, dtype=near.dtype)[(None,) * (near.ndim - 1)] + near / 2
    average = (xp.tanh(x * near / 2) ** 2 * xp.asarray(weights, dtype=near.dtype)).sum(-1)
    return xp.where(ratio > FAR, xp.ones_like(average), average)


def channel(W: ArrayLike, method: str = "kl") -> float:
    r"""Coefficient of a discrete channel, by the Le Cam divergence over all pairs of inputs.

    Args:
        W: ``(inputs, outputs)`` transition probabilities; rows sum to 1.
        method: ``"kl"`` (the coefficient itself) or ``"tv"`` (largest total variation distance of
            two rows).

    Returns:
        Float in [0, 1]; 0 for one input or equal rows, 1 for two rows without common outputs.

    Raises:
        ShapeError: not a matrix.
        DomainError: negative or NaN entries, rows that do not sum to 1 within 1e-10.

    Source: O. Ordentlich and Y. Polyanskiy, arXiv:2010.01987.
    Check: tests/bounds/test_contraction.py::test_channel_against_search
    """
    choice(method, "method", METHODS)
    W = np.asarray(as_real(W, "W"), float)
    if W.ndim != 2 or W.size == 0:
        raise ShapeError(f"W must be a matrix (inputs, outputs), got shape {W.shape}.")
    finite(W, "W")
    if W.min() < 0 or np.abs(W.sum(1) - 1).max() > 1e-10:
        raise DomainError(
            "W must hold probabilities with rows that sum to 1; got a minimum of "
            f"{W.min():g} and sums from {W.sum(1).min():.12g} to {W.sum(1).max():.12g}."
        )
    i, j = np.triu_indices(len(W), 1)
    if not len(i):
        return 0.0
    P, Q = W[i], W[j]
    if method == "tv":
        return float(np.abs(P - Q).sum(1).max() / 2)
    return float(min(_le_cam(P, Q).max(), 1.0))


def _le_cam(P: np.ndarray, Q: np.ndarray) -> np.ndarray:
    """Le Cam divergence of each pair of rows, maximised over b by golden section.

    LC_b is concave in b: it is 1 minus the sum of P Q / ((1 - b) P + b Q), a convex function.
    """
    golden = (math.sqrt(5) - 1) / 2
    used = P + Q > 0

    def value(b: np.ndarray) -> np.ndarray:
        b = b[:, None]
        mix = np.where(used, (1 - b) * P + b * Q, 1.0)
        # (P - Q)^2 rather than 1 - sum P Q / mix, which cancels for close rows
        return (b * (1 - b) * (P - Q) ** 2 / mix).sum(1)

    low, high = np.zeros(len(P)), np.ones(len(P))
    best = value(np.full(len(P), 0.5))
    for _ in range(50):  # the value is flat at its maximum: 1e-10 in b is 1e-20 in the value
        a, c = high - golden * (high - low), low + golden * (high - low)
        fa, fc = value(a), value(c)
        best = np.maximum(best, np.maximum(fa, fc))
        low, high = np.where(fa < fc, a, low), np.where(fa < fc, high, c)
    return best


def information(label: float, inputs: float, etas: ArrayLike) -> Bound:
    r"""Information of a noisy representation and its label about the weights.

    .. math:: I(T, Y; W) \le I(Y; W) + \Big(\prod_j \eta_j\Big) I(X; W | Y)

    The label does not pass through the noise, so that contracting the whole of
    :math:`I(X, Y; W)` is wrong unless :math:`I(Y; W) = 0`.

    Args:
        label: I(Y; W) in nats, >= 0.
        inputs: I(X; W | Y) in nats, >= 0.
        etas: coefficients in [0, 1] of the layers passed.

    Returns:
        :class:`~bounds.result.Bound` in nats, with ``terms`` ``label``, ``inputs``, ``eta`` and
        ``naive``, the (wrong) product with the sum.

    Raises:
        DomainError: negative information, coefficients outside [0, 1].

    Source: derived here (chain rule and data processing).
    Check: tests/bounds/test_contraction.py::test_labels_are_not_contracted
    """
    number(label, "label", at_least=0)
    number(inputs, "inputs", at_least=0)
    eta = product(etas)
    return Bound(
        value=float(label) + eta * float(inputs),
        terms={
            "label": float(label),
            "inputs": float(inputs),
            "eta": eta,
            "naive": eta * (float(label) + float(inputs)),
        },
        target="information",
        units="nats",
        assumptions=(
            "noise independent of data and weights, and between layers",
            "the same noise law at training and at test time",
        ),
        reference="derived here; arXiv:2404.03176",
    )


def product(etas: ArrayLike) -> float:
    """Coefficient of layers in sequence: the product; 1 for none.

    Raises:
        DomainError: coefficients outside [0, 1], or NaN.
    """
    eta = np.asarray(as_real(etas, "etas"), float)
    if not ((eta >= 0) & (eta <= 1)).all():
        raise DomainError(f"etas must lie in [0, 1], got {eta.min():g} to {eta.max():g}.")
    return float(eta.prod())


def depth_tradeoff(delta: float, units: int) -> xr.Dataset:
    r"""Deeper yet narrower: dropout coefficients for one number of units in equal layers.

    .. math:: \prod_j (1 - \delta^{d_j}), \qquad d_j = \text{units} / \text{layers}

    falls with the number of layers.

    Args:
        delta: probability of dropping a unit, in [0, 1].
        units: total, >= 1.

    Returns:
        Dataset over ``layers`` (every divisor of ``units``) with ``width``, ``eta`` of one layer
        and their ``product``.

    Raises:
        DomainError: numbers outside these ranges.

    Source: arXiv:2404.03176. Check: tests/bounds/test_contraction.py::test_product_and_tradeoff
    """
    units = integer(units, "units", at_least=1)
    delta = float(number(delta, "delta", at_least=0, at_most=1))
    layers = np.array([k for k in range(1, units + 1) if units % k == 0])
    eta = np.asarray(dropout(delta, units // layers))
    return xr.Dataset(
        {
            "width": ("layers", units // layers),
            "eta": ("layers", eta),
            "product": ("layers", eta**layers),
        },
        coords={"layers": layers},
        attrs={"delta": delta, "units": units},
    )
