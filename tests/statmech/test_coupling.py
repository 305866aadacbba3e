"""Couplings against the matrices that they stand for."""

import jax.numpy as jnp
import numpy as np
import pytest

import statmech
from deeplimits.errors import DeepLimitsWarning, DomainError, ShapeError

N = 30


def energies(coupling, J, b, spins):
    """Energy per spin from the coupling's own kernel and from the matrix."""
    kernel = coupling.cast(jnp.float64).kernel("blocked", "heatbath", 8)
    found = kernel.energy(kernel.start(jnp.asarray(spins.T)))
    pairs = np.einsum("ai,ij,aj->a", spins, J, spins) / 2
    return found, -(pairs + spins @ b) / N


@pytest.mark.parametrize("kind", ["hebbian", "pseudo_inverse", "matrix"])
def test_energies_against_the_matrix(kind):
    rng = np.random.default_rng(0)
    x = statmech.random_patterns(4, N, key=0)
    b = rng.normal(size=N)
    spins = np.sign(rng.normal(size=(5, N)))
    off = 1 - np.eye(N)
    if kind == "hebbian":
        c, J = statmech.hebbian_coupling(x, c=0.8, field=b), 1.6 / N * (x.T @ (1.0 * x)) * off
    elif kind == "pseudo_inverse":
        c, J = statmech.pseudo_inverse_coupling(x, field=b), np.linalg.pinv(1.0 * x) @ x * off
    else:
        J = rng.normal(size=(N, N))
        J = (J + J.T) * off
        c = statmech.matrix_coupling(J, field=b)
    np.testing.assert_allclose(c.matrix(), J, atol=1e-13)  # rounding
    found, expected = energies(c, J, b, spins)
    np.testing.assert_allclose(found, expected, rtol=1e-12)  # rounding


def test_energy_of_a_stored_pattern():
    # H/N = -(1/2)(1 - 1/N) for one pattern in the convention c = 1/2
    x = statmech.random_patterns(1, N, key=1)
    found, _ = energies(statmech.hebbian_coupling(x), np.zeros((N, N)), np.zeros(N), 1.0 * x)
    np.testing.assert_allclose(found, -(1 - 1 / N) / 2, rtol=1e-14)


def test_pseudo_inverse_is_the_projector():
    x = statmech.biased_patterns(5, N, 0.6, key=2)  # correlated: the Hebbian rule would fail
    with pytest.warns(DeepLimitsWarning, match="self-couplings"):
        c = statmech.pseudo_inverse_coupling(x, diagonal=True)
    P = c.matrix()
    np.testing.assert_allclose(P @ P, P, atol=1e-13)
    np.testing.assert_allclose(P @ x.T, x.T, atol=1e-13)
    np.testing.assert_allclose(np.trace(P), 5, rtol=1e-13)
    np.testing.assert_allclose(c.patterns, x, atol=1e-13)
    kernel = c.cast(jnp.float64).kernel("dual", "heatbath", 8)
    m = kernel.overlaps(kernel.start(jnp.asarray(1.0 * x.T)))
    np.testing.assert_allclose(m, x @ (1.0 * x.T) / N, atol=1e-13)


def test_pseudo_inverse_of_several_samples():
    x = statmech.random_patterns(3, N, key=3, samples=2)
    c = statmech.pseudo_inverse_coupling(x)
    assert c.samples == 2
    for s in range(2):
        alone = statmech.pseudo_inverse_coupling(x[s])
        np.testing.assert_allclose(c.matrix()[s], alone.matrix(), atol=1e-13)
    np.testing.assert_allclose(c.patterns, x, atol=1e-13)


def test_dependent_patterns_are_refused():
    x = statmech.random_patterns(4, N, key=4)
    with pytest.raises(DomainError, match="rank 4"):
        statmech.pseudo_inverse_coupling(np.concatenate([x, x[:1]]))
    with pytest.raises(DomainError, match="rank 3"):
        statmech.pseudo_inverse_coupling(x[:, :3])


@pytest.mark.parametrize("law", ["gaussian", "binary"])
def test_sk_moments(law):
    J = statmech.sk_coupling(64, key=0, samples=40, J0=2.0, law=law).matrix()
    np.testing.assert_array_equal(J, np.swapaxes(J, -1, -2))
    assert not J[:, np.arange(64), np.arange(64)].any()
    upper = J[:, *np.triu_indices(64, 1)] * 64
    n = upper.size
    assert abs(upper.mean() - 2) < 4 * (64 / n) ** 0.5  # 4 standard errors of a mean
    # of a variance: kurtosis 3 or 1 of entries of variance 64
    assert abs(upper.var() - 64) < 4 * 64 * (2 / n) ** 0.5
    if law == "binary":
        np.testing.assert_allclose(np.abs(upper - 2), 8, rtol=1e-5)  # float32
    else:
        assert abs(np.mean((upper - 2) ** 4) / 64**2 - 3) < 4 * (96 / n) ** 0.5
    # prefixes agree: a sample does not depend on how many are drawn
    again = statmech.sk_coupling(64, key=0, samples=2, J0=2.0, law=law).matrix()
    np.testing.assert_array_equal(again, J[:2])


def test_overlaps_with_reference_patterns():
    x = statmech.random_patterns(2, N, key=5)
    noisy = statmech.noisy_examples(x, 5, 0.6, key=6)
    c = statmech.hebbian_coupling(noisy.average, reference=x)
    s = 1.0 * x[:1].T
    for each in (c, statmech.matrix_coupling(c.matrix(), reference=x)):
        kernel = each.cast(jnp.float64).kernel("blocked", "heatbath", 8)
        m = kernel.overlaps(kernel.start(jnp.asarray(s)))
        np.testing.assert_allclose(m, x @ s / N, rtol=1e-14)


def test_a_diagonal_is_reported():
    J = np.ones((4, 4))
    with pytest.warns(DeepLimitsWarning, match=r"set to zero, .* constant -0.5"):
        c = statmech.matrix_coupling(J)
    assert not np.diag(c.matrix()).any()
    with pytest.warns(DeepLimitsWarning, match="kept: it shifts"):
        c = statmech.matrix_coupling(J, diagonal=True)
    np.testing.assert_array_equal(c.matrix(), J)
    kernel = c.cast(jnp.float64).kernel("little", "heatbath", 4)
    assert float(kernel.energy(kernel.start(jnp.ones((4, 1))))[0]) == -2.0  # -(16/2)/4


BAD = [
    (lambda: statmech.matrix_coupling([[0, 1.0], [0.5, 0]]), DomainError, "J must be symmetric"),
    (lambda: statmech.matrix_coupling(np.ones((2, 3))), ShapeError, "J must have shape"),
    (lambda: statmech.matrix_coupling([[0, np.nan], [1, 0]]), DomainError, "J must be finite"),
    (lambda: statmech.matrix_coupling(np.zeros((3, 3)), reference=np.ones((1, 2))), ShapeError,
     "reference must have the spins"),
    (lambda: statmech.hebbian_coupling(np.ones(5)), ShapeError, "patterns must have shape"),
    (lambda: statmech.hebbian_coupling([[1.0, np.inf]]), DomainError, "patterns must be finite"),
    (lambda: statmech.hebbian_coupling([[1.0 + 2j, 1]]), DomainError, "patterns must be real"),
    (lambda: statmech.hebbian_coupling(np.ones((1, 5)), c=0), DomainError, "c must be > 0"),
    (lambda: statmech.hebbian_coupling(np.ones((1, 5)), field=np.ones(4)), ShapeError,
     "field must be a number or have shape"),
    (lambda: statmech.hebbian_coupling(np.ones((1, 5)), reference=np.ones((1, 4))), ShapeError,
     "reference must have the spins"),
    (lambda: statmech.sk_coupling(1, key=0), DomainError, "N must be >= 2"),
    (lambda: statmech.sk_coupling(9, key=0, law="cauchy"), DomainError, "law must be one of"),
    (lambda: statmech.sk_coupling(100_000, key=0), DomainError, "would take 80 GB"),
]  # fmt: skip


@pytest.mark.parametrize(("call", "error", "match"), BAD, ids=[b[2][:30] for b in BAD])
def test_bad_input(call, error, match):
    with pytest.raises(error, match=match):
        call()
