r"""Running the Ornstein-Uhlenbeck process backwards with a predictor of the clean point.

Both routes use the score through :math:`f(t, x) \approx E[X_0 | X_t = x]`:

.. math::

    \text{SDE:}\quad -dX = \left(\tfrac12 X + s\right) dt + dW, \qquad
    \text{ODE:}\quad -\dot X = \tfrac12 X + \tfrac12 s, \qquad s = (\alpha f - X)/h
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import scipy.integrate
from jaxtyping import Float

from deeplimits.errors import ConvergenceError, DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.validate import as_inputs, as_key, check, choice, integer, number
from gp.predictive import standard_normal
from gp.score_truth import forward_process

#: ``f(t, x)``: predicted clean points ``(n, d)`` at one time t.
Denoiser = Callable[[Any, Any], Any]
_RTOL = 1e-6


@float64_scope
def reverse_diffusion(
    denoiser: Denoiser,
    d: int,
    key: Any,
    n: int,
    *,
    T0: float = 0.1,
    T: float = 2.0,
    method: str = "sde",
    steps: int = 200,
    start: Any = None,
) -> Float[np.ndarray, "n d"]:
    r"""Draw points at time T0 by reversing the diffusion from time T.

    The SDE is advanced by the exact law of :math:`X_s` given :math:`X_t` and
    :math:`X_0 = f(t, X_t)` for s < t, on times with equal steps in :math:`\log h_t`,

    .. math::

        X_s \sim N\!\left( \frac{\alpha_{t-s} h_s}{h_t} X_t + \frac{\alpha_s h_{t-s}}{h_t} f,\;
        \frac{h_s h_{t-s}}{h_t} I \right)

    The ODE is solved adaptively to a relative error of 1e-6.

    Args:
        denoiser: ``f(t, x) -> (n, d)`` at a number t > 0, such as ``regression.denoise`` or
            ``law.posterior_mean``.
        d: dimension, >= 1.
        key: a ``jax.random.key`` or an integer seed.
        n: number of points, >= 1.
        T0, T: the diffusion runs from T down to T0, 0 < T0 < T. Defaults 0.1 and 2.
        method: "sde" (default) or "ode".
        steps: steps of the SDE, >= 1. Default 200.
        start: points at time T ``(n, d)``. Default: standard normal, which is the law at time T up
            to terms of order :math:`e^{-T/2}`.

    Raises:
        ShapeError, DomainError: bad arguments, or a denoiser that returns another shape.
        ConvergenceError: the ODE solver gave up.

    Source: Song et al., arXiv:2011.13456, section 3; the step is that of Ho et al.,
        arXiv:2006.11239, eq. (7), in continuous time.

    Check: test_score.py::test_reverse_diffusion_of_gaussian_data.
    """
    integer(d, "d", at_least=1)
    integer(n, "n", at_least=1)
    number(T0, "T0", above=0)
    number(T, "T", above=float(T0))
    choice(method, "method", ("sde", "ode"))
    integer(steps, "steps", at_least=1)
    first, second = jax.random.split(as_key(key))
    x = standard_normal(first, (n, d)) if start is None else as_inputs(start, "start")
    x = np.asarray(x, np.float64)
    check(x.shape == (n, d), f"start must have shape ({n}, {d}), got {x.shape}.", ShapeError)
    predict = _checked(denoiser)
    if method == "ode":
        return _flow(predict, x, float(T0), float(T))
    return _ancestral(predict, x, _times(float(T0), float(T), steps), second)


def _checked(denoiser: Any) -> Denoiser:
    check(callable(denoiser), "denoiser must be a function f(t, x).", DomainError)

    def predict(t: Any, x: np.ndarray) -> np.ndarray:
        value = np.asarray(denoiser(t, x), np.float64)
        check(
            value.shape == x.shape,
            f"the denoiser must return an array of shape {x.shape}, got {value.shape}.",
            ShapeError,
        )
        return value

    return predict


def _times(T0: float, T: float, steps: int) -> np.ndarray:
    """Decreasing times with equal ratios of h."""
    high, low = (float(forward_process(t)[1]) for t in (T, T0))
    times = -np.log1p(-np.geomspace(high, low, steps + 1))
    times[[0, -1]] = T, T0
    return times


def _ancestral(predict: Denoiser, x: np.ndarray, times: np.ndarray, key: Any) -> np.ndarray:
    alpha, h = forward_process(times)
    between, spread = forward_process(times[:-1] - times[1:])
    for i, k in enumerate(jax.random.split(key, len(times) - 1)):
        clean = predict(times[i], x)
        x = (between[i] * h[i + 1] * x + alpha[i + 1] * spread[i] * clean) / h[i]
        x += np.sqrt(h[i + 1] * spread[i] / h[i]) * standard_normal(k, x.shape)
    return x


def _flow(predict: Denoiser, x: np.ndarray, T0: float, T: float) -> np.ndarray:
    def slope(t: float, flat: np.ndarray) -> np.ndarray:
        points = flat.reshape(x.shape)
        alpha, h = forward_process(t)
        score = (alpha * predict(t, points) - points) / h
        return np.ravel(-0.5 * (points + score))

    done = scipy.integrate.solve_ivp(slope, (T, T0), x.ravel(), rtol=_RTOL, atol=1e-8)
    check(done.success, f"the ODE solver stopped: {done.message}", ConvergenceError)
    return np.asarray(done.y[:, -1]).reshape(x.shape)
