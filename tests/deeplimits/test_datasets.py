"""Data sets: checksums, shapes, independent copies, published summary values, every error."""

import gzip
import hashlib
import re
import shutil
import struct
from importlib import resources
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.datasets import load_digits

from deeplimits import datasets, idx
from deeplimits.errors import DataError, DomainError, ShapeError

BUNDLED = {
    "digits": (1797, 64),
    "fashion_1000": (1000, 784),
    "yacht": (308, 6),
    "concrete": (1030, 8),
}
DATA = resources.files("deeplimits") / "data"


@pytest.mark.parametrize(("name", "shape"), BUNDLED.items())
def test_bundled_shapes_and_records(name, shape):
    data = datasets.load(name)
    assert data.X.shape == shape
    assert data.y.shape == shape[:1]
    assert data.X.dtype == np.float64
    assert len(data) == shape[0]
    assert data.name == name
    assert data.source
    assert data.licence
    assert np.isfinite(data.X).all()
    if data.image_shape is None:
        assert len(data.feature_names) == shape[1]
        assert len(data.target_names) == 1
        assert data.y.dtype == np.float64
    else:
        assert data.y.dtype == np.int64
        assert set(data.y) == set(range(len(data.target_names)))
        assert data.images.shape == (shape[0], *data.image_shape, 1)


@pytest.mark.parametrize("name", BUNDLED)
def test_checksums_in_sources_md(name):
    content = (DATA / f"{name}.npz").read_bytes()
    row = re.search(rf"^\| `{name}\.npz` .*$", (DATA / "SOURCES.md").read_text(), re.M).group()
    assert hashlib.sha256(content).hexdigest() in row
    assert f"| {len(content)} |" in row


def test_bundled_data_are_small():
    assert sum((DATA / f"{name}.npz").stat().st_size for name in BUNDLED) < 800_000


def test_digits_equal_scikit_learn():
    ours, theirs = datasets.load("digits"), load_digits()
    assert np.array_equal(ours.X, theirs.data)
    assert np.array_equal(ours.y, theirs.target)
    assert np.array_equal(ours.images[..., 0], theirs.images)


def test_fashion_first_labels():
    # The first ten test labels as shown in every Fashion-MNIST tutorial; the range of 8-bit pixels.
    data = datasets.load("fashion_1000")
    assert data.y[:10].tolist() == [9, 2, 1, 1, 6, 1, 4, 6, 5, 7]
    assert (data.X.min(), data.X.max()) == (0.0, 255.0)
    # Mean and deviation published for the whole set are 0.2860 and 0.3530 of 255. The first is an
    # average over 1000 images whose means scatter by about 0.15, so within 4 x 0.15 / sqrt(1000).
    assert abs(data.X.mean() / 255 - 0.2860) < 0.02
    assert abs(data.X.std() / 255 - 0.3530) < 0.02


def test_regression_sets_have_published_ranges():
    # UCI's own description files: the ranges of some columns and of the target.
    yacht = datasets.load("yacht")
    assert (yacht.y.min(), yacht.y.max()) == (0.01, 62.42)
    assert sorted(set(yacht.X[:, 5])) == [round(0.125 + 0.025 * i, 3) for i in range(14)]
    concrete = datasets.load("concrete")
    assert (concrete.X[:, 0].min(), concrete.X[:, 0].max()) == (102.0, 540.0)
    assert (concrete.X[:, 7].min(), concrete.X[:, 7].max()) == (1.0, 365.0)
    # Published as 2.3, 82.6 and 35.8 (rounded to one digit).
    assert np.round([concrete.y.min(), concrete.y.max(), concrete.y.mean()], 1).tolist() == [
        2.3,
        82.6,
        35.8,
    ]


def test_split_is_a_partition_and_depends_on_the_key():
    data = datasets.load("yacht")
    train, test = data.split(0.25, key=3)
    assert (len(train), len(test)) == (231, 77)
    rows = np.column_stack([np.concatenate([train.X, test.X]), np.concatenate([train.y, test.y])])
    whole = np.column_stack([data.X, data.y])
    assert np.array_equal(rows[np.lexsort(rows.T)], whole[np.lexsort(whole.T)])
    assert np.array_equal(data.split(0.25, key=jax.random.key(3))[0].X, train.X)
    assert not np.array_equal(data.split(0.25, key=4)[0].X, train.X)
    assert train.name == "yacht"
    assert train.feature_names == data.feature_names


def test_split_keeps_a_row_on_each_side():
    data = datasets.load("yacht").take(slice(3))
    assert [len(part) for part in data.split(0.001, key=0)] == [2, 1]
    assert [len(part) for part in data.split(0.999, key=0)] == [1, 2]


def test_split_does_not_depend_on_x64():
    data = datasets.load("yacht")
    wide = data.split(key=0)[1].X
    with jax.enable_x64(False):
        assert np.array_equal(data.split(key=0)[1].X, wide)


def test_folds_cover_once():
    data = datasets.load("concrete")
    folds = data.folds(7, key=0)
    assert len(folds) == 7
    sizes = [len(test) for _, test in folds]
    assert sum(sizes) == len(data)
    assert max(sizes) - min(sizes) <= 1
    assert all(len(train) + len(test) == len(data) for train, test in folds)
    seen = np.sort(np.concatenate([test.y for _, test in folds]))
    assert np.array_equal(seen, np.sort(data.y))


def test_record_is_a_pytree():
    data = datasets.load("yacht")
    halved = jax.tree.map(lambda x: x / 2, data)
    assert np.array_equal(halved.X, data.X / 2)
    assert halved.licence == data.licence


MATRICES = hnp.arrays(
    np.float64,
    st.tuples(st.integers(2, 8), st.integers(1, 5)),
    elements=st.floats(-1e6, 1e6, allow_subnormal=False),
)


@given(MATRICES)
def test_standardize_moments(X):
    Z = datasets.standardize(X)
    constant = np.ptp(X, axis=0) == 0
    # Cancellation in X - mean loses up to max|X| eps per entry, relative to the spread.
    spread = np.where(constant, 1.0, np.ptp(X, axis=0))
    loss = 1e-15 * (1 + np.abs(X).max(axis=0)) / spread
    resolved = loss < 1e-3
    assert (np.abs(Z.mean(axis=0)) <= 16 * loss)[resolved].all()
    assert (np.abs(Z.std(axis=0) - ~constant) <= 1e-9 + 64 * loss)[resolved].all()


def test_standardize_with_reference_and_constant_feature():
    train = np.array([[1.0, 0.1], [3.0, 0.1]])
    assert datasets.standardize(train).tolist() == [[-1.0, 0.0], [1.0, 0.0]]
    assert datasets.standardize([[5.0, 1.1]], train).tolist() == [[3.0, 1.0]]
    many = np.full((7, 1), 0.1)
    # The mean of seven equal numbers may miss them by one rounding, and that is all that is left.
    assert np.abs(datasets.standardize(many)).max() <= 2e-17
    assert datasets.standardize(train.astype(np.float32)).dtype == np.float32


@given(MATRICES.filter(lambda X: np.abs(X).max(axis=1).min() > 0))
def test_to_sphere(X):
    Z = datasets.to_sphere(X)
    # One division, one square root and a sum of at most 5 squares: a few roundings.
    np.testing.assert_allclose((Z**2).sum(axis=1), X.shape[1], rtol=1e-14)
    # Entries below 1e-300 may be subnormal and keep fewer digits.
    scaled = Z * 2.5 / np.sqrt(X.shape[1])
    np.testing.assert_allclose(datasets.to_sphere(X, 2.5), scaled, rtol=1e-14, atol=1e-300)


def test_to_sphere_extremes_and_images():
    assert datasets.to_sphere([[3e-200, 4e-200], [3e200, 4e200]], 5.0).tolist() == [[3.0, 4.0]] * 2
    images = datasets.load("digits").images
    sphere = datasets.to_sphere(images)
    assert sphere.shape == images.shape
    np.testing.assert_allclose((sphere**2).mean(axis=(1, 2, 3)), 1.0, rtol=1e-13)  # 64-term sums


def test_one_hot():
    assert datasets.one_hot([1, 0]).tolist() == [[0.0, 1.0], [1.0, 0.0]]
    y = datasets.load("digits").y
    targets = datasets.one_hot(y, 10, on=0.9, off=-0.1)
    assert targets.shape == (1797, 10)
    assert np.array_equal(targets.argmax(axis=1), y)
    np.testing.assert_allclose(targets.sum(axis=1), 0.0, atol=1e-15)  # ten-term sum of order one


IDX_ARRAYS = [
    (8, np.arange(12, dtype=np.uint8).reshape(3, 4)),
    (9, np.arange(-3, 3, dtype=np.int8)),
    (11, np.arange(-4, 4, dtype=np.int16).reshape(2, 2, 2)),
    (12, np.array([[-(2**31)], [2**31 - 1]], dtype=np.int32)),
    (13, np.array([[1.5, -2.25]], dtype=np.float32)),
    (14, np.array([1e300, -1e-300])),
]


def write_idx(path: Path, code: int, array: np.ndarray, *, zipped: bool = False) -> Path:
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    content = header + array.astype(array.dtype.newbyteorder(">")).tobytes()
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(("code", "array"), IDX_ARRAYS)
def test_idx_round_trip(tmp_path, code, array, zipped):
    read = datasets.load_idx(write_idx(tmp_path / "file", code, array, zipped=zipped))
    assert read.dtype == array.dtype
    assert np.array_equal(read, array)


def test_idx_errors(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*missing: No such file"):
        datasets.load_idx(tmp_path / "missing")
    for content in (
        b"",
        b"\0\0\x08",
        b"\x01\0\x08\x01",
        b"\0\0\x07\x01\0\0\0\0",
        b"\0\0\x08\0",
        b"\0\0\x08\x02\0\0\0\0",
    ):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(DataError, match="is not an IDX file: it begins with"):
            datasets.load_idx(tmp_path / "bad")
    good = write_idx(tmp_path / "good", *IDX_ARRAYS[0]).read_bytes()
    for content in (good[:-1], good + b"\0"):
        (tmp_path / "bad").write_bytes(content)
        with pytest.raises(DataError, match=r"announces an array of shape \(3, 4\), 24 bytes"):
            datasets.load_idx(tmp_path / "bad")
    (tmp_path / "bad").write_bytes(gzip.compress(good)[:-12])
    with pytest.raises(DataError, match="damaged gzip file"):
        datasets.load_idx(tmp_path / "bad")


@pytest.fixture
def small_mnist(tmp_path, monkeypatch):
    """A two-image set under MNIST's names, with its own checksums registered."""
    images = np.arange(2 * 28 * 28, dtype=np.uint16).reshape(2, 28, 28).astype(np.uint8)
    folder = tmp_path / "mnist"
    folder.mkdir()
    files = {
        "train-images-idx3-ubyte": write_idx(
            folder / "train-images-idx3-ubyte.gz", 8, images, zipped=True
        ),
        "train-labels-idx1-ubyte": write_idx(
            folder / "train-labels.idx1-ubyte", 8, np.array([7, 1], np.uint8)
        ),
    }
    for stem, path in files.items():
        sums = hashlib.sha256(idx._read(path)).hexdigest()
        monkeypatch.setitem(idx._SHA256, ("mnist", stem), sums)
    monkeypatch.setattr(idx, "_SYSTEM_FOLDER", str(tmp_path / "nowhere"))
    monkeypatch.delenv("DEEPLIMITS_DATA", raising=False)
    return tmp_path, images


def test_load_idx_set_by_root_and_environment(small_mnist, monkeypatch):
    root, images = small_mnist
    data = datasets.load("mnist", root=root)
    assert np.array_equal(data.images[..., 0], images)
    assert data.y.tolist() == [7, 1]
    assert "train part" in data.source
    monkeypatch.setenv("DEEPLIMITS_DATA", f"{root / 'other'}:{root / 'mnist'}")
    assert np.array_equal(datasets.load("mnist", part="train").X, data.X)


def test_load_idx_set_errors(small_mnist):
    root, _ = small_mnist
    with pytest.raises(
        DataError, match=r"t10k-images-idx3-ubyte\[\.gz\] was not found .*DEEPLIMITS_DATA"
    ):
        datasets.load("mnist", root=root, part="test")
    with pytest.raises(DataError, match="'fashion_mnist' is not bundled"):
        datasets.load("fashion_mnist")
    (root / "fashion-mnist").mkdir()
    shutil.copy(root / "mnist/train-images-idx3-ubyte.gz", root / "fashion-mnist")
    with pytest.raises(DataError, match="it is train-images-idx3-ubyte of 'mnist'"):
        datasets.load("fashion_mnist", root=root)
    write_idx(root / "mnist" / "train-labels.idx1-ubyte", 8, np.array([7, 2], np.uint8))
    with pytest.raises(DataError, match="it has the unknown sha256"):
        datasets.load("mnist", root=root)


def test_damaged_and_missing_bundled_file(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.setattr(datasets.resources, "files", lambda package: tmp_path)
    with pytest.raises(DataError, match=r"yacht\.npz is missing\. Reinstall"):
        datasets.load("yacht")
    (tmp_path / "data" / "yacht.npz").write_bytes(b"x" + (DATA / "yacht.npz").read_bytes()[1:])
    with pytest.raises(DataError, match=r"yacht\.npz is damaged.*git checkout"):
        datasets.load("yacht")


def test_load_errors():
    with pytest.raises(DomainError, match="name must be one of 'digits'"):
        datasets.load("cifar")
    with pytest.raises(DomainError, match="part must be one of 'train', 'test'"):
        datasets.load("mnist", part="both")
    for arguments in ({"part": "test"}, {"root": "."}):
        with pytest.raises(DomainError, match=r"bundled and has one part.*split\(key=0\)"):
            datasets.load("digits", **arguments)


def test_record_errors():
    data = datasets.load("yacht")
    with pytest.raises(ShapeError, match="yacht holds a table of 6 features, not images"):
        _ = data.images
    for fraction in (0.0, 1.0, np.nan):
        with pytest.raises(DomainError, match="test_fraction must be"):
            data.split(fraction, key=0)
    with pytest.raises(DomainError, match=r"key must be one jax\.random\.key"):
        data.split(key=None)
    with pytest.raises(DomainError, match="at least 2 data points, yacht has 1"):
        data.take(slice(1)).split(key=0)
    with pytest.raises(DomainError, match="k must be >= 2"):
        data.folds(1, key=0)
    with pytest.raises(
        DomainError, match="k must be at most the number of data points 308, got 309"
    ):
        data.folds(309, key=0)


def test_scaling_errors():
    with pytest.raises(ShapeError, match=r"X must have shape \(n, d\)"):
        datasets.standardize([1.0, 2.0])
    with pytest.raises(ShapeError, match="X and reference must agree"):
        datasets.standardize(np.ones((2, 2)), np.ones((2, 3)))
    with pytest.raises(DomainError, match="reference must be finite"):
        datasets.standardize(np.ones((2, 2)), np.full((2, 2), np.nan))
    with pytest.raises(DomainError, match="row 1 of X is zero"):
        datasets.to_sphere([[1.0, 0.0], [0.0, 0.0]])
    with pytest.raises(DomainError, match=r"radius must be > 0"):
        datasets.to_sphere([[1.0]], 0.0)


def test_one_hot_errors():
    with pytest.raises(ShapeError, match="one label per data point"):
        datasets.one_hot([[1, 2]])
    with pytest.raises(ShapeError, match="one label per data point"):
        datasets.one_hot(np.zeros(0, int))
    with pytest.raises(DomainError, match="integer labels, got dtype float64"):
        datasets.one_hot([0.0, 1.0])
    with pytest.raises(DomainError, match=r"labels must lie in 0\.\.1, got 0\.\.2"):
        datasets.one_hot([0, 2], 2)
    with pytest.raises(DomainError, match=r"labels must lie in 0\.\.1, got -1\.\.1"):
        datasets.one_hot([-1, 1])
    with pytest.raises(DomainError, match="classes must be >= 1"):
        datasets.one_hot([0], 0)
