"""Array aliases for annotations (checked at run time in the test suite only)."""

from typing import Any

import jax
import numpy as np

#: An array of either library; public functions accept both and also nested lists.
Array = jax.Array | np.ndarray
#: Anything that converts to an array of numbers.
ArrayLike = Any
#: A typed JAX key; public functions also accept an integer seed.
Key = Any
