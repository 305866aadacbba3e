"""Long simulations in chunks, and their checkpoints: one file, replaced in one step."""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
import zipfile
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
from tqdm import tqdm

from deeplimits.errors import DataError

#: Seconds between two writings of the checkpoint.
SAVE_SECONDS = 30.0


class Resumable(Protocol):
    """A run on its way, that can be written down and taken up again."""

    #: sweeps done, wanted before and wanted after the burn-in
    done: int
    burn_in: int
    sweeps: int
    #: sweeps between measurements, and per call of the compiled program without measurements
    every: int
    chunk: int
    #: fingerprint of everything that decides the trajectory
    mark: str

    def step(self) -> None:
        """Do one chunk."""
        ...

    def state(self) -> dict[str, np.ndarray]:
        """Everything that ``restore`` needs, ``done`` included."""
        ...

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Go on from what ``state`` returned."""
        ...


def execute(run: Resumable, path: Path | None, progress: bool) -> None:
    """Do the sweeps that are missing; save to ``path`` now and then and whatever happens.

    Raises:
        DataError: the checkpoint at ``path`` is damaged, of another run, or longer than this.
    """
    arrays = None if path is None else load(path, run.mark)
    if arrays is not None:
        measured = int(arrays["done"]) - run.burn_in
        if measured > run.sweeps:
            raise DataError(
                f"checkpoint {str(path)!r} holds {measured} sweeps after the burn-in, more than "
                f"sweeps={run.sweeps}. Ask for as many or more."
            )
        run.restore(arrays)
    total, saved, begun = run.burn_in + run.sweeps, time.monotonic(), run.done
    with tqdm(total=total, initial=begun, unit="sweep", delay=2.0, disable=not progress) as bar:
        try:
            while run.done < total:
                before = run.done
                run.step()
                bar.update(run.done - before)
                if path is not None and time.monotonic() - saved > SAVE_SECONDS:
                    save(path, run.mark, run.state())
                    saved = time.monotonic()
        finally:
            if path is not None and run.done > begun:
                save(path, run.mark, run.state())


def portion(run: Resumable, measurements: int) -> tuple[int, int, bool]:
    """What the next chunk does: sweeps per measurement, measurements, whether it is burn-in.

    The burn-in counts as one measurement, of which only the spins are kept.
    """
    if run.done < run.burn_in:
        return min(run.chunk, run.burn_in - run.done), 1, True
    left = run.burn_in + run.sweeps - run.done
    return run.every, min(measurements, left // run.every), False


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
