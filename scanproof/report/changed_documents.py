"""Find the documents of a number whose scores differ from another run, with the texts that the model was given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from scanproof.evaluation import results, store
from scanproof.history.compare import flips_of
from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict import baseline_gate
from scanproof.numbers.verdict.answers import Samples
from scanproof.numbers.verdict.baseline_gate import Baseline
from scanproof.numbers.verdict.rounding import FLOAT32_CEILING
from scanproof.report.content import ChangedDocument, ChangedDocuments

MOST_SAMPLES = 12
"""Documents that are shown of one number."""
MOST_CHARACTERS = 2_000
"""Characters of a prompt that are shown: its end, which holds the question.  A choice may have a quarter of this."""
ALL_CHARACTERS = 1_200_000
"""Characters of all texts of a page together."""
LEFT_OUT = "[…] "
"""Stands for the beginning of a text that was cut."""


@dataclass
class Texts:
    """Reads the texts that the models were given, when they are needed and as long as the page has room."""

    folder: Path | None
    """The run's folder; None for a run of a history, which keeps no texts."""
    room: int = ALL_CHARACTERS
    """Characters that may still be shown."""
    left_out: int = 0
    """How many documents had texts that found no room."""
    unreadable: list[str] = field(default_factory=list)
    """Files that could not be read, with the reasons."""
    lines_by_file: dict[Path, dict[int, dict[str, Any]]] = field(default_factory=dict)

    def find(self, job: str, task: str, doc: int) -> tuple[str | None, tuple[str, ...] | None]:
        """Prompt and choices of a document, shortened; None where they were not kept or there is no room."""
        line = self.read_lines(job, task).get(doc)
        if line is None:
            return None, None
        prompts, choices = line["prompts"], line["choices"]
        prompt = cut_to_end("\n\n".join(dict.fromkeys(prompts)), MOST_CHARACTERS)
        choices = tuple(cut_to_end(choice, MOST_CHARACTERS // 4) for choice in choices)
        size = len(prompt) + sum(map(len, choices))
        if size > self.room:
            self.left_out += 1
            return None, None
        self.room -= size
        return prompt, choices

    def read_lines(self, job: str, task: str) -> Mapping[int, dict[str, Any]]:
        """The texts of a task's documents: doc_id -> line."""
        if self.folder is None:
            return {}
        path = self.folder / "samples" / job / f"{task}{store.TEXTS}"
        if path not in self.lines_by_file:
            try:
                self.lines_by_file[path] = results.read_texts(path) if path.is_file() else {}
            except (OSError, ValueError) as error:
                self.lines_by_file[path] = {}
                self.unreadable.append(f"{path}: the texts cannot be read: {error}")
        return self.lines_by_file[path]


def cut_to_end(text: str, most: int) -> str:
    """The last characters of a text, at most `most`."""
    # JSON may contain a single surrogate, which cannot be encoded in a file.
    text = text.encode("utf-8", "replace").decode()
    return text if len(text) <= most else LEFT_OUT + text[-most:]


def find_changed_documents(
    value: PublishedValue, samples: Samples, baseline: Baseline, texts: Texts
) -> ChangedDocuments:
    """The documents of a number whose scores differ from the baseline; the largest differences come first."""
    leaves = baseline_gate.list_tasks(value)
    pairs, reasons = baseline_gate.pair_tasks(baseline, samples, value.job.name, [task for task, _ in leaves])
    if not reasons:
        missing = [
            baseline_gate.explain_missing_metric(pair, metric) for pair, (_, metric) in zip(pairs, leaves, strict=True)
        ]
        reasons = [reason for reason in missing if reason]
    if reasons:
        return no_comparison(reasons[0], baseline.name)
    all_rows = [row for pair, (_, metric) in zip(pairs, leaves, strict=True) for row in changed_rows(pair, metric)]
    # Rounding moves the log-likelihoods of equal runs, and their masses by less.
    ceiling = FLOAT32_CEILING if baseline.ceiling is None else baseline.ceiling
    rows = [row for row in all_rows if row["moved"] > ceiling]
    rows.sort(key=lambda row: -row["moved"])
    return ChangedDocuments(
        compared_with=baseline.name,
        changed=len(rows),
        gained=sum((row["score_now"] or 0) > (row["score_before"] or 0) for row in rows),
        lost=sum((row["score_now"] or 0) < (row["score_before"] or 0) for row in rows),
        shown=tuple(describe_document(row, value.job.name, texts) for row in rows[:MOST_SAMPLES]),
        because=None,
    )


def no_comparison(because: str, compared_with: str | None = None) -> ChangedDocuments:
    """The result where nothing could be compared; `because` says why."""
    return ChangedDocuments(compared_with=compared_with, changed=0, gained=0, lost=0, shown=(), because=because)


def changed_rows(pair: baseline_gate.TaskPair, metric: str) -> list[dict[str, Any]]:
    """The changed documents of one task, each with its target and with how much its score moved."""
    targets = dict(zip(pair.now.doc_ids, pair.now.targets, strict=True))
    return [
        {**row, "target": targets[row["doc_id"]], "moved": abs((row["score_now"] or 0) - (row["score_before"] or 0))}
        for row in flips_of(pair, metric)
    ]


def describe_document(row: Mapping[str, Any], job: str, texts: Texts) -> ChangedDocument:
    """A changed document with its texts."""
    prompt, choices = texts.find(job, row["task"], row["doc_id"])
    return ChangedDocument(
        task=row["task"],
        doc_id=row["doc_id"],
        target=row["target"],
        before=row["score_before"],
        now=row["score_now"],
        loglikelihoods_before=round_all(row["loglikelihoods_before"]),
        loglikelihoods_now=round_all(row["loglikelihoods_now"]),
        prompt=prompt,
        choices=choices,
    )


def round_all(values: Sequence[float]) -> tuple[float, ...]:
    """Round log-likelihoods to four digits after the point."""
    return tuple(round(value, 4) for value in values)
