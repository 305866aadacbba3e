"""Real data: four small sets inside the package, larger ones from IDX files by path.

``load("digits")``, ``"fashion_1000"``, ``"yacht"`` and ``"concrete"`` need no network and no extra
package; ``load("mnist")`` and ``load("fashion_mnist")`` read the four IDX files of those sets where
they lie. Origin, licence and checksum of every bundled file are in ``data/SOURCES.md``.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import os
from importlib import resources
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Shaped

from deeplimits import validate
from deeplimits.errors import DataError, DomainError, ShapeError
from deeplimits.idx import load_idx as load_idx
from deeplimits.idx import read_known
from deeplimits.pytrees import register_dataclass
from deeplimits.typing import Array, ArrayLike, Key

CC_BY = "CC BY 4.0 (UCI Machine Learning Repository)"
MIT = "MIT, copyright 2017 Zalando SE"
DIGIT_NAMES = tuple("0123456789")
FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
    "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


@functools.partial(
    register_dataclass,
    data_fields=("X", "y"),
    meta_fields=("name", "source", "licence", "feature_names", "target_names", "image_shape"),
)
@dataclasses.dataclass(frozen=True)
class Dataset:
    """Inputs and targets with their origin.

    Attributes:
        X: inputs (n, d), float64, in the units of the source; images are flattened row by row.
        y: targets (n,): integer class labels, or float64 values for regression.
        name: the name given to :func:`load`.
        source: who made the data.
        licence: on what terms.
        feature_names: one per column of X; empty for images.
        target_names: the classes in the order of their labels, or the one regression target.
        image_shape: (height, width) of an image; ``None`` for tables.
    """

    X: Float[Array, "n d"]
    y: Shaped[Array, " n"]
    name: str
    source: str
    licence: str
    feature_names: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ()
    image_shape: tuple[int, int] | None = None

    def __len__(self) -> int:
        """Number of data points."""
        return int(self.X.shape[0])

    @property
    def images(self) -> Float[Array, "n height width 1"]:
        """X as (n, height, width, 1), the layout of convolutional layers.

        Raises:
            ShapeError: the set is a table.
        """
        if self.image_shape is None:
            raise ShapeError(
                f"{self.name} holds a table of {self.X.shape[1]} features, not images."
            )
        return self.X.reshape(len(self), *self.image_shape, 1)

    def take(self, index: Any) -> Dataset:
        """The rows ``index`` (anything that indexes the first axis of an array) as a new set."""
        return dataclasses.replace(self, X=self.X[index], y=self.y[index])

    def split(self, test_fraction: float = 0.2, *, key: Key) -> tuple[Dataset, Dataset]:
        """A random training and test part without overlap, ``(train, test)``.

        Args:
            test_fraction: share of the test part, in (0, 1); both parts keep at least one row.
            key: random key or integer seed; the same key gives the same split.

        Raises:
            DomainError: fraction out of range, or no key.
        """
        validate.number(test_fraction, "test_fraction", above=0.0, below=1.0)
        n = len(self)
        if n < 2:
            raise DomainError(f"a split needs at least 2 data points, {self.name} has {n}.")
        cut = min(max(round(float(test_fraction) * n), 1), n - 1)
        order = _permutation(key, n)
        return self.take(order[cut:]), self.take(order[:cut])

    def folds(self, k: int = 5, *, key: Key) -> tuple[tuple[Dataset, Dataset], ...]:
        """Cross-validation: ``k`` pairs ``(train, test)`` whose test parts cover the set once.

        Args:
            k: number of folds, 2 <= k <= n (k = n is leave-one-out).
            key: random key or integer seed.

        Raises:
            DomainError: k out of range, or no key.
        """
        n = len(self)
        k = validate.integer(k, "k", at_least=2)
        if k > n:
            raise DomainError(f"k must be at most the number of data points {n}, got {k}.")
        parts = np.array_split(_permutation(key, n), k)
        return tuple(
            (self.take(np.concatenate(parts[:i] + parts[i + 1 :])), self.take(part))
            for i, part in enumerate(parts)
        )


def _permutation(key: Key, n: int) -> np.ndarray:
    return np.asarray(jax.random.permutation(validate.as_key(key), n))


@dataclasses.dataclass(frozen=True)
class _Bundled:
    sha256: str
    source: str
    licence: str
    feature_names: tuple[str, ...] = ()
    target_names: tuple[str, ...] = ()
    image_shape: tuple[int, int] | None = None


_BUNDLED = {
    "digits": _Bundled(
        "dff739c317c3d7a561cd1d11ae22ab4ac7f0557489c9e3935e97bec510d05737",
        "Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, the test part",
        CC_BY,
        target_names=DIGIT_NAMES,
        image_shape=(8, 8),
    ),
    "fashion_1000": _Bundled(
        "7ea4d16e23fe7f46cae4e42b5d28905cf36011e407eac3d6a63d6202b3091e13",
        "Xiao, Rasul and Vollgraf (2017), Fashion-MNIST, the first 1000 test images",
        MIT,
        target_names=FASHION_NAMES,
        image_shape=(28, 28),
    ),
    "yacht": _Bundled(
        "fef80eb2541c793a972a56b2e1e809e21f2c680dbd14392fca699d89622646a7",
        "Gerritsma, Onnink and Versluis (1981), Yacht Hydrodynamics",
        CC_BY,
        feature_names=(
            "longitudinal position of the center of buoyancy",
            "prismatic coefficient",
            "length-displacement ratio",
            "beam-draught ratio",
            "length-beam ratio",
            "Froude number",
        ),
        target_names=("residuary resistance per unit weight of displacement",),
    ),
    "concrete": _Bundled(
        "c129fd301c1107eb45c444e8893705ae3365874d63d650444f3e93463f26661d",
        "Yeh (1998), Concrete Compressive Strength",
        CC_BY,
        feature_names=(
            "cement [kg/m^3]",
            "blast furnace slag [kg/m^3]",
            "fly ash [kg/m^3]",
            "water [kg/m^3]",
            "superplasticizer [kg/m^3]",
            "coarse aggregate [kg/m^3]",
            "fine aggregate [kg/m^3]",
            "age [day]",
        ),
        target_names=("compressive strength [MPa]",),
    ),
}

_ORIGIN = {
    "mnist": ("LeCun, Cortes and Burges (1998), MNIST", "not stated by its authors", DIGIT_NAMES),
    "fashion_mnist": ("Xiao, Rasul and Vollgraf (2017), Fashion-MNIST", MIT, FASHION_NAMES),
}

#: Every name that :func:`load` accepts.
NAMES = (*_BUNDLED, *_ORIGIN)


def load(
    name: str, *, root: str | os.PathLike[str] | None = None, part: str | None = None
) -> Dataset:
    """A data set by name, its content checked against a sha256 sum.

    Args:
        name: bundled: ``"digits"`` (1797 x 64, values 0..16, 10 classes), ``"fashion_1000"``
            (1000 x 784, 0..255, 10 classes), ``"yacht"`` (308 x 6) and ``"concrete"`` (1030 x 8),
            both regression. From IDX files: ``"mnist"`` and ``"fashion_mnist"`` (784 columns,
            0..255, 10 classes).
        root: IDX sets only: folder of the files; default: the folders in the environment variable
            ``DEEPLIMITS_DATA``, then where Debian's package dataset-fashion-mnist puts them.
        part: IDX sets only: ``"train"`` (60000 images, the default) or ``"test"`` (10000).

    Returns:
        A :class:`Dataset`; nothing is scaled, see :func:`standardize` and :func:`to_sphere`.

    Raises:
        DomainError: unknown name or part, or a root or part for a bundled set.
        DataError: files not found, damaged, or those of another set.

    Check: tests/deeplimits/test_datasets.py (digits against scikit-learn's own copy).
    """
    validate.choice(name, "name", NAMES)
    if name not in _BUNDLED:
        return _load_idx_set(
            name, root, validate.choice(part or "train", "part", ("train", "test"))
        )
    if root is not None or part is not None:
        raise DomainError(
            f"{name!r} is bundled and has one part: root and part do not apply to it. "
            f"Use load({name!r}).split(key=0) for a training and a test part."
        )
    return _load_bundled(name)


def _load_bundled(name: str) -> Dataset:
    entry = _BUNDLED[name]
    file = resources.files("deeplimits").joinpath("data", f"{name}.npz")
    try:
        content = file.read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"the bundled file {name}.npz is missing. Reinstall deeplimits.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != entry.sha256:
        raise DataError(
            f"the bundled file {name}.npz is damaged: its sha256 is {found}, expected "
            f"{entry.sha256}. Restore it with `git checkout deeplimits/data` or reinstall."
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        X, y = arrays["X"], arrays["y"]
    return Dataset(
        X.astype(np.float64),
        y.astype(np.int64) if entry.image_shape else y.astype(np.float64),
        name,
        entry.source,
        entry.licence,
        entry.feature_names,
        entry.target_names,
        entry.image_shape,
    )


def _load_idx_set(name: str, root: str | os.PathLike[str] | None, part: str) -> Dataset:
    stem = "train" if part == "train" else "t10k"
    images = read_known(name, f"{stem}-images-idx3-ubyte", root)
    labels = read_known(name, f"{stem}-labels-idx1-ubyte", root)
    source, licence, classes = _ORIGIN[name]
    return Dataset(
        images.reshape(len(images), -1).astype(np.float64),
        labels.astype(np.int64),
        name,
        f"{source}, the {part} part",
        licence,
        target_names=classes,
        image_shape=(28, 28),
    )


def standardize(X: ArrayLike, reference: ArrayLike = None) -> Float[np.ndarray, "n ..."]:
    """Every feature to mean 0 and variance 1: (X - mean) / std, both taken over ``reference``.

    Args:
        X: inputs (n, ...).
        reference: the data that define mean and standard deviation (population form), e.g. the
            training inputs; default X itself.

    Returns:
        Array of the shape and dtype of X. A feature that is constant in ``reference`` is only
        centred: its standard deviation is 0 up to rounding, and dividing by it would turn that
        rounding into numbers of order 1.

    Raises:
        ShapeError: 1-D input, or feature axes that differ.
        DomainError: not finite.
    """
    X = np.asarray(validate.as_inputs(X, "X"))
    base = X if reference is None else np.asarray(validate.as_inputs(reference, "reference"))
    validate.same_features(X, base, ("X", "reference"))
    mean = base.mean(axis=0, dtype=np.float64)
    # Dividing by the largest entry first keeps the squares from over- and underflowing.
    largest = np.abs(base - mean).max(axis=0)
    constant = np.ptp(base, axis=0) == 0
    largest[constant] = 1.0
    spread = largest * np.sqrt((((base - mean) / largest) ** 2).mean(axis=0))
    spread[constant] = 1.0
    return ((X - mean) / spread).astype(X.dtype)


def to_sphere(X: ArrayLike, radius: float | None = None) -> Float[np.ndarray, "n ..."]:
    """Every data point scaled to the length ``radius``: X radius / |X|.

    Args:
        X: inputs (n, ...); the length is taken over all axes but the first.
        radius: > 0; default sqrt(d) with d the number of features, so that x.x / d = 1.

    Raises:
        ShapeError: 1-D input.
        DomainError: radius <= 0, or a data point of length 0, which has no direction.
    """
    X = np.asarray(validate.as_inputs(X, "X"))
    flat = X.reshape(len(X), -1)
    radius = float(
        np.sqrt(flat.shape[1]) if radius is None else validate.number(radius, "radius", above=0.0)
    )
    # As in standardize: no square of an entry, however large or small.
    largest = np.abs(flat).max(axis=1, keepdims=True)
    if (largest == 0).any():
        row = int(np.argmax(largest[:, 0] == 0))
        raise DomainError(f"row {row} of X is zero and has no direction. Remove it or add a bias.")
    unit = flat / largest
    unit = unit / np.linalg.norm(unit, axis=1, keepdims=True)
    return (radius * unit).astype(X.dtype).reshape(X.shape)


def one_hot(
    y: ArrayLike, classes: int | None = None, *, on: float = 1.0, off: float = 0.0
) -> Float[np.ndarray, "n classes"]:
    """Class labels as regression targets (n, classes): ``on`` in the column of the label.

    Args:
        y: integer labels (n,), 0 <= y < classes.
        classes: number of columns; default the largest label plus one.
        on: value of the true class; with ``on=1-1/classes, off=-1/classes`` the rows sum to 0.
        off: value of the others.

    Raises:
        ShapeError: y is not 1-D or is empty.
        DomainError: labels not integer, or out of range.
    """
    y = np.asarray(y)
    if y.ndim != 1 or y.size == 0:
        raise ShapeError(f"y must hold one label per data point, shape (n,); got shape {y.shape}.")
    if y.dtype.kind not in "iu":
        raise DomainError(f"y must hold integer labels, got dtype {y.dtype}. Use y.astype(int).")
    classes = (
        int(y.max()) + 1 if classes is None else validate.integer(classes, "classes", at_least=1)
    )
    if y.min() < 0 or y.max() >= classes:
        raise DomainError(f"labels must lie in 0..{classes - 1}, got {y.min()}..{y.max()}.")
    return np.where(y[:, None] == np.arange(classes), float(on), float(off))
