"""Errors and warnings: one class per kind of mistake, each also the matching builtin.

Messages say what is wrong, what came, what is allowed, and what to do.
"""

from __future__ import annotations

import importlib
from types import ModuleType


class DeepLimitsError(Exception):
    """Base class of every error raised on purpose by this project."""


class ShapeError(DeepLimitsError, ValueError):
    """An array has the wrong number of axes or mismatched axis lengths."""


class DomainError(DeepLimitsError, ValueError):
    """A value lies outside the domain on which the quantity is defined (NaN included)."""


class NotPositiveDefiniteError(DeepLimitsError, ValueError):
    """A matrix that must be positive (semi-)definite is not, beyond rounding."""


class ConvergenceError(DeepLimitsError, RuntimeError):
    """An iteration stopped before it reached its tolerance."""


class PrecisionError(DeepLimitsError, RuntimeError):
    """The computation needs float64 but the program runs in float32."""


class MissingDependencyError(DeepLimitsError, ImportError):
    """An optional package is needed for this feature and is not installed."""


class UnsupportedLayerError(DeepLimitsError, NotImplementedError):
    """No closed form exists (or is implemented) for this architecture."""


class DataError(DeepLimitsError, ValueError):
    """A data file is missing, damaged, or not the one that was asked for."""


class UnstableLearningRateError(DomainError):
    """A learning rate above the stability limit of the linearised dynamics."""


class NoCriticalInitialisation(DeepLimitsError, ValueError):
    """No choice of weight and bias variance makes a deep network with this activation critical."""


class DeepLimitsWarning(UserWarning):
    """Base class of every warning issued by this project."""


class PrecisionWarning(DeepLimitsWarning):
    """The result is less accurate than its dtype suggests."""


class JitterWarning(DeepLimitsWarning):
    """Noise was added to the diagonal of a matrix, which changes the model."""


def require(module: str, extra: str | None = None, feature: str = "this feature") -> ModuleType:
    """Import an optional ``module`` or say how to install it.

    Args:
        module: dotted module name, e.g. ``"zarr"``.
        extra: the extra of this project that installs it, if any.
        feature: what needs it, for the message.

    Raises:
        MissingDependencyError: if the module cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        what = f"pip install 'deeplimits[{extra}]'" if extra else f"pip install {module}"
        raise MissingDependencyError(
            f"{feature} needs the package {module!r}, which cannot be imported ({error}). "
            f"Install it with: {what}"
        ) from error
