"""Answers for the hooks of small projects, from which the numbers that they report can be made again.

A project copies this file beside its conftest: it imports nothing of the tests.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from scanproof.numbers.verdict.measurement import Measurement

PROBE_TOKENS = [5, 6, 7]
"""What a fixed text became for the model."""
ENVIRONMENT = {"packages": {"lm-eval": "0.0"}, "probe_tokens": PROBE_TOKENS}
"""That of a machine elsewhere, with an lm-eval of its own."""
BOTH = {
    (True, True): (1.0, 4.0, (10, 10)),
    (True, False): (3.0, 4.0, (10, 20)),
    (False, True): (5.0, 4.0, (20, 10)),
    (False, False): (6.0, 4.0, (10, 10)),
}
"""Whether acc and acc_norm are right -> minus the log-likelihoods of two answers, the first of them right, and their
lengths."""


def keep_answers(
    folder: Path, wanted: Mapping[str, Mapping[str, tuple[float, int]]], shots: int = 0
) -> tuple[Measurement, ...]:
    """Write the answers to each task; returns what they measure.

    Args:
        folder: folder of the samples.
        wanted: task -> metric -> about what it is to measure, and the number of documents.
        shots: few-shot examples.
    """
    folder.mkdir(parents=True, exist_ok=True)
    measured: list[Measurement] = []
    for task, metrics in wanted.items():
        count = max(documents for _, documents in metrics.values())
        rows = list(_rows({name: value for name, (value, _) in metrics.items()}, count))
        (folder / f"{task}.jsonl").write_text("".join(map(_line, range(count), rows)))
        prompts = hashlib.sha256("\n".join(f"p{doc}" for doc in range(count)).encode()).hexdigest()
        for name, (value, documents) in metrics.items():
            made = value if not math.isfinite(value) else _made(rows, name)
            measured.append(
                Measurement(
                    task=task, metric=name, value=made, stderr=None, n_samples=documents, num_fewshot=shots,
                    task_version="1", prompts_hash=prompts,
                )
            )  # fmt: skip
    return tuple(measured)


class _Row(NamedTuple):
    """What a document's line says of its answers."""

    answers: list[float]
    lengths: tuple[int, ...]
    metrics: dict[str, float]
    greedy: bool = False


def _rows(metrics: Mapping[str, float], count: int) -> Iterator[_Row]:
    if "perplexity" in metrics:
        shares = {name: value for name, value in metrics.items() if name == "acc"}
        yield from _single_answers(metrics["perplexity"], shares.get("acc", 0.5), count)
        return
    right = {name: _documents(metrics.get(name, 0.5), count) for name in ("acc", "acc_norm")}
    for doc in range(count):
        first, second, lengths = BOTH[doc < right["acc"], doc < right["acc_norm"]]
        moved = doc * 1e-5
        yield _Row([-first - moved, -second - moved], lengths, {name: float(doc < right[name]) for name in metrics})


def _single_answers(perplexity: float, share: float, count: int) -> Iterator[_Row]:
    right = _documents(share, count)
    for doc in range(count):
        answer = -math.log(perplexity) + (doc - (count - 1) / 2) * 1e-6 if math.isfinite(perplexity) else -1.0
        yield _Row([answer], (5,), {"perplexity": answer, "acc": float(doc < right)}, greedy=doc < right)


def _line(doc: int, row: _Row) -> str:
    """A document's line of a log, put together by hand: sessions of the tests write millions of them."""
    answers, greedy = row.answers, "true" if row.greedy else "false"
    metrics = ", ".join([f'"{name}": {value!r}' for name, value in row.metrics.items()])
    return (
        f'{{"doc_id": {doc}, "doc_hash": "d{doc}", "prompt_hash": "p{doc}", "target_hash": "t{doc}", '
        f'"question_hash": "q{doc}", "target": {0 if len(answers) > 1 else "null"}, "loglikelihoods": {answers}, '
        f'"is_greedy": [{", ".join([greedy] * len(answers))}], "right": [0], "lengths": {list(row.lengths)}, '
        f'"metrics": {{{metrics}}}}}\n'
    )


def _documents(share: float, count: int) -> int:
    return round(share * count) if math.isfinite(share) else count // 2


def _made(rows: list[_Row], metric: str) -> float:
    mean = math.fsum(row.metrics[metric] for row in rows) / len(rows)
    return math.exp(-mean) if metric == "perplexity" else mean
