import itertools

import jax
import numpy as np
import pytest
import scipy.linalg
import scipy.special
import scipy.stats

import ntk
from deeplimits import DataError, DomainError, MissingDependencyError, ShapeError
from deeplimits.statistics import family_threshold
from gp.bnn import BNN
from gp.bnn_chains import load_chains
from gp.bnn_predictive import split_rhat
from gp.process import GP

RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 2))
Y = X @ [1.0, -0.5] + 0.3 * RNG.normal(size=6)
XS = RNG.normal(size=(3, 2))
NOISE = 0.2
LINEAR = ntk.mlp(0, W_std=1.2, b_std=0.4)
POST = BNN(LINEAR, noise=NOISE).condition(X, Y)
EXACT = GP(LINEAR.nngp, noise=NOISE).condition(X, Y)


def scores(found, mean, var):
    """z-scores of posterior means and variances."""
    first = (found.mean[:, 0] - mean) / found.mean_error[:, 0]
    return np.concatenate([first, (found.var[:, 0] - var) / found.var_error[:, 0]])


@pytest.fixture(scope="module")
def mala():
    return POST.sample(key=0, method="mala", warmup=300, draws=2000, block=1000)


def test_linear_network_is_exact(mala):
    """A linear network is its Gaussian process, so kernel regression is the posterior."""
    found = mala.predict(XS)
    z = scores(found, EXACT.mean(XS), EXACT.var(XS))
    assert np.abs(z).max() < family_threshold(4, z.size)
    assert found.rhat.max() < 1.01  # the usual limit for chains that agree
    assert found.ess.min() > 500
    # a mixture over draws; its Monte Carlo error is that of the mean, below 5 % of a deviation
    law = EXACT.predict(XS, noise=True)
    density = scipy.stats.norm(law.mean, np.sqrt(law.var)).logpdf([0.4, 0.1, -0.3])
    np.testing.assert_allclose(found.log_prob([0.4, 0.1, -0.3]), density, atol=0.05)
    # tuned to 0.574; adaptation of 300 steps scatters by 0.05
    assert np.all(np.abs(mala.acceptance - 0.574) < 0.15)
    assert mala.cost.gradients == 4 * (300 + 2000)
    assert mala.cost.seconds > 0


def test_log_density():
    theta = RNG.normal(size=POST.dim)
    assert POST.dim == 3
    params = LINEAR.init(jax.random.key(0), X.shape)[1]
    leaves, treedef = jax.tree.flatten(params)
    f = LINEAR.apply(treedef.unflatten([theta[:2, None], theta[2:]]), X)[:, 0]
    expected = -0.5 * np.sum(theta**2) - 0.5 * np.sum((Y - f) ** 2 / NOISE)
    expected -= 3 * np.log(2 * np.pi * NOISE)
    assert [leaf.shape for leaf in leaves] == [(2, 1), (1,)]
    assert float(POST.log_density(theta)) == pytest.approx(float(expected), rel=1e-13)


def test_resumed_equals_uninterrupted(mala, tmp_path):
    short = POST.sample(key=0, method="mala", warmup=300, draws=1000, block=1000)
    path = short.save(tmp_path / "chains.npz")
    loaded = load_chains(path, POST)
    assert loaded.settings == short.settings
    resumed = loaded.extend(1000)
    np.testing.assert_array_equal(resumed.thetas, mala.thetas)
    assert resumed.cost.gradients == mala.cost.gradients
    np.testing.assert_allclose(resumed.acceptance, mala.acceptance, rtol=1e-12)
    assert short.draws == 1000
    assert resumed.draws == 2000


def features(x):
    """Outputs of the linear network for unit parameters."""
    return np.concatenate([1.2 * x / np.sqrt(2), np.full((len(x), 1), 0.4)], axis=1)


PHI = features(X)
HESSIAN = np.eye(3) + PHI.T @ PHI / NOISE
MEAN = np.linalg.solve(HESSIAN, PHI.T @ Y / NOISE)


def langevin_covariance(step, size):
    """Stationary law of x + step (gradient of a batch) + sqrt(2 step) z, batch by batch.

    C = E[(1 - step H_b) C (1 - step H_b)^T] + 2 step + step^2 E[g_b g_b^T], g_b the gradient of
    the batch at the posterior mean, averaged over all batches.
    """
    batches = [list(b) for b in itertools.combinations(range(6), size)]
    hessians = [np.eye(3) + 6 / size * PHI[b].T @ PHI[b] / NOISE for b in batches]
    slopes = [6 / size * PHI[b].T @ (Y[b] - PHI[b] @ MEAN) / NOISE - MEAN for b in batches]
    moves = [np.eye(3) - step * h for h in hessians]
    average = np.mean([np.kron(m, m) for m in moves], axis=0)
    source = 2 * step * np.eye(3) + step**2 * np.mean([np.outer(g, g) for g in slopes], axis=0)
    assert np.allclose(np.mean(slopes, axis=0), 0)
    return np.linalg.solve(np.eye(9) - average, source.ravel()).reshape(3, 3)


def hamiltonian_covariance(step, leapfrogs, friction):
    """Stationary law of the explicit Euler steps of SGHMC with a fresh momentum per draw."""
    one, zero = np.eye(3), np.zeros((3, 3))
    move = np.block([[one, step * one], [-step * HESSIAN, (1 - friction * step) * one]])
    kick = 2 * friction * step * scipy.linalg.block_diag(zero, one)
    total, noise = np.eye(6), scipy.linalg.block_diag(zero, zero)
    for _ in range(leapfrogs):
        total, noise = move @ total, move @ noise @ move.T + kick
    fresh = total[:3, 3:] @ total[:3, 3:].T + noise[:3, :3]
    return scipy.linalg.solve_discrete_lyapunov(total[:3, :3], fresh)


LANGEVIN = {"step_size": 0.02, "batch_size": 3, "warmup": 300, "draws": 8000}
HAMILTON = {"step_size": 0.05, "leapfrogs": 10, "friction": 0.5, "warmup": 50, "draws": 3000}


@pytest.mark.parametrize("method", ["sgld", "sghmc"])
def test_langevin_bias_is_exact(method):
    """Both are linear recursions here, whose stationary laws are known, batches included."""
    options = LANGEVIN if method == "sgld" else HAMILTON
    law = (
        langevin_covariance(0.02, 3) if method == "sgld" else hamiltonian_covariance(0.05, 10, 0.5)
    )
    found = POST.sample(key=1, method=method, block=options["draws"], **options)
    predicted, phi = found.predict(XS), features(XS)
    z = scores(predicted, phi @ MEAN, np.sum(phi @ law * phi, axis=1))
    assert np.abs(z).max() < family_threshold(4, z.size)
    # and the bias is seen: the exact posterior variance is rejected
    off = (predicted.var[:, 0] - EXACT.var(XS)) / predicted.var_error[:, 0]
    assert np.abs(off).max() > 5
    assert np.isnan(found.acceptance).all()
    per_draw = 10 if method == "sghmc" else 1
    assert found.cost.gradients == 4 * per_draw * (options["draws"] + options["warmup"])


# --- nonlinear networks


SHORT = {"method": "mala", "warmup": 0, "step_size": 0.3, "draws": 4000, "block": 4000}


def test_softmax_by_quadrature():
    """Two classes from two weights."""
    net = ntk.serial(ntk.Dense(2, 1.0))
    x, labels = np.array([[1.0], [2.0], [-0.5]]), np.array([0, 0, 1])
    line = np.linspace(-7, 7, 301)
    u, v = np.meshgrid(line, line, indexing="ij")
    logits = np.stack([u, v])[:, None] * x[:, 0][None, :, None, None]
    log_p = logits - scipy.special.logsumexp(logits, axis=0)
    density = np.exp(sum(log_p[c, i] for i, c in enumerate(labels)) - 0.5 * (u**2 + v**2))
    density /= density.sum()
    expected = np.sum(density / (1 + np.exp(0.7 * (v - u))))
    post = BNN(net, likelihood="softmax").condition(x, labels)
    found = post.sample(key=4, **SHORT).predict([[0.7]])
    series = 1 / (1 + np.exp(found.draws[..., 0, 1] - found.draws[..., 0, 0]))
    error = series.std() / np.sqrt(found.ess.min())
    assert abs(found.probabilities[0, 0] - expected) < 4 * error
    assert found.probabilities.sum() == pytest.approx(1)
    np.testing.assert_allclose(found.log_prob([0]), np.log(found.probabilities[:, 0]))


TRAIN = np.array([[-1.2], [0.1], [1.4]])
TARGETS = np.array([1.2, -1.0, 0.9])
TEST = np.array([[0.7], [-0.5]])


def shallow(width):
    return ntk.mlp(1, "erf", W_std=1.5, b_std=0.5, width=width)


def weighted_prior(width, n=20_000, seed=0):
    """Posterior mean and variance at the test points, each with its error.

    Hidden units from the prior, weighted by the evidence of the targets given them; the read-out is
    integrated in closed form.
    """
    rng, x = np.random.default_rng(seed), np.concatenate([TRAIN, TEST])[:, 0]
    kernel = np.full((n, 5, 5), 0.25)
    for _ in range(width):
        w, b = rng.normal(size=(2, n, 1))
        hidden = scipy.special.erf(1.5 * w * x + 0.5 * b)
        kernel += 2.25 / width * hidden[:, :, None] * hidden[:, None, :]
    noisy, cross = kernel[:, :3, :3] + 0.1 * np.eye(3), kernel[:, :3, 3:]
    gain = np.linalg.solve(noisy, cross)
    means = np.einsum("nij,i->nj", gain, TARGETS)
    variances = np.einsum("njj->nj", kernel[:, 3:, 3:]) - np.einsum("nij,nij->nj", gain, cross)
    fit = np.einsum("i,nij,j->n", TARGETS, np.linalg.inv(noisy), TARGETS)
    weights = np.exp(-0.5 * fit - 0.5 * np.linalg.slogdet(noisy)[1])
    weights /= weights.sum()
    mean = weights @ means
    squares = variances + (means - mean) ** 2
    var = weights @ squares
    errors = [np.sqrt(weights**2 @ (q - v) ** 2) for q, v in ((means, mean), (squares, var))]
    return np.stack([mean, var]), np.stack(errors)


@pytest.mark.slow
@pytest.mark.optimized
def test_approaches_the_nngp():
    """NUTS at width 4 against weighted draws of the prior, which reject the NNGP as 1/width."""
    post = BNN(shallow(4), noise=0.1).condition(TRAIN, TARGETS)
    chains = post.sample(key=5, warmup=200, draws=500, block=500)
    found = chains.predict(TEST)
    moments, errors = weighted_prior(4)
    sampled = np.stack([found.mean[:, 0], found.var[:, 0]])
    spread = np.hypot([found.mean_error[:, 0], found.var_error[:, 0]], errors)
    assert np.abs((sampled - moments) / spread).max() < family_threshold(4, 4)
    limit = GP(shallow(4).nngp, noise=0.1).condition(TRAIN, TARGETS)
    law = np.stack([limit.mean(TEST), limit.var(TEST)])
    # the chains see the finite width in the variance
    assert np.abs((sampled - law) / spread)[1].max() > 5
    found_at = {w: weighted_prior(w) for w in (16, 64)}
    gaps = {w: w * (m - law)[1] for w, (m, _) in found_at.items()}
    gap_errors = {w: w * e[1] for w, (_, e) in found_at.items()}
    assert np.all(gaps[64] > 20 * gap_errors[64])
    # width * gap is constant up to 1/width: its change from 16 to 64 is 3/4 of c/16, c of its size
    slack = np.hypot(4 * np.hypot(gap_errors[16], gap_errors[64]), 2 * gaps[64] / 16)
    assert np.all(np.abs(gaps[64] - gaps[16]) < slack)
    assert found.rhat.max() < 1.02
    assert chains.cost.gradients > 4 * 700
    assert chains.divergences.shape == (4,)


# --- diagnostics


def test_rhat_against_blackjax():
    time = np.arange(40.0)
    waves = np.sin(np.outer([1.0, 2.0, 3.0], time) / 3)
    # trends that disagree within a chain, and scales that disagree between chains
    series = [waves + 0.05 * time, waves * np.array([[1.0], [2.0], [5.0]])]
    # blackjax.diagnostics.rhat (1.7.1) of the two
    both = split_rhat(np.stack(series, axis=-1))
    np.testing.assert_allclose(both, [1.2758546345997033, 1.3818967245132368], rtol=1e-9)
    assert split_rhat(np.random.default_rng(1).normal(size=(4, 1000))) < 1.01


# --- refused

SMALL_NET = ntk.mlp(1, "erf", width=2)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: BNN(3), DomainError, "net must be a network"),
        (lambda: BNN(ntk.mlp(1, parameterization="standard")), DomainError, "NTK parametrisation"),
        (lambda: BNN(SMALL_NET, noise=0.0), DomainError, "noise must be > 0"),
        (lambda: BNN(SMALL_NET, likelihood="poisson"), DomainError, "likelihood must be one of"),
        (lambda: BNN(SMALL_NET).condition(X[:, 0], Y), ShapeError, "X must have shape"),
        (lambda: BNN(SMALL_NET).condition(X, Y[:3]), ShapeError, "y must have shape"),
        (lambda: BNN(SMALL_NET).condition(X, np.stack([Y, Y], 1)), ShapeError, "Use out_dim=2"),
        (lambda: BNN(ntk.serial(ntk.Erf())).condition(X, X), DomainError, "no parameters"),
        (
            lambda: BNN(SMALL_NET, likelihood="softmax").condition(X, np.zeros(6, int)),
            DomainError,
            "labels must be integers",
        ),
        (
            lambda: BNN(ntk.mlp(0, out_dim=2), likelihood="softmax").condition(X, Y),
            DomainError,
            "labels must be integers 0..1",
        ),
        (
            lambda: BNN(ntk.mlp(0, out_dim=2), likelihood="softmax").condition(X, [0, 1]),
            ShapeError,
            "labels must have shape",
        ),
    ],
)
def test_bad_models(make, error, match):
    with pytest.raises(error, match=match):
        make()


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"method": "gibbs"}, "method must be one of"),
        ({"chains": 0}, "chains must be >= 1"),
        ({"draws": 0}, "draws must be >= 1"),
        ({"thin": 0}, "thin must be >= 1"),
        ({"warmup": 5}, "warmup must be >= 20"),
        ({"step_size": -1.0}, "step_size must be > 0"),
        ({"batch_size": 2}, "batch_size is for sgld"),
        ({"method": "sgld"}, "give step_size="),
        ({"method": "sgld", "step_size": 0.1, "batch_size": 7}, "at most the number of points 6"),
        ({"method": "sghmc", "step_size": 0.1, "friction": -1.0}, "friction must be >= 0"),
        ({"key": "a"}, "key must be one jax.random.key"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(DomainError, match=match):
        POST.sample(**{"key": 0, **options})


def test_bad_chains(mala, tmp_path):
    with pytest.raises(DomainError, match="draws must be >= 1"):
        mala.extend(0)
    with pytest.raises(ShapeError, match="X and the training inputs"):
        mala.predict(XS[:, :1])
    with pytest.raises(DomainError, match=r"path must end in \.npz"):
        mala.save(tmp_path / "chains.txt")
    with pytest.raises(DataError, match="there is no file"):
        load_chains(tmp_path / "chains.npz", POST)
    path = mala.save(tmp_path / "chains.npz")
    with pytest.raises(DataError, match="draws of 3 parameters"):
        load_chains(path, BNN(SMALL_NET).condition(X, Y))
    with pytest.raises(DomainError, match="probabilities need likelihood='softmax'"):
        mala.predict(XS).probabilities  # noqa: B018
    with pytest.raises(DomainError, match="the plot needs inputs"):
        mala.predict(XS).plot()
    with pytest.raises(ShapeError, match="at least 8 draws"):
        split_rhat(np.zeros((2, 4)))


@pytest.mark.filterwarnings("ignore::FutureWarning")  # of arviz itself
def test_arviz_is_optional(mala):
    try:
        import arviz
    except ImportError:
        with pytest.raises(MissingDependencyError, match="arviz"):
            mala.to_arviz()
        return
    assert isinstance(mala.to_arviz(XS), arviz.InferenceData)
