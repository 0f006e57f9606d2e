"""Log-likelihoods of the embedded tasks, through the production code and by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scanproof.embedded import MIRROR
from scanproof.embedded.suite import DATASETS
from scanproof.record import Evaluation

TASKS = tuple(sorted(dataset.task for dataset in DATASETS))
CHECKED = ("arc_easy", "lambada_openai", "openbookqa", "piqa")
"""Tasks whose right answer `right_answers` scores by hand."""


def copy_datasets(mirror: Path) -> Path:
    """Put the embedded datasets, without the checkpoints, into a new mirror."""
    shutil.copytree(MIRROR, mirror, ignore=shutil.ignore_patterns("scanproof"))
    return mirror


def measured(evaluation: Evaluation, task: str) -> list[float]:
    """Log-likelihood of the right answer of each document that was scored."""
    lines = (Path(evaluation.samples) / f"{task}.jsonl").read_text().splitlines()
    samples = sorted((json.loads(line) for line in lines), key=lambda sample: int(sample["doc_id"]))
    return [float(sample["loglikelihoods"][sample["target"] or 0]) for sample in samples]


def right_answers(task: str, documents: int, encode: Callable[[str], list[int]], logits: Callable[[Any], Any]) -> Any:
    """The same by hand: sum of log-probabilities of the continuation's tokens, from `logits` of ids (1, l)."""
    import torch

    dataset = next(dataset for dataset in DATASETS if dataset.task == task)
    (path,) = (MIRROR / dataset.path / dataset.config).glob(f"{dataset.splits[0][0]}*")
    rows = [json.loads(line) for line in path.read_text().splitlines()[:documents]]
    found = []
    for row in rows:
        context, whole = dataset.prompt(row), dataset.prompt(row) + dataset.answer(row)
        ids = encode(whole)
        start = len(encode(context))
        scores = logits(torch.tensor([ids]))[0].log_softmax(-1)
        found.append(sum(float(scores[place - 1, ids[place]]) for place in range(start, len(ids))))
    return found
