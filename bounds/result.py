"""What this package returns: numbers together with what they rest on.

A bare number hides whether it is a theorem, for how many samples and with which probability it
holds, and what was assumed. :class:`Bound` and :class:`Estimate` carry that; ``float(result)``
gives the number back.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from deeplimits.errors import DomainError
from deeplimits.pytrees import register_dataclass

#: How far a number can be trusted.
RIGOR = ("theorem", "exact", "leading-order", "heuristic")
#: When a bound holds.
HOLDS = ("always", "expectation", "probability")


class _Number:
    """What bounds and estimates have in common."""

    value: Any
    units: str

    def __float__(self) -> float:
        return float(self.value)

    @property
    def bits(self) -> Any:
        """The value in bits (an information only).

        Raises:
            DomainError: the value is not measured in nats.
        """
        if self.units != "nats":
            raise DomainError(
                f"bits are for quantities in nats; this one has units {self.units!r}."
            )
        return self.value / math.log(2)


@register_dataclass
@dataclass(frozen=True)
class Bound(_Number):
    """A number that another one cannot exceed (or fall below).

    Attributes:
        value: the bound.
        target: what is bounded, such as ``"risk"``, ``"gap"`` or ``"information"``.
        direction: ``"upper"`` or ``"lower"``.
        holds: ``"always"``, in ``"expectation"``, or with ``"probability"`` 1 - ``delta``.
        delta: probability of failure, or None.
        terms: named ingredients; how they combine is in the docstring of the function.
        rigor: ``"theorem"``, ``"exact"``, ``"leading-order"`` or ``"heuristic"``.
        assumptions: sentences.
        n: number of samples, or None.
        units: ``"nats"``, or ``"1"`` for risks and gaps.
        trivial: the value from which on the bound says nothing, or None.
        reference: citation.
        warnings: sentences.
        at_delta: the same bound at another ``delta``, for :func:`best`.
    """

    value: Any
    terms: dict[str, Any] = field(default_factory=dict)
    target: str = field(default="risk", metadata={"static": True})
    direction: str = field(default="upper", metadata={"static": True})
    holds: str = field(default="always", metadata={"static": True})
    delta: float | None = field(default=None, metadata={"static": True})
    rigor: str = field(default="theorem", metadata={"static": True})
    assumptions: tuple[str, ...] = field(default=(), metadata={"static": True})
    n: int | None = field(default=None, metadata={"static": True})
    units: str = field(default="1", metadata={"static": True})
    trivial: float | None = field(default=None, metadata={"static": True})
    reference: str = field(default="", metadata={"static": True})
    warnings: tuple[str, ...] = field(default=(), metadata={"static": True})
    at_delta: Callable[[float], Bound] | None = field(
        default=None, repr=False, compare=False, metadata={"static": True}
    )

    @property
    def vacuous(self) -> bool:
        """Whether the bound says no more than what is known without it."""
        if self.trivial is None:
            return False
        value = float(self.value)
        beyond = value >= self.trivial if self.direction == "upper" else value <= self.trivial
        return beyond or math.isnan(value)

    def explain(self) -> str:
        """The bound in words: what, when, under which assumptions, from which terms."""
        sign = "<=" if self.direction == "upper" else ">="
        when = {
            "always": "always",
            "expectation": "in expectation",
            "probability": f"with probability at least {1 - (self.delta or 0):g}",
        }[self.holds]
        head = f"{self.target} {sign} {float(self.value):.6g}{_unit(self.units)} {when}"
        head += f" (n = {self.n})" if self.n is not None else ""
        head += "; vacuous" if self.vacuous else ""
        return _paragraph(head, self)


@register_dataclass
@dataclass(frozen=True)
class Estimate(_Number):
    """A computed or estimated number with its uncertainty.

    Attributes:
        value: the number.
        stderr: standard error of a sampled value; 0 for an exact one, None where unknown.
        bracket: lower and upper bound in expectation, or None.
        ceiling: the largest value that the method can return, or None.
        terms: named ingredients.
        target: what is estimated.
        method: name of the method.
        n: number of samples or points.
        rigor, assumptions, units, reference, warnings: as in :class:`Bound`.
        holds: ``"always"`` for exact values, else ``"expectation"``.
        dims: dimensions of the variables, or ().
    """

    value: Any
    stderr: Any = None
    bracket: tuple[Any, Any] | None = None
    ceiling: Any = None
    terms: dict[str, Any] = field(default_factory=dict)
    target: str = field(default="information", metadata={"static": True})
    method: str = field(default="", metadata={"static": True})
    n: int | None = field(default=None, metadata={"static": True})
    rigor: str = field(default="exact", metadata={"static": True})
    assumptions: tuple[str, ...] = field(default=(), metadata={"static": True})
    holds: str = field(default="always", metadata={"static": True})
    units: str = field(default="nats", metadata={"static": True})
    reference: str = field(default="", metadata={"static": True})
    warnings: tuple[str, ...] = field(default=(), metadata={"static": True})
    dims: tuple[int, ...] = field(default=(), metadata={"static": True})

    @property
    def clipped(self) -> float:
        """The value, or 0 where sampling noise made an information negative."""
        return max(float(self.value), 0.0)

    def explain(self) -> str:
        """The estimate in words."""
        head = f"{self.target} = {float(self.value):.6g}"
        if self.stderr:
            head += f" +- {float(self.stderr):.2g}"
        head += _unit(self.units) + (f" by {self.method}" if self.method else "")
        if self.bracket is not None:
            head += f"; between {float(self.bracket[0]):.6g} and {float(self.bracket[1]):.6g}"
        return _paragraph(head, self)


def _unit(units: str) -> str:
    return "" if units == "1" else f" {units}"


def _paragraph(head: str, result: Any) -> str:
    """The head line, then terms, assumptions and warnings, one a line."""
    lines = [f"{head}. Rigor: {result.rigor}."]
    if result.reference:
        lines.append(f"Source: {result.reference}.")
    if result.terms:
        lines.append("Terms: " + ", ".join(f"{k} = {_short(v)}" for k, v in result.terms.items()))
    lines += [f"Assumes: {text}" for text in result.assumptions]
    lines += [f"Warning: {text}" for text in result.warnings]
    return "\n".join(lines)


def _short(value: Any) -> str:
    try:
        return f"{float(value):.6g}"
    except (TypeError, ValueError):
        return str(value)


def best(candidates: Sequence[Bound]) -> Bound:
    r"""The tightest of several bounds on the same quantity, its choice paid for.

    Bounds that hold with probability :math:`1 - \delta` each hold together only with
    :math:`1 - \sum_i \delta_i`. Each such candidate is therefore computed again at
    :math:`\delta_i / m`, m their number, before the smallest (largest, for lower bounds) is taken:
    the result holds with probability :math:`1 - \max_i \delta_i`.

    Args:
        candidates: bounds of one target, direction and unit; all of rigor ``"theorem"`` or
            ``"exact"``.

    Returns:
        The best :class:`Bound`, with ``terms["candidates"]``.

    Raises:
        DomainError: no candidates; different targets; one that is no theorem, holds in another
            sense, or cannot be computed at another ``delta``.

    Source: union bound. Check: tests/bounds/test_result.py
    """
    items = list(candidates)
    if not items or not all(isinstance(b, Bound) for b in items):
        raise DomainError(f"candidates must be a non-empty list of Bound records, got {items!r}.")
    kinds = {(b.target, b.direction, b.units) for b in items}
    if len(kinds) > 1:
        raise DomainError(f"candidates must bound the same quantity, got {sorted(kinds)}.")
    weak = sorted({b.rigor for b in items} - {"theorem", "exact"})
    if weak:
        raise DomainError(
            f"candidates must be theorems, got one of rigor {weak[0]!r}: compare it by hand."
        )
    if len({b.holds == "expectation" for b in items}) > 1:
        raise DomainError(
            "candidates mix bounds in expectation with bounds in probability; compare each kind."
        )
    chance = [b for b in items if b.holds == "probability"]
    if len(chance) > 1:
        items = [b for b in items if b.holds != "probability"]
        items += [_at_share(b, len(chance)) for b in chance]
    pick = min if items[0].direction == "upper" else max
    winner = pick(items, key=lambda b: float(b.value))
    total = max((b.delta for b in chance if b.delta is not None), default=winner.delta)
    terms = {**winner.terms, "candidates": len(items)}
    return dataclasses.replace(winner, terms=terms, delta=total)


def _at_share(bound: Bound, count: int) -> Bound:
    """``bound`` at its ``delta`` divided by ``count``."""
    if bound.at_delta is None or bound.delta is None:
        raise DomainError(
            f"the bound on the {bound.target} ({bound.reference or 'no reference'}) cannot be "
            "computed at a smaller delta; make it with at_delta, or pass it alone."
        )
    return bound.at_delta(bound.delta / count)
