"""phase_diagram: equal to point-by-point solutions, the edge where it must be, refusals."""

import math

import matplotlib.pyplot as plt
import numpy as np
import pytest

from deeplimits import DomainError
from deeplimits.errors import UnsupportedLayerError
from ntk.edge_of_chaos import order_to_chaos
from ntk.mean_field import mean_field
from ntk.phase_diagram import PHASES, phase_diagram, plot_phase_diagram

W, B = np.linspace(0.5, 3.5, 13), np.linspace(0.0, 0.8, 5)
SCALARS = ("q_star", "chi_1", "c_star", "xi_q", "xi_c", "xi_grad")


@pytest.mark.parametrize("name", ["tanh", "relu", "hermite3"])
def test_equal_to_the_solution_at_each_point(name):
    data = phase_diagram(name, W_std=W, b_std=B)
    assert data.attrs["c_star_abs_err"] < 1e-9
    for i, j in [(0, 0), (0, 6), (1, 1), (2, 3), (2, 7), (4, 2), (4, 12), (3, 9)]:
        m = mean_field(name, W[j], B[i])
        point = data.isel(b_std=i, W_std=j)
        assert PHASES[int(point.phase)] == m.phase
        assert int(point.fixed_points) == len(m.fixed_points)
        for key in SCALARS:
            # q to rounding; c* to the stated 1e-9, and its depth scale to that times xi^2 < 1e3
            tolerance = {"c_star": 1e-9, "xi_c": 1e-6}.get(key, 1e-11)
            assert float(point[key]) == pytest.approx(
                getattr(m, key), rel=tolerance, abs=tolerance, nan_ok=True
            )


@pytest.mark.optimized
def test_phases_and_labels():
    data = phase_diagram("tanh", W_std=W, b_std=B)
    assert data["q_star"].dims == ("b_std", "W_std")
    assert data["phase"].attrs["flag_meanings"] == " ".join(PHASES)
    assert all(data[k].attrs["units"] and data[k].attrs["long_name"] for k in data.data_vars)
    edge = order_to_chaos("tanh", b_std=B).W_std.values[:, None]
    # the grid has a point on the edge: W_std = 1 without biases
    expected = np.select([W[None] < edge, W[None] > edge], [0, 1], 2)
    assert np.sum(expected == 2) == 1
    np.testing.assert_array_equal(data["phase"], expected)
    assert np.all((data["c_star"] == 1) == (data["phase"] != 1))
    line = phase_diagram("relu", W_std=[1.0, math.sqrt(2), 2.0], b_std=[0.0, 0.1], q0=0.7)
    np.testing.assert_array_equal(line["phase"], [[0, 2, 3], [0, 3, 3]])
    assert float(line["q_star"][0, 1]) == 0.7


def test_plot():
    data = phase_diagram("tanh", W_std=W, b_std=B)
    for variable in ("xi_c", "c_star"):
        ax = plot_phase_diagram(data, variable=variable)
        assert ax.get_xlabel() == "W_std"
        assert ax.get_title() == "tanh"
        plt.close(ax.figure)
    with pytest.raises(DomainError, match="variable must be one of"):
        plot_phase_diagram(data, variable="xi")


def test_refusals():
    with pytest.raises(DomainError, match="W_std must increase"):
        phase_diagram("tanh", W_std=[1.0, 1.0], b_std=[0.1])
    with pytest.raises(DomainError, match="the smallest W_std must be > 0"):
        phase_diagram("tanh", W_std=[0.0, 1.0], b_std=[0.1])
    with pytest.raises(DomainError, match="the smallest b_std must be >= 0"):
        phase_diagram("tanh", W_std=[1.0], b_std=[-0.1])
    with pytest.raises(DomainError, match="b_std must be finite"):
        phase_diagram("tanh", W_std=[1.0], b_std=[np.nan])
    with pytest.raises(UnsupportedLayerError, match="chaotic"):
        phase_diagram("sign", W_std=[1.0], b_std=[0.1])
