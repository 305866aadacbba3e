"""Error classes: each is ours and also the matching builtin; ``require`` says what to install."""

import inspect

import pytest

import deeplimits
from deeplimits import errors

BUILTINS = {
    "ShapeError": ValueError,
    "DomainError": ValueError,
    "NotPositiveDefiniteError": ValueError,
    "ConvergenceError": RuntimeError,
    "PrecisionError": RuntimeError,
    "MissingDependencyError": ImportError,
    "UnsupportedLayerError": NotImplementedError,
    "DataError": ValueError,
    "UnstableLearningRateError": errors.DomainError,
    "NoCriticalInitialisation": ValueError,
}
CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and issubclass(value, BaseException)
}


def test_every_error_subclasses_ours_and_a_builtin():
    raised = {n: c for n, c in CLASSES.items() if not issubclass(c, Warning)}
    assert set(raised) == {*BUILTINS, "DeepLimitsError"}
    for name, builtin in BUILTINS.items():
        assert issubclass(raised[name], errors.DeepLimitsError)
        assert issubclass(raised[name], builtin)


def test_every_warning_subclasses_ours():
    issued = {n: c for n, c in CLASSES.items() if issubclass(c, Warning)}
    assert set(issued) == {"DeepLimitsWarning", "PrecisionWarning", "JitterWarning"}
    assert all(issubclass(c, errors.DeepLimitsWarning) for c in issued.values())
    assert issubclass(errors.DeepLimitsWarning, UserWarning)


@pytest.mark.parametrize("name", CLASSES)
def test_every_class_is_documented(name):
    assert CLASSES[name].__doc__


@pytest.mark.parametrize("name", BUILTINS)
def test_exported_from_the_package(name):
    assert getattr(deeplimits, name) is CLASSES[name]


def test_require_returns_the_module():
    assert errors.require("json.decoder").__name__ == "json.decoder"


def test_require_names_the_extra_or_the_package():
    with pytest.raises(
        errors.MissingDependencyError,
        match=r"storing a Gram matrix needs the package 'no_such_package'.*"
        r"Install it with: pip install 'deeplimits\[large\]'",
    ) as caught:
        errors.require("no_such_package", "large", "storing a Gram matrix")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)
    with pytest.raises(
        ImportError, match=r"this feature needs .*Install it with: pip install no_such_package"
    ):
        errors.require("no_such_package")
