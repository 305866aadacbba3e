r"""Claims: a theory value, an experiment that tests it, and the rule by which they must agree.

A claim is registered once and then serves the tests, the command line, the notebooks and the table
in the README. The smallest use needs no registry::

    c = compare(theory=1.0, experiment=lambda key, size: samples, sizes=[10, 100], key=0)
    c.passed; c.max_z; c.exponent; print(c.table()); c.plot()

Claims of the packages live in the modules named in :data:`MODULES`, which :func:`load_claims`
imports when they are first asked for.
"""

from __future__ import annotations

import difflib
import importlib
import importlib.util
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from deeplimits.comparison import DECAYS, Comparison, run
from deeplimits.errors import DomainError
from deeplimits.typing import Key
from deeplimits.validate import as_key, choice, number

#: Where claims are looked for; a module that does not exist is skipped.
MODULES = (
    "deeplimits.claims_foundation",
    "ntk.claims",
    "ntk.claims_depth",
    "ntk.claims_criticality",
    "ntk.claims_finite_width",
    "ntk.claims_spectra",
    "gp.claims",
    "gp.claims_finite_width",
    "gp.claims_regression",
    "gp.claims_mixtures",
    "bounds.claims",
    "bounds.claims_mutual_information",
    "bounds.claims_collapse",
    "bounds.claims_similarity",
    "gp.claims_classify",
    "gp.claims_dkm",
    "gp.claims_priors",
    "gp.claims_score",
    "statmech.claims_hopfield",
    "statmech.claims_dense",
    "statmech.claims_multitasking",
    "statmech.claims_glass",
    "statmech.claims_p_spin",
    "statmech.claims_pseudo_inverse",
    "statmech.claims_montecarlo",
    "statmech.claims_associative",
    "statmech.claims_tempering",
    "bounds.claims_information",
)

_REGISTRY: dict[str, Claim] = {}


@dataclass(frozen=True)
class Claim:
    r"""A statement of theory with the experiment that can refute it.

    Judged by ``z``, by ``exponent``, or by both:

    - ``z``: the largest :math:`|mean - theory| / stderr` over all entries must stay below
      :func:`deeplimits.statistics.family_threshold` ``(z, entries, dof)``, so that a claim with
      100 entries is no likelier to fail by chance than one with a single entry.
    - ``exponent``: the quantity named by ``decays`` is fitted by a power of the size. The claim
      passes if the expected exponent lies in the 99% interval widened by ``exponent_tol``, and
      if that interval is narrow enough (half-width at most half the exponent) to mean something.

    Args:
        name: unique, in lower case with hyphens.
        source: citation, such as ``"eq. (4) of arXiv:1806.07572"``.
        statement: one sentence.
        theory: a value or array, or a function without arguments or of the size that returns one.
        experiment: function ``(key, size)`` that returns independent samples ``(n_samples, ...)``,
            or an object with ``mean`` and ``stderr`` (:class:`deeplimits.statistics.Estimate`).
        sizes: increasing positive numbers: widths, sample counts, system sizes.
        exponent: power of the size with which ``decays`` is expected to change, or None.
        z: bound for one entry, > 0, or None.
        decays: ``"difference"`` (root mean square over entries of mean - theory, with the sampling
            noise subtracted), ``"variance"`` or ``"std"`` (of the samples, averaged over entries).
        z_at: judge z at the ``"largest"`` size (theory is a limit) or at ``"all"`` (it is exact).
        exponent_tol: >= 0, room for subleading terms, default 0.1.
        cost: ``"fast"`` (seconds) or ``"slow"``.
        quantity: what is measured, with its unit, for tables and axes.

    Raises:
        DomainError: neither ``z`` nor ``exponent``, or a field out of its range.
    """

    name: str
    source: str
    statement: str
    theory: Any
    experiment: Callable[[Any, Any], Any]
    sizes: Sequence[Any]
    exponent: float | None = None
    z: float | None = None
    decays: str = "difference"
    z_at: str = "largest"
    exponent_tol: float = 0.1
    cost: str = "fast"
    quantity: str = ""

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and self.name):
            raise DomainError(f"name must be a non-empty string, got {self.name!r}.")
        if self.exponent is None and self.z is None:
            raise DomainError(
                f"claim {self.name!r} must be judged by z, exponent or both; got neither."
            )
        if not callable(self.experiment):
            raise DomainError(
                f"experiment of claim {self.name!r} must be a function (key, size) -> samples, "
                f"got {self.experiment!r}."
            )
        sizes = np.asarray(self.sizes)
        numeric = sizes.ndim == 1 and len(sizes) > 0 and sizes.dtype.kind in "iuf"
        if not numeric or not (np.all(sizes > 0) and np.all(np.diff(sizes) > 0)):
            raise DomainError(
                f"sizes of claim {self.name!r} must be positive and increasing, got {self.sizes!r}."
            )
        if self.exponent is not None:
            number(self.exponent, "exponent")
            if len(sizes) < 2:
                raise DomainError(f"claim {self.name!r} needs two sizes or more for an exponent.")
        if self.z is not None:
            number(self.z, "z", above=0)
        number(self.exponent_tol, "exponent_tol", at_least=0)
        choice(self.decays, "decays", DECAYS)
        choice(self.z_at, "z_at", ("largest", "all"))
        choice(self.cost, "cost", ("fast", "slow"))
        object.__setattr__(self, "sizes", tuple(self.sizes))

    def run(self, *, key: Key) -> Comparison:
        """Run the experiment at every size and compare.

        Args:
            key: random key or integer seed. The name of the claim is mixed in, so two claims run
                with one key are independent and a claim does not depend on which others ran.
        """
        return run(self, jax.random.fold_in(as_key(key), zlib.crc32(self.name.encode())))


def compare(
    theory: Any,
    experiment: Callable[[Any, Any], Any],
    sizes: Sequence[Any],
    *,
    key: Key,
    exponent: float | None = None,
    z: float | None = None,
    name: str = "comparison",
    source: str = "",
    statement: str = "",
    **criteria: Any,
) -> Comparison:
    """Compare a theory with an experiment, as a registered claim would be.

    Args:
        theory, experiment, sizes, exponent, name, source, statement: as in :class:`Claim`.
        z: as in :class:`Claim`; 4 when neither ``z`` nor ``exponent`` is given.
        key: random key or integer seed.
        **criteria: the other fields of :class:`Claim`.

    Returns:
        :class:`deeplimits.comparison.Comparison` with ``z``, ``max_z``, ``exponent``, ``passed``,
        ``table()``, ``to_dict()`` and ``plot()``.

    Raises:
        DomainError: as for :class:`Claim`; an experiment that returns NaN or too few samples.
        ShapeError: theory and experiment of different shapes.

    Source: derived here. Check: tests/deeplimits/test_claims_module.py
    """
    if z is None and exponent is None:
        z = 4.0
    claim = Claim(name, source, statement, theory, experiment, sizes, exponent, z, **criteria)
    return claim.run(key=key)


def register(claim: Claim) -> Claim:
    """Add a claim to the registry and return it.

    Raises:
        DomainError: not a claim, or the name is taken.
    """
    if not isinstance(claim, Claim):
        raise DomainError(f"register takes a Claim, got {type(claim).__name__}.")
    if claim.name in _REGISTRY:
        raise DomainError(f"A claim called {claim.name!r} exists already. Choose another name.")
    _REGISTRY[claim.name] = claim
    return claim


def load_claims() -> None:
    """Import the modules in :data:`MODULES` that exist; an error inside one is raised.

    A module that fails leaves no claims behind, so the next call meets the same error and not one
    about duplicate names.
    """
    for module in MODULES:
        try:
            missing = importlib.util.find_spec(module) is None
        except ModuleNotFoundError as error:
            if error.name != module.rpartition(".")[0]:
                raise
            missing = True
        if missing:
            continue
        before = dict(_REGISTRY)
        try:
            importlib.import_module(module)
        except BaseException:
            _REGISTRY.clear()
            _REGISTRY.update(before)
            raise


def claims(names: str | Iterable[str] | None = None, *, slow: bool = True) -> tuple[Claim, ...]:
    """The registered claims, in order of registration, or those called ``names``.

    Args:
        names: one name or several; default all.
        slow: include the slow ones when no names are given, default True.

    Raises:
        DomainError: an unknown name; the message lists near matches.
    """
    load_claims()
    if names is None:
        return tuple(c for c in _REGISTRY.values() if slow or c.cost == "fast")
    return tuple(get(name) for name in ([names] if isinstance(names, str) else names))


def get(name: str) -> Claim:
    """The claim called ``name``.

    Raises:
        DomainError: no such claim; the message lists near matches.
    """
    load_claims()
    if name in _REGISTRY:
        return _REGISTRY[name]
    near = difflib.get_close_matches(str(name), _REGISTRY, n=3, cutoff=0.5)
    hint = f"Near matches: {', '.join(near)}. " if near else ""
    raise DomainError(
        f"No claim is called {name!r}. {hint}`deeplimits list` shows all {len(_REGISTRY)}."
    )


def check(
    names: str | Iterable[str] | None = None, *, key: Key, slow: bool = False
) -> tuple[Comparison, ...]:
    """Run claims and return their comparisons.

    Args:
        names: one name or several, run whatever they cost; default every fast claim.
        key: random key or integer seed.
        slow: with no names, run the slow claims too.

    Raises:
        DomainError: an unknown name.

    Source: derived here. Check: tests/test_claims.py
    """
    key = as_key(key)
    return tuple(claim.run(key=key) for claim in claims(names, slow=slow))
