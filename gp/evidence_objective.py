r"""The log evidence as a function of the logarithms of a model's positive parameters.

Why a gradient of its own: reverse mode through a network's kernel stores every layer's
intermediate matrices (80 matrices for two hidden layers). Here the kernel is differentiated tile
by tile against :math:`G = \partial \log p / \partial K_n`, so that only a handful of matrices
lives at once, and the tiles stay in the cache.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits.errors import DomainError, ShapeError
from deeplimits.validate import check, finite, is_traced, number
from gp.mixture_evidence import mixture_log_evidence
from gp.mixtures import ScaleMixture, mixture_of
from gp.predictive import LOG_2PI
from gp.process import GP

#: Rows per block of a tile; two blocks make a tile.
BLOCK = 64
#: Points on which a free scale of the kernel is looked for.
_FEW = 12


@dataclass(frozen=True)
class _Static:
    """A leaf that belongs to the program: a Python number that is not fitted, or any object."""

    value: Any
    type: type


@dataclass(frozen=True)
class Problem:
    """How to rebuild a model from its fitted parameters; hashable, so that programs are reused.

    Attributes:
        treedef: structure of the tree that holds the parameters.
        roles: for every leaf: a shape (fitted), ``"array"`` (given, not fitted) or a constant.
        family: the callable that makes a model of keywords, or None.
        method: name of the kernel's method, or "" if the tree itself is the kernel.
        meta: the other fields of the model: ``max_points``, before it ``noise_scaled`` for a scale
            mixture.
        fits_kernel: whether the kernel depends on a fitted parameter.
    """

    treedef: Any
    roles: tuple[Any, ...]
    family: Any
    method: str
    meta: tuple[Any, ...]
    fits_kernel: bool

    def rebuild(self, values: Any, arrays: Any) -> Any:
        """The model with these fitted values ``(P,)``, without its checks."""
        leaves, given, position = [], iter(arrays), 0
        for role in self.roles:
            if isinstance(role, _Static):
                leaves.append(role.value)
            elif role == "array":
                leaves.append(next(given))
            else:
                size = int(np.prod(role))
                leaves.append(values[position : position + size].reshape(role))
                position += size
        tree = self.treedef.unflatten(leaves)
        if self.family is not None:
            return self.family(**tree)
        kernel = getattr(tree["kernel"], self.method) if self.method else tree["kernel"]
        if len(self.meta) == 2:
            return mixture_of(kernel, tree["noise"], tree["prior"], self.meta)
        blank: Any = jax.tree.structure(GP(kernel, max_points=self.meta[-1]))
        return blank.unflatten((tree["noise"], tree["noise_rel"]))

    def finished(self, values: np.ndarray, arrays: Any) -> Any:
        """The model at concrete values, with Python numbers where numbers were."""
        sizes = [int(np.prod(r)) for r in self.roles if isinstance(r, tuple)]
        parts = iter(np.split(np.asarray(values), np.cumsum(sizes)[:-1]) if sizes else ())
        given = iter(arrays)
        leaves = []
        for role in self.roles:
            if isinstance(role, _Static):
                leaves.append(role.value)
            elif role == "array":
                leaves.append(np.asarray(next(given)))
            else:
                part = next(parts)
                leaves.append(part.reshape(role) if role else float(part[0]))
        tree = self.treedef.unflatten(leaves)
        if self.family is not None:
            return self.family(**tree)
        kernel = getattr(tree["kernel"], self.method) if self.method else tree["kernel"]
        if len(self.meta) == 2:
            return ScaleMixture(kernel, tree["prior"], tree["noise"], *self.meta)
        return GP(kernel, tree["noise"], tree["noise_rel"], *self.meta)


@dataclass(frozen=True)
class Fit:
    """A problem, where it starts (logarithms), its constants, and names of the parameters."""

    problem: Problem
    model: GP | ScaleMixture
    start: np.ndarray
    arrays: tuple[Any, ...]
    names: tuple[str, ...]


def _tree_of(model: Any, start: Any) -> tuple[Any, Any, str, Any]:
    """The tree of parameters, the family, the method of the kernel, and the model at the start."""
    if isinstance(model, GP | ScaleMixture):
        check(start is None, "start is for a family; a model holds its own values.", DomainError)
        kernel, method = model.kernel, ""
        owner = getattr(kernel, "__self__", None)
        if owner is not None and not isinstance(kernel, type):
            kernel, method = owner, kernel.__name__
        tree = {"kernel": kernel, "noise": model.noise}
        if isinstance(model, GP):
            return {**tree, "noise_rel": model.noise_rel}, None, method, model
        return {**tree, "prior": model.prior}, None, method, model
    check(
        callable(model) and isinstance(start, Mapping) and len(start) > 0,
        "model must be a gp.GP or gp.ScaleMixture, or a callable of keywords that returns one "
        f"together with start={{name: value}}; got {type(model).__name__} with start={start!r}.",
        DomainError,
    )
    for name, value in start.items():
        number(value, f"start[{name!r}]", above=0)
    first = model(**start)
    check(
        isinstance(first, GP | ScaleMixture),
        f"the family must return a gp.GP or gp.ScaleMixture, got {type(first).__name__}.",
        DomainError,
    )
    return dict(start), model, "", first


def _role(name: str, leaf: Any, fixed: tuple[str, ...]) -> Any:
    """The shape of a leaf that is fitted; else ``"array"`` or a constant."""
    plain = isinstance(leaf, int | float) and not isinstance(leaf, bool)
    array = isinstance(leaf, jax.Array | np.ndarray | np.generic) and not is_traced(leaf)
    if array and not jnp.issubdtype(leaf.dtype, jnp.number):
        return "array"
    if plain or array:
        finite(leaf, name)
        real = plain or jnp.issubdtype(leaf.dtype, jnp.floating)
        if real and np.all(np.asarray(leaf) > 0) and not any(part in name for part in fixed):
            return np.shape(leaf)
        return "array" if array else _Static(leaf, type(leaf))
    return _Static(leaf, type(leaf))


def fitted_parameters(model: Any, start: Any, fixed: tuple[str, ...], n: int) -> Fit:
    """What is fitted of ``model``.

    Raises:
        DomainError: neither a model nor a family with a start, a fragment in ``fixed`` that is no
            text, or nothing that can be fitted.
    """
    check(
        all(isinstance(part, str) and part for part in fixed),
        f"fixed must hold fragments of names (text), got {fixed!r}.",
        DomainError,
    )
    tree, family, method, first = _tree_of(model, start)
    pairs, treedef = jax.tree_util.tree_flatten_with_path(tree)
    labels = [f"{p[0].key}{jax.tree_util.keystr(p[1:])}" for p, _ in pairs]
    roles = tuple(_role(name, leaf, fixed) for name, (_, leaf) in zip(labels, pairs, strict=True))
    fitted = [
        (name, np.asarray(leaf, np.float64))
        for name, (_, leaf), role in zip(labels, pairs, roles, strict=True)
        if isinstance(role, tuple)
    ]
    check(
        bool(fitted),
        f"nothing to fit: of {labels} none is a positive number that is not fixed by {fixed!r}.",
        DomainError,
    )
    arrays = tuple(leaf for (_, leaf), r in zip(pairs, roles, strict=True) if r == "array")
    names = [f"{a}{list(i) if i else ''}" for a, v in fitted for i in np.ndindex(v.shape)]
    in_kernel = family is not None or any(name.startswith("kernel") for name, _ in fitted)
    meta: tuple[Any, ...] = (first.max_points,)
    if isinstance(first, ScaleMixture):
        meta = (bool(first.noise_scaled), *meta)
    problem = Problem(treedef, roles, family, method, meta, in_kernel)
    flat = np.log(np.concatenate([v.ravel() for _, v in fitted]))
    return Fit(problem, first, flat, arrays, tuple(names))


def _noise(problem: Problem, theta: Any, arrays: Any, diagonal: Any) -> Any:
    """Noise variance of every point."""
    model = problem.rebuild(theta, arrays)
    total = jnp.asarray(model.noise)
    if isinstance(model, GP):
        total = total + jnp.asarray(model.noise_rel) * jnp.mean(diagonal)
    return jnp.broadcast_to(total, diagonal.shape)


def _kernel(problem: Problem, theta: Any, arrays: Any, x: Any) -> Any:
    matrix = problem.rebuild(theta, arrays).kernel(x)
    check(
        getattr(matrix, "shape", None) == (x.shape[0],) * 2,
        f"the kernel must return an array of shape {(x.shape[0],) * 2} for these inputs, got "
        f"{getattr(matrix, 'shape', type(matrix).__name__)}.",
        ShapeError,
    )
    return jnp.asarray(matrix).astype(np.float64)


def value_and_gradient(problem: Problem, u: Any, data: Any) -> tuple[Any, Any]:
    """Negative log evidence at ``exp(u)`` and its gradient; infinity and 0 without a factor."""
    theta, x, y, arrays = jnp.exp(u), data["x"], data["y"], data["arrays"]
    given, whole = data["gram"], len(y) <= 2 * BLOCK
    if given is None and whole:
        gram, pull = jax.vjp(lambda t: _kernel(problem, t, arrays, x), theta)
    else:
        gram = _kernel(problem, theta, arrays, x) if given is None else given
    value, slope, grad = _slopes(problem, theta, arrays, gram, y)
    if given is None:
        tiled = functools.partial(_pull_by_tiles, problem, theta, arrays, x)
        grad = grad + (pull(slope)[0] if whole else tiled(slope))
    ok = jnp.isfinite(value) & jnp.all(jnp.isfinite(grad))
    return jnp.where(ok, value, jnp.inf), jnp.where(ok, theta * grad, 0.0)


def _slopes(problem: Problem, theta: Any, arrays: Any, gram: Any, y: Any) -> tuple[Any, Any, Any]:
    """Negative log evidence, its slope in the kernel matrix, and its gradient at a fixed matrix."""
    n, outputs = y.shape
    if len(problem.meta) == 2:

        def mixture(t: Any, K: Any) -> Any:
            model = problem.rebuild(t, arrays)
            scaled = problem.meta[0]
            return -mixture_log_evidence(K, y, model.noise, model.prior, noise_scaled=scaled)

        value, (grad, slope) = jax.value_and_grad(mixture, argnums=(0, 1))(theta, gram)
        return value, 0.5 * (slope + slope.T), grad
    diagonal = jnp.diagonal(gram)
    noise, pull_noise = jax.vjp(lambda t, d: _noise(problem, t, arrays, d), theta, diagonal)
    chol = jnp.linalg.cholesky(gram + jnp.diag(noise))
    alpha = jax.scipy.linalg.cho_solve((chol, True), y)
    inverse = _inverse(chol)
    log_det = 2 * jnp.sum(jnp.log(jnp.diagonal(chol)))
    value = 0.5 * (jnp.sum(y * alpha) + outputs * (log_det + n * LOG_2PI))
    slope = 0.5 * (outputs * inverse - alpha @ alpha.T)
    grad, through_mean = pull_noise(jnp.diagonal(slope))
    return value, slope + jnp.diag(through_mean), grad


def _inverse(chol: Any) -> Any:
    r""":math:`(L L^\top)^{-1}` from four block columns of :math:`L^{-1}`, without their zeros.

    Two triangular solves against the identity would take 2 n^3 operations; this takes 1.1 n^3.
    """
    n = chol.shape[0]
    if n <= 2 * BLOCK:
        return jax.scipy.linalg.cho_solve((chol, True), jnp.eye(n))
    edges = [k * n // 4 for k in range(5)]
    columns = [
        jax.scipy.linalg.solve_triangular(chol[a:, a:], jnp.eye(n - a, b - a), lower=True)
        for a, b in itertools.pairwise(edges)
    ]
    rows: list[list[Any]] = []
    for j, (start, right) in enumerate(zip(edges, columns, strict=False)):
        left = [columns[i][start - edges[i] :] for i in range(j)]
        rows.append([part.T @ right for part in [*left, right]])
    return jnp.block([[rows[j][i] if i <= j else rows[i][j].T for j in range(4)] for i in range(4)])


@functools.partial(jax.jit, static_argnames=("problem",))
def _kernel_and_slopes(problem: Problem, u: Any, arrays: Any, x: Any) -> tuple[Any, Any]:
    """The kernel matrix ``(n, n)`` at ``exp(u)`` and its derivatives ``(n, n, P)``."""

    def kernel(v: Any) -> Any:
        return _kernel(problem, jnp.exp(v), arrays, x)

    return kernel(u), jax.jacfwd(kernel)(u)


def free_scale(problem: Problem, u: np.ndarray, arrays: Any, x: Any) -> np.ndarray | None:
    r"""Weights d of the fitted parameters with :math:`\sum_i d_i\, \partial K / \partial u_i = K`.

    Moving along them multiplies the kernel by a number: the scale that a mixture draws at random.
    None if there are none (least squares over the first points, to 1e-6 of the kernel).
    """
    matrix, slopes = _kernel_and_slopes(problem, jnp.asarray(u), arrays, x[:_FEW])
    columns, goal = np.asarray(slopes).reshape(-1, len(u)), np.asarray(matrix).ravel()
    d = np.linalg.lstsq(columns, goal, rcond=1e-10)[0]
    gap = np.linalg.norm(columns @ d - goal)
    return d if gap <= 1e-6 * np.linalg.norm(goal) else None


def _pull_by_tiles(problem: Problem, theta: Any, arrays: Any, x: Any, slope: Any) -> Any:
    r""":math:`\langle \mathrm{slope}, \partial K / \partial \theta \rangle`, by pairs of blocks.

    A tile is the kernel matrix of two blocks of rows with themselves, so that equal inputs are
    seen as equal. Diagonal blocks appear in every tile of theirs and are weighted accordingly.
    """
    n = x.shape[0]
    blocks = -(-n // BLOCK)
    size = -(-n // blocks)
    # Padding rows have no weight; they are mixtures, since a kernel may have no derivative at
    # pairs of equal inputs and zero times NaN is NaN.
    extra = blocks * size - n
    x = jnp.concatenate([x, 0.618 * x[:extra] + 0.382 * x[1 : extra + 1]])
    slope = jnp.pad(slope, ((0, extra), (0, extra)))
    own = jnp.kron(jnp.eye(2), jnp.ones((size, size)))
    weight = jnp.where(own > 0, 1.0 / (blocks - 1), 1.0)

    def add(total: Any, pair: Any) -> tuple[Any, None]:
        rows = (pair[:, None] * size + jnp.arange(size)[None, :]).reshape(-1)
        pull = jax.vjp(lambda t: _kernel(problem, t, arrays, x[rows]), theta)[1]
        return total + pull(slope[rows][:, rows] * weight)[0], None

    pairs = jnp.stack(jnp.triu_indices(blocks, 1), axis=1)
    return jax.lax.scan(add, jnp.zeros_like(theta), pairs)[0]


@functools.partial(jax.jit, static_argnames=("problem",))
def compiled(problem: Problem, u: Any, data: Any) -> tuple[Any, Any]:
    """:func:`value_and_gradient`, compiled once per architecture and shape."""
    return value_and_gradient(problem, u, data)
