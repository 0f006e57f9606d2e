"""The audit of rows: a number filed under another metric, a row that is another model's, a number printed twice."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from scanproof.numbers.audit import conflicts
from scanproof.numbers.values import PublishedValue
from tests.support.audited import as_printed, audited
from tests.support.builders import CONSTANTS, published


def metric_rows(filed_as: str) -> list[PublishedValue]:
    """Three models; the paper's number of the last stands in the row of acc_norm and is near to acc."""
    values = []
    for number in range(3):
        model = {"hub_id": f"lab/mamba-{number}", "model": f"lab/mamba-{number}"}
        rows = {"acc": 10 * number + 1, "acc_norm": 10 * number + 2}
        values += [
            as_printed(1130, 1838, **model, metric="acc", line=rows["acc"]),
            as_printed(1135, 1838, **model, metric="acc_norm", line=rows["acc_norm"]),
        ]
        row, metric = ("acc_norm", filed_as) if number == 2 else ("acc", "acc")
        values.append(published(**model, metric=metric, line=rows[row], origin="paper", printed="61.5", unit="percent"))
    return values


def test_a_papers_number_in_the_row_of_another_metric_is_found() -> None:
    (finding,) = audited(metric_rows("acc_norm"))
    assert finding.values == ("mamba-2-piqa-acc_norm-paper",)
    assert "for most models its piqa is acc, here 0.6148" in finding.message
    assert finding.explained is None


def test_filing_it_under_the_right_metric_with_a_reason_explains_it() -> None:
    *values, misplaced = metric_rows("acc")
    (without,) = audited([*values, misplaced])
    assert without.explained is None
    (reasoned,) = audited([*values, replace(misplaced, assumed=(("metric", "the paper says acc"),))])
    assert reasoned.explained == "the paper says acc"


TASKS = {"hellaswag": 10042, "piqa": 1838, "winogrande": 1267, "arc_challenge": 1172}
SMALL = {"hellaswag": 0.45, "piqa": 0.74, "winogrande": 0.61, "arc_challenge": 0.33}
LARGE = {"hellaswag": 0.71, "piqa": 0.78, "winogrande": 0.66, "arc_challenge": 0.42}


def two_models() -> list[PublishedValue]:
    return [
        as_printed(round(scores[task] * n), n, task=task, model=hub_id, hub_id=hub_id)
        for hub_id, scores in (("lab/mamba-2.8b", SMALL), ("lab/mamba-2.8b-slimpj", LARGE))
        for task, n in TASKS.items()
    ]


def row(scores: dict[str, float], hub_id: str, **changes: Any) -> list[PublishedValue]:
    return [
        published(
            document="003",
            origin="author",
            harness="unknown",
            task=task,
            documents=n,
            printed=f"{100 * scores[task]:.1f}",
            unit="percent",
            model="Mamba-2.8B",
            hub_id=hub_id,
            **changes,
        )
        for task, n in TASKS.items()
    ]


def test_a_row_that_agrees_with_its_model_is_clean() -> None:
    assert audited([*two_models(), *row(SMALL, "lab/mamba-2.8b")]) == ()


def test_a_row_that_conflicts_with_its_model_is_found_and_the_model_that_explains_it_named() -> None:
    (finding,) = audited([*two_models(), *row(LARGE, "lab/mamba-2.8b")])
    assert finding.check == "conflict"
    assert finding.document == "003"
    assert finding.numbers["best"] == "lab/mamba-2.8b-slimpj"
    assert "4 of 4 within tolerance" in finding.message
    assert finding.explained is None


def test_filing_the_row_under_the_model_that_explains_it_needs_a_reason() -> None:
    filed = row(LARGE, "lab/mamba-2.8b-slimpj")
    (without,) = audited([*two_models(), *filed])
    assert without.explained is None
    reasoned = row(LARGE, "lab/mamba-2.8b-slimpj", assumed=(("hub_id", "the numbers are slimpj's"),))
    (finding,) = audited([*two_models(), *reasoned])
    assert finding.explained == "the numbers are slimpj's"


def test_a_reason_for_the_wrong_model_explains_nothing() -> None:
    (finding,) = audited([*two_models(), *row(LARGE, "lab/mamba-2.8b", assumed=(("hub_id", "no link"),))])
    assert finding.explained is None


def test_a_row_that_no_model_explains_says_so() -> None:
    scores = dict.fromkeys(TASKS, 0.2)
    (finding,) = audited([*two_models(), *row(scores, "lab/mamba-2.8b")])
    assert "no other model explains it better" in finding.message


def test_one_document_that_prints_a_number_in_two_ways_is_found() -> None:
    first = published(printed="77.9", unit="percent", documents=10042)
    again = replace(first, line=36, suffix="metadata")
    assert list(conflicts.check([first, again], CONSTANTS)) == []
    (finding,) = conflicts.check([first, replace(again, printed="78.1")], CONSTANTS)
    assert finding.values == (first.id, again.id)
