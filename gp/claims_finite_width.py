r"""Claims of order 1/width: corrected predictions and tensors against ensembles of networks."""

from __future__ import annotations

import math
from functools import cache
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.claims import Claim, register
from deeplimits.estimates import Estimate
from gp.finite_width import finite_width_linearized, finite_width_posterior
from ntk.activations import dual
from ntk.finite_width import finite_width
from ntk.finite_width_networks import draw, hidden_kernels, metric_statistics
from ntk.finite_width_sampling import sample_finite_width
from ntk.residual_width import residual_width, sample_residual_width

#: Two training inputs and a test input, and two outputs.
X = np.array([[1.0, 0.3], [-0.4, 0.8], [0.6, -0.9]])
TARGETS = np.array([[1.0, -0.5], [-1.2, 0.7]])
#: A tanh network with two hidden layers, away from criticality so that every term counts.
SETTING = {"C_b": 0.1, "C_W": 1.6, "lambda_b": 0.3, "lambda_W": 0.7, "noise": 0.05, "ridge": 0.1}
GROUPS = 64
#: Width at which coefficients of 1/width are asked for; they do not depend on it.
LIMIT = 1024


@cache
def theory() -> dict[str, Any]:
    """Tensors of the three inputs at the output layer."""
    rates: dict[str, Any] = {n: SETTING[n] for n in ("C_b", "C_W", "lambda_b", "lambda_W")}
    found = finite_width("tanh", widths=[LIMIT] * 2, x=X, order="NTK", closure="full", **rates)
    names = ("G", "G1", "Theta", "Theta1", "V", "A", "B", "D", "F")
    return {name: getattr(found, name) for name in names}


def _grouped(network: Any, n: int, key: Any, n_samples: int) -> np.ndarray:
    """Means of ``network(key)`` over each of 64 ensembles."""
    keys = jax.random.split(key, n_samples).reshape(GROUPS, -1)
    batch = max(1, min(512, 2**17 // n**2))
    run = jax.jit(lambda k: jnp.mean(jax.lax.map(network, k, batch_size=batch), axis=0))
    return np.array([run(k) for k in keys], np.float64)


def _estimate(values: np.ndarray) -> Estimate:
    """Mean over the ensembles, and its error from their scatter."""
    error = values.std(0, ddof=1) / math.sqrt(len(values))
    return Estimate(values.mean(0), error, len(values) - 1)


def _single(*values: Any) -> list[Any]:
    return [jnp.asarray(v, jnp.float32) for v in values]


def finite_posterior(n: int, key: Any, n_samples: int) -> Estimate:
    """``n`` times (mean, variance, log evidence less their limits) of Bayesian networks.

    Hidden weights are drawn from the prior; given them the read-out is a linear Gaussian model, so
    every network counts with its marginal likelihood and its own posterior.
    """
    x, y, C_b, C_W, noise = _single(X, TARGETS, SETTING["C_b"], SETTING["C_W"], SETTING["noise"])
    N, C = TARGETS.shape

    def network(key: Any) -> Any:
        layers = draw(key, X.shape[1], (n, n), C_W, C_b)
        G = metric_statistics(dual("tanh").fn, layers, x, C_b, C_W)["G"]
        K = G[:N, :N] + noise * jnp.eye(N, dtype=x.dtype)
        weights = jnp.linalg.solve(K, jnp.concatenate([y, G[:N, N:]], axis=1))
        mean = jnp.matmul(G[N:, :N], weights[:, :C])[0]
        var = G[N, N] - jnp.dot(G[N, :N], weights[:, C])
        log = -0.5 * (jnp.sum(y * weights[:, :C]) + C * jnp.linalg.slogdet(K)[1])
        likelihood = jnp.exp(log - C * N / 2 * math.log(2 * math.pi))
        return likelihood * jnp.concatenate([jnp.ones(1, x.dtype), mean, var + mean**2])

    sums = _grouped(network, n, key, n_samples)
    t = theory()
    limit = finite_width_posterior(t["G"], t["G1"], t["V"], TARGETS, n=n, noise=SETTING["noise"])
    mean = sums[:, 1 : C + 1] / sums[:, :1]
    var = sums[:, C + 1 :] / sums[:, :1] - mean**2
    columns = [mean - limit.mean, var - limit.var, np.log(sums[:, :1]) - limit.log_evidence]
    return _estimate(n * np.concatenate(columns, axis=1))


def linearized_networks(n: int, key: Any, n_samples: int) -> Estimate:
    """``n`` times (mean, variance less their limits) of linearised networks trained to the end.

    The mean of the initial function, 0, is not sampled; the part of its variance that does not
    depend on the fluctuations of the tangent kernel is averaged over the read-out exactly.
    """
    t = theory()
    x, C_b, C_W, Theta = _single(X, SETTING["C_b"], SETTING["C_W"], t["Theta"])
    y, one = jnp.asarray(TARGETS[:, 0], jnp.float32), jnp.ones(1, jnp.float32)
    rate_b, rate_W = SETTING["lambda_b"], SETTING["lambda_W"]
    N = len(y)

    def residual(H: Any) -> Any:
        """``(-Q, 1)``: the part of the initial function that training leaves."""
        shifted = H[:N, :N] + SETTING["ridge"] * jnp.eye(N, dtype=H.dtype)
        return jnp.concatenate([-jnp.linalg.solve(shifted, H[:N, N]), one])

    def network(key: Any) -> Any:
        hidden, last = jax.random.split(key)
        layers = draw(hidden, X.shape[1], (n, n), C_W, C_b)
        s, dots = hidden_kernels(dual("tanh").fn, layers, x, [(rate_b, rate_W)] * 2)
        overlap = jnp.matmul(s, s.T) / n
        fixed = residual(Theta)
        exact = jnp.dot(fixed, jnp.matmul(C_b + C_W * overlap, fixed))

        def output(key: Any) -> Any:
            draws = jax.random.normal(key, (n + 1,), dtype=x.dtype)
            w = jnp.sqrt(C_W / n) * draws[:n]
            z = jnp.matmul(s, w) + jnp.sqrt(C_b) * draws[n]
            left = residual(rate_b + rate_W * overlap + jnp.einsum("abjk,j,k->ab", dots, w, w))
            mean = -jnp.dot(left[:N], y)
            scatter = jnp.dot(left, z) ** 2 - jnp.dot(fixed, z) ** 2 + exact
            return jnp.stack([mean, mean**2 + scatter])

        return jnp.mean(jax.vmap(output)(jax.random.split(last, 8)), axis=0)

    sums = _grouped(network, n, key, n_samples)
    limit = finite_width_linearized(
        SimpleNamespace(**t), TARGETS[:, :1], n=n, ridge=SETTING["ridge"]
    )
    mean, second = sums.T
    columns = [mean - limit.mean.item(), second - mean**2 - limit.var.item()]
    return _estimate(n * np.stack(columns, axis=1))


@cache
def _first_corrections() -> np.ndarray:
    t = theory()
    p = finite_width_posterior(t["G"], t["G1"], t["V"], TARGETS, n=1, noise=SETTING["noise"])
    return np.concatenate([p.mean_1.ravel(), p.var_1.ravel(), p.log_evidence_1.reshape(1)])


def _richardson(sample: Any, key: Any, n: int) -> Estimate:
    """``2 X(2n) - X(n)``: the bias of order 1/n of a sample cancels."""
    small, large = (sample(m, k) for m, k in zip((n, 2 * n), jax.random.split(key), strict=True))
    error = np.hypot(2 * large.stderr, small.stderr)
    return Estimate(2 * large.mean - small.mean, error, small.dof)


register(
    Claim(
        name="gp/finite-width-posterior",
        source="derived here, from the metric fluctuations of [roberts2022]",
        statement="Mean, variance and log evidence of a Bayesian tanh network with two hidden "
        "layers leave their limits as 1/width with the predicted coefficients.",
        theory=_first_corrections,
        experiment=lambda key, n: _richardson(
            lambda m, k: finite_posterior(m, k, 64 * 1500), key, n
        ),
        sizes=(16,),
        z=4.0,
        cost="slow",
        quantity="width times the change of mean and variance (2 outputs) and log evidence",
    )
)


def _vertex(key: Any, n: int) -> Estimate:
    """V of two inputs at width n: the distinct components."""
    found = sample_finite_width(
        "gelu", C_b=0.1, C_W=1.6, widths=[n, n], x=X[:2], order="V", n_samples=64 * 1000, key=key
    )["V"]
    mean, stderr = (np.asarray(a)[_DISTINCT] for a in (found.mean, found.stderr))
    return Estimate(mean, stderr, GROUPS - 1)


#: V_(11)(11), V_(11)(12), V_(11)(22), V_(12)(12), V_(12)(22), V_(22)(22).
_DISTINCT = tuple(np.array([[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 0, 1], [0, 1, 1, 1],
                            [1, 1, 1, 1]]).T)  # fmt: skip


@cache
def _vertex_theory() -> np.ndarray:
    V = finite_width("gelu", C_b=0.1, C_W=1.6, widths=[LIMIT] * 2, x=X[:2], order="V").V
    return np.asarray(V)[_DISTINCT]


register(
    Claim(
        name="ntk/four-point-vertex-width",
        source="[roberts2022], section 4.3",
        statement="The four-point vertex of two inputs in a GELU network, extrapolated in 1/width, "
        "is the solution of its recursion.",
        theory=_vertex_theory,
        experiment=lambda key, n: _richardson(lambda m, k: _vertex(k, m), key, n),
        sizes=(16,),
        z=4.0,
        quantity="distinct components of V",
    )
)


def _residual_vertex(key: Any, n: int) -> Estimate:
    found = sample_residual_width(
        "relu", C_W=1.0, gamma=0.5**0.5, depth=5, width=n, n_samples=64 * 1500, key=key
    )["V"]
    return Estimate(found.mean[1:], found.stderr[1:], found.dof)


register(
    Claim(
        name="ntk/residual-vertex",
        source="derived here; without the three-point term, the appendix on residual networks of "
        "[roberts2022]",
        statement="In a ReLU network with copies of weight gamma^2 = 1/2 the four-point vertex of "
        "layers 2 to 5 is 2.25, 5.40, 9.19, 13.42, which needs the three-point function.",
        theory=lambda: residual_width("relu", C_W=1.0, gamma=0.5**0.5, depth=5).V[1:],
        experiment=lambda key, n: _richardson(lambda m, k: _residual_vertex(k, m), key, n),
        sizes=(96,),
        z=4.0,
        quantity="V at layers 2 to 5",
    )
)
