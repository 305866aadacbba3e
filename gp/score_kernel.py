r"""Noisy training pairs for score estimation, and the kernel of the network that fits them.

The network is :math:`f^i(z) = m^{-1/2} \sum_r a_r^i \phi(w_r \cdot z)` with fixed signs
:math:`a_r^i = \pm 1` and trained w, on the inputs :math:`z = (x, t - T_0, 1)`. As m grows, its
outputs are fitted independently with one scalar kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from deeplimits.errors import DomainError, ShapeError, UnsupportedLayerError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_inputs, as_key, check, finite, integer, number, same_features
from gp.score_truth import DataLaw, forward_process, noised_points
from ntk.activations import dual
from ntk.duals import Dual
from ntk.state import Rows, input_kernel


@dataclass(frozen=True)
class ScorePairs:
    """Training pairs: noised points and the clean points they came from. See :func:`score_pairs`.

    Attributes:
        t: times ``(n,)``, uniform on ``[T0, T]``.
        x: noised points ``(n, d)``.
        x0: clean points ``(n, d)``, the labels.
        T0, T: ends of the range of times.
        law: the law of the clean points if it is known, else None.
    """

    t: np.ndarray
    x: np.ndarray
    x0: np.ndarray
    T0: float
    T: float
    law: DataLaw | None = None


@float64_scope
def score_pairs(
    data: Any, n: int | None = None, *, key: Any, T0: float = 0.1, T: float = 2.0
) -> ScorePairs:
    r"""Training pairs :math:`(t, X_t, X_0)` with :math:`t \sim U[T_0, T]`, one noise draw each.

    Args:
        data: clean points ``(N, d)``, or a law (:func:`atomic_data`, :func:`gaussian_data`).
        n: number of pairs, >= 2. For points: None (the default) uses every row once, a number
            draws rows with replacement. For a law: required.
        key: a ``jax.random.key`` or an integer seed.
        T0: first time, > 0: the score diverges as the noise vanishes. Default 0.1.
        T: last time, > T0. Default 2.

    Raises:
        ShapeError, DomainError: bad points, times or numbers.

    Source: arXiv:2401.15604, section 2.
    Check: test_score.py::test_pairs_follow_the_forward_process.
    """
    number(T0, "T0", above=0)
    number(T, "T", above=float(T0))
    for_points, for_times, for_noise = jax.random.split(as_key(key), 3)
    if isinstance(data, DataLaw):
        check(n is not None, "give n, the number of pairs: data is a law.", DomainError)
        assert n is not None
        clean = data.sample(for_points, integer(n, "n", at_least=2))
    else:
        clean = np.asarray(as_inputs(data, "data"), np.float64)
        check(clean.ndim == 2, f"data must have shape (N, d), got {clean.shape}.", ShapeError)
        if n is not None:
            shape = (integer(n, "n", at_least=2),)
            clean = clean[np.asarray(jax.random.randint(for_points, shape, 0, len(clean)))]
        check(len(clean) >= 2, "data must have at least two rows, or give n.", ShapeError)
    t = np.asarray(jax.random.uniform(for_times, (len(clean),), np.float64, T0, T))
    alpha, h = forward_process(t)
    noise = np.asarray(jax.random.normal(for_noise, clean.shape, np.float64))
    x = alpha[:, None] * clean + np.sqrt(h)[:, None] * noise
    return ScorePairs(t, x, clean, float(T0), float(T), data if isinstance(data, DataLaw) else None)


def network_inputs(
    t: Any, x: Any, *, T0: float = 0.1, bias: bool = True
) -> Float[np.ndarray, "m inputs"]:
    """What the network sees: ``(x, t - T0, 1)``, or ``(x, t - T0)`` without a bias.

    Args:
        t: times, one or ``(m,)``.
        x: points ``(m, d)``.
        T0: first time. Default 0.1.
        bias: whether to append a 1. Default True.

    Raises:
        ShapeError, DomainError: bad times or points.

    Source: arXiv:2401.15604, section 3.
    Check: test_score.py::test_kernel_is_that_of_a_wide_network.
    """
    times, points = noised_points(t, x)
    columns = [points, (times - T0)[:, None]]
    if bias:
        columns.append(np.ones((len(points), 1)))
    return np.concatenate(columns, axis=1)


@float64_scope
def hidden_layer_kernel(activation: Any = "relu") -> Callable[..., Any]:
    r"""The tangent kernel of a hidden layer under fixed outer signs.

    .. math::

        \kappa(z, z') = z \cdot z'\; E[\phi'(w \cdot z)\, \phi'(w \cdot z')], \quad w \sim N(0, I);
        \qquad \kappa_{relu} = z \cdot z'\, \frac{\pi - \angle(z, z')}{2\pi}

    Args:
        activation: a name, an :class:`ntk.duals.Dual` or a function, as for :func:`ntk.dual`.
            Default "relu".

    Returns:
        ``k(Z, Z2=None) -> (n, m)`` on inputs ``(n, inputs)``, to be called with float64 on.

    Raises:
        DomainError: unknown activation.
        UnsupportedLayerError: an activation that jumps: its tangent kernel diverges.

    Source: arXiv:2401.15604, section 3 (ReLU); Jacot et al., arXiv:1806.07572, for the others.
    Check: test_score.py::test_kernel_is_that_of_a_wide_network.
    """
    law: Dual = dual(activation)
    check(
        law.differentiable,
        f"{activation!r} jumps, so that its tangent kernel diverges. Use a continuous activation.",
        UnsupportedLayerError,
    )

    def kernel(z: Any, z2: Any = None) -> Any:
        z = jnp.asarray(as_inputs(z, "Z"))
        if z2 is not None:
            z2 = jnp.asarray(as_inputs(z2, "Z2"))
            same_features(z, z2, ("Z", "Z2"))
        return _hidden_layer(law, z, z2)

    return kernel


@jax.jit
def _hidden_layer(law: Any, z: Any, z2: Any) -> Any:
    """The kernel; compiled once per kind of activation and shape."""
    k = input_kernel(Rows.of(z), None if z2 is None else Rows.of(z2), with_ntk=False)
    width = float(z.shape[1])
    return width * k.nngp * law.kernel(width * k.q1, width * k.q2, k.eps)[1]


def weights_of(weights: Any, t: np.ndarray) -> np.ndarray:
    """Factors on the residuals: alpha/h for "score", 1 for "none", or the given ``(n,)`` > 0."""
    if isinstance(weights, str):
        alpha, h = forward_process(t)
        allowed = {"score": alpha / h, "none": np.ones_like(t)}
        check(
            weights in allowed,
            f"weights must be 'score', 'none' or an array of shape ({len(t)},), got {weights!r}.",
            DomainError,
        )
        return allowed[weights]
    array = np.asarray(weights, np.float64)
    check(
        array.shape == t.shape,
        f"weights must be 'score', 'none' or of shape {t.shape}, got shape {array.shape}.",
        ShapeError,
    )
    finite(array, "weights")
    check(
        bool(np.all(array > 0)),
        f"weights must be > 0, got a minimum of {array.min()}.",
        DomainError,
    )
    return array


register_dataclass(ScorePairs, ["t", "x", "x0", "law"], ["T0", "T"])
