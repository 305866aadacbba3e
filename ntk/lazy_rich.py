r"""Lazy and rich training: the regime of a parameterisation, and an exactly solvable crossover.

Three views: the exponents of a parameterisation decide the regime at infinite width
(:func:`abc_exponents`); the diagonal network interpolates between the kernel solution and the
sparse one as its initial scale goes down (:func:`diagonal_network`); and at finite width the
tangent kernel moves by an amount that can be measured (:func:`kernel_movement`).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import ConvergenceError, DomainError, ShapeError
from deeplimits.newton import implicit, linear_solve
from deeplimits.precision import float64_scope, require_x64
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array, ArrayLike
from deeplimits.validate import as_inputs, as_targets, finite, integer, is_traced, number
from ntk.empirical import empirical_ntk

#: a, b and c by name, for L hidden layers: (a_1, a_2..L, a_L+1), (b_1, b_2..L, b_L+1), c.
_NAMED: dict[str, tuple[tuple[float, ...], tuple[float, ...], float]] = {
    "ntk": ((0.0, 0.5, 0.5), (0.0, 0.0, 0.0), 0.0),
    "standard": ((0.0, 0.0, 0.0), (0.0, 0.5, 0.5), 1.0),
    "mup": ((-0.5, 0.0, 0.5), (0.5, 0.5, 0.5), 0.0),
    "mean_field": ((0.0, 0.5, 1.0), (0.0, 0.0, 0.0), -1.0),
}


@dataclasses.dataclass(frozen=True)
class AbcParameterization:
    r"""Exponents of a parameterisation and what they imply at infinite width.

    Attributes:
        a, b: ``L + 1`` exponents each; c: exponent of the learning rate.
        r: :math:`n^{-r}` is the size of the change of the features in one step.
        stable: activations neither blow up nor vanish, and outputs do not blow up, in training.
        nontrivial: the output changes by order one in training.
        regime: ``"feature learning"``, ``"kernel"``, ``"trivial"`` or ``"unstable"``.
    """

    a: tuple[float, ...]
    b: tuple[float, ...]
    c: float
    r: float
    stable: bool
    nontrivial: bool
    regime: str


def abc_exponents(
    parameterization: str | tuple[Sequence[float], Sequence[float], float], depth: int = 2
) -> AbcParameterization:
    r"""The regime of a parameterisation of a network with L hidden layers of width n.

    .. math:: W^l = n^{-a_l} w^l, \quad w^l \sim N(0, n^{-2b_l}), \quad \eta\, n^{-c}, \qquad
       r = \min(a_{L+1} + b_{L+1},\ 2a_{L+1} + c) + c - 1 + \min_{l \le L} (2a_l + [l = 1])

    Stable iff :math:`a_1 + b_1 = 0`, :math:`a_l + b_l = 1/2` for 1 < l <= L,
    :math:`a_{L+1} + b_{L+1} \ge 1/2`, :math:`r \ge 0`, :math:`2a_{L+1} + c \ge 1` and
    :math:`a_{L+1} + b_{L+1} + r \ge 1`; then features are learned iff r = 0. Nontrivial iff one of
    the last two conditions is an equality.

    Args:
        parameterization: ``"ntk"``, ``"standard"`` (learning rate 1/n), ``"mup"``,
            ``"mean_field"`` (the NTK one with a read-out smaller by the root of n; it is the same
            as ``"mup"``, since adding s to every a and subtracting s from every b and 2s from c
            changes nothing), or ``(a, b, c)`` with ``L + 1`` numbers in a and b.
        depth: number L of hidden layers, >= 1, for a name. Default 2.

    Returns:
        :class:`AbcParameterization`.

    Raises:
        DomainError: unknown name, or numbers that are not finite.
        ShapeError: a and b of different or too small lengths.

    Source: Yang & Hu, arXiv:2011.14522, section 3 and theorem 3.3.
    Check: tests/ntk/test_lazy_rich.py::test_abc_table, ::test_abc_one_step (measured).
    """
    if isinstance(parameterization, str):
        if parameterization not in _NAMED:
            raise DomainError(
                f"parameterization must be one of {', '.join(map(repr, _NAMED))} or (a, b, c); got "
                f"{parameterization!r}."
            )
        depth = integer(depth, "depth", at_least=1)
        first, second, c = _NAMED[parameterization]
        a, b = ((x[0], *[x[1]] * (depth - 1), x[2]) for x in (first, second))
    else:
        a, b = (tuple(float(x) for x in part) for part in parameterization[:2])
        c = float(number(parameterization[2], "c"))
        if len(a) != len(b) or len(a) < 2:
            raise ShapeError(
                f"a and b must hold one number per layer, at least 2, got {len(a)} and {len(b)}."
            )
        finite(np.array([a, b]), "a and b")
    return _regime(a, b, c)


def _regime(a: tuple[float, ...], b: tuple[float, ...], c: float) -> AbcParameterization:
    out = a[-1] + b[-1]
    lowest = min(2 * x + (i == 0) for i, x in enumerate(a[:-1]))
    r = min(out, 2 * a[-1] + c) + c - 1 + lowest

    def at_least(x: float, bound: float) -> bool:
        return x >= bound - 1e-12  # exponents are sums of halves, or of what a user typed

    hidden = [x + y - 0.5 * (i > 0) for i, (x, y) in enumerate(zip(a[:-1], b[:-1], strict=True))]
    stable = all(abs(h) < 1e-12 for h in hidden) and at_least(out, 0.5)
    stable = stable and at_least(r, 0) and at_least(2 * a[-1] + c, 1) and at_least(out + r, 1)
    nontrivial = stable and not (2 * a[-1] + c > 1 + 1e-12 and out + r > 1 + 1e-12)
    regime = "feature learning" if abs(r) < 1e-12 else "kernel"
    regime = regime if nontrivial else "trivial"
    return AbcParameterization(a, b, c, r, stable, nontrivial, regime if stable else "unstable")


@functools.partial(
    register_dataclass,
    data_fields=["beta", "dual", "alpha", "residual", "steps", "kernel"],
    meta_fields=[],
)
@dataclasses.dataclass(frozen=True, eq=False)
class DiagonalSolution:
    """Solution that gradient flow reaches; fields have the shape of ``alpha`` in front.

    Attributes:
        beta: ``(*alpha.shape, d)`` linear predictor at the end of training.
        dual: ``(*alpha.shape, n)`` Lagrange multipliers.
        alpha: initial scale.
        residual: ``(*alpha.shape,)`` largest ``|X beta - targets|``.
        steps: Newton steps used.
        kernel: ``(d,)`` the limit of large alpha, the interpolator with the smallest L2 norm.
    """

    beta: Array
    dual: Array
    alpha: Array
    residual: Array
    steps: Array
    kernel: Array

    @property
    def l1(self) -> Any:
        """L1 norm of ``beta``; falls to its minimum over interpolators as alpha goes to 0."""
        size = jnp.sum(jnp.abs(self.beta), axis=-1)
        return size if is_traced(size) else np.asarray(size)

    @property
    def distance(self) -> Any:
        """Relative L2 distance from the kernel solution; vanishes as alpha goes to infinity."""
        difference = self.beta - jnp.broadcast_to(self.kernel, self.beta.shape)
        distance = jnp.linalg.norm(difference, axis=-1) / jnp.linalg.norm(self.kernel)
        return distance if is_traced(distance) else np.asarray(distance)

    def plot(self, ax: Any = None, **kw: Any) -> Any:
        """L1 norm of the solution against the initial scale."""
        from deeplimits import plotting

        ax = plotting.axes(ax)
        order = np.argsort(np.ravel(self.alpha))
        ax.semilogx(np.ravel(self.alpha)[order], np.ravel(self.l1)[order], **kw)
        ax.axhline(float(np.abs(self.kernel).sum()), color="0.5", linewidth=0.8, linestyle="--")
        ax.set(xlabel=r"initial scale $\alpha$", ylabel=r"$\|\beta\|_1$")
        return ax


@float64_scope
def diagonal_network(
    X: ArrayLike, targets: ArrayLike, alpha: ArrayLike, *, tol: float = 1e-10, max_steps: int = 400
) -> DiagonalSolution:
    r"""What gradient flow of a diagonal linear network converges to, at any initial scale.

    The network :math:`f(x) = \langle u \circ u - v \circ v, x\rangle` starts at
    :math:`u = v = \alpha`; trained to zero squared error it ends at

    .. math:: \beta = \arg\min_{X\beta = y} \sum_i \alpha^2 q(\beta_i/\alpha^2), \qquad
       q(z) = 2 - \sqrt{4 + z^2} + z\,\mathrm{asinh}(z/2), \qquad
       \beta = 2\alpha^2 \sinh(X^T\nu)

    the kernel solution (smallest L2 norm) for large alpha, that of smallest L1 norm for small
    alpha. The multipliers minimise the convex :math:`2\alpha^2\sum_i\cosh(X^T\nu)_i - y\cdot\nu`.

    Why damped Newton: its Hessian changes by a factor :math:`e^s` over a step that changes
    :math:`X^T\nu` by at most s, so the full step overshoots exponentially at small alpha. The step
    :math:`\log(1+s)/s` decreases the objective always, and is the full one near the solution.

    Args:
        X: ``(n, d)`` of rank n (n <= d).
        targets: ``(n,)``.
        alpha: initial scale > 0, scalar or ``(m,)``; solved in one batch.
        tol: largest residual relative to the largest ``|target|``. Default 1e-10.
        max_steps: most Newton steps.

    Returns:
        :class:`DiagonalSolution`, NumPy float64; JAX arrays inside ``jit`` and ``grad``
        (differentiable in X, targets and alpha).

    Raises:
        ShapeError: shapes that do not match, or more equations than unknowns.
        DomainError: alpha <= 0, or rows of X that are linearly dependent.
        ConvergenceError: the residual stays above ``tol``.

    Source: Woodworth et al., arXiv:2002.09277, theorem 1; step: Sun & Tran-Dinh,
        arXiv:1703.04599 (generalised self-concordance of order 2).

    Check: tests/ntk/test_lazy_rich.py::test_diagonal_against_gradient_flow.
    """
    X = jnp.asarray(as_inputs(X, "X"), jnp.float64)
    y = jnp.asarray(as_targets(targets, X.shape[0], "targets"), jnp.float64)
    scale = jnp.asarray(alpha, jnp.float64)
    if X.ndim != 2 or X.shape[0] > X.shape[1] or y.shape[1] != 1 or scale.ndim > 1:
        raise ShapeError(
            "X, targets and alpha must have shapes (n, d) with n <= d, (n,) and () or (m,), got "
            f"{X.shape}, {np.shape(targets)} and {scale.shape}."
        )
    if not is_traced(scale) and not np.all(np.asarray(scale) > 0):
        raise DomainError(f"alpha must be > 0, got a minimum of {float(scale.min()):g}.")
    if not is_traced(X) and np.linalg.matrix_rank(np.asarray(X)) < X.shape[0]:
        raise DomainError("X must have linearly independent rows. Drop dependent ones.")
    number(tol, "tol", at_least=1e-14)
    steps = integer(max_steps, "max_steps", at_least=1)
    found = _diagonal(X, y[:, 0], jnp.ravel(scale), max_steps=steps)
    shaped = [f.reshape((*scale.shape, *f.shape[1:])) for f in found]
    beta, dual, residual, count = shaped
    out: Any = (beta, dual, scale, residual, count, _smallest_norm(X, y[:, 0]))
    if any(is_traced(leaf) for leaf in out):
        return DiagonalSolution(*out)
    allowed = tol * max(float(np.abs(y).max()), np.finfo(np.float64).tiny)
    worst = float(np.max(residual))
    if not worst <= allowed:
        raise ConvergenceError(
            f"the constraints are met to {worst:.3g} only (allowed {allowed:.3g}) after "
            f"{int(np.max(count))} steps. Increase max_steps, or alpha "
            f"(smallest {float(scale.min()):g})."
        )
    return DiagonalSolution(*(np.asarray(leaf) for leaf in out))


def _smallest_norm(X: Any, y: Any) -> Any:
    return jnp.matmul(X.T, linear_solve(jnp.matmul(X, X.T), y))


@functools.partial(jax.jit, static_argnames="max_steps")
def _diagonal(X: Any, y: Any, alpha: Any, *, max_steps: int) -> tuple[Any, ...]:
    """Solution, multipliers, residual and steps for a vector of scales."""

    def one(alpha: Any) -> tuple[Any, ...]:
        def beta(nu: Any) -> Any:
            return 2 * alpha**2 * jnp.sinh(jnp.matmul(X.T, nu))

        def constraint(nu: Any) -> Any:
            return jnp.matmul(X, beta(nu)) - y

        def solver(_: Any, start: Any) -> tuple[Any, Any]:
            fixed = jax.lax.stop_gradient((X, y, alpha))
            return _damped_newton(*fixed, start, max_steps)

        nu, steps = implicit(constraint, jnp.zeros_like(y), solver)
        return beta(nu), nu, jnp.max(jnp.abs(constraint(nu))), steps

    return jax.vmap(one)(alpha)


def _damped_newton(X: Any, y: Any, alpha: Any, start: Any, max_steps: int) -> tuple[Any, Any]:
    """Minimise the dual; stops when the step no longer lowers the residual near the solution."""

    def gradient(nu: Any) -> Any:
        return jnp.matmul(X, 2 * alpha**2 * jnp.sinh(jnp.matmul(X.T, nu))) - y

    def advance(state: Any) -> Any:
        nu, count, _ = state
        curvature = 2 * alpha**2 * jnp.cosh(jnp.matmul(X.T, nu))
        hessian = jnp.matmul(X * curvature[None], X.T)
        step = -jax.scipy.linalg.solve(hessian, gradient(nu), assume_a="pos")
        size = jnp.max(jnp.abs(jnp.matmul(X.T, step)))
        new = nu + jnp.where(size > 0, jnp.log1p(size) / size, 1.0) * step
        better = jnp.max(jnp.abs(gradient(new))) < jnp.max(jnp.abs(gradient(nu)))
        # far away the residual may rise although the objective falls; near, it is rounding
        go_on = jnp.isfinite(size) & (better | (size > 1e-6))
        return jnp.where(go_on, new, nu), count + 1, go_on

    end = jax.lax.while_loop(
        lambda s: s[2] & (s[1] < max_steps), advance, (start, jnp.zeros((), int), jnp.array(True))
    )
    return end[0], end[1]


@dataclasses.dataclass(frozen=True)
class KernelMovement:
    """How far training moved the tangent kernel of one network.

    Attributes:
        relative: Frobenius norm of the change over that of the initial kernel.
        parameters: likewise for the parameters, one number per leaf (not finite for a leaf that
            starts at 0).
        loss: final mean squared error over that at the start.
        steps: steps of gradient descent.
    """

    relative: Array
    parameters: Any
    loss: Array
    steps: Array


register_dataclass(KernelMovement, ["relative", "parameters", "loss", "steps"], [])


def kernel_movement(
    f: Callable[..., Any],
    params: Any,
    X: ArrayLike,
    targets: ArrayLike,
    *,
    alpha: Any = 1.0,
    rate: float = 0.5,
    tol: float = 1e-8,
    max_steps: int = 20_000,
) -> KernelMovement:
    r"""Train a network with centred, scaled output and measure how its tangent kernel changes.

    .. math:: h(x) = \alpha\,(f_\theta(x) - f_{\theta_0}(x)), \qquad
              \frac{d\theta}{dt} = -\frac{1}{\alpha^2} \nabla_\theta \frac12 \sum_i (h(x_i) - y_i)^2

    by gradient descent with step ``rate`` over the largest eigenvalue of the initial kernel, until
    the squared error has fallen by the factor ``tol``. In the NTK parameterisation at width n,
    :math:`\Delta\Theta/\Theta \propto 1/(\alpha n)`. The function is traceable: map it over
    parameters with ``jax.vmap`` or ``jax.lax.map``.

    Args:
        f: ``f(params, x) -> (n, 1)``.
        params: initial parameters.
        X: ``(n, ...)`` training inputs.
        targets: ``(n,)``.
        alpha: output scale > 0; large is lazy.
        rate: step size in units of the stability limit over 2, in (0, 2).
        tol: factor by which the squared error falls.
        max_steps: most steps.

    Returns:
        :class:`KernelMovement`.

    Raises:
        DomainError: an option out of range.
        ShapeError: targets that do not match.

    Source: Chizat, Oyallon & Bach, arXiv:1812.07956, eq. (3); the rate 1/n: Dyer & Gur-Ari,
        arXiv:1909.11304.

    Check: claims ``ntk/kernel-movement-width`` and ``ntk/kernel-movement-scale``.
    """
    require_x64("kernel_movement")
    number(alpha, "alpha", above=0.0)
    number(rate, "rate", above=0.0, below=2.0)
    number(tol, "tol", above=0.0, below=1.0)
    X = jnp.asarray(as_inputs(X, "X"), jnp.float64)
    y = jnp.asarray(as_targets(targets, X.shape[0], "targets"), jnp.float64)[:, 0]
    alpha, max_steps = jnp.asarray(alpha, jnp.float64), integer(max_steps, "max_steps", at_least=1)
    before = empirical_ntk(f, params, X)
    step = rate / jnp.linalg.eigvalsh(before)[-1]
    start = f(params, X)[:, 0]

    def loss(p: Any) -> Any:
        return 0.5 * jnp.sum((f(p, X)[:, 0] - start - y / alpha) ** 2)

    def advance(state: Any) -> Any:
        p, _, count = state
        value, slope = jax.value_and_grad(loss)(p)
        return jax.tree.map(lambda a, g: a - step * g, p, slope), value, count + 1

    first = loss(params)
    final, last, steps = jax.lax.while_loop(
        lambda s: (s[1] > tol * first) & (s[2] < max_steps), advance, (params, first, 0)
    )
    after = empirical_ntk(f, final, X)

    def moved(a: Any, b: Any) -> Any:
        return jnp.linalg.norm(a - b) / jnp.linalg.norm(b)

    return KernelMovement(
        moved(after, before), jax.tree.map(moved, final, params), last / first, jnp.asarray(steps)
    )
