"""What the documents that moved have in common.  Pure."""

from __future__ import annotations

from dataclasses import dataclass

LEVEL = 0.01
"""Level of all tests of one number together."""
FEW = 5
"""With fewer documents than this no test is made: so few cannot be told from chance."""


@dataclass(frozen=True, kw_only=True)
class MovedDocument:
    """One document on both sides."""

    task: str
    doc: int
    place: int
    """In the order in which documents were given, from 0."""
    length: int | None
    """Characters of the prompt and its longest answer; None where the questions were not kept."""
    target: int | None
    """Index of the right answer."""
    score: float
    """Now minus before."""
    margin: float | None
    """Lead of the right answer before, in nats."""
    moved: float | None
    """How the lead moved, in nats."""
    answers: tuple[float, ...]
    """How each answer moved, in nats."""

    @property
    def largest(self) -> float:
        return max(map(abs, self.answers), default=0.0)


def describe_shared(documents: list[MovedDocument]) -> list[str]:
    """Lines on what the documents that moved most have in common, where chance does not explain it.

    Spearman's rank correlation for lengths and positions, Fisher's exact test for each choice; Bonferroni's
    correction over all of them.
    """
    from scipy.stats import fisher_exact, spearmanr

    if len(documents) < 2 * FEW or len({document.largest for document in documents}) < FEW:
        return []
    patterns: list[tuple[float, str]] = []
    sizes = [document.largest for document in documents]
    for name, values in (
        ("length", [document.length for document in documents]),
        ("position in the order of documents", [document.place for document in documents]),
    ):
        if any(value is None for value in values) or len(set(values)) < FEW:
            continue
        rank, p_value = spearmanr(values, sizes)
        word = "longer" if name == "length" else "later"
        less = "more" if rank > 0 else "less"
        patterns.append((float(p_value), f"{word} documents move {less}: rank correlation {rank:+.2f} with {name}"))
    flipped = {id(document) for document in documents if abs(document.score) > 0.5}
    choices = sorted({document.target for document in documents if document.target is not None})
    for choice in choices if len(choices) > 1 and len(flipped) >= FEW else ():
        inside = [document for document in documents if document.target == choice]
        hit = sum(id(document) in flipped for document in inside)
        rest = len(flipped) - hit
        table = [[hit, len(inside) - hit], [rest, len(documents) - len(inside) - rest]]
        p_value = float(fisher_exact(table)[1])
        patterns.append(
            (p_value, f"{hit} of {len(flipped)} flips where choice {choice} is right ({len(inside)} documents)")
        )
    return [f"{said}: p = {p_value:.2g}" for p_value, said in sorted(patterns) if p_value * len(patterns) <= LEVEL]
