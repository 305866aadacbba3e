"""Structured derivatives: where a weight enters through a matrix product, convolution or lookup.

The program of one example is traced and its equations are walked. A leaf that reaches exactly one
product (:mod:`ntk.products`), and gets there only through reshapes, transposes and scalar factors,
contributes ``A`` and ``G`` (:mod:`ntk.factors`); a bias added to a product is one more row of its
weight, which meets a constant 1. Every other leaf (scales, weights used twice or inside loops)
contributes its plain Jacobian from the same backward pass.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from ntk.factors import Jacobian, Lookup, Outer
from ntk.products import as_factor, is_product, takes_bias
from ntk.programs import bind, inner_program, is_literal

_RELABEL = ("reshape", "transpose", "squeeze", "expand_dims", "copy", "rev", "neg")

#: Position of an equation: its number in the program, then in the call inside it, and so on.
Path = tuple[int, ...]


class Site(NamedTuple):
    """Where a leaf is used: the equation and the leaf's position in it.

    ``bias`` is the leaf added to the (scaled) product, which is operand ``side`` of the addition.
    """

    leaf: int
    equation: Any
    operand: int
    bias: int | None = None
    side: int = 0


class Plan(NamedTuple):
    """A traced program and what is known about its leaves.

    ``views``: equations whose output is a leaf or a product up to a scalar, and which operand that
    is; ``probes``: equations whose output gets the probe of a site; ``rest``: unstructured leaves.
    """

    program: Any
    sites: dict[Path, Site]
    probes: dict[Path, Site]
    views: dict[Path, int]
    rest: tuple[int, ...]


def _is_scaling(eqn: Any, operand: int) -> bool:
    """Whether the output is the operand times or divided by a scalar."""
    source, out = eqn.invars[operand].aval, eqn.outvars[0].aval
    if eqn.primitive.name == "mul" or (eqn.primitive.name == "div" and operand == 0):
        return source.shape == out.shape and eqn.invars[1 - operand].aval.size == 1
    return False


def _is_view(eqn: Any, operand: int) -> bool:
    """Whether the output is the operand up to relabelling, sign and a scalar factor."""
    name, source, out = eqn.primitive.name, eqn.invars[operand].aval, eqn.outvars[0].aval
    if name == "convert_element_type":
        return bool(jnp.issubdtype(out.dtype, jnp.floating))
    if name == "broadcast_in_dim":
        return source.size == out.size
    return name in _RELABEL or _is_scaling(eqn, operand)


class _Walk:
    """Collects, for every leaf, the equations that use it (None: a use without structure)."""

    def __init__(self) -> None:
        self.uses: dict[int, list[Path | None]] = {}
        self.sites: dict[Path, Site] = {}
        self.biases: dict[Path, tuple[Path, int, int]] = {}  # addition: site, leaf, side
        self.views: dict[Path, int] = {}

    def use(self, leaf: int, path: Path | None) -> None:
        self.uses.setdefault(leaf, []).append(path)

    def program(self, program: Any, views: dict[Any, int], path: Path) -> list[int | None]:
        """Walk ``program`` with these variables known to be leaves; which outputs are leaves."""
        used = [v for eqn in program.eqns for v in eqn.invars] + list(program.outvars)
        counts = Counter(v for v in used if not is_literal(v))
        products: dict[Any, Path] = {}  # variables that are a product up to a scalar
        for i, eqn in enumerate(program.eqns):
            here = (*path, i)
            seen = [None if is_literal(v) else views.get(v) for v in eqn.invars]
            alone = [None if is_literal(v) or counts[v] > 1 else v for v in eqn.invars]
            single = [products.get(v) for v in alone]
            if self.bias(eqn, seen, single, here):
                continue
            if any(leaf is not None for leaf in seen):
                for v, leaf in zip(eqn.outvars, self.equation(eqn, seen, here), strict=False):
                    if leaf is not None:
                        views[v] = leaf
            for operand, site in enumerate(single):
                if site is not None and _is_scaling(eqn, operand):
                    self.views[here] = operand
                    products[eqn.outvars[0]] = site
            if here in self.sites:
                products[eqn.outvars[0]] = here
        return [None if is_literal(v) else views.get(v) for v in program.outvars]

    def bias(self, eqn: Any, seen: list[Any], single: list[Any], path: Path) -> bool:
        """Recognise a product plus a leaf that varies along the units only."""
        if eqn.primitive.name != "add":
            return False
        for operand, site in enumerate(single):
            leaf, other = seen[1 - operand], eqn.invars[1 - operand].aval
            if site is None or leaf is None:
                continue
            if takes_bias(self.sites[site].equation, self.sites[site].operand, other.shape):
                self.biases[path] = (site, leaf, operand)
                self.use(leaf, path)
                return True
        return False

    def equation(self, eqn: Any, seen: list[int | None], path: Path) -> list[int | None]:
        """Classify one equation that meets leaves; which of its outputs are views of leaves."""
        inner = inner_program(eqn)
        if inner is not None:
            pairs = zip(inner[0].invars, seen, strict=True)
            return self.program(inner[0], {v: k for v, k in pairs if k is not None}, path)
        used = [(position, leaf) for position, leaf in enumerate(seen) if leaf is not None]
        for operand, leaf in used:
            if _is_scaling(eqn, operand) or (len(used) == 1 and _is_view(eqn, operand)):
                self.views[path] = operand
                for position, scalar in used:
                    if position != operand:
                        self.use(scalar, None)
                return [leaf]
        for operand, leaf in used:
            if path not in self.sites and is_product(eqn, operand):
                self.sites[path] = Site(leaf, eqn, operand)
                self.use(leaf, path)
            else:
                self.use(leaf, None)
        return []


def make_plan(single: Any, leaves: Any, row: Any, *, merge_biases: bool = True) -> Plan:
    """Trace ``single(leaves, row) -> (outputs,)`` and find the structured leaves."""
    program = jax.make_jaxpr(single)(leaves, row)
    walk = _Walk()
    arguments = {v: k for k, v in enumerate(program.jaxpr.invars[: len(leaves)])}
    for leaf in walk.program(program.jaxpr, arguments, ()):
        if leaf is not None:
            walk.use(leaf, None)
    once = {paths[0]: leaf for leaf, paths in walk.uses.items() if len(paths) == 1}
    sites = {path: site for path, site in walk.sites.items() if once.get(path) == site.leaf}
    probes = dict(sites)
    for path, (product, leaf, side) in walk.biases.items():
        if merge_biases and product in sites and once.get(path) == leaf:
            sites[product] = sites[product]._replace(bias=leaf, side=side)
            probes[path] = sites[product]
            del probes[product]
    rest = set(walk.uses) - {k for site in sites.values() for k in (site.leaf, site.bias)}
    return Plan(program, sites, probes, walk.views, tuple(sorted(rest)))


class _Run:
    """One evaluation of the program with probes added; what the sites met on the way."""

    def __init__(self, plan: Plan, probes: dict[int, Any]) -> None:
        self.plan, self.probes = plan, probes
        self.operands: dict[int, Any] = {}
        self.scales: dict[int, list[Any]] = {}

    def program(
        self, program: Any, consts: Any, args: Any, scales: list[Any], path: Path = ()
    ) -> tuple[list[Any], list[Any]]:
        """Outputs, and the scalar factor of each output that is a view (else None)."""
        env = dict(zip(program.constvars, consts, strict=True))
        env.update(zip(program.invars, args, strict=True))
        scale = dict(zip(program.invars, scales, strict=True))
        for i, eqn in enumerate(program.eqns):
            values = [v.val if is_literal(v) else env[v] for v in eqn.invars]
            factors = [None if is_literal(v) else scale.get(v) for v in eqn.invars]
            outs, factors = self.equation(eqn, values, factors, (*path, i))
            env.update(zip(eqn.outvars, outs, strict=True))
            scale.update(zip(eqn.outvars, factors, strict=True))
        outputs = program.outvars
        return (
            [v.val if is_literal(v) else env[v] for v in outputs],
            [None if is_literal(v) else scale.get(v) for v in outputs],
        )

    def equation(
        self, eqn: Any, values: list[Any], scales: list[Any], path: Path
    ) -> tuple[list[Any], list[Any]]:
        inner = inner_program(eqn)
        if inner is not None:
            return self.program(*inner, values, scales, path)
        outs = bind(eqn, values)
        factors = [None] * len(outs)
        if path in self.plan.views:
            factors = [_scaled(eqn, values, scales, self.plan.views[path])]
        site = self.plan.sites.get(path)
        if site is not None:
            self.operands[site.leaf] = values[1 - site.operand]
            self.scales[site.leaf] = [scales[site.operand]]
        if path in self.plan.probes:
            probed = self.plan.probes[path]
            outs = [outs[0] + self.probes[probed.leaf]]
            if site is None:  # the addition of a bias
                self.scales[probed.leaf] += [scales[probed.side], scales[1 - probed.side]]
        return outs, factors


def _scaled(eqn: Any, values: list[Any], scales: list[Any], operand: int) -> Any:
    scale, name = scales[operand], eqn.primitive.name
    if name not in ("mul", "div"):
        return scale
    factor = jnp.reshape(values[1 - operand], ())
    factor = 1 / factor if name == "div" else factor
    return factor if scale is None else scale * factor


def sample_factors(plan: Plan, leaves: Any, row: Any, outputs: int, dtype: Any) -> dict[int, Any]:
    """Factors of the Jacobian of one example, by leaf.

    Absent are leaves without influence, and biases that are part of the factor of their weight.
    """
    products = {site.leaf: site.equation.outvars[0].aval for site in plan.probes.values()}
    probes = {leaf: jnp.zeros(out.shape, out.dtype) for leaf, out in products.items()}

    def run(probes: Any, rest: Any) -> Any:
        args = list(leaves)
        for k, value in zip(plan.rest, rest, strict=True):
            args[k] = value
        job = _Run(plan, probes)
        program = plan.program
        outs, _ = job.program(program.jaxpr, program.consts, [*args, row], [None] * (len(args) + 1))
        return outs[0], (job.operands, job.scales)

    rest = [jnp.asarray(leaves[k]) for k in plan.rest]
    out, pull, (operands, scales) = jax.vjp(run, probes, rest, has_aux=True)
    cotangents, jacobians = jax.vmap(pull)(jnp.eye(outputs, dtype=out.dtype))
    factors: dict[int, Any] = {
        k: Jacobian(j.reshape(outputs, -1).astype(dtype))
        for k, j in zip(plan.rest, jacobians, strict=True)
    }
    for site in plan.probes.values():
        k = site.leaf
        factor = as_factor(site.equation, site.operand, operands[k], cotangents[k].astype(dtype))
        factors[k] = _with_scales(factor, scales[k], site.bias is not None)
    return factors


def _with_scales(factor: Any, scales: list[Any], bias: bool) -> Any:
    """Fold in the scalars of weight and product; append the bias as a fan-in of constant 1."""

    def scaled(a: Any, factors: list[Any]) -> Any:
        for s in factors:
            a = a if s is None else a * s.astype(a.dtype)
        return a

    if isinstance(factor, Lookup):
        return Lookup(factor.index, scaled(factor.g, scales))
    a = scaled(factor.a, scales[:2])
    if bias:
        one = scaled(jnp.ones((*a.shape[:-1], 1), a.dtype), scales[2:])
        a = jnp.concatenate([a, one], axis=-1)
    return Outer(a, factor.g)
