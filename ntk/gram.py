"""Gram matrices of many inputs: cache-sized tiles, one triangle, progress."""

from __future__ import annotations

import concurrent.futures
import functools
import inspect
import os
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from deeplimits.errors import DomainError, ShapeError, UnsupportedLayerError
from deeplimits.validate import as_inputs, integer, same_features
from ntk import kernel_fn as kf
from ntk.layers import Layer
from ntk.state import Rows

#: Side of a square tile: the working set of a float32 tile (gap and tangent kernel before and after
#: a layer) fits a 2 MB second-level cache.
TILE = 400


def gram(
    kernel_fn: Any,
    x1: Any,
    x2: Any = None,
    get: Any = "ntk",
    *,
    block_size: int | str = "auto",
    diagonal: bool = False,
    out: str | None = None,
    engine: Any = None,
    progress: bool = True,
) -> Any:
    """Gram matrix of a kernel, computed in tiles that fit the cache; one triangle when symmetric.

    Args:
        kernel_fn: a network of this package or of :func:`ntk.from_neural_tangents`, its
            ``kernel_fn``, or any callable ``k(x1, x2=None) -> (n1, n2)`` (with an optional third
            argument ``get``).
        x1: ``(n1, d)`` or ``(n1, *pos, channels)``.
        x2: likewise, or None for the symmetric Gram of ``x1`` (exactly symmetric result).
        get: ``"nngp"``, ``"ntk"`` or a tuple of these (named tuple of arrays).
        block_size: side of a tile; ``"auto"`` is 400 for our networks and 512 for other kernels.
        diagonal: only ``k(x_i, x_i)``, shape ``(n1,)``, at O(n1) cost.
        progress: show a progress bar on standard error when more than 100 tiles are computed.
        out, engine: reserved for Grams on disk and on many machines.

    Returns:
        NumPy array ``(n1, n2)`` in the dtype of the inputs (a named tuple of them for a tuple).

    Raises:
        ShapeError, DomainError: bad inputs, ``get`` or ``block_size``; as :func:`evaluate`.
        UnsupportedLayerError: ``out`` or ``engine`` given, or a network with spatial outputs.
    """
    if out is not None or engine is not None:
        raise UnsupportedLayerError(
            "gram(out=..., engine=...) is not available in this version: Grams are held in memory. "
            "Leave both at None and write the returned array yourself."
        )
    names = kf.parse_get(get)
    if names is None or not set(names) <= {"nngp", "ntk"}:
        raise DomainError(f"get must be 'nngp', 'ntk' or a tuple of these, got {get!r}.")
    side = None if block_size == "auto" else integer(block_size, "block_size", at_least=1)
    if not callable(kernel_fn):  # a foreign network: its kernel function is what can be called
        kernel_fn = getattr(kernel_fn, "kernel_fn", kernel_fn)
    network = as_network(kernel_fn)
    if network is None:
        arrays = _foreign(kernel_fn, x1, x2, names, side or 512, diagonal, progress)
    else:
        x1, x2 = kf.check_inputs(x1, x2)
        if diagonal:
            arrays = _diagonal(network, x1, x2, names)
        else:
            found = tiled(network, x1, x2, names, side or TILE, progress=progress)
            if found is None:
                raise UnsupportedLayerError(
                    "gram needs one number per pair of inputs, but the network keeps spatial axes; "
                    "add Flatten() to it."
                )
            arrays = found
    return kf.pack(get, arrays)


def as_network(kernel_fn: Any) -> Layer | None:
    """The network behind ``kernel_fn``, if it is one of ours."""
    if isinstance(kernel_fn, Layer):
        return kernel_fn
    if isinstance(kernel_fn, functools.partial) and kernel_fn.func is kf.evaluate:
        return kernel_fn.args[0]
    if not callable(kernel_fn):
        raise DomainError(
            f"kernel_fn must be a network or a callable k(x1, x2), got {kernel_fn!r}."
        )
    return None


def tiled(
    network: Layer,
    x1: Any,
    x2: Any,
    names: tuple[str, ...],
    side: int = TILE,
    *,
    progress: bool = False,
) -> tuple[np.ndarray, ...] | None:
    """Grams by tiles of compiled code; None if the result has spatial axes.

    All tiles have the same shape (the last one overlaps the one before it, and only its new part
    is stored), so at most two programs are compiled: diagonal and off-diagonal tiles.
    """
    with_ntk = kf.needs_ntk(network, names)
    prepare, compare = _compiled_parts()
    n1, n2 = len(x1), len(x1 if x2 is None else x2)
    sides = (min(side, n1), min(side, n2))

    # Blocks are cut before the comparison is compiled: XLA would fuse the slices into every loop.
    def blocks(x: Any, side: int) -> list[tuple[Any, Rows]]:
        starts = (_start(i, side, len(x))[0] for i in range(-(-len(x) // side)))
        return [prepare(network, x[start : start + side]) for start in starts]

    prepared = blocks(x1, sides[0])
    rest, blocks1 = prepared[0][0], [rows for _, rows in prepared]
    blocks2 = blocks1 if x2 is None else [rows for _, rows in blocks(x2, sides[1])]
    first = (rest, blocks1[0], None if x2 is None else blocks2[0])
    shapes = compare.eval_shape(*first, with_ntk=with_ntk, names=names)
    if len(shapes[0].shape) != 2:
        return None
    outs = tuple(np.empty((n1, n2), shape.dtype) for shape in shapes)

    def work(index: tuple[int, int]) -> None:
        diagonal = x2 is None and index[0] == index[1]
        second = None if diagonal else blocks2[index[1]]
        (i, skip_i), (j, skip_j) = (
            _start(k, s, n) for k, s, n in zip(index, sides, (n1, n2), strict=True)
        )
        results = compare(rest, blocks1[index[0]], second, with_ntk=with_ntk, names=names)
        for target, block in zip(outs, results, strict=True):
            fresh = np.asarray(block)[skip_i:, skip_j:]
            target[i + skip_i : i + sides[0], j + skip_j : j + sides[1]] = fresh
            if x2 is None and not diagonal:
                target[j + skip_j : j + sides[1], i + skip_i : i + sides[0]] = fresh.T

    tiles = [
        (i, j) for i in range(len(blocks1)) for j in range(i if x2 is None else 0, len(blocks2))
    ]
    run_tiles(work, tiles, progress=progress)
    return outs


def _start(index: int, side: int, n: int) -> tuple[int, int]:
    """Start of a tile that stays inside ``n``, and how many of its leading rows are old."""
    start = min(index * side, n - side)
    return start, index * side - start


@functools.cache
def _compiled_parts() -> tuple[Any, ...]:
    """Compiled once: preparing a block of inputs, comparing two blocks."""

    def prepare(network: Layer, x: Any) -> tuple[Any, Rows]:
        rest, x = kf.on_inputs(network, x)
        return rest, Rows.of(x)

    compare = kf.jit(kf.compare_rows, static_argnames=("with_ntk", "names"))
    return jax.jit(prepare), compare


def run_tiles(work: Callable[[tuple[int, int]], None], tiles: list[Any], *, progress: bool) -> None:
    """Run independent tiles on all cores, with a bar if there are many; Ctrl-C stops at once."""
    workers = min(len(tiles), _cores())
    bar = tqdm(total=len(tiles), unit="tile", disable=not progress or len(tiles) <= 100)
    if workers == 1:
        with bar:
            for t in tiles:
                work(t)
                bar.update()
        return
    with bar, concurrent.futures.ThreadPoolExecutor(workers) as pool:
        futures = [pool.submit(work, t) for t in tiles]
        try:
            for future in concurrent.futures.as_completed(futures):
                future.result()
                bar.update()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _cores() -> int:
    """Cores that this process may use: fewer than the machine has under ``taskset``."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _diagonal(network: Layer, x1: Any, x2: Any, names: tuple[str, ...]) -> tuple[np.ndarray, ...]:
    """Kernels of each row with itself, one row at a time."""
    if x2 is not None:
        raise ShapeError("diagonal=True compares x1 with itself: leave x2 at None.")
    with_ntk = kf.needs_ntk(network, names)

    @jax.jit
    def rows(network: Layer, x: Any) -> tuple[Any, ...]:
        rest, x = kf.on_inputs(network, x)
        one = lambda row: kf.compare_rows(rest, Rows.of(row[None]), None, with_ntk, names)  # noqa: E731
        return jax.lax.map(one, x, batch_size=256)

    return tuple(np.asarray(a).reshape(a.shape[0], *a.shape[3:]) for a in rows(network, x1))


def _foreign(
    kernel: Any, x1: Any, x2: Any, names: tuple[str, ...], side: int, diagonal: bool, progress: bool
) -> tuple[np.ndarray, ...]:
    """Grams of a kernel that is not ours, by blocks of rows and columns."""
    x1 = as_inputs(x1, "x1")
    if x2 is not None:
        x2 = as_inputs(x2, "x2")
        same_features(x1, x2)
    call = _with_get(kernel, names)
    if diagonal:
        if x2 is not None:
            raise ShapeError("diagonal=True compares x1 with itself: leave x2 at None.")
        rows = [[np.asarray(a)[0, 0] for a in call(x1[i : i + 1], None)] for i in range(len(x1))]
        return tuple(np.array(column) for column in zip(*rows, strict=True))
    other = x1 if x2 is None else x2
    outs: dict[int, np.ndarray] = {}
    tiles = [
        (i, j)
        for i in range(0, len(x1), side)
        for j in range(i if x2 is None else 0, len(other), side)
    ]
    for i, j in tqdm(tiles, unit="tile", disable=not progress or len(tiles) <= 100):
        a, b = x1[i : i + side], None if x2 is None and i == j else other[j : j + side]
        for number, block in enumerate(call(a, b)):
            block = np.asarray(block)
            expected = (len(a), len(a) if b is None else len(b))
            if block.shape != expected:
                raise ShapeError(
                    f"kernel_fn must return an array of shape {expected}, got {block.shape}."
                )
            out = outs.setdefault(number, np.empty((len(x1), len(other)), block.dtype))
            out[i : i + side, j : j + side] = block
            if x2 is None and i != j:
                out[j : j + side, i : i + side] = block.T
    return tuple(outs[number] for number in range(len(names)))


def _with_get(kernel: Any, names: tuple[str, ...]) -> Callable[[Any, Any], tuple[Any, ...]]:
    """Call a foreign kernel for all ``names``; a kernel without ``get`` gives one matrix only."""
    try:
        takes_get = "get" in inspect.signature(kernel).parameters
    except (TypeError, ValueError):
        takes_get = False
    if takes_get:
        return lambda a, b: tuple(kernel(a, b, get=names))
    if len(names) > 1:
        raise DomainError(
            f"kernel_fn takes no argument get, so it gives one matrix; ask for one of {names}."
        )
    return lambda a, b: (kernel(a, b),)
