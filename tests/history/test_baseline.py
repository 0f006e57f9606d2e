"""Which runs may be declared good, and which declaration holds."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest

from scanproof.history import declarations, new_baseline, store
from scanproof.history.baseline import Baselines
from scanproof.history.due_before import Held, list_due_before
from scanproof.history.errors import HistoryError
from scanproof.history.publish import publish
from scanproof.history.samples import read_logs
from scanproof.history.second_gate import SecondGate
from scanproof.history.store import History, open_history
from scanproof.numbers.expected.reader import Expected, load
from scanproof.numbers.verdict.baseline_gate import judge_number
from scanproof.numbers.verdict.paired_tests import ComparisonOutcome, PairedComparison
from scanproof.record import Evaluation, read_run
from tests.support.builders import CONSTANTS, JOB, published
from tests.support.small_history import ENVIRONMENT, STRICT_JOB, filled, make_run, rows

NOW = "29990101T010000Z-00000001"
RENAMED = replace(STRICT_JOB, name="of-another-name")
FIRST, SECOND, THIRD = (f"2026010{day}T010000Z-0000000{day}" for day in (1, 2, 3))


@pytest.fixture(scope="module")
def expected() -> Expected:
    return load(Path(__file__).parents[2] / "expected")


def declare(history: History, run: str, reason: str = "it is good") -> declarations.Declared:
    return new_baseline.declare(history, history.find(run), reason)


def evaluation_of(tmp_path: Path, run: str) -> Evaluation:
    return read_run(tmp_path / "store" / "runs" / run / "run.json").evaluations[0]


def found(history: History, evaluation: Evaluation) -> str | None:
    kept = Baselines(open_history(history.place.name)).find(evaluation)
    return kept.name if kept else None


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
    with pytest.raises(HistoryError, match="--without mmlu_c: it lacks no such task that a baseline holds"):
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


@pytest.mark.parametrize(("gate", "due"), [("SAME", True), ("CHANGED", True), ("REFUSED", False), (None, False)])
def test_only_what_had_a_baseline_in_a_strict_run_is_due_after_it(tmp_path: Path, gate: str | None, due: bool) -> None:
    """A night whose history could not be reached had to compare everything, and says nothing of what has a baseline."""
    run = read_run(make_run(tmp_path, FIRST))
    found = gate and PairedComparison(subject="n", outcome=ComparisonOutcome(gate), baseline="the run r", because="why")
    (number,) = (kept.id for kept in run.records)
    run = replace(run, due=(number,), records=(replace(run.records[0], gate=found or None),))
    gpu = store.gpu_name(ENVIRONMENT["gpus"])
    assert list_due_before([run], gpu) == ({number: Held(FIRST, None)} if due else {})
    # The history could be read: then what was refused has a baseline, perhaps of the GPU where it was measured.
    told = replace(run, held={})
    assert list_due_before([told], gpu) == ({number: Held(FIRST, None)} if gate else {})
    # It had one here, and was refused the comparison, or broke.
    told = replace(run, held={number: "a"})
    assert list_due_before([told], gpu) == {number: Held(FIRST, "a")}
    assert list_due_before([told], "another GPU") == {}
    assert list_due_before([replace(told, strict=False)], gpu) == {}
    newer = replace(told, id=THIRD, held={number: "b"}, records=())
    assert list_due_before([newer, told], gpu) == {number: Held(THIRD, "b")}


@dataclass
class WinograndeMeasuredNoMore:
    """A history whose runs measure piqa and winogrande (FIRST), or piqa alone (SECOND, THIRD)."""

    history: History
    expected: Expected
    value = published(job=STRICT_JOB, task="winogrande", documents=None, printed="0.7500")
    gpu = store.gpu_name(ENVIRONMENT["gpus"])

    def is_due(self, held: Held, on: str | None = None) -> bool:
        """Whether its comparison is due after a run in which winogrande was held."""
        gate = SecondGate(
            self.expected, self.history.place.name, strict=True, due_before={self.value.id: held}, gpu=on or self.gpu
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
    assert is_due(Held(FIRST, "lost")), "its history may be lost"
    held = Held(FIRST, declare(history, FIRST).id)
    assert is_due(held)
    declare_without(history, SECOND, "winogrande")
    assert not is_due(held)
    declare(history, THIRD)
    assert not is_due(held), "it is not said again at every declaration"
    assert is_due(Held(NOW, "lost")), "a later declaration held it, and is lost"
    assert is_due(held, on="another GPU")
    later = Held(NOW, declare(history, FIRST).id)
    assert is_due(later), "a later baseline holds it again"
    declare_without(history, SECOND, "winogrande")
    assert not is_due(later)


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
    assert not no_more.is_due(Held(FIRST, "lost"))
    assert no_more.is_due(Held(NOW, "lost")), "it was held after that"


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
    declare_without(history, other, "winogrande")
    assert not no_more.is_due(held)


def test_a_task_that_is_left_out_can_be_left_out_again(no_more: WinograndeMeasuredNoMore) -> None:
    """From then on: a declaration of before may have been made again in between, and be lost."""
    history = no_more.history
    declare(history, FIRST)
    (first,) = declare_without(history, SECOND, "winogrande").without
    (again,) = declare_without(history, SECOND, "winogrande").without
    assert again == first._replace(declaration=again.declaration)
    assert again != first
    assert declare(history, SECOND).without == {again}


def test_a_session_says_which_declaration_holds_a_number(tmp_path: Path, expected: Expected) -> None:
    history = filled(tmp_path, FIRST)
    value = published(job=STRICT_JOB, documents=None, printed="0.7500")
    gpu = store.gpu_name(ENVIRONMENT["gpus"])

    def held(on: str = gpu) -> dict[str, str] | None:
        return SecondGate(expected, history.place.name, strict=True).list_held([value], on)

    assert held() == {}
    declared = declare(history, FIRST)
    assert held() == {value.id: declared.id}
    assert held("another GPU") == {}
    shutil.rmtree(Path(history.place.root) / "runs" / FIRST)
    assert held() is None, "what it holds is not known"
    assert SecondGate(expected, history.place.name).list_held([value], gpu) is None, "without strict nobody asks"


def test_a_good_run_becomes_the_baseline_of_what_it_evaluated(tmp_path: Path) -> None:
    history = filled(tmp_path, FIRST, SECOND)
    evaluation = evaluation_of(tmp_path, SECOND)
    assert found(history, evaluation) is None
    declare(history, FIRST)
    kept = Baselines(history).find(evaluation)
    assert kept is not None
    assert kept.name == f"the run {FIRST}"
    assert sum(kept.samples[JOB.name, "piqa"].metrics["acc"]) == 300  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"finished": None}, "it is partial"),
        ({"selected": 7}, "it is partial: 1 of 7 numbers"),
        ({"limit": 10}, "it is limited to the first 10 documents"),
        ({"strict": False}, "it was not strict"),
        ({"evaluations": ()}, "it evaluated nothing"),
        ({"job": replace(STRICT_JOB, kernels=("_chunk_scan_fwd_kernel",))}, "may have run a fallback"),
        ({"logs": {"piqa": rows(400, 200)}}, "it failed: 1 of 1 numbers, first mamba-130m-piqa-acc-reproduced (OUT"),
    ],
)
def test_a_run_that_proves_nothing_is_refused_with_every_reason(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    history = open_history(str(tmp_path / "history"))
    publish(make_run(tmp_path / "store", FIRST, **changes), history.place)
    with pytest.raises(HistoryError) as caught:
        declare(history, FIRST)
    assert said in str(caught.value)
    assert declarations.list_declarations(history) == []


@pytest.mark.parametrize("outcome", ["ERROR", "NOT_RUN", "OUT_OF_TOLERANCE"])
def test_no_number_of_a_baseline_may_be_missing(tmp_path: Path, outcome: str) -> None:
    run = read_run(make_run(tmp_path / "store", FIRST))
    bad = replace(run, records=(replace(run.records[0], outcome=outcome),))
    assert any(f"({outcome})" in reason for reason in new_baseline.why_not_good(bad))


def test_a_change_is_accepted_by_moving_the_baseline(tmp_path: Path) -> None:
    """A run that differs from the old baseline may be the new one, or no change could ever be accepted."""
    run = read_run(make_run(tmp_path / "store", FIRST))
    assert new_baseline.why_not_good(replace(run, records=(replace(run.records[0], outcome="CHANGED"),))) == []


@pytest.mark.parametrize("reason", ["", "   "])
def test_a_baseline_needs_a_reason(tmp_path: Path, reason: str) -> None:
    history = filled(tmp_path, FIRST)
    with pytest.raises(HistoryError, match="needs a reason"):
        declare(history, FIRST, reason)


def test_the_last_declaration_holds_whatever_the_clocks_say(tmp_path: Path) -> None:
    history = filled(tmp_path, FIRST, SECOND)
    evaluation = evaluation_of(tmp_path, FIRST)
    late = declare(history, SECOND, "declared on a machine whose clock is years ahead")
    path = Path(history.place.root) / "baselines"
    ahead = {**late.content, "id": "20990101T000000Z-00000000"}
    (path / f"{late.id}.json").unlink()
    history.place.add(f"baselines/{ahead['id']}.json", store.seal(ahead))
    assert found(history, evaluation) == f"the run {SECOND}"
    declare(history, FIRST, "declared after it")
    assert found(history, evaluation) == f"the run {FIRST}"
    assert [each.run for each in declarations.list_declarations(history)] == [SECOND, FIRST]


def test_a_newer_run_moves_nothing(tmp_path: Path) -> None:
    history = filled(tmp_path, FIRST)
    declare(history, FIRST)
    publish(make_run(tmp_path / "store", SECOND), history.place)
    assert found(history, evaluation_of(tmp_path, SECOND)) == f"the run {FIRST}"


@pytest.mark.parametrize(
    "changes",
    [
        {"job": replace(STRICT_JOB, dtype="bfloat16")},
        {"job": replace(STRICT_JOB, batch_size=1)},
        {"job": replace(STRICT_JOB, revision="other")},
        {"environment": {**ENVIRONMENT, "gpus": [{"name": "NVIDIA A100"}]}},
    ],
    ids=["dtype", "batch size", "revision", "GPU"],
)
def test_another_job_or_gpu_has_no_baseline(tmp_path: Path, changes: dict[str, Any]) -> None:
    history = filled(tmp_path, FIRST)
    declare(history, FIRST)
    make_run(tmp_path / "store", SECOND, **changes)
    assert found(history, evaluation_of(tmp_path, SECOND)) is None


def test_fewer_tasks_of_the_same_job_keep_their_baseline(tmp_path: Path) -> None:
    history = filled(tmp_path, FIRST)
    declare(history, FIRST)
    make_run(tmp_path / "store", SECOND, job=replace(STRICT_JOB, tasks=("arc_easy",)))
    assert found(history, evaluation_of(tmp_path, SECOND)) == f"the run {FIRST}"


def test_a_baseline_whose_run_is_gone_or_damaged_is_an_error_with_its_name(tmp_path: Path) -> None:
    history = filled(tmp_path, FIRST)
    declare(history, FIRST)
    folder = Path(history.place.root) / "runs" / FIRST
    samples = next(folder.glob("samples*"))
    samples.write_bytes(samples.read_bytes()[:-1] + b"x")
    with pytest.raises(HistoryError, match=rf"{FIRST} cannot be read: .*wrong checksum"):
        found(history, evaluation_of(tmp_path, FIRST))
    shutil.rmtree(folder)
    with pytest.raises(HistoryError, match="it is gone"):
        found(history, evaluation_of(tmp_path, FIRST))


def test_a_damaged_declaration_is_named_and_the_one_before_holds(tmp_path: Path) -> None:
    history = filled(tmp_path, FIRST, SECOND)
    declare(history, FIRST)
    second = declare(history, SECOND)
    path = Path(history.place.root) / "baselines" / f"{second.id}.json"
    path.write_bytes(path.read_bytes()[:-9])
    history = open_history(history.place.name)
    assert found(history, evaluation_of(tmp_path, FIRST)) == f"the run {FIRST}"
    declarations.list_declarations(history)
    assert second.id in str(history.problems[0])


@pytest.mark.parametrize(
    ("suite", "device", "ran_on", "changed", "said"),
    [
        ("embedded", "cpu", None, True, "0.0001 is possible by rounding; 1 of 800 answers by more"),
        ("embedded", "cpu", "cpu", True, "0.0001 is possible by rounding; 1 of 800 answers by more"),
        ("embedded", "cuda", "cpu", True, "0.0001 is possible by rounding; 1 of 800 answers by more"),
        ("embedded", "cuda", "cuda:0", False, "what rounding can do in float32 on cuda:0 is not known: this alone is"),
        ("embedded", "cpu", "cuda:0", False, "what rounding can do in float32 on cuda:0 is not known: this alone is"),
        ("embedded", "cuda", None, False, "what rounding can do in float32 on cuda is not known: this alone is"),
        ("gpu", "cpu", "cpu", False, "documents"),
    ],
)
def test_the_ceiling_of_rounding_is_that_of_where_a_stand_in_ran(
    tmp_path: Path, suite: Literal["embedded", "gpu"], device: str, ran_on: str | None, changed: bool, said: str
) -> None:
    """One answer that moves by 0.01 nats is no flip and no lean; on a CPU rounding cannot make it."""
    job = replace(STRICT_JOB, suite=suite, dtype="float32", device=device)
    environment = {**ENVIRONMENT, "device": ran_on} if ran_on else ENVIRONMENT
    moved = rows(400, 300)
    moved[7] |= {"loglikelihoods": [moved[7]["loglikelihoods"][0] + 0.01, -5.0]}
    paths = [make_run(tmp_path / "store", run, {"piqa": log}, job=job, environment=environment)
             for run, log in ((FIRST, rows(400, 300)), (SECOND, moved))]  # fmt: skip
    history = open_history(str(tmp_path / "history"))
    for path in paths:
        publish(path, history.place)
    declare(history, FIRST)
    value = published(job=job, documents=400, printed="0.7500")
    now = read_run(paths[1])
    first = now.evaluations[0]
    samples = read_logs(job.name, paths[1].parent / "samples" / job.name)
    declared = Baselines(history).find(first)
    assert declared is not None
    finding = judge_number(value, first, samples, declared, CONSTANTS)
    assert finding.baseline == f"the run {FIRST}"
    assert finding.changed == changed
    assert said in finding.because
    # What it was on a GPU is kept, to become a ceiling one day.
    sizes = [test.shift for test in finding.tests if test.name == "noise"]
    assert sizes == ([pytest.approx(0.01)] if suite == "embedded" else [])
