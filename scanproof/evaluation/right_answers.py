"""Which answers of a document are right, and how long they are: what its scores are made again from.

The right answers are read from the document itself, not from what lm-eval makes of it.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]

PUBMED = ("yes", "no", "maybe")
"""Answers of pubmedqa, in the order in which they are scored."""


def find_label(document: Document) -> list[int]:
    """ARC, OpenBookQA: the answers have names of their own (A to E, or 1 to 5)."""
    return [list(document["choices"]["label"]).index(document["answerKey"].strip())]


def find_race(document: Document) -> list[int]:
    """RACE: the last of an article's questions counts, the others are in the prompt."""
    return ["ABCD".index(ast.literal_eval(document["problems"])[-1]["answer"])]


def find_true(document: Document) -> list[int]:
    """TruthfulQA mc2: every true answer."""
    return [index for index, true in enumerate(document["mc2_targets"]["labels"]) if true == 1]


RIGHT: Mapping[str, Callable[[Document], list[int]]] = {
    "arc_challenge": find_label,
    "arc_easy": find_label,
    "boolq": lambda document: [int(document["label"])],
    "hellaswag": lambda document: [int(document["label"])],
    "mmlu": lambda document: [int(document["answer"])],
    "openbookqa": find_label,
    "piqa": lambda document: [int(document["label"])],
    "pubmedqa": lambda document: [PUBMED.index(document["final_decision"])],
    "race": find_race,
    "truthfulqa_mc2": find_true,
    "winogrande": lambda document: [int(document["answer"]) - 1],
}
"""Task -> the right answers of its documents, by index; `mmlu` for each of its subjects."""


def find_right_answers(task: str, sample: Mapping[str, Any]) -> list[int] | None:
    """Indices of the right answers of one document that lm-eval logged; None where nothing says them.

    A task that is not in the table has the answer that lm-eval takes for right, if that is an index.
    """
    rule = RIGHT.get("mmlu" if task.startswith("mmlu_") else task)
    if rule is None:
        target = sample["target"]
        return [target] if isinstance(target, int) else None
    try:
        return rule(sample["doc"])
    except (KeyError, TypeError, ValueError, IndexError, SyntaxError):
        # Not the dataset that the task is known for: then its scores cannot be made again, and the number says so.
        return None


def measure_answers(arguments: Sequence[Sequence[Any]], delimiter: str) -> list[int] | None:
    """Length of each answer in characters, without the delimiter that joins it to the prompt.

    `arguments` are the prompt and the text after it, of each request.  None where the answers are in the prompts.
    """
    if len({given[0] for given in arguments}) > 1 or any(len(given) < 2 for given in arguments):
        return None
    return [len(str(given[1]).removeprefix(delimiter)) for given in arguments]
