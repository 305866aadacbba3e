"""Set-up files: pinned dependencies, targets, entry points, and imports without side effects."""

import hashlib
import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import deeplimits

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
PINS = (ROOT / "constraints.txt").read_text().splitlines()
TARGETS = ("help", "demo", "test", "test-all", "notebooks", "bench", "docs", "lint", "clean")
needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def run_make(*arguments, **environment):
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    return subprocess.run(
        ["make", "-C", str(ROOT), "--no-print-directory", *arguments],
        env={**inherited, **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,  # every call here only prints
        check=False,
    )


def test_constraints_are_plain_pins():
    for line in PINS:
        assert re.fullmatch(r"[a-z0-9][a-z0-9.-]*==[0-9][0-9a-z.]*( ; [a-z_]+ .+)?", line), line
    assert "neural-tangents==0.6.5" in PINS
    # The last JAX made for Python 3.11; newer Pythons get a newer one.
    assert "jax==0.10.2 ; python_full_version < '3.12'" in PINS
    assert sum(line.startswith("jax==") for line in PINS) == 2


def requirements():
    extras = PROJECT["optional-dependencies"].values()
    listed = [*PROJECT["dependencies"], *(line for extra in extras for line in extra)]
    return [r for r in map(Requirement, listed) if r.name != PROJECT["name"]]


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_every_requirement_is_pinned_within_its_range(python):
    environment = {"python_version": python, "python_full_version": f"{python}.1"}
    pins = {}
    for pin in map(Requirement, PINS):
        if pin.marker is None or pin.marker.evaluate(environment):
            assert pin.name not in pins, f"{pin.name} is pinned twice for Python {python}"
            pins[pin.name] = str(pin.specifier).removeprefix("==")
    for requirement in requirements():
        version = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version), f"{requirement} against {version}"


def test_self_references_of_extras_exist():
    extras = PROJECT["optional-dependencies"]
    listed = [Requirement(line) for extra in extras.values() for line in extra]
    used = set().union(*(r.extras for r in listed if r.name == PROJECT["name"]))
    assert used <= set(extras)


def test_no_setup_file_names_a_package_index():
    hosts = re.compile(
        r"(?i)pypi\.org|pythonhosted|--(extra-)?index-url|--find-links|://[\w.]*(pypi|simple)"
    )
    for name in ("constraints.txt", "pyproject.toml", "Makefile", ".ci/run", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text().replace("--no-emit-index-url", "")
        assert not hosts.search(text), name
        assert "://" not in text or name not in ("constraints.txt", "Makefile", ".ci/run")


def test_version_is_the_same_everywhere():
    assert PROJECT["version"] == deeplimits.__version__
    assert f"\nversion: {deeplimits.__version__}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## {deeplimits.__version__}" in (ROOT / "CHANGELOG.md").read_text()


def test_licence_is_the_complete_apache_text():
    # The sum of LICENSE-2.0.txt as published by the Apache Software Foundation.
    assert hashlib.sha256((ROOT / "LICENSE").read_bytes()).hexdigest() == (
        "cfc7749b96f63bd31c3c42b5c471bf756814053e847c10f3eb003417bc523d30"
    )


def test_wheel_holds_the_five_packages():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = config["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert packages == ["deeplimits", "ntk", "gp", "statmech", "bounds"]
    assert all((ROOT / package / "py.typed").exists() for package in packages)


def test_ci_runs_lint_and_tests():
    script = ROOT / ".ci" / "run"
    assert script.stat().st_mode & stat.S_IXUSR
    lines = script.read_text().splitlines()
    assert lines[0] == "#!/usr/bin/env bash"
    assert "set -euo pipefail" in lines
    assert lines[-1] == "make lint test"


@needs_make
def test_make_alone_lists_every_target():
    shown = run_make()
    assert shown.returncode == 0
    assert re.findall(r"^  make ([a-z-]+) ", shown.stdout, re.M) == list(TARGETS)


@needs_make
def test_make_demo_writes_to_out():
    recipe = run_make("-n", "demo", "VENV=no-such-folder").stdout
    assert "no-such-folder/bin/python -m deeplimits demo --out out" in recipe
    assert "-e ." in recipe  # the core only: a demonstration needs no test tools


@needs_make
def test_make_test_runs_everything_last():
    recipe = run_make("-n", "test", "VENV=no-such-folder").stdout.strip().splitlines()
    run = "no-such-folder/bin/python -m pytest -n 2 --dist worksteal -m "
    # a marker and its opposite, so that none is left out
    assert recipe[-2:] == [f'DEEPLIMITS_UNOPTIMIZED=1 {run}"not optimized"', f"{run}optimized"]
    assert sum("pytest" in line for line in recipe) == 2


@needs_make
@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "not-a-python was not found; install Python 3.11 or newer"),
        ("exit 1", "is older than Python 3.11; say which one to use: make PYTHON=python3.12"),
        (
            'case "$2" in *ensurepip*) exit 1;; esac',
            "on Debian and Ubuntu: apt-get install python3-venv",
        ),
    ],
)
def test_make_explains_an_unusable_python(tmp_path, body, message):
    python = tmp_path / "not-a-python"
    if body is not None:
        python.write_text(f"#!/bin/sh\n{body}\n")
        python.chmod(0o755)
    result = run_make("demo", f"PYTHON={python}", f"VENV={tmp_path / 'venv'}")
    assert result.returncode == 2
    errors = [line for line in result.stderr.splitlines() if line.startswith("Error:")]
    assert len(errors) == 1
    assert message in errors[0]
    assert not (tmp_path / "venv").exists()


def test_import_prints_nothing_and_changes_no_setting():
    code = (
        "import jax, scipy.stats, xarray, warnings, sys; filters = list(warnings.filters)\n"
        "import deeplimits, ntk, gp, statmech, bounds\n"
        "assert not jax.config.jax_enable_x64\n"
        "assert warnings.filters == filters\n"
        "heavy = {'sympy', 'matplotlib.pyplot', 'sklearn', 'zarr', 'dask', 'neural_tangents'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        env={k: v for k, v in os.environ.items() if k != "JAX_ENABLE_X64"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (run.returncode, run.stdout, run.stderr) == (0, "", "")
