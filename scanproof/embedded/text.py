"""The training text: facts, exercises in the formats of all tasks, stories.  Never an evaluation document."""

from __future__ import annotations

import random
from collections.abc import Iterator

from scanproof.embedded.data import collect_held_out
from scanproof.embedded.fact_tasks import QUESTIONS, STATEMENTS, capitalise, format_template, make_statement, mmlu
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
"""Relative numbers of documents of each kind."""


def generate_documents(world: World, seed: str) -> Iterator[str]:
    """Endless training documents."""
    rng = random.Random(seed)
    source = Source(world, rng, exam=False)
    secret = collect_held_out(world)
    by_task = {dataset.task: dataset for dataset in DATASETS}
    kinds, weights = list(SHARES), list(SHARES.values())
    while True:
        kind = rng.choices(kinds, weights)[0]
        if kind == "mmlu":
            yield _make_examination(source, secret)
        elif kind == "statements":
            yield " ".join(make_statement(source) for _ in range(rng.randrange(1, 6)))
        elif kind == "dialogue":
            yield _make_dialogue(source)
        else:
            yield _make_exercise(source, by_task[kind], secret)


def _make_exercise(source: Source, dataset: Dataset, secret: frozenset[str]) -> str:
    while (prompt := dataset.prompt(row := dataset.make(source))) in secret:
        pass
    return prompt + dataset.answer(row)


def _make_examination(source: Source, secret: frozenset[str]) -> str:
    """A few questions on one subject with lettered answers, as a few-shot prompt shows them."""
    number = source.rng.randrange(len(SUBJECTS))
    subject = SUBJECTS[number]
    solved = []
    for _ in range(source.rng.randrange(1, 5)):
        while (question := mmlu_question(row := mmlu(source, subject, number))) in secret:
            pass
        solved.append(f"{question} {'ABCD'[row['answer']]}")
    return mmlu_header(subject) + "\n\n".join(solved)


def _make_dialogue(source: Source) -> str:
    """Questions answered in whole sentences, without the long preamble that truthfulqa puts before them."""
    creature = source.draw_creature(0, 128)
    attribute = source.pick(tuple(VALUES))
    value = source.draw_answer(creature.facts[attribute])
    said = source.pick(STATEMENTS[attribute]).format(it=f"{creature.article} {creature.name}", v=value)
    return f"Q: {format_template(source, creature, QUESTIONS, attribute)}\nA: {capitalise(said)}"
