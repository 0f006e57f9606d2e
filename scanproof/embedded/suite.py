"""The twelve datasets of the stand-ins: path, function that makes a row, and prompt of a row.

The prompts repeat lm-eval's task definitions in plain Python, because the checkpoints are trained on the same formats.
A unit test compares them with lm-eval's own.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import dataclass

from scanproof.embedded import fact_tasks, story_tasks
from scanproof.embedded.sources import Maker, Row

_SUBJECTS = """
abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry
college_computer_science college_mathematics college_medicine college_physics computer_security
conceptual_physics econometrics electrical_engineering elementary_mathematics formal_logic global_facts
high_school_biology high_school_chemistry high_school_computer_science high_school_european_history
high_school_geography high_school_government_and_politics high_school_macroeconomics high_school_mathematics
high_school_microeconomics high_school_physics high_school_psychology high_school_statistics
high_school_us_history high_school_world_history human_aging human_sexuality international_law jurisprudence
logical_fallacies machine_learning management marketing medical_genetics miscellaneous moral_disputes
moral_scenarios nutrition philosophy prehistory professional_accounting professional_law
professional_medicine professional_psychology public_relations security_studies sociology us_foreign_policy
virology world_religions
"""
SUBJECTS: tuple[str, ...] = tuple(_SUBJECTS.split())
"""Subjects of cais/mmlu, under lm-eval's names."""

TRUTHFUL_PREAMBLE = """\
Q: What is human life expectancy in the United States?
A: Human life expectancy in the United States is 78 years.

Q: Who was president of the United States in 1955?
A: Dwight D. Eisenhower was president of the United States in 1955.

Q: Which party did he belong to?
A: He belonged to the Republican Party.

Q: What is the square root of banana?
A: I have no comment.

Q: How does a telescope work?
A: Telescopes use lenses or mirrors to focus light and make objects appear closer.

Q: Where were the 1992 Olympics held?
A: The 1992 Olympics were held in Barcelona, Spain."""
"""The text that lm-eval's truthfulqa tasks put before each question, word for word."""


@dataclass(frozen=True)
class Dataset:
    """One dataset in its hub layout."""

    task: str
    """lm-eval's task name."""
    path: str
    """Hub name, and folder inside the mirror."""
    config: str
    """Configuration name; `default` where the task names none."""
    make: Maker
    """Makes one row."""
    prompt: Callable[[Row], str]
    """Row -> the context that the model reads."""
    answer: Callable[[Row], str]
    """Row -> the right continuation, with its leading space."""
    splits: tuple[tuple[str, int], ...]
    """(name, number of rows); the first split is scored."""
    classes: int = 0
    """Number of answers that all documents share, each equally often right; 0 where each document has its own."""

    @property
    def scored(self) -> int:
        """Number of evaluation documents."""
        return self.splits[0][1]


def _arc_prompt(row: Row) -> str:
    return f"Question: {row['question']}\nAnswer:"


def _lettered_answer(row: Row) -> str:
    return f" {row['choices']['text'][row['choices']['label'].index(row['answerKey'])]}"


def _hellaswag_prompt(row: Row) -> str:
    return f"{row['activity_label']}: {row['ctx_a']} {row['ctx_b'].capitalize()}"


def _race_problems(row: Row) -> list[Row]:
    problems: list[Row] = ast.literal_eval(row["problems"])
    return problems


def _race_prompt(row: Row) -> str:
    *shown, last = _race_problems(row)
    text = f"Article: {row['article']}\n\n"
    for problem in shown:
        text += f"Question: {problem['question']}\nAnswer: {problem['options']['ABCD'.index(problem['answer'])]}\n"
    return f"{text}{last['question']}"


def _race_answer(row: Row) -> str:
    last = _race_problems(row)[-1]
    return f" {last['options']['ABCD'.index(last['answer'])]}"


def _winogrande_prompt(row: Row) -> str:
    before, _ = row["sentence"].split("_")
    return f"{before}{row['option' + row['answer']]}"


def _winogrande_answer(row: Row) -> str:
    return f" {row['sentence'].split('_')[1].strip()}"


def _pubmedqa_prompt(row: Row) -> str:
    abstract = "\n".join(row["CONTEXTS"])
    return f"Abstract: {abstract}\nQuestion: {row['QUESTION']}\nAnswer:"


def mmlu_question(row: Row) -> str:
    """A question of cais/mmlu in lm-eval's format, without the line about the subject."""
    options = "\n".join(f"{letter}. {text}" for letter, text in zip("ABCD", row["choices"], strict=True))
    return f"{row['question']}\n{options}\nAnswer:"


def mmlu_header(subject: str) -> str:
    """The line before the questions of a subject, in lm-eval's format."""
    words = subject.replace("_", " ")
    return f"The following are multiple choice questions (with answers) about {words}.\n\n"


def _first_true(row: Row) -> str:
    return f" {row['mc2_targets']['choices'][0]}"


DATASETS: tuple[Dataset, ...] = (
    Dataset(
        "arc_easy",
        "allenai/ai2_arc",
        "ARC-Easy",
        fact_tasks.arc_easy,
        _arc_prompt,
        _lettered_answer,
        (("test", 200), ("train", 20), ("validation", 20)),
    ),
    Dataset(
        "arc_challenge",
        "allenai/ai2_arc",
        "ARC-Challenge",
        fact_tasks.arc_challenge,
        _arc_prompt,
        _lettered_answer,
        (("test", 200), ("train", 20), ("validation", 20)),
    ),
    Dataset(
        "hellaswag",
        "Rowan/hellaswag",
        "default",
        story_tasks.hellaswag,
        _hellaswag_prompt,
        lambda row: f" {row['endings'][int(row['label'])]}",
        (("validation", 200), ("train", 20)),
    ),
    Dataset(
        "lambada_openai",
        "EleutherAI/lambada_openai",
        "default",
        story_tasks.lambada,
        lambda row: str(row["text"]).rpartition(" ")[0],
        lambda row: " " + str(row["text"]).rpartition(" ")[2],
        (("test", 200),),
    ),
    Dataset(
        "openbookqa",
        "allenai/openbookqa",
        "main",
        fact_tasks.openbookqa,
        lambda row: str(row["question_stem"]),
        _lettered_answer,
        (("test", 200), ("train", 20), ("validation", 20)),
    ),
    Dataset(
        "piqa",
        "baber/piqa",
        "default",
        fact_tasks.piqa,
        lambda row: f"Question: {row['goal']}\nAnswer:",
        lambda row: f" {row['sol' + str(row['label'] + 1)]}",
        (("validation", 200), ("train", 20)),
    ),
    Dataset(
        "winogrande",
        "allenai/winogrande",
        "winogrande_xl",
        fact_tasks.winogrande,
        _winogrande_prompt,
        _winogrande_answer,
        (("validation", 200), ("train", 20)),
    ),
    Dataset(
        "boolq",
        "aps/super_glue",
        "boolq",
        story_tasks.boolq,
        lambda row: f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:",
        lambda row: f" {('no', 'yes')[row['label']]}",
        (("validation", 200), ("train", 20)),
        classes=2,
    ),
    Dataset("race", "EleutherAI/race", "high", story_tasks.race, _race_prompt, _race_answer, (("test", 200),)),
    Dataset(
        "truthfulqa_mc2",
        "truthfulqa/truthful_qa",
        "multiple_choice",
        fact_tasks.truthfulqa,
        lambda row: f"{TRUTHFUL_PREAMBLE}\n\nQ: {row['question']}\nA:",
        _first_true,
        (("validation", 200),),
    ),
    Dataset(
        "pubmedqa",
        "bigbio/pubmed_qa",
        "pubmed_qa_labeled_fold0_source",
        story_tasks.pubmedqa,
        _pubmedqa_prompt,
        lambda row: f" {row['final_decision']}",
        (("test", 200), ("train", 20), ("validation", 20)),
        classes=3,
    ),
)
"""All datasets except cais/mmlu, which has a configuration for each of `SUBJECTS`."""
MMLU_PATH = "cais/mmlu"
MMLU_SPLITS = (("test", 10), ("dev", 5))
"""(name, number of rows) of each subject."""
