"""The documents of a number that are scored otherwise than in another run, with what the model was asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scanproof.evaluation import results, store
from scanproof.history.compare import flips_of
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict import baseline_gate
from scanproof.numbers.verdict.answers import Samples as Answers
from scanproof.numbers.verdict.baseline_gate import Baseline
from scanproof.numbers.verdict.rounding import FLOAT32_CEILING
from scanproof.report.content import Sample, Samples

MOST_SAMPLES = 12
"""Documents shown of one number."""
MOST_CHARACTERS = 2_000
"""Of one prompt: its end, where the question stands; a choice has a quarter of it."""
ALL_CHARACTERS = 1_200_000
"""Of all texts of a page together."""
LEFT_OUT = "[…] "


@dataclass
class Texts:
    """What the models were asked, read where it is needed and as far as the page has room."""

    folder: Path | None
    """The run's folder; None where the run lies in a history, which keeps no texts."""
    room: int = ALL_CHARACTERS
    left_out: int = 0
    """Documents whose texts had no room."""
    unreadable: list[str] = field(default_factory=list)
    read: dict[Path, dict[int, dict[str, Any]]] = field(default_factory=dict)

    def of(self, job: str, task: str, doc: int) -> tuple[str | None, tuple[str, ...] | None]:
        """Prompt and choices of a document, shortened; nothing where they were not kept."""
        line = self.lines(job, task).get(doc)
        if line is None:
            return None, None
        prompts, choices = line["prompts"], line["choices"]
        prompt = end_of("\n\n".join(dict.fromkeys(prompts)), MOST_CHARACTERS)
        choices = tuple(end_of(choice, MOST_CHARACTERS // 4) for choice in choices)
        size = len(prompt) + sum(map(len, choices))
        if size > self.room:
            self.left_out += 1
            return None, None
        self.room -= size
        return prompt, choices

    def lines(self, job: str, task: str) -> Mapping[int, dict[str, Any]]:
        """Every document's texts of a task."""
        if self.folder is None:
            return {}
        path = self.folder / "samples" / job / f"{task}{store.TEXTS}"
        if path not in self.read:
            try:
                self.read[path] = results.read_texts(path) if path.is_file() else {}
            except (OSError, EOFError, ValueError, KeyError) as error:
                self.read[path] = {}
                self.unreadable.append(f"{path}: the texts cannot be read: {error}")
        return self.read[path]


def end_of(text: str, most: int) -> str:
    """The last characters of a text."""
    # JSON may hold half of a pair of surrogates, which no file can.
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= most else LEFT_OUT + text[-most:]


def changed(value: PublishedValue, samples: Answers, baseline: Baseline, texts: Texts) -> Samples:
    """The documents of a number that are not as in the baseline, those first that moved most."""
    leaves = baseline_gate.list_tasks(value)
    pairs, reasons = baseline_gate.pair_tasks(baseline, samples, value.job.name, [task for task, _ in leaves])
    if not reasons:
        found = [
            baseline_gate.explain_missing_metric(each, metric) for each, (_, metric) in zip(pairs, leaves, strict=True)
        ]
        reasons = [reason for reason in found if reason]
    if reasons:
        return nothing(reasons[0], baseline.name)
    found_rows = [row for each, (_, metric) in zip(pairs, leaves, strict=True) for row in rows_of(each, metric)]
    # Rounding moves the log-likelihoods of equal runs, and their masses by less.
    rows = [row for row in found_rows if row["moved"] >= FLOAT32_CEILING]
    rows.sort(key=lambda row: -row["moved"])
    return Samples(
        compared_with=baseline.name,
        changed=len(rows),
        gained=sum((row["score_now"] or 0) > (row["score_before"] or 0) for row in rows),
        lost=sum((row["score_now"] or 0) < (row["score_before"] or 0) for row in rows),
        shown=tuple(sample(row, value.job.name, texts) for row in rows[:MOST_SAMPLES]),
        because=None,
    )


def nothing(because: str, compared_with: str | None = None) -> Samples:
    """No comparison, and why."""
    return Samples(compared_with=compared_with, changed=0, gained=0, lost=0, shown=(), because=because)


def rows_of(each: baseline_gate.TaskPair, metric: str) -> list[dict[str, Any]]:
    """One task's changed documents, each with its target and by how much it moved."""
    targets = dict(zip(each.now.doc_ids, each.now.targets, strict=True))
    return [
        {**row, "target": targets[row["doc_id"]], "moved": abs((row["score_now"] or 0) - (row["score_before"] or 0))}
        for row in flips_of(each, metric)
    ]


def sample(row: Mapping[str, Any], job: str, texts: Texts) -> Sample:
    """A changed document with its texts."""
    prompt, choices = texts.of(job, row["task"], row["doc_id"])
    return Sample(
        task=row["task"],
        doc_id=row["doc_id"],
        target=row["target"],
        before=row["score_before"],
        now=row["score_now"],
        loglikelihoods_before=digits(row["loglikelihoods_before"]),
        loglikelihoods_now=digits(row["loglikelihoods_now"]),
        prompt=prompt,
        choices=choices,
    )


def digits(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(round(value, 4) for value in values)
