"""Plotters draw what they are given, on the axes they are given, and change no global state."""

import subprocess
import sys

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray

from deeplimits import plotting
from deeplimits.errors import DomainError, ShapeError
from deeplimits.statistics import power_law_fit


@pytest.fixture(autouse=True)
def _close_figures():
    yield
    plt.close("all")


def test_style_is_local():
    before = dict(mpl.rcParams)
    with plotting.style():
        assert mpl.rcParams["axes.spines.top"] is False
        assert mpl.rcParams["axes.prop_cycle"].by_key()["color"][0] == plotting.COLORS[0]
    plotting.plot_spectrum([3.0, 2.0, 1.0])
    assert dict(mpl.rcParams) == before


def test_axes_are_kept_or_made():
    ax = plt.subplots()[1]
    assert plotting.axes(ax) is ax
    assert plotting.axes() is not ax


def test_import_needs_no_pyplot():
    code = "import sys, deeplimits.plotting; sys.exit('matplotlib.pyplot' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_gram():
    K = np.array([[2.0, 1.0, 0.0], [1.0, 3.0, 0.5], [0.0, 0.5, 1.0]])
    ax = plt.subplots()[1]
    assert plotting.plot_gram(K, ax=ax, order=[2, 0, 1]) is ax
    shown = ax.images[0].get_array()
    np.testing.assert_array_equal(shown, K[[2, 0, 1]][:, [2, 0, 1]])
    assert ax.images[0].get_cmap().name == "viridis"
    signed = plotting.plot_gram(K - 1)
    assert signed.images[0].get_clim() == (-2.0, 2.0)
    assert signed.images[0].get_cmap().name == "RdBu_r"
    with pytest.raises(DomainError, match=r"permutation of 0\.\.2"):
        plotting.plot_gram(K, order=[0, 0, 1])
    with pytest.raises(ShapeError, match="square"):
        plotting.plot_gram(K[:2])


def test_spectrum():
    ax = plotting.plot_spectrum([1.0, 5.0, -1e-9, 0.1])
    x, y = ax.lines[0].get_data()
    np.testing.assert_array_equal(x, [1, 2, 3])
    np.testing.assert_array_equal(y, [5.0, 1.0, 0.1])
    assert ax.texts[0].get_text() == "1 eigenvalues not positive"
    assert (ax.get_xscale(), ax.get_yscale()) == ("log", "log")
    with pytest.raises(DomainError, match="positive"):
        plotting.plot_spectrum([-1.0, 0.0])
    with pytest.raises(ShapeError, match="1-D"):
        plotting.plot_spectrum(np.eye(2))
    with pytest.raises(DomainError, match="finite"):
        plotting.plot_spectrum([1.0, np.nan])


def test_convergence():
    sizes = np.array([32, 64, 128, 256])
    errors = 3.0 / sizes
    fit = power_law_fit(sizes, errors, 0.05 * errors)
    ax = plotting.plot_convergence(sizes, errors, 0.05 * errors, fit)
    line = ax.lines[-1]
    np.testing.assert_allclose(line.get_ydata(), 3.0 / line.get_xdata(), rtol=1e-9)
    assert "-1.00" in ax.get_legend().get_texts()[0].get_text() + line.get_label()
    assert [t.get_text() for t in ax.get_xticklabels()] == ["32", "64", "128", "256"]
    # a point that is not positive is left out, an error bar beyond zero is cut
    ax = plotting.plot_convergence(sizes, [0.1, 0.05, 0.01, -0.01], np.full(4, 0.02))
    assert len(ax.lines[0].get_xdata()) == 3
    with pytest.raises(ShapeError, match="one length"):
        plotting.plot_convergence(sizes, errors[:2])


def test_theory_experiment():
    x = np.array([2.0, 1.0, 3.0])
    ax = plotting.plot_theory_experiment(x, x**2, x**2 + 0.1, 0.1 * x)
    np.testing.assert_array_equal(ax.lines[0].get_data(), [[1, 2, 3], [1, 4, 9]])
    assert {t.get_text() for t in ax.get_legend().get_texts()} == {"theory", "experiment"}
    with pytest.raises(DomainError, match="stderr must be finite"):
        plotting.plot_theory_experiment(x, x, x, [1, 2, np.inf])


def test_contour():
    x, y = np.linspace(0, 1, 5), np.linspace(0, 2, 4)
    z = y[:, None] + x
    z[0, 0] = np.nan
    ax = plotting.plot_contour(x, y, z)
    assert ax.get_xlim() == (0.0, 1.0)
    array = xarray.DataArray(z, {"b_std": y, "W_std": x}, ("b_std", "W_std"), name="evidence")
    for data in (array, array.to_dataset()):
        ax = plotting.plot_contour(data)
        assert (ax.get_xlabel(), ax.get_ylabel()) == ("W_std", "b_std")
        assert ax.figure.axes[-1].get_ylabel() == "evidence"
        assert ax.get_ylim() == (0.0, 2.0)
    with pytest.raises(ShapeError, match=r"\(m, n\)"):
        plotting.plot_contour(x, y, z.T)
    with pytest.raises(ShapeError, match="x, y and z, or one labelled"):
        plotting.plot_contour(x)
    with pytest.raises(ShapeError, match="2-D"):
        plotting.plot_contour(array[0])
    with pytest.raises(DomainError, match="one variable"):
        plotting.plot_contour(array.to_dataset().assign(other=array))
    with pytest.raises(DomainError, match="finite value"):
        plotting.plot_contour(x, y, np.full((4, 5), np.nan))


def test_save(tmp_path):
    ax = plotting.plot_spectrum([2.0, 1.0])
    path = plotting.save(ax, tmp_path / "new" / "figure.png")
    assert path.read_bytes()[:4] == b"\x89PNG"
    assert not plt.get_fignums()
    with pytest.raises(DomainError, match=r"\.png"):
        plotting.save(plt.figure(), tmp_path / "figure")
