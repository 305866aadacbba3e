r"""Learning curves of kernel regression from the spectrum of the kernel.

Only the eigenvalues and the target's coefficients in the eigenfunctions enter. Everything follows
from one number, the effective ridge :math:`\kappa`, which falls as data come in: modes with
:math:`\lambda_i \gg \kappa` have been learned.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import ConvergenceError, DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.roots import bracketed_root
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import finite, integer, is_traced, number

_FIELDS = ["n", "test", "train", "kappa", "learnability", "overfitting", "ridge", "noise", "tail"]


@functools.partial(register_dataclass, data_fields=_FIELDS, meta_fields=["population"])
@dataclasses.dataclass(frozen=True, eq=False)
class LearningCurve:
    """Predicted errors of kernel regression; fields have the shape of ``n`` (scalar or 1-D).

    Attributes:
        n: numbers of training points.
        test: mean squared error at unseen points, against noisy targets (the noise included).
        train: mean squared error at the training points.
        kappa: effective ridge, in units of the eigenvalues.
        learnability: ``(*n.shape, modes)`` share of each mode's coefficient that is learned.
        overfitting: factor >= 1 by which noise (and unlearned modes) are amplified at test time.
        ridge, noise, tail: as given.
        population: size of the finite population, or None.
    """

    n: Array
    test: Array
    train: Array
    kappa: Array
    learnability: Array
    overfitting: Array
    ridge: Any
    noise: Any
    tail: Any
    population: int | None

    @property
    def generalization(self) -> Any:
        """Test error against the noiseless target, ``test - noise``."""
        return self.test - self.noise

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """Test error against the number of training points, logarithmic."""
        return plot_learning_curve(self, ax=ax, **kw)


def plot_learning_curve(curve: Any, measured: Any = None, *, ax: Any = None, **kw: Any) -> Any:
    """The predicted test error as a line, and measured errors as points.

    Args:
        curve: from :func:`learning_curve` or ``gp.site_curve``; any record with ``n`` and ``test``.
        measured: record with ``n``, ``test`` and ``test_stderr``, such as
            ``gp.regression_curve``'s; optional.
        ax: axes to draw on; default a new figure.
        **kw: passed to ``plot`` (``label``, ``color``).

    Returns:
        The axes.

    Raises:
        ShapeError: a curve with a single number of training points.

    Check: tests/ntk/test_learning_curves.py::test_plot.
    """
    from deeplimits import plotting

    n = np.asarray(curve.n)
    if n.ndim != 1:
        raise ShapeError("a learning curve to plot needs n as a list, got one number.")
    ax = plotting.axes(ax)
    order = np.argsort(n)
    (line,) = ax.loglog(n[order], np.asarray(curve.test)[order], **kw)
    if measured is not None:
        ax.errorbar(
            measured.n, measured.test, measured.test_stderr, fmt="o", color=line.get_color()
        )
    ax.set(xlabel="training points", ylabel="test error")
    return ax


@float64_scope
def learning_curve(
    eigenvalues: ArrayLike,
    coefficients: ArrayLike,
    n: ArrayLike,
    ridge: Any = 0.0,
    noise: Any = 0.0,
    *,
    degeneracies: ArrayLike | None = None,
    tail: Any = 0.0,
    population: int | None = None,
) -> LearningCurve:
    r"""Test and training error of kernel ridge regression, averaged over training sets.

    .. math:: n = \sum_i \frac{\lambda_i}{\lambda_i + \kappa} + \frac{\delta}{\kappa}, \qquad
       L_i = \frac{\lambda_i}{\lambda_i + \kappa}, \qquad
       E_0 = \frac{n}{n - \sum_i L_i^2}

    .. math:: E_{test} = E_0 \Big(\sum_i (1 - L_i)^2 v_i^2 + \sigma^2\Big), \qquad
       E_{train} = \Big(\frac{\delta}{n \kappa}\Big)^2 E_{test}

    With a finite ``population`` of N points, of which n are drawn without replacement for training
    and the others are the test set (sums :math:`S_1 = \sum L_i`, :math:`S_{11} = \sum L_i(1-L_i)`):

    .. math:: n - S_1 = \frac{\delta}{\kappa}\Big(1 - \frac{S_1}{N}\Big), \qquad
       E_{test} = \frac{n\,[\sum_i (1-L_i)^2 v_i^2 + \sigma^2 (1 - (S_1 + S_{11})/N)]}
                       {(n - S_1)(1 - S_1/N) + (1 - n/N) S_{11}}, \qquad
       E_{train} = \Big(1 - \frac{S_1}{n}\Big)^2 E_{test}

    which is the above for N to infinity. It is solved for :math:`\log\kappa` on a bracket that
    always holds the root; derivatives are implicit.

    Args:
        eigenvalues: ``(m,)`` of the integral operator (of K/N for data), >= 0, any order. A mode
            with eigenvalue 0 is never learned: give the target's power outside the span that way.
        coefficients: ``(m,)`` coefficients v_i of the target, not squared; for a group of equal
            eigenvalues the length of its coefficient vector.
        n: numbers of training points, > 0, scalar or ``(points,)``.
        ridge: delta >= 0, added to the diagonal of the Gram matrix. Default 0.
        noise: variance of the targets' noise, >= 0. Default 0.
        degeneracies: ``(m,)`` multiplicities >= 1 of the eigenvalues; default 1.
        tail: sum of the eigenvalues that were left out, >= 0; modes too small to be learned act as
            additional ridge. Default 0.
        population: N, or None (default) for independent draws from a distribution. ``eigenvalues``
            are then those of K/N of the whole population.

    Returns:
        :class:`LearningCurve`, NumPy float64; JAX arrays inside ``jit`` and ``grad``
        (differentiable in the eigenvalues, coefficients, ridge, noise and tail).

    Raises:
        DomainError: an argument out of range; ridge and tail both 0 with as many training points as
            modes or more (kappa is then 0: every mode is learned).
        ShapeError: arrays that do not match.
        ConvergenceError: numbers beyond the range of float64.

    Source: Bordelon, Canatar & Pehlevan, arXiv:2002.02561; Simon et al., arXiv:2110.03922, eqs.
        (3)-(7); the finite population is derived here from free compression.

    Check: tests/ntk/test_learning_curves.py::test_theory_against_simulation,
        ::test_gradients_against_differences; tests/gp/test_regression_curves.py.
    """
    lam, v, mult, n_ = _arrays(eigenvalues, coefficients, degeneracies, n)
    scalars = {"ridge": ridge, "noise": noise, "tail": tail}
    for name, value in scalars.items():
        number(value, name, at_least=0.0)
    ridge_, noise_, tail_ = (jnp.asarray(value, jnp.float64) for value in scalars.values())
    _check_population(population, n_, mult)
    _check_ridgeless(n_, lam, mult, ridge_, tail_)
    inverse = jnp.float64(0.0 if population is None else 1.0 / population)
    fields = _curve(lam, v, mult, jnp.ravel(n_), ridge_, noise_, tail_, inverse)
    shaped = [f.reshape((*n_.shape, *f.shape[1:])) for f in fields]
    out: Any = (n_, *shaped, ridge_, noise_, tail_)
    if not any(is_traced(leaf) for leaf in out):
        out = tuple(np.asarray(leaf) for leaf in out)
        if not np.isfinite(out[3]).all():
            raise ConvergenceError(
                "kappa was not found: the eigenvalues, ridge and tail span more than float64 holds "
                f"(largest eigenvalue {float(lam.max()):g}). Rescale them together."
            )
    return LearningCurve(**dict(zip(_FIELDS, out, strict=True)), population=population)


@jax.jit
def _curve(
    lam: Any, v: Any, mult: Any, n: Any, ridge: Any, noise: Any, tail: Any, inverse: Any
) -> tuple[Any, ...]:
    """Test, train, kappa, learnability and overfitting for a vector of n."""

    def one(n: Any) -> tuple[Any, ...]:
        kappa = _effective_ridge(lam, mult, n, ridge, tail, inverse)
        learned, unlearned = lam / (lam + kappa), kappa / (lam + kappa)
        # a mode of the tail has L = lambda/kappa and L(1 - L) = L to leading order
        s1 = jnp.sum(mult * learned) + tail / kappa
        s11 = jnp.sum(mult * learned * unlearned) + tail / kappa
        # n - s1 would cancel: it is what the ridge leaves
        rest = ridge / kappa * (1 - s1 * inverse)
        scale = n / (rest * (1 - s1 * inverse) + (1 - n * inverse) * s11)
        bias = jnp.sum(unlearned**2 * v**2)
        test = scale * (bias + noise * (1 - (s1 + s11) * inverse))
        return test, (rest / n) ** 2 * test, kappa, learned, scale

    return jax.vmap(one)(n)


def _effective_ridge(lam: Any, mult: Any, n: Any, ridge: Any, tail: Any, inverse: Any) -> Any:
    """Kappa, by its logarithm: it spans many orders of magnitude and is positive."""
    fixed = jax.lax.stop_gradient((lam, mult, n, ridge, tail))
    low, high = _bracket(*fixed)
    args = (lam, mult, n, ridge, tail, inverse)
    root = bracketed_root(_log_balance, low, high, args=args, on_fail="nan")
    return jnp.exp(root.x)


def _log_balance(x: Any, args: Any) -> Any:
    """``log(sum L_i + ridge/kappa) - log n``; decreasing in ``x = log kappa`` on the bracket."""
    lam, mult, n, ridge, tail, inverse = args
    kappa = jnp.exp(x)
    s1 = jnp.sum(mult * lam / (lam + kappa)) + tail / kappa
    return jnp.log(s1 + ridge / kappa * (1 - s1 * inverse)) - jnp.log(n)


def _bracket(lam: Any, mult: Any, n: Any, ridge: Any, tail: Any) -> tuple[Any, Any]:
    """Bounds on log kappa.

    Above: L_i <= lambda_i/kappa. Below: kappa >= ridge/n and tail/n (also in a finite population),
    and for every k, dropping all but the first k modes and replacing these by the smallest,
    ``kappa >= lambda_k (M_k - n)/n``.
    """
    order = jnp.argsort(-lam)
    counts = jnp.cumsum(mult[order])
    below = jnp.max(lam[order] * (counts - n) / n)
    total = jnp.sum(mult * lam) + ridge + tail
    # the ends themselves can be roots (equal eigenvalues): leave room for rounding
    slack = 1e-9
    return jnp.log(jnp.maximum(below, jnp.maximum(ridge, tail) / n)) - slack, jnp.log(
        total / n
    ) + slack


def _arrays(
    eigenvalues: Any, coefficients: Any, degeneracies: Any, n: Any
) -> tuple[Any, Any, Any, Any]:
    """Checked float64 arrays."""
    lam = jnp.asarray(eigenvalues, jnp.float64)
    v = jnp.asarray(coefficients, jnp.float64)
    mult = jnp.ones_like(lam) if degeneracies is None else jnp.asarray(degeneracies, jnp.float64)
    n_ = jnp.asarray(n, jnp.float64)
    if lam.ndim != 1 or lam.size == 0 or v.shape != lam.shape or mult.shape != lam.shape:
        raise ShapeError(
            "eigenvalues, coefficients and degeneracies must have one shape (m,), got "
            f"{lam.shape}, {v.shape} and {mult.shape}."
        )
    if n_.ndim > 1 or n_.size == 0:
        raise ShapeError(f"n must be a number or 1-D, got shape {n_.shape}.")
    named = {"eigenvalues": lam, "coefficients": v, "degeneracies": mult, "n": n_}
    for name, value in named.items():
        finite(value, name)
    bounds = (
        ("eigenvalues", lam, 0.0, True),
        ("degeneracies", mult, 1.0, True),
        ("n", n_, 0.0, False),
    )
    for name, value, least, equal in bounds:
        if is_traced(value):
            continue
        smallest = float(np.min(np.asarray(value)))
        if smallest < least or (smallest == least and not equal):
            sign = ">=" if equal else ">"
            raise DomainError(f"{name} must be {sign} {least:g}, got a minimum of {smallest:g}.")
    if not is_traced(lam) and not np.any(np.asarray(lam) > 0):
        raise DomainError("eigenvalues must hold a positive one; they are all 0.")
    return lam, v, mult, n_


def _check_population(population: int | None, n: Any, mult: Any) -> None:
    if population is None:
        return
    size = integer(population, "population", at_least=1)
    for name, value, most in (
        ("n", n, size - 1),
        ("the sum of degeneracies", jnp.sum(mult), size),
    ):
        if not is_traced(value) and float(np.max(np.asarray(value))) > most:
            raise DomainError(
                f"{name} must be <= {most} for a population of {size}, got "
                f"{float(np.max(np.asarray(value))):g}."
            )


def _check_ridgeless(n: Any, lam: Any, mult: Any, ridge: Any, tail: Any) -> None:
    """Without a ridge there must be more modes than training points."""
    if any(is_traced(a) for a in (n, lam, mult, ridge, tail)) or float(ridge + tail) > 0:
        return
    modes = math.fsum(np.asarray(mult)[np.asarray(lam) > 0].tolist())
    largest = float(np.max(np.asarray(n)))
    if largest >= modes:
        raise DomainError(
            f"n must be below the number of modes with a positive eigenvalue ({modes:g}) when "
            f"ridge and tail are 0, got {largest:g}: every mode is then learned exactly and kappa "
            "is 0. Give a ridge, or the trace that was left out as tail."
        )
