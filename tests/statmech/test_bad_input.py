"""Arguments out of range, function by function: an error that names the argument, at once."""

import numpy as np
import pytest

import statmech
from deeplimits.errors import DomainError, ShapeError

EX = statmech.Examples(10, 0.6)
#: Name, function of a load and a temperature. None where there is no such argument.
MODELS = [
    ("hopfield", lambda a, T: statmech.hopfield(a, T)),
    ("hopfield glass", lambda a, T: statmech.hopfield(a, T, "spin_glass")),
    ("pseudo_inverse", lambda a, T: statmech.pseudo_inverse(a, T)),
    ("little", lambda a, T: statmech.little(a, T)),
    ("dense_hebbian", lambda a, T: statmech.dense_hebbian(3, a, T)),
    ("dense_hebbian examples", lambda a, T: statmech.dense_hebbian(2, a, T, examples=EX)),
]
BY_LOAD = [
    ("hopfield_line", lambda a: statmech.hopfield_line("spinodal", a)),
    ("pseudo_inverse_line", lambda a: statmech.pseudo_inverse_line("spinodal", a)),
    ("pseudo_inverse_diagram", lambda a: statmech.pseudo_inverse_diagram(a)),
    ("dense_line", lambda a: statmech.dense_line("spinodal", 4, a)),
]
BY_TEMPERATURE = [
    ("hopfield_capacity", lambda T: statmech.hopfield_capacity(T)),
    ("hopfield_load_line", lambda T: statmech.hopfield_load_line("spinodal", T)),
    ("dense_load", lambda T: statmech.dense_load(4, T)),
    ("multitasking", lambda T: statmech.multitasking(2, 0.1, T)),
    ("sk", lambda T: statmech.sk(T)),
    ("p_spin_state", lambda T: statmech.p_spin_state(3, T)),
    ("rem_state", lambda T: statmech.rem_state(T)),
]
VALUES = [(-0.25, "-0.25"), (np.nan, "nan|finite"), (np.inf, "inf|finite"), ("hot", "real")]


def each(table, names):
    cases = [
        (name, call, argument, value, came)
        for name, call in table
        for argument in names
        for value, came in VALUES
    ]
    return pytest.mark.parametrize(
        ("call", "argument", "value", "came"),
        [c[1:] for c in cases],
        ids=[f"{c[0]}-{c[2]}-{c[3]}" for c in cases],
    )


@each(MODELS, ("alpha", "T"))
def test_load_and_temperature(call, argument, value, came):
    good = {"alpha": 0.02, "T": 0.3}
    with pytest.raises(DomainError, match=rf"{argument} .*({came})"):
        call(*(good | {argument: value}).values())


@each(BY_LOAD, ("alpha",))
def test_loads(call, argument, value, came):
    with pytest.raises(DomainError, match=rf"{argument} .*({came})"):
        call(np.array([0.02, value], dtype=object if isinstance(value, str) else float))


@each(BY_TEMPERATURE, ("T",))
def test_temperatures(call, argument, value, came):
    with pytest.raises(DomainError, match=rf"{argument} .*({came})"):
        call(value)


OTHERS = [
    (lambda: statmech.noise_kernel(1), DomainError, "P must be an integer in 2|P must be"),
    (lambda: statmech.noise_kernel(2.5), DomainError, "P must be an integer"),
    (lambda: statmech.noise_kernel(3, "some"), DomainError, "index must be one of"),
    (lambda: statmech.dense_hebbian(1, 0.1, 0.1), DomainError, "P must be"),
    (lambda: statmech.dense_hebbian(3.5, 0.1, 0.1), DomainError, "P must be an integer"),
    (lambda: statmech.dense_hebbian(2, 0.1, 0.1), DomainError, "use statmech.hopfield"),
    (lambda: statmech.one_step_overlap(4, -0.1), DomainError, "alpha must be >= 0"),
    (lambda: statmech.Examples(0, 0.5), DomainError, "M must be >= 1"),
    (lambda: statmech.Examples(2.5, 0.5), DomainError, "M must be an integer"),
    (lambda: statmech.Examples(2, 0.0), DomainError, "r must be"),
    (lambda: statmech.Examples(2, 1.5), DomainError, "r must be"),
    (lambda: statmech.pseudo_inverse([0.2, 0.3], [0.1] * 3), ShapeError, "do not broadcast"),
    (lambda: statmech.sk([0.2, 0.3], [0.1] * 3), ShapeError, "T and h do not broadcast"),
    (lambda: statmech.sk(0.2, "none"), DomainError, "h must hold real"),
    (lambda: statmech.sk_at_field("cold"), DomainError, "T must hold real"),
    (lambda: statmech.sk_at_temperature("weak"), DomainError, "h must hold real"),
    (lambda: statmech.p_spin_complexity(3, "x"), DomainError, "mu must hold real"),
    (lambda: statmech.phase_diagram("sk", T=["a", "b"]), DomainError, "T must hold real"),
    (lambda: statmech.hopfield_low_load(["a"], 0.5), DomainError, "m0 must hold real"),
    (lambda: statmech.pseudo_inverse(1.0, 0.1), DomainError, r"alpha must lie in \(0, 1\), got 1"),
    (lambda: statmech.dense_pattern_count(4, 0.03, 2000), DomainError, "would take|GB|too many"),
    (lambda: statmech.link_overlap([0.5], 1), DomainError, "N must be >= 2"),
    (lambda: statmech.link_overlap([np.nan], 9), DomainError, "q must be finite"),
    (lambda: statmech.link_overlap([0.5], 9, p=1), DomainError, "p must be >= 2"),
    (lambda: statmech.link_overlap([0.5], 3, p=4), DomainError, "N must be >= 4"),
    (lambda: statmech.p_spin(2), DomainError, "p must be"),
    (lambda: statmech.parisi("sk", -1.0, 1), DomainError, "T must be >= 0"),
    (lambda: statmech.parisi("sk", 0.5, -1), DomainError, "k must be"),
]


@pytest.mark.parametrize(("call", "error", "match"), OTHERS, ids=[o[2][:30] for o in OTHERS])
def test_other_arguments(call, error, match):
    with pytest.raises(error, match=match):
        call()
