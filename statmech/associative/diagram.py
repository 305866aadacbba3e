"""The phase diagram of exponential memories over inverse temperature and load."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from deeplimits.errors import DomainError, ShapeError
from deeplimits.typing import ArrayLike
from statmech.associative.capacity import guaranteed_exponent, real
from statmech.associative.exponential import (
    condensation,
    ensemble,
    free_entropy,
    full_capacity,
    spin_thresholds,
    typical_capacity,
)
from statmech.phase import plot_phase_diagram

#: Names of the regions in the order of their codes.
PHASES = ("all_retrieved", "typical_retrieved", "liquid", "condensed")


def _grid(values: ArrayLike, name: str, **bounds: float) -> np.ndarray:
    x = real(values, name, **bounds)
    if x.ndim != 1 or len(x) < 2:
        raise ShapeError(f"{name} must be 1-D with at least two entries, got shape {x.shape}.")
    if not np.all(np.diff(x) > 0):
        raise DomainError(f"{name} must increase.")
    return x


def diagram(
    lam: ArrayLike | None = None,
    alpha: ArrayLike | None = None,
    *,
    patterns: str = "spherical",
    overlap: float = 1.0,
) -> xr.Dataset:
    r"""Where exp(alpha N) patterns are retrieved, with every threshold and rigorous bound.

    Regions: every pattern is retrieved; typical ones are, but not all; lost in a liquid of many
    patterns; lost among few (condensed). An overlap below one asks for retrieval from such a query
    instead of from the pattern; all patterns then count as typical.

    Args:
        lam: increasing inverse temperatures, > 0; default 120 from 0.02 to 4.
        alpha: increasing loads ln(P) / N, >= 0; default 120 up to a tenth above the largest
            threshold.
        patterns: ``"gaussian"``, ``"spherical"`` (default) or ``"binary"``.
        overlap: of the query with its pattern, in (0, 1], default 1.

    Returns:
        ``xarray.Dataset`` in the form of :mod:`statmech.phase`, axes ``("alpha", "lam")``: maps
        ``phase``, ``free_entropy`` and ``basin`` (the smallest overlap that suffices), and lines
        ``typical``, ``full``, ``condensation`` and ``guaranteed`` over ``lam``. The last is the
        theorem of Ramsauer et al. for N -> infinity on the sphere, the bound of Demircigil et al.
        (proven at lambda = 1 only) for sign patterns, and absent for Gaussian ones.

    Raises:
        ShapeError: a grid that is not 1-D.
        DomainError: a grid that does not increase, or an argument out of its range.

    Source: derived here after arXiv:2304.14964, arXiv:2008.02217 and arXiv:1702.01929.

    Check: tests/statmech/test_associative_capacity.py::test_diagram
    """
    ensemble(patterns)
    u = float(real(overlap, "overlap", above=0.0, at_most=1.0))
    x = _grid(np.linspace(0.02, 4, 120) if lam is None else lam, "lam", above=0.0)
    typical = typical_capacity(x, patterns=patterns, overlap=u)
    full = full_capacity(x, patterns=patterns) if u == 1 else typical
    top = 1.1 * float(typical.max())
    y = _grid(np.linspace(0, top, 120) if alpha is None else alpha, "alpha", at_least=0.0)
    frozen = condensation(x, patterns=patterns)
    Y, X = np.broadcast_arrays(y[:, None], x[None])
    phi = free_entropy(X, Y, patterns=patterns)
    lost = np.where(Y >= frozen[None], 2, 3)
    phase = np.where(full[None] > Y, 0, np.where(typical[None] > Y, 1, lost))
    axes = ("alpha", "lam")
    data = xr.Dataset(
        {
            "phase": (axes, phase),
            "free_entropy": (axes, phi),
            "basin": (axes, np.where(phi / X < 1, phi / X, np.nan)),
            "typical": ("lam", typical),
            "full": ("lam", full),
            "condensation": ("lam", frozen),
        },
        coords={"alpha": y, "lam": x},
        attrs={
            "model": "exponential memory",
            "title": f"{patterns} patterns, overlap {u:g} of the query",
            "source": "arXiv:2304.14964",
            "patterns": patterns,
            "overlap": u,
        },
    )
    if patterns == "spherical" and u == 1:
        data["guaranteed"] = ("lam", guaranteed_exponent(x))
    elif patterns == "binary":
        bound = spin_thresholds((1 - u) / 2).rigorous
        data["guaranteed"] = ("lam", np.where(np.isclose(x, 1.0, atol=0.02), bound, np.nan))
    return _described(data)


def _described(data: xr.Dataset) -> xr.Dataset:
    data["alpha"].attrs = {"long_name": "load ln(P) / N,", "units": "1"}
    data["lam"].attrs = {"long_name": "inverse temperature", "units": "1"}
    data["phase"].attrs = {
        "long_name": "phase",
        "flag_values": list(range(len(PHASES))),
        "flag_meanings": " ".join(PHASES),
    }
    data["free_entropy"].attrs = {"long_name": "exponent of the noise", "units": "1"}
    data["basin"].attrs = {"long_name": "smallest overlap of a query", "units": "1"}
    names = {
        "typical": "a typical pattern is lost",
        "full": "the first pattern is lost",
        "condensation": "noise condenses below",
        "guaranteed": "proven lower bound",
    }
    for line, text in names.items():
        if line in data:
            data[line].attrs = {"line": line, "long_name": text, "units": "1"}
    return data


def plot_diagram(dataset: xr.Dataset, *, ax: Any = None, **kw: Any) -> Any:
    """The diagram with its regions and lines; see :func:`statmech.plot_phase_diagram`.

    Args:
        dataset: from :func:`diagram`.
        ax: axes to draw on; default a new figure.
        **kw: passed on (``points`` for measurements).

    Returns:
        The axes.

    Check: tests/statmech/test_associative_capacity.py::test_diagram
    """
    return plot_phase_diagram(dataset, ax=ax, **kw)
