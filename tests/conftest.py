"""Test settings: float64, strict promotion, warnings as errors (pyproject), checked annotations."""

import os
import sys
import time
import types
from importlib.metadata import version
from pathlib import Path
from typing import Any

CACHE = Path(__file__).resolve().parents[1] / ".cache" / "jax"
os.environ.setdefault("MPLBACKEND", "Agg")
# Two workers on two cores: BLAS threads would wait for each other.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "0")
# Likewise for the compiler: one thread takes 12 % less processor time. Most of the suite's time is
# compilation of programs that run once, and unoptimised code is made in a third of the time: `make
# test` asks for it, except for the tests marked "optimized", which need programs as users have
# them. XLA stops at names that it does not know, hence only where these were tried.
if version("jaxlib") == "0.10.2":
    FLAGS = "--xla_cpu_parallel_codegen_split_count=1"
    if os.environ.get("DEEPLIMITS_UNOPTIMIZED") == "1":
        FLAGS += " --xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
    os.environ.setdefault("XLA_FLAGS", FLAGS)

import jax
import jaxtyping
import pytest
from beartype import BeartypeConf, beartype
from hypothesis import HealthCheck, settings

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")

# Compilation makes first examples slow, so no deadline; the same examples on every run.
settings.register_profile(
    "default",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "thorough", settings.get_profile("default"), derandomize=False, max_examples=500
)
settings.load_profile("default")

_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int may stand for a float


def typecheck(function):
    """Check annotations at run time: all of a private function, the result of a public one.

    Public functions refuse wrong arguments themselves, with their own errors, and the tests look
    for those. Constructors are left alone: JAX calls that of a registered record with placeholders
    in place of arrays.
    """
    name = function.__name__
    if name == "__init__":
        return function
    if not name.startswith("_"):
        result = function.__annotations__.get("return", Any)
        function.__annotations__ = {"return": result}
    return _checked(function)


# The import hook wants the importable name of the checker, and tests are never imported by name.
sys.modules["_typecheck"] = types.ModuleType("_typecheck")
sys.modules["_typecheck"].typecheck = typecheck
jaxtyping.install_import_hook(
    ["deeplimits", "ntk", "gp", "statmech", "bounds"], "_typecheck.typecheck"
)


_last_look = time.monotonic()


@pytest.fixture(autouse=True)
def bounded_programs():
    """Drop compiled programs before they use up the memory maps that Linux allows a process.

    Each program on the CPU holds several maps; at 65530 of them (the default limit) jaxlib crashes.
    Two workers also share 24 GB. Looked at every ten seconds: reading the maps costs milliseconds.
    """
    global _last_look
    yield
    if time.monotonic() - _last_look < 10 or not Path("/proc/self/maps").exists():
        return
    _last_look = time.monotonic()
    maps = Path("/proc/self/maps").read_bytes().count(b"\n")
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    if maps > 30_000 or pages * os.sysconf("SC_PAGE_SIZE") > 4e9:
        jax.clear_caches()
