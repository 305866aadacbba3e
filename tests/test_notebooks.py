"""Notebooks: every script runs, every .ipynb is its source with outputs and nothing local."""

import importlib.util
import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import nbformat
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
SCRIPTS = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
LOCAL = re.compile(r"/(tmp|home|root|work|Users)/|site-packages|ipykernel_\d+|\bat 0x[0-9a-f]{6,}")

spec = importlib.util.spec_from_file_location("_execute_notebooks", FOLDER / "execute.py")
execute = importlib.util.module_from_spec(spec)
spec.loader.exec_module(execute)

each_script = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)


@pytest.mark.notebook
@each_script
def test_runs_as_a_script(script, tmp_path):
    environment = {**os.environ, "MPLBACKEND": "Agg"}
    environment.setdefault("DEEPLIMITS_FAST", "1")
    if version("jaxlib") == "0.10.2":  # code that runs once: unoptimised, made in half of the time
        environment["XLA_FLAGS"] = (
            "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
        )
    run = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,  # a hanging notebook must not hang the suite
        check=False,
    )
    assert run.returncode == 0, run.stderr[-4000:]


@each_script
def test_notebook_is_the_source_with_outputs(script):
    assert script.with_suffix(".ipynb").exists(), "run `make notebooks`"
    notebook = nbformat.read(script.with_suffix(".ipynb"), as_version=4)
    nbformat.validate(notebook)
    cells = [(cell.cell_type, cell.source) for cell in notebook.cells]
    source = [(cell.cell_type, cell.source) for cell in execute.read_source(script).cells]
    assert cells == source, "the script has changed: run `make notebooks`"
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs), "no figure"
    assert not [output for output in outputs if output.output_type == "error"]
    assert not [output for output in outputs if output.get("name") == "stderr"]
    for output in outputs:
        texts = [output.get("text", "")]
        texts += [v for kind, v in output.get("data", {}).items() if kind.startswith("text/")]
        assert not LOCAL.search("\n".join(texts))


@each_script
def test_first_code_cell_switches_float64_on(script):
    code = [cell for cell in execute.read_source(script).cells if cell.cell_type == "code"]
    assert 'jax.config.update("jax_enable_x64", True)' in code[0].source


def test_every_notebook_has_a_source_and_a_line_in_the_index():
    index = (FOLDER / "README.md").read_text()
    assert {path.stem for path in FOLDER.glob("*.ipynb")} == {path.stem for path in SCRIPTS}
    assert [path.stem for path in SCRIPTS if path.stem not in index] == []


@pytest.mark.notebook
def test_execute_removes_what_changes_between_runs(tmp_path, capsys):
    script = tmp_path / "00_sample.py"
    script.write_text(
        "# %% [markdown]\n# A title\n\n# %%\nimport sys\nprint('kept')\n"
        "print('dropped', file=sys.stderr)\nobject()\n\n# %%\n"
        "import matplotlib.pyplot as plt\nplt.plot([0, 1]);\n"
    )
    notebook = execute.execute(script)
    nbformat.validate(notebook)
    markdown, code, figure = notebook.cells
    assert markdown.source == "A title"
    assert [output.output_type for output in code.outputs] == ["stream", "execute_result"]
    assert code.outputs[0].text == "kept\n"
    assert code.outputs[1].data["text/plain"] == "<object>"
    assert "image/png" in figure.outputs[0].data
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert "dropped" in capsys.readouterr().err
    assert nbformat.writes(execute.execute(script)) == nbformat.writes(notebook)


@pytest.mark.notebook
def test_execute_refuses_local_paths(tmp_path):
    script = tmp_path / "00_sample.py"
    script.write_text("# %%\nimport sys\nprint(sys.prefix)\n")
    with pytest.raises(ValueError, match=r"00_sample\.py: an output names the local path"):
        execute.execute(script)
