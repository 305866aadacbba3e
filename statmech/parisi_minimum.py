r"""The minimum of the Parisi functional over step functions with k steps.

The functional is convex in the step function :math:`\gamma(q)`, but not in the places of its
steps, where descent alone gets stuck with steps that coincide. Hence k grows: each solution, read
as a smooth curve and cut more finely, starts the next; where this gains nothing, one step is
inserted where the directional derivative of the convex functional promises most. What that
derivative still promises at the end bounds the distance to full replica-symmetry breaking.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.optimize

from statmech.parisi_functional import evaluate

#: Gradient (of -f in unconstrained variables) at which the descent stops, and its most steps.
TOLERANCE, MAX_ITERATIONS = 1e-9, 600
#: Overlaps at which the directional derivative is looked at.
CANDIDATES = 48
#: Least gain in -f and least promised gain for which more steps are tried; small gamma from which
#: the derivative at a vanishing one is extrapolated (rounding / gamma^2 = 1e-10).
GAIN, PROMISE, VANISHING = 1e-11, 1e-7, 1e-3


class Model(NamedTuple):
    """What stays fixed during the minimisation."""

    coefficients: np.ndarray
    T: float
    h: float


class Steps(NamedTuple):
    """A step function: ``gamma`` ``(k,)`` between the overlaps ``q`` ``(k + 1,)``, and -f there."""

    gamma: np.ndarray
    q: np.ndarray
    value: float = np.inf
    slope: float = np.inf


def minimise(model: Model, k: int) -> Steps:
    """The best step function with at most ``k`` steps that was found, through fewer steps."""
    best = descend(model, _start(model, 0 if model.T > 0 else 1))
    while (size := len(best.gamma)) < k:
        starts = [_start(model, 1)] if size == 0 else [_refined(model, best, _next(size, k))]
        new = descend(model, starts[0])
        if new.value > best.value - GAIN:
            extra = inserted(model, best)
            new = best if extra is None else descend(model, extra)
            if new.value > best.value - GAIN:
                break
        best = new
    return _padded(best, k)


def _next(size: int, k: int) -> int:
    """The next number of steps on the way to k: one and a half times as many."""
    return min(k, max(size + 1, size * 8 // 5))


def descend(model: Model, start: Steps) -> Steps:
    """A local minimum by the BFGS method, in variables that keep the order of the steps."""
    k = len(start.gamma)
    unpack, origin = _variables(model, start)

    def objective(y: np.ndarray) -> tuple[float, np.ndarray]:
        gamma, q, pull_back = unpack(y)
        out = evaluate(gamma, q, model.T, model.h, model.coefficients)
        if not np.isfinite(out.value):
            return np.inf, np.zeros_like(y)
        return float(out.value), pull_back(out.gamma, out.q)

    if not origin.size:
        return start
    found = scipy.optimize.minimize(
        objective, origin, jac=True, method="BFGS",
        options={"gtol": TOLERANCE, "maxiter": MAX_ITERATIONS},
    )  # fmt: skip
    gamma, q, _ = unpack(found.x)
    assert len(gamma) == k
    return Steps(gamma, q, float(found.fun), float(np.abs(found.jac).max()))


def _variables(model: Model, start: Steps) -> tuple[Callable, np.ndarray]:
    """Unconstrained variables of a step function: ``unpack(y) -> gamma, q, pull_back``.

    Overlaps (and gamma T, if T > 0) are cumulative sums of a softmax; at T = 0 the overlaps end at
    1 and gamma is a cumulative sum of exponentials.
    """
    k, cold = len(start.gamma), model.T == 0
    n_q = k if cold else k + 1

    def unpack(y: np.ndarray) -> tuple[np.ndarray, np.ndarray, Callable]:
        a, b = y[:k], y[k:]
        part_q = _softmax(b)
        q = np.append(np.cumsum(part_q)[:n_q], [1.0] if cold else [])
        part = np.exp(a) if cold else _softmax(a) / model.T
        gamma = np.cumsum(part)[:k]

        def pull_back(d_gamma: np.ndarray, d_q: np.ndarray) -> np.ndarray:
            above = np.cumsum(d_gamma[::-1])[::-1]
            if cold:
                first = part * above
            else:
                first = part[:k] * (above - model.T * part[:k] @ above)
            down = np.cumsum(d_q[:n_q][::-1])[::-1]
            return np.append(first, part_q[:n_q] * (down - part_q[:n_q] @ down))

        return gamma, q, pull_back

    rises = np.diff(start.gamma, prepend=0.0)
    rises = np.maximum(rises, 1e-6 * max(1.0, start.gamma.max(initial=0.0)))
    a = np.log(rises) if cold else _logits(rises * model.T)
    return unpack, np.append(a, _logits(np.diff(start.q[:n_q], prepend=0.0)))


def _softmax(logits: np.ndarray) -> np.ndarray:
    """Positive parts of 1; the last one has logit 0."""
    full = np.append(logits, 0.0)
    weights = np.exp(full - full.max())
    return weights / weights.sum()


def _logits(parts: np.ndarray) -> np.ndarray:
    """Inverse of :func:`_softmax` without its last part; vanishing parts are lifted a little."""
    parts = np.maximum(parts, 1e-6)
    rest = max(1 - parts.sum(), 1e-6)
    return np.log(parts / rest)


def _start(model: Model, size: int) -> Steps:
    """The best of a coarse grid: no step (T > 0), or one."""
    powers = np.arange(len(model.coefficients))
    scale = np.sqrt(powers @ model.coefficients)  # standard deviation of the field
    ends = np.array([0.1, 0.3, 0.5, 0.7, 0.9, 0.97])
    if size == 0:
        options = [Steps(np.zeros(0), np.array([q])) for q in (0.01, *ends)]
    elif model.T > 0:
        options = [
            Steps(np.array([x / model.T]), np.array([r * q, q]))
            for q in ends for r in (0.02, 0.5) for x in (0.15, 0.4, 0.7, 0.95)
        ]  # fmt: skip
    else:
        options = [
            Steps(np.array([mu / scale]), np.array([q, 1.0]))
            for q in (0.01, 0.4, 0.8) for mu in (0.3, 1.0, 2.0, 4.0)
        ]  # fmt: skip
    return min(options, key=lambda s: float(_value(model, s)))


def _value(model: Model, s: Steps) -> float:
    return float(evaluate(s.gamma, s.q, model.T, model.h, model.coefficients).value)


def _refined(model: Model, s: Steps, size: int) -> Steps:
    """The step function as a curve in the number of the step, cut into ``size`` steps."""
    k, cold = len(s.gamma), model.T == 0
    if cold:
        old, new = np.arange(1, k + 1) / (k + 1), np.arange(1, size + 1) / (size + 1)
        q = np.append(np.interp(new, [0, *old, 1], [0, *s.q[:-1], 1.0]), 1.0)
        old, new = ((np.arange(n) + 0.5) / (n + 1) for n in (k, size))
        top = s.gamma[-1] * max(1.5, s.gamma[-1] / s.gamma[-2] if k > 1 else 2.0)
        gamma = np.interp(new, [0, *old, 1], [0, *s.gamma, top])
        return Steps(gamma, q)
    q = np.interp(np.arange(size + 1) / size, np.arange(k + 1) / k, s.q)
    q[0] = s.q[0] * (k + 1) / (size + 1)
    gamma = np.interp(np.arange(1, size + 1) / size, np.arange(k + 1) / k, [0, *s.gamma])
    return Steps(gamma, q)


def _padded(s: Steps, size: int) -> Steps:
    """The same step function with steps of no width at the first overlap."""
    extra = size - len(s.gamma)
    first = s.gamma[0] if len(s.gamma) else 0.0
    gamma = np.append(np.linspace(0, first, extra + 2)[1:-1], s.gamma)
    return s._replace(gamma=gamma, q=np.append(np.full(extra, s.q[0]), s.q))


def slopes(model: Model, s: Steps, where: np.ndarray) -> np.ndarray:
    r"""Derivative of -f towards step functions that jump at one overlap.

    .. math:: D(s) = \int_0^1 \frac{\delta (-f)}{\delta \gamma(q)}
       \Big(\frac{1_{q \ge s}}{T} - \gamma(q)\Big) dq

    For a convex functional :math:`-f - \min(-f) \le -\min_s D(s)`. At T = 0, where the step
    functions form a cone, :math:`D(s)` is the integral from s to 1, which must not be negative.

    Args:
        where: the overlaps s in [0, 1].

    Returns:
        One number for each, right to about 1e-8.

    Source: the convexity: A. Auffinger, W.-K. Chen, Commun. Math. Phys. 335, 1429 (2015).
    """
    out = []
    for place in where:
        q, levels, above = _with_place(model, s, float(place))
        full = np.concatenate([[0.0], q, [] if model.T == 0 else [1.0]])
        # extrapolated from two small gamma to none below the first overlap
        near, far = (
            evaluate(np.maximum(levels, e), full, model.T, model.h, model.coefficients).gamma
            for e in (VANISHING, 2 * VANISHING)
        )
        target = above if model.T == 0 else above / model.T - levels
        out.append((2 * near - far) @ target)
    return np.array(out)


def _with_place(model: Model, s: Steps, place: float) -> tuple[np.ndarray, ...]:
    """Overlaps with one more, gamma on all intervals of [0, 1], and which of them lie above."""
    at = int(np.searchsorted(s.q, place))
    levels = np.concatenate([[0.0], s.gamma, [1 / model.T] if model.T > 0 else []])
    levels = np.insert(levels, at, levels[at])
    return np.insert(s.q, at, place), levels, (np.arange(len(levels)) > at).astype(float)


def inserted(model: Model, s: Steps) -> Steps | None:
    """The step function with one more step, where the directional derivative promises most."""
    where = (np.arange(CANDIDATES) + 0.5) / CANDIDATES
    promise = slopes(model, s, where)
    if promise.min() > -PROMISE:
        return None
    q, levels, above = _with_place(model, s, float(where[promise.argmin()]))
    options = []
    for share in (0.003, 0.03, 0.1, 0.3):
        if model.T > 0:
            gamma = ((1 - share) * levels + share * above / model.T)[1:-1]
        else:
            gamma = (levels + share * levels.max() * above)[1:]
        options.append(Steps(gamma, q))
    return min(options, key=lambda option: _value(model, option))
