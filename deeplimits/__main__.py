"""Command line: ``deeplimits demo | check | list | cite | info``.

Exit status: 0 when everything passed, 1 when a claim failed, 2 when the command could not run
(unknown option, name or file). Heavy imports happen inside the commands.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from deeplimits import __version__
from deeplimits.errors import DeepLimitsError, DomainError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status.

    Args:
        arguments: words after the program's name; default those of the process.

    Check: tests/deeplimits/test_cli.py
    """
    options = _parser().parse_args(arguments)
    import jax

    jax.config.update("jax_enable_x64", True)
    try:
        status: int = options.run(options)
    except (DeepLimitsError, OSError) as error:
        message = " ".join(str(error).split())
        print(f"deeplimits {options.command}: {message}", file=sys.stderr)
        return 2
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="deeplimits", description=__doc__.splitlines()[0])
    parser.add_argument("--version", action="version", version=f"deeplimits {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    demo = commands.add_parser("demo", help="figures and a report from real data")
    demo.add_argument("--out", default="out", help="folder to write to (default: out)")
    demo.set_defaults(run=_demo)

    check = commands.add_parser("check", help="run claims: theory against experiment")
    check.add_argument("names", nargs="*", help="claims to run (default: every fast one)")
    check.add_argument("--slow", action="store_true", help="run the slow claims too")
    check.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    check.add_argument("--json", metavar="FILE", type=Path, help="write every number to FILE")
    check.set_defaults(run=_check)

    listing = commands.add_parser("list", help="list the claims")
    listing.set_defaults(run=_list)

    citation = commands.add_parser("cite", help="print BibTeX")
    citation.add_argument(
        "name",
        nargs="?",
        default="deeplimits",
        help="a key (jacot2018), an arXiv number, an object (ntk.dual) or a claim; "
        "default: this software",
    )
    citation.set_defaults(run=_cite)

    info = commands.add_parser("info", help="print versions, devices, precision and threads")
    info.set_defaults(run=_info)
    return parser


def _demo(options: argparse.Namespace) -> int:
    import importlib

    demo = importlib.import_module("deeplimits.demo")
    try:
        demo.main(options.out)
    except demo.FailedClaimError as error:
        print(f"deeplimits demo: {error}", file=sys.stderr)
        return 1
    return 0


def _check(options: argparse.Namespace) -> int:
    from deeplimits import claims
    from deeplimits.comparison import summary_table
    from deeplimits.validate import as_key

    key = as_key(options.seed, "--seed")
    selected = claims.claims(options.names or None, slow=options.slow)
    if options.json is not None and not options.json.absolute().parent.is_dir():
        raise DomainError(f"--json {options.json}: the folder does not exist.")
    done = []
    for claim in selected:
        start = time.perf_counter()
        done.append(claim.run(key=key))
        print(f"{done[-1].summary()}  [{time.perf_counter() - start:.1f} s]", flush=True)
    print(f"\n{summary_table(done)}")
    failed = [c.claim.name for c in done if not c.passed]
    print(f"\n{len(done) - len(failed)} of {len(done)} claims passed.")
    if options.json is not None:
        record = {"version": __version__, "seed": options.seed, "failed": failed}
        record["claims"] = [c.to_dict() for c in done]
        options.json.write_text(json.dumps(record, indent=1, allow_nan=False) + "\n")
    return 1 if failed else 0


def _list(options: argparse.Namespace) -> int:
    from deeplimits.claims import claims

    registered = claims()
    width = max((len(c.name) for c in registered), default=0)
    for claim in registered:
        print(f"{claim.name:<{width}}  {claim.cost:<4}  {claim.statement} ({claim.source})")
    return 0


def _cite(options: argparse.Namespace) -> int:
    from deeplimits.cite import cite, resolve
    from deeplimits.claims import claims

    by_name = {claim.name: claim for claim in claims()}
    print(cite(by_name[options.name] if options.name in by_name else resolve(options.name)))
    return 0


def _info(options: argparse.Namespace) -> int:
    from importlib.metadata import PackageNotFoundError, version

    import jax

    from deeplimits.precision import x64_enabled

    print(f"deeplimits  {__version__}")
    print(f"python      {platform.python_version()} on {platform.platform()}")
    names = ("jax", "jaxlib", "numpy", "scipy", "optimistix", "optax", "blackjax", "xarray")
    for name in (*names, "matplotlib", "neural-tangents"):
        try:
            print(f"{name:<11} {version(name)}")
        except PackageNotFoundError:
            print(f"{name:<11} not installed")
    devices = ", ".join(f"{d.platform}:{d.id} ({d.device_kind})" for d in jax.devices())
    print(f"devices     {devices}")
    print(f"float64     {'on' if x64_enabled() else 'off'} in this command")
    threads = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(f"threads     {threads} usable of {os.cpu_count()}")
    for variable in ("OMP_NUM_THREADS", "XLA_FLAGS", "JAX_PLATFORMS", "JAX_COMPILATION_CACHE_DIR"):
        if variable in os.environ:
            print(f"            {variable}={os.environ[variable]}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
