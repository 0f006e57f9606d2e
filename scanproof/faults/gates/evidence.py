"""Faults of the evidence: recorded answers, expected values, stores and caches.

Most begin with the evaluation of the right checkpoint, and their sessions would pass without the fault.  The others
begin with that of a spoiled one, which is CHANGED as long as the evidence is used; neither printed number sees it.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from scanproof.faults.gates import file_changes as change
from scanproof.faults.gates.checkpoints import SPOILED, SPOILED_WEIGHTS
from scanproof.faults.gates.endings import (
    OTHER_AGGREGATE,
    OTHER_ANSWERS,
    OTHER_PROMPTS,
    OUT_OF_TOLERANCE,
    Ending,
    error,
    not_compared,
    usage_error,
)
from scanproof.faults.gates.file_changes import Row
from scanproof.faults.gates.gate_fault import (
    REUSING,
    STRICT,
    Before,
    Edit,
    FolderChange,
    GateFault,
    Remove,
    Write,
    after_a_session,
)
from scanproof.faults.gates.gate_session import JOB, MODEL

ANSWERS = f"expected/embedded/{MODEL}.answers.jsonl.gz"
STORED = "store/[0-9a-f][0-9a-f]/*"
UNREADABLE = not_compared(r"answers\.jsonl\.gz: answers cannot be read")
NO_LINES = not_compared(r"answers\.jsonl\.gz: it holds no answers")
NOT_THOSE_MEASURED = not_compared("what rounding may move was measured for other answers")
NOT_THERE = not_compared(r"answers\.jsonl\.gz is not there")


def of_answers(name: str, what: str, *changes: FolderChange, ending: Ending) -> GateFault:
    """A fault of the recorded answers."""
    return GateFault(name, "answers", what, changes, ending, options=REUSING, before=Before.KEPT_CLEAN, reuses=True)


def of_values(name: str, what: str, path: str, planted: change.BytesChange, ending: Ending) -> GateFault:
    """A fault of the expected values."""
    return GateFault(
        name, "expected values", what, (Edit(path, planted),), ending, options=REUSING, before=Before.KEPT_CLEAN
    )


def of_store(
    name: str,
    area: str,
    what: str,
    *changes: FolderChange,
    ending: Ending,
    reuses: bool | None,
    options: tuple[str, ...] = REUSING,
) -> GateFault:
    """A fault of the store or its caches."""
    before = Before.KEPT_SPOILED if ending is SPOILED else Before.KEPT_CLEAN
    return GateFault(name, area, what, changes, ending, options=options, before=before, reuses=reuses)


def without_first_piqa(row: Row) -> Row | None:
    """All lines but that of one document."""
    return None if (row["task"], row["doc_id"]) == ("piqa", 0) else row


def with_nan(row: Row) -> Row:
    """A line whose answers are NaN."""
    return {**row, "loglikelihoods": ["nan" for _ in row["loglikelihoods"]]}


def with_other_prompt(row: Row) -> Row:
    """A line of another prompt."""
    return {**row, "prompt_hash": "0" * 64, "question_hash": "0" * 64}


def with_infinity(row: Row) -> Row:
    """A line with an answer that is certain not to be given."""
    return {**row, "loglikelihoods": [float("-inf"), *row["loglikelihoods"][1:]]}


def without_answers(row: Row) -> Row:
    """A line without answers."""
    return {**row, "loglikelihoods": []}


def raise_accuracy(content: bytes) -> bytes:
    """Measurements whose accuracy is 0.005 higher, one document of 200."""

    def raise_values(told: dict[str, list[Row]]) -> dict[str, list[Row]]:
        return {"measurements": [{**row, "value": float(row["value"]) + 0.005} for row in told["measurements"]]}

    return change.change_json(raise_values)(content)


def make_certain(content: bytes) -> bytes:
    """Logged answers that are all 1% nearer to zero."""

    def change_line(row: Row) -> Row:
        return {**row, "loglikelihoods": [float(value) * 0.99 for value in row["loglikelihoods"]]}

    return change.change_lines(lambda lines: [json.dumps(change_line(json.loads(line))) for line in lines])(content)


class SignAgain(FolderChange):
    """Writes the checksums of the stored evaluations again, as one does who forges them."""

    def apply(self, folder: Path, variables: dict[str, str]) -> None:
        for path in folder.glob(f"{STORED}/checksums.json"):
            present = [name for name in json.loads(path.read_bytes()) if (path.parent / name).is_file()]
            made = {name: hashlib.sha256((path.parent / name).read_bytes()).hexdigest() for name in present}
            path.write_text(json.dumps(made))


FAULTS = (
    of_answers("answers_removed", "The recorded answers are gone.", Remove(ANSWERS), ending=NOT_THERE),
    of_answers("answers_cut", "Their file ends in its middle.", Edit(ANSWERS, change.cut), ending=UNREADABLE),
    of_answers("answers_emptied", "Their file is empty.", Edit(ANSWERS, lambda _: b""), ending=NO_LINES),
    of_answers(
        "answers_without_lines",
        "They hold no line.",
        Edit(ANSWERS, change.inside_gzip(lambda _: b"")),
        ending=NO_LINES,
    ),
    of_answers(
        "answers_without_tokens",
        "Their first line does not say which tokens a text becomes.",
        Edit(
            ANSWERS, change.inside_gzip(change.replace_text('"probe_tokens": \\[[0-9, ]*\\]', '"probe_tokens": null'))
        ),
        ending=not_compared("it does not say which tokens a fixed text became"),
    ),
    of_answers("answers_bit", "One bit of their file is flipped.", Edit(ANSWERS, change.flip_bit), ending=UNREADABLE),
    of_answers("answers_are_text", "Their file is no gzip.", Edit(ANSWERS, lambda _: b"answers\n"), ending=UNREADABLE),
    of_answers(
        "answers_of_a_task_gone",
        "The task has none.",
        Edit(ANSWERS, change.change_answers(lambda row: None if row["task"] == "piqa" else row)),
        ending=NOT_THOSE_MEASURED,
    ),
    of_answers(
        "answers_of_a_document_gone",
        "One document has none.",
        Edit(ANSWERS, change.change_answers(without_first_piqa)),
        ending=NOT_THOSE_MEASURED,
    ),
    of_answers(
        "answers_recorded_as_nan",
        "All of them are NaN.",
        Edit(ANSWERS, change.change_answers(with_nan)),
        ending=NOT_THOSE_MEASURED,
    ),
    of_answers(
        "answers_recorded_infinite",
        "Each document's first is minus infinity.",
        Edit(ANSWERS, change.change_answers(with_infinity)),
        ending=NOT_THOSE_MEASURED,
    ),
    of_answers(
        "answers_recorded_empty",
        "All documents have an empty list.",
        Edit(ANSWERS, change.change_answers(without_answers)),
        ending=NOT_THOSE_MEASURED,
    ),
    of_answers(
        "answers_to_other_prompts",
        "They are to other prompts.",
        Edit(ANSWERS, change.change_answers(with_other_prompt)),
        ending=OTHER_PROMPTS,
    ),
    of_answers(
        "answers_are_a_folder",
        "Their file is a folder.",
        Remove(ANSWERS),
        Write(f"{ANSWERS}/file", ""),
        ending=NOT_THERE,
    ),
    of_values(
        "no_false_alarm_ever",
        "The rate of false alarms is 1e-300.",
        "expected/tolerance.yaml",
        change.replace_text("^false_alarm_rate: .*", "false_alarm_rate: 1.0e-300"),
        usage_error(r"expected/tolerance\.yaml:\d+: false_alarm_rate: is 1e-300"),
    ),
    of_values(
        "widened_without_end",
        "A number is widened by 1e308.",
        JOB,
        change.replace_text("(task: piqa, metric: acc, .*)}", r'\1, widened: {by: 1e308, reason: "none"}}'),
        usage_error(r"mamba1-tiny\.yaml:\d+: values\.\d+\.widened\.by: is"),
    ),
    of_values(
        "printed_nan",
        "A printed number is `nan`.",
        JOB,
        change.replace_text('(task: piqa, metric: acc, .*printed: ")[0-9.]+', r"\1nan"),
        usage_error(r"mamba1-tiny\.yaml:\d+: values\.\d+\.printed: is 'nan'"),
    ),
    of_values(
        "documents_few",
        "A number claims to be of one document.",
        JOB,
        change.replace_text("(task: piqa, .*documents: )[0-9]+", r"\g<1>1"),
        error("200 documents were scored, 1 expected"),
    ),
    of_values(
        "number_gone",
        "A number's line is gone.",
        JOB,
        change.replace_text(r"^  - {task: piqa, metric: acc_norm,.*\n", ""),
        usage_error(r"document\.yaml:\d+: numbers: is \d+, but the files of this document hold \d+"),
    ),
    of_values(
        "printed_one_off",
        "A printed number is another.",
        JOB,
        change.replace_text(r'(task: piqa, metric: acc, .*printed: "0\.)[0-9]', r"\g<1>3"),
        OUT_OF_TOLERANCE,
    ),
    of_values(
        "printed_one_document_off",
        "A printed number is one document higher.",
        JOB,
        change.replace_text('(task: piqa, metric: acc, .*printed: ")0.7900', r"\g<1>0.7950"),
        not_compared(r"mamba1-tiny\.yaml:\d+: printed: 0\.7950 is expected of piqa acc, but the answers recorded with"),
    ),
    of_store(
        "stored_value",
        "stores",
        "A stored number is 0.005 higher, and signed.",
        Edit(f"{STORED}/results.json", raise_accuracy),
        SignAgain(),
        ending=OTHER_AGGREGATE,
        reuses=True,
    ),
    of_store(
        "stored_answers",
        "stores",
        "Stored answers are 1% nearer to zero, and signed.",
        Edit(f"{STORED}/samples/piqa.jsonl", make_certain),
        SignAgain(),
        ending=OTHER_ANSWERS,
        reuses=True,
    ),
    of_store(
        "stored_samples_gone",
        "stores",
        "A stored evaluation has lost its answers, and is signed.",
        Remove(f"{STORED}/samples"),
        SignAgain(),
        ending=error(r"samples: piqa\.jsonl: missing"),
        reuses=None,
    ),
    of_store(
        "stored_line_gone",
        "stores",
        "Stored answers lack a document, and are signed.",
        Edit(f"{STORED}/samples/piqa.jsonl", change.without_line(3)),
        SignAgain(),
        ending=error(r"samples: piqa\.jsonl: doc_id: not every document from 0 to 198 once"),
        reuses=None,
    ),
    of_store(
        "stored_entry_damaged",
        "stores",
        "A stored evaluation is damaged.",
        Edit(f"{STORED}/results.json", raise_accuracy),
        ending=SPOILED,
        reuses=False,
    ),
    of_store(
        "forged_and_not_asked_for",
        "stores",
        "A forged evaluation lies in the store, and nothing is to be reused.",
        Edit(f"{STORED}/results.json", raise_accuracy),
        SignAgain(),
        ending=SPOILED,
        reuses=False,
        options=STRICT,
    ),
    after_a_session(
        "index_of_tasks_broken",
        "caches",
        "After a session the index of task files is a list, and the weights change.",
        Edit("store/cache/**/tasks-*.json", lambda _: b"[]"),
        SPOILED_WEIGHTS,
        ending=SPOILED,
    ),
    of_store(
        "digests_broken",
        "caches",
        "The database of digests is garbage.",
        Edit("store/cache/hashes.sqlite", lambda _: b"garbage" * 999),
        ending=SPOILED,
        reuses=True,
    ),
    of_store(
        "latest_broken",
        "caches",
        "The file of the last evaluation is a number.",
        Edit("store/latest/*.json", lambda _: b"3"),
        ending=SPOILED,
        reuses=True,
    ),
)
