r"""What one finite network contributes to the tensors of order 1/n, averaged over its read-out.

The hidden layers of a network are drawn; the read-out :math:`z_i = b_i + \sum_j W_{ij} s_j`,
:math:`s = \sigma(z^{(L-1)})`, is integrated exactly, which stands for infinitely many output
neurons. With :math:`\nabla` the gradient over all hidden parameters, each in units of the root of
its learning rate, :math:`n` the last width and :math:`C = C_W`,

.. math::
   \hat G_{12} &= C_b + \tfrac Cn \sum_j s_{j1} s_{j2}, \qquad
   \hat H_{12} = \lambda_b + \tfrac{\lambda_W}{n} \sum_j s_{j1} s_{j2}
      + \tfrac Cn \sum_j \nabla s_{j1} \cdot \nabla s_{j2}, \\
   B_{1324} &= \tfrac{C^2}{n} \sum_{jk} (\nabla s_{j1} \cdot \nabla s_{k2})
      (\nabla s_{j3} \cdot \nabla s_{k4}), \qquad
   F_{1324} = \tfrac{C^2}{n} \sum_{jk} s_{j1} s_{k2}\, \nabla s_{j3} \cdot \nabla s_{k4},

and, with :math:`v_{c,1} = \nabla (c \cdot s_1)` and directional derivatives :math:`\partial_v`,

.. math::
   P_{0123} &= \tfrac{C^2}{n} \sum_{jk} s_{j3}\, \partial_{v_{k1}} \partial_{v_{k2}} s_{j0}, \\
   Q_{0123} &= \tfrac{C^2}{n} \sum_{jk} s_{k3}\, \partial_{v_{j1}} \partial_{v_{k2}} s_{j0}
      + \tfrac{\lambda_W C}{n} v_{s_1, 0} \cdot v_{s_3, 2}, \\
   R_{0123} &= \tfrac{C^2}{n} \sum_{jk} \partial_{v_{j1}} \partial_{v_{k2}} \partial_{v_{k3}} s_{j0}
      + \tfrac{\lambda_W C}{n} \sum_{jk} s_{j1}\, \partial_{v_{k2}} \partial_{v_{k3}} s_{j0}, \\
   S_{1234} &= \tfrac{C^2}{n} \sum_{jk} h_{jk13} \cdot h_{jk24} + \tfrac{\lambda_W C}{n} \sum_{jk}
      (\partial_{v_{k3}} s_{j1}) (\partial_{v_{k4}} s_{j2}), \qquad
      h_{jk13} = \nabla \partial_v s_{j1},\ v = v_{k3}, \\
   U_{1234} &= \tfrac{C^2}{n} \sum_{jk} h_{jk13} \cdot h_{kj24}, \qquad
   T_{1234} = n\, a_{13} \cdot a_{24}, \quad
   a_{13} = \tfrac Cn \sum_j h_{jj13} + \tfrac{\lambda_W}{n} v_{s_3, 1} .

Sums over neurons in P to U are taken with random signs,
:math:`\sum_j x_{jj} = E[\sum_{jk} \epsilon_j \epsilon_k x_{jk}]`. Why not neuron by neuron: that
costs n (or n^2) times as much for each network, while the signs add a relative error of
:math:`n^{-1/2}`, the size of the scatter between networks.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ntk.elementwise import slope

#: Tensors estimated at each order, beyond those of the order before.
ORDERS = {
    "V": ("G1", "V"),
    "NTK": ("Theta1", "A", "B", "D", "F"),
    "dNTK": ("P", "Q"),
    "ddNTK": ("R", "S", "T", "U"),
}


def scales(n_in: int, widths: tuple[int, ...], C_W: Any, C_b: Any) -> list[tuple[Any, Any]]:
    """Standard deviations ``(weights, biases)`` of each hidden layer."""
    fan_in = (n_in, *widths[:-1])
    return [(jnp.sqrt(C_W / n), jnp.sqrt(C_b)) for n in fan_in]


def draw(key: Any, n_in: int, widths: tuple[int, ...], C_W: Any, C_b: Any) -> list[Any]:
    """Weights ``(out, in)`` and biases ``(out,)`` of the hidden layers."""
    layers = []
    fan_in = (n_in, *widths[:-1])
    for k, n, m, (w, b) in zip(
        jax.random.split(key, len(widths)), widths, fan_in, scales(n_in, widths, C_W, C_b),
        strict=True,
    ):  # fmt: skip
        z = jax.random.normal(k, (n, m + 1), dtype=jnp.result_type(C_W))
        layers.append((w * z[:, :m], b * z[:, m]))
    return layers


def hidden_units(f: Any, layers: list[Any], x: Any) -> Any:
    """``sigma`` of the last hidden preactivations, ``(M, n)``."""
    for W, b in layers:
        x = f(jnp.matmul(x, W.T) + b[None])
    return x


def hidden_kernels(f: Any, layers: list[Any], x: Any, rates: Any) -> tuple[Any, Any]:
    r"""``s (M, n)`` and :math:`\nabla s_{j1} \cdot \nabla s_{k2}` as ``(M, M, n, n)``.

    By the chain rule layer by layer, :math:`\hat H' = \lambda_b + \lambda_W s \cdot s / n + W
    (\sigma' \hat H \sigma') W^\top`: n^3 operations, against n^4 for explicit Jacobians.
    """
    dots, H = None, None
    for (W, b), (rate_b, rate_W) in zip(layers, rates, strict=True):
        fan_in = x.shape[1]
        metric = rate_b + rate_W / fan_in * jnp.matmul(x, x.T)
        z = jnp.matmul(x, W.T) + b[None]
        local = metric[:, :, None, None] * jnp.eye(z.shape[1], dtype=z.dtype)[None, None]
        H = local if dots is None else local + jnp.einsum("ij,abjk,lk->abil", W, dots, W)
        x, d = f(z), slope(f, z)
        dots = d[:, None, :, None] * H * d[None, :, None, :]
    return x, dots


def metric_statistics(f: Any, layers: list[Any], x: Any, C_b: Any, C_W: Any) -> dict[str, Any]:
    """The metric of the next layer, ``(M, M)``."""
    s = hidden_units(f, layers, x)
    return {"G": C_b + C_W / s.shape[1] * jnp.matmul(s, s.T)}


def tangent_statistics(
    f: Any, layers: list[Any], x: Any, C_b: Any, C_W: Any, rates: Any
) -> dict[str, Any]:
    """Metric and tangent kernel of the next layer, and what averages to B and F."""
    s, dots = hidden_kernels(f, layers, x, rates[:-1])
    n, (rate_b, rate_W) = s.shape[1], rates[-1]
    overlap = jnp.matmul(s, s.T)
    H = rate_b + (rate_W * overlap + C_W * jnp.trace(dots, axis1=2, axis2=3)) / n
    flat = dots.reshape(len(s) ** 2, -1)
    B = jnp.matmul(flat, flat.T).reshape((len(s),) * 4)  # (1, 2, 3, 4)
    F = jnp.einsum("aj,bk,cdjk->acbd", s, s, dots)
    factor = C_W**2 / n
    return {
        "G": C_b + C_W / n * overlap, "H": H,
        "B": factor * jnp.transpose(B, (0, 2, 1, 3)), "F": factor * F,
    }  # fmt: skip


def _shifted(layers: list[Any], rates: Any, n_in: int) -> Any:
    """``delta -> layers`` moved by ``delta`` in units of the root of the learning rates."""
    fan_in = (n_in, *(W.shape[0] for W, _ in layers[:-1]))

    def at(delta: Any) -> list[Any]:
        return [
            (W + jnp.sqrt(rate_W / m) * dW, b + jnp.sqrt(rate_b) * db)
            for (W, b), (dW, db), (rate_b, rate_W), m in zip(
                layers, delta, rates, fan_in, strict=True
            )
        ]

    return at


def derivative_statistics(
    f: Any, layers: list[Any], x: Any, C_W: Any, rates: Any, signs: Any, third: bool
) -> dict[str, Any]:
    """What averages to P and Q and, with ``third``, to R, S, T and U.

    Args:
        f: the activation.
        layers: of the hidden network.
        x: inputs ``(M, n_0)``.
        C_W: variance of the read-out weights.
        rates: ``(lambda_b, lambda_W)`` of every layer, the read-out last.
        signs: two rows of n independent signs.
        third: include the tensors of the ddNTK.
    """
    at = _shifted(layers, rates[:-1], x.shape[1])
    origin = jax.tree.map(jnp.zeros_like, layers)

    def units(delta: Any) -> Any:
        return hidden_units(f, at(delta), x)

    s, pull = jax.vjp(units, origin)
    M, n = s.shape
    rows = jnp.eye(M, dtype=s.dtype)
    C, rate = C_W**2 / n, rates[-1][1] * C_W / n

    def gradient(c: Any, row: Any) -> Any:
        """``nabla(c . s_a)`` for the input of ``row``."""
        return pull(row[:, None] * c[None])[0]

    # one pool of directions and one program for all pairs of them, or compiling takes far longer
    coefficients = jnp.concatenate([signs, s])
    pool = jax.vmap(gradient)(
        jnp.repeat(coefficients, M, axis=0), jnp.tile(rows, (2 + M, 1))
    )  # first, second, v_{s_3, 2}
    every = np.arange(M * M)
    left = np.concatenate([M + every // M, np.repeat(np.arange(M), M * M)])
    right = np.concatenate([M + every % M, np.tile(2 * M + every, M)])
    moved = jax.vmap(lambda u, v: _push(_along(units, v), origin, u))(
        _take(pool, left), _take(pool, right)
    )
    along_second = moved[: M * M].reshape(M, M, M, n)  # (1, 2, 0, n)
    mixed = moved[M * M :].reshape(M, M, M, M, n)  # (1, 3, 2, 0, n)
    units_of = _flat(pool, 1)[2 * M :].reshape(M, M, -1)  # (3, 2, parameters)
    crossed = jnp.einsum("bap,dcp->abcd", units_of, units_of)  # v_{s_1, 0} . v_{s_3, 2}
    found = {
        "P": C * jnp.einsum("dj,bcaj->abcd", s, along_second),
        "Q": C * jnp.einsum("j,bdcaj->abcd", signs[0], mixed) + rate * crossed,
    }
    if not third:
        return found

    def third_along(u: Any, v: Any, w: Any) -> Any:
        turned = _push(_along(_along(units, w), v), origin, u)
        return jnp.einsum("j,aj->a", signs[0], turned)

    index = np.indices((M, M, M)).reshape(3, -1) + np.array([[0], [M], [M]])
    triples = jax.vmap(third_along)(*(_take(pool, i) for i in index)).reshape((M,) * 4)

    def curved(c: Any, row: Any, v: Any) -> Any:
        """``nabla partial_v (c . s_1)`` for the input 1 of ``row``."""
        _, back = jax.vjp(_along(units, v), origin)
        return back(row[:, None] * c[None])[0]

    which, a, b, d = np.indices((2, 2, M, M)).reshape(4, -1)  # signs of c and of v, inputs 3, 1
    table = _flat(jax.vmap(curved)(signs[which], rows[d], _take(pool, a * M + b)), 1)
    (ee, eh), (he, hh) = table.reshape(2, 2, M, M, -1)
    shift = rates[-1][1] / n * units_of
    a, b = C_W / n * ee + shift, C_W / n * hh + shift
    slopes = jax.vmap(lambda v: _push(units, origin, v))(_take(pool, np.arange(M, 2 * M)))
    return found | {
        "R": C * jnp.einsum("bcda->abcd", triples)
        + rate * jnp.einsum("bj,cdaj->abcd", s, along_second),
        "S": C * jnp.einsum("cap,dbp->abcd", eh, eh)
        + rate * jnp.einsum("caj,dbj->abcd", slopes, slopes),
        "T": n * jnp.einsum("cap,dbp->abcd", a, b),
        "U": C * jnp.einsum("cap,dbp->abcd", eh, he),
    }


def _push(function: Any, point: Any, direction: Any) -> Any:
    """Directional derivative."""
    return jax.jvp(function, (point,), (direction,))[1]


def _along(function: Any, direction: Any) -> Any:
    """The function ``point -> derivative along direction``."""
    return lambda point: _push(function, point, direction)


def _take(tree: Any, index: np.ndarray) -> Any:
    """The entries ``index`` along the leading axis."""
    return jax.tree.map(lambda a: a[index], tree)


def _flat(tree: Any, lead: int) -> Any:
    """Leaves side by side, ``(*lead axes, parameters)``."""
    leaves = jax.tree.leaves(tree)
    return jnp.concatenate([a.reshape(*a.shape[:lead], -1) for a in leaves], axis=lead)
