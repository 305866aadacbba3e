r"""Complexity of kernel machines: norms, Rademacher averages, effective dimension, alignment.

The interpolant of least norm has :math:`B^2 = y^\top K^{-1} y`; with
:math:`2 B \sqrt{\mathrm{tr} K} / n` small it generalises. For the tangent kernel of a network whose
first layer is trained this is the complexity :math:`\sqrt{2 y^\top H^{-1} y / n}` that tells true
from random labels. It is a leading term; :func:`kernel_norm_risk` is the complete inequality.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from scipy.spatial.distance import cdist

from bounds.rademacher import complexity_bound, lipschitz_loss, rademacher_risk
from bounds.result import Bound, Estimate
from deeplimits.errors import DomainError, NotPositiveDefiniteError, ShapeError
from deeplimits.typing import ArrayLike, Key
from deeplimits.validate import (
    as_inputs,
    as_key,
    as_real,
    as_square,
    choice,
    finite,
    integer,
    is_traced,
    number,
)

#: Grams whose smallest eigenvalue over the mean of their diagonal is below this are refused.
SMALLEST = 1e-10
#: Points up to which all signs are enumerated.
ENUMERATED = 20
#: Rows must have length 1 to this accuracy.
UNIT = 1e-6


def first_layer_gram(X: ArrayLike, *, normalize: bool = False) -> np.ndarray:
    r"""Tangent kernel of a ReLU network whose first layer is trained, on unit vectors.

    .. math:: H_{ij} = \frac{x_i \cdot x_j\, (\pi - \arccos x_i \cdot x_j)}{2\pi}

    Args:
        X: ``(n, d)``, rows of length 1.
        normalize: divide each row by its length instead of refusing it.

    Returns:
        ``(n, n)`` float64 with the diagonal exactly 1/2.

    Raises:
        ShapeError, DomainError: bad inputs; rows that are not of length 1, or zero rows.

    Source: S. Arora, S. Du, W. Hu, Z. Li, R. Wang (2019), eq. (2) of arXiv:1901.08584.

    Check: tests/bounds/test_kernel_complexity.py::test_first_layer_gram
    """
    X = np.asarray(as_inputs(X, "X"), float).reshape(len(X), -1)
    length = np.linalg.norm(X, axis=1)
    if normalize:
        if not (length > 0).all():
            raise DomainError("X has a row of length 0, which has no direction to normalise.")
        X = X / length[:, None]
    elif not (np.abs(length - 1) < UNIT).all():
        raise DomainError(
            f"X must have rows of length 1, got lengths from {length.min():.4g} to "
            f"{length.max():.4g}. Use normalize=True to divide by them."
        )
    # the arccosine of a product has half the digits next to 1, where the inverse needs them all
    angle = 2 * np.arctan2(cdist(X, X), cdist(X, -X))
    H = np.asarray(np.cos(angle) * (np.pi - angle) / (2 * np.pi))
    np.fill_diagonal(H, 0.5)
    return H


def ntk_complexity(K: ArrayLike, y: ArrayLike) -> Bound:
    r"""Leading term of the risk of the least-norm interpolant, the NTK complexity of labels.

    .. math:: \frac{2}{n} \sqrt{y^\top K^{-1} y\; \mathrm{tr} K}, \qquad
              \text{for } K = H \text{ (diagonal 1/2):} \quad \sqrt{\frac{2\, y^\top H^{-1} y}{n}}

    The scale of the kernel cancels. The published theorem adds
    :math:`O(\sqrt{\ln(n / \lambda_{min} \delta) / n})`, so this is no bound by itself.

    Args:
        K: ``(n, n)`` Gram, such as :func:`first_layer_gram` or a network's NTK.
        y: ``(n,)`` targets.

    Returns:
        :class:`~bounds.result.Bound` of rigor ``"leading-order"``. ``terms``: ``radius``
        (:math:`\sqrt{y^\top K^{-1} y}`), ``trace``, ``lambda_min``.

    Raises:
        ShapeError, DomainError: shapes or NaN.
        NotPositiveDefiniteError: smallest eigenvalue below 1e-10 of the mean diagonal, as
            for duplicated points.

    Source: theorem 5.1 of arXiv:1901.08584; the form for any kernel is derived here.

    Check: tests/bounds/test_kernel_complexity.py::test_ntk_complexity_against_sphere_harmonics
    """
    K, y, lowest = _check(K, y)
    _invertible(K, lowest)
    radius, trace, n = _least_norm(K, y, 0.0)[0], float(np.trace(K)), len(K)
    return Bound(
        value=2 * radius * math.sqrt(trace) / n,
        terms={"radius": radius, "trace": trace, "lambda_min": lowest},
        rigor="leading-order",
        n=n,
        trivial=1.0,
        assumptions=(
            "wide network trained to zero loss near its initialisation",
            "terms of order sqrt(ln(n / (lambda_min delta)) / n) left out",
        ),
        reference="arXiv:1901.08584",
    )


def kernel_ball_complexity(K: ArrayLike, radius: float = 1.0) -> Bound:
    r"""Bound on the empirical Rademacher complexity of a ball, :math:`B \sqrt{\mathrm{tr} K} / n`.

    Args:
        K: ``(n, n)`` positive semi-definite Gram.
        radius: B >= 0, in the norm of the reproducing-kernel space.

    Raises:
        ShapeError, DomainError: shapes, NaN, a negative radius.

    Source: P. Bartlett and S. Mendelson (2002), lemma 22.

    Check: tests/bounds/test_kernel_complexity.py::test_rademacher
    """
    K, _ = _psd(K)
    number(radius, "radius", at_least=0)
    unit = math.sqrt(float(np.trace(K))) / len(K)
    return complexity_bound(radius, unit, len(K), reference="Bartlett and Mendelson (2002)")


def kernel_norm_risk(
    K: ArrayLike,
    y: ArrayLike,
    delta: float = 0.05,
    *,
    ridge: float = 0.0,
    loss: str = "ramp",
    smallest: float = 1.0,
) -> Bound:
    r"""Certified risk of kernel (ridge) regression from its norm; nothing is left out.

    .. math:: f = K(\cdot, X)\, \alpha, \quad \alpha = (K + \rho)^{-1} y, \qquad
              B = \sqrt{\alpha^\top K \alpha}

    and :func:`rademacher_risk` at that radius. With the ramp loss it bounds the classification
    error of the sign of f.

    Args:
        K: ``(n, n)`` Gram of a kernel chosen before the data were seen.
        y: ``(n,)`` labels +1 and -1 (``"ramp"``) or real targets (``"absolute"``).
        delta: probability of failure, in (0, 1).
        ridge: :math:`\rho \ge 0`; 0 interpolates.
        loss: ``"ramp"`` or ``"absolute"``; see :func:`lipschitz_loss`.
        smallest: radius of the smallest ball of the union, > 0.

    Raises:
        ShapeError, DomainError: as :func:`rademacher_risk`; a negative ridge.
        NotPositiveDefiniteError: an interpolant of a Gram that is singular (see
            :func:`ntk_complexity`).

    Source: as :func:`rademacher_risk`.

    Check: tests/bounds/test_kernel_complexity.py::test_risk_bound_holds
    """
    K, y, lowest = _check(K, y)
    number(ridge, "ridge", at_least=0)
    if ridge == 0:
        _invertible(K, lowest)
    radius, outputs = _least_norm(K, y, float(ridge))
    ball = kernel_ball_complexity(K, radius)
    return rademacher_risk(ball, lipschitz_loss(outputs, y, loss), delta, smallest=smallest)


def kernel_rademacher(
    K: ArrayLike,
    radius: float = 1.0,
    *,
    method: str = "auto",
    n_samples: int = 10_000,
    key: Key = None,
) -> Estimate:
    r"""Empirical Rademacher complexity of a ball of the reproducing-kernel space.

    .. math:: \mathfrak R = \frac{B}{n} E_s \sqrt{s^\top K s}, \quad s \in \{\pm 1\}^n, \qquad
              \frac{B}{n}\sqrt{\tfrac12 \mathrm{tr} K} \le \mathfrak R
              \le \frac{B}{n}\sqrt{\mathrm{tr} K}

    Args:
        K: ``(n, n)`` positive semi-definite Gram.
        radius: B >= 0.
        method: ``"exact"`` (all signs, n <= 20), ``"monte-carlo"``, or ``"auto"``.
        n_samples, key: for Monte Carlo; >= 2 samples.

    Returns:
        :class:`~bounds.result.Estimate` with ``stderr``, and ``bracket`` of the two inequalities.

    Raises:
        ShapeError, DomainError: shapes, NaN, a negative radius, enumeration of over 20 points, no
            key.

    Source: P. Bartlett and S. Mendelson (2002); lower inequality: R. Latala and
        K. Oleszkiewicz (1994). Check: tests/bounds/test_kernel_complexity.py::test_rademacher
    """
    choice(method, "method", ("auto", "exact", "monte-carlo"))
    K, _ = _psd(K)
    n = len(K)
    number(radius, "radius", at_least=0)
    if method == "auto":
        method = "exact" if n <= ENUMERATED else "monte-carlo"
    if method == "exact":
        if n > ENUMERATED:
            raise DomainError(
                f"method='exact' enumerates 2^n signs and allows n <= {ENUMERATED}, got {n}. "
                "Use 'monte-carlo'."
            )
        norms = _all_norms(K)
        stderr = 0.0
    else:
        samples = integer(n_samples, "n_samples", at_least=2)
        seed = np.random.default_rng(np.asarray(_key_data(key)))
        norms = _norms(K, seed.choice([-1.0, 1.0], size=(samples, n)))
        stderr = float(radius) / n * float(norms.std(ddof=1)) / math.sqrt(samples)
    top = float(radius) / n * math.sqrt(float(np.trace(K)))
    return Estimate(
        value=float(radius) / n * float(norms.mean()),
        stderr=stderr,
        bracket=(top / math.sqrt(2), top),
        target="Rademacher complexity",
        method=method,
        n=n,
        holds="always" if method == "exact" else "expectation",
        units="1",
        reference="Bartlett and Mendelson (2002)",
    )


def effective_dimension(K: ArrayLike, lam: ArrayLike) -> Any:
    r"""Directions that ridge regression uses, :math:`\mathrm{tr}\, K (K + n \lambda)^{-1}`.

    Differentiable by JAX in ``K`` and ``lam``.

    Args:
        K: ``(n, n)`` positive semi-definite Gram.
        lam: ridge per point, > 0; an array gives an array.

    Returns:
        float64 between 0 and n.

    Raises:
        ShapeError, DomainError: shapes, NaN, ``lam <= 0``, a Gram that is not positive
            semi-definite.

    Source: T. Zhang (2005). Check: tests/bounds/test_kernel_complexity.py::test_effective_dimension
    """
    traced = is_traced(K) or is_traced(lam)
    K, lam = (as_square(K, "K") if traced else _psd(K)[0]), as_real(lam, "lam")
    if not is_traced(lam) and not (np.asarray(lam) > 0).all():
        raise DomainError(f"lam must be > 0, got {np.min(np.asarray(lam)):g}.")
    xp: Any = jnp if traced else np
    values = xp.maximum(xp.linalg.eigvalsh(xp.asarray(K, float)), 0)
    ridge = len(K) * xp.asarray(lam, float)[..., None]
    used = (values / (values + ridge)).sum(-1)
    return used if traced or used.ndim else float(used)


def kernel_task_alignment(K: ArrayLike, y: ArrayLike, *, centred: bool = True) -> Any:
    r"""Cosine of the angle between a Gram and that of the targets, in [0, 1].

    .. math:: \frac{y^\top \tilde K y}{\|\tilde K\|_F \|y\|^2}, \qquad
              \tilde K = H_c K H_c \text{ if centred}, \quad H_c = 1 - \mathbf 1 \mathbf 1^\top / n

    Differentiable by JAX in ``K``, hence in the parameters of the kernel.

    Args:
        K: ``(n, n)`` Gram.
        y: ``(n,)`` or ``(n, k)`` targets; several outputs enter through :math:`y y^\top`.
        centred: remove the mean in feature space and of the targets (C. Cortes et al.), or not
            (N. Cristianini et al.).

    Raises:
        ShapeError, DomainError: shapes, NaN; a Gram or targets that vanish (when centred).

    Source: N. Cristianini et al. (2001); C. Cortes, M. Mohri, A. Rostamizadeh (2012),
        arXiv:1203.0550. Check: tests/bounds/test_kernel_complexity.py::test_alignment
    """
    traced = is_traced(K)
    xp: Any = jnp if traced else np
    K = xp.asarray(as_square(K, "K"), float)
    y = np.asarray(as_real(y, "y"), float)
    finite(y, "y")
    if y.ndim not in (1, 2) or len(y) != len(K):
        raise ShapeError(f"y must have shape ({len(K)},) or ({len(K)}, k), got {y.shape}.")
    y = y.reshape(len(K), -1)
    if centred:
        y = y - y.mean(0)
        K = K - K.mean(0)[None, :]
        K = K - K.mean(1)[:, None]
    if not np.any(np.abs(y) > 1e-12):
        raise DomainError("y is 0 (after centring: constant), which has no direction.")
    norm = xp.sqrt((K**2).sum())
    if not traced and not float(norm) > 0:
        raise DomainError("K is 0 (after centring), which has no direction.")
    value = (y * xp.matmul(K, y)).sum() / (norm * np.linalg.norm(y.T @ y))
    return value if traced else float(value)


def _check(K: Any, y: Any) -> tuple[np.ndarray, np.ndarray, float]:
    (K, lowest), y = _psd(K), np.asarray(as_real(y, "y"), float)
    if y.shape != (len(K),):
        raise ShapeError(f"y must have shape ({len(K)},) like K, got {y.shape}.")
    finite(y, "y")
    return K, y, lowest


def _psd(K: Any) -> tuple[np.ndarray, float]:
    """A positive semi-definite Gram and its smallest eigenvalue."""
    K = np.asarray(as_square(K, "K"), float)
    lowest = float(scipy.linalg.eigvalsh(K, subset_by_index=(0, 0))[0])
    if lowest < -1e-8 * float(np.abs(np.diag(K)).max()) or not np.diag(K).any():
        raise DomainError(
            "K must be positive semi-definite and not 0, but its smallest eigenvalue is "
            f"{lowest:.3g}."
        )
    return K, lowest


def _invertible(K: np.ndarray, lowest: float) -> None:
    """Refuse a Gram whose inverse would be rounding."""
    if lowest < SMALLEST * float(np.trace(K)) / len(K):
        raise NotPositiveDefiniteError(
            f"K has a smallest eigenvalue of {lowest:.3g} and cannot be inverted: remove duplicate "
            "or dependent points, or use kernel_norm_risk(ridge=...)."
        )


def _least_norm(K: np.ndarray, y: np.ndarray, ridge: float) -> tuple[float, np.ndarray]:
    """Norm and training outputs of kernel ridge regression."""
    alpha = scipy.linalg.solve(K + ridge * np.eye(len(K)), y, assume_a="pos")
    outputs = y if ridge == 0 else K @ alpha
    return math.sqrt(max(float(alpha @ outputs), 0.0)), outputs


def _all_norms(K: np.ndarray) -> np.ndarray:
    """Norms of all sign vectors, of which one of each pair (s, -s)."""
    n = len(K)
    codes = np.arange(2 ** (n - 1))
    blocks = np.array_split(codes, max(len(codes) // 2**14, 1))
    bits = (1 - 2.0 * ((block[:, None] >> np.arange(n)) & 1) for block in blocks)
    return np.concatenate([_norms(K, signs) for signs in bits])


def _norms(K: np.ndarray, signs: np.ndarray) -> np.ndarray:
    return np.sqrt(np.maximum(((signs @ K) * signs).sum(-1), 0))


def _key_data(key: Key) -> Any:
    return jax.random.key_data(as_key(key))
