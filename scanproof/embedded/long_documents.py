"""Documents of unusual length: long texts before the last rows of some tasks, and last words of several tokens.

They replace rows that were drawn as all others are, so that the training text stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable

from scanproof.embedded.fact_tasks import make_statement
from scanproof.embedded.procedures import PROCEDURES
from scanproof.embedded.sources import Row, Source
from scanproof.embedded.world import PEOPLE

SEVERAL = (5, 5, 6, 6, 7, 7, 8, 9, 10, 11, 12, 13)
"""Sentences before rows that get longer than 64 tokens; they end a little after a multiple of 64, or long after it."""
SENTENCES: dict[str, tuple[int, ...]] = {
    "lambada_openai": (*SEVERAL, 30, 45, 290),
    "boolq": (*SEVERAL, 30, 45, 290),
    "pubmedqa": (*SEVERAL, 30, 45, 290),
    # Four answers of different lengths would be cut in four places, and share nothing.
    "race": (*SEVERAL, 30, 45),
}
"""Task -> sentences before its last rows, one number per row; 30 are more than 256 tokens, 290 more than 2,200."""
PROCEDURE_ROWS = 40
"""Rows of lambada_openai that tell a procedure; last words of procedures have up to six tokens."""
SURPRISES = 0.5
"""Share of these that end with the last word of another step: its first token is a surprise, the others follow."""


def _lengthen_lambada(row: Row, text: str) -> Row:
    return {**row, "text": f"{text} {row['text']}"}


def _lengthen_boolq(row: Row, text: str) -> Row:
    return {**row, "passage": f"{text} {row['passage']}"}


def _lengthen_race(row: Row, text: str) -> Row:
    return {**row, "article": f"{text} {row['article']}"}


def _lengthen_pubmedqa(row: Row, text: str) -> Row:
    return {**row, "CONTEXTS": [text, *row["CONTEXTS"]], "LABELS": ["BACKGROUND", *row["LABELS"]]}


LENGTHEN: dict[str, Callable[[Row, str], Row]] = {
    "lambada_openai": _lengthen_lambada,
    "boolq": _lengthen_boolq,
    "race": _lengthen_race,
    "pubmedqa": _lengthen_pubmedqa,
}
"""Task -> how a text is put before what is already in a row."""


def tell_procedure(source: Source) -> Row:
    """A row of EleutherAI/lambada_openai: the last word of a procedure, told as in hellaswag but without a label."""
    procedure = source.pick(tuple(PROCEDURES.values()))
    name, pronoun = source.pick(PEOPLE)
    first, *rest = procedure[: source.rng.randrange(2, 6)]
    *middle, last = rest
    if source.rng.random() < SURPRISES:
        other = source.pick(source.pick(tuple(PROCEDURES.values())))
        last = f"{last.rpartition(' ')[0]} {other.rpartition(' ')[2]}"
    steps = [f"{name} {first}.", *(f"Then {pronoun} {step}." for step in middle), f"Next {pronoun} {last}"]
    return {"text": " ".join(steps)}


def replace_rows(task: str, rows: list[Row], source: Source) -> list[Row]:
    """The rows of a task's scored split, some of them replaced by longer ones; the number stays."""
    counts = SENTENCES.get(task, ())
    kept, last = rows[: len(rows) - len(counts)], rows[len(rows) - len(counts) :]
    if task == "lambada_openai":
        told: dict[str, Row] = {}
        while len(told) < PROCEDURE_ROWS:
            row = tell_procedure(source)
            told.setdefault(row["text"].rpartition(" ")[0], row)
        kept = [*kept[:-PROCEDURE_ROWS], *told.values()]
    texts = [" ".join(make_statement(source) for _ in range(count)) for count in counts]
    return [*kept, *(LENGTHEN[task](row, text) for row, text in zip(last, texts, strict=True))]
