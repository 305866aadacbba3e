"""The command line: output, exit status, one line per mistake."""

import json
import os
import subprocess
import sys
import types

import jax
import pytest

from deeplimits import __version__
from deeplimits import claims as registry
from deeplimits.__main__ import main
from deeplimits.claims import Claim, load_claims, register
from deeplimits.demo import FailedClaimError


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch):
    load_claims()
    monkeypatch.setattr(registry, "_REGISTRY", dict(registry._REGISTRY))

    def experiment(key, size):
        return jax.random.normal(key, (50,))

    register(Claim("cli-true", "[jacot2018]", "True.", 0.0, experiment, [1], z=4.0))
    register(Claim("cli-false", "", "False.", 9.0, experiment, [1], z=4.0, cost="slow"))


def test_check_reports_and_returns_status(capsys, tmp_path):
    path = tmp_path / "report.json"
    assert main(["check", "cli-true", "--seed", "3", "--json", str(path)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("PASS  cli-true")
    assert "| claim | source |" in out
    assert "1 of 1 claims passed." in out
    record = json.loads(path.read_text())
    assert (record["version"], record["seed"], record["failed"]) == (__version__, 3, [])
    assert record["claims"][0]["name"] == "cli-true"
    assert main(["check", "cli-true", "cli-false", "--json", str(path)]) == 1
    assert "1 of 2 claims passed." in capsys.readouterr().out
    assert json.loads(path.read_text())["failed"] == ["cli-false"]


def test_check_runs_slow_claims_only_when_asked(capsys, monkeypatch):
    mine = {k: v for k, v in registry._REGISTRY.items() if k.startswith("cli-")}
    monkeypatch.setattr(registry, "_REGISTRY", mine)
    assert main(["check"]) == 0
    assert "cli-false" not in capsys.readouterr().out
    assert main(["check", "--slow"]) == 1
    assert "FAIL  cli-false" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["check", "cli-tru"], "Near matches: cli-true"),
        (["check", "--seed", "-1"], "--seed must be"),
        (["check", "cli-true", "--json", "/no/such/folder/x.json"], "folder does not exist"),
        (["cite", "nonsense"], "No reference or object is called 'nonsense'"),
    ],
)
def test_errors_are_one_line(arguments, message, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith(f"deeplimits {arguments[0]}: ")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.parametrize("arguments", [[], ["unknown"], ["check", "--no"], ["check", "--seed"]])
def test_usage_errors_exit_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert "usage: deeplimits" in capsys.readouterr().err


def test_list(capsys):
    assert main(["list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split()[:2] == ["cli-false", "slow"] for line in lines)
    assert any(line.startswith("central-limit ") for line in lines)


def test_cite(capsys):
    assert main(["cite"]) == 0
    assert capsys.readouterr().out.startswith("@software{deeplimits,")
    assert main(["cite", "cli-true"]) == 0  # a claim: through its source
    assert capsys.readouterr().out.startswith("@inproceedings{jacot2018,")
    assert main(["cite", "deeplimits.statistics.bootstrap"]) == 0
    assert capsys.readouterr().out.startswith("@article{efron1987,")


def test_info(capsys):
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for word in (__version__, jax.__version__, "devices", "float64     on", "threads"):
        assert word in out


def test_demo_passes_the_folder_on(monkeypatch):
    seen = []
    module = types.ModuleType("deeplimits.demo")
    module.main = seen.append
    module.FailedClaimError = FailedClaimError
    monkeypatch.setitem(sys.modules, "deeplimits.demo", module)
    assert main(["demo", "--out", "somewhere"]) == 0
    assert main(["demo"]) == 0
    assert seen == ["somewhere", "out"]


def test_demo_with_a_failed_claim_exits_with_1(monkeypatch, capsys):
    def fail(out):
        raise FailedClaimError("1 claims failed: no.")

    monkeypatch.setattr("deeplimits.demo.main", fail)
    assert main(["demo"]) == 1
    assert capsys.readouterr().err == "deeplimits demo: 1 claims failed: no.\n"


def test_as_a_process_with_x64_off_outside():
    """A real process: x64 is switched on by the command, status and streams are those promised."""
    environment = {**os.environ, "JAX_ENABLE_X64": "0"}
    command = [sys.executable, "-m", "deeplimits"]
    good = subprocess.run(
        [*command, "check", "central-limit"],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    assert (good.returncode, good.stderr) == (0, "")
    assert "1 of 1 claims passed." in good.stdout
    here = get_line(good.stdout)
    main_line = registry.get("central-limit").run(key=0).summary()
    assert here == main_line  # float64 draws: the same numbers as in this process


def get_line(text):
    """The summary line without its timing."""
    return text.splitlines()[0].rpartition("  [")[0]
