r"""Corrupted images: inputs that a model was not trained on, at five severities."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import scipy.ndimage

from deeplimits.errors import DomainError, ShapeError
from deeplimits.precision import float64_scope
from deeplimits.validate import as_inputs, as_key, check, choice, integer, number

#: Standard deviation, as a fraction of the range of grey values.
_GAUSSIAN = (0.08, 0.12, 0.18, 0.26, 0.38)
#: Photons at the brightest grey value.
_SHOT = (60.0, 25.0, 12.0, 5.0, 3.0)
#: Share of pixels replaced by black or white.
_IMPULSE = (0.03, 0.06, 0.09, 0.17, 0.27)
#: Standard deviation of the blur, as a fraction of the height of the image.
_BLUR = (0.04, 0.06, 0.08, 0.10, 0.15)

KINDS = ("gaussian", "shot", "impulse", "blur")


@float64_scope
def corrupt(
    images: Any, kind: str, severity: int = 3, *, key: Any, low: float = 0.0, high: float = 1.0
) -> np.ndarray:
    """Images with noise or blur, clipped to their range.

    "gaussian": normal noise of standard deviation 0.08 to 0.38 of the range. "shot": Poisson noise
    with 60 to 3 photons at the brightest value. "impulse": a share of 3 % to 27 % of the pixels
    becomes black or white. "blur": a Gaussian filter of width 4 % to 15 % of the height (no
    randomness; the key is unused).

    Args:
        images: ``(n, height, width)`` or ``(n, height, width, channels)``, values in [low, high].
        kind: "gaussian", "shot", "impulse" or "blur".
        severity: 1 to 5. Default 3.
        key: a ``jax.random.key`` or an integer seed.
        low, high: the range of grey values, low < high. Defaults 0 and 1.

    Returns:
        Float64 images of the same shape.

    Raises:
        ShapeError: not images.
        DomainError: unknown kind, severity or key, or values outside the range.

    Source: D. Hendrycks, T. Dietterich, arXiv:1903.12261, for the noise levels; N. Mu, J. Gilmer,
        arXiv:1906.02337, for digits; widths of the blur relative to the image chosen here.

    Check: test_calibration.py::test_corruptions_have_their_moments.
    """
    x = np.asarray(as_inputs(images, "images"), np.float64)
    check(
        x.ndim in (3, 4),
        f"images must be (n, height, width) or (n, height, width, channels), got {x.shape}. "
        "Tables of flattened images: X.reshape(-1, height, width).",
        ShapeError,
    )
    choice(kind, "kind", KINDS)
    level = integer(severity, "severity", at_least=1) - 1
    check(level < 5, f"severity must be 1, 2, 3, 4 or 5, got {severity}.", DomainError)
    number(low, "low")
    number(high, "high", above=float(low))
    key = as_key(key)
    unit = (x - low) / (high - low)
    check(
        bool(unit.min() >= 0 and unit.max() <= 1),
        f"images must lie in [{low:g}, {high:g}], got [{x.min():g}, {x.max():g}]; pass low, high.",
        DomainError,
    )
    if kind == "gaussian":
        new = unit + _GAUSSIAN[level] * np.asarray(jax.random.normal(key, x.shape))
    elif kind == "shot":
        new = np.asarray(jax.random.poisson(key, unit * _SHOT[level])) / _SHOT[level]
    elif kind == "impulse":
        uniform = np.asarray(jax.random.uniform(key, x.shape))
        half = 0.5 * _IMPULSE[level]
        new = np.where(uniform < half, 0.0, np.where(uniform > 1 - half, 1.0, unit))
    else:
        width = _BLUR[level] * x.shape[1]
        new = scipy.ndimage.gaussian_filter(unit, (0, width, width, 0)[: x.ndim], mode="nearest")
    return low + (high - low) * np.clip(new, 0.0, 1.0)
