"""Every outcome, walked through every surface that says something of it: one that is forgotten shows here."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from rich.text import Text

from scanproof import record
from scanproof.history import new_baseline, queries
from scanproof.history.publish import publish
from scanproof.history.store import open_history
from scanproof.numbers.verdict import outcome
from scanproof.numbers.verdict.outcome import LatencyOutcome, Meaning, Outcome
from scanproof.report import junit, markdown, page, terminal
from scanproof.report.content import Report
from scanproof.triage import gather
from scanproof.triage.bisect import mixtures
from scanproof.triage.bisect.search import MixtureOutcome as Side
from scanproof.triage.read_answers import Runs
from tests.support.small_report import NUMBER, change, expected, make_nights, report

PACKAGE = Path(outcome.__file__).parents[2]
GOOD, OPEN, FAILED, BROKEN = Meaning.GOOD, Meaning.OPEN, Meaning.FAILED, Meaning.BROKEN
every_outcome = pytest.mark.parametrize("found", list(Outcome))


@pytest.fixture
def night(tmp_path: Path) -> Path:
    """A run whose two numbers were reproduced."""
    return make_nights(tmp_path / "store", (300,))[-1]


def ending(night: Path, found: str) -> Path:
    """The run with one number that ended so."""
    run = record.read_run(night)
    change(night, records=tuple(replace(each, outcome=found) if each.id == NUMBER else each for each in run.records))
    return night


def reported(night: Path, found: str) -> Report:
    return report(ending(night, found))


def test_what_each_outcome_means_is_decided_here_and_nowhere_else() -> None:
    """The table as a person would write it; the code that uses it asks `Meaning` only."""
    assert {each.value: each.meaning for each in outcome.ALL} == {
        "REPRODUCED": GOOD, "OUT_OF_TOLERANCE": FAILED, "CHANGED": FAILED, "ENGINES_DISAGREE": FAILED,
        "COMPARISON_MISSING": FAILED, "KNOWN_DISCREPANCY": OPEN, "NOT_COMPARABLE": OPEN, "ERROR": BROKEN,
        "NOT_RUN": BROKEN, "SAME": GOOD, "FASTER": GOOD, "RECORDED": GOOD, "SLOWER": FAILED, "AMBIGUOUS": OPEN,
        "NO_BASELINE": OPEN, "NOT_MEASURED": BROKEN, "WRONG": FAILED,
    }  # fmt: skip


def test_an_outcome_that_nobody_knows_is_no_pass() -> None:
    assert outcome.meaning_of("PERFECT") is BROKEN
    assert outcome.number_outcome("PERFECT").needs_triage
    assert page.badge_class("PERFECT") == "broken"
    assert mixtures.side_of("PERFECT") is Side.UNRESOLVED


@every_outcome
def test_the_verdict_of_the_report_and_of_its_markdown(night: Path, found: Outcome) -> None:
    made = reported(night, found.value)
    state = {FAILED: "failed", BROKEN: "incomplete", GOOD: "passed", OPEN: "passed"}[found.meaning]
    assert made.verdict.state == state
    assert (NUMBER in made.verdict.failed) == (found.meaning is FAILED)
    assert any(NUMBER in ids for ids in made.verdict.not_run.values()) == (found.meaning is BROKEN)
    number = next(each for each in made.numbers if each.id == NUMBER)
    assert (number.triage is not None) == found.needs_triage
    text = markdown.render(made)
    assert markdown.escape(f"1 {found.value}") in text or found is Outcome.REPRODUCED
    assert (NUMBER in text) == (found.meaning is FAILED or found is Outcome.KNOWN_DISCREPANCY)
    heading = {FAILED: "Failed", BROKEN: "Nothing failed, but not everything ran", GOOD: "Passed", OPEN: "Passed"}
    assert heading[found.meaning] in text.splitlines()[0]


@every_outcome
def test_the_page_shows_its_sign_and_tells_its_script_what_it_means(night: Path, found: Outcome) -> None:
    html = page.render(reported(night, found.value))
    badges = {FAILED: "bad", BROKEN: "broken", GOOD: "good", OPEN: "plain"}
    badge = "known" if found is Outcome.KNOWN_DISCREPANCY else badges[found.meaning]
    words = found.value.replace("_", " ").lower()
    assert f'<span class="badge {badge}"><span aria-hidden="true">{found.sign}</span> {words}</span>' in html
    told = re.search(r'<script type="application/json" id="outcomes">(.*?)</script>', html)
    assert told is not None
    assert json.loads(told[1]) == {each.value: each.meaning.value for each in outcome.ALL}


@every_outcome
def test_junit_the_table_and_the_history(tmp_path: Path, night: Path, found: Outcome) -> None:
    run = record.read_run(ending(night, found.value))
    kept = next(each for each in run.records if each.id == NUMBER)
    assert dict(junit.number_properties(kept))["scanproof_outcome"] == found.value
    colour = {GOOD: "green", OPEN: "yellow", FAILED: "red", BROKEN: "red"}[found.meaning]
    shown = terminal.verdict_row(kept)[-1]
    assert isinstance(shown, Text)
    assert shown.style == colour
    history = open_history(str(tmp_path / "history"))
    publish(night, history.place)
    (published,) = history.runs()
    assert queries.run_row(published)["failed"] == int(found.needs_triage)
    reasons = " ".join(new_baseline.why_not_good(run))
    assert (NUMBER in reasons) == (found.meaning.is_bad and found not in (Outcome.CHANGED, Outcome.COMPARISON_MISSING))


@every_outcome
def test_triage_and_bisect(night: Path, found: Outcome) -> None:
    run = record.read_run(ending(night, found.value))
    assert [kept.id for kept in gather.list_failed(run)] == ([NUMBER] if found.needs_triage else [])
    kept = next(each for each in run.records if each.id == NUMBER)
    store = night.parents[2]
    told = gather.gather_from_run(run, night.parent, Runs(store), kept, expected(store))
    assert told.failed == found.meaning.is_bad
    sides = {FAILED: Side.BAD, BROKEN: Side.UNRESOLVED, GOOD: Side.GOOD, OPEN: Side.GOOD}
    nothing_compared = found in (Outcome.NOT_COMPARABLE, Outcome.COMPARISON_MISSING)
    wanted = Side.UNRESOLVED if nothing_compared else sides[found.meaning]
    assert mixtures.side_of(found.value) is wanted


@pytest.mark.parametrize("found", list(LatencyOutcome))
def test_latencies_have_signs_and_badges_of_their_own(found: LatencyOutcome) -> None:
    badges = {FAILED: "bad", BROKEN: "broken", GOOD: "good", OPEN: "plain"}
    assert page.badge_class(found.value) == badges[found.meaning]
    assert outcome.sign_of(found.value) == found.sign != "?"


def test_no_module_keeps_a_list_of_outcomes_of_its_own() -> None:
    """Two or more outcomes side by side in a set, tuple or dictionary, as text: the next outcome would be forgotten."""
    names = {each.value for each in outcome.ALL} - {"SAME", "CHANGED"}
    found = []
    for path in PACKAGE.rglob("*.py"):
        if "mirror" in path.parts or path == Path(outcome.__file__):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Set, ast.Tuple, ast.List, ast.Dict)):
                entries = node.keys if isinstance(node, ast.Dict) else node.elts
                said = [each.value for each in entries if isinstance(each, ast.Constant)]
                if sum(isinstance(each, str) and each in names for each in said) > 1:
                    found.append(f"{path.relative_to(PACKAGE)}:{node.lineno}")
    assert found == []
    script = (PACKAGE / "report" / "templates" / "page.js").read_text(encoding="utf-8")
    assert [name for name in sorted(names) if name in script] == ["KNOWN_DISCREPANCY"]
