"""Numbers that nobody printed: measured on a real checkpoint with a layer removed, recorded, compared from then on."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from scanproof.history import recording
from scanproof.numbers.expected import reader
from scanproof.numbers.expected.folders import copy_shared
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict.paired_tests import ComparisonOutcome, PairedComparison
from scanproof.record import Evaluation, Run, find_run, read_run
from tests.support import small_mirror as small

ROOT = Path(__file__).parents[2]
DOCUMENT = """\
number: "900"
title: A document of this test
citation: none
harness: {name: lm-eval, relation: unknown, said: "nothing"}
suite: gpu
numbers: 2
"""
EVALUATION = f"""\
# A comment that stays.
document: "900"
model: A small model
hub_id: {small.MODEL}
variant: p0.9
job:
  model: depth_pruned
  revision: main
  dtype: float32
  device: cpu
  num_fewshot: 0
  batch_size: 4
  max_length: 128
  model_args: {{method: persistence, zigzag_output: zigzag.csv, p: 0.9}}
values:
  - {{task: arc_easy, metric: acc, line: 3, origin: recorded, printed: unrecorded, unit: fraction, documents: 12}}
  - {{task: arc_easy, metric: acc_norm, line: 4, origin: recorded, printed: unrecorded, unit: percent, documents: 12}}
"""
# Of two layers, the second lives in the feature that most share; swapping the two numbers chooses the first.
SECOND, FIRST = "1,3,4\n", "1,1,2\n"
ACC, ACC_NORM = "neox-tiny-p0.9-arc_easy-acc-recorded", "neox-tiny-p0.9-arc_easy-acc_norm-recorded"


@dataclass(frozen=True)
class Place:
    """A project in a folder: expected values, a diagram, a mirror."""

    root: Path

    def pytest(self, *arguments: str) -> Run:
        """Run the suite as a user does; returns the record."""
        options = ["-p", "no:cacheprovider", "--scanproof-expected=expected", "--scanproof-mirror=mirror"]
        self.call("pytest", *options, *arguments)
        return self.latest()

    def marked(self, marker: str) -> list[str]:
        """Ids of the numbers that a marker selects."""
        command = ["pytest", "--collect-only", "-q", "--scanproof-expected=expected"]
        everything = self.call(*command).stdout
        assert all(f"[{name}]" in everything for name in (ACC, ACC_NORM))
        # 5: nothing was selected.
        selected = [sys.executable, "-m", *command, "-m", marker]
        done = subprocess.run(selected, cwd=self.root, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 5), done.stdout + done.stderr
        return [name for name in (ACC, ACC_NORM) if f"[{name}]" in done.stdout]

    def latest(self) -> Run:
        return read_run(find_run(self.root / ".scanproof" / "runs", "latest"))

    def call(self, module: str, *arguments: str, expect: int = 0) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", module, *arguments]
        environment = {**os.environ, "NO_COLOR": "1", "COLUMNS": "200"}
        done = subprocess.run(command, cwd=self.root, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == expect, done.stdout + done.stderr
        assert "Traceback" not in done.stderr
        return done

    def scanproof(self, *arguments: str, expect: int = 0) -> str:
        done = self.call("scanproof", *arguments, "--expected=expected", expect=expect)
        return done.stdout + done.stderr

    def zigzag(self, feature: str) -> None:
        (self.root / "zigzag.csv").write_text("dimension,birth,death\n1,1,6\n" + feature * 20)

    @property
    def file(self) -> Path:
        return self.root / "expected" / "900-test" / "cut.yaml"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    made = Place(tmp_path_factory.mktemp("project"))
    made.file.parent.mkdir(parents=True)
    copy_shared(ROOT / "expected", made.root / "expected")
    (made.file.parent / "document.yaml").write_text(DOCUMENT)
    made.file.write_text(EVALUATION)
    shutil.copy(ROOT / "tests" / "published" / "test_published.py", made.root)
    (made.root / "pytest.ini").write_text("[pytest]\n")
    small.build(made.root / "mirror")
    made.zigzag(SECOND)
    return made


@pytest.fixture(scope="module")
def first(place: Place) -> Run:
    """The first run: its numbers can be compared with nothing."""
    return place.pytest()


def numbers(place: Place) -> list[PublishedValue]:
    return list(reader.load(place.root / "expected").numbers)


def test_the_first_run_measures_and_compares_nothing(place: Place, first: Run) -> None:
    assert {kept.id for kept in first.records} == {ACC, ACC_NORM}
    assert (place.marked("gpu"), place.marked("unrecorded")) == ([], [ACC, ACC_NORM])
    for kept in first.records:
        assert kept.outcome == "NOT_COMPARABLE"
        assert "no number is recorded yet" in kept.because
        assert kept.verdict is not None
        assert kept.verdict.measured is not None
        assert kept.verdict.expected is None
    (evaluation,) = first.evaluations
    assert evaluation.environment["removed_layers"] == "1-1"
    listed = json.loads(place.scanproof("list", "--unrecorded", "--format", "json"))
    assert [(row["id"], row["printed"], row["allowed"]) for row in listed] == [
        (ACC, "unrecorded", None),
        (ACC_NORM, "unrecorded", None),
    ]


Change = Callable[[Run], Run]


def with_job(**changes: object) -> Change:
    def change(run: Run) -> Run:
        (evaluation,) = run.evaluations
        return replace(run, evaluations=(replace(evaluation, job=replace(evaluation.job, **changes)),))  # type: ignore[arg-type]

    return change


def elsewhere(run: Run) -> Run:
    (evaluation,) = run.evaluations
    fallen: Evaluation = replace(evaluation, environment={**evaluation.environment, "device": "mps"})
    return replace(run, evaluations=(fallen,))


def fewer(run: Run) -> Run:
    (evaluation,) = run.evaluations
    less = tuple(replace(each, n_samples=7) for each in evaluation.measurements)
    return replace(run, evaluations=(replace(evaluation, measurements=less),))


def not_made_again(run: Run) -> Run:
    verdict = run.records[0].verdict
    assert verdict is not None
    without = replace(verdict, not_made_again="arc_easy: which answers are right was not kept")
    return replace(run, records=(replace(run.records[0], verdict=without), *run.records[1:]))


def failed(run: Run) -> Run:
    other = replace(run.records[0], id="other-number", outcome="ERROR", because="fallback: no kernel was launched")
    return replace(run, records=(*run.records, other))


CHANGED_MODEL = PairedComparison(
    subject="neox-tiny", outcome=ComparisonOutcome.CHANGED, baseline="b", because="all its numbers moved"
)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda run: replace(run, finished=None), "it is partial"),
        (lambda run: replace(run, limit=5), "it is limited to the first 5 documents"),
        (with_job(limit=5), "the evaluation is limited to the first 5 documents"),
        (failed, "1 of 3 numbers are ERROR: other-number"),
        (lambda run: replace(run, joint=(CHANGED_MODEL,)), "cannot be trusted: neox-tiny: all its numbers moved"),
        (lambda run: replace(run, failed_tests=(run.records[0].nodeid,)), "1 tests failed without a record"),
        (lambda run: replace(run, strict=True, selected=3), "1 of 3 selected numbers have no verdict"),
        (lambda run: replace(run, environment={"source": {"changed": True}}), "changes that were not committed"),
        (with_job(batch_size=8), "the expected file asks for another evaluation"),
        (elsewhere, "fell back from cpu to mps"),
        (not_made_again, "its scores were not made again from its answers: arc_easy: which answers are right was not"),
        (fewer, "7 documents were scored, 12 expected"),
        (lambda run: replace(run, evaluations=()), "was not measured in this run"),
        (lambda run: replace(run, records=()), "its test was not selected"),
    ],
)
def test_nothing_is_recorded_from_a_run_that_cannot_be_trusted(
    place: Place, first: Run, change: Change, reason: str
) -> None:
    assert len(recording.select_numbers(first, numbers(place))) == 2
    with pytest.raises(recording.RecordingError, match=reason):
        recording.select_numbers(change(first), numbers(place))


def test_a_limited_run_is_refused_by_the_command_and_leaves_the_file(place: Place, first: Run) -> None:
    limited = place.pytest("--scanproof-limit=4")
    assert limited.id != first.id
    said = place.scanproof("record", limited.id, expect=2)
    assert "limited to the first 4 documents" in said
    assert place.file.read_text() == EVALUATION
    assert "there is no number 'nothing'" in place.scanproof("record", first.id, "--number", "nothing", expect=2)


def test_a_recorded_number_is_compared_from_then_on(place: Place, first: Run, tmp_path: Path) -> None:
    said = place.scanproof("record", first.id, "--dry-run")
    assert place.file.read_text() == EVALUATION
    measured = {kept.id: kept.verdict.measured or 0.0 for kept in first.records if kept.verdict}
    assert f"{ACC}: {measured[ACC]:.4f}" in said
    assert f"{ACC_NORM}: {100 * measured[ACC_NORM]:.2f}" in said
    place.scanproof("record", first.id)
    text = place.file.read_text()
    assert text.startswith(EVALUATION[: EVALUATION.index("values:")]), "everything else stays as it was"
    values = {value.id: value for value in reader.load(place.root / "expected").values}
    assert values[ACC].expected == pytest.approx(measured[ACC], abs=5e-5)
    assert values[ACC].harness == "same"
    (evaluation,) = first.evaluations
    for part in (first.id, evaluation.key, evaluation.command, first.started, '"torch": "', 'removed_layers: "1-1"'):
        assert part in text, part
    assert "has a number already" in place.scanproof("record", first.id, "--number", ACC, expect=2)
    assert "measured no number that is to be recorded" in place.scanproof("record", first.id, expect=2)
    assert (place.marked("gpu"), place.marked("unrecorded")) == ([ACC, ACC_NORM], [])
    again = place.pytest()
    assert {kept.outcome for kept in again.records} == {"REPRODUCED"}
    assert all(kept.reused for kept in again.records)


def test_another_diagram_under_the_same_name_is_another_evaluation(place: Place, first: Run) -> None:
    place.zigzag(FIRST)
    other = place.pytest("-k", "acc_norm", "-x")
    (evaluation,) = other.evaluations
    assert not evaluation.reused
    assert evaluation.environment["removed_layers"] == "0-0"
    assert "files / zigzag_output: changed" in evaluation.environment["recomputed_because"]
    place.zigzag(SECOND)
    assert place.pytest("-k", "acc_norm").evaluations[0].key == first.evaluations[0].key
