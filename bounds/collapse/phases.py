r"""Which classes are learned: vanishing classes as a function of weight decay and class size.

Without bias, class k of :math:`n_k` samples is its own mode with :math:`\sigma_k^2 = n_k`, so that
small classes vanish first as the weight decay grows: at ``switch`` globally, at ``spinodal`` even
as a local minimum.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import xarray as xr

from bounds.collapse.scalar import gain, mode_strength, thresholds
from deeplimits import plotting
from deeplimits.errors import DomainError
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_real, choice, finite, integer, number

#: What the numbers in ``phase`` mean.
PHASES = ("learned", "metastable", "vanished")


def critical_decay(
    n_k: ArrayLike, N: int, depth: int, *, lam_H: float | None = None, line: str = "switch"
) -> np.ndarray:
    r"""Weight decay at which a class of ``n_k`` out of ``N`` samples vanishes (no bias).

    With all M layers decaying by :math:`\lambda` and r from :func:`thresholds`,

    .. math:: N \lambda_H \lambda^M = \left(\frac{r\, n_k}{M N}\right)^M .

    Args:
        n_k: class sizes, > 0, any shape.
        N: samples in all, >= 1.
        depth: number M of weight layers, >= 1.
        lam_H: decay of the features, > 0; default the same :math:`\lambda`.
        line: ``"switch"`` (global minimum) or ``"spinodal"`` (last local minimum).

    Returns:
        :math:`\lambda`, shape of ``n_k``.

    Raises:
        DomainError: numbers out of range, an unknown line.

    Source: derived here. Check: tests/bounds/test_collapse.py::test_phase_diagram
    """
    M = integer(depth, "depth", at_least=1)
    integer(N, "N", at_least=1)
    choice(line, "line", ("switch", "spinodal"))
    n_k = _positive(n_k, "n_k")
    r = getattr(thresholds(M), line)
    product = M * np.log(r * n_k / (M * N)) - math.log(N)  # of lam_H lam^M
    if lam_H is None:
        return np.asarray(np.exp(product / (M + 1)))
    number(lam_H, "lam_H", above=0)
    return np.asarray(np.exp((product - math.log(lam_H)) / M))


def phase_diagram(
    lam: ArrayLike, n_k: ArrayLike, N: int, depth: int, *, lam_H: float | None = None
) -> xr.Dataset:
    r"""Fate of a class over weight decay and class size (no bias).

    Args:
        lam: ``(m,)`` weight decays of all layers, > 0.
        n_k: ``(p,)`` class sizes, > 0 and at most N.
        N, depth, lam_H: as in :func:`critical_decay`.

    Returns:
        Dataset over ``n_k`` and ``lam``: ``signal`` (output of the class at its own label at the
        global minimum, between 0 and 1), ``metastable_signal`` (on the larger branch, up to the
        spinodal), ``ratio`` (b / n_k) and ``phase`` (0 learned, 1 vanished globally but still a
        local minimum, 2 vanished); over ``n_k``: ``switch`` and ``spinodal`` in units of ``lam``.

    Raises:
        DomainError: numbers out of range.

    Source: derived here. Check: tests/bounds/test_collapse.py::test_phase_diagram
    """
    M = integer(depth, "depth", at_least=1)
    lam, n_k = _positive(lam, "lam"), _positive(n_k, "n_k")
    if lam.ndim != 1 or n_k.ndim != 1 or n_k.max() > integer(N, "N", at_least=1):
        raise DomainError(f"lam and n_k must be vectors and n_k at most N = {N}.")
    lines = {
        name: critical_decay(n_k, N, M, lam_H=lam_H, line=name) for name in ("switch", "spinodal")
    }
    features = lam if lam_H is None else np.full_like(lam, float(lam_H))
    ratio = M * N * np.exp((np.log(N * features) + M * np.log(lam)) / M) / n_k[:, None]
    limits = thresholds(M)
    signals = [
        np.asarray(gain(mode_strength(ratio, M, metastable=metastable), M))
        for metastable in (False, True)
    ]
    phase = (ratio > limits.switch).astype(np.int8) + (ratio > limits.spinodal)
    dims = ("n_k", "lam")
    data = xr.Dataset(
        {
            "signal": (dims, signals[0], {"long_name": "output at the own label"}),
            "metastable_signal": (dims, signals[1], {"long_name": "the same, larger branch"}),
            "ratio": (dims, ratio, {"long_name": "b / n_k"}),
            "phase": (dims, phase, {"flag_values": [0, 1, 2], "flag_meanings": " ".join(PHASES)}),
            "switch": ("n_k", lines["switch"], {"long_name": "decay at the switch"}),
            "spinodal": ("n_k", lines["spinodal"], {"long_name": "decay at the spinodal"}),
        },
        coords={"n_k": n_k, "lam": lam},
        attrs={"N": N, "depth": M, "lam_H": "lam" if lam_H is None else float(lam_H)},
    )
    data["lam"].attrs = {"long_name": "weight decay"}
    data["n_k"].attrs = {"long_name": "samples in the class"}
    return data


def plot_phase_diagram(dataset: xr.Dataset, *, ax: Any = None, **kw: Any) -> Any:
    """Signal of a class as colours, switch and spinodal as lines, both axes logarithmic.

    Args:
        dataset: from :func:`phase_diagram`.
        ax: axes to draw on; default a new figure.
        **kw: passed to ``pcolormesh``.

    Check: tests/bounds/test_collapse.py::test_plots
    """
    ax = plotting.axes(ax)
    lam, n_k = dataset["lam"].values, dataset["n_k"].values
    options = {"shading": "nearest", "vmin": 0, "vmax": 1, **kw}
    mesh = ax.pcolormesh(lam, n_k, dataset["signal"].values, **options)
    ax.figure.colorbar(mesh, ax=ax, label="output at the own label")
    ax.plot(dataset["switch"], n_k, color="white", linewidth=2, label="switch")
    if dataset.attrs["depth"] > 1:
        ax.plot(dataset["spinodal"], n_k, "--", color="white", linewidth=1.5, label="spinodal")
    ax.grid(False)
    ax.set(xscale="log", yscale="log", xlim=(lam[0], lam[-1]), ylim=(n_k[0], n_k[-1]))
    ax.set(xlabel="weight decay", ylabel="samples in the class")
    depth = dataset.attrs["depth"]
    ax.set_title(f"{depth} layer{'s' * (depth > 1)}, {dataset.attrs['N']} samples")
    ax.legend(labelcolor="white", loc="lower right")
    return ax


def _positive(values: ArrayLike, name: str) -> np.ndarray:
    array = np.asarray(as_real(values, name), np.float64)
    finite(array, name)
    if not array.size or not (array > 0).all():
        raise DomainError(f"{name} must be > 0, got {array}.")
    return array
