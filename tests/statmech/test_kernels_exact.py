"""Kernels as Markov chains: exact transition matrices of 7 spins, and the kernels held to them."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from deeplimits.errors import DomainError
from statmech.coupling import hebbian_coupling
from statmech.coupling_matrix import matrix_coupling
from statmech.kernels_blocked import drawn_sites

N, BETA, COPIES = 7, 1.3, 1000
STATES = 1 - 2.0 * ((np.arange(2**N)[:, None] >> np.arange(N)) & 1)
FIELD = np.linspace(-0.5, 0.3, N)


@functools.cache
def coupling(kind):
    rng = np.random.default_rng(0)
    if kind == "hebbian":
        return hebbian_coupling(rng.normal(size=(2, N)), field=FIELD, c=0.6)
    J = rng.normal(size=(N, N)) / N**0.5
    return matrix_coupling(np.triu(J, 1) + np.triu(J, 1).T, field=FIELD)


def local_fields(kind):
    return STATES @ coupling(kind).matrix() + FIELD


def boltzmann(kind):
    J = coupling(kind).matrix()
    weight = BETA * (np.einsum("ai,ij,aj->a", STATES, J, STATES) / 2 + STATES @ FIELD)
    p = np.exp(weight - weight.max())
    return p / p.sum()


def single(kind, rule, i):
    """Transition matrix of an update of spin i."""
    x = 2 * BETA * STATES[:, i] * local_fields(kind)[:, i]
    flip = 1 / (1 + np.exp(x)) if rule == "heatbath" else np.minimum(1, np.exp(-x))
    P = np.diag(1 - flip)
    P[np.arange(2**N), np.arange(2**N) ^ (1 << i)] = flip
    return P


def synchronous(fields):
    """Each spin of the new state (column) drawn in the field of the old (row)."""
    p = 1 / (1 + np.exp(-2 * BETA * STATES[None] * fields[:, None]))
    return np.prod(p, axis=-1)


def hidden():
    """Both hidden units of the dual kernel integrated by Gauss-Hermite."""
    c = coupling("hebbian")
    x = np.asarray(c.factors)
    z, w = np.polynomial.hermite_e.hermegauss(60)
    w = w / w.sum()
    P = np.zeros((2**N, 2**N))
    spread = (1 / (BETA * c.weight)) ** 0.5
    for z1, w1 in zip(z, w, strict=True):
        for z2, w2 in zip(z, w, strict=True):
            if w1 * w2 > 1e-18:
                y = STATES @ x.T + spread * np.array([z1, z2])
                P += w1 * w2 * synchronous(c.weight * y @ x + FIELD)
    return P


def flow(p, P):
    return p[:, None] * P


@pytest.mark.parametrize("rule", ["heatbath", "metropolis"])
@pytest.mark.parametrize("kind", ["hebbian", "matrix"])
def test_boltzmann_law_is_stationary(kind, rule):
    p = boltzmann(kind)
    each = [single(kind, rule, i) for i in range(N)]
    # rounding of sums of 128 terms of size 1e-2
    np.testing.assert_allclose(p @ np.linalg.multi_dot(each), p, atol=1e-15)
    F = flow(p, np.mean(each, axis=0))
    np.testing.assert_allclose(F, F.T, atol=1e-16)
    S = flow(p, np.linalg.multi_dot(each))
    assert np.abs(S - S.T).max() > 1e-4  # the sequential sweep has no detailed balance


def chi_squared(P, counts):
    """Standardised chi squared of transition counts, row by row multinomial."""
    expected = COPIES * P
    enough = expected > 5
    rest = np.where(enough, 0, expected).sum(1), np.where(enough, 0, counts).sum(1)
    terms = np.where(enough, (counts - expected) ** 2 / np.where(enough, expected, 1), 0).sum()
    pooled = rest[0] > 5
    terms += ((rest[1] - rest[0])[pooled] ** 2 / rest[0][pooled]).sum()
    dof = enough.sum() + pooled.sum() - len(P)
    return (terms - dof) / (2 * dof) ** 0.5


@functools.partial(jax.jit, static_argnames=("name", "rule"))
def one_sweep(coupling, spins, key, T, name, rule):
    kernel = coupling.kernel(name, rule, 3)
    return kernel.sweep(kernel.start(spins), key, T)[0].spins


def counts_of(kind, name, rule, key):
    c = coupling(kind).cast(jnp.float32)
    spins = np.repeat(STATES.T, COPIES, axis=1).astype(np.float32)
    T = jnp.full((spins.shape[1],), 1 / BETA, jnp.float32)
    after = np.asarray(one_sweep(c, spins, key, T, name, rule))
    assert np.all(np.abs(after) == 1)
    index = ((after < 0) * (1 << np.arange(N))[:, None]).sum(0)
    counts = np.zeros((2**N, 2**N))
    np.add.at(counts, (np.repeat(np.arange(2**N), COPIES), index), 1)
    return counts


def check(P, counts):
    # z of a chi squared with about 5000 degrees of freedom; the key is fixed
    assert abs(chi_squared(P, counts)) < 4
    warmer = 0.9 * P + 0.1 / len(P)  # a tenth of the mass elsewhere is seen
    assert chi_squared(warmer, counts) > 20


@pytest.mark.parametrize(("kind", "rule"), [("hebbian", "heatbath"), ("matrix", "metropolis")])
def test_blocked_kernel(kind, rule):
    P = np.linalg.multi_dot([single(kind, rule, i) for i in range(N)])
    check(P, counts_of(kind, "blocked", rule, jax.random.key(0)))


@pytest.mark.parametrize(("kind", "rule"), [("hebbian", "metropolis"), ("matrix", "heatbath")])
def test_site_kernel(kind, rule):
    key = jax.random.key(1)
    sites = np.asarray(drawn_sites(jax.random.split(key)[0], N))
    P = np.linalg.multi_dot([single(kind, rule, i) for i in sites])
    check(P, counts_of(kind, "site", rule, key))


def test_dual_kernel():
    P, p = hidden(), boltzmann("hebbian")
    # 60 nodes in each direction: quadrature converged to rounding
    np.testing.assert_allclose(p @ P, p, atol=1e-14)
    F = flow(p, P)
    np.testing.assert_allclose(F, F.T, atol=1e-15)
    check(P, counts_of("hebbian", "dual", "heatbath", jax.random.key(2)))


@pytest.mark.parametrize("kind", ["hebbian", "matrix"])
def test_little_kernel(kind):
    fields = local_fields(kind)
    P = synchronous(fields)
    p = np.exp(BETA * STATES @ FIELD) * np.prod(2 * np.cosh(BETA * fields), axis=1)
    p /= p.sum()
    np.testing.assert_allclose(p @ P, p, atol=1e-15)  # rounding
    F = flow(p, P)
    np.testing.assert_allclose(F, F.T, atol=1e-15)
    assert np.abs(p - boltzmann(kind)).sum() / 2 > 0.05  # another law than Boltzmann's
    check(P, counts_of(kind, "little", "heatbath", jax.random.key(3)))


def test_kernels_that_a_coupling_does_not_have():
    with pytest.raises(DomainError, match="kernel must be one of"):
        coupling("matrix").kernel("dual", "heatbath", 8)
    with pytest.raises(DomainError, match="rule must be one of"):
        coupling("matrix").kernel("blocked", "gibbs", 8)
