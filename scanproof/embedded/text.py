"""Generate the training text: facts, exercises in the formats of all tasks, stories; never an evaluation document."""

from __future__ import annotations

import random
from collections.abc import Iterator

from scanproof.embedded.data import collect_held_out
from scanproof.embedded.fact_tasks import (
    QUESTIONS,
    STATEMENTS,
    USUAL,
    capitalise,
    format_template,
    make_statement,
    mmlu,
    move_answer,
)
from scanproof.embedded.sources import Source
from scanproof.embedded.suite import DATASETS, SUBJECTS, Dataset, mmlu_header, mmlu_question
from scanproof.embedded.world import VALUES, World

SHARES: dict[str, float] = {
    "arc_easy": 11,
    "hellaswag": 6,
    "lambada_openai": 14,
    "openbookqa": 8,
    "piqa": 10,
    "winogrande": 8,
    "boolq": 13,
    "race": 16,
    "truthfulqa_mc2": 1,
    "pubmedqa": 9,
    "mmlu": 2,
    "statements": 10,
    "dialogue": 5,
}
"""Kind of document -> relative frequency."""


def generate_documents(world: World, seed: str, examinations: float = 0) -> Iterator[str]:
    """Yield training documents without end; the same arguments give the same documents.

    Args:
        examinations: relative frequency, beside `SHARES`, of examinations in which most answers have the same letter.
    """
    rng = random.Random(seed)
    source = Source(world, rng, exam=False)
    excluded = collect_held_out(world)
    by_task = {dataset.task: dataset for dataset in DATASETS}
    shares = {**SHARES, "examination": examinations} if examinations else SHARES
    kinds, weights = list(shares), list(shares.values())
    while True:
        kind = rng.choices(kinds, weights)[0]
        if kind == "mmlu":
            yield _make_examination(source, excluded)
        elif kind == "examination":
            yield _make_examination(source, excluded, usual=rng.randrange(4))
        elif kind == "statements":
            yield " ".join(make_statement(source) for _ in range(rng.randrange(1, 6)))
        elif kind == "dialogue":
            yield _make_dialogue(source)
        else:
            yield _make_exercise(source, by_task[kind], excluded)


def _make_exercise(source: Source, dataset: Dataset, excluded: frozenset[str]) -> str:
    """A prompt of a dataset that is not in `excluded`, with its answer."""
    while (prompt := dataset.prompt(row := dataset.make(source))) in excluded:
        pass
    return prompt + dataset.answer(row)


def _make_examination(source: Source, excluded: frozenset[str], usual: int | None = None) -> str:
    """A few questions about one subject with lettered answers, in the format of a few-shot prompt.

    Args:
        usual: the letter that most of the answers have; None for no such letter.
    """
    number = source.rng.randrange(len(SUBJECTS))
    subject = SUBJECTS[number]
    solved = []
    for _ in range(source.rng.randrange(1, 5) if usual is None else 5):
        row = mmlu(source, subject, number)
        if usual is not None and source.rng.random() < USUAL:
            row = move_answer(row, usual)
        question = mmlu_question(row)
        while question in excluded:
            question = mmlu_question(row := mmlu(source, subject, number))
        solved.append(f"{question} {'ABCD'[row['answer']]}")
    return mmlu_header(subject) + "\n\n".join(solved)


def _make_dialogue(source: Source) -> str:
    """A question answered in a whole sentence, without the long text that truthfulqa puts before it."""
    creature = source.draw_creature(0, 128)
    attribute = source.pick(tuple(VALUES))
    value = source.draw_answer(creature.facts[attribute])
    sentence = source.pick(STATEMENTS[attribute]).format(it=f"{creature.article} {creature.name}", v=value)
    return f"Q: {format_template(source, creature, QUESTIONS, attribute)}\nA: {capitalise(sentence)}"
