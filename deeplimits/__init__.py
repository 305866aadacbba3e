"""deeplimits: exact limits of deep networks, held against finite networks (shared foundation)."""

import importlib

# Theory against experiment
from deeplimits.claims import (
    Claim as Claim,
    check as check,
    compare as compare,
    load_claims as load_claims,
    register as register,
)
from deeplimits.comparison import Comparison as Comparison

# Statistics of simulations
from deeplimits.statistics import (
    Estimate as Estimate,
    Interval as Interval,
    autocorrelation_time as autocorrelation_time,
    blocking as blocking,
    bootstrap as bootstrap,
    effective_sample_size as effective_sample_size,
    mean_with_error as mean_with_error,
    power_law_fit as power_law_fit,
    variance_with_error as variance_with_error,
    z_score as z_score,
)

# Gaussian integrals
from deeplimits.gaussian import (
    Expectation as Expectation,
    bivariate_expectation as bivariate_expectation,
    expectation as expectation,
    hermite_coefficients as hermite_coefficients,
)

# References
from deeplimits.cite import cite as cite

# Errors and warnings
from deeplimits.errors import (
    ConvergenceError as ConvergenceError,
    DataError as DataError,
    DeepLimitsError as DeepLimitsError,
    DeepLimitsWarning as DeepLimitsWarning,
    DomainError as DomainError,
    JitterWarning as JitterWarning,
    MissingDependencyError as MissingDependencyError,
    NoCriticalInitialisation as NoCriticalInitialisation,
    NotPositiveDefiniteError as NotPositiveDefiniteError,
    PrecisionError as PrecisionError,
    PrecisionWarning as PrecisionWarning,
    ShapeError as ShapeError,
    UnstableLearningRateError as UnstableLearningRateError,
    UnsupportedLayerError as UnsupportedLayerError,
)

__version__ = "0.1.0"


def __getattr__(name: str) -> object:
    """Load the root finders on first use: they bring optimistix, which takes a second."""
    for module, names in (
        ("roots", ("bracketed_root", "find_root", "fixed_point", "multi_start")),
        ("continuation", ("arclength_continuation",)),
        ("folds", ("find_fold",)),
    ):
        if name in names:
            return getattr(importlib.import_module(f"deeplimits.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
