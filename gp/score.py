r"""Diffusion scores learned by gradient descent on a wide network, stopped early.

By Tweedie's formula the score of the noised data is known once the clean point is predicted,

.. math::

    \nabla \log p_t(x) = \frac{\alpha_t f(t, x) - x}{h_t}, \qquad f(t, x) = E[X_0 | X_t = x],

and f is the regression of clean on noised points, with labels :math:`X_0` whose noise never goes
away. Gradient descent of rate :math:`\eta` on :math:`\frac1{2n}\sum_i w_i^2 |f(z_i) - x_{0i}|^2`
acts, with :math:`W = \mathrm{diag}(w)` and :math:`W K W = Q \Lambda Q^\top`, as

.. math::

    f_k(z) = \kappa(z, Z)\, W Q\, \frac{1 - (1 - \eta\Lambda/n)^k}{\Lambda}\, Q^\top W X_0
"""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from deeplimits.errors import DeepLimitsWarning, DomainError, ShapeError
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import check, choice, integer, number
from gp.filters import descent_filter
from gp.linalg import eigh_psd, kernel_matrix
from gp.predictive import StoppingScore
from gp.process import size_guard
from gp.score_kernel import (
    ScorePairs,
    hidden_layer_kernel,
    network_inputs,
    score_pairs,
    weights_of,
)
from gp.score_risk import RiskPath, risk_path
from gp.score_sampling import reverse_diffusion
from gp.score_stopping import leave_one_out, rwy_stop
from gp.score_truth import DataLaw, forward_process, noised_points

STOPS = ("loo", "rwy", "none")
_DEFAULT_STEPS = np.unique(np.round(np.geomspace(1, 1e6, 121)))


@dataclass(frozen=True)
class ScoreRegression:
    """A learned score. Made by :func:`score_regression`.

    Attributes:
        pairs: the training pairs.
        weights: factors on the residuals ``(n,)``.
        rate: learning rate :math:`\\eta` of the loss with 1/n in front.
        step: number of gradient-descent steps taken.
        stop: the rule that chose it.
        loo: leave-one-out scores at the stored numbers of steps, and the best of them.
        rwy: the step of the rule of Raskutti, Wainwright and Yu; None where the label noise is
            unknown.
        noise_sd: standard deviation of the weighted label noise per coordinate; None if unknown.
        values, vectors: eigenvalues and eigenvectors of ``W K W``.
        labels: weighted labels in that basis ``(n, d)``.
        kernel: ``k(Z, Z2=None)`` on network inputs.
        bias: whether a 1 is appended to the network inputs.
        radius: noised points further out are cut off; None for none.
    """

    pairs: ScorePairs
    weights: np.ndarray
    rate: float
    step: float
    stop: str
    loo: StoppingScore
    rwy: float | None
    noise_sd: float | None
    values: np.ndarray
    vectors: np.ndarray
    labels: np.ndarray
    kernel: Any
    bias: bool
    radius: float | None

    def at(self, step: float) -> ScoreRegression:
        """The same regression after another number of steps.

        Args:
            step: whole number >= 0.

        Raises:
            DomainError: not such a number.
        """
        number(step, "step", at_least=0)
        check(step == int(step), f"step must be a whole number, got {step}.", DomainError)
        return dataclasses.replace(self, step=float(step), stop="given")

    def denoise(self, t: Any, x: Any) -> Float[np.ndarray, "m d"]:
        """Estimate of ``E[X_0 | X_t = x]``.

        Args:
            t: times > 0, one or ``(m,)``; trained on ``[T0, T]``.
            x: noised points ``(m, d)``.

        Raises:
            ShapeError, DomainError: bad times or points.

        Check: test_score.py::test_gradient_descent_step_by_step.
        """
        coefficients = self.vectors @ (self._gain(self.step)[:, None] * self.labels)
        return np.asarray(self._cross(t, x) @ coefficients)

    def score(self, t: Any, x: Any) -> Float[np.ndarray, "m d"]:
        r"""Estimate of the score, :math:`(\alpha_t f(t, x) - x) / h_t`.

        Args:
            t: times > 0, one or ``(m,)``; trained on ``[T0, T]``.
            x: noised points ``(m, d)``.

        Raises:
            ShapeError, DomainError: bad times or points.

        Check: test_score.py::test_score_is_tweedie_of_the_denoiser.
        """
        times, points = noised_points(t, x, self.labels.shape[1])
        alpha, h = forward_process(times)
        return (alpha[:, None] * self.denoise(times, points) - points) / h[:, None]

    def features(self, t: Any, x: Any) -> Float[np.ndarray, "m n"]:
        """``k(z, Z) W Q``: kernel values in the eigenbasis of training."""
        return np.asarray(self._cross(t, x) @ self.vectors)

    def _cross(self, t: Any, x: Any) -> np.ndarray:
        """``k(z, Z) W``."""
        times, points = noised_points(t, x, self.labels.shape[1])
        z = network_inputs(times, points, T0=self.pairs.T0, bias=self.bias)
        own = network_inputs(self.pairs.t, self.pairs.x, T0=self.pairs.T0, bias=self.bias)
        cross = kernel_matrix(self.kernel, z, own)[0] * self.weights
        cross *= _inside(points, self.radius)[:, None] * _inside(self.pairs.x, self.radius)
        return cross

    def _gain(self, step: float) -> np.ndarray:
        scale = self.rate / len(self.values)
        return scale * descent_filter(scale * self.values, step)[1]

    def risks(self, truth: DataLaw | None = None, *, key: Any, n: int = 3000) -> RiskPath:
        r"""True errors at all stored numbers of steps, on fresh noised points.

        .. math:: E |f_k - E[X_0|X_t]|^2, \qquad
            E |s_k - \nabla\log p_t|^2 = E (\alpha/h)^2 |f_k - E[X_0|X_t]|^2

        Args:
            truth: the law of the clean points. Default: that of the training pairs, if known.
            key: a ``jax.random.key`` or an integer seed for the test points.
            n: number of test points, >= 2. Default 3000.

        Returns:
            :class:`RiskPath`, with the best step (the oracle) of either error.

        Raises:
            DomainError: no truth known, or of another dimension.

        Check: test_score.py::test_risks_against_explicit_errors.
        """
        law = self.pairs.law if truth is None else truth
        check(
            isinstance(law, DataLaw) and law.dimension == self.labels.shape[1],
            "truth must be a law of the dimension of the data (gp.atomic_data, gp.gaussian_data); "
            "none is known from the training pairs.",
            DomainError,
        )
        test = score_pairs(
            law, integer(n, "n", at_least=2), key=key, T0=self.pairs.T0, T=self.pairs.T
        )
        features = self.features(test.t, test.x)
        steps = np.unique(np.append(self.loo.times, self.step))
        paths = (features @ (self._gain(k)[:, None] * self.labels) for k in steps)
        return risk_path(steps, paths, test, self.step)

    def sample(
        self, key: Any, n: int, *, method: str = "sde", steps: int = 200, start: Any = None
    ) -> Float[np.ndarray, "n d"]:
        """New points at time T0, by running the diffusion backwards with the learned score.

        Args:
            key: a ``jax.random.key`` or an integer seed.
            n: number of points, >= 1.
            method, steps, start: as in :func:`reverse_diffusion`.

        Raises:
            ShapeError, DomainError: bad arguments.

        Check: test_score.py::test_learned_sampler_finds_the_atoms.
        """
        return reverse_diffusion(
            self.denoise, self.labels.shape[1], key, n,
            T0=self.pairs.T0, T=self.pairs.T, method=method, steps=steps, start=start,
        )  # fmt: skip

    def plot(self, ax: Any = None) -> Any:
        """Leave-one-out score against the number of steps, and where the rules stop."""
        from deeplimits import plotting

        ax = plotting.axes(ax)
        ax.plot(self.loo.times, self.loo.score, color=plotting.COLORS[0], label="leave-one-out")
        marks = {"leave-one-out stop": self.loo.time, "Raskutti-Wainwright-Yu stop": self.rwy}
        for color, (name, k) in zip(plotting.COLORS, marks.items(), strict=False):
            if k is not None:
                ax.axvline(max(k, 1), color=color, linestyle="--", linewidth=1, label=name)
        ax.set(xscale="log", yscale="log", xlabel="gradient-descent steps")
        ax.set_ylabel("weighted squared error per point")
        ax.legend(frameon=False)
        return ax


def _inside(x: np.ndarray, radius: float | None) -> np.ndarray:
    """1 for points within the radius, else 0."""
    if radius is None:
        return np.ones(len(x))
    return (np.linalg.norm(x, axis=1) <= radius).astype(np.float64)


def score_regression(
    data: Any,
    n: int | None = None,
    *,
    key: Any = None,
    activation: Any = "relu",
    kernel: Any = None,
    weights: Any = "score",
    stop: Any = "loo",
    T0: float = 0.1,
    T: float = 2.0,
    bias: bool = True,
    learning_rate: float = 1.0,
    steps: Any = None,
    noise_sd: float | None = None,
    radius: float | None = None,
    max_points: int = 20_000,
) -> ScoreRegression:
    r"""Learn the score of noised data by kernel regression with early stopping.

    Why weighted: the error of the score is :math:`\alpha/h` times that of the clean point, up to
    10 times larger at small times. Fitting with these weights, and stopping by the weighted
    leave-one-out error, aims at the score itself.

    Args:
        data: clean points ``(N, d)``, a law (:func:`atomic_data`, :func:`gaussian_data`), or
            :class:`ScorePairs` from :func:`score_pairs`.
        n: number of training pairs, as in :func:`score_pairs`.
        key: a ``jax.random.key`` or an integer seed; not needed with ready-made pairs.
        activation: of the hidden layer, as in :func:`hidden_layer_kernel`. Default "relu".
        kernel: a callable ``k(Z, Z2=None)`` on network inputs in its place, such as ``net.ntk``.
        weights: "score" (:math:`w = \alpha/h`, default), "none", or an array ``(n,)`` > 0.
        stop: "loo" (smallest leave-one-out error of the linear smoother among ``steps``, default),
            "rwy" (:func:`rwy_stop`), "none" (the last of ``steps``), or a number of steps.
        T0, T: range of times, as in :func:`score_pairs`. Defaults 0.1, 2.
        bias: append a 1 to the network inputs. Default True.
        learning_rate: in units of :math:`n/\lambda_{\max}`, in (0, 1]. Default 1.
        steps: numbers of steps to consider, whole, >= 1. Default: 121 from 1 to 1e6.
        noise_sd: standard deviation of the weighted label noise per coordinate, for "rwy".
            Default: computed when ``data`` is a law, else unknown.
        radius: predict 0 where :math:`|x| >` radius, as the theory for unbounded inputs asks, > 0.
            Default: no cut.
        max_points: refuse dense algebra on more pairs than this. Default 20000.

    Returns:
        :class:`ScoreRegression` with ``score(t, x)``, ``denoise(t, x)``, ``sample``, ``risks``,
        ``plot``.

    Warns:
        DeepLimitsWarning: the law of the data is unbounded and no radius is set; the error bounds
            of the paper then do not apply.

    Raises:
        ShapeError, DomainError: bad arguments; "rwy" without known label noise.
        NotPositiveDefiniteError: the kernel is indefinite beyond rounding.

    Source: arXiv:2401.15604, sections 3 and 4; weights and leave-one-out stopping derived here.
    Check: test_score.py::test_gradient_descent_step_by_step, ::test_three_atoms.
    """
    pairs = data
    if not isinstance(data, ScorePairs):
        pairs = score_pairs(data, n, key=key, T0=T0, T=T)
    grid = _step_grid(steps)
    number(learning_rate, "learning_rate", above=0, at_most=1)
    for name, value in (("radius", radius), ("noise_sd", noise_sd)):
        if value is not None:
            number(value, name, above=0)
    size_guard(len(pairs.t), max_points, "the set of pairs")
    if pairs.law is not None and not pairs.law.bounded and radius is None:
        warnings.warn(
            "the data are unbounded, which the error bounds of this method exclude. Set radius=... "
            "to cut far points off.",
            DeepLimitsWarning,
            stacklevel=2,
        )
    w = weights_of(weights, pairs.t)
    scale = w * _inside(pairs.x, radius)
    k = hidden_layer_kernel(activation) if kernel is None else kernel
    z = network_inputs(pairs.t, pairs.x, T0=pairs.T0, bias=bias)
    matrix, dtype = kernel_matrix(k, z)
    matrix *= scale[:, None] * scale
    values, vectors = eigh_psd(matrix, name="the weighted kernel matrix", dtype=dtype)
    check(bool(values[-1] > 0), "the kernel vanishes on all training points.", DomainError)
    rate = float(learning_rate) * len(values) / float(values[-1])
    if noise_sd is None and pairs.law is not None:
        variance = w**2 * pairs.law.posterior_variance(pairs.t, pairs.x)
        noise_sd = float(np.sqrt(np.mean(variance) / pairs.x.shape[1])) or None
    rwy = None if noise_sd is None else rwy_stop(values / len(values), rate, noise_sd)
    labels = vectors.T @ (w[:, None] * pairs.x0)
    loo = leave_one_out(grid, rate / len(values), values, vectors, labels)
    step, rule = _chosen(stop, grid, loo, rwy)
    return ScoreRegression(
        pairs, w, rate, step, rule, loo, rwy, noise_sd, values, vectors, labels, k, bias, radius
    )


def _step_grid(steps: Any) -> np.ndarray:
    if steps is None:
        return _DEFAULT_STEPS
    grid = np.atleast_1d(np.asarray(steps, np.float64))
    check(
        grid.ndim == 1 and grid.size > 0,
        f"steps must be a non-empty sequence, got shape {grid.shape}.",
        ShapeError,
    )
    check(
        bool(np.all(np.isfinite(grid) & (grid >= 1) & (grid == np.floor(grid)))),
        "steps must be whole numbers >= 1.",
        DomainError,
    )
    return np.unique(grid)


def _chosen(
    stop: Any, grid: np.ndarray, loo: StoppingScore, rwy: float | None
) -> tuple[float, str]:
    """The number of steps and the name of the rule."""
    if not isinstance(stop, str):
        number(stop, "stop", at_least=0)
        check(stop == int(stop), f"stop must be a rule or a whole number, got {stop}.", DomainError)
        return float(stop), "given"
    choice(stop, "stop", STOPS)
    check(
        stop != "loo" or bool(np.isfinite(loo.score[loo.index])),
        "the leave-one-out error is undefined at every number of steps: all modes have converged. "
        "Use smaller steps.",
        DomainError,
    )
    check(
        stop != "rwy" or rwy is not None,
        "stop='rwy' needs the label noise: pass noise_sd=..., or data=gp.atomic_data(points).",
        DomainError,
    )
    found = {"loo": loo.time, "rwy": rwy, "none": float(grid[-1])}[stop]
    assert found is not None
    return found, stop


register_dataclass(
    ScoreRegression,
    ["pairs", "weights", "rate", "step", "loo", "rwy", "noise_sd", "values", "vectors", "labels"],
    ["stop", "kernel", "bias", "radius"],
)
