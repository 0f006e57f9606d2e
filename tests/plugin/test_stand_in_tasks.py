"""Faults that only long documents, last words of several tokens or examples show: sessions over a spoiled project."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from scanproof.record import find_run, read_run
from tests.support.planted import REFERENCE, Copy, clean_copy

pytestmark = pytest.mark.usefixtures("warm_copies")

LONG = ("lambada_openai acc", "lambada_openai perplexity", "boolq acc", "pubmedqa acc", "race acc")
"""The numbers whose tasks have documents of more than 64 and 256 tokens."""
MMLU = ("mmlu_stem acc",)
SCANNED = "    y = torch.cat(outputs, dim=-1)\n    if D is not None:"
"""Where the scan has all its outputs (b, d, l)."""


def wrong_at_multiples_of_64(copy: Copy) -> None:
    copy.edit(REFERENCE, SCANNED, SCANNED.replace("\n", "\n    y[..., 64::64] *= 1.25\n", 1))


def wrong_past_64(copy: Copy) -> None:
    copy.edit(REFERENCE, SCANNED, SCANNED.replace("\n", "\n    y[..., 64:] *= 1.02\n", 1))


def wrong_past_2048(copy: Copy) -> None:
    copy.edit(REFERENCE, SCANNED, SCANNED.replace("\n", "\n    y[..., 2048:] *= 1.02\n", 1))


def cut_at_the_end(copy: Copy) -> None:
    right = "(context + continuation)[-(max_length + 1) :][:-1]"
    wrong = "(context[: max_length + 1 - len(continuation)] + continuation)[:-1]"
    copy.edit("scanproof/scoring/__init__.py", right, wrong)


def greedy_by_the_last_token(copy: Copy) -> None:
    copy.edit("scanproof/scoring/engine.py", "self._greedy[request] &= greedy", "self._greedy[request] = greedy")


def another_sampler(copy: Copy) -> None:
    copy.harness()
    copy.edit("site/lm_eval/tasks/mmlu/default/_default_template_yaml", "sampler: first_n", "sampler: default")


def another_delimiter(copy: Copy) -> None:
    copy.harness()
    name = "site/lm_eval/tasks/mmlu/default/_default_template_yaml"
    copy.edit(name, "test_split: test\n", 'test_split: test\nfewshot_delimiter: "\\n"\n')


@pytest.mark.parametrize(
    ("plant", "numbers", "fail", "outcomes"),
    [
        (wrong_at_multiples_of_64, LONG, LONG, {"CHANGED"}),
        (wrong_past_64, LONG, LONG, {"CHANGED"}),
        (wrong_past_2048, LONG, LONG[:4], {"CHANGED"}),
        (cut_at_the_end, LONG, LONG[:4], {"CHANGED", "OUT_OF_TOLERANCE"}),
        (greedy_by_the_last_token, LONG[:2], LONG[:1], {"CHANGED"}),
        (another_sampler, MMLU, MMLU, {"CHANGED", "COMPARISON_MISSING"}),
        (another_delimiter, MMLU, MMLU, {"CHANGED", "COMPARISON_MISSING"}),
    ],
)
def test_a_fault_fails_the_numbers_of_the_documents_that_show_it(
    tmp_path: Path, plant: Callable[[Copy], None], numbers: tuple[str, ...], fail: tuple[str, ...], outcomes: set[str]
) -> None:
    copy = clean_copy(tmp_path)
    plant(copy)
    tasks = " or ".join(dict.fromkeys(name.split()[0] for name in numbers))
    ended = copy.evaluate(tmp_path / "store", "--scanproof-engine=shared", task=f"({tasks})")
    assert ended.returncode == pytest.ExitCode.TESTS_FAILED, ended.stdout
    run = read_run(find_run(tmp_path / "store" / "runs", "latest"))
    found = {f"{record.task} {record.metric}": record.outcome for record in run.records}
    assert found.keys() == set(numbers)
    assert {name for name, outcome in found.items() if outcome != "REPRODUCED"} == set(fail), found
    assert {found[name] for name in fail} <= outcomes, found
