"""The judge on trial: true claims pass, false ones fail, chance fails no more than it should."""

import json
import math
import sys

import jax
import matplotlib.pyplot as plt
import numpy as np
import pytest

from deeplimits import claims as registry
from deeplimits.claims import Claim, check, claims, compare, get, load_claims, register
from deeplimits.comparison import summary_table
from deeplimits.errors import DomainError, ShapeError
from deeplimits.statistics import Estimate


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    """Let each test register what it likes."""
    load_claims()
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))
    yield
    plt.close("all")


def normals(key, shape, offset=0.0):
    return np.asarray(jax.random.normal(key, shape)) + offset


def biased(bias, samples=2000, noise=0.1):
    """Samples whose mean is 1 + bias(size)."""
    return lambda key, size: 1 + bias(size) + noise * normals(key, (samples,))


# --- z ------------------------------------------------------------------------------------------


def test_true_theory_passes_and_false_fails():
    good = compare(1.0, biased(lambda n: 0.0), [10, 100], key=0)
    assert good.passed
    assert good.max_z == abs(good.z[-1]) < 4
    bad = compare(1.0, biased(lambda n: 0.02), [10, 100], key=0)  # 0.02 = 9 standard errors
    assert not bad.passed
    assert 5 < bad.max_z < 13  # 8.9 +- 4
    assert "largest |z| is" in bad.problems[0]


def test_only_the_largest_size_counts_unless_asked():
    def early(key, size):
        return normals(key, (500,), 5.0 if size == 10 else 0.0)

    assert compare(0.0, early, [10, 100], key=1).passed
    assert not compare(0.0, early, [10, 100], key=1, z_at="all").passed


def test_many_entries_fail_no_more_often_than_one():
    """40 entries, 8 samples, z = 2: alarms in 400 true claims within four deviations of 4.55%."""
    p = math.erfc(2 / math.sqrt(2))
    data = normals(jax.random.key(2), (400, 8, 40))
    alarms = sum(
        not compare(np.zeros(40), lambda key, size, d=d: d, [1], key=0, z=2.0).passed for d in data
    )
    assert abs(alarms - 400 * p) < 4 * math.sqrt(400 * p * (1 - p))
    # the same data judged entry by entry against the unadjusted bound would nearly always fail
    c = compare(np.zeros(40), lambda key, size: data[0], [1], key=0, z=2.0)
    assert c.threshold > 5  # Student with 7 degrees of freedom, 40 entries


def test_estimate_and_theory_of_size():
    def experiment(key, size):
        return Estimate(1 / size + 0.01, 0.01)

    c = compare(lambda size: 1 / size, experiment, [2, 4], key=0, z_at="all")
    np.testing.assert_allclose([z.item() for z in c.z], 1.0, rtol=1e-12)  # rounding of 1/size
    assert compare(lambda: 0.26, experiment, [2, 4], key=0).max_z == pytest.approx(0.0, abs=1e-12)


# --- exponent -----------------------------------------------------------------------------------


def test_exponent_of_the_difference():
    c = compare(1.0, biased(lambda n: 3 / n), [16, 32, 64, 128], key=3, exponent=-1)
    assert c.passed
    assert c.claim.z is None
    assert -1.0 in c.exponent
    wrong = compare(1.0, biased(lambda n: 3 / n), [16, 32, 64, 128], key=3, exponent=-0.5)
    assert not wrong.passed
    assert "is not -0.5" in wrong.problems[0]


def test_noise_floor_does_not_flatten_the_exponent():
    """Difference 1/n with noise as large as the signal at the end: unbiased over 200 runs."""
    fits = []
    for seed in range(200):
        e = biased(lambda n: 1 / n, samples=4000, noise=0.5)
        fits.append(compare(1.0, e, [8, 16, 32, 64, 128], key=seed, exponent=-1).exponent)
    values = np.array([f.value for f in fits])
    # median within four of its standard errors (1.25 sigma / sqrt(200)), plus the selection of
    # resolved points, which was measured to move it by less than 0.01
    assert abs(np.median(values) + 1) < 4 * 1.25 * values.std() / math.sqrt(200) + 0.01
    inside = sum(-1.0 in f for f in fits)
    assert inside > 200 * 0.99 - 4 * math.sqrt(200 * 0.99 * 0.01)


@pytest.mark.parametrize(("decays", "expected"), [("variance", -1.0), ("std", -0.5)])
def test_exponent_of_the_spread(decays, expected):
    def experiment(key, size):  # correlated entries: the error must not count them as independent
        common, own = normals(key, (2000, 1)), normals(jax.random.fold_in(key, 1), (2000, 3))
        return (common + 0.3 * own) / math.sqrt(size)

    c = compare(
        np.zeros(3), experiment, [16, 64, 256, 1024], key=4, exponent=expected, decays=decays
    )
    assert c.passed
    assert c.exponent.stderr < 0.02
    exact = (1.09 / 16) ** (-expected)
    assert abs(c.points[0].decay - exact) < 4 * c.points[0].decay_error
    assert not compare(
        np.zeros(3), experiment, [16, 64, 256], key=4, exponent=expected - 0.25, decays=decays
    ).passed


def test_unresolved_and_vague_exponents_fail():
    c = compare(1.0, biased(lambda n: 0.0), [4, 8, 16], key=5, exponent=-1)
    assert not c.passed
    assert c.exponent is None
    assert "not resolved" in c.problems[0]
    vague = compare(1.0, biased(lambda n: 0.02 / n, 2000), [1, 1.5], key=5, exponent=-1)
    assert not vague.passed
    assert "too uncertain" in vague.problems[0]


def test_exact_experiment_has_an_exponent():
    """No sampling noise at all: the scatter around the line gives the interval."""

    def experiment(key, size):
        return Estimate(1 + 1 / size + 0.1 / size**2, 0.0)

    c = compare(1.0, experiment, [8, 16, 32, 64], key=0, exponent=-1)
    assert c.passed
    assert c.exponent.value == pytest.approx(-1.004, abs=0.003)


# --- record -------------------------------------------------------------------------------------


def test_table_dict_and_summary():
    def experiment(key, size):
        return normals(key, (100, 2)) / math.sqrt(size)

    c = compare(
        [0.0, 0.0], experiment, [10, 1000], key=6, name="toy", source="E|x|", statement="Zero.",
        exponent=-1, z=4.0, decays="variance", quantity="mean (nats)",
    )  # fmt: skip
    table = c.table()
    assert "**toy**: Zero." in table
    assert table.count("\n| ") == 3
    assert "worst of 2 entries" in table
    assert "Passed." in table
    worst = c.points[1].worst
    assert f"{c.points[1].mean[worst]:.6g}" in table
    record = json.loads(json.dumps(c.to_dict(), allow_nan=False))
    assert record["passed"] is True
    assert record["exponent"]["value"] == c.exponent.value
    assert np.shape(record["points"][1]["z"]) == (2,)
    assert c.summary().startswith("PASS  toy: ")
    assert r"E\|x\|" in summary_table([c])
    failed = compare(1.0, lambda key, size: Estimate(0.0, 0.0), [1], key=0)
    assert failed.to_dict()["max_z"] is None  # infinite: no error, wrong value
    assert "| **no** |" in summary_table([failed])
    assert "Failed: largest |z| is inf" in failed.table()


def test_plots():
    sizes = [8, 16, 32, 64]
    decay = compare(1.0, biased(lambda n: 3 / n), sizes, key=0, exponent=-1, name="decay").plot()
    assert decay.get_xscale() == "log"
    assert "decay" in (decay.get_title(), decay.get_title(loc="left"))
    spread = compare(
        0.0, lambda k, n: normals(k, (99,)) / n, sizes, key=0, exponent=-2, decays="variance"
    )
    assert spread.plot().get_ylabel() == "variance of samples"
    ax = plt.subplots()[1]
    scalar = compare(lambda n: 1.0, biased(lambda n: 0.0), sizes, key=0, quantity="energy")
    assert scalar.plot(ax) is ax
    assert ax.get_ylabel() == "energy"
    vector = compare(
        [1.0, 2.0], lambda k, n: normals(k, (50, 2), np.array([1.0, 2.0])), [8], key=0
    ).plot()
    assert vector.get_ylabel() == "experiment at size 8"


def test_same_key_same_numbers_and_names_decorrelate():
    a = compare(1.0, biased(lambda n: 0.0), [10], key=7)
    b = compare(1.0, biased(lambda n: 0.0), [10], key=jax.random.key(7))
    other = compare(1.0, biased(lambda n: 0.0), [10], key=7, name="other")
    assert a.max_z == b.max_z != other.max_z


# --- bad input ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": None}, "judged by z, exponent or both"),
        ({"z": -1.0}, "z must be > 0"),
        ({"sizes": [10, 5]}, "positive and increasing"),
        ({"sizes": []}, "positive and increasing"),
        ({"sizes": ["a"]}, "positive and increasing"),
        ({"exponent": -1.0, "sizes": [5]}, "two sizes"),
        ({"exponent": math.nan}, "exponent must be finite"),
        ({"exponent_tol": -0.1}, "exponent_tol must be"),
        ({"decays": "mean"}, "decays must be one of"),
        ({"z_at": "smallest"}, "z_at must be one of"),
        ({"cost": "free"}, "cost must be one of"),
        ({"experiment": 3.0}, r"must be a function \(key, size\)"),
        ({"name": ""}, "non-empty string"),
    ],
)
def test_bad_claims(change, message):
    fields = {
        "name": "x", "source": "", "statement": "", "theory": 0.0, "sizes": [1, 2], "z": 4.0,
        "experiment": lambda key, size: [0.0, 1.0],
    }  # fmt: skip
    Claim(**fields)
    with pytest.raises(DomainError, match=message):
        Claim(**{**fields, **change})


def test_bad_experiments():
    with pytest.raises(ShapeError, match=r"theory has shape \(2,\)"):
        compare([0.0, 1.0], lambda key, size: [0.0, 1.0], [1], key=0)
    with pytest.raises(DomainError, match="samples of the experiment must be finite") as caught:
        compare(0.0, lambda key, size: [0.0, np.nan], [1], key=0, name="broken")
    assert "while running claim 'broken' at size 1" in caught.value.__notes__
    with pytest.raises(ShapeError, match="at least 2 samples"):
        compare(0.0, lambda key, size: 1.0, [1], key=0)
    with pytest.raises(DomainError, match="theory must be finite"):
        compare(np.nan, lambda key, size: [1.0, 2.0], [1], key=0)
    with pytest.raises(DomainError, match="standard error of the experiment"):
        compare(0.0, lambda key, size: Estimate(1.0, np.nan), [1], key=0)
    with pytest.raises(DomainError, match="the mean of the experiment"):
        compare(0.0, lambda key, size: Estimate(np.inf, 1.0), [1], key=0)
    with pytest.raises(DomainError, match="returns samples"):
        compare(0.0, lambda key, size: Estimate(1.0, 1.0), [1, 2], key=0, decays="std", exponent=-1)
    with pytest.raises(DomainError, match="key must be"):
        compare(0.0, lambda key, size: [1.0, 2.0], [1], key=None)


# --- registry -----------------------------------------------------------------------------------


def toy(name="toy-claim", cost="fast", **fields):
    fields = {"z": 4.0, "experiment": biased(lambda n: 0.0), **fields}
    return Claim(name, "derived here", "Toy.", 1.0, sizes=[10], cost=cost, **fields)


def test_register_get_check():
    claim = register(toy())
    register(toy("toy-slow", cost="slow"))
    assert get("toy-claim") is claim
    assert claims("toy-claim") == (claim,)
    assert "toy-slow" in [c.name for c in claims()]
    assert "toy-slow" not in [c.name for c in claims(slow=False)]
    (result,) = check("toy-claim", key=0)
    assert result.passed
    assert result.max_z == claim.run(key=0).max_z
    assert [c.claim.name for c in check(["toy-slow", "toy-claim"], key=0)] == [
        "toy-slow",
        "toy-claim",
    ]


def test_registry_refuses():
    register(toy())
    with pytest.raises(DomainError, match="'toy-claim' exists already"):
        register(toy())
    with pytest.raises(DomainError, match="takes a Claim, got str"):
        register("toy")
    with pytest.raises(DomainError, match="Near matches: toy-claim"):
        get("toy-clam")
    with pytest.raises(DomainError, match="No claim is called 'zzz'"):
        check(["zzz"], key=0)


def test_load_skips_missing_modules_and_raises_errors_inside(tmp_path, monkeypatch):
    package = tmp_path / "claims_test_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "broken.py").write_text(
        "from deeplimits.claims import Claim, register\n"
        "register(Claim('half', '', '', 0.0, print, [1], z=1.0))\n"
        "import no_such_dependency\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    absent = ("claims_test_package.absent", "no_such_package.claims")
    monkeypatch.setattr(registry, "MODULES", absent)
    load_claims()
    monkeypatch.setattr(registry, "MODULES", (*absent, "claims_test_package.broken"))
    for _ in range(2):  # the second call meets the same error, not one about a duplicate name
        with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
            load_claims()
    assert "half" not in registry._REGISTRY
    (package / "__init__.py").write_text("import another_missing_dependency\n")
    for name in [m for m in sys.modules if m.startswith("claims_test_package")]:
        del sys.modules[name]
    with pytest.raises(ModuleNotFoundError, match="another_missing_dependency"):
        load_claims()
