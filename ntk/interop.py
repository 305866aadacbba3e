"""neural-tangents on current JAX, and its networks as networks of this package."""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.metadata
import sys
import warnings
from collections import namedtuple
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from deeplimits import validate
from deeplimits.errors import (
    DomainError,
    MissingDependencyError,
    ShapeError,
    UnsupportedLayerError,
)
from ntk.interop_patches import VERSION, PatchedFinder

#: What ``kernel_fn(..., get=...)`` can return.
FIELDS = ("nngp", "ntk", "cov1", "cov2")
#: Keyword arguments that a network's ``kernel_fn`` hands on, besides ``pattern``.
OPTIONS = ("mask_constant", "diagonal_batch", "diagonal_spatial")


def neural_tangents() -> ModuleType:
    """The package neural-tangents 0.6.5, loaded so that it runs on current JAX.

    Its analytic kernels, ``predict``, the empirical kernels in all implementations, ``linearize``,
    ``taylor_expand``, ``monte_carlo_kernel_fn`` and ``batch`` work; ``experimental``, which needs
    tensorflow, is left out. Only the sources of the package are patched, in memory
    (:mod:`ntk.interop_patches`); JAX itself stays as it is. If the program has already imported a
    working ``neural_tangents``, that one is returned. Under strict promotion rules call its
    functions inside :func:`permissive`.

    Returns:
        The module, the same object as ``import neural_tangents`` gives afterwards.

    Raises:
        MissingDependencyError: not installed, another version, or frozendict is missing.

    Check: ``tests/ntk/test_interop.py::test_empirical_implementations_agree`` and the published
        values in ``tests/ntk/test_interop_networks.py``.
    """
    if hasattr(sys.modules.get("neural_tangents"), "stax"):
        return sys.modules["neural_tangents"]
    finder = PatchedFinder()
    sys.meta_path.insert(0, finder)
    try:
        found = importlib.metadata.version("neural-tangents")
        if found != VERSION:
            raise ImportError(f"version {found} is installed, {VERSION} is needed")
        return importlib.import_module("neural_tangents")
    except ImportError as error:
        for name in [n for n in sys.modules if n.partition(".")[0] == "neural_tangents"]:
            del sys.modules[name]
        raise MissingDependencyError(
            f"neural-tangents {VERSION} cannot be imported ({error}). Install it with: "
            f"pip install --no-deps neural-tangents=={VERSION} && pip install frozendict"
        ) from error
    finally:
        sys.meta_path.remove(finder)


@contextlib.contextmanager
def permissive() -> Iterator[None]:
    """Standard dtype and rank promotion, and two warnings less, inside a ``with``.

    neural-tangents mixes dtypes and ranks freely, which strict settings of JAX refuse. It warns on
    every use of a FanIn layer that it did not check the branches for independence, and for every
    operation for which structured derivatives fall back to a slower, exact rule.
    """
    with (
        warnings.catch_warnings(),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        warnings.filterwarnings("ignore", message="`FanIn` layers assume independent inputs")
        warnings.filterwarnings("ignore", message="No Jacobian rule found for")
        yield


def _permissive(function: Callable[..., Any]) -> Callable[..., Any]:
    """``function`` run inside :func:`permissive`."""

    @functools.wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with permissive():
            return function(*args, **kwargs)

    return wrapped


@jax.tree_util.register_static
@dataclass(frozen=True)
class ExternalNetwork:
    r"""A network of another library with the interface of this one.

    Unpacks as ``init_fn, apply_fn, kernel_fn = net``. ``net.nngp`` and ``net.ntk`` are kernels
    ``k(X, Z=None) -> (n, m)``.

    Args:
        init_fn: ``(key, input_shape) -> (output_shape, params)``.
        apply_fn: ``(params, x) -> outputs``.
        kernel_fn: ``(x1, x2=None, get=None) -> kernels``; see :func:`from_neural_tangents`.
    """

    init_fn: Callable[..., Any]
    apply_fn: Callable[..., Any]
    kernel_fn: Callable[..., Any]

    def __iter__(self) -> Iterator[Callable[..., Any]]:
        return iter((self.init_fn, self.apply_fn, self.kernel_fn))

    def nngp(self, x1: Any, x2: Any = None) -> Any:
        """Covariance of the outputs at infinite width; see :func:`from_neural_tangents`."""
        return self.kernel_fn(x1, x2, "nngp")

    def ntk(self, x1: Any, x2: Any = None) -> Any:
        """Neural tangent kernel at infinite width; see :func:`from_neural_tangents`."""
        return self.kernel_fn(x1, x2, "ntk")


def from_neural_tangents(triple: Any) -> ExternalNetwork:
    r"""Wrap a ``neural_tangents.stax`` network for use in this package.

    .. math:: K(x_1, x_2) = E[f(x_1) f(x_2)], \qquad
        \Theta(x_1, x_2) = E[\nabla_\theta f(x_1) \cdot \nabla_\theta f(x_2)]

    The result's ``kernel_fn`` has the signature ``kernel_fn(x1, x2=None, get=None, **options)``:
    ``x1`` and ``x2`` of shape ``(n, d)`` or ``(n, *spatial, channels)`` (or a list of arrays for a
    network with several inputs); ``get`` one of ``"nngp"``, ``"ntk"``, ``"cov1"``, ``"cov2"``, a
    tuple of these (named tuple), or ``None`` (the kernel record of neural-tangents); ``options``
    are its ``pattern``, ``mask_constant``, ``diagonal_batch`` and ``diagonal_spatial``.
    It is compiled once per shape and ``get``. It differs from the original in four ways: results
    have the dtype of the inputs; spatial axes come in the order of the input, ``(n1, n2, H, H, W,
    W)``, where the original reverses them after an odd number of convolutions; inputs are checked;
    it runs under strict promotion rules.

    Args:
        triple: ``(init_fn, apply_fn, kernel_fn)`` as any layer or combinator of
            ``neural_tangents.stax`` returns it.

    Returns:
        An :class:`ExternalNetwork`. Its ``kernel_fn`` raises ``ShapeError`` (1-D or empty inputs,
        different features, inputs that the network does not accept), ``DomainError`` (NaN, unknown
        ``get``) and ``UnsupportedLayerError`` (no closed form).

    Raises:
        DomainError: ``triple`` is not three functions.

    Source: https://arxiv.org/abs/1912.02803, the library's paper.

    Check: ``tests/ntk/test_interop_networks.py::test_published_values``, ``::test_axis_order``.
    """
    try:
        init_fn, apply_fn, kernel_fn = triple
    except (TypeError, ValueError) as error:
        raise DomainError(_TRIPLE.format(type(triple).__name__)) from error
    if not all(callable(f) for f in (init_fn, apply_fn, kernel_fn)):
        raise DomainError(_TRIPLE.format(type(triple).__name__))
    return ExternalNetwork(_permissive(init_fn), _permissive(apply_fn), _checked(kernel_fn))


_TRIPLE = (
    "triple must be the three functions (init_fn, apply_fn, kernel_fn) that a layer of "
    "neural_tangents.stax returns, got {}. Call the layer first: stax.Relu(), not stax.Relu."
)


def _checked(kernel_fn: Callable[..., Any]) -> Callable[..., Any]:
    """``kernel_fn`` compiled, with checked inputs, their dtype, and axes in the user's order."""

    @functools.partial(jax.jit, static_argnames=("get", "options"))
    def compute(x1: Any, x2: Any, pattern: Any, *, get: Any, options: Any) -> Any:
        kwargs = dict(options) if pattern is None else dict(options, pattern=pattern)
        # All fields of the record are asked for; the compiler drops those that are not returned.
        record = kernel_fn(x1, x2, None, **kwargs)
        dtype = jnp.result_type(*jax.tree.leaves((x1, x2)))
        return jax.tree.map(lambda k: _select(k, get, dtype), record, is_leaf=_is_kernel)

    @functools.wraps(kernel_fn)
    def checked(
        x1: Any, x2: Any = None, get: Any = None, *, pattern: Any = None, **options: Any
    ) -> Any:
        get = _as_get(get)
        for name in options:
            validate.choice(name, "option", OPTIONS)
        masked = options.get("mask_constant") is not None
        x1 = _as_batch(x1, "x1", masked)
        if x2 is not None:
            x2 = _as_batch(x2, "x2", masked)
            _same_features(x1, x2)
        with permissive():
            try:
                return compute(x1, x2, pattern, get=get, options=tuple(sorted(options.items())))
            except NotImplementedError as error:
                raise UnsupportedLayerError(
                    f"neural-tangents has no closed form for this network: {error}. Use the "
                    "kernels of finite networks: ntk.monte_carlo_kernel."
                ) from error
            except (TypeError, ValueError, IndexError, AssertionError) as error:
                if isinstance(error, jax.errors.JAXTypeError):
                    raise
                shapes = jax.tree.map(jnp.shape, x1)
                raise ShapeError(
                    f"The network does not accept inputs of shape {shapes} ({error}). Expected are "
                    "(n, d) for Dense and (n, *spatial, channels) for convolutional networks."
                ) from error

    return checked


def _is_kernel(record: Any) -> bool:
    """Whether ``record`` is a kernel record of neural-tangents (not a list of them)."""
    return hasattr(record, "is_reversed")


def _select(kernel: Any, get: Any, dtype: Any) -> Any:
    """The fields ``get`` of a record, spatial axes in the user's order, the NTK in full shape."""
    if kernel.is_reversed and not kernel.diagonal_spatial:
        kernel = kernel.reverse()
    kernel = kernel.replace(is_reversed=False, ntk=jnp.broadcast_to(kernel.ntk, kernel.nngp.shape))
    if get is None:
        return kernel

    def field(name: str) -> Any:
        value = getattr(kernel, name)
        return None if value is None else value.astype(dtype)

    return field(get) if isinstance(get, str) else _named_tuple(get)(*map(field, get))


@functools.cache
def _named_tuple(names: tuple[str, ...]) -> type:
    return namedtuple("Kernels", names)


def _as_get(get: Any) -> Any:
    """Validated ``get``: ``None``, a name, or a tuple of names."""
    if get is None:
        return None
    if isinstance(get, str):
        return validate.choice(get, "get", FIELDS)
    if not isinstance(get, tuple | list) or not get or len(set(get)) < len(get):
        raise DomainError(f"get must be a name or a tuple of different names, got {get!r}.")
    return tuple(validate.choice(name, "get", FIELDS) for name in get)


def _as_batch(x: Any, name: str, masked: bool) -> Any:
    """Validated inputs; a list of arrays (for a network with several inputs) one by one."""
    if isinstance(x, list | tuple) and any(isinstance(leaf, jax.Array | np.ndarray) for leaf in x):
        return type(x)(_as_batch(leaf, f"{name}[{i}]", masked) for i, leaf in enumerate(x))
    if masked:  # a masked position may hold anything, NaN included
        validate.as_inputs(jnp.nan_to_num(x), name)
        return jnp.asarray(x)
    return validate.as_inputs(x, name)


def _same_features(x1: Any, x2: Any) -> None:
    """Raise :class:`ShapeError` unless ``x1`` and ``x2`` agree but for the number of rows."""
    first, second = str(jax.tree.structure(x1)), str(jax.tree.structure(x2))
    if first != second:
        raise ShapeError(
            "x1 and x2 must both be arrays, or lists of equally many arrays; "
            f"got {first} and {second}."
        )
    for a, b in zip(jax.tree.leaves(x1), jax.tree.leaves(x2), strict=True):
        validate.same_features(a, b)
