"""The stand-ins' expected values: recorded for every task, backed by per-document answers, far above chance."""

from __future__ import annotations

import gzip
import json
import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from scanproof import embedded
from scanproof.embedded.record import list_stand_ins
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
