"""Stopped and resumed simulations."""

import numpy as np
import pytest

import statmech
from deeplimits.errors import DataError
from statmech import montecarlo, montecarlo_run

FIELDS = ("spins", "overlaps", "overlaps_squared", "magnetisation", "acceptance")


def run(path=None, *, x_key=0, **kw):
    # real patterns: what the kernel carries along has rounding, which must not differ either
    x = np.asarray(statmech.random_patterns(3, 48, key=x_key), float) * np.linspace(0.3, 1.1, 48)
    settings = {
        "key": 0, "T": [0.4, 0.8], "sweeps": 20, "burn_in": 7, "chains": 4, "progress": False,
        "checkpoint": path, **kw,
    }  # fmt: skip
    return statmech.simulate(statmech.hebbian_coupling(x), **settings)


@pytest.fixture(autouse=True)
def short_chunks(monkeypatch):
    monkeypatch.setattr(montecarlo, "CHUNK_UPDATES", 3 * 48 * 8)  # three sweeps


def stop_after(monkeypatch, chunks):
    """Interrupt as Ctrl-C does, in the given chunk."""
    real, calls = montecarlo_run.run_chunk, []

    def chunk(*args):
        if len(calls) == chunks:
            raise KeyboardInterrupt
        calls.append(1)
        return real(*args)

    monkeypatch.setattr(montecarlo_run, "run_chunk", chunk)


def same(a, b):
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    for name in a.series:
        np.testing.assert_array_equal(a.series[name], b.series[name])


@pytest.mark.parametrize("chunks", [1, 3, 6])  # in the burn-in, after it, in the measurements
def test_resumed_run_is_the_uninterrupted_run(tmp_path, chunks):
    path, whole = tmp_path / "run.npz", run()
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, chunks)
        with pytest.raises(KeyboardInterrupt):
            run(path)
    assert path.exists()
    same(run(path), whole)
    with pytest.MonkeyPatch.context() as patch:
        stop_after(patch, 0)  # a finished run computes nothing
        same(run(path), whole)
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]


def test_a_finished_run_is_prolonged(tmp_path):
    path = tmp_path / "run.npz"
    run(path, sweeps=9)
    same(run(path, sweeps=21), run(sweeps=21))
    with pytest.raises(DataError, match="holds 21 sweeps after the burn-in"):
        run(path, sweeps=18)


def test_another_run_is_refused(tmp_path):
    path = tmp_path / "run.npz"
    run(path)
    for other in ({"key": 1}, {"T": [0.4, 0.9]}, {"x_key": 1}, {"rule": "metropolis"}):
        with pytest.raises(DataError, match="belongs to another run"):
            run(path, **other)


def test_damaged_file_is_refused(tmp_path):
    path = tmp_path / "run.npz"
    path.write_bytes(b"not an archive")
    with pytest.raises(DataError, match="cannot be read"):
        run(path)


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "run.npz"
    run(path, sweeps=9)
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError("no space left on device")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space left"):
        run(path, sweeps=21)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["run.npz"]


def test_progress_bar(capsys):
    run(progress=True)
    assert "sweep" not in capsys.readouterr().err  # short runs show none
