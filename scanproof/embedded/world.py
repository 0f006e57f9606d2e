"""A small invented world: creatures, facts about them, and how often the training text mentions each.

Everything is computed from a seed.  Frequent creatures are easy to learn and rare ones are not; for some facts a rumour
competes with the truth.  So questions differ in difficulty, as in a real corpus.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

SEED = 20240531

VALUES: dict[str, tuple[str, ...]] = {
    "color": ("red", "blue", "green", "yellow", "black", "white", "dark brown", "pale gray"),
    "home": (
        "the forest",
        "the desert",
        "a deep cave",
        "the river",
        "the old town",
        "the high mountains",
        "the sea",
        "a quiet valley",
    ),
    "food": ("berries", "fish", "dry grass", "honey", "mushrooms", "roots", "warm bread", "small seeds"),
    "sound": (
        "a whistle",
        "a hum",
        "a loud roar",
        "a click",
        "a soft song",
        "a bark",
        "a long howl",
        "a squeak",
    ),
    "fear": ("fire", "rain", "loud music", "the dark", "thunder", "strong wind", "snow", "big dogs"),
}
"""Attribute -> its values.  Their lengths differ on purpose, so that acc and acc_norm differ."""

ABILITIES: tuple[str, ...] = (
    "swim",
    "fly",
    "climb trees",
    "dig holes",
    "run fast",
    "jump high",
    "see at night",
    "carry stones",
)
PEOPLE: tuple[tuple[str, str], ...] = (
    ("Anna", "she"),
    ("Ben", "he"),
    ("Clara", "she"),
    ("David", "he"),
    ("Emma", "she"),
    ("Felix", "he"),
    ("Greta", "she"),
    ("Hugo", "he"),
    ("Ida", "she"),
    ("Jonas", "he"),
    ("Karin", "she"),
    ("Leo", "he"),
    ("Mona", "she"),
    ("Nils", "he"),
    ("Olga", "she"),
    ("Paul", "he"),
    ("Rosa", "she"),
    ("Simon", "he"),
    ("Tilda", "she"),
    ("Viktor", "he"),
)
OBJECTS: tuple[str, ...] = (
    "lamp",
    "key",
    "rope",
    "coin",
    "book",
    "hat",
    "knife",
    "bell",
    "cup",
    "map",
    "ring",
    "drum",
)
WEEKDAYS: tuple[str, ...] = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")

_ONSETS = ("b", "d", "f", "g", "k", "l", "m", "n", "p", "r", "s", "t", "v", "z", "br", "dr", "gl", "pl", "tr")
_VOWELS = ("a", "e", "i", "o", "u")
_CODAS = ("", "", "l", "n", "r", "k", "x", "m")
CREATURES = 128


@dataclass(frozen=True)
class Fact:
    """One attribute of one creature."""

    value: str
    rumour: str
    """A wrong value that the training text also states."""
    confidence: float
    """Share of the statements in the training text that have `value`; the others have `rumour`."""

    def draw_value(self, rng: random.Random) -> str:
        """The value of one statement in the training text: the truth or the rumour."""
        return self.value if rng.random() < self.confidence else self.rumour


@dataclass(frozen=True)
class Creature:
    """A creature and its facts."""

    name: str
    rank: int
    """0 is mentioned most often."""
    facts: dict[str, Fact]
    """By name of the attribute."""

    @property
    def article(self) -> str:
        """The indefinite article of the name: `a` or `an`."""
        return "an" if self.name[0] in "aeiou" else "a"


@dataclass(frozen=True)
class World:
    """All creatures, the most frequent first."""

    creatures: tuple[Creature, ...]

    @cached_property
    def _cumulative(self) -> tuple[float, ...]:
        return tuple(accumulate((creature.rank + 6.0) ** -1.2 for creature in self.creatures))

    def draw_mentioned(self, rng: random.Random) -> Creature:
        """Draw a creature as the training text mentions them: frequent ones more often."""
        return rng.choices(self.creatures, cum_weights=self._cumulative)[0]

    def draw_by_rank(self, rng: random.Random, low: int, high: int) -> Creature:
        """Draw a creature whose rank is in [low, high), all with the same probability."""
        return self.creatures[rng.randrange(low, min(high, len(self.creatures)))]


def build_world(seed: int = SEED) -> World:
    """The world that a seed gives."""
    rng = random.Random(seed)
    names = _make_names(rng, CREATURES)
    return World(tuple(Creature(name, rank, _draw_facts(rng)) for rank, name in enumerate(names)))


def pick_others(rng: random.Random, values: Sequence[str], without: Sequence[str], count: int) -> list[str]:
    """Draw `count` different values that are not in `without`."""
    return rng.sample([value for value in values if value not in without], count)


def _draw_facts(rng: random.Random) -> dict[str, Fact]:
    facts = {}
    for attribute, values in VALUES.items():
        value, rumour = rng.sample(values, 2)
        confidence = 1.0 if rng.random() < 0.5 else round(rng.uniform(0.4, 0.95), 2)
        facts[attribute] = Fact(value, rumour, confidence)
    return facts


def _make_names(rng: random.Random, count: int) -> list[str]:
    names: list[str] = []
    while len(names) < count:
        name = "".join(rng.choice(part) for part in (_ONSETS, _VOWELS, _CODAS, _ONSETS, _VOWELS, _CODAS))
        if name not in names and len(name) <= 7:
            names.append(name)
    return names
