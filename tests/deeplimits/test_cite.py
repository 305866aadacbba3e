"""The bibliography is well formed, and docstrings lead to it."""

import re

import pytest

from deeplimits import series, statistics
from deeplimits.cite import cite, resolve, sources
from deeplimits.errors import DomainError
from deeplimits.references import ARXIV, BIBTEX, ENTRIES


def test_entries_are_well_formed():
    assert BIBTEX.count("\n@") == len(ENTRIES)  # no entry lost to a duplicate key
    for key, entry in ENTRIES.items():
        assert entry.count("{") == entry.count("}"), key
        assert re.match(rf"@\w+\{{{key},\n", entry), key
        assert entry.endswith("\n}"), key
        for field in ("author", "title"):
            assert entry.count(f"  {field} = {{") == 1, (key, field)
        assert re.search(r"year = \{\d{4}\}", entry) or key == "uci", key
        kind = re.match(r"@(\w+)", entry).group(1)
        needed = {"article": "journal", "inproceedings": "booktitle", "book": "publisher"}.get(kind)
        assert needed is None or f"{needed} = {{" in entry, key


def test_years_of_arxiv_entries_are_not_before_the_preprint():
    for identifier, key in ARXIV.items():
        if "/" not in identifier:
            year = int(re.search(r"year = \{(\d{4})\}", ENTRIES[key]).group(1))
            assert 2000 + int(identifier[:2]) <= year, key


def test_cite_by_key_identifier_and_default():
    assert cite("jacot2018").startswith("@inproceedings{jacot2018,")
    assert cite("1806.07572") == cite("arXiv:1806.07572") == cite("jacot2018")
    assert cite().startswith("@software{deeplimits,")


def test_cite_reads_docstrings():
    assert cite(statistics.bootstrap) == ENTRIES["efron1987"]
    assert cite(series.blocking) == f"{ENTRIES['flyvbjerg1989']}\n\n{ENTRIES['lee2011']}"


def test_cite_reads_only_the_source_section():
    def result():
        """Something.

        Unlike arXiv:1711.00165 it is new.

        Source: eq. (1) of arXiv:1806.07572 and,
            in other words, [roberts2022]; arXiv:1806.07572 again.
        Check: tests/x.py compares with arXiv:2006.14548.
        """

    assert cite(result) == f"{ENTRIES['jacot2018']}\n\n{ENTRIES['roberts2022']}"


def test_unlisted_identifier_gives_what_is_known():
    assert sources("arXiv:2501.01234") == [
        "@misc{arxiv250101234,\n  eprint = {2501.01234}, archiveprefix = {arXiv},\n}"
    ]


def test_cite_attribute_and_claim():
    class Model:
        references = ("hopfield1982", "arXiv:2008.02217")

    class Claimed:
        source = "theorem 1 of arXiv:1806.07572"

    assert cite(Model) == f"{ENTRIES['hopfield1982']}\n\n{ENTRIES['ramsauer2021']}"
    assert cite(Claimed()) == ENTRIES["jacot2018"]


def test_unknown_is_refused():
    with pytest.raises(DomainError, match=r"Did you mean jacot2018\?.*Known keys: deeplimits"):
        cite("jacot2019")
    with pytest.raises(DomainError, match=r"names no source.*Known keys"):
        cite(len)
    with pytest.raises(DomainError, match="No reference or object is called"):
        resolve("nonsense.at.all")


def test_resolve():
    assert resolve("jacot2018") == "jacot2018"
    assert resolve("deeplimits.statistics.bootstrap") is statistics.bootstrap
    assert resolve("deeplimits.series") is series
    with pytest.raises(DomainError, match="No reference"):
        resolve("deeplimits.statistics.bootstrop")
    with pytest.raises(DomainError, match="No reference"):
        resolve("a..b")


def test_resolve_does_not_hide_a_broken_module(tmp_path, monkeypatch):
    (tmp_path / "broken_module_for_cite.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match="no_such_dependency"):
        resolve("broken_module_for_cite")
