r"""Phase diagrams of every model in one form, and one way to draw them.

:func:`phase_diagram` finds the module of a model and calls its ``diagram(**parameters)`` (or
``<model>_diagram`` where one module holds several models). What such a function returns:

- Two axes are the dimensions of the integer variable ``phase``, vertical first, horizontal second,
  for instance ``("T", "alpha")``, with increasing coordinates that carry ``long_name``.
- ``phase.attrs``: ``flag_values`` (list of integers) and ``flag_meanings`` (names separated by
  blanks, underscores inside a name), as in the CF conventions.
- Maps over both axes: order parameters and free energies per branch, such as ``m_retrieval``; NaN
  where a branch does not exist.
- Lines are variables with one dimension and ``attrs["line"]`` (a short name, such as
  ``"spinodal"``) and ``attrs["long_name"]`` (for the legend). Their values are positions along one
  axis. The other axis is their dimension, or else the coordinate of their dimension says in
  ``attrs["axis"]`` along which axis it runs. Such a coordinate may turn back, so that a curve with
  two values at one abscissa is given by its points.
- ``attrs``: ``model``, ``title``, ``source``.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import scipy.ndimage
import xarray as xr

from deeplimits import plotting
from deeplimits.errors import DomainError, ShapeError
from deeplimits.validate import choice, finite

#: Where the diagram of each model is made; imported when it is asked for.
MODELS = {
    "hopfield": "statmech.hopfield_diagram",
    "pseudo_inverse": "statmech.pseudo_inverse",
    "dense_hebbian": "statmech.dense_diagram",
    "multitasking": "statmech.multitasking_diagram",
    "sk": "statmech.spin_glass_diagram",
    "p_spin": "statmech.spin_glass_diagram",
}
#: Backgrounds of the regions: light tints, told apart with every common colour blindness.
TINTS = ("#DCE9F5", "#FBE3D0", "#D5EFE3", "#F5E1EC", "#FDF3CC", "#E3F3FB", "#E6E6E6", "#CFCFCF")
#: A region smaller than this share of the panel gets its name in the legend, not inside.
_SMALL = 0.02


def phase_diagram(model: str, **parameters: Any) -> xr.Dataset:
    """Regions, lines and order parameters of a model over its two control parameters.

    Args:
        model: ``"hopfield"``, ``"pseudo_inverse"``, ``"dense_hebbian"``, ``"multitasking"``,
            ``"sk"`` or ``"p_spin"``.
        **parameters: axes and constants of the model, see its ``diagram`` function.

    Returns:
        ``xarray.Dataset`` in the form described in :mod:`statmech.phase`.

    Raises:
        DomainError: an unknown model.

    Source: derived here.

    Check: ``tests/statmech/test_phase.py``
    """
    choice(model, "model", tuple(MODELS))
    module = importlib.import_module(MODELS[model])
    own = getattr(module, f"{model}_diagram", None)
    result: xr.Dataset = (own or module.diagram)(**parameters)
    return result


def plot_phase_diagram(
    dataset: xr.Dataset,
    *,
    ax: Any = None,
    points: Mapping[str, Any] | xr.Dataset | None = None,
    **kw: Any,
) -> Any:
    """A phase diagram: tinted regions with their names, lines, and measured points on top.

    Args:
        dataset: from :func:`phase_diagram`.
        ax: axes to draw on; default a new figure.
        points: measurements to overlay: a mapping with one entry for each axis (the same names,
            1-D of one length), optionally ``phase`` (the name of the phase that was found at each
            point; the marker takes the colour of that region) and ``label``. Default none.
        **kw: passed to every line (``linewidth``).

    Returns:
        The axes.

    Raises:
        DomainError: a dataset without the variable ``phase``, or points without an axis, with an
            unknown phase, or not finite.
        ShapeError: points of different lengths.

    Check: ``tests/statmech/test_phase.py::test_plot``
    """
    vertical, horizontal = _axes_of(dataset)
    ax = plotting.axes(ax)
    x, y = dataset[horizontal].values, dataset[vertical].values
    names = _phase_names(dataset)
    codes = dataset["phase"].values
    tints = {code: TINTS[i % len(TINTS)] for i, code in enumerate(names)}
    image = np.zeros((*codes.shape, 4))
    for code, tint in tints.items():
        image[codes == code] = (*(int(tint[i : i + 2], 16) / 255 for i in (1, 3, 5)), 1.0)
    ax.pcolormesh(x, y, image, shading="nearest", rasterized=True)
    handles = [_region_name(ax, codes == c, x, y, names[c], tints[c]) for c in names]
    for i, line in enumerate(lines(dataset)):
        at = curve(dataset, line)
        label = dataset[line].attrs.get("long_name", line)
        style = {"color": plotting.COLORS[i % len(plotting.COLORS)], "label": label, **kw}
        handles += ax.plot(at[horizontal], at[vertical], **style)
    if points is not None:
        handles.append(_draw_points(ax, points, (horizontal, vertical), names, tints))
    ax.set(
        xlim=(x.min(), x.max()),
        ylim=(y.min(), y.max()),
        xlabel=_label(dataset[horizontal]),
        ylabel=_label(dataset[vertical]),
        title=dataset.attrs.get("title", ""),
    )
    ax.grid(False)
    shown = [h for h in handles if h is not None]
    if shown:
        ax.legend(handles=shown, fontsize=8, loc="best")
    return ax


def lines(dataset: xr.Dataset) -> tuple[str, ...]:
    """Names of the variables that are lines of a diagram, in their order.

    Check: ``tests/statmech/test_phase.py::test_curves``
    """
    return tuple(str(name) for name, v in dataset.data_vars.items() if "line" in v.attrs)


def curve(dataset: xr.Dataset, line: str) -> dict[str, np.ndarray]:
    """Points of a line: for each of the two axes the coordinates of its points.

    Args:
        dataset: from :func:`phase_diagram`.
        line: one of :func:`lines`.

    Raises:
        DomainError: not a line, or its dimension belongs to no axis.

    Check: ``tests/statmech/test_phase.py::test_curves``
    """
    choice(line, "line", lines(dataset))
    axes = _axes_of(dataset)
    (dimension,) = dataset[line].dims
    along = dataset[dimension].attrs.get("axis", dimension)
    if along not in axes:
        raise DomainError(
            f"line {line!r} runs over {dimension!r}, which is not one of the axes {axes} and does "
            "not name one in attrs['axis']."
        )
    across = axes[1 - axes.index(along)]
    return {along: dataset[dimension].values, across: dataset[line].values}


def _axes_of(dataset: xr.Dataset) -> tuple[str, str]:
    """Names of the vertical and of the horizontal axis."""
    if "phase" not in dataset or dataset["phase"].ndim != 2:
        raise DomainError("a phase diagram must have a variable 'phase' over two axes.")
    vertical, horizontal = dataset["phase"].dims
    return str(vertical), str(horizontal)


def _phase_names(dataset: xr.Dataset) -> dict[int, str]:
    attrs = dataset["phase"].attrs
    meanings = str(attrs["flag_meanings"]).split()
    return dict(zip((int(v) for v in attrs["flag_values"]), meanings, strict=True))


def _label(axis: xr.DataArray) -> str:
    return f"{axis.attrs['long_name']} {axis.name}" if "long_name" in axis.attrs else str(axis.name)


def _region_name(
    ax: Any, inside: np.ndarray, x: np.ndarray, y: np.ndarray, name: str, tint: str
) -> Any:
    """Write the name into the region where most room is; small regions go to the legend."""
    from matplotlib.patches import Patch

    text = name.replace("_", " ")
    if not inside.any():
        return None
    if inside.mean() < _SMALL:
        return Patch(facecolor=tint, edgecolor="#888888", label=text)
    # words are wider than high: distances count three times along the horizontal axis
    step = (1.0 / len(y), 1.0 / (3 * len(x)))
    room = scipy.ndimage.distance_transform_edt(np.pad(inside, 1), sampling=step)[1:-1, 1:-1]
    row, column = np.unravel_index(room.argmax(), room.shape)
    ax.text(x[column], y[row], text, ha="center", va="center", fontsize=9, color="#333333")
    return None


def _draw_points(
    ax: Any,
    points: Mapping[str, Any] | xr.Dataset,
    axes: tuple[str, str],
    names: dict[int, str],
    tints: dict[int, str],
) -> Any:
    missing = [name for name in axes if name not in points]
    if missing:
        raise DomainError(f"points must have entries {axes}, {missing[0]!r} is missing.")
    at = [np.ravel(np.asarray(points[name], np.float64)) for name in axes]
    found = np.ravel(np.asarray(points["phase"])) if "phase" in points else None
    if at[0].shape != at[1].shape or (found is not None and found.shape != at[0].shape):
        raise ShapeError("the entries of points must be 1-D of one length.")
    for name, values in zip(axes, at, strict=True):
        finite(values, f"points[{name!r}]")
    color: Any = "white"
    if found is not None:
        code = {name: c for c, name in names.items()}
        for name in found:
            choice(str(name), "a phase of points", tuple(code))
        color = [tints[code[str(name)]] for name in found]
    label = str(points["label"]) if "label" in points else "Monte Carlo"
    return ax.scatter(*at, c=color, edgecolors="black", s=34, zorder=5, label=label)
