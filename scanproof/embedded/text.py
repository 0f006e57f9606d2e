"""Generate the training text: facts, exercises in the formats of all tasks, stories; never an evaluation document."""

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
"""Kind of document -> relative frequency."""


def generate_documents(world: World, seed: str) -> Iterator[str]:
    """Yield training documents without end; the same world and seed give the same documents."""
    rng = random.Random(seed)
    source = Source(world, rng, exam=False)
    excluded = collect_held_out(world)
    by_task = {dataset.task: dataset for dataset in DATASETS}
    kinds, weights = list(SHARES), list(SHARES.values())
    while True:
        kind = rng.choices(kinds, weights)[0]
        if kind == "mmlu":
            yield _make_examination(source, excluded)
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


def _make_examination(source: Source, excluded: frozenset[str]) -> str:
    """A few questions about one subject with lettered answers, in the format of a few-shot prompt."""
    number = source.rng.randrange(len(SUBJECTS))
    subject = SUBJECTS[number]
    solved = []
    for _ in range(source.rng.randrange(1, 5)):
        while (question := mmlu_question(row := mmlu(source, subject, number))) in excluded:
            pass
        solved.append(f"{question} {'ABCD'[row['answer']]}")
    return mmlu_header(subject) + "\n\n".join(solved)


def _make_dialogue(source: Source) -> str:
    """A question answered in a whole sentence, without the long text that truthfulqa puts before it."""
    creature = source.draw_creature(0, 128)
    attribute = source.pick(tuple(VALUES))
    value = source.draw_answer(creature.facts[attribute])
    sentence = source.pick(STATEMENTS[attribute]).format(it=f"{creature.article} {creature.name}", v=value)
    return f"Q: {format_template(source, creature, QUESTIONS, attribute)}\nA: {capitalise(sentence)}"
