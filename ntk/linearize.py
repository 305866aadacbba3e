r"""Models as polynomials of their parameters around a point: degree one, and any degree.

The network that the tangent kernel describes exactly is the linearised one; the higher Taylor
polynomials measure how far a network is from it.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from deeplimits.errors import ShapeError, UnsupportedLayerError
from deeplimits.validate import integer
from ntk.models import Problem, as_problem
from ntk.programs import CUSTOM_CALLS, evaluate, inner_program


def linearize(f: Any, params: Any) -> Callable[[Any, Any], Any]:
    r"""The model linearised in its parameters.

    .. math:: f_{lin}(\theta, x) = f(\theta_0, x) + J(x) (\theta - \theta_0)

    Args:
        f: ``f(params, x)``, or a model as for :func:`ntk.empirical.empirical_ntk`.
        params: the point of expansion; integer and boolean leaves stay what they are here.

    Returns:
        ``f_lin(params, x)`` with the outputs of ``f``; linear in ``params``, differentiable. For a
        flax or equinox model its ``params`` are those of :func:`ntk.models.as_function`.

    Raises:
        DomainError: no floating-point or complex parameters.
        ShapeError: ``f_lin`` is called with parameters of another structure or shape.

    Source:
        arXiv:1902.06720, eq. (5).

    Check:
        tests/ntk/test_linearize.py::test_linearize_is_exact_tangent
    """
    return taylor_expand(f, params, 1)


def taylor_expand(f: Any, params: Any, degree: int) -> Callable[[Any, Any], Any]:
    r"""The Taylor polynomial of the model in its parameters.

    .. math:: f_D(\theta, x) = \sum_{k=0}^{D} \frac{1}{k!} \left. \frac{d^k}{dt^k}
              f(\theta_0 + t (\theta - \theta_0), x) \right|_{t=0}

    All coefficients come from one pass of Taylor-mode differentiation
    (``jax.experimental.jet``), whose cost grows as ``degree**2``; nested derivatives would double
    it with every degree.

    Args:
        f, params: as for :func:`linearize`.
        degree: >= 0; 0 is the model at ``params``, 1 is :func:`linearize`.

    Returns:
        ``f_D(params, x)``. At a kink (ReLU at 0) the derivative is that of JAX for degree 1 and the
        mean of both sides above.

    Raises:
        DomainError: ``degree`` no integer >= 0, no floating-point or complex parameters.
        ShapeError: ``f_D`` is called with parameters of another structure or shape.
        UnsupportedLayerError: for ``degree`` >= 2, the model uses an operation without a Taylor
            rule (loops, sorting, max-pooling), which is named.

    Source:
        Taylor polynomial; Bettencourt, Johnson, Duvenaud, "Taylor-mode automatic differentiation
        for higher-order derivatives in JAX" (2019) for the algorithm.

    Check:
        tests/ntk/test_linearize.py::test_taylor_matches_nested_derivatives, ::test_taylor_cost
    """
    degree = integer(degree, "degree", at_least=0)
    base = as_problem(f, params)

    def polynomial(params: Any, x: Any) -> Any:
        """The Taylor polynomial at ``params``."""
        leaves = _same_structure(f, params, base)
        tangent = [jnp.asarray(a - b) for a, b in zip(leaves, base.leaves, strict=True)]
        if degree == 0:
            return base.apply(base.leaves, x)
        if degree == 1:
            at = [jnp.asarray(leaf) for leaf in base.leaves]
            out, slope = jax.jvp(lambda p: base.apply(p, x), (at,), (tangent,))
            return jax.tree.map(jnp.add, out, slope)
        return _jet_sum(lambda *p: base.apply(list(p), x), base.leaves, tangent, degree)

    return polynomial


def _same_structure(f: Any, params: Any, base: Problem) -> list[Any]:
    """Trained leaves of ``params``, which must have the structure of the point of expansion."""
    other = as_problem(f, params)
    mine, theirs = (
        [(name, jnp.shape(leaf)) for name, leaf in zip(p.names, p.leaves, strict=True)]
        for p in (base, other)
    )
    if mine != theirs:
        raise ShapeError(
            "params must have the structure and shapes of the point of expansion, "
            f"{mine}, got {theirs}."
        )
    return other.leaves


def _jet_sum(f: Callable[..., Any], leaves: list[Any], tangent: list[Any], degree: int) -> Any:
    """``f`` along the ray with these coefficients, summed at t = 1.

    ``f`` is traced first and its calls are evaluated in place, because ``jet`` leaks tracers out of
    functions with a derivative rule of their own (ReLU, softplus).
    """
    from jax.experimental import jet

    leaves = [jnp.asarray(leaf) for leaf in leaves]
    series = [[t] + [jnp.zeros_like(t)] * (degree - 1) for t in tangent]
    program, shape = jax.make_jaxpr(f, return_shape=True)(*leaves)

    def along(*args: Any) -> Any:
        return evaluate(program.jaxpr, program.consts, args, _smooth)[0]

    try:
        out, terms = jet.jet(along, leaves, series, factorial_scaled=False)
    except KeyError as error:
        raise UnsupportedLayerError(
            f"the operation {error.args[0]} has no Taylor rule, so polynomials of degree >= 2 are "
            "not available for this model. Write it without this operation, or use linearize."
        ) from error
    return functools.reduce(jnp.add, terms, out).reshape(shape.shape)


def _smooth(eqn: Any, values: list[Any]) -> list[Any] | None:
    """``logaddexp`` (softplus, mish) in a form whose Taylor series is right at equal arguments.

    Its own program takes the maximum and the absolute value of the difference, whose kinks cancel
    in the value but not in a Taylor series at the kink.
    """
    call = inner_program(eqn, CUSTOM_CALLS)
    info = getattr(call[0], "debug_info", None) if call else None
    if not str(getattr(info, "func_src_info", "")).startswith("logaddexp "):
        return None
    top = lax.stop_gradient(jnp.maximum(*values))
    return [top + jnp.log(sum(jnp.exp(v - top) for v in values))]
