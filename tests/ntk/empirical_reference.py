"""Networks, inputs and brute-force kernels that the tests of empirical kernels share."""

import jax
import jax.numpy as jnp

METHODS = ["jacobian", "vector_products", "structured"]

#: Rounding of float64 sums of up to a few thousand terms, relative to the largest entry.
TOL = 1e-12


def normal(seed, *shapes):
    keys = jax.random.split(jax.random.key(seed), len(shapes))
    return [jax.random.normal(k, s) for k, s in zip(keys, shapes, strict=True)]


def mlp(params, x):
    for i, (w, b) in enumerate(params):
        x = x @ w * (1.4 / w.shape[0] ** 0.5) + 0.1 * b[None]
        x = jax.nn.relu(x) if i < len(params) - 1 else x
    return x


def mlp_case():
    weights = normal(0, (5, 7), (7, 6), (6, 3))
    biases = normal(1, (7,), (6,), (3,))
    return mlp, list(zip(weights, biases, strict=True)), *normal(2, (5, 5), (3, 5))


def brute_force(f, params, x1, x2):
    """Full kernel from the Jacobian of the whole batch, all rows at once."""
    leaves, treedef = jax.tree.flatten(params)

    def kernel(leaves):
        blocks = jax.jacrev(lambda p: f(treedef.unflatten(p), jnp.concatenate([x1, x2])))(leaves)
        j = jnp.concatenate([b.reshape(*b.shape[:2], -1) for b in blocks], axis=-1)
        return jnp.einsum("nop,mqp->nmoq", j[: len(x1)], j[len(x1) :])

    return jax.jit(kernel)(leaves)


def assert_close(value, expected, tolerance=TOL):
    assert value.shape == expected.shape
    assert float(jnp.abs(value - expected).max()) < tolerance * float(jnp.abs(expected).max())
