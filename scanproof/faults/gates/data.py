"""Faults of what is asked from: datasets, and definitions of tasks."""

from __future__ import annotations

from scanproof.faults.gates import file_changes as change
from scanproof.faults.gates.endings import OTHER_DOCUMENTS, OTHER_PROMPTS, OUT_OF_TOLERANCE, Ending, error
from scanproof.faults.gates.gate_fault import Copy, Edit, FolderChange, GateFault, Remove, after_a_session
from scanproof.faults.gates.harness import MMLU

PIQA = "mirror/baber/piqa/default/validation.jsonl"
SUBJECT = "mirror/cais/mmlu/philosophy"


def in_dataset(name: str, what: str, planted: FolderChange, ending: Ending, numbers: str = "piqa") -> GateFault:
    """A fault of a dataset."""
    return GateFault(name, "datasets", what, (planted,), ending, numbers)


def in_task_file(
    name: str, area: str, what: str, path: str, planted: change.BytesChange, ending: Ending, numbers: str = "piqa"
) -> GateFault:
    """A fault of a task's definition, in a copy of lm-eval that is imported first."""
    return GateFault(name, area, what, (Edit(f"packages/lm_eval/tasks/{path}", planted),), ending, numbers)


def of_other_count(documents: int) -> Ending:
    """Another number of piqa's documents than the number was printed for."""
    return error(f"{documents} documents were scored, 200 expected")


FAULTS = (
    in_dataset("row_gone", "A row is gone.", Edit(PIQA, change.without_line(3)), of_other_count(199)),
    in_dataset("row_twice", "A row stands there twice.", Edit(PIQA, change.with_line_twice(3)), of_other_count(201)),
    in_dataset(
        "row_in_place_of_another",
        "A row stands in place of another.",
        Edit(PIQA, change.with_line_in_place_of(3, 9)),
        OTHER_DOCUMENTS,
    ),
    in_dataset(
        "rows_in_reverse",
        "The rows are in reverse.",
        Edit(PIQA, change.change_lines(lambda rows: rows[::-1])),
        OTHER_DOCUMENTS,
    ),
    in_dataset(
        "dataset_empty",
        "The file of documents is empty.",
        Edit(PIQA, lambda _: b""),
        error("lm-eval cannot load piqa: StopIteration"),
    ),
    in_dataset(
        "dataset_cut",
        "The file of documents ends in its middle.",
        Edit(PIQA, change.cut),
        error("lm-eval cannot load piqa: DatasetGenerationError"),
    ),
    in_dataset(
        "word_in_one_question",
        "One question has another word.",
        Edit(PIQA, change.change_row(3, lambda row: {**row, "goal": "So " + row["goal"]})),
        OTHER_DOCUMENTS,
    ),
    in_dataset(
        "one_label",
        "One document has another right answer.",
        Edit(PIQA, change.change_row(3, lambda row: {**row, "label": 1 - row["label"]})),
        OTHER_DOCUMENTS,
    ),
    in_dataset(
        "one_choice",
        "One document has another wrong answer.",
        Edit(PIQA, change.change_row(3, lambda row: {**row, f"sol{2 - row['label']}": "Wait for it."})),
        OTHER_DOCUMENTS,
    ),
    in_dataset(
        "row_gone_of_a_subject",
        "A row of a subject is gone.",
        Edit(f"{SUBJECT}/test.jsonl", change.without_line(3)),
        error("129 documents were scored, 130 expected"),
        MMLU,
    ),
    in_dataset("subject_missing", "A subject's folder is gone.", Remove(SUBJECT), error("philosophy"), MMLU),
    in_dataset(
        "subject_of_another",
        "A subject has the documents of another.",
        Copy("mirror/cais/mmlu/prehistory/test.jsonl", f"{SUBJECT}/test.jsonl"),
        OTHER_DOCUMENTS,
        MMLU,
    ),
    in_dataset("dataset_missing", "The dataset's folder is gone.", Remove("mirror/baber/piqa"), error("baber/piqa")),
    in_dataset(
        "examples_gone",
        "The examples of a subject lack a row.",
        Edit(f"{SUBJECT}/dev.jsonl", change.without_line(0)),
        error("number of fewshot samples requested exceeds the 4 that are available"),
        MMLU,
    ),
    in_dataset(
        "example_in_place_of_another",
        "An example of a subject stands in place of another.",
        Edit(f"{SUBJECT}/dev.jsonl", change.with_line_in_place_of(3, 0)),
        OTHER_PROMPTS,
        MMLU,
    ),
    in_task_file(
        "task_of_other_words",
        "prompts",
        "The installed task says `Reply:`.",
        "piqa/piqa.yaml",
        change.replace_text("Answer:", "Reply:"),
        OUT_OF_TOLERANCE,
    ),
    in_task_file(
        "task_of_other_split",
        "datasets",
        "The installed task asks the training split.",
        "piqa/piqa.yaml",
        change.replace_text("validation_split: validation", "validation_split: train"),
        of_other_count(20),
    ),
    in_task_file(
        "task_without_delimiter",
        "delimiters",
        "The installed task has no target delimiter.",
        "piqa/piqa.yaml",
        change.replace_text("output_type", 'target_delimiter: ""\noutput_type'),
        OUT_OF_TOLERANCE,
    ),
    in_task_file(
        "task_of_other_sampler",
        "few-shot",
        "The installed task draws its examples.",
        "mmlu/default/_default_template_yaml",
        change.replace_text("sampler: first_n", "sampler: default"),
        OTHER_PROMPTS,
        MMLU,
    ),
    after_a_session(
        "stale_dataset_cache",
        "caches",
        "After a session one label changes, size and times of the file stay.",
        Edit(PIQA, change.replace_text('"label": 0', '"label": 1', count=1), keeps_size_and_time=True),
        ending=OTHER_DOCUMENTS,
    ),
)
