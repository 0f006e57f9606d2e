"""The stand-ins' expected values: recorded for every task, backed by per-document answers, far above chance."""

from __future__ import annotations

import gzip
import json
import math
from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scanproof import embedded
from scanproof.embedded import rounding
from scanproof.embedded.record import list_stand_ins
from scanproof.history import recorded_answers
from scanproof.history.errors import HistoryError
from scanproof.numbers.expected import reader
from scanproof.numbers.expected.reader import Expected
from scanproof.numbers.values import PublishedValue

FOLDER = Path(__file__).parents[2] / "expected"
NAMES = tuple(stand_in.name for stand_in in list_stand_ins())
CHECKPOINTS = tuple(name.partition("/")[2] for name in embedded.MODELS)
TWELVE = {
    "arc_easy", "arc_challenge", "hellaswag", "lambada_openai", "openbookqa", "piqa", "winogrande", "boolq", "race",
    "truthfulqa_mc2", "pubmedqa", "mmlu",
}  # fmt: skip


@pytest.fixture(scope="module")
def loaded() -> Expected:
    return reader.load(FOLDER)


def values_of(loaded: Expected, name: str) -> list[PublishedValue]:
    return [value for value in loaded.values if value.job.suite == "embedded" and value.model == name]


def answers(name: str) -> dict[str, list[dict[str, Any]]]:
    """Task -> the answers to its documents."""
    found = defaultdict(list)
    with gzip.open(FOLDER / "embedded" / f"{name}.answers.jsonl.gz", "rt") as file:
        for line in file:
            row = json.loads(line)
            if "probe_tokens" in row:
                continue
            found[row["task"]].append(row)
    return found


@pytest.mark.parametrize("name", NAMES)
def test_every_task_of_the_documents_is_covered_by_enough_documents(loaded: Expected, name: str) -> None:
    values = values_of(loaded, name)
    assert {value.task for value in values} >= TWELVE
    assert all((value.documents or 0) >= 200 for value in values if not value.task.startswith("mmlu"))
    mmlu = next(value for value in values if value.task == "mmlu")
    assert (mmlu.documents, len(mmlu.parts), mmlu.job.num_fewshot) == (570, 57, 5)


@pytest.mark.parametrize("name", NAMES)
def test_values_are_the_means_of_the_recorded_answers(loaded: Expected, name: str) -> None:
    found = answers(name)
    for value in values_of(loaded, name):
        tasks = [part.task for part in value.parts] or [value.task]
        scores = [row["metrics"][value.metric] for task in tasks for row in found[task]]
        assert len(scores) == value.documents
        mean = (
            math.exp(-math.fsum(row["loglikelihoods"][0] for row in found[value.task]) / len(scores))
            if value.metric == "perplexity"
            else math.fsum(scores) / len(scores)
        )
        assert mean == pytest.approx(value.expected, abs=value.half_unit + 1e-9), value.id


@pytest.mark.parametrize("name", NAMES)
def test_eight_tasks_at_least_lie_five_stderrs_above_chance(loaded: Expected, name: str) -> None:
    above = set()
    for value in values_of(loaded, name):
        if value.metric != "acc" or value.task not in TWELVE or value.documents is None:
            continue
        choices = loaded.tasks[value.task].choices if not value.parts else 4
        chance = 0.5 if value.task == "truthfulqa_mc2" else (1 / choices if choices else 0.0)
        stderr = math.sqrt(value.expected * (1 - value.expected) / (value.documents - 1))
        if value.expected > chance + 5 * stderr:
            above.add(value.task)
    assert len(above) >= 8, above


def test_two_stand_ins_at_least_lie_five_stderrs_above_chance_on_mmlu(loaded: Expected) -> None:
    above = set()
    for name in NAMES:
        mmlu = next(value for value in values_of(loaded, name) if value.task == "mmlu")
        assert mmlu.documents is not None
        stderr = math.sqrt(mmlu.expected * (1 - mmlu.expected) / (mmlu.documents - 1))
        if mmlu.expected > 0.25 + 5 * stderr:
            above.add(name)
    assert above >= {"pythia-tiny", "megatron-hybrid-tiny"}


def test_every_model_class_of_the_documents_has_a_stand_in(loaded: Expected) -> None:
    found = {value.job.model for value in loaded.values if value.job.suite == "embedded"}
    assert found == {number.job.model for number in loaded.numbers if number.job.suite == "gpu"}
    assert len(found) == 6


def test_the_stand_in_of_mamba_7b_has_its_policy_and_the_answers_of_its_source(loaded: Expected) -> None:
    """Two layouts, two model classes, two implementations of the scan, one set of weights."""
    (policy,) = {value.job.model_args for value in values_of(loaded, "mamba-7b-tiny")}
    assert {policy} == {value.job.model_args for value in loaded.values if value.model == "Mamba-7B"}
    one, two = answers("mamba1-tiny"), answers("mamba-7b-tiny")
    assert one.keys() == two.keys()
    for task in one:
        for mine, other in zip(one[task], two[task], strict=True):
            assert mine["prompt_hash"] == other["prompt_hash"]
            assert mine["loglikelihoods"] == pytest.approx(other["loglikelihoods"], abs=1e-4)


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_margins_spread_from_near_ties_to_clear_answers(name: str) -> None:
    """There must be documents whose answer a broken scan can change."""
    margins = []
    for row in answers(name)["arc_easy"]:
        best, second = sorted(row["loglikelihoods"], reverse=True)[:2]
        margins.append(best - second)
    margins.sort()
    assert margins[len(margins) // 20] < 0.5
    assert margins[-len(margins) // 20] > 3.0


@pytest.mark.parametrize("name", NAMES)
def test_recorded_answers_are_for_jobs_of_their_dtype_only(loaded: Expected, name: str) -> None:
    """What rounding may move is known in float32; in halves the same answers would let a small change pass."""
    value = values_of(loaded, name)[0]
    path = recorded_answers.recorded_file(loaded, value)
    assert path is not None
    assert recorded_answers.read_recorded_answers(loaded, value, path).probe_tokens
    halves = replace(value, job=replace(value.job, dtype="bfloat16"))
    with pytest.raises(HistoryError, match=r"were recorded for jobs in float32, and .* asks for bfloat16"):
        recorded_answers.read_recorded_answers(loaded, halves, path)


def test_answers_for_which_rounding_was_not_measured_are_refused(loaded: Expected, tmp_path: Path) -> None:
    """By their content: compressed otherwise, and in another order, they are the same."""
    value = values_of(loaded, NAMES[0])[0]
    source = recorded_answers.recorded_file(loaded, value)
    assert source is not None
    header, *lines = gzip.decompress(source.read_bytes()).decode().splitlines()
    path = tmp_path / source.name
    path.write_bytes(gzip.compress("\n".join([header, *reversed(lines)]).encode(), compresslevel=1))
    same = recorded_answers.read_recorded_answers(loaded, value, path)
    assert same.samples == recorded_answers.read_recorded_answers(loaded, value, source).samples
    moved = json.loads(lines[7])
    moved["loglikelihoods"][0] += 1e-6
    path.write_bytes(gzip.compress("\n".join([header, *lines[:7], json.dumps(moved), *lines[8:]]).encode()))
    with pytest.raises(HistoryError, match="what rounding may move was measured for other answers") as refused:
        recorded_answers.read_recorded_answers(loaded, value, path)
    assert refused.value.remedy.endswith(f"python -m scanproof.embedded.rounding --model {NAMES[0]}")


def test_the_command_that_is_named_is_the_one_that_measures() -> None:
    assert (recorded_answers.MEASURE, recorded_answers.RECORD) == (
        rounding.COMMAND,
        "python -m scanproof.embedded.record",
    )


@pytest.mark.parametrize(
    ("count", "said"), [(0, "it holds no answers"), (1, "it does not say for which dtype its answers were recorded")]
)
def test_recorded_answers_without_lines_or_dtype_are_refused_by_what_they_lack(
    loaded: Expected, tmp_path: Path, count: int, said: str
) -> None:
    value = values_of(loaded, NAMES[0])[0]
    source = recorded_answers.recorded_file(loaded, value)
    assert source is not None
    kept = gzip.decompress(source.read_bytes()).decode().splitlines()
    path = tmp_path / source.name
    path.write_bytes(gzip.compress("\n".join(kept[1 : 1 + count]).encode()))
    with pytest.raises(HistoryError, match=said):
        recorded_answers.read_recorded_answers(loaded, value, path)
