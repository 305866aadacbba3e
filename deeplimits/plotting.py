r"""Figures: axes in, axes out; one style, applied only inside ``with style():``.

The colours are those of Okabe and Ito, distinguishable with every common colour blindness.
``pyplot`` is imported by the functions, so importing this module opens no display.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from deeplimits.errors import DomainError, ShapeError
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_square, finite

#: Okabe-Ito colours: blue, vermilion, green, purple, orange, sky, black.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")

#: The matplotlib settings of :func:`style`.
RC: dict[str, Any] = {
    "figure.figsize": (5.2, 3.6),
    "figure.dpi": 110,
    "figure.constrained_layout.use": True,
    "savefig.dpi": 160,
    "font.size": 10.0,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 10.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.6,
    "lines.markersize": 5.0,
    "errorbar.capsize": 2.5,
    "xtick.direction": "out",
    "ytick.direction": "out",
    "image.cmap": "viridis",
    "image.interpolation": "nearest",
}

_POINTS: dict[str, Any] = {"fmt": "o", "label": "experiment", "markersize": 5, "capsize": 2.5}


@contextmanager
def style() -> Iterator[None]:
    """The figure style of this project, for the duration of a ``with`` block.

    Source: derived here; colours: M. Okabe and K. Ito, Color Universal Design (2008).
    Check: tests/deeplimits/test_plotting.py::test_style_is_local
    """
    import matplotlib.pyplot as plt
    from cycler import cycler

    settings: Any = {**RC, "axes.prop_cycle": cycler(color=COLORS)}
    with plt.rc_context(settings):
        yield


def axes(ax: Any = None) -> Any:
    """``ax`` itself, or the axes of a new figure in the project's style when it is None."""
    if ax is not None:
        return ax
    import matplotlib.pyplot as plt

    with style():
        return plt.subplots()[1]


def save(figure: Any, path: str | os.PathLike[str]) -> Path:
    """Write a figure (or the figure of some axes) and close it.

    Args:
        figure: ``matplotlib`` figure or axes.
        path: file name; the suffix gives the format. Missing folders are made.

    Returns:
        The path written.

    Raises:
        DomainError: a path without a suffix.
    """
    import matplotlib.pyplot as plt

    path = Path(path)
    if not path.suffix:
        raise DomainError(f"path must end in a format such as .png or .pdf, got {str(path)!r}.")
    figure = getattr(figure, "figure", figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=RC["savefig.dpi"])
    plt.close(figure)
    return path


def plot_gram(K: ArrayLike, *, ax: Any = None, order: ArrayLike | None = None, **kw: Any) -> Any:
    """A Gram matrix as an image with a colour bar.

    Args:
        K: ``(n, n)`` symmetric.
        ax: axes to draw on; default a new figure.
        order: permutation of the points, for instance ``np.argsort(labels)``; default as given.
        **kw: passed to ``imshow``. A matrix with negative entries gets a diverging colour map
            centred at zero.

    Returns:
        The axes.

    Raises:
        ShapeError: not square.
        DomainError: not symmetric, not finite, or ``order`` is no permutation.

    Check: tests/deeplimits/test_plotting.py::test_gram
    """
    K = np.asarray(as_square(K, "K"))
    if order is not None:
        order = np.asarray(order)
        if not np.array_equal(np.sort(order), np.arange(len(K))):
            raise DomainError(
                f"order must be a permutation of 0..{len(K) - 1}, such as np.argsort(labels)."
            )
        K = K[np.ix_(order, order)]
    if K.min() < 0:
        top = float(np.abs(K).max())
        kw = {"cmap": "RdBu_r", "vmin": -top, "vmax": top, **kw}
    ax = axes(ax)
    image = ax.imshow(K, **{"cmap": "viridis", "interpolation": "nearest", **kw})
    ax.grid(False)
    ax.set(xlabel="input", ylabel="input")
    ax.figure.colorbar(image, ax=ax, label="kernel", shrink=0.9)
    return ax


def plot_spectrum(eigenvalues: ArrayLike, *, ax: Any = None, **kw: Any) -> Any:
    """Eigenvalues in descending order against rank, both logarithmic.

    Args:
        eigenvalues: ``(n,)`` real, any order. Values <= 0 cannot be drawn; their number is stated
            on the figure.
        ax: axes to draw on; default a new figure.
        **kw: passed to ``plot`` (``label=...`` for several spectra).

    Returns:
        The axes.

    Raises:
        ShapeError: not 1-D, or empty.
        DomainError: NaN, infinite, or no positive eigenvalue.

    Check: tests/deeplimits/test_plotting.py::test_spectrum
    """
    values = _vectors(eigenvalues=eigenvalues)[0]
    values = np.sort(values)[::-1]
    positive = values[values > 0]
    if not len(positive):
        raise DomainError(f"eigenvalues must hold a positive one, got a largest of {values[0]:g}.")
    ax = axes(ax)
    ax.loglog(np.arange(1, len(positive) + 1), positive, **{"marker": ".", "markersize": 4, **kw})
    ax.set(xlabel="rank", ylabel="eigenvalue")
    if len(positive) < len(values):
        note = f"{len(values) - len(positive)} eigenvalues not positive"
        ax.annotate(note, (0.03, 0.04), xycoords="axes fraction", fontsize=8)
    return ax


def plot_convergence(
    sizes: ArrayLike,
    errors: ArrayLike,
    bars: ArrayLike | None = None,
    fit: Any = None,
    *,
    ax: Any = None,
    **kw: Any,
) -> Any:
    """Error against size, both logarithmic, with error bars and the fitted power law.

    Args:
        sizes, errors: ``(n,)``, positive; points with an error that is not positive are left out.
        bars: standard errors of ``errors``; default none.
        fit: :class:`deeplimits.statistics.PowerLawFit`, drawn as a line and named in the legend.
        ax: axes to draw on; default a new figure.
        **kw: passed to ``errorbar`` (``label``, ``color``).

    Returns:
        The axes.

    Raises:
        ShapeError: not 1-D of equal lengths.
        DomainError: NaN or infinite.

    Check: tests/deeplimits/test_plotting.py::test_convergence
    """
    sizes, errors = _vectors(sizes=sizes, errors=errors)
    bars = np.zeros_like(errors) if bars is None else _vectors(errors=errors, bars=bars)[1]
    keep = errors > 0
    ax = axes(ax)
    # a symmetric bar that reaches below zero has no logarithm: it ends just above
    lower = np.minimum(bars[keep], 0.999 * errors[keep])
    drawn = ax.errorbar(sizes[keep], errors[keep], (lower, bars[keep]), **{**_POINTS, **kw})
    if fit is not None:
        grid = np.geomspace(sizes.min(), sizes.max(), 50)
        p = fit.exponent
        half = (p.high - p.low) / 2
        label = rf"size$^{{{p.value:.2f} \pm {half:.2f}}}$ ({100 * p.level:g}%)"
        ax.plot(grid, fit(grid), color=drawn[0].get_color(), alpha=0.6, label=label)
    ax.set(xscale="log", yscale="log", xlabel="size", ylabel="|experiment − theory|")
    _size_ticks(ax, sizes)
    ax.legend(frameon=False)
    return ax


def plot_theory_experiment(
    x: ArrayLike,
    theory: ArrayLike,
    mean: ArrayLike,
    stderr: ArrayLike,
    *,
    ax: Any = None,
    **kw: Any,
) -> Any:
    """The theory as a line and the experiment as points with one standard error.

    Args:
        x, theory, mean, stderr: ``(n,)`` each.
        ax: axes to draw on; default a new figure.
        **kw: passed to ``errorbar`` (``label``, ``color``).

    Returns:
        The axes.

    Raises:
        ShapeError: not 1-D of equal lengths.
        DomainError: NaN or infinite.

    Check: tests/deeplimits/test_plotting.py::test_theory_experiment
    """
    x, theory, mean, stderr = _vectors(x=x, theory=theory, mean=mean, stderr=stderr)
    ax = axes(ax)
    order = np.argsort(x, kind="stable")
    ax.plot(x[order], theory[order], color=COLORS[-1], linewidth=1.2, label="theory")
    ax.errorbar(x, mean, stderr, **{**_POINTS, "color": COLORS[1], **kw})
    ax.legend(frameon=False)
    return ax


def plot_contour(
    data: Any, y: ArrayLike | None = None, z: ArrayLike | None = None, *, ax: Any = None, **kw: Any
) -> Any:
    """A function of two variables as filled contours with a colour bar.

    Args:
        data: a 2-D ``xarray.DataArray``, a ``Dataset`` with one such variable, or the values
            ``(n,)`` on the horizontal axis.
        y, z: with plain arrays, the vertical axis ``(m,)`` and the values ``(m, n)``. NaN leaves a
            hole.
        ax: axes to draw on; default a new figure.
        **kw: passed to ``contourf`` (``levels``, ``cmap``).

    Returns:
        The axes. The horizontal axis of a labelled array is its last dimension.

    Raises:
        ShapeError: not two-dimensional, or lengths that do not match.
        DomainError: a dataset with several variables, or no finite value.

    Check: tests/deeplimits/test_plotting.py::test_contour
    """
    names = ("x", "y", "value")
    if y is None or z is None:
        data, y, z, names = _labelled(data)
    x, y, z = (np.asarray(v, np.float64) for v in (data, y, z))
    if x.ndim != 1 or y.ndim != 1 or z.shape != (len(y), len(x)):
        raise ShapeError(
            "x, y and z must have shapes (n,), (m,) and (m, n), got "
            f"{x.shape}, {y.shape}, {z.shape}."
        )
    if not np.isfinite(z).any():
        raise DomainError("z must hold at least one finite value.")
    ax = axes(ax)
    filled = ax.contourf(x, y, np.ma.masked_invalid(z), **{"levels": 14, **kw})
    ax.grid(False)
    ax.set(xlabel=names[0], ylabel=names[1])
    ax.figure.colorbar(filled, ax=ax, label=names[2])
    return ax


def _labelled(data: Any) -> tuple[Any, Any, Any, tuple[str, str, str]]:
    """``x, y, z`` and their names from a labelled array or a dataset with one variable."""
    if hasattr(data, "data_vars"):
        if len(data.data_vars) != 1:
            raise DomainError(
                f"a dataset to contour must have one variable, got {list(data.data_vars)}. "
                "Use dataset[name]."
            )
        data = next(iter(data.data_vars.values()))
    if not hasattr(data, "dims"):
        raise ShapeError("plot_contour needs x, y and z, or one labelled array.")
    if len(data.dims) != 2:
        raise ShapeError(f"a labelled array to contour must be 2-D, got dimensions {data.dims}.")
    vertical, horizontal = data.dims
    names = (str(horizontal), str(vertical), str(data.name or "value"))
    return data[horizontal].values, data[vertical].values, data.values, names


def _vectors(**arrays: ArrayLike) -> list[np.ndarray]:
    """Finite float64 vectors of one length."""
    vectors = [np.asarray(v, np.float64) for v in arrays.values()]
    shapes = [v.shape for v in vectors]
    if len(shapes[0]) != 1 or 0 in shapes[0] or len(set(shapes)) > 1:
        raise ShapeError(f"{', '.join(arrays)} must be 1-D of one length > 0, got shapes {shapes}.")
    for name, v in zip(arrays, vectors, strict=True):
        finite(v, name)
    return vectors


def _size_ticks(ax: Any, sizes: np.ndarray) -> None:
    """Label a logarithmic axis with the sizes used, when there are few."""
    if 2 <= len(sizes) <= 8:
        ax.set_xticks(sizes, [f"{s:g}" for s in sizes])
        ax.set_xticks([], minor=True)
