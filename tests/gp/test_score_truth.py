import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from deeplimits import DomainError, NotPositiveDefiniteError, ShapeError
from gp.score_kernel import score_pairs
from gp.score_truth import atomic_data, forward_process, gaussian_data

ATOMS = np.array([[1.0, 0.0], [-1.0, 0.8], [0.0, -1.0]])
LAW = atomic_data(ATOMS)
PAIRS = score_pairs(LAW, 40, key=3)
COVS = np.array([[[0.5, 0.2], [0.2, 0.3]], [[0.1, 0.0], [0.0, 0.9]]])
MIXTURE = gaussian_data(ATOMS[:2], COVS, [1.0, 3.0])


def test_mean_and_score_by_integration():
    law = gaussian_data([[-0.5], [1.0]], [[[0.3]], [[0.05]]], [2.0, 1.0])
    t, x = 0.4, 0.7
    alpha, h = np.exp(-t / 2), 1 - np.exp(-t)

    def clean(u):
        parts = scipy.stats.norm.pdf(u, [-0.5, 1.0], np.sqrt([0.3, 0.05]))
        return parts @ [2 / 3, 1 / 3]

    def moment(power, where=x):
        def integrand(u):
            return u**power * clean(u) * scipy.stats.norm.pdf(where, alpha * u, np.sqrt(h))

        return scipy.integrate.quad(integrand, -6, 6, points=[-0.5, 1.0], epsabs=1e-13)[0]

    density, first, second = (moment(k) for k in range(3))
    point = np.array([[x]])
    # quad is asked for 1e-13
    assert law.log_density(t, point)[0] == pytest.approx(np.log(density), abs=1e-11)
    assert law.posterior_mean(t, point)[0, 0] == pytest.approx(first / density, abs=1e-11)
    variance = second / density - (first / density) ** 2
    assert law.posterior_variance(t, point)[0] == pytest.approx(variance, abs=1e-11)
    slope = (np.log(moment(0, x + 1e-4)) - np.log(moment(0, x - 1e-4))) / 2e-4
    assert law.score(t, point)[0, 0] == pytest.approx(slope, abs=1e-7)  # 1e-8 for the step squared


@pytest.mark.parametrize("law", [LAW, MIXTURE], ids=["atoms", "Gaussians"])
def test_score_is_the_gradient_and_obeys_tweedie(law):
    pairs = score_pairs(law, 7, key=0)
    alpha, h = (v[:, None] for v in forward_process(pairs.t))
    step = 1e-5 * np.eye(2)
    slopes = [
        (law.log_density(pairs.t, pairs.x + e) - law.log_density(pairs.t, pairs.x - e)) / 2e-5
        for e in step
    ]
    score = law.score(pairs.t, pairs.x)
    np.testing.assert_allclose(score, np.stack(slopes, 1), atol=1e-7)  # rounding 1e-16 / 1e-5
    tweedie = (alpha * law.posterior_mean(pairs.t, pairs.x) - pairs.x) / h
    np.testing.assert_allclose(score, tweedie, atol=1e-12)  # h >= 0.1


def test_atoms_are_gaussians_of_no_width():
    narrow = gaussian_data(ATOMS, np.zeros((2, 2)))
    t, x = PAIRS.t, PAIRS.x
    for name in ("posterior_mean", "score", "posterior_variance", "log_density"):
        a, b = getattr(LAW, name)(t, x), getattr(narrow, name)(t, x)
        np.testing.assert_allclose(a, b, atol=1e-12)
    # Bayes' rule point by point
    for i in range(3):
        alpha, h = np.exp(-t[i] / 2), 1 - np.exp(-t[i])
        p = np.array([np.exp(-np.sum((x[i] - alpha * a) ** 2) / (2 * h)) for a in ATOMS])
        np.testing.assert_allclose(LAW.posterior_mean(t[i], x[i : i + 1])[0], p @ ATOMS / p.sum())
    assert LAW.bounded
    assert not narrow.bounded


def test_blocks_do_not_change_results(monkeypatch):
    whole = LAW.posterior_mean(PAIRS.t, PAIRS.x)
    monkeypatch.setattr("gp.score_truth._BLOCK", 20)
    np.testing.assert_array_equal(LAW.posterior_mean(PAIRS.t, PAIRS.x), whole)


def test_bad_laws():
    with pytest.raises(ShapeError, match=r"weights must have shape \(3,\)"):
        atomic_data(ATOMS, [1.0])
    with pytest.raises(DomainError, match="weights must be > 0"):
        atomic_data(ATOMS, [1.0, 1.0, 0.0])
    with pytest.raises(ShapeError, match="covs must have shape"):
        gaussian_data(ATOMS, np.eye(3))
    with pytest.raises(DomainError, match="covs must be symmetric"):
        gaussian_data(ATOMS, [[1.0, 0.5], [0.0, 1.0]])
    with pytest.raises(NotPositiveDefiniteError, match="semi-definite"):
        gaussian_data(ATOMS, [[1.0, 2.0], [2.0, 1.0]])
