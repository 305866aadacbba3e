"""Measured tensors of order 1/n: definitions by brute force, exact results, theory, limits."""

import itertools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from deeplimits import DomainError, ShapeError, UnsupportedLayerError
from deeplimits.estimates import Estimate
from deeplimits.statistics import family_threshold
from ntk.activations import dual
from ntk.exact_homogeneous import exact_homogeneous
from ntk.finite_width import finite_width
from ntk.finite_width_extrapolation import compare_finite_width, extrapolate_width
from ntk.finite_width_networks import (
    derivative_statistics,
    draw,
    hidden_units,
    tangent_statistics,
)
from ntk.finite_width_sampling import SampledFiniteWidth, sample_finite_width

X = np.array([[1.0, 0.3], [-0.4, 0.8]])
SETTING = dict(C_b=0.1, C_W=1.6, lambda_b=0.3, lambda_W=0.7, x=X)


def contractions(layers, W, x, rates, f):
    """The definitions, from dense derivatives of a network with two outputs over all parameters."""
    n = W.shape[1]
    hidden, back = ravel_pytree(layers)
    size = [(a.size, a.shape[-1] if a.ndim == 2 else None) for a in jax.tree.leaves(layers)]
    lam = [
        jnp.full(count, rates[i // 2][0] if m is None else rates[i // 2][1] / m)
        for i, (count, m) in enumerate(size)
    ]
    lam = jnp.concatenate([*lam, jnp.full(2 * n, rates[-1][1] / n), jnp.full(2, rates[-1][0])])

    def net(theta):
        s = hidden_units(f, back(theta[: hidden.size]), x)
        return jnp.matmul(theta[hidden.size : -2].reshape(2, n), s.T) + theta[-2:][:, None]

    theta = jnp.concatenate([hidden, W.ravel(), jnp.zeros(2)])
    d1, d2 = jax.jacfwd(net), jax.jacfwd(jax.jacfwd(net))
    z, J, H, T = net(theta), d1(theta) * lam[None, None], d2(theta), jax.jacfwd(d2)(theta)
    ntk = jnp.einsum("iap,jbp->ijab", J, d1(theta))
    d = jnp.einsum("apq,jbp,kcq->jkabc", H[0], J, J)  # first index: output 0
    dd = jnp.einsum("apqr,bp,cq,er->abce", T[0], J[0], J[1], J[1])
    turned = jnp.einsum("iapq,jbq->ijabp", H, J)  # second derivatives along gradients
    dd2 = jnp.einsum("ikacp,p,jlbdp->ijklabcd", turned, lam, turned)
    return {
        "G": jnp.einsum("a,b->ab", z[0], z[0]), "H": ntk[0, 0],
        "B": n * jnp.einsum("ab,cd->acbd", ntk[0, 1], ntk[0, 1]),
        "F": n * jnp.einsum("a,b,cd->acbd", z[0], z[1], ntk[0, 1]),
        "P": n * jnp.einsum("abc,d->abcd", d[1, 1], z[0]),
        "Q": n * jnp.einsum("abc,d->abcd", d[0, 1], z[1]), "R": n * dd,
        "S": n * dd2[0, 0, 1, 1], "T": n * dd2[0, 1, 0, 1], "U": n * dd2[0, 1, 1, 0],
    }  # fmt: skip


def test_averages_over_the_readout_are_the_definitions():
    """Every contraction is quadratic in each row of read-out weights, so the average over Gaussian
    weights is that over all sign patterns; the random signs inside are enumerated too."""
    f, widths, n, C_W, C_b = dual("gelu").fn, (2, 2), 2, 1.6, 0.1
    rates = [(0.3, 0.7), (0.2, 0.5), (0.4, 0.9)]
    layers = draw(jax.random.key(1), 2, widths, jnp.float64(C_W), jnp.float64(C_b))
    x = jnp.asarray(X)
    patterns = jnp.asarray(list(itertools.product([1.0, -1.0], repeat=2 * n))).reshape(-1, 2, n)
    ours = jax.vmap(lambda s: derivative_statistics(f, layers, x, C_W, rates, s, True))(patterns)
    ours = {name: value.mean(0) for name, value in ours.items()}
    ours |= tangent_statistics(f, layers, x, C_b, C_W, rates)
    readouts = patterns * (C_W / n) ** 0.5
    brute = jax.jit(jax.vmap(lambda W: contractions(layers, W, x, rates, f)))(readouts)
    for name, value in brute.items():
        want = value.mean(0) + (C_b if name == "G" else 0.0)
        # rounding of sums of a few hundred terms of order one
        np.testing.assert_allclose(ours[name], want, atol=1e-13, err_msg=name)


def test_exact_oracle_at_width_16():
    """No extrapolation: the exact second moments of ReLU networks hold at these widths."""
    setting = dict(C_b=0.1, C_W=1.8, widths=[12, 16], x=X[:1], lambda_b=0.4, lambda_W=0.6)
    exact = exact_homogeneous("relu", **setting)
    seen = sample_finite_width("relu", n_samples=64 * 600, key=0, **setting)
    truth = {name: getattr(exact, name)[-1].reshape((1,) * 4) for name in "VABDF"}
    truth |= {"Theta1": np.zeros((1, 1)), "G1": np.zeros((1, 1))}
    result = compare_finite_width(seen, SimpleNamespace(**truth))
    assert len(result.z) == 7
    assert result.passed, result.table()
    # sharp enough to tell width 16 from the limit, where V is smaller by a third
    limit = exact_homogeneous("relu", **(setting | {"widths": [12e6, 16e6]}))
    assert abs(seen["V"].mean.item() - limit.V[-1]) > 6 * seen["V"].stderr.item()


@pytest.mark.slow
@pytest.mark.optimized
def test_theory_of_two_inputs_with_a_kink():
    runs = [
        sample_finite_width("relu", widths=[n, n], n_samples=64 * 300, key=n, **SETTING)
        for n in (16, 32)
    ]
    theory = finite_width("relu", widths=[32, 32], order="NTK", **SETTING)
    result = compare_finite_width(extrapolate_width(runs), theory)
    assert set(result.z) == set(runs[0].tensors)
    assert result.passed, result.table()
    assert result.resolved["V"] > 0.7
    assert result.relative["V"] < 0.1


@pytest.mark.slow
@pytest.mark.optimized
def test_theory_of_second_derivatives():
    runs = [
        sample_finite_width(
            "gelu", widths=[n, n], order="ddNTK", n_samples=64 * count, key=n, **SETTING
        )
        for n, count in ((16, 300), (32, 150))
    ]
    theory = finite_width("gelu", widths=[32, 32], order="ddNTK", **SETTING)
    limit = extrapolate_width(runs)
    result = compare_finite_width(limit, theory)
    assert set(result.z) == {"G1", "Theta1", *"VABDFPQRSTU"}
    assert result.passed, result.table()
    assert min(result.resolved[name] for name in "VABFPQRSTU") > 0.8
    assert max(result.relative[name] for name in "BFPQRSTU") < 0.05
    # a wrong order of indices is seen: T and U swapped
    assert not compare_finite_width(limit, SimpleNamespace(T=theory.U, U=theory.T)).passed


def test_standard_errors_are_the_scatter_of_repetitions():
    setting = dict(C_b=0.0, C_W=2.0, x=[[1.0]], widths=[8], order="V", groups=8, n_samples=320)
    runs = [sample_finite_width("relu", key=k, **setting)["V"] for k in range(24)]
    values = [r.mean.item() for r in runs]
    scatter = np.std(values, ddof=1)
    claimed = np.sqrt(np.mean([r.stderr.item() ** 2 for r in runs]))
    assert 0.5 < scatter / claimed < 2.0  # the ratio scatters by 1/sqrt(48) = 14 %
    # one hidden layer, at any width: V = C_W^2 (A_4 3 - A_2^2) K^2 with K = 2, A_2 = A_4 = 1/2
    z = (np.mean(values) - 20.0) / (scatter / np.sqrt(24))
    assert abs(z) < family_threshold(3.5, 1, 23)


def ensemble(n, G1, error, depth=2):
    estimate = Estimate(np.full((1, 1), G1), np.full((1, 1), error), 63)
    return SampledFiniteWidth({"G1": estimate}, "V", (n,) * depth, 64)


def test_extrapolation():
    def curve(n):
        return 2.0 - 3.0 / n + 5.0 / n**2

    three = [ensemble(n, curve(n), 0.1) for n in (8, 16, 64)]
    limit = extrapolate_width(three)
    # exact up to the condition of the 3 x 3 Vandermonde matrix, about 1e4
    assert limit["G1"].value.item() == pytest.approx(2.0, abs=1e-11)
    assert limit.slopes["G1"].mean.item() == pytest.approx(-3.0, abs=1e-9)
    two = extrapolate_width([ensemble(8, 1.0, 0.3), ensemble(16, 2.0, 0.4)])["G1"]
    assert two.value.item() == pytest.approx(2 * 2.0 - 1.0)  # Richardson
    assert two.stderr.item() == pytest.approx(np.hypot(2 * 0.4, 0.3))
    half = (two.high - two.low).item() / 2
    assert half == pytest.approx(2.6561450 * two.stderr.item())  # t quantile 0.995, 63 dof
    line = extrapolate_width(three, degree=1)["G1"].value.item()
    weights = np.polyfit([1 / 8, 1 / 16, 1 / 64], [curve(n) for n in (8, 16, 64)], 1)
    assert line == pytest.approx(weights[1])
    with pytest.raises(DomainError, match="two or more different sizes"):
        extrapolate_width([ensemble(8, 1.0, 0.1), ensemble(16, 1.0, 0.1, depth=3)])
    with pytest.raises(DomainError, match="degree must be < the number of ensembles = 2"):
        extrapolate_width(three[:2], degree=2)


def test_comparison_can_fail_and_refuses_what_does_not_fit():
    seen = ensemble(8, 1.0, 0.1)
    assert compare_finite_width(seen, SimpleNamespace(G1=np.array([[1.2]]))).passed
    result = compare_finite_width(seen, SimpleNamespace(G1=np.array([[1.5]])))
    assert not result.passed
    assert "| G1 | 1 | 100% | 5.00 |" in result.table()
    with pytest.raises(ShapeError, match=r"G1: theory \(2, 2\)"):
        compare_finite_width(seen, SimpleNamespace(G1=np.ones((2, 2))))
    with pytest.raises(DomainError, match="none of the tensors G1"):
        compare_finite_width(seen, SimpleNamespace())
    with pytest.raises(DomainError, match="'V' was not measured; available: G1"):
        seen["V"]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (dict(activation="relu", order="dNTK"), UnsupportedLayerError, "has kinks"),
        (dict(activation="step"), UnsupportedLayerError, "has no NTK"),
        (dict(widths=[]), ShapeError, "widths must list the hidden layers"),
        (dict(widths=[8, 0]), DomainError, r"widths\[1\] must be >= 1"),
        (dict(n_samples=100), DomainError, "n_samples must be >= 256"),
        (dict(n_samples=1000), DomainError, "must be a multiple of groups = 64"),
        (dict(lambda_b=[0.1, 0.2]), ShapeError, "lambda_b must be one number or 3"),
        (dict(lambda_W=-1.0), DomainError, "lambda_W must be >= 0"),
        (dict(C_W=0.0), DomainError, "C_W must be > 0"),
        (dict(x=np.ones((2, 3, 4))), ShapeError, r"x must have shape \(M, n_0\)"),
    ],
)
def test_refusals(change, error, match):
    arguments = SETTING | dict(activation="tanh", widths=[8, 8], n_samples=640, key=0) | change
    with pytest.raises(error, match=match):
        sample_finite_width(arguments.pop("activation"), **arguments)
