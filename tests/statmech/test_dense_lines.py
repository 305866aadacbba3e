"""Lines and the diagram of dense networks: published values, and consistency of two searches."""

import numpy as np
import pytest

import statmech
from deeplimits.errors import DomainError, ShapeError
from statmech import dense_line, dense_load
from statmech.dense_diagram import diagram


@pytest.mark.parametrize(
    ("P", "T_M", "m"),
    [(3, 0.87387436, 0.796388), (4, 0.99157260, 0.889437), (6, 1.26816093, 0.945667)],
)
def test_low_load(P, T_M, m):
    line = dense_line("spinodal", P, [0.0])
    assert line.T.values == pytest.approx([T_M], abs=6e-9)  # eight digits are printed
    # the temperature is flat in the overlap: its square root of precision, and six digits
    assert line.m.values == pytest.approx([m], abs=2e-6)


def test_spinodal_and_glass_at_given_load():
    alpha = [0.001, 0.005, 0.01, 0.03]
    spinodal = dense_line("spinodal", 4, alpha)
    # seven digits are printed
    assert spinodal.T.values == pytest.approx(
        [0.9840367, 0.9533468, 0.9135645, 0.7184211], abs=6e-8
    )
    # the two searches agree to the tolerance of the bracket, 1e-13, times the slope
    assert dense_load(4, spinodal.T.values) == pytest.approx(np.array(alpha), rel=1e-9)
    double = dense_line("static_glass", 4, alpha, c=1.0)
    assert double.T.values == pytest.approx(
        2 * np.array([0.067576, 0.151105, 0.213695, 0.370130]), abs=2e-6
    )
    assert (dense_line("dynamic_glass", 4, alpha, c=1.0).T > double.T).all()
    onset = dense_line("spin_glass", 4, alpha, index="full").T.values
    assert onset == pytest.approx(6 * np.sqrt(alpha), rel=1e-14)  # 12 c sqrt(alpha)


def test_transition():
    line = dense_line("transition", 4, [0.0, 0.001, 0.01, 0.03])
    values = [0.72589867, 0.7200797, 0.6634310, 0.4602270]  # eight and seven digits
    assert line.T.values == pytest.approx(values, abs=6e-8)
    assert line.m.values[0] == pytest.approx(0.990611, abs=6e-7)


def test_load_and_temperature():
    # 10 digits are printed
    assert dense_load(4, 0.0) == pytest.approx(0.0329766865, abs=6e-11)
    assert list(dense_load(4, [0.99158, 1.5])) == [0.0, 0.0]


def test_diagram():
    d = diagram(4, alpha=np.linspace(0.002, 0.04, 8), T=np.linspace(0.05, 1.05, 8))
    names = dict(zip(d.phase.attrs["flag_values"], d.phase.attrs["flag_meanings"].split(),
                     strict=True))  # fmt: skip
    found = np.vectorize(names.get)(d.phase.values)
    assert found[0, 0] == "retrieval"
    assert found[-1, -1] == "ergodic"
    assert found[0, -1] == "spin_glass"
    assert "retrieval_metastable" in found
    exists = d.alpha.values[None, :] <= np.nan_to_num(d.spinodal.values)[:, None]
    assert (np.isfinite(d.m_retrieval.values) == exists).all()
    assert {"spinodal", "transition", "static_glass", "dynamic_glass"} <= set(d.data_vars)


def test_bad_input():
    for arguments, more, text in [
        (("edge", 4, [0.1]), {}, "kind must be"),
        (("spinodal", 2, [0.1]), {}, "P must be >= 3"),
        (("spin_glass", 4, [0.1]), {}, "'spin_glass' needs"),
        (("static_glass", 4, [0.1]), {"index": "full"}, "need index='distinct'"),
        (("spin_glass", 3, [0.1]), {"index": "full"}, "needs even P"),
    ]:
        with pytest.raises(DomainError, match=text):
            dense_line(*arguments, **more)
    with pytest.raises(ShapeError, match="alpha must have shape"):
        dense_line("spinodal", 4, 0.1)
    with pytest.raises(DomainError, match="P must be >= 3"):
        dense_load(2, 0.1)
    with pytest.raises(DomainError, match="not both"):
        diagram(4, rho=0.1, examples=statmech.Examples(3, 0.5))
    with pytest.raises(DomainError, match="P must be >= 3"):
        diagram(2)
    with pytest.raises(ShapeError, match="increasing"):
        diagram(4, alpha=[0.2, 0.1])
    with pytest.raises(DomainError, match="T must be > 0"):
        diagram(4, T=[0.0, 0.1])
