"""The audit: each planted fault is found, clean numbers are not, and the documents hold no surprise."""

from __future__ import annotations

import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from scanproof.numbers.audit import aggregates, granularity, pairs, stderrs
from scanproof.numbers.audit.audit import COLUMNS, audit, audit_rows
from scanproof.numbers.expected.reader import load
from scanproof.numbers.values import KnownDiscrepancy, Part, PublishedValue
from tests.support.audited import as_printed, audited
from tests.support.builders import published

EXPECTED = Path(__file__).parents[2] / "expected"


counts = st.integers(2, 15_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@given(counts)
def test_a_real_share_with_its_real_stderr_is_clean(count: tuple[int, int]) -> None:
    assert audited([as_printed(*count)]) == ()


def test_a_share_that_no_count_gives_is_found() -> None:
    (finding,) = audited([published(printed="0.6454", documents=1838)])
    assert finding.check == "granularity"
    assert finding.values == ("mamba-130m-piqa-acc-reproduced",)
    assert "1186/1838 prints 0.6453" in finding.message
    assert finding.numbers["power"] == pytest.approx(1 - 1839 / 10_000, abs=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"documents": 10_042},
        {"documents": None},
        {"task": "truthfulqa_mc2", "binary": False},
        {"metric": "perplexity", "unit": "raw"},
        {"printed": "0.65"},
    ],
    ids=str,
)
def test_granularity_is_silent_where_it_has_no_power(changes: dict[str, Any]) -> None:
    value = published(**{"printed": "0.6454", **changes})
    assert granularity.power(value) == 0
    assert list(granularity.check([value])) == []


def test_the_power_of_granularity_is_the_share_of_numbers_that_fail() -> None:
    values = [published(printed=f"{k / 10_000:.4f}", documents=1172) for k in range(10_001)]
    failing = sum(1 for _ in granularity.check(values))
    assert failing / len(values) == pytest.approx(granularity.power(values[0]), abs=0.002)


def test_a_stderr_that_does_not_belong_to_its_share_is_found() -> None:
    (finding,) = audited([as_printed(1186, 1838, stderr="0.0115")])
    assert finding.check == "stderr"
    assert "0.0112" in finding.message


@pytest.mark.parametrize(
    "changes", [{"task": "truthfulqa_mc2", "binary": False}, {"metric": "perplexity", "unit": "raw"}], ids=str
)
def test_no_stderr_is_expected_of_what_is_no_share(changes: dict[str, Any]) -> None:
    assert list(stderrs.check([published(**changes, stderr="0.4")])) == []


def group(*counted: tuple[int, int], **changes: Any) -> list[PublishedValue]:
    """Subjects with k of n right, and their group as lm-eval prints it."""
    subjects = [as_printed(k, n, task=f"mmlu_{i}") for i, (k, n) in enumerate(counted)]
    n = sum(n for _, n in counted)
    stderr = stderrs.pooled((math.sqrt(k / m * (1 - k / m) / (m - 1)), m) for k, m in counted)
    whole = published(
        task="mmlu",
        pooled=True,
        documents=n,
        parts=tuple(Part(task=each.task, metric="acc", documents=each.documents) for each in subjects),
        **{"printed": f"{sum(k for k, _ in counted) / n:.4f}", "stderr": f"{stderr:.4f}", **changes},
    )
    return [*subjects, whole]


@pytest.mark.parametrize(
    ("changes", "check"), [({}, None), ({"printed": "0.2713"}, "aggregate"), ({"stderr": "0.0250"}, "stderr")]
)
def test_a_group_is_the_mean_over_the_documents_of_its_tasks(changes: dict[str, Any], check: str | None) -> None:
    values = group((26, 100), (40, 135), (31, 152), **changes)
    found = [finding.check for finding in audited(values) if finding.check != "granularity"]
    assert found == ([check] if check else [])


def test_the_pooled_stderr_is_the_one_of_lm_eval() -> None:
    metrics = pytest.importorskip("lm_eval.api.metrics")
    parts = [(0.0346, 126), (0.0109, 1534), (0.0465, 100)]
    theirs = metrics.pooled_sample_stderr([stderr for stderr, _ in parts], [n for _, n in parts])
    assert stderrs.pooled(parts) == pytest.approx(float(theirs))


def mean_of(printed: str) -> list[PublishedValue]:
    tasks = [
        published(task="piqa", printed="78.02", unit="percent", documents=1838),
        published(task="openbookqa", printed="44.00", unit="percent", documents=500),
    ]
    parts = tuple(Part(task=each.task, metric="acc", documents=each.documents) for each in tasks)
    return [*tasks, published(task="average", printed=printed, unit="percent", documents=None, parts=parts)]


def test_a_plain_mean_is_the_mean_of_the_counts_behind_its_parts() -> None:
    assert audited(mean_of("61.01")) == ()
    (finding,) = audited(mean_of("61.02"))
    assert finding.check == "aggregate"
    assert "61.02 is not the mean of its 2 parts" in finding.message


def test_a_group_printed_twice_has_to_be_printed_alike() -> None:
    values = group((26, 100), (40, 135))
    again = replace(values[-1], suffix="groups", line=233)
    assert audited([*values, again]) == ()
    found = list(aggregates.check([*values, replace(again, stderr="0.0299")]))
    assert [finding.values for finding in found] == [(values[-1].id, again.id)]


def paper_and_reproduction(paper: str, reproduced: str, **changes: Any) -> list[PublishedValue]:
    return [
        published(origin="paper", printed=paper, unit="percent", **changes),
        as_printed(round(float(reproduced) * 1838), 1838, **changes),
    ]


def test_an_outlier_among_the_pairs_is_named_in_points_stderrs_and_documents() -> None:
    assert audited(paper_and_reproduction("64.4", "0.6453")) == ()
    (finding,) = audited(paper_and_reproduction("68.5", "0.6453"))
    assert finding.check == "pair"
    assert finding.values == ("mamba-130m-piqa-acc-paper", "mamba-130m-piqa-acc-reproduced")
    assert finding.numbers["points"] == pytest.approx(-3.97)
    assert finding.numbers["documents"] == pytest.approx(-73, abs=0.1)
    assert finding.numbers["stderrs"] == pytest.approx(-3.97 / 1.12)


def test_an_outlier_among_the_perplexities_is_named() -> None:
    common: dict[str, Any] = {
        "task": "lambada_openai",
        "metric": "perplexity",
        "unit": "raw",
        "documents": 5153,
    }
    reproduced = published(**common, printed="16.0450", stderr="0.5092")
    assert audited([published(**common, origin="paper", printed="16.07"), reproduced]) == ()
    (finding,) = audited([published(**common, origin="paper", printed="16.41"), reproduced])
    assert finding.check == "pair"
    assert finding.numbers["perplexity"] == pytest.approx(-0.365)


MISPRINT = KnownDiscrepancy(comes_out="0.6453", source="the next row", reason="a misprint")


def explanation(**changes: Any) -> dict[str, Any]:
    entry = {"check": "granularity", "values": ["mamba-130m-piqa-acc-reproduced"], "reason": "a misprint"}
    return {**entry, **changes}


def test_an_entry_explains_the_finding_with_the_same_check_and_values() -> None:
    value = published(printed="0.6454")
    (finding,) = audited([value], explanation())
    assert finding.explained == "a misprint"


@pytest.mark.parametrize("changes", [{"check": "stderr"}, {"values": ["another"]}], ids=str)
def test_an_entry_that_matches_nothing_is_itself_a_finding(changes: dict[str, Any]) -> None:
    found = audited([published(printed="0.6454")], explanation(**changes))
    assert [finding.explained for finding in found] == [None, None]
    assert "finds no such thing" in found[1].message


@pytest.mark.parametrize("mark", [{"known_discrepancy": MISPRINT}, {"not_comparable": "a misprint"}], ids=str)
def test_a_value_that_is_marked_explains_its_findings(mark: dict[str, Any]) -> None:
    (finding,) = audited([published(printed="0.6454", **mark)])
    assert finding.explained == "a misprint"


def test_rows_have_every_column_and_start_with_what_is_not_explained() -> None:
    values = [
        published(printed="0.6454", known_discrepancy=MISPRINT),
        published(printed="0.6455", task="winogrande", documents=1267),
    ]
    rows = audit_rows(audited(values))
    assert [row["explained"] for row in rows] == [None, "a misprint"]
    assert all(column in row for row in rows for column in COLUMNS)


def test_the_documents_hold_exactly_the_explained_findings() -> None:
    found = audit(load(EXPECTED))
    assert [finding.message for finding in found if finding.explained is None] == []
    first_five = [finding for finding in found if finding.document in ("000", "001", "002", "003", "004")]
    assert {(finding.check, finding.document, finding.line) for finding in first_five} == {
        ("aggregate", "000", 22),
        ("aggregate", "000", 23),
        ("pair", "001", 66),
        ("pair", "001", 97),
        ("conflict", "003", 131),
    }


def edited(folder: Path, file: str, old: str, new: str) -> Path:
    """A copy of the expected values with one edit."""
    copy = folder / "expected"
    shutil.copytree(EXPECTED, copy)
    path = copy / file
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    return copy


def test_without_its_explanation_a_finding_in_the_documents_is_not_explained(tmp_path: Path) -> None:
    file = "000-mamba-in-llama/document.yaml"
    findings = yaml.safe_load((EXPECTED / file).read_text())["findings"]
    text = (EXPECTED / file).read_text()
    copy = edited(tmp_path, file, text[text.index("findings:") :], "findings: []\n")
    unexplained = [finding for finding in audit(load(copy)) if finding.explained is None]
    assert {finding.values for finding in unexplained} == {tuple(entry["values"]) for entry in findings}


def test_the_row_under_its_printed_name_is_not_explained(tmp_path: Path) -> None:
    file = "003-mamba-7b/mamba-2.8b.yaml"
    copy = edited(tmp_path, file, "hub_id: state-spaces/mamba-2.8b-slimpj\n", "hub_id: state-spaces/mamba-2.8b\n")
    (finding,) = [finding for finding in audit(load(copy)) if finding.explained is None]
    assert finding.document == "003"
    assert finding.numbers["best"] == "state-spaces/mamba-2.8b-slimpj"


def test_half_of_the_numbers_are_tested_for_granularity_with_power() -> None:
    values = [value for value in load(EXPECTED).values if value.origin != "embedded"]
    assert sum(granularity.power(value) > 0.5 for value in values) > 190


def test_pairs_alone_find_the_outlier() -> None:
    expected = load(EXPECTED)
    found = list(pairs.check(expected.values, expected.constants))
    assert "mamba-790m-lambada_openai-acc-paper" in {name for finding in found for name in finding.values}
