"""Structure: import arrows, module length, public JAX API only, documented public names."""

import ast
import importlib
import importlib.util
import inspect
import re
import subprocess
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ARROWS = {
    "deeplimits": set(),
    "ntk": {"deeplimits"},
    "gp": {"deeplimits", "ntk"},
    "statmech": {"deeplimits"},
    "bounds": {"deeplimits", "ntk"},
}
NEVER_IMPORTED = {"tests", "docs", "notebooks", "benchmarks"}
PRIVATE_JAX = ("jax.core", "jax.interpreters", "jax.extend")
MAX_LINES = 400


def is_entry_point(path: Path) -> bool:
    """The command line and the demonstration stand above the packages and may use all of them."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return parts[0] == "deeplimits" and (parts[1] == "__main__" or parts[1].startswith("demo"))


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


MODULES = sorted(path for package in ARROWS for path in (ROOT / package).rglob("*.py"))
SCRIPTS = sorted(
    path
    for folder in ("tests", "benchmarks", "notebooks")
    for path in (ROOT / folder).rglob("*.py")
)
modules = pytest.mark.parametrize("path", MODULES, ids=relative)
# The one exception patches the imports of neural-tangents, which uses private names of JAX.
PUBLIC_JAX = [p for p in MODULES + SCRIPTS if not re.search(r"ntk/(test_)?interop", relative(p))]


def imports(tree: ast.AST, path: Path, *, module_level: bool = False) -> list[tuple[str, int]]:
    """Dotted names that ``tree`` imports, with line numbers; relative imports made absolute."""
    package = path.relative_to(ROOT).parent.parts
    found = []
    skip = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda) if module_level else ()
    pending = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Import):
            found += [(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join((*base, *([node.module] if node.module else [])))
            found += [(f"{origin}.{alias.name}".strip("."), node.lineno) for alias in node.names]
        elif called := imported_by_string(node):
            found.append((called, node.lineno))
        pending += [child for child in ast.iter_child_nodes(node) if not isinstance(child, skip)]
    return found


def imported_by_string(node: ast.AST) -> str | None:
    """The constant in ``import_module("x")`` or ``__import__("x")``."""
    if not isinstance(node, ast.Call) or not node.args:
        return None
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    first = node.args[0]
    if name in ("import_module", "__import__") and isinstance(first, ast.Constant):
        return str(first.value)
    return None


def forbidden_imports(source: str, path: Path) -> list[str]:
    """Imports in ``source``, taken to lie at ``path``, that break the arrows."""
    package = path.relative_to(ROOT).parts[0]
    allowed = {package} | (set(ARROWS) if is_entry_point(path) else ARROWS[package])
    tree = ast.parse(source)
    wrong = {pair for pair in imports(tree, path) if pair[0].split(".")[0] in NEVER_IMPORTED}
    ours = [pair for pair in imports(tree, path) if pair[0].split(".")[0] in ARROWS]
    wrong |= {pair for pair in ours if pair[0].split(".")[0] not in allowed}
    if is_entry_point(path):
        eager = imports(tree, path, module_level=True)
        wrong |= {p for p in eager if p in ours and p[0].split(".")[0] != package}
    return [f"{relative(path)}:{line} imports {name}" for name, line in sorted(wrong)]


@modules
def test_import_arrows(path):
    assert forbidden_imports(path.read_text(), path) == []


@pytest.mark.parametrize(
    ("place", "source", "wrong"),
    [
        ("deeplimits/roots.py", "import ntk", True),
        ("deeplimits/roots.py", "def f():\n    from gp.process import GP", True),
        ("deeplimits/roots.py", "importlib.import_module('ntk')", True),
        ("deeplimits/__main__.py", "import ntk", True),
        ("deeplimits/__main__.py", "if True:\n    import ntk", True),
        ("deeplimits/__main__.py", "def main():\n    import ntk, gp", False),
        ("deeplimits/demo/figures.py", "def main():\n    import ntk, gp", False),
        ("ntk/gram.py", "from deeplimits import validate\nfrom . import state", False),
        ("ntk/gram.py", "from .. import gp", True),
        ("ntk/gram.py", "import gp.process", True),
        ("gp/process.py", "from ntk import serial", False),
        ("gp/process.py", "import bounds", True),
        ("statmech/sk.py", "import ntk", True),
        ("bounds/norms.py", "import gp", True),
        ("ntk/gram.py", "from tests.problems import cases", True),
    ],
)
def test_import_arrows_are_really_checked(place, source, wrong):
    assert bool(forbidden_imports(source, ROOT / place)) is wrong


def private_jax(source: str, path: Path) -> list[str]:
    """Uses of JAX outside its public interface, by import or by attribute."""
    tree = ast.parse(source)
    names = imports(tree, path)
    aliases = {"jax": "jax"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {a.asname: a.name for a in node.names if a.asname and a.name[:3] == "jax"}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "jax":
            aliases |= {a.asname or a.name: f"{node.module}.{a.name}" for a in node.names}
        elif isinstance(node, ast.Attribute) and (dotted := dotted_name(node)):
            head, _, tail = dotted.partition(".")
            names += [(f"{aliases[head]}.{tail}", node.lineno)] if head in aliases else []
    return [f"{relative(path)}:{line} uses {name}" for name, line in names if is_private_jax(name)]


def dotted_name(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute) and (base := dotted_name(node.value)):
        return f"{base}.{node.attr}"
    return None


def is_private_jax(name: str) -> bool:
    parts = name.split(".")
    if parts[0] == "jaxlib" or f"{name}.".startswith(tuple(f"{p}." for p in PRIVATE_JAX)):
        return True
    return parts[0] == "jax" and any(re.match(r"_(?!_)", part) for part in parts)


@pytest.mark.parametrize("path", PUBLIC_JAX, ids=relative)
def test_public_jax_only(path):
    assert private_jax(path.read_text(), path) == []


@pytest.mark.parametrize(
    ("source", "wrong"),
    [
        ("import jax._src.lib", True),
        ("from jax import core", True),
        ("from jax.interpreters import ad", True),
        ("import jax.extend as jex", True),
        ("import jaxlib", True),
        ("import jax\njax.core.Tracer", True),
        ("import jax.numpy as jnp\njnp._promote", True),
        ("from jax import numpy as jnp\njnp.linalg._norm(1)", True),
        ("import jax\njax.__version__", False),
        ("import jax, numpy as np\nnp._x\njax.numpy.linalg.norm", False),
        ("from jax.scipy.special import erf", False),
    ],
)
def test_public_jax_is_really_checked(source, wrong):
    assert bool(private_jax(source, ROOT / "ntk/x.py")) is wrong


@modules
def test_module_length(path):
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES, f"{relative(path)} has {lines} lines: split it by ideas"


@modules
def test_every_module_has_a_docstring(path):
    assert ast.get_docstring(ast.parse(path.read_text()))


@pytest.mark.parametrize("package", ARROWS)
def test_package_lies_in_this_project(package):
    # The package index holds other distributions with modules `ntk`, `gp` and `bounds`.
    assert Path(importlib.util.find_spec(package).origin) == ROOT / package / "__init__.py"


@pytest.mark.parametrize("package", ARROWS)
def test_init_is_a_table_of_contents(package):
    body = ast.parse((ROOT / package / "__init__.py").read_text()).body
    allowed = (ast.Import, ast.ImportFrom, ast.Assign, ast.FunctionDef)
    assert isinstance(body[0], ast.Expr)
    for node in body[1:]:
        assert isinstance(node, allowed), f"line {node.lineno}: nothing is computed here"
        if isinstance(node, ast.FunctionDef):
            assert node.name in ("__getattr__", "__dir__")
        if isinstance(node, ast.Assign):
            assert dotted_name(node.targets[0]) in ("__version__", "__all__")


def public_names(package: str) -> list[str]:
    tree = ast.parse((ROOT / package / "__init__.py").read_text())
    nodes = [node for node in tree.body if isinstance(node, (ast.Import, ast.ImportFrom))]
    names = [alias.asname or alias.name for node in nodes for alias in node.names]
    return [name for name in names if not name.startswith("_")]


@pytest.mark.parametrize("package", ARROWS)
def test_public_names_are_documented(package):
    missing = [name for name in public_names(package) if not is_documented(package, name)]
    assert missing == []


def is_documented(package: str, name: str) -> bool:
    """A docstring of its own; a dataclass's generated signature and inherited text do not count."""
    value = getattr(importlib.import_module(package), name)
    if isinstance(value, type):
        text = value.__dict__.get("__doc__") or ""
        return bool(text) and not text.startswith(f"{value.__name__}(")
    if callable(value) or isinstance(value, types.ModuleType):
        return bool(inspect.getdoc(value))
    return True


@pytest.mark.parametrize("package", ARROWS)
def test_public_names_are_unique_and_exist(package):
    names = public_names(package)
    assert len(names) == len(set(names))
    module = importlib.import_module(package)
    assert [name for name in names if not hasattr(module, name)] == []


SKIPPED = re.compile(r"^(\..*|__pycache__|out|dist|build|_build|.*\.egg-info)$")


def project_files() -> list[Path]:
    """Files under version control, or everything but build products where git does not answer."""
    git = (
        subprocess.run(
            [
                "git",
                "-C",
                str(ROOT),
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ],
            capture_output=True,
            check=False,
        )
        if (ROOT / ".git").exists()
        else None
    )
    if git is not None and git.returncode == 0:
        files = [ROOT / name for name in git.stdout.decode().split("\0") if name]
    else:
        files = [
            path
            for path in ROOT.rglob("*")
            if not any(SKIPPED.match(part) for part in path.relative_to(ROOT).parts[:-1])
        ]
    return [path for path in files if path.is_file()]


# A path that only exists on the machine of its author; written so that this file does not match.
MACHINE_PATH = re.compile(rb"(?<![\w./])/(?:work|root|home/\w+|Users/\w+|opt/pypi)/[\w.]")


def test_no_file_names_a_path_of_one_machine():
    found = [
        f"{relative(path)}: {match.group().decode()}..."
        for path in project_files()
        if (match := MACHINE_PATH.search(path.read_bytes()))
    ]
    assert found == []


def test_machine_paths_are_really_found():
    for home in (b"work", b"root", b"home/ann", b"opt/pypi"):
        assert MACHINE_PATH.search(b"File /" + home + b"/x.py")
    for text in (b"frame/work/x", b"a/root/b", b"https://host/home/ann/x"):
        assert not MACHINE_PATH.search(text)
