"""Sphinx: pages from Markdown, notebooks as committed, API from the docstrings."""

import shutil
from pathlib import Path

from deeplimits import __version__

# Sphinx reads pages below this folder only, so the notebooks are copied here (not committed).
HERE = Path(__file__).parent
shutil.rmtree(HERE / "notebooks", ignore_errors=True)
(HERE / "notebooks").mkdir()
for notebook in sorted((HERE.parent / "notebooks").glob("*.ipynb")):
    shutil.copy(notebook, HERE / "notebooks")

project = "deeplimits"
author = "The deeplimits developers"
copyright = "2026, The deeplimits developers"
release = __version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb", ".rst": "restructuredtext"}
exclude_patterns = ["_build", "jupyter_execute"]
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
html_theme = "furo"
html_title = "deeplimits"
autodoc_member_order = "bysource"
autodoc_typehints = "none"
napoleon_use_ivar = True
napoleon_custom_sections = ["Source", "Check"]
# Docstrings of NumPy and JAX types that our classes inherit are not ours to mend.
suppress_warnings = ["myst.header", "mystnb.unknown_mime_type", "misc.highlighting_failure"]
