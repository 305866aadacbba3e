"""Lines of the Hopfield network: published tables, other equations for the same points, diagram."""

import jax
import mpmath
import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.special import erf

from deeplimits.errors import DomainError, ShapeError
from statmech.hopfield import hopfield
from statmech.hopfield_diagram import diagram
from statmech.hopfield_lines import hopfield_capacity, hopfield_line, hopfield_load_line

#: alpha, T and m on the spinodal, T and m where the free energies are equal.
TABLE = np.array([
    (1e-4, 0.9804177782, 0.18627665, 0.9738559404, 0.25852736),
    (0.001, 0.9378147031, 0.33020836, 0.9160989683, 0.45526029),
    (0.005, 0.8599941066, 0.48953946, 0.8073631788, 0.66516269),
    (0.01, 0.8010181215, 0.57724989, 0.7216239674, 0.77403178),
    (0.02, 0.7164810882, 0.67659284, 0.5913002788, 0.88665099),
    (0.03, 0.6504170671, 0.73915386, 0.4787929445, 0.94720976),
    (0.04, 0.5935694502, 0.78475029, 0.3652314592, 0.98187087),
    (0.05, 0.5422550379, 0.82028812, 0.2163833500, 0.99830535),
    (0.06, 0.4944790922, 0.84906377, np.nan, np.nan),
    (0.08, 0.4045706151, 0.89303274, np.nan, np.nan),
    (0.10, 0.3154322237, 0.92480316, np.nan, np.nan),
    (0.12, 0.2150873586, 0.94830722, np.nan, np.nan),
    (0.13, 0.1489188881, 0.95787854, np.nan, np.nan),
    (0.135, 0.1006113804, 0.96250683, np.nan, np.nan),
    (0.1375, 0.0587473094, 0.96522868, np.nan, np.nan),
])  # fmt: skip
AT = np.array([(0.06, 3.17845e-05), (0.08, 3.15987e-04), (0.1, 1.45025e-03), (0.11, 2.72855e-03),
               (0.12, 4.98793e-03), (0.13, 9.47298e-03), (0.135, 1.42101e-02),
               (0.1375, 1.95026e-02)])  # fmt: skip
REENTRANT = {
    "spinodal": [(0.005, 0.138015842), (0.01, 0.138098991), (0.02, 0.138184057),
                 (0.05, 0.137793958)],
    "transition": [(0.0, 0.0518543309190), (0.01, 0.0521335846), (0.05, 0.0529114096),
                   (0.08, 0.0531274434), (0.1, 0.0530915505), (0.2, 0.0507248766),
                   (0.3, 0.0450307133)],
}  # fmt: skip


def test_capacity():
    best = minimize_scalar(
        lambda y: -((erf(y) / y - 2 / np.sqrt(np.pi) * np.exp(-(y**2))) ** 2) / 2,
        bounds=(1, 2), method="bounded", options={"xatol": 1e-9},
    )  # fmt: skip
    assert hopfield_capacity() == pytest.approx(0.137905566494931737, abs=1e-15)
    assert hopfield_capacity() == pytest.approx(-best.fun, abs=1e-15)  # square of 1e-9
    assert isinstance(hopfield_capacity(), float)
    values = hopfield_capacity([[0.0, 0.02287], [1.0, 3.0]])
    np.testing.assert_allclose(values, [[0.137905566495, 0.13818851], [0, 0]], atol=5e-9)
    # the slope of the line: the implicit function theorem against a difference
    slope = jax.grad(hopfield_capacity)(0.3)
    near = hopfield_capacity([0.3001, 0.2999])
    assert slope == pytest.approx((near[0] - near[1]) / 2e-4, rel=1e-6)  # second order: 1e-8


def test_tables():
    spinodal = hopfield_line("spinodal", TABLE[:, 0])
    transition = hopfield_line("transition", TABLE[:, 0])
    # half of the last digit that is published
    np.testing.assert_allclose(spinodal["T"], TABLE[:, 1], atol=6e-11)
    np.testing.assert_allclose(spinodal["m"], TABLE[:, 2], atol=6e-9)
    np.testing.assert_allclose(transition["T"], TABLE[:, 3], atol=6e-11)
    np.testing.assert_allclose(transition["m"], TABLE[:, 4], atol=6e-9)
    np.testing.assert_allclose(hopfield_line("at", AT[:, 0])["T"], AT[:, 1], rtol=4e-6)
    for line in (spinodal, transition):
        assert np.nanmax(line["residual"]) < 1e-9  # conditions on the branch, worst near T = 1
    glass = hopfield_line("spin_glass", [0.0, 0.25])
    np.testing.assert_allclose(glass["T"], [1.0, 1.5], rtol=1e-15)


@pytest.mark.parametrize("kind", ["spinodal", "transition"])
def test_reentrance(kind):
    T, alpha = np.array(REENTRANT[kind]).T
    line = hopfield_load_line(kind, T)
    np.testing.assert_allclose(line["alpha"], alpha, atol=6e-10)  # digits published
    tip = {"spinodal": (0.13818851, 0.02287), "transition": (0.05313, 0.085)}[kind]
    over_alpha = hopfield_line(kind, alpha)
    assert over_alpha.attrs["tip_alpha"] == pytest.approx(tip[0], abs=6e-6)
    assert over_alpha.attrs["tip_T"] == pytest.approx(tip[1], abs=6e-4)
    lower = T < over_alpha.attrs["tip_T"]
    both = np.where(lower & (T > 0), over_alpha["T_lower"], over_alpha["T"])
    # published loads have nine decimals, and T varies like the root of the distance to the tip
    np.testing.assert_allclose(both[T > 0], T[T > 0], atol=2e-5)


def test_line_ends():
    edges = hopfield_line("spinodal", [0.0, 0.2])
    assert edges["T"][0] == 1.0
    assert np.isnan(edges["T"][1])
    loads = hopfield_load_line("spinodal", [1.0, 1.2])
    assert loads["alpha"][0] == 0
    assert np.isnan(loads["alpha"][1])
    np.testing.assert_allclose(
        hopfield_load_line("spin_glass", [0.5, 1.5])["alpha"], [np.nan, 0.25]
    )
    at = hopfield_load_line("at", [0.0, 0.01, 0.05])
    assert at["alpha"][0] == 0
    assert np.isnan(at["alpha"][2])
    # replicon of the retrieval state on the line, above and below
    T = 0.01
    load = float(at["alpha"][1])
    replicon = hopfield(load * np.array([1 - 1e-6, 1, 1 + 1e-6]), T).replicon
    assert replicon[0] > 0 > replicon[2]
    assert replicon[1] == pytest.approx(0, abs=1e-9)  # slope 50 times rounding, over T


def test_spinodal_by_explicit_loads():
    """T(u, v) = M/v and alpha(u, v) = u^2 (T - 1 + Q)^2 / Q are stationary together."""
    line = hopfield_load_line("spinodal", [0.4])
    alpha, m, T = float(line["alpha"][0]), float(line["m"][0]), 0.4
    with mpmath.workdps(25):

        def point(u, v):
            def mean(f):
                return mpmath.quad(lambda z: f(v + u * z) * mpmath.npdf(z), [-11, -v / u, 0, 11])

            heat, Q = mean(mpmath.tanh) / v, mean(lambda x: mpmath.tanh(x) ** 2)
            return heat, u**2 * (heat - 1 + Q) ** 2 / Q

        s = hopfield(alpha * (1 - 1e-15), T)
        u, v = mpmath.mpf(float(np.sqrt(alpha * s.r) / T)), mpmath.mpf(m / T)
        # the state itself is known to 1e-8 only (a double root): solve for u at given v
        u = mpmath.findroot(lambda u: point(u, v)[0] - mpmath.mpf("0.4"), u, tol=1e-20)
        assert float(point(u, v)[1]) == pytest.approx(alpha, rel=1e-13)
        h = mpmath.mpf("1e-6")
        du = [(a - b) / (2 * h) for a, b in zip(point(u + h, v), point(u - h, v), strict=True)]
        dv = [(a - b) / (2 * h) for a, b in zip(point(u, v + h), point(u, v - h), strict=True)]
        determinant = du[0] * dv[1] - du[1] * dv[0]
        scale = abs(du[0] * dv[1]) + abs(du[1] * dv[0])
    assert abs(determinant / scale) < 1e-7  # error of m on the line, 1e-9, and differences


def test_free_energies_are_equal_on_the_transition():
    line = hopfield_line("transition", [0.01, 0.03, 0.05])
    T = line["T"].values
    f = [hopfield([0.01, 0.03, 0.05], T, b).f for b in ("retrieval", "spin_glass")]
    np.testing.assert_allclose(f[0], f[1], atol=1e-12)


def test_diagram():
    alpha, T = [0.01, 0.045, 0.1, 0.138, 0.15], [0.0, 0.02, 0.1, 0.3, 0.9, 1.3]
    data = diagram(alpha, T)
    names = np.array(data["phase"].attrs["flag_meanings"].split())[data["phase"].values]
    m, s, g, p = "metastable_retrieval", "retrieval", "spin_glass", "paramagnet"
    assert names.tolist() == [
        [s, s, m, g, g], [s, s, m, m, g], [s, s, m, g, g], [s, s, m, g, g], [g, g, g, g, g],
        [p, p, g, g, g],
    ]  # fmt: skip
    np.testing.assert_allclose(data["m_retrieval"][2], hopfield(alpha, 0.1).m, rtol=1e-12)
    assert data.attrs["largest_residual"] < 1e-12
    T_line = data["line_T"].values
    for kind in ("spinodal", "transition", "at"):
        some = T_line[3:60:8]
        np.testing.assert_allclose(
            data[kind].values[3:60:8], hopfield_load_line(kind, some)["alpha"], rtol=1e-9
        )


def test_bad_input():
    with pytest.raises(DomainError, match="kind must be one of"):
        hopfield_line("critical", [0.1])
    with pytest.raises(DomainError, match="kind must be one of"):
        hopfield_load_line("critical", [0.1])
    with pytest.raises(ShapeError, match=r"alpha must have shape \(n,\)"):
        hopfield_line("spinodal", 0.1)
    with pytest.raises(DomainError, match="T must be >= 0"):
        hopfield_load_line("spinodal", [-0.1])
    with pytest.raises(DomainError, match="T must be >= 0"):
        hopfield_capacity(-1.0)
    with pytest.raises(DomainError, match="alpha must increase"):
        diagram([0.1, 0.1], [0.1, 0.2])
    with pytest.raises(ShapeError, match="T must have shape"):
        diagram([0.1, 0.2], 0.1)
