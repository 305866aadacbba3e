r"""One layer of the effective theory at order 1/width: the recursions of all tensors.

Notation: :math:`\langle\cdot\rangle` under :math:`N(0, G)` of the layer, :math:`C = C_W`,
:math:`r = n_l/n_{l-1}`, digits are sample indices,

.. math:: j_{12}[ab] = \tfrac12\langle\partial_a\partial_b(\sigma_1\sigma_2)\rangle, \quad
   \dot j_{12}[ab] = \tfrac12\langle\partial_a\partial_b(\sigma'_1\sigma'_2)\rangle, \quad
   J = C j, \quad T = \lambda_W j + C \Theta \dot j, \quad
   \Omega = \lambda_W \sigma\sigma + C \Theta \sigma'\sigma' .

These are the derivatives of the next G and Theta with respect to G (Price's theorem). The book
raises indices with the inverse of G instead; that form is equal but breaks down where inputs
coincide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp

from deeplimits.pytrees import register_dataclass
from ntk.gaussian_moments import Moments

ORDERS = ("V", "NTK", "dNTK", "ddNTK")
#: Tensors by the order at which they first appear, two-index ones first.
NAMES = {
    "V": ("G", "G1", "V"),
    "NTK": ("Theta", "Theta1", "A", "B", "D", "F"),
    "dNTK": ("P", "Q"),
    "ddNTK": ("R", "S", "T", "U"),
}
MATRICES = ("G", "G1", "Theta", "Theta1")


@register_dataclass
@dataclass(frozen=True)
class Tensors:
    r"""Statistics of the preactivations of one layer (or of several, along leading axes).

    Two-index fields have shape ``(..., m, m)``, the others ``(..., m, m, m, m)``; axes are sample
    indices in the order of the subscripts, except that B and F are stored as
    ``B[1, 3, 2, 4]`` = :math:`B_{1324}` and ``F[1, 3, 2, 4]`` = :math:`F_{1324}` (see
    :class:`ntk.finite_width.FiniteWidth`). Fields beyond the order that was asked for are None.
    """

    G: Any
    G1: Any
    V: Any
    Theta: Any = None
    Theta1: Any = None
    A: Any = None
    B: Any = None
    D: Any = None
    F: Any = None
    P: Any = None
    Q: Any = None
    R: Any = None
    S: Any = None
    T: Any = None
    U: Any = None


def names(order: str) -> tuple[str, ...]:
    """Names of the tensors present at ``order``, which includes the lower ones."""
    return sum((NAMES[o] for o in ORDERS[: ORDERS.index(order) + 1]), ())


def first_layer(G: Any, Theta: Any, order: str) -> Tensors:
    """The first layer: G and Theta are deterministic, all corrections are 0.

    Args:
        G, Theta: ``(..., m, m)``.
        order: one of "V", "NTK", "dNTK", "ddNTK".
    """
    fields: dict[str, Any] = {}
    four = jnp.zeros((*G.shape, *G.shape[-2:]), G.dtype)
    for name in names(order):
        fields[name] = jnp.zeros_like(G) if name in MATRICES else four
    fields["G"] = G
    if "Theta" in fields:
        fields["Theta"] = Theta
    return Tensors(**fields)


@register_dataclass
@dataclass(frozen=True)
class Constants:
    """Scalars of one step: variances, learning rates, and the ratio of this width to the last."""

    C_b: Any
    C_W: Any
    lambda_b: Any
    lambda_W: Any
    ratio: Any


def layer_step(t: Tensors, moments: Moments, c: Constants) -> Tensors:
    """The tensors of the next layer, as coefficients of 1 over the width of this one.

    Args:
        t: tensors of this layer, coefficients of 1 over the width of the layer before it.
        moments: averages under ``t.G``.
        c: scalars; ``c.ratio`` = width of this layer / width of the last one.

    Returns:
        :class:`Tensors` with the same fields present.

    Source:
        [roberts2022], chapters 4, 8, 11 and appendix B; in derivative form derived here by Wick
        contraction over the weights of the next layer. Check: ``tests/ntk/test_finite_width.py``.
    """
    parts = _vertex(t, moments, c)
    if t.Theta is not None:
        parts |= _tangent(t, moments, c)
    if t.P is not None:
        parts |= _first_change(t, moments, c)
    if t.R is not None:
        parts |= _second_change_one(t, moments, c) | _second_change_two(t, moments, c)
    return Tensors(**parts)


def _d1(M: Any, k: int, l: int) -> Any:  # noqa: E741
    """``[x, y, a]``: average of the derivative of s^(k)_x s^(l)_y along z_a."""
    one = jnp.eye(M.shape[-1], dtype=M.dtype)
    return jnp.einsum("xa,xy->xya", one, M[k + 1, l]) + jnp.einsum("ya,xy->xya", one, M[k, l + 1])


def _half_d2(M: Any, k: int, l: int) -> Any:  # noqa: E741
    """``[x, y, a, b]``: half the average of the second derivative of s^(k)_x s^(l)_y."""
    one = jnp.eye(M.shape[-1], dtype=M.dtype)
    mixed = jnp.einsum("xa,yb,xy->xyab", one, one, M[k + 1, l + 1])
    return 0.5 * (
        jnp.einsum("xa,xb,xy->xyab", one, one, M[k + 2, l])
        + jnp.einsum("ya,yb,xy->xyab", one, one, M[k, l + 2])
        + mixed
        + jnp.swapaxes(mixed, -1, -2)
    )


def _eighth_d4(M: Any, k: int, l: int, V: Any) -> Any:  # noqa: E741
    """``[x, y]``: (1/8) sum over abcd of <d_a d_b d_c d_d s^(k)_x s^(l)_y> V_(ab)(cd)."""
    three = jnp.einsum("xxxy->xy", V)
    total = (
        M[k + 4, l] * jnp.einsum("xxxx->x", V)[:, None]
        + M[k, l + 4] * jnp.einsum("yyyy->y", V)[None, :]
        + 4 * M[k + 3, l + 1] * three
        + 4 * M[k + 1, l + 3] * three.T
        + M[k + 2, l + 2] * (2 * jnp.einsum("xxyy->xy", V) + 4 * jnp.einsum("xyxy->xy", V))
    )
    return total / 8


def _dot(j: Any, matrix: Any) -> Any:
    return jnp.einsum("xyab,ab->xy", j, matrix)


def _outer(a: Any, b: Any) -> Any:
    return jnp.einsum("ab,cd->abcd", a, b)


def _vertex(t: Tensors, moments: Moments, c: Constants) -> dict[str, Any]:
    M, C, r = moments.pair, c.C_W, c.ratio
    J = C * _half_d2(M, 0, 0)
    covariance = moments.four["00_00"] - _outer(M[0, 0], M[0, 0])
    return {
        "G": c.C_b + C * M[0, 0],
        "G1": r * (_dot(J, t.G1) + C * _eighth_d4(M, 0, 0, t.V)),
        "V": C**2 * covariance + r * jnp.einsum("xyab,abcd,zwcd->xyzw", J, t.V, J),
    }


def _tangent(t: Tensors, moments: Moments, c: Constants) -> dict[str, Any]:
    M, four = moments.pair, moments.four
    C, r, lam, Theta = c.C_W, c.ratio, c.lambda_W, t.Theta
    s, ds = M[0, 0], M[1, 1]
    j, dj = _half_d2(M, 0, 0), _half_d2(M, 1, 1)
    J, T, slope = C * j, lam * j + C * Theta[:, :, None, None] * dj, C * ds
    cov00 = four["00_00"] - _outer(s, s)
    cov01 = four["00_11"] - _outer(s, ds)
    cov11 = four["11_11"] - _outer(ds, ds)
    mixed = C * cov01 * Theta[None, None]  # of s_1 s_2 with the second part of Omega_34
    JD = jnp.einsum("xyab,abzw->xyzw", J, t.D) * slope[None, None]
    TD = jnp.einsum("xyab,abzw->xyzw", T, t.D) * slope[None, None]
    V_T = jnp.einsum("abcd,zwcd->abzw", t.V, T)
    swapped = (2, 3, 0, 1)
    A = lam**2 * cov00 + lam * (mixed + mixed.transpose(swapped))
    A = A + C**2 * _outer(Theta, Theta) * cov11
    A = A + r * jnp.einsum("xyab,abzw->xyzw", T, V_T)
    A = A + r * (TD + TD.transpose(swapped) + _outer(slope, slope) * t.A)
    B = C**2 * four["11_11"] * jnp.einsum("ac,bd->abcd", Theta, Theta)
    B = B + r * _outer(slope, slope) * t.B
    F = C**2 * jnp.einsum("acbd,bd->abcd", four["00_11"], Theta)
    d01 = jnp.swapaxes(_d1(M, 1, 0), 0, 1)  # [x, y, a] of s_x s'_y
    F = F + r * C**2 * jnp.einsum("abe,cdf,ebfd->abcd", d01, d01, t.F)
    shift = lam * (_dot(j, t.G1) + _eighth_d4(M, 0, 0, t.V))
    shift = shift + C * Theta * (_dot(dj, t.G1) + _eighth_d4(M, 1, 1, t.V))
    correlated = jnp.einsum("xyab,abxy->xy", dj, t.D) + 2 * jnp.einsum("xyab,axby->xy", dj, t.F)
    return {
        "Theta": c.lambda_b + lam * s + slope * Theta,
        "Theta1": r * (shift + slope * t.Theta1 + C * correlated),
        "A": A,
        "B": B,
        "D": C * (lam * cov00 + mixed) + r * (jnp.einsum("xyab,abzw->xyzw", J, V_T) + JD),
        "F": F,
    }


def _first_change(t: Tensors, moments: Moments, c: Constants) -> dict[str, Any]:
    M, four = moments.pair, moments.four
    C, r, lam, Theta = c.C_W, c.ratio, c.lambda_W, t.Theta
    ds, d10, d21 = M[1, 1], _d1(M, 1, 0), _d1(M, 2, 1)
    local = jnp.einsum("idjk,ij,ik->ijkd", four["20_11"], Theta, Theta)
    B = jnp.einsum("iijk->ijk", t.B)
    inner = jnp.einsum("id,ijk->ijkd", M[2, 0], B) + jnp.einsum("ida,ijka->ijkd", d10, t.P)
    P = local + r * jnp.einsum("jk,ijkd->ijkd", ds, inner)
    by_weights = jnp.einsum("jdik,ik->ijkd", four["00_11"], Theta)
    by_weights = by_weights + r * jnp.einsum("ija,kdb,aibk->ijkd", d10, d10, t.F)
    passed = jnp.einsum("ij,ija,kdb,aibk->ijkd", Theta, d21, d10, t.F)
    passed = passed + jnp.einsum("ij,kda,ijka->ijkd", ds, d10, t.Q)
    return {"P": C**2 * P, "Q": lam * C * by_weights + C**2 * (local + r * passed)}


def _second_change_one(t: Tensors, moments: Moments, c: Constants) -> dict[str, Any]:
    M, four = moments.pair, moments.four
    C, r, lam, Theta = c.C_W, c.ratio, c.lambda_W, t.Theta
    ds, d10, d21 = M[1, 1], _d1(M, 1, 0), _d1(M, 2, 1)
    B = jnp.einsum("iikl->ikl", t.B)
    one = jnp.einsum("ijkl,ik,il->ijkl", four["20_11"], Theta, Theta)
    inner = jnp.einsum("ij,ikl->ijkl", M[2, 0], B) + jnp.einsum("ija,ikla->ijkl", d10, t.P)
    one = one + r * jnp.einsum("kl,ijkl->ijkl", ds, inner)
    two = jnp.einsum("ijkl,ij,ik,il->ijkl", four["31_11"], Theta, Theta, Theta)
    inner = jnp.einsum("ij,ikl->ijkl", M[3, 1], B) + jnp.einsum("ija,ikla->ijkl", d21, t.P)
    inner = Theta[:, :, None, None] * inner + ds[:, :, None, None] * t.R
    two = two + r * jnp.einsum("kl,ijkl->ijkl", ds, inner)
    return {"R": lam * C * one + C**2 * two}


def _second_change_two(t: Tensors, moments: Moments, c: Constants) -> dict[str, Any]:
    """S, T and U; letters ijkl stand for samples 1234."""
    M, four = moments.pair, moments.four
    C, r, lam, Theta = c.C_W, c.ratio, c.lambda_W, t.Theta
    ds, g, k = M[1, 1], _d1(M, 1, 0), _d1(M, 2, 1)
    local = jnp.einsum("ijkl,ij,ik,jl->ijkl", four["22_11"], Theta, Theta, Theta)
    S = lam * C * jnp.einsum("ijkl,ik,jl->ijkl", four["11_11"], Theta, Theta)
    S = S + r * lam * C * _outer(ds, ds) * t.B + C**2 * local
    inner = jnp.einsum("ij,ij,ijkl->ijkl", Theta, M[2, 2], t.B)
    inner = inner + ds[:, :, None, None] * t.S
    S = S + r * C**2 * ds[None, None] * inner
    U = local + r * jnp.einsum("il,jk,ijkl->ijkl", ds, ds, t.U)
    T = lam**2 * jnp.einsum("klij,ij->ijkl", four["00_11"], Theta)
    one = jnp.einsum("jkil,ij,jl->ijkl", four["20_11"], Theta, Theta)
    T = T + lam * C * (one + jnp.einsum("iljk,ij,ik->ijkl", four["20_11"], Theta, Theta))
    T = T + C**2 * local
    # the bracket factorises: (lam g13 + C Theta13 k13 | C <s'1 s'3>) with the same of 2 and 4
    h = lam * g + C * Theta[:, :, None] * k
    Q_right = jnp.einsum("ika,jlia->ijkl", h, t.Q)  # h13 . Q_241.
    Q_left = jnp.einsum("jla,ikja->ijkl", h, t.Q)  # h24 . Q_132.
    passed = jnp.einsum("ika,jlb,aibj->ijkl", h, h, t.F)
    passed = passed + C * jnp.einsum("jl,ijkl->ijkl", ds, Q_right)
    passed = passed + C * jnp.einsum("ik,ijkl->ijkl", ds, Q_left)
    passed = passed + C**2 * jnp.einsum("ik,jl,ijkl->ijkl", ds, ds, t.T)
    return {"S": S, "T": T + r * passed, "U": C**2 * U}
