"""Learning curves: the fixed point by another solver, simulations, derivatives, limits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import ntk
from deeplimits import ConvergenceError, DomainError, ShapeError
from deeplimits.statistics import family_threshold
from ntk.learning_curves import learning_curve, plot_learning_curve
from ntk.spectrum import sphere_spectrum

MODES = np.arange(1.0, 301.0)
LAM, V = MODES**-1.5, MODES**-0.9
SIZES = np.array([8, 32, 128])


def by_scipy(lam, v, n, ridge, noise):
    """The textbook formulas with Brent's method on kappa itself."""
    kappa = scipy.optimize.brentq(
        lambda k: np.sum(lam / (lam + k)) + ridge / k - n, 1e-12, 1e3, xtol=1e-18, rtol=1e-14
    )
    learned = lam / (lam + kappa)
    e0 = n / (n - np.sum(learned**2))
    test = e0 * (np.sum((1 - learned) ** 2 * v**2) + noise)
    return kappa, test, (ridge / (n * kappa)) ** 2 * test


@pytest.mark.parametrize(("ridge", "noise"), [(0.0, 0.0), (0.03, 0.1)])
def test_against_brent(ridge, noise):
    curve = learning_curve(LAM, V, SIZES, ridge, noise)
    for i, n in enumerate(SIZES):
        kappa, test, train = by_scipy(LAM, V, n, ridge, noise)
        # Brent stops at 1e-14; kappa's error is amplified by at most 1/(1 - n/modes)
        assert curve.kappa[i] == pytest.approx(kappa, rel=1e-12)
        assert curve.test[i] == pytest.approx(test, rel=1e-12)
        assert curve.train[i] == pytest.approx(train, rel=1e-12)
    # conservation: the learnabilities sum to n less what the ridge takes
    total = curve.learnability.sum(axis=1) + ridge / curve.kappa
    np.testing.assert_allclose(total, SIZES, rtol=1e-13)  # 300 terms
    # the form of Canatar et al., without the noise of the test targets
    gamma = np.sum(curve.learnability**2, axis=1) / SIZES
    bias = np.sum((1 - curve.learnability) ** 2 * V**2, axis=1)
    canatar = bias / (1 - gamma) + noise * gamma / (1 - gamma)
    np.testing.assert_allclose(curve.generalization, canatar, rtol=1e-12)
    np.testing.assert_allclose(curve.overfitting, 1 / (1 - gamma), rtol=1e-12)


def test_known_values():
    # S^4, two hidden ReLU layers, target Y_1 + Y_2/2, no ridge but the tail of the spectrum
    net = ntk.mlp(2, "relu", W_std=2**0.5)
    s = sphere_spectrum(net, 5, 40, radius=2.5**0.5)
    v = np.zeros(41)
    v[1:3] = 1.0, 0.5
    curve = learning_curve(
        s.eigenvalues, v, [20, 60, 200], degeneracies=s.degeneracies, tail=s.missing
    )
    rounded = [round(float(e), places) for e, places in zip(curve.test, (3, 4, 4), strict=True)]
    assert rounded == [0.192, 0.0185, 0.0008]
    # 2000 modes lam = i^-1.5: train/test does not depend on the target
    lam = np.arange(1.0, 2001) ** -1.5
    for n, ridge, ratio in ((200, 0.01, 2.6e-4 / 0.1148), (400, 0.1, 0.01259 / 0.0893)):
        one = learning_curve(lam, lam, n, ridge, 0.05)
        assert one.train / one.test == pytest.approx(ratio, rel=0.02)  # digits of 2.6e-4


def simulate(n, ridge, noise, draws, rng):
    """Ridge regression in Gaussian features; the test error is an exact sum over modes."""
    errors = []
    for _ in range(draws):
        phi = rng.standard_normal((n, len(LAM)))
        y = phi @ V + noise**0.5 * rng.standard_normal(n)
        features = phi * LAM**0.5
        weights = np.linalg.solve(features @ features.T + ridge * np.eye(n), y)
        learned = LAM**0.5 * (features.T @ weights)
        residual = y - features @ (features.T @ weights)
        errors.append([np.sum((V - learned) ** 2) + noise, np.mean(residual**2)])
    return np.array(errors)


@pytest.mark.parametrize(("ridge", "noise"), [(0.0, 0.0), (0.03, 0.1)])
def test_theory_against_simulation(ridge, noise):
    curve = learning_curve(LAM, V, SIZES, ridge, noise)
    rng, draws, scores = np.random.default_rng(3), 80, []
    for i, n in enumerate(SIZES):
        errors = simulate(n, ridge, noise, draws, rng)
        stderr = errors.std(axis=0, ddof=1) / draws**0.5
        scores.append((errors[:, 0].mean() - curve.test[i]) / stderr[0])
        if ridge:
            scores.append((errors[:, 1].mean() - curve.train[i]) / stderr[1])
    # corrections are of order 1/n^2 relative and below the errors at these sizes
    assert np.abs(scores).max() < family_threshold(4, len(scores), draws - 1)


def test_finite_population_against_simulation():
    rng, points, draws = np.random.default_rng(1), 120, 60
    i = np.arange(1.0, points + 1)
    lam, v, noise = i**-1.5, i**-1.0, 0.05
    scores = []
    for ridge in (0.0, 0.3):
        sizes = np.array([12, 40, 90])
        curve = learning_curve(lam, v, sizes, ridge, noise, population=points)
        plain = learning_curve(lam, v, sizes, ridge, noise)
        errors = np.empty((draws, 3, 2))
        for draw in range(draws):
            basis = np.linalg.qr(rng.standard_normal((points, points)))[0]
            K, y = points * (basis * lam) @ basis.T, points**0.5 * basis @ v
            y = y + noise**0.5 * rng.standard_normal(points)
            for k, n in enumerate(sizes):
                order = rng.permutation(points)
                a, b = order[:n], order[n:]
                w = np.linalg.solve(K[np.ix_(a, a)] + ridge * np.eye(n), y[a])
                test, train = y[b] - K[np.ix_(b, a)] @ w, y[a] - K[np.ix_(a, a)] @ w
                errors[draw, k] = np.mean(test**2), np.mean(train**2)
        mean, stderr = errors.mean(axis=0), errors.std(axis=0, ddof=1) / draws**0.5
        scores.append((mean[:, 0] - curve.test) / stderr[:, 0])
        if ridge:
            scores.append((mean[:, 1] - curve.train) / stderr[:, 1])
        # the formula for independent draws is off where n is a large part of the population
        assert abs(mean[2, 0] - plain.test[2]) / stderr[2, 0] > (3 if ridge else 8)
    assert np.abs(scores).max() < family_threshold(4, 9, draws - 1)


def test_large_population_is_the_usual_theory():
    usual = learning_curve(LAM, V, SIZES, 0.03, 0.1)
    found = learning_curve(LAM, V, SIZES, 0.03, 0.1, population=10**13)
    np.testing.assert_allclose(found.test, usual.test, rtol=1e-10)  # corrections of order n/N
    np.testing.assert_allclose(found.train, usual.train, rtol=1e-10)


def test_gradients_against_differences():
    def test_error(lam, ridge, noise):
        return learning_curve(lam, V, SIZES, ridge, noise).test[1]

    at = (jnp.asarray(LAM), 0.03, 0.1)
    d_lam, d_ridge, d_noise = jax.grad(test_error, argnums=(0, 1, 2))(*at)
    h = 1e-6

    def difference(move):
        return float(test_error(*move(h)) - test_error(*move(-h))) / (2 * h)

    # central differences: h^2 f''' and rounding over h, both near 1e-10; the curve is O(1)
    for direction, found in (
        (lambda s: (LAM, 0.03 + s, 0.1), d_ridge),
        (lambda s: (LAM, 0.03, 0.1 + s), d_noise),
        (lambda s: (LAM + s * np.eye(300)[4], 0.03, 0.1), d_lam[4]),
        (lambda s: (LAM * (1 + s), 0.03, 0.1), jnp.sum(d_lam * LAM)),
    ):
        assert float(found) == pytest.approx(difference(direction), rel=1e-6, abs=1e-8)
    slope = jax.grad(lambda r: learning_curve(LAM, V, SIZES, r, 0.1, population=400).test[2])(0.03)
    change = [learning_curve(LAM, V, SIZES, 0.03 + s, 0.1, population=400).test[2] for s in (h, -h)]
    assert float(slope) == pytest.approx((change[0] - change[1]) / (2 * h), rel=1e-6)


def test_groups_tail_and_scale():
    lam, v, counts = np.array([1.0, 0.2, 0.01]), np.array([1.0, 0.5, 0.2]), np.array([1, 5, 294])
    spread = learning_curve(
        np.repeat(lam, counts), np.repeat(v / counts**0.5, counts), SIZES, 0.03, 0.1
    )
    groups = learning_curve(lam, v, SIZES, 0.03, 0.1, degeneracies=counts)
    np.testing.assert_allclose(groups.test, spread.test, rtol=1e-12)  # 300 terms in another order
    # many tiny modes act as a ridge: first corrections are lambda/kappa = 1e-6
    tiny = learning_curve([*lam, 1e-9], [*v, 0.0], SIZES, 0.03, 0.1, degeneracies=[*counts, 1e7])
    tail = learning_curve(lam, v, SIZES, 0.03, 0.1, degeneracies=counts, tail=0.01)
    np.testing.assert_allclose(tail.test, tiny.test, rtol=1e-5)
    np.testing.assert_allclose(tail.train, tiny.train, rtol=1e-5)
    whole = learning_curve(LAM, V, SIZES, 0.03, population=310)
    cut = learning_curve(LAM[:250], V[:250], SIZES, 0.03, tail=LAM[250:].sum(), population=310)
    # what is lost is the target's power beyond mode 250, 1 to 20 percent of the error
    np.testing.assert_allclose(cut.kappa, whole.kappa, rtol=0.05)  # lambda/kappa = 0.05
    for scale in (1e-150, 1e150):
        scaled = learning_curve(LAM * scale, V, SIZES, 0.03 * scale, 0.1)
        np.testing.assert_allclose(
            scaled.test, learning_curve(LAM, V, SIZES, 0.03, 0.1).test, rtol=1e-11
        )  # log kappa of 345 is known to 1e-13
    equal = learning_curve(np.ones(300), V, SIZES)
    np.testing.assert_allclose(equal.kappa, 300 / SIZES - 1, rtol=1e-12)  # all modes equal
    never = learning_curve([*lam, 0.0], [*v, 0.7], SIZES, 0.03, 0.1, degeneracies=[*counts, 1])
    np.testing.assert_allclose(
        never.test - groups.test, groups.overfitting * 0.49, rtol=1e-12
    )  # power outside the span is noise


def test_shapes_and_plot():
    many = learning_curve(LAM, V, SIZES, 0.03, 0.1)
    one = learning_curve(LAM, V, 32, 0.03, 0.1)
    assert isinstance(many.test, np.ndarray)
    assert one.test.shape == ()
    assert one.learnability.shape == (300,)
    assert one.test == pytest.approx(many.test[1], rel=1e-13)
    ax = many.plot(label="theory")
    assert ax.get_xlabel() == "training points"
    with pytest.raises(ShapeError, match="needs n as a list"):
        plot_learning_curve(one)


def test_refusals():
    with pytest.raises(DomainError, match=r"n must be below the number of modes .* \(300\)"):
        learning_curve(LAM, V, 300)
    assert np.isfinite(learning_curve(LAM, V, 300, 1e-6).test)
    with pytest.raises(ConvergenceError, match="Rescale them together"):
        learning_curve([1e308, 1e308], [1.0, 1.0], 1)
    with pytest.raises(DomainError, match="eigenvalues must be >= 0"):
        learning_curve([1.0, -1.0], [1.0, 1.0], 1)
    with pytest.raises(DomainError, match="they are all 0"):
        learning_curve([0.0], [1.0], 1)
    with pytest.raises(DomainError, match="degeneracies must be >= 1"):
        learning_curve([1.0], [1.0], 1, 0.1, degeneracies=[0.5])
    with pytest.raises(DomainError, match="n must be > 0"):
        learning_curve([1.0], [1.0], 0, 0.1)
    with pytest.raises(DomainError, match="ridge must be >= 0"):
        learning_curve([1.0], [1.0], 1, -0.1)
    with pytest.raises(DomainError, match="eigenvalues must be finite"):
        learning_curve([np.nan], [1.0], 1, 0.1)
    with pytest.raises(ShapeError, match="must have one shape"):
        learning_curve([1.0, 2.0], [1.0], 1, 0.1)
    with pytest.raises(ShapeError, match="n must be a number or 1-D"):
        learning_curve([1.0], [1.0], [[1.0]], 0.1)
    with pytest.raises(DomainError, match="n must be <= 299 for a population of 300"):
        learning_curve(LAM, V, 300, 0.1, population=300)
    with pytest.raises(DomainError, match="the sum of degeneracies must be <= 200"):
        learning_curve(LAM, V, 30, 0.1, population=200)
