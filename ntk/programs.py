"""Traced programs: what ``jax.make_jaxpr`` returns, read by attribute and evaluated again.

Only attributes of the objects that the public function returns are used. A variable of a program
has an ``aval``; a literal also has a ``val``.
"""

from __future__ import annotations

from typing import Any

#: Calls that may be evaluated in place without changing derivatives.
PLAIN_CALLS = ("jit", "pjit", "closed_call", "core_call", "remat", "remat2", "checkpoint")

#: Calls that carry a derivative rule of their own, which evaluation in place would lose.
CUSTOM_CALLS = ("custom_jvp_call", "custom_vjp_call", "custom_vjp_call_jaxpr")


def is_literal(v: Any) -> bool:
    """Whether an operand is a constant written into the program."""
    return hasattr(v, "val")


def inner_program(eqn: Any, calls: tuple[str, ...] = PLAIN_CALLS) -> tuple[Any, Any] | None:
    """Program and constants of a call of one of these kinds, else None."""
    if eqn.primitive.name not in calls:
        return None
    inner = eqn.params.get("jaxpr", eqn.params.get("call_jaxpr", eqn.params.get("fun_jaxpr")))
    program = getattr(inner, "jaxpr", inner)
    if program is None or len(program.invars) != len(eqn.invars):
        return None
    return program, getattr(inner, "consts", ())


def bind(eqn: Any, values: list[Any]) -> list[Any]:
    """Evaluate one equation; its parameters come as a dict, or with sub-functions before it."""
    bound = eqn.primitive.get_bind_params(eqn.params)
    functions, params = ((), bound) if isinstance(bound, dict) else bound
    out = eqn.primitive.bind(*functions, *values, **params)
    return list(out) if eqn.primitive.multiple_results else [out]


def evaluate(program: Any, consts: Any, args: Any, rule: Any) -> list[Any]:
    """Evaluate a program with calls of all kinds in place.

    ``rule(eqn, values)`` may return the outputs of an equation itself, or None.
    """
    env = dict(zip(program.constvars, consts, strict=True))
    env.update(zip(program.invars, args, strict=True))
    for eqn in program.eqns:
        values = [v.val if is_literal(v) else env[v] for v in eqn.invars]
        outs, inner = rule(eqn, values), inner_program(eqn, PLAIN_CALLS + CUSTOM_CALLS)
        if outs is None:
            outs = bind(eqn, values) if inner is None else evaluate(*inner, values, rule)
        env.update(zip(eqn.outvars, outs, strict=True))
    return [v.val if is_literal(v) else env[v] for v in program.outvars]
