"""Checkpoints of long simulations: one file, replaced in one step, tied to its run."""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import jax
import numpy as np

from deeplimits.errors import DataError


def fingerprint(*parts: Any) -> str:
    """SHA-256 of nested records, arrays, keys and plain values, shapes and dtypes included.

    Check: ``tests/statmech/test_montecarlo_checkpoint.py::test_another_run_is_refused``
    """
    digest = hashlib.sha256()
    leaves, structure = jax.tree.flatten(parts)
    digest.update(str(structure).encode())
    for leaf in leaves:
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def save(path: Path, mark: str, arrays: dict[str, np.ndarray]) -> None:
    """Write arrays beside the fingerprint of their run; the old file stays until all is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".partial")
    try:
        with os.fdopen(handle, "wb") as file:
            np.savez(file, fingerprint=np.array(mark), **arrays)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def load(path: Path, mark: str) -> dict[str, np.ndarray] | None:
    """The arrays of a checkpoint, or None if there is no such file.

    Raises:
        DataError: the file is damaged, or belongs to a run with other arguments.
    """
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        found = str(arrays.pop("fingerprint"))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"checkpoint {str(path)!r} cannot be read ({error}). Delete it.") from error
    if found != mark:
        raise DataError(
            f"checkpoint {str(path)!r} belongs to another run: coupling, key, temperatures, start, "
            "chains, burn-in, kernel or dtype differ. Delete it or give another path."
        )
    return arrays
