"""Which comparisons are due because a number had a baseline, and how somebody ends them by name."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from scanproof.history import declarations, new_baseline, store
from scanproof.history.due_before import Held, OtherRuns, list_due_before
from scanproof.history.errors import HistoryError
from scanproof.history.publish import publish
from scanproof.history.second_gate import SecondGate
from scanproof.history.store import History
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.verdict.paired_tests import ComparisonOutcome, PairedComparison
from scanproof.record import KnownBaselines, Owed, read_run, write_run
from tests.support.builders import JOB, published
from tests.support.small_baselines import declare, evaluation_of, expected, found
from tests.support.small_history import ENVIRONMENT, STRICT_JOB, filled, make_run, rows

__all__ = ["expected"]

LOST = "20260101T020000Z-00000009"
"""A declaration that no history has."""
NOW = "29990101T010000Z-00000001"
RENAMED = replace(STRICT_JOB, name="of-another-name")
FIRST, SECOND, THIRD = (f"2026010{day}T010000Z-0000000{day}" for day in (1, 2, 3))


def declare_without(history: History, run: str, *tasks: str) -> declarations.Declared:
    return new_baseline.declare(history, history.find(run), "they are measured no more", without=tasks)


def publish_tasks(tmp_path: Path, history: History, runs: dict[str, tuple[str, ...]], **changes: Any) -> None:
    for name, tasks in runs.items():
        made = make_run(tmp_path / "store", name, {task: rows(400, 300) for task in tasks}, **changes)
        publish(made, history.place)


def test_a_run_of_some_tasks_does_not_replace_the_baseline_of_all(tmp_path: Path) -> None:
    """Numbers of the others would be compared no more, and nothing would say so."""
    history = filled(tmp_path)
    publish_tasks(tmp_path, history, {FIRST: ("piqa", "winogrande"), SECOND: ("piqa",), THIRD: ("piqa", "winogrande")})
    declare(history, FIRST)
    with pytest.raises(HistoryError, match=f"it lacks winogrande of {JOB.name}, which its baseline, the run {FIRST}"):
        declare(history, SECOND)
    declare(history, THIRD)
    declare_without(history, SECOND, "winogrande")
    assert found(history, evaluation_of(tmp_path, FIRST)) == f"the run {SECOND}"


def test_only_the_tasks_that_are_named_are_left_out(tmp_path: Path) -> None:
    history = filled(tmp_path)
    runs: dict[str, tuple[str, ...]] = {FIRST: ("piqa", "winogrande", "mmlu_a", "mmlu_b"), SECOND: ("piqa",)}
    publish_tasks(tmp_path, history, runs)
    declare(history, FIRST)
    with pytest.raises(HistoryError, match="it lacks winogrande of ") as caught:
        declare_without(history, SECOND, "mmlu_*")
    assert "mmlu_a" not in str(caught.value)
    with pytest.raises(HistoryError, match="--without mmlu_c: the run lacks no such task that a baseline holds"):
        declare_without(history, SECOND, "mmlu_*", "winogrande", "mmlu_c")
    made = declare_without(history, SECOND, "mmlu_*", "winogrande")
    assert {each.task for each in made.without} == {"mmlu_a", "mmlu_b", "winogrande"}


def test_what_a_baseline_held_that_cannot_be_read_is_not_left_out_unsaid(tmp_path: Path) -> None:
    history = filled(tmp_path)
    publish_tasks(tmp_path, history, {FIRST: ("piqa", "winogrande"), SECOND: ("piqa",)})
    declare(history, FIRST)
    shutil.rmtree(Path(history.place.root) / "runs" / FIRST)
    for without in ((), ("?",), ("w*",)):
        with pytest.raises(HistoryError, match=f"what its baseline, the run {FIRST}, holds of {JOB.name} cannot be"):
            declare_without(history, SECOND, *without)
    assert [each.task for each in declare_without(history, SECOND, "*").without] == ["*"]


def test_a_job_of_another_name_does_not_hide_that_a_task_is_lost(tmp_path: Path) -> None:
    history = filled(tmp_path)
    publish_tasks(tmp_path, history, {FIRST: ("piqa", "winogrande")})
    publish_tasks(tmp_path, history, {SECOND: ("piqa",)}, job=RENAMED)
    publish_tasks(tmp_path, history, {THIRD: ("piqa",)})
    declare(history, FIRST)
    with pytest.raises(HistoryError, match=f"it lacks winogrande of {RENAMED.name}"):
        declare(history, SECOND)
    (left,) = declare_without(history, SECOND, "winogrande").without
    assert (left.job, left.task) == (RENAMED.name, "winogrande")
    (carried,) = declare(history, THIRD).without
    assert carried == left._replace(job=STRICT_JOB.name), "the same job under its first name"


@pytest.mark.parametrize(
    ("gate", "baseline", "due"),
    [
        ("SAME", "the run r", True),
        ("CHANGED", "the run r", True),
        ("REFUSED", "the run r", True),
        ("REFUSED", "its baseline", False),
        (None, "", False),
    ],
)
def test_only_what_had_a_baseline_in_a_strict_run_is_due_after_it(
    tmp_path: Path, gate: str | None, baseline: str, due: bool
) -> None:
    """A refusal that names no run is of a night that could not know: its history or a run of its store was not read."""
    run = read_run(make_run(tmp_path, FIRST))
    found = gate and PairedComparison(subject="n", outcome=ComparisonOutcome(gate), baseline=baseline, because="why")
    (number,) = (kept.id for kept in run.records)
    run = replace(run, due=(number,), records=(replace(run.records[0], gate=found or None),))
    gpu = store.gpu_name(ENVIRONMENT["gpus"])
    assert list_due_before([run], gpu) == ({number: (Held(FIRST, None),)} if due else {})
    told = replace(run, baselines=KnownBaselines(newest="a", numbers=()))
    assert list_due_before([told], gpu) == ({number: (Held(FIRST, "a"),)} if due else {})
    # It had one here, and was refused the comparison, or broke.
    told = replace(run, baselines=KnownBaselines(newest="a", numbers=(number,)))
    assert list_due_before([told], gpu) == {number: (Held(FIRST, "a"),)}
    assert list_due_before([told], "another GPU") == {}
    assert list_due_before([replace(told, strict=False)], gpu) == {}
    owed = replace(run, baselines=None, records=(), owed=(Owed(number=number, run=LOST, newest="c", first="a"),))
    assert list_due_before([owed], gpu) == {number: (Held(LOST, "c", "a"),)}
    newer = replace(told, id=THIRD, baselines=KnownBaselines(newest="b", numbers=(number,)), records=())
    assert list_due_before([newer, replace(newer, id=SECOND), told], gpu) == {
        number: (Held(THIRD, "b"), Held(FIRST, "a"))
    }


@dataclass
class WinograndeMeasuredNoMore:
    """A history whose runs measure piqa and winogrande (FIRST), or piqa alone (SECOND, THIRD)."""

    history: History
    expected: Expected
    value = published(job=STRICT_JOB, task="winogrande", documents=None, printed="0.7500")
    gpu = store.gpu_name(ENVIRONMENT["gpus"])

    def is_due(self, *held: Held, on: str | None = None) -> bool:
        """Whether its comparison is due after a run in which winogrande was held."""
        gate = SecondGate(
            self.expected, self.history.place.name, strict=True, others=OtherRuns({self.value.id: held}, on or self.gpu)
        )
        return gate.has_declared(self.value, on or self.gpu)


@pytest.fixture
def no_more(tmp_path: Path, expected: Expected) -> WinograndeMeasuredNoMore:
    history = filled(tmp_path)
    publish_tasks(tmp_path, history, {FIRST: ("piqa", "winogrande"), SECOND: ("piqa",), THIRD: ("piqa",)})
    return WinograndeMeasuredNoMore(history, expected)


def test_a_comparison_that_was_due_ends_where_a_baseline_without_it_is_declared_by_name(
    no_more: WinograndeMeasuredNoMore,
) -> None:
    history, is_due = no_more.history, no_more.is_due
    assert is_due(Held(FIRST, LOST)), "its history may be lost"
    held = Held(FIRST, declare(history, FIRST).id)
    assert is_due(held)
    declare_without(history, SECOND, "winogrande")
    assert not is_due(held)
    declare(history, THIRD)
    assert not is_due(held), "it is not said again at every declaration"
    assert is_due(Held(NOW, LOST)), "a later declaration held it, and is lost"
    assert is_due(held, on="another GPU")
    later = Held(NOW, declare(history, FIRST).id)
    assert is_due(later), "a later baseline holds it again"
    declare_without(history, SECOND, "winogrande")
    assert not is_due(later)


def test_what_one_of_several_declarations_held_is_due_until_it_is_left_out(no_more: WinograndeMeasuredNoMore) -> None:
    """A clock that was set ahead makes no run the last word."""
    history = no_more.history
    old = Held(NOW, declare(history, FIRST).id)
    declare_without(history, SECOND, "winogrande")
    again = Held(FIRST, declare(history, FIRST).id)
    left_out = declare_without(history, THIRD, "winogrande")
    assert not no_more.is_due(old, again)
    assert no_more.is_due(old, Held(SECOND, left_out.id))


def test_a_declaration_that_is_lost_ends_no_comparison(no_more: WinograndeMeasuredNoMore) -> None:
    """The run that it names was declared before, and left out since."""
    history = no_more.history
    declare(history, FIRST)
    declare_without(history, SECOND, "winogrande")
    again = declare(history, FIRST)
    assert no_more.is_due(Held(NOW, again.id))
    (Path(history.place.root) / "baselines" / f"{again.id}.json").unlink()
    assert no_more.is_due(Held(NOW, again.id))


def test_a_task_whose_baseline_is_lost_can_be_left_out(no_more: WinograndeMeasuredNoMore) -> None:
    declare_without(no_more.history, SECOND, "winogrande")
    assert not no_more.is_due(Held(FIRST, LOST))
    assert no_more.is_due(Held(NOW, LOST)), "it was held after that"


def test_other_settings_of_a_job_hide_no_lost_task_and_it_can_be_left_out(
    tmp_path: Path, no_more: WinograndeMeasuredNoMore
) -> None:
    """Another batch size is another evaluation, without a baseline of its own."""
    history, other = no_more.history, "20260104T010000Z-00000004"
    publish_tasks(tmp_path, history, {other: ("piqa",)}, job=replace(STRICT_JOB, batch_size=1))
    held = Held(FIRST, declare(history, FIRST).id)
    with pytest.raises(HistoryError, match=f"it lacks winogrande of {JOB.name}, which its baseline, the run {FIRST}"):
        declare(history, other)
    assert no_more.is_due(held)
    left_out = declare_without(history, other, "winogrande")
    assert not no_more.is_due(held)
    assert no_more.is_due(Held(NOW, left_out.id)), "at the settings of before it was compared after that"
    with pytest.raises(HistoryError, match="it lacks winogrande"):
        declare(history, SECOND)


def test_the_newest_baseline_of_a_job_says_what_it_compares_too(
    tmp_path: Path, no_more: WinograndeMeasuredNoMore
) -> None:
    """At the settings of the run there is an older one, of fewer tasks."""
    history, other = no_more.history, "20260104T010000Z-00000004"
    publish_tasks(tmp_path, history, {other: ("piqa", "winogrande")}, job=replace(STRICT_JOB, batch_size=1))
    declare(history, SECOND)
    declare(history, other)
    with pytest.raises(HistoryError, match=f"it lacks winogrande of {JOB.name}, which its baseline, the run {other}"):
        declare(history, THIRD)
    # On another GPU it is another baseline, also where its run is gone.
    moved = {**ENVIRONMENT, "gpus": [{"name": "NVIDIA A100"}]}
    shutil.rmtree(Path(history.place.root) / "runs" / other)
    publish_tasks(tmp_path, history, {NOW: ("piqa",)}, environment=moved)
    assert declare(history, NOW).without == frozenset()


def test_a_job_without_a_baseline_takes_names_and_no_patterns(no_more: WinograndeMeasuredNoMore) -> None:
    for pattern in ("*", "wino*"):
        with pytest.raises(HistoryError, match="lacks no such task that a baseline holds"):
            declare_without(no_more.history, SECOND, pattern)


def test_a_task_is_left_out_where_it_is_lost_and_of_no_other_job(
    tmp_path: Path, no_more: WinograndeMeasuredNoMore
) -> None:
    history = no_more.history
    declare(history, FIRST)
    (first,) = read_run(tmp_path / "store" / "runs" / SECOND / "run.json").evaluations
    others = {"another:wino*": "lacks no such task", "anothr:winogrande": "lacks no such task"}
    path = tmp_path / "store" / "runs" / NOW
    both = make_run(tmp_path / "store", NOW, {"piqa": rows(400, 300)})
    another = replace(first, job=replace(first.job, name="another", seed=7))
    run = read_run(both)
    write_run(tmp_path / "store" / "runs", replace(run, evaluations=(*run.evaluations, another)))
    shutil.copytree(path / "samples" / JOB.name, path / "samples" / "another")
    publish(both, history.place)
    for name, reason in others.items():
        with pytest.raises(HistoryError, match=reason):
            declare_without(history, NOW, "winogrande", name)
    assert {each.job for each in declare_without(history, NOW, "winogrande").without} == {JOB.name}
    left_out = declare_without(history, NOW, f"{JOB.name}:winogrande", "another:winogrande").without
    assert {(each.job, each.task) for each in left_out} == {(JOB.name, "winogrande"), ("another", "winogrande")}


def test_a_task_that_is_left_out_can_be_left_out_again(no_more: WinograndeMeasuredNoMore) -> None:
    """From then on: a declaration of before may have been made again in between, and be lost."""
    history = no_more.history
    declare(history, FIRST)
    (first,) = declare_without(history, SECOND, "winogrande").without
    (again,) = declare_without(history, SECOND, "winogrande").without
    assert again == first._replace(declaration=again.declaration)
    assert again != first
    assert declare(history, SECOND).without == {again}


def test_a_session_says_which_numbers_have_a_baseline(tmp_path: Path, expected: Expected) -> None:
    history = filled(tmp_path, FIRST)
    value = published(job=STRICT_JOB, documents=None, printed="0.7500")
    gpu = store.gpu_name(ENVIRONMENT["gpus"])

    def known(on: str = gpu, strict: bool = True) -> KnownBaselines | None:
        return SecondGate(expected, history.place.name, strict=strict).known_baselines([value], on)

    assert known() == KnownBaselines(newest=None, numbers=())
    declared = declare(history, FIRST)
    assert known() == KnownBaselines(newest=declared.id, first=declared.id, numbers=(value.id,))
    assert known("another GPU") == KnownBaselines(newest=declared.id, first=declared.id, numbers=())
    assert known(strict=False) is None, "nobody asks"
    shutil.rmtree(Path(history.place.root) / "runs" / FIRST)
    assert known() is None, "what it holds is not known"


def test_a_run_that_cannot_be_read_leaves_it_open_what_had_a_baseline(tmp_path: Path, expected: Expected) -> None:
    history = filled(tmp_path, FIRST)
    value = published(job=STRICT_JOB, documents=None, printed="0.7500")
    gpu = store.gpu_name(ENVIRONMENT["gpus"])
    gate = SecondGate(expected, history.place.name, strict=True, others=OtherRuns(unread={"20260101T010000Z-1"}))
    assert gate.has_declared(value, gpu)
    refused = gate.explain_no_baseline(value, evaluation_of(tmp_path, FIRST))
    assert refused is not None
    assert "1 of the store's runs cannot be read: 20260101T010000Z-1" in refused.because


def test_what_is_left_out_by_name_after_a_run_that_cannot_be_read_is_due_no_more(
    no_more: WinograndeMeasuredNoMore, expected: Expected
) -> None:
    history = no_more.history
    declare(history, FIRST)
    declare_without(history, SECOND, "winogrande")
    for unread, due in ({FIRST}, False), ({NOW}, True), ({FIRST, NOW}, True):
        gate = SecondGate(expected, history.place.name, strict=True, others=OtherRuns(gpu=no_more.gpu, unread=unread))
        assert gate.has_declared(no_more.value, no_more.gpu) == due
