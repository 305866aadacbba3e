import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import pytest
import sklearn.gaussian_process.kernels as sk

import ntk
from deeplimits import DomainError, NotPositiveDefiniteError, ShapeError
from gp import target_kernels
from gp.prior_objective import TargetAverage, as_target, average_log_normal, make_objective
from gp.priors import match_prior, rank_priors
from gp.scale_priors import InverseGamma, LogNormal
from gp.target_kernels import RBF, Matern, Periodic, RationalQuadratic
from gp.wasserstein import kl_gaussian, wasserstein2
from gp.wasserstein_bounds import comonotone_moment, mixture_wasserstein2
from ntk.families import mlp_family

GRID = np.linspace(-3, 3, 60)[:, None]
SMALL = np.linspace(-2, 2, 7)[:, None]
SINCOS = mlp_family("sincos", bias=False)
START = {"W_std": 1.0, "W_std_readout": 1.0}


# --- kernels and families


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (RBF(0.7, 1.3), 1.3 * sk.RBF(0.7)),
        (RBF(np.array([0.7, 2.0])), sk.RBF([0.7, 2.0])),
        (Matern(0.5, 0.8), sk.Matern(0.8, nu=0.5)),
        (Matern(1.5, 0.8), sk.Matern(0.8, nu=1.5)),
        (Matern(2.5, 0.8, 2.0), 2.0 * sk.Matern(0.8, nu=2.5)),
        (RationalQuadratic(0.6, 0.9), sk.RationalQuadratic(0.9, 0.6)),
    ],
    ids=lambda k: type(k).__name__,
)
def test_target_kernels_against_scikit_learn(ours, theirs):
    rng = np.random.default_rng(0)
    x, z = rng.normal(size=(5, 2)), rng.normal(size=(3, 2))
    np.testing.assert_allclose(ours(x, z), theirs(x, z), rtol=1e-13)  # rounding
    np.testing.assert_allclose(ours(x), theirs(x), rtol=1e-13)
    assert ours(x.astype(np.float32)).dtype == np.float32


def test_length_scale_of_every_feature_in_blocks(monkeypatch):
    monkeypatch.setattr(target_kernels, "_ENTRIES", 20)  # blocks of two rows and a remainder
    rng = np.random.default_rng(1)
    x, z, lengths = rng.normal(size=(7, 2)), rng.normal(size=(5, 2)), np.array([0.5, 2.0])
    np.testing.assert_allclose(RBF(lengths)(x, z), sk.RBF(lengths)(x, z), rtol=1e-13)  # rounding
    slope = jax.grad(lambda a: jnp.sum(RBF(a)(x, z)))(jnp.asarray(lengths))
    K, gaps = sk.RBF(lengths)(x, z), x[:, None] - z
    expected = np.einsum("nm,nmd->d", K, gaps**2) / lengths**3
    np.testing.assert_allclose(slope, expected, rtol=1e-13)


def test_periodic_kernel():
    x = np.linspace(0, 2, 5)[:, None]
    expected = sk.ExpSineSquared(0.8, 1.3)(x)
    np.testing.assert_allclose(Periodic(1.3, 0.8)(x), expected, rtol=1e-13)


def test_gradients_are_finite_on_the_diagonal():
    x = jnp.asarray(SMALL)
    for kernel in (Matern(0.5), Matern(2.5), RationalQuadratic()):
        slopes = jax.grad(lambda k: jnp.sum(k(x)))(kernel)
        assert all(np.isfinite(leaf) for leaf in jax.tree.leaves(slopes))


def test_family_is_the_network():
    family = mlp_family("erf", 2, scales="separate", width=4)
    values = {n: 0.3 + 0.2 * i for i, n in enumerate(family.names)}
    (W0, b0), (W1, b1), (W2, b2) = np.reshape(list(values.values()), (3, 2)).tolist()
    expected = ntk.serial(
        ntk.Dense(4, W0, b0), ntk.Erf(), ntk.Dense(4, W1, b1), ntk.Erf(), ntk.Dense(1, W2, b2)
    )
    assert jax.tree.structure(family(**values)) == jax.tree.structure(expected)
    assert jax.tree.leaves(family(**values)) == jax.tree.leaves(expected)
    np.testing.assert_allclose(family(**values).nngp(SMALL), expected.nngp(SMALL), rtol=1e-13)


def test_shared_scales():
    family = mlp_family("erf", 2, width=4, out_dim=3)
    block = ntk.repeat(ntk.serial(ntk.Dense(4, 1.2, 0.3), ntk.Erf()), 2)
    expected = ntk.serial(block, ntk.Dense(3, 0.9, 0.1))
    found = family(W_std=1.2, b_std=0.3, W_std_readout=0.9, b_std_readout=0.1)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    assert jax.tree.leaves(found) == jax.tree.leaves(expected)


def test_names_of_scales():
    assert mlp_family("erf", 3, scales="one", bias=False).names == ("W_std",)
    assert mlp_family("erf", 0).names == ("W_std", "b_std")
    assert mlp_family("erf", 1, scales="separate", bias=False).names == ("W_std_0", "W_std_readout")
    assert mlp_family(ntk.dual("erf")).label == "Erf depth 1"
    one = mlp_family("erf", 2, scales="one", bias=False)(W_std=1.5)
    deviations = [leaf for leaf in jax.tree.leaves(one) if leaf == 1.5]
    assert len(deviations) == 2  # of the repeated block and of the read-out


def test_sincos_is_the_random_feature_kernel():
    net = SINCOS(W_std=1 / 0.6, W_std_readout=1.0)
    np.testing.assert_allclose(net.nngp(SMALL), RBF(0.6)(SMALL), rtol=1e-12, atol=1e-15)


# --- matching


def test_sincos_is_exact():
    ell = 0.6
    found = match_prior(SINCOS, RBF(ell), SMALL, restarts=1)
    # the loss is quadratic around 0 and known to 1e-15: scales to 1e-6
    assert found.params["W_std"] == pytest.approx(1 / ell, rel=1e-6)
    assert found.params["W_std_readout"] == pytest.approx(1, rel=1e-6)
    assert found.distance < 1e-12
    assert found.w1.upper < 1e-6
    assert found.converged
    assert found.on_edge == ()


def test_published_distance():
    """Mean squared error of a second implementation of this fit, three digits: 0.228."""
    family = mlp_family("erf")
    found = match_prior(family, RBF(0.6), GRID, restarts=1)
    assert found.per_point == pytest.approx(0.228, abs=5e-4)  # last digit given
    assert found.relative == pytest.approx(found.per_point, rel=1e-12)  # variance 1
    assert found.distance == pytest.approx(wasserstein2(found.cov, found.target_cov), rel=1e-12)
    assert 0 < found.w1.lower < found.w1.upper == pytest.approx(found.distance**0.5, rel=1e-12)
    assert found.on_edge == ("b_std_readout",)
    # a minimum: every other scale, moved by 10 %, does worse
    for name in ("W_std", "b_std", "W_std_readout"):
        for factor in (0.9, 1.1):
            net = family(**{**found.params, name: found.params[name] * factor})
            assert wasserstein2(np.asarray(net.nngp(GRID)), found.target_cov) > found.distance


def kernel_family(ell, v):
    """A family need not be one of networks."""
    return RBF(ell, v)


KERNELS = {"start": {"ell": 1.0, "v": 1.0}, "restarts": 1}


def test_kl_is_minimised():
    options = {"loss": "kl", "nugget": 0.05, **KERNELS}
    goal = Matern(0.5, 1.5)
    found = {d: match_prior(kernel_family, goal, SMALL, direction=d, **options) for d in DIRECTIONS}
    target = np.asarray(goal(SMALL))
    for direction, fit in found.items():
        assert fit.distance == pytest.approx(divergence(direction, fit.cov, target), rel=1e-10)
        other = found["backward" if direction == "forward" else "forward"]
        assert fit.distance < divergence(direction, other.cov, target)


DIRECTIONS = ("forward", "backward")


def divergence(direction, cov, target):
    pair = (cov, target) if direction == "forward" else (target, cov)
    return kl_gaussian(*pair, nugget=0.05)


def test_random_scales_enter_the_loss():
    first, second = InverseGamma(3.0, 2.0), LogNormal(0.1, 0.5)
    found = match_prior(SINCOS, RBF(1.0), SMALL, scale=first, target_scale=second, restarts=1)
    expected = mixture_wasserstein2(found.cov, found.target_cov, first, second)
    assert found.distance == pytest.approx(expected.upper, rel=1e-12)
    # covariances a K and K: a E[s1^2] - 2 sqrt(a) E[s1 s2] is least at sqrt(a) = E[s1 s2]/E[s1^2]
    best = comonotone_moment(first, second) / first.moment(1.0)
    assert found.params["W_std_readout"] == pytest.approx(best, rel=1e-6)


def test_uncertain_target():
    target = average_log_normal(RBF, 0.0, 0.4, nodes=3)
    # Gauss-Hermite with 3 nodes: 0 and +- sqrt 3, weights 2/3 and 1/6
    np.testing.assert_allclose(target.weights, [1 / 6, 2 / 3, 1 / 6], rtol=1e-12)
    assert target.kernels[2].length_scale == pytest.approx(np.exp(0.4 * 3**0.5), rel=1e-12)
    found = match_prior(SINCOS, target, SMALL, restarts=1)
    squares = [wasserstein2(found.cov, np.asarray(k(SMALL))) for k in target.kernels]
    assert found.distance == pytest.approx(np.dot(target.weights, squares), rel=1e-12)
    # better than the exact match of the middle one
    others = [wasserstein2(RBF(1.0)(SMALL), k(SMALL)) for k in target.kernels]
    assert found.distance < np.dot(target.weights, others)


def test_objective_gradient_by_differences():
    x = jnp.asarray(SMALL)
    target = as_target(Matern(1.5), x)
    loss = make_objective(kernel_family, ("ell", "v"), x, target, "w2", None, "forward", None, None)
    u, h = np.array([0.3, -0.2]), 1e-5
    for i, step in enumerate(h * np.eye(2)):
        expected = (loss(u + step)[0] - loss(u - step)[0]) / (2 * h)
        # h^2 and rounding 1e-15 / h
        assert loss(u)[1][i] == pytest.approx(expected, abs=1e-8)


def test_ranking():
    def flat(v):
        return lambda X, Z=None: v * jnp.ones((len(X), len(X if Z is None else Z)))

    families = {"constants": flat, "variances": lambda v: RBF(1.0, v)}
    ranking = rank_priors(families, RBF(1.0, 3.0), SMALL, start={"v": 1.0}, restarts=1)
    assert [m.label for m in ranking.matches] == ["variances", "constants"]
    assert ranking.matches[0].params["v"] == pytest.approx(3.0, rel=1e-6)
    # v 1 1^T against K: overlap sqrt(v 1^T K 1), so v = 1^T K 1 / n^2 and W2^2 = tr K - n v
    best = 3 * float(np.mean(RBF(1.0)(SMALL)))
    assert ranking.matches[1].params["v"] == pytest.approx(best, rel=1e-6)
    assert ranking.matches[1].distance == pytest.approx(7 * (3 - best), rel=1e-12)
    assert ranking.table().splitlines()[1].startswith("variances")
    matrix = rank_priors([families["variances"]], np.eye(7), SMALL, start={"v": 1.0}, restarts=1)
    assert matrix.matches[0].label == "family"
    assert ranking.plot().get_xlabel()
    assert ranking.matches[0].plot().get_ylabel()
    plt.close("all")


# --- refused


def same(loss="w2", grid=SMALL, target=None, family=SINCOS, **options):
    return match_prior(family, RBF(1.0) if target is None else target, grid, loss, **options)


INDEFINITE = -np.eye(7)
BAD = [
    ({"grid": SMALL[:1]}, ShapeError, "at least 2 inputs"),
    ({"grid": SMALL[[0, 1, 1]]}, DomainError, "grid holds equal inputs: 1 of 3"),
    ({"grid": SMALL[:, 0]}, ShapeError, "grid must have shape"),
    ({"grid": np.full((3, 1), np.nan)}, DomainError, "grid must be finite"),
    ({"target": INDEFINITE}, NotPositiveDefiniteError, "the target covariance"),
    ({"target": np.zeros((7, 7))}, DomainError, "the target covariance is zero"),
    ({"target": np.eye(3)}, ShapeError, "shape \\(7, 7\\)"),
    ({"target": lambda X, Z=None: np.ones((2, 2))}, ShapeError, "the kernel must return"),
    ({"loss": "w3"}, DomainError, "loss must be one of"),
    ({"loss": "kl"}, DomainError, "needs nugget="),
    ({"loss": "kl", "nugget": 0.0}, DomainError, "nugget must be > 0"),
    ({"nugget": 0.1}, DomainError, "nugget is for loss='kl'"),
    ({"direction": "up"}, DomainError, "direction must be one of"),
    ({"restarts": 0}, DomainError, "restarts must be >= 1"),
    ({"outer": 3}, DomainError, "unknown options \\['outer'\\]"),
    ({"family": 3}, DomainError, "family must be a callable"),
    ({"family": lambda v: RBF(v)}, DomainError, "start must map"),
    ({"family": lambda v: v, "start": {"v": 1.0}}, DomainError, "must return a network"),
    ({"start": {"W_std": -1.0}}, DomainError, "start\\['W_std'\\] must be > 0"),
    ({"start": {"W": 1.0}}, DomainError, "has the scales W_std, W_std_readout; got W"),
    ({"loss": "kl", "nugget": 1.0, "scale": LogNormal(0.0, 1.0)}, DomainError, "no random scales"),
    ({"loss": "w1", "scale": LogNormal(0.0, 1.0)}, DomainError, "no random scales"),
]


@pytest.mark.parametrize(("options", "error", "match"), BAD, ids=[b[2][:30] for b in BAD])
def test_bad_input(options, error, match):
    with pytest.raises(error, match=match):
        same(**options)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: RBF(0.0), DomainError, "length_scale must be > 0"),
        (lambda: RBF(np.array([1.0, -1.0])), DomainError, "length_scale must be > 0"),
        (lambda: RBF(np.eye(2)), ShapeError, "length_scale must be a number or"),
        (lambda: RBF(np.ones(3))(SMALL), ShapeError, "length_scale has 3 entries"),
        (lambda: RBF(1.0, np.nan), DomainError, "variance must be finite"),
        (lambda: RBF()(SMALL[:, 0]), ShapeError, "X must have shape"),
        (lambda: Matern(2.0), DomainError, "nu must be 0.5, 1.5 or 2.5"),
        (lambda: Periodic(period=-1.0), DomainError, "period must be > 0"),
        (lambda: RationalQuadratic(alpha=0.0), DomainError, "alpha must be > 0"),
        (lambda: TargetAverage((RBF(),), [0.5]), DomainError, "add up to 1"),
        (lambda: TargetAverage((RBF(),), [0.5, 0.5]), ShapeError, "one number per kernel"),
        (lambda: TargetAverage((3,), [1.0]), DomainError, "must be a callable"),
        (lambda: average_log_normal(RBF, 0.0, 0.0), DomainError, "sd must be > 0"),
        (lambda: average_log_normal(RBF, 0.0, 1.0, 1), DomainError, "nodes must be >= 2"),
        (lambda: mlp_family("erf", -1), DomainError, "depth must be >= 0"),
        (lambda: mlp_family("erf", scales="all"), DomainError, "scales must be one of"),
        (lambda: mlp_family("erff"), DomainError, "Unknown activation"),
        (lambda: rank_priors([], RBF(), SMALL), DomainError, "at least one family"),
    ],
)
def test_bad_parameters(make, error, match):
    with pytest.raises(error, match=match):
        make()
