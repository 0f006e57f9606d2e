"""docs/planted-faults.md lists the faults of the catalogue with their ids, operations and links."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from scanproof.kernels import cases
from tests.support import planted_page
from tests.support.late import Late

if TYPE_CHECKING:
    from scanproof.faults import catalogue, exam, implementations
else:
    catalogue, exam = Late("scanproof.faults.catalogue"), Late("scanproof.faults.exam")
    implementations = Late("scanproof.faults.implementations")

COMMAND = "scanproof exam --format markdown"
LINK = re.compile(r"\]\((https://[^)]+)\)")
ROWS = re.compile(r"the row `(\w+)` reaches it")


def test_the_page_lists_exactly_the_faults_of_the_catalogue() -> None:
    expected = {(f"`{each.id}`", each.op, each.links) for each in catalogue.FAULTS}
    assert {(row[0], row[1], tuple(LINK.findall(row[3]))) for row in planted_page.read_rows()} == expected
    assert len(planted_page.read_rows()) == len(catalogue.FAULTS)


def test_the_page_was_made_with_the_rows_that_there_are() -> None:
    """`44 of 68` counts the rows of an operation that the exam runs: a page that is older than a row has fewer."""
    tested = implementations.prepare_implementations("reference")
    suite = exam.ExamSuite(tested, exam.select_small_cases(tested), ())
    rows = {op: len(suite.cases_for(op)) for op in suite.operations}
    assert min(rows.values()) > 0, "the exam runs rows of every operation"
    stale = {
        (op, int(of))
        for _, op, _, _, counts, *_ in planted_page.read_rows()
        for of in [counts.rpartition(" of ")[2]]
        if int(of) != rows[op]
    }
    assert not stale, f"the page has other numbers of rows than {dict(rows)}: make its tables anew, {COMMAND}"


def test_the_page_names_what_is_not_planted() -> None:
    text = planted_page.PAGE.read_text(encoding="utf-8")
    for each in catalogue.NOT_PLANTED:
        assert each.what in text
        assert all(link in text for link in each.links)


def test_the_catalogue_covers_every_operation_and_names_no_fault_twice() -> None:
    assert len([each for each in catalogue.FAULTS if each.links]) >= 24
    assert {each.op for each in catalogue.REPORTED} == {case.op for case in cases.load()}
    ids = [each.id for each in catalogue.FAULTS]
    assert len(set(ids)) == len(ids)


def test_rows_that_reach_the_reported_size_are_there() -> None:
    """If a note names a case of the suite, the case exists and its largest tensor is as large as the note says."""
    on_gpu = {(case.op, case.name): case for case in cases.load()}
    for each in catalogue.FAULTS:
        named = ROWS.search(each.note or "")
        if named is None:
            continue
        sizes = on_gpu[each.op, named[1]].sizes
        letters = {"selective_state_update": "bhpn", "causal_conv1d_fn": "bdl"}.get(each.op, "bld")
        elements = 1
        for letter in letters:
            elements *= sizes[letter]
        assert elements > 2 ** int(named[1].rpartition("_")[2])
