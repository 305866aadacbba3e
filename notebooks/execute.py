"""Run every NN_topic.py of this folder and write NN_topic.ipynb with its outputs.

The percent-format script is the source; the notebook beside it is made by this program and holds
nothing that changes from run to run or from machine to machine: no timings, no standard error
(where progress bars go), no memory addresses, no versions, no local paths.

    python notebooks/execute.py                 # all of them
    python notebooks/execute.py 01_kernels.py   # only these
"""

from __future__ import annotations

import os
import re
import sys
import time
from pathlib import Path

import jupytext
import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
ADDRESS = re.compile(r" at 0x[0-9a-f]+")
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
SECONDS_PER_CELL = 600


def read_source(path: Path) -> nbformat.NotebookNode:
    """The cells of a percent-format script, without outputs."""
    notebook = jupytext.read(path, fmt="py:percent")
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:02d}"
        cell.metadata = {}
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def execute(path: Path) -> nbformat.NotebookNode:
    """The notebook of the script ``path`` with the outputs of a fresh kernel.

    Raises:
        nbclient.exceptions.CellExecutionError: a cell failed.
        ValueError: an output names a path of this machine.
    """
    notebook = read_source(path)
    client = NotebookClient(
        notebook,
        timeout=SECONDS_PER_CELL,
        kernel_name="python3",
        resources={"metadata": {"path": str(path.parent)}},
        record_timing=False,
    )
    # An inherited MPLBACKEND (the Makefile sets Agg) would keep figures out of the notebook.
    client.execute(env={**os.environ, "MPLBACKEND": "module://matplotlib_inline.backend_inline"})
    notebook.metadata = {"kernelspec": KERNEL, "language_info": {"name": "python"}}
    for cell in notebook.cells:
        cell.metadata = {}
        if cell.cell_type == "code":
            cell.outputs = [clean(output) for output in cell.outputs if keep(output, path)]
    text = nbformat.writes(notebook)
    for local in {str(HERE.parent), str(Path.home()), sys.prefix}:
        if len(local) > 1 and local in text:
            raise ValueError(
                f"{path.name}: an output names the local path {local}. Do not print it."
            )
    return notebook


def keep(output: nbformat.NotebookNode, path: Path) -> bool:
    """Whether an output belongs into the notebook; standard error is shown here instead."""
    if output.output_type == "stream" and output.name == "stderr":
        if lines := [line for line in output.text.splitlines() if line and "\r" not in line]:
            print(f"{path.name} wrote to standard error:", *lines, sep="\n  ", file=sys.stderr)
        return False
    return True


def clean(output: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """The output without memory addresses."""
    if output.output_type == "stream":
        output.text = ADDRESS.sub("", output.text)
    for kind, value in output.get("data", {}).items():
        if kind.startswith("text/"):
            output.data[kind] = ADDRESS.sub("", value)
    return output


def main(arguments: list[str]) -> None:
    """Execute the named scripts, or all of them."""
    paths = [HERE / Path(name).name for name in arguments] or sorted(HERE.glob("[0-9][0-9]_*.py"))
    for path in paths:
        start = time.monotonic()
        nbformat.write(execute(path), path.with_suffix(".ipynb"))
        print(f"{path.with_suffix('.ipynb').name}: {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
