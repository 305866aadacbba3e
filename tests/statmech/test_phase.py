"""The common form of phase diagrams and their drawing."""

import types

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from deeplimits.errors import DomainError, ShapeError
from statmech import phase
from statmech.phase import curve, lines, phase_diagram, plot_phase_diagram


def sample():
    """A diagram made by hand: two phases and a speck of a third, two lines."""
    x, y = np.linspace(0, 1, 30), np.linspace(0, 2, 20)
    codes = (y[:, None] > 1 + x[None] / 2).astype(np.int8)
    codes[0, 0] = 2
    flags = {"flag_values": [0, 1, 2], "flag_meanings": "cold_phase hot speck"}
    s = np.linspace(0, np.pi, 40)
    return xr.Dataset(
        {
            "phase": (("T", "alpha"), codes, flags),
            "edge": ("alpha", 1 + x / 2, {"line": "edge", "long_name": "the edge"}),
            "loop": ("loop_T", np.sin(s) / 2, {"line": "loop", "long_name": "a loop"}),
        },
        coords={
            "alpha": ("alpha", x, {"long_name": "load"}),
            "T": y,
            "loop_T": ("loop_T", 1 + np.cos(s), {"axis": "T"}),
        },
        attrs={"title": "sample"},
    )


def test_curves():
    data = sample()
    assert lines(data) == ("edge", "loop")
    edge, loop = curve(data, "edge"), curve(data, "loop")
    np.testing.assert_array_equal(edge["alpha"], data["alpha"])
    np.testing.assert_array_equal(edge["T"], data["edge"])
    np.testing.assert_array_equal(loop["T"], data["loop_T"])
    np.testing.assert_array_equal(loop["alpha"], data["loop"])
    del data["loop_T"].attrs["axis"]
    with pytest.raises(DomainError, match="runs over 'loop_T', which is not one of the axes"):
        curve(data, "loop")
    with pytest.raises(DomainError, match="line must be one of 'edge', 'loop'"):
        curve(data, "phase")


def test_plot():
    data = sample()
    points = {"alpha": [0.2, 0.8], "T": [0.5, 1.8], "phase": ["cold_phase", "hot"], "label": "MC"}
    ax = plot_phase_diagram(data, points=points, linewidth=2.5)
    assert [line.get_linewidth() for line in ax.lines] == [2.5, 2.5]
    np.testing.assert_allclose(ax.lines[1].get_xdata(), data["loop"])
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("load alpha", "T", "sample")
    assert {t.get_text() for t in ax.texts} == {"cold phase", "hot"}
    shown = [t.get_text() for t in ax.get_legend().get_texts()]
    assert shown == ["speck", "the edge", "a loop", "MC"]
    # names lie inside their regions
    for text in ax.texts:
        x, y = text.get_position()
        assert (y > 1 + x / 2) == (text.get_text() == "hot")
    marks = ax.collections[-1]
    np.testing.assert_allclose(marks.get_offsets(), [[0.2, 0.5], [0.8, 1.8]])
    assert not np.allclose(*marks.get_facecolors())
    assert plot_phase_diagram(data, ax=ax) is ax
    plt.close(ax.figure)


@pytest.mark.parametrize(
    ("points", "error", "text"),
    [
        ({"alpha": [0.1]}, DomainError, "'T' is missing"),
        ({"alpha": [0.1], "T": [0.1, 0.2]}, ShapeError, "1-D of one length"),
        ({"alpha": [0.1], "T": [np.nan]}, DomainError, r"points\['T'\] must be finite"),
        ({"alpha": [0.1], "T": [0.2], "phase": ["warm"]}, DomainError, "a phase of points must"),
    ],
)
def test_bad_points(points, error, text):
    with pytest.raises(error, match=text):
        plot_phase_diagram(sample(), points=points)
    plt.close("all")


def test_bad_input():
    with pytest.raises(DomainError, match="model must be one of 'hopfield'"):
        phase_diagram("ising")
    with pytest.raises(DomainError, match="must have a variable 'phase'"):
        plot_phase_diagram(xr.Dataset())


def test_finds_the_module_of_a_model(monkeypatch):
    """By its own function where a module holds several models, otherwise by ``diagram``."""
    module = types.SimpleNamespace(
        diagram=lambda **kw: xr.Dataset(attrs={"general": kw}),
        sk_diagram=lambda **kw: xr.Dataset(attrs={"own": kw}),
    )
    monkeypatch.setattr(phase.importlib, "import_module", lambda name: module)
    assert phase_diagram("sk", h=1).attrs == {"own": {"h": 1}}
    assert phase_diagram("p_spin", p=3).attrs == {"general": {"p": 3}}
