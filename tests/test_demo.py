"""The main job: what it writes, its numbers from independent routes, and its exit on failure."""

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import scipy.stats

from deeplimits import claims as registry
from deeplimits.claims import compare, load_claims
from deeplimits.demo import FailedClaimError, main
from deeplimits.demo_data import DEPTH, SCALES, Indexed, network, problems
from deeplimits.demo_evidence import critical_line
from deeplimits.demo_predict import evidence_profile, fit_by_evidence, problem_folds
from deeplimits.demo_report import Report, with_error

pytestmark = pytest.mark.optimized


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("demo") / "made"
    main(out, fast=True)
    return out


@pytest.mark.slow
def test_everything_is_written(folder):
    figures = {"accuracy_nll", "evidence", "finite_width", "grams_digits", "grams_fashion_1000"}
    figures |= {"spectra", "trained_ensemble"}
    assert {path.stem for path in folder.glob("*.png")} == figures
    text = (folder / "report.md").read_text()
    assert set(re.findall(r"!\[.*?\]\((.*?)\)", text)) == {f"{name}.png" for name in figures}
    assert text.startswith("# deeplimits")
    assert "nan" not in text


@pytest.mark.slow
def test_report_holds_every_number_and_claim(folder):
    record = json.loads((folder / "report.json").read_text())
    assert record["passed"]
    assert record["failed"] == []
    assert [s["name"] for s in record["steps"]][-2:] == ["Finite widths", "A trained ensemble"]
    names = {claim["name"] for claim in record["claims"]}
    assert {"ntk/kernel-variance-width", "gp/trained-ensemble", "demo/digits-relu-ntk"} <= names
    assert all(claim["max_z"] is not None for claim in record["claims"])
    numbers = {number["name"]: number for number in record["numbers"]}
    accuracy = numbers["digits, NNGP GP, relu: accuracy"]
    # 100 training images: far above chance (0.1), and 0.85 +- 0.04 was seen on other splits
    assert accuracy["value"] > 0.6
    assert numbers["exponent of the variance"]["claim"] == "ntk/kernel-variance-width"
    assert "jax" in record["versions"]


def test_failed_claim_is_written_and_raised(tmp_path, monkeypatch):
    """With every step but one replaced, and that one claiming that 0 is 1."""
    import deeplimits.demo as demo

    wrong = compare(1.0, lambda key, size: np.array([0.0, 0.0, 0.0, 1e-9]), [1], key=0, name="no")
    for name in ("_load", "grams", "spectra", "evidence", "widths"):
        monkeypatch.setattr(demo, name, lambda *a: None)
    monkeypatch.setattr(demo, "predictions", lambda *a: {})
    monkeypatch.setattr(demo, "training", lambda report, *a: report.claim(wrong))
    with pytest.raises(FailedClaimError, match=r"1 claims failed: no\. See "):
        main(tmp_path)
    assert json.loads((tmp_path / "report.json").read_text())["failed"] == ["no"]
    assert "Failed: no." in (tmp_path / "report.md").read_text()


def test_evidence_agrees_with_the_posterior():
    """The profiled evidence is that of a scaled process, by Cholesky, and no other is larger."""
    import gp

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)), rng.normal(size=(30, 3))

    def kernel(a, b=None):
        return np.exp(-0.5 * ((a[:, None] - (a if b is None else b)[None]) ** 2).sum(-1))

    fit = fit_by_evidence(kernel, x, y)
    noise = float(fit.posterior.info.noise)  # the kernel has a unit diagonal

    def evidence(scale, ratio):
        scaled = gp.GP(lambda a, b=None: scale * kernel(a, b), noise=scale * ratio)
        return scaled.condition(x, y).log_evidence

    best = evidence(fit.amplitude, noise)
    # two factorisations of well-conditioned 30 x 30 matrices in float64
    assert best == pytest.approx(evidence_profile(kernel(x), y).max(), rel=1e-10)
    for scale, ratio in ((1.05, 1.0), (0.95, 1.0), (1.0, 1.8), (1.0, 0.55)):
        assert evidence(fit.amplitude * scale, noise * ratio) <= best + 1e-9  # rounding


def test_indexed_kernels_are_looked_up():
    rng = np.random.default_rng(0)
    nngp, ntk = (a + a.T for a in rng.normal(size=(2, 7, 7)))
    looked_up = Indexed(nngp, ntk)
    rows, columns = np.array([[1.0], [4.0]]), np.array([[0], [4], [6]])
    np.testing.assert_array_equal(looked_up.nngp(rows, columns), nngp[[1, 4]][:, [0, 4, 6]])
    np.testing.assert_array_equal(looked_up.ntk(columns), ntk[[0, 4, 6]][:, [0, 4, 6]])


def test_network_is_the_mlp():
    import ntk

    weight, bias = SCALES["erf"]
    x = np.asarray(problems(fast=True)[0].data.X)[:5]
    expected = ntk.mlp(DEPTH, "erf", W_std=weight, b_std=bias).ntk(x)
    # the same recursion, compiled with and without a loop
    np.testing.assert_allclose(network("erf").ntk(x), expected, rtol=1e-12)


def test_folds_cover_every_image_once():
    problem = problems(fast=True)[1]
    rows = np.arange(len(problem.data))
    parts = problem_folds(problem, rows, 3, seed=0)
    assert sorted(np.concatenate([test[:, 0] for _, test in parts])) == list(rows)
    for train, test in parts:
        assert not set(train[:, 0]) & set(test[:, 0])


def test_targets_and_inputs():
    for problem in problems(fast=True):
        np.testing.assert_allclose(problem.targets.sum(1), 0, atol=1e-15)  # rounding of 0.9, 0.1
        d = problem.data.X.shape[1]
        np.testing.assert_allclose((problem.data.X**2).sum(1), d, rtol=1e-13)  # rounding


def test_critical_line_against_quadrature():
    """Both conditions of criticality, with the Gaussian averages done by scipy."""
    from scipy.integrate import quad
    from scipy.special import erf

    q = 0.7
    weight, bias = (float(v[0]) for v in critical_line([q]))

    def average(f):
        z = scipy.stats.norm(scale=math.sqrt(q))
        return quad(lambda t: f(t) * z.pdf(t), -12, 12, epsabs=1e-13)[0]

    slope = average(lambda t: (2 / math.sqrt(math.pi) * math.exp(-t * t)) ** 2)
    # quad's tolerance, relative to numbers of order one
    assert weight**2 * slope == pytest.approx(1.0, rel=1e-11)
    assert weight**2 * average(lambda t: erf(t) ** 2) + bias**2 == pytest.approx(q, rel=1e-11)


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [(1.23456, 0.0123, "1.235 ± 0.012"), (-0.5, 2.0, "-0.5 ± 2.0"), (1234.0, 56.0, "1234 ± 56")],
)
def test_with_error(value, error, text):
    assert with_error(value, error) == text


def test_number_is_kept_with_its_step(tmp_path):
    report = Report(tmp_path, 2)
    with report.step("one"):
        assert report.number("x", 1.5, 0.25, "nats", "a claim") == "1.50 ± 0.25"
    with report.step("two"):
        assert report.number("y", float("inf")) == "inf"
    assert [n["step"] for n in report.numbers] == ["one", "two"]
    report.write(fast=True, seed=0)
    record = json.loads((tmp_path / "report.json").read_text())
    assert record["numbers"][0] == {
        "step": "one", "name": "x", "value": 1.5, "stderr": 0.25, "unit": "nats",
        "claim": "a claim",
    }  # fmt: skip
    assert record["numbers"][1]["value"] is None


def test_claims_can_fail():
    """The registered experiments against a theory that is off by 20%."""
    load_claims()
    for name in ("gp/loo", "ntk/one-layer-variance"):
        claim = registry.get(name)
        value = claim.theory
        wrong = replace(claim, theory=lambda size, value=value: 1.2 * np.asarray(value(size)))
        assert not wrong.run(key=0).passed, name
