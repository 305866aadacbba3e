r"""What :func:`gp.match_prior` minimises: targets, families and their distance, compiled once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.pytrees import register_dataclass
from deeplimits.validate import as_inputs, as_square, check, number
from gp.linalg import check_matrix, eigh_psd, kernel_matrix
from gp.wasserstein import kl_shifted, overlap
from gp.wasserstein_bounds import comonotone_moment


@dataclass(frozen=True)
class TargetAverage:
    """A target process whose kernel is uncertain: kernels with probabilities.

    Matching minimises the average of the squared distances to the processes of the kernels, which
    is an upper bound of the squared distance to their mixture.

    Args:
        kernels: callables ``k(X, Z=None) -> (n, m)``.
        weights: their probabilities, >= 0, adding up to 1.

    Raises:
        ShapeError: not one weight per kernel, or none.
        DomainError: something that is no probability or no callable.

    Source: arXiv:2011.12829, section 4.3, for hierarchical targets; the bound derived here.
    Check: test_priors.py::test_uncertain_target.
    """

    kernels: tuple[Any, ...]
    weights: Any

    def __post_init__(self) -> None:
        if isinstance(self.weights, jax.Array) or type(self.weights) is object:
            return
        weights = np.asarray(self.weights, np.float64)
        check(
            weights.shape == (len(self.kernels),) and len(weights) > 0,
            f"weights must hold one number per kernel ({len(self.kernels)}), "
            f"got shape {weights.shape}.",
            ShapeError,
        )
        check(
            bool(np.all(weights >= 0)) and abs(weights.sum() - 1) < 1e-9,
            f"weights must be probabilities that add up to 1, got {weights.tolist()}.",
            DomainError,
        )
        check(all(map(callable, self.kernels)), "every kernel must be a callable.", DomainError)


register_dataclass(TargetAverage, ["kernels", "weights"], [])


def average_log_normal(
    kernel: Callable[[float], Any], mean: float, sd: float, nodes: int = 9
) -> TargetAverage:
    r"""The target whose parameter has a log-normal law, by Gauss-Hermite quadrature.

    .. math:: \log \theta \sim N(\mathrm{mean}, \mathrm{sd}^2)

    Args:
        kernel: function of :math:`\theta` that returns a kernel, such as ``gp.RBF``.
        mean, sd: mean and standard deviation > 0 of :math:`\log \theta`.
        nodes: number of kernels, >= 2. Default 9.

    Raises:
        DomainError: a parameter out of its domain.

    Source: Gauss-Hermite quadrature. Check: test_priors.py::test_uncertain_target.
    """
    number(mean, "mean")
    number(sd, "sd", above=0)
    check(isinstance(nodes, int) and nodes >= 2, f"nodes must be >= 2, got {nodes!r}.", DomainError)
    points, weights = np.polynomial.hermite_e.hermegauss(nodes)
    thetas = np.exp(mean + sd * points)
    return TargetAverage(tuple(kernel(float(t)) for t in thetas), weights / weights.sum())


@dataclass(frozen=True)
class Target:
    """Covariances of the target on the grid, with weights, and their mean."""

    matrices: tuple[np.ndarray, ...]
    weights: np.ndarray
    mean: np.ndarray


def as_grid(grid: Any) -> Any:
    """Two or more different inputs, float64.

    Raises:
        ShapeError, DomainError: bad inputs; fewer than two, or two equal ones.
    """
    x = np.asarray(as_inputs(grid, "grid"), np.float64)
    check(len(x) >= 2, f"grid must hold at least 2 inputs, got {len(x)}.", ShapeError)
    rows = x.reshape(len(x), -1)
    unique, counts = np.unique(rows, axis=0, return_counts=True)
    if len(unique) < len(rows):
        raise DomainError(
            f"grid holds equal inputs: {len(rows) - len(unique)} of {len(rows)} repeat another, "
            f"such as {unique[np.argmax(counts)].tolist()}. Use np.unique(grid, axis=0)."
        )
    return jnp.asarray(x)


def as_target(target: Any, x: Any) -> Target:
    """Covariances of the target on the grid.

    Raises:
        ShapeError, DomainError: neither a kernel, a matrix ``(n, n)`` nor a :class:`TargetAverage`.
        NotPositiveDefiniteError: no covariance.
    """
    kernels: Sequence[Any] = (target,)
    weights = np.ones(1)
    if isinstance(target, TargetAverage):
        kernels, weights = target.kernels, np.asarray(target.weights, np.float64)
    matrices = []
    for kernel in kernels:
        if callable(kernel):
            matrix, dtype = kernel_matrix(kernel, x)
        else:
            matrix = as_square(kernel, "target_kernel")
            matrix, dtype = check_matrix(np.asarray(matrix), (len(x), len(x)), symmetric=True)
        eigh_psd(matrix, name="the target covariance", dtype=dtype)
        check(bool(np.trace(matrix) > 0), "the target covariance is zero.", DomainError)
        matrices.append(matrix)
    mean = np.einsum("k,kij->ij", weights, np.stack(matrices))
    return Target(tuple(matrices), weights, mean)


def family_kernel(member: Any) -> Callable[..., Any]:
    """The kernel of what a family returned.

    Raises:
        DomainError: neither a network nor a kernel.
    """
    kernel = getattr(member, "nngp", member)
    check(
        callable(kernel),
        "family(**params) must return a network (with nngp) or a kernel k(X, Z=None), got "
        f"{type(member).__name__}.",
        DomainError,
    )
    return kernel


def starting_values(family: Any, start: Mapping[str, float] | None) -> dict[str, float]:
    """Names of the scales and where they start.

    Raises:
        DomainError: not a family, no starting values, or values that are not positive.
    """
    check(
        callable(family),
        f"family must be a callable of keywords such as ntk.mlp_family('erf'), got "
        f"{type(family).__name__}.",
        DomainError,
    )
    given = getattr(family, "start", None) if start is None else start
    check(
        isinstance(given, Mapping) and len(given) > 0,
        "start must map the names of the scales to positive numbers; this family has none of its "
        f"own, got {given!r}.",
        DomainError,
    )
    assert isinstance(given, Mapping)
    return {name: float(number(v, f"start[{name!r}]", above=0)) for name, v in given.items()}


class Objective:
    """Loss and gradient on the host, as functions of the logarithms of the scales."""

    #: What stands for a loss that is not finite.
    infeasible = 1e30

    def __init__(self, compiled: Callable[[Any], Any]) -> None:
        self.compiled = compiled

    @float64_scope
    def __call__(self, u: np.ndarray) -> tuple[float, np.ndarray]:
        """Loss, and its gradient."""
        value, gradient = self.compiled(jnp.asarray(u))
        gradient = np.asarray(gradient, np.float64)
        if not (np.isfinite(value) and np.isfinite(gradient).all()):
            return self.infeasible, np.zeros(len(u))
        return float(value), gradient


def _moments(scale: Any, target_scale: Any) -> tuple[float, float, float]:
    """``E[s1^2]``, ``E[s2^2]`` and ``E[s1 s2]`` of the two scales, each 1 where there is none."""
    first = 1.0 if scale is None else scale.moment(1.0)
    second = 1.0 if target_scale is None else target_scale.moment(1.0)
    if scale is None and target_scale is None:
        return 1.0, 1.0, 1.0
    if scale is not None and target_scale is not None:
        same = scale == target_scale
        return first, second, first if same else comonotone_moment(scale, target_scale)
    return first, second, (scale if target_scale is None else target_scale).moment(0.5)


def make_objective(
    family: Any,
    names: tuple[str, ...],
    x: Any,
    target: Target,
    loss: str,
    nugget: float | None,
    direction: str,
    scale: Any,
    target_scale: Any,
) -> Objective:
    """The compiled loss of a family.

    Raises:
        DomainError: ``"kl"`` without a nugget or with random scales; a nugget elsewhere.
    """
    if loss == "kl":
        check(
            nugget is not None,
            "loss='kl' needs nugget=, a variance > 0 added to both covariances: the divergence "
            "of smooth kernels depends on it more than on the kernels. Or use loss='w2'.",
            DomainError,
        )
        number(nugget, "nugget", above=0)
        check(scale is None and target_scale is None, "kl takes no random scales.", DomainError)
    else:
        check(nugget is None, f"nugget is for loss='kl', not {loss!r}.", DomainError)
    first, second, joint = _moments(scale, target_scale)
    stack, weights = jnp.asarray(np.stack(target.matrices)), jnp.asarray(target.weights)

    def one(A: Any, B: Any) -> Any:
        if loss == "kl":
            return kl_shifted(*((A, B) if direction == "forward" else (B, A)), nugget)
        return first * jnp.trace(A) + second * jnp.trace(B) - 2 * joint * overlap(A, B)

    def total(u: Any) -> Any:
        values = {name: jnp.exp(u[i]) for i, name in enumerate(names)}
        A = family_kernel(family(**values))(x)
        A = 0.5 * (A + A.T).astype(jnp.float64)
        if len(stack) == 1:
            return one(A, stack[0])
        return jnp.sum(weights * jax.lax.map(lambda B: one(A, B), stack))

    return Objective(jax.jit(jax.value_and_grad(total)))
