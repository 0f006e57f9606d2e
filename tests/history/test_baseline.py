"""Which runs may be declared good, and which declaration holds."""

from __future__ import annotations

import itertools
import shutil
import uuid
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

from scanproof.history import declarations, new_baseline, store
from scanproof.history.baseline import Baselines
from scanproof.history.due_before import Held
from scanproof.history.errors import HistoryError
from scanproof.history.publish import publish
from scanproof.history.samples import read_logs
from scanproof.history.store import open_history
from scanproof.numbers.verdict.baseline_gate import judge_number
from scanproof.record import read_run, write_run
from tests.support.builders import CONSTANTS, JOB, published
from tests.support.small_baselines import declare, evaluation_of, expected, found
from tests.support.small_history import ENVIRONMENT, STRICT_JOB, filled, make_run, rows

__all__ = ["expected"]

NOW = "29990101T010000Z-00000001"
RENAMED = replace(STRICT_JOB, name="of-another-name")
FIRST, SECOND, THIRD = (f"2026010{day}T010000Z-0000000{day}" for day in (1, 2, 3))


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


def test_a_damaged_declaration_does_not_bring_the_one_before_back(tmp_path: Path) -> None:
    history = filled(tmp_path, FIRST, SECOND)
    declare(history, FIRST)
    second = declare(history, SECOND)
    path = Path(history.place.root) / "baselines" / f"{second.id}.json"
    path.write_bytes(path.read_bytes()[:-9])
    evaluation = evaluation_of(tmp_path, FIRST)
    with pytest.raises(HistoryError, match=f"the run {FIRST} may not be the newest: .*{second.id}.json: "):
        found(history, evaluation)
    with pytest.raises(HistoryError, match=f"{second.id} is gone or damaged: .*give --give-up {second.id}; "):
        declare(history, FIRST)
    new_baseline.declare(history, history.find(FIRST), "it is good", give_up=(second.id,))
    assert found(history, evaluation) == f"the run {FIRST}"


@pytest.mark.parametrize("lost", range(4))
def test_where_one_of_four_declarations_is_gone_the_newest_one_holds_or_nobody_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: int
) -> None:
    """A declaration whose predecessor is gone was put before those whose are there: an older run was compared with."""
    # Ids have seconds.
    in_order = itertools.count()
    monkeypatch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=next(in_order) << 96))
    history = filled(tmp_path, FIRST, SECOND)
    made = [declare(history, run) for run in (FIRST, FIRST, FIRST, SECOND)]
    (Path(history.place.root) / "baselines" / f"{made[lost].id}.json").unlink()
    kept = Baselines(open_history(history.place.name))
    evaluation = evaluation_of(tmp_path, FIRST)
    if lost < 3:
        assert found(history, evaluation) == f"the run {SECOND}"
        assert kept.unreadable == [f"the declaration {made[lost].id} is gone"]
        return
    assert kept.unreadable == []
    known = Held(SECOND, made[lost].id, made[0].id)
    why = f"run {SECOND} knew a newer declaration, {made[lost].id}, which is gone"
    assert kept.explain_older(evaluation, [known]) == why
    assert kept.explain_older(evaluation, [known._replace(first="of another history")]) is None
    assert kept.explain_older(evaluation, [known._replace(newest=made[1].id)]) is None
    again = new_baseline.declare(history, history.find(SECOND), "it is good", give_up=(made[lost].id,))
    kept = Baselines(open_history(history.place.name))
    assert kept.explain_older(evaluation, [known]) is None
    with pytest.raises(HistoryError, match=f"--give-up {again.id}: it can be read, and holds"):
        new_baseline.declare(history, history.find(SECOND), "it is good", give_up=(again.id,))


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


def test_what_a_declaration_held_that_is_given_up_has_no_baseline_until_it_is_declared(tmp_path: Path) -> None:
    """A run of one job gives it up; of the other job an older baseline would come back."""
    history = filled(tmp_path)
    other = replace(STRICT_JOB, name="002-other-0shot", pretrained="other/model")
    for name in (FIRST, SECOND):
        path = make_run(tmp_path / "store", name)
        run, moved = read_run(path), read_run(make_run(tmp_path / "moved", name, job=other))
        write_run(tmp_path / "store" / "runs", replace(run, evaluations=(*run.evaluations, *moved.evaluations)))
        answers = tmp_path / "moved" / "runs" / name / "samples" / other.name
        shutil.copytree(answers, path.parent / "samples" / other.name)
        publish(path, history.place)
    publish(make_run(tmp_path / "store", THIRD), history.place)
    declare(history, FIRST)
    lost = declare(history, SECOND).id
    (Path(history.place.root) / "baselines" / f"{lost}.json").unlink()
    history = open_history(history.place.name)
    new_baseline.declare(history, history.find(THIRD), "of one job", give_up=(lost,))
    one, two = read_run(tmp_path / "store" / "runs" / FIRST / "run.json").evaluations
    assert found(history, one) == f"the run {THIRD}"
    with pytest.raises(HistoryError, match=f"the run {FIRST} may not be the newest: the declaration {lost} is gone"):
        found(history, two)
    declare(history, SECOND)
    assert found(history, two) == f"the run {SECOND}"
