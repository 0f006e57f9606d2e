"""Draw the creatures and the answers of a task row, for an evaluation (exam) or for the training text."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from scanproof.embedded.world import VALUES, Creature, Fact, World, pick_others

Row = dict[str, Any]
Maker = Callable[["Source"], Row]
Item = TypeVar("Item")


@dataclass(frozen=True)
class Source:
    """Draws creatures and answers.

    An exam asks for the truth about creatures in a range of ranks.  The training text mentions frequent creatures more
    often and repeats rumours.
    """

    world: World
    rng: random.Random
    exam: bool

    def draw_creature(self, low: int, high: int) -> Creature:
        """A creature with rank in [low, high) for an exam, any creature for the training text."""
        return self.world.draw_by_rank(self.rng, low, high) if self.exam else self.world.draw_mentioned(self.rng)

    def draw_two_creatures(self, low: int, high: int) -> tuple[Creature, Creature]:
        """Two different creatures; see `draw_creature`."""
        first = self.draw_creature(low, high)
        while (second := self.draw_creature(low, high)) is first:
            pass
        return first, second

    def draw_answer(self, fact: Fact) -> str:
        """The right answer: the truth for an exam, the truth or the rumour for the training text."""
        return fact.value if self.exam else fact.draw_value(self.rng)

    def makes_mistake(self, rate: float) -> bool:
        """Whether the training text makes a mistake here, with probability `rate`; an exam never makes one."""
        return not self.exam and self.rng.random() < rate

    def pick(self, items: Sequence[Item]) -> Item:
        """One of `items`, all with the same probability."""
        return items[self.rng.randrange(len(items))]

    def shuffle_in(self, right: Item, wrong: Sequence[Item]) -> tuple[list[Item], int]:
        """Insert the right item at a random place of the wrong ones; returns the list and the right item's index."""
        index = self.rng.randrange(len(wrong) + 1)
        return [*wrong[:index], right, *wrong[index:]], index

    def draw_options(self, attribute: str, fact: Fact, count: int, lure: float) -> tuple[list[str], int]:
        """`count` values with the right answer among them, and its index; with probability `lure` one is the rumour."""
        right = self.draw_answer(fact)
        wrong = pick_others(self.rng, VALUES[attribute], (fact.value, fact.rumour, right), count - 1)
        if self.rng.random() < lure:
            wrong[0] = fact.rumour if right == fact.value else fact.value
            self.rng.shuffle(wrong)
        return self.shuffle_in(right, wrong)
