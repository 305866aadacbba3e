r"""Complexity of networks by the norms of their weights.

Weights are matrices ``(fan_in, fan_out)`` that act as ``h @ W``; ReLU (or another 1-Lipschitz,
positively homogeneous activation) acts between them. The Frobenius and path norms bound Rademacher
complexities and certify risks through :func:`bounds.rademacher_risk`; the spectral measure of
Bartlett et al. leaves constants out and certifies nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from bounds.rademacher import complexity_bound
from bounds.result import Bound
from deeplimits.errors import DomainError, ShapeError
from deeplimits.typing import ArrayLike
from deeplimits.validate import as_inputs, as_real, finite, integer, number

#: What the norm bounds assume of the network.
HOMOGENEOUS = "activation 1-Lipschitz and positively homogeneous (ReLU), one output, no biases"


def frobenius_complexity(weights: Sequence[ArrayLike], X: ArrayLike) -> Bound:
    r"""Rademacher complexity of all networks whose product of Frobenius norms is no larger.

    .. math:: \mathfrak R_S \le \frac{\prod_l \|W_l\|_F}{n}
        \left(\sqrt{2 (L-1) \ln 2} + 1\right) \Big(\sum_i |x_i|^2\Big)^{1/2}

    for L matrices. The published form counts the output layer among the layers that cost a factor
    of 2 (L in place of L - 1) and is in ``terms["published"]``; the proof needs the factor for
    hidden layers only, and for L = 1 the result is that of a linear class.

    Args:
        weights: L matrices ``(fan_in, fan_out)``, the last with one output.
        X: ``(n, d)`` training inputs.

    Returns:
        :class:`~bounds.result.Bound` for :func:`bounds.rademacher_risk`, with ``terms``:
        ``radius`` (the product), ``unit``, ``depth``, ``published``.

    Raises:
        ShapeError, DomainError: matrices that do not chain, several outputs, NaN.

    Source: theorem 1 of N. Golowich, A. Rakhlin, O. Shamir (2018), arXiv:1712.06541.

    Check: tests/bounds/test_norms.py::test_frobenius_against_all_small_networks
    """
    matrices, X = _check(weights, X)
    norm = math.prod(float(np.linalg.norm(W)) for W in matrices)
    size, n, depth = float(np.linalg.norm(X)), len(X), len(matrices)
    unit = (math.sqrt(2 * (depth - 1) * math.log(2)) + 1) * size / n
    published = norm * (math.sqrt(2 * depth * math.log(2)) + 1) * size / n
    return complexity_bound(
        norm,
        unit,
        n,
        terms={"depth": depth, "published": published},
        assumptions=(HOMOGENEOUS,),
        reference="arXiv:1712.06541",
    )


def path_norm_complexity(weights: Sequence[ArrayLike], X: ArrayLike) -> Bound:
    r"""Rademacher complexity of all two-layer networks whose path norm is no larger.

    .. math:: Q = \sum_k |a_k|\, \|w_k\|_1, \qquad
        \mathfrak R_S \le \frac{2 Q \sqrt{2 \ln 2d}}{n} \max_j \Big(\sum_i x_{ij}^2\Big)^{1/2}
        \le 2 Q \max |x|_\infty \sqrt{\frac{2 \ln 2d}{n}}

    Any width: this is a ball of the Barron space. For biases append a column of ones to ``X``.

    Args:
        weights: ``[W (d, m), a (m, 1)]``.
        X: ``(n, d)`` training inputs.

    Returns:
        :class:`~bounds.result.Bound` for :func:`bounds.rademacher_risk`, with ``terms``:
        ``radius`` (Q), ``unit``, ``published`` (the last, coarser form).

    Raises:
        ShapeError, DomainError: not two matrices, or as :func:`frobenius_complexity`.

    Source: W. E, C. Ma, L. Wu (2019), arXiv:1906.08039; the form with columns is derived here.

    Check: tests/bounds/test_norms.py::test_path_norm_against_all_small_networks
    """
    (W, a), X = _two_layers(weights, X)
    n, d = X.shape
    norm = float(np.abs(W).sum(0) @ np.abs(a))
    factor = 2 * math.sqrt(2 * math.log(2 * d))
    columns = float(np.linalg.norm(X, axis=0).max())
    published = norm * factor * float(np.abs(X).max()) / math.sqrt(n)
    return complexity_bound(
        norm,
        factor * columns / n,
        n,
        terms={"published": published},
        assumptions=(HOMOGENEOUS, "two layers"),
        reference="arXiv:1906.08039",
    )


def spectral_complexity(
    weights: Sequence[ArrayLike],
    X: ArrayLike,
    margin: float,
    reference_weights: Sequence[ArrayLike] | None = None,
) -> Bound:
    r"""Margin-normalised spectral complexity: a measure to compare networks, no certificate.

    .. math:: \frac{\|X\|_F}{\gamma n} \prod_l \|W_l\|_\sigma \left(\sum_l
        \left(\frac{\|W_l - M_l\|_{2,1}}{\|W_l\|_\sigma}\right)^{2/3}\right)^{3/2}

    with :math:`\|\cdot\|_{2,1}` the sum over units of the lengths of their incoming weights.
    Constants and logarithms are left out.

    Args:
        weights: matrices ``(fan_in, fan_out)``; several outputs allowed.
        X: ``(n, d)`` training inputs.
        margin: :math:`\gamma > 0`.
        reference_weights: M, chosen before the data were seen, such as the initialisation; default
            zero.

    Returns:
        :class:`~bounds.result.Bound` of rigor ``"heuristic"``, with ``terms``: ``lipschitz``
        (the product) and ``distance`` (the sum, to the power 3/2).

    Raises:
        ShapeError, DomainError: shapes that do not chain or do not match the references, NaN,
            ``margin <= 0``, a zero matrix.

    Source: P. Bartlett, D. Foster, M. Telgarsky (2017), eq. (1.2) of arXiv:1706.08498.

    Check: tests/bounds/test_norms.py::test_spectral_complexity
    """
    matrices, X = _check(weights, X, outputs=None)
    number(margin, "margin", above=0)
    origin = [np.zeros_like(W) for W in matrices]
    if reference_weights is not None:
        origin = [np.asarray(as_real(M, "reference_weights"), float) for M in reference_weights]
    if [M.shape for M in origin] != [W.shape for W in matrices]:
        raise ShapeError(
            "reference_weights must have the shapes of weights, "
            f"{[W.shape for W in matrices]}, got {[M.shape for M in origin]}."
        )
    spectral = np.array([np.linalg.norm(W, 2) for W in matrices])
    if not (spectral > 0).all():
        raise DomainError("weights must not hold a zero matrix: the network is constant.")
    away = [np.linalg.norm(W - M, axis=0).sum() for W, M in zip(matrices, origin, strict=True)]
    distance = float(((np.array(away) / spectral) ** (2 / 3)).sum() ** 1.5)
    lipschitz = float(spectral.prod())
    return Bound(
        value=float(np.linalg.norm(X)) / (float(margin) * len(X)) * lipschitz * distance,
        terms={"lipschitz": lipschitz, "distance": distance, "margin": float(margin)},
        target="spectral complexity",
        rigor="heuristic",
        n=len(X),
        assumptions=("constants and logarithms left out",),
        reference="arXiv:1706.08498",
    )


def barron_sampling_error(weights: Sequence[ArrayLike], X: ArrayLike, m: int) -> Bound:
    r"""Error of a two-layer network when m of its units are drawn in place of all.

    Unit k is drawn with probability :math:`|a_k| |w_k| / Q`, :math:`Q = \sum_k |a_k| |w_k|`, and
    each drawn one weighs :math:`Q / m`:

    .. math:: E\, \frac1n \sum_i (f_m - f)^2(x_i) \le \frac{Q^2}{m n} \sum_i |x_i|^2

    Args:
        weights: ``[W (d, m_0), a (m_0, 1)]``.
        X: ``(n, d)`` points over which the squared error is averaged.
        m: number of units drawn, >= 1.

    Returns:
        :class:`~bounds.result.Bound` in expectation. ``terms``: ``exact``, the expectation itself,
        and ``norm`` (Q).

    Raises:
        ShapeError, DomainError: as :func:`path_norm_complexity`.

    Source: A. Barron (1993); W. E, C. Ma, L. Wu (2019), arXiv:1906.08039.

    Check: tests/bounds/test_norms.py::test_sampling_units
    """
    (W, a), X = _two_layers(weights, X)
    integer(m, "m", at_least=1)
    length = np.linalg.norm(W, axis=0)
    norm = float(length @ np.abs(a))
    active = np.maximum(X @ W, 0)
    share = np.divide(np.abs(a), length, out=np.zeros_like(a), where=length > 0)
    second = norm * active**2 @ share
    exact = float((second - (active @ a) ** 2).mean()) / m
    return Bound(
        value=norm**2 * float((X**2).sum(-1).mean()) / m,
        terms={"exact": exact, "norm": norm},
        target="squared error",
        holds="expectation",
        n=int(m),
        assumptions=(HOMOGENEOUS, "units drawn independently in proportion to |a| |w|"),
        reference="arXiv:1906.08039",
    )


def _check(weights: Any, X: Any, outputs: int | None = 1) -> tuple[list[np.ndarray], np.ndarray]:
    """Matrices that chain from the columns of ``X`` to ``outputs``."""
    X = np.asarray(as_inputs(X, "X"), float)
    matrices = [np.asarray(as_real(W, "weights"), float) for W in weights]
    if not matrices or any(W.ndim != 2 for W in matrices) or X.ndim != 2:
        raise ShapeError(
            "weights must be matrices (fan_in, fan_out) and X (n, d), got "
            f"{[W.shape for W in matrices]} and {X.shape}."
        )
    for W in matrices:
        finite(W, "weights")
    sizes = [X.shape[1], *(W.shape[1] for W in matrices)]
    if [W.shape[0] for W in matrices] != sizes[:-1] or outputs not in (None, sizes[-1]):
        raise ShapeError(
            f"weights must lead from the {X.shape[1]} columns of X to "
            f"{'the outputs' if outputs is None else 'one output'}, got shapes "
            f"{[W.shape for W in matrices]}."
        )
    return matrices, X


def _two_layers(weights: Any, X: Any) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """``(W (d, m), a (m,)), X``."""
    matrices, X = _check(weights, X)
    if len(matrices) != 2:
        raise ShapeError(f"weights must be two matrices [W, a], got {len(matrices)}.")
    return (matrices[0], matrices[1][:, 0]), X
