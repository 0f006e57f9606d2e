from __future__ import annotations

import gzip
import json
import math
from pathlib import Path
from typing import Any

import pytest

from scanproof.evaluation import results


def sample(number: int, **changes: Any) -> dict[str, Any]:
    """One logged document in the form of lm-eval."""
    return {
        "doc_id": number,
        "doc": {"question": "a long text"},
        "target": 1,
        "arguments": [(f"question {number}", " yes"), (f"question {number}", " no")],
        "resps": [[(-1.5, False)], [(-0.5, True)]],
        "metrics": ["acc", "acc_norm"],
        "doc_hash": f"d{number}",
        "prompt_hash": f"p{number}",
        "target_hash": "t",
        "acc": 1.0,
        "acc_norm": 0.0,
        **changes,
    }


def lm_eval_results(**metrics: Any) -> dict[str, Any]:
    return {
        "results": {"task": {"alias": "task", "sample_len": 2, **metrics}},
        "samples": {"task": [sample(1), sample(0)]},
        "n-shot": {"task": 5},
        "versions": {"task": 1.0},
    }


def test_measurement_carries_value_stderr_and_documents() -> None:
    (fields,) = results.list_measurements(lm_eval_results(**{"acc,none": 0.5, "acc_stderr,none": 0.25}))
    found = results.read_measurement(fields)
    assert (found.task, found.metric, found.value, found.stderr, found.n_samples) == ("task", "acc", 0.5, 0.25, 2)
    assert (found.num_fewshot, found.task_version) == (5, "1.0")


def test_missing_stderr_is_none_and_filters_are_named() -> None:
    (fields,) = results.list_measurements(
        lm_eval_results(**{"exact_match,strict": 0.5, "exact_match_stderr,strict": "N/A"})
    )
    assert results.read_measurement(fields).stderr is None
    assert fields["metric"] == "exact_match,strict"


def test_group_has_the_shots_of_its_tasks_when_they_agree() -> None:
    told = {"n-shot": {"a": 5, "b": 5, "c": 0}, "group_subtasks": {"g": ["a", "h"], "h": ["b"], "mixed": ["a", "c"]}}
    assert results.count_shots(told, "g") == 5
    assert results.count_shots(told, "mixed") is None


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_what_is_not_finite_survives_strict_json(value: float) -> None:
    (fields,) = results.list_measurements(lm_eval_results(**{"perplexity,none": value}))
    text = json.dumps(fields, allow_nan=False)
    read = results.read_measurement(json.loads(text)).value
    assert read == value or (math.isnan(read) and math.isnan(value))


def test_a_file_that_is_nested_too_deeply_is_said(tmp_path: Path) -> None:
    (tmp_path / results.UNMEASURED).write_text("[" * 100_000)
    with pytest.raises(ValueError, match="nested too deeply"):
        results.read_unmeasured(tmp_path)


def test_prompts_hash_follows_the_documents_not_the_order_of_the_log() -> None:
    forward, backward = [sample(0), sample(1)], [sample(1), sample(0)]
    assert results.hash_prompts(forward) == results.hash_prompts(backward)
    assert results.hash_prompts(forward) != results.hash_prompts([sample(0), sample(1, prompt_hash="x")])
    assert results.hash_prompts([]) is None


def test_sample_line_keeps_what_a_paired_test_needs_and_no_text() -> None:
    line = results.answer_line(sample(7), "task", " ")
    assert line["loglikelihoods"] == [-1.5, -0.5]
    assert line["is_greedy"] == [False, True]
    assert line["metrics"] == {"acc": 1.0, "acc_norm": 0.0}
    assert (line["right"], line["lengths"]) == ([1], [3, 2])
    assert "a long text" not in json.dumps(line)


def test_samples_are_there_before_results_say_so(tmp_path: Path) -> None:
    results.write_results(tmp_path, lm_eval_results(**{"acc,none": 0.5}), {"python": "3"})
    assert len((tmp_path / "samples" / "task.jsonl").read_text().splitlines()) == 2
    assert {path.name for path in tmp_path.iterdir()} == {"samples", "environment.json", "results.json"}


def test_questions_are_kept_by_document_and_make_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    samples = [sample(1), sample(0), sample(0, filter="another")]
    path = tmp_path / "task.texts.jsonl.gz"
    path.write_bytes(results.compress_texts(samples))
    assert results.read_texts(path) == {
        number: {"doc_id": number, "prompts": [f"question {number}"], "choices": [" yes", " no"]} for number in (0, 1)
    }
    assert results.compress_texts(samples[::-1]) == path.read_bytes()


DEFLATED = gzip.compress(b'{"doc_id": 0}\n' * 50, mtime=0)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"no gzip", id="no_gzip"),
        pytest.param(DEFLATED[:-6], id="cut"),
        pytest.param(DEFLATED[:10] + b"\xff" * (len(DEFLATED) - 10), id="no_deflate"),
        pytest.param(gzip.compress(b'{"prompts": []}\n'), id="no_doc_id"),
        pytest.param(gzip.compress(b"[]\n"), id="no_object"),
        pytest.param(gzip.compress(b"[" * 100_000), id="deep"),
    ],
)
def test_questions_that_are_damaged_are_a_value_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "task.texts.jsonl.gz").write_bytes(content)
    with pytest.raises(ValueError, match=r"gzip|no document|nested"):
        results.read_texts(tmp_path / "task.texts.jsonl.gz")


@pytest.mark.parametrize(
    ("arguments", "prompts", "choices"),
    [
        pytest.param([("he", " ran"), ("she", " ran")], ["he", "she"], [" ran", " ran"], id="prompts_differ"),
        pytest.param([("a whole text",)], [""], ["a whole text"], id="rolling"),
        pytest.param([("count:", {"until": ["."]})], ["count:"], [], id="generation"),
    ],
)
def test_questions_of_every_kind_of_request(arguments: list[Any], prompts: list[str], choices: list[str]) -> None:
    line = results.texts_line(sample(0, arguments=arguments))
    assert (line["prompts"], line["choices"]) == (prompts, choices)
