r"""BibTeX of a result: ``cite(function)`` reads the sources out of its docstring."""

from __future__ import annotations

import difflib
import importlib
import inspect
import re
from typing import Any

from deeplimits.errors import DomainError
from deeplimits.references import ARXIV, ENTRIES

_ARXIV = re.compile(r"arXiv[:\s]\s*(\d{4}\.\d{4,5}|[a-z-]+/\d{7})", re.IGNORECASE)
_KEY = re.compile(r"\[(\w+)\]")
_HEADINGS = r"(?:Args|Returns|Raises|Check|Warns|Example|Examples|Note|Notes)"
_SOURCE = re.compile(rf"^\s*Source:(.*?)(?=^\s*{_HEADINGS}:|\Z)", re.MULTILINE | re.DOTALL)


def cite(subject: Any = "deeplimits") -> str:
    """BibTeX entries of a function, class, module, claim or key.

    Args:
        subject: a key (``"jacot2018"``), an arXiv identifier (``"1806.07572"``), anything with a
            ``references`` attribute (a tuple of these), a claim (its ``source``), or anything whose
            docstring has a section ``Source:`` with ``arXiv:...`` identifiers or ``[key]`` marks.
            Default: this software.

    Returns:
        The entries, separated by blank lines, in order of appearance. An arXiv identifier in a
        docstring that is not in the bibliography gives an entry with the identifier alone.

    Raises:
        DomainError: an unknown key, or an object that names no source.

    Source: derived here. Check: tests/deeplimits/test_cite.py
    """
    if isinstance(subject, str):
        return ENTRIES[_key_of(subject)]
    listed = getattr(subject, "references", None)
    if isinstance(listed, tuple | list) and listed:
        return "\n\n".join(ENTRIES[_key_of(name)] for name in dict.fromkeys(listed))
    found = sources(_source_text(subject))
    if not found:
        name = getattr(subject, "__qualname__", None) or repr(subject)
        raise DomainError(
            f"{name} names no source: its docstring has no arXiv identifier or [key] under "
            f"'Source:'. Known keys: {', '.join(ENTRIES)}."
        )
    return "\n\n".join(found)


def sources(text: str) -> list[str]:
    """BibTeX entries of the ``arXiv:...`` identifiers and ``[key]`` marks in ``text``."""
    marks = [(m.start(), _entry_of_identifier(m.group(1).lower())) for m in _ARXIV.finditer(text)]
    keys = (m for m in _KEY.finditer(text) if m.group(1) in ENTRIES)
    marks += [(m.start(), ENTRIES[m.group(1)]) for m in keys]
    return list(dict.fromkeys(entry for _, entry in sorted(marks)))


def resolve(name: str) -> Any:
    """A key or arXiv identifier as it is; a dotted name (``"ntk.dual"``) as the object it names.

    Raises:
        DomainError: neither.
    """
    if name in ENTRIES or name in ARXIV:
        return name
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        module = ".".join(parts[:cut])
        try:
            subject: Any = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not f"{module}.".startswith(f"{error.name}."):
                raise  # the module exists and fails on a dependency of its own
            continue
        except ValueError:  # an empty part: "a..b"
            continue
        for attribute in parts[cut:]:
            subject = getattr(subject, attribute, None)
        if subject is not None:
            return subject
    raise DomainError(_unknown(name))


def _key_of(name: str) -> str:
    """The key for a key or an arXiv identifier."""
    key = ARXIV.get(name.lower().removeprefix("arxiv:").strip(), name)
    if key not in ENTRIES:
        raise DomainError(_unknown(name))
    return key


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, ENTRIES, n=3, cutoff=0.75)
    hint = f"Did you mean {' or '.join(near)}? " if near else ""
    return f"No reference or object is called {name!r}. {hint}Known keys: {', '.join(ENTRIES)}."


def _entry_of_identifier(identifier: str) -> str:
    """The entry of an arXiv identifier; of one not in the bibliography, what the number says."""
    if identifier in ARXIV:
        return ENTRIES[ARXIV[identifier]]
    key = "arxiv" + re.sub(r"\W", "", identifier)
    return f"@misc{{{key},\n  eprint = {{{identifier}}}, archiveprefix = {{arXiv}},\n}}"


def _source_text(subject: Any) -> str:
    """The Source section of a docstring, or the source of a claim."""
    stated = getattr(subject, "source", None)
    if isinstance(stated, str):
        return stated
    return "\n".join(_SOURCE.findall(inspect.getdoc(subject) or ""))
