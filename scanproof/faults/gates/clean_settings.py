"""Sessions without a fault, each in a setting of its own that is drawn from a seed: none of them may raise an alarm."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass

from scanproof.faults.gates.gate_fault import AUTO
from scanproof.faults.gates.gate_session import SessionResult

KEPT = "piqa"
"""The numbers whose evaluations are kept for sessions that begin with one."""
NUMBERS = (
    KEPT,
    KEPT,
    "arc_easy",
    "lambada_openai",
    "truthfulqa",
    "winogrande",
    "piqa or lambada_openai",
    "mmlu_humanities",
)
"""What `-k` selects."""
ENGINES = ("auto", "plain", "shared")
BATCH_SIZES = (1, 3, 7, 16, 64)
VARIABLES: tuple[Mapping[str, str], ...] = (
    *({},) * 5,
    {"OMP_NUM_THREADS": "2"},
    {"ATEN_CPU_CAPABILITY": "default"},
    {"ATEN_CPU_CAPABILITY": "avx2"},
)
"""Most sessions have none: their workers need not load their packages anew."""
SHUFFLE = """

def pytest_collection_modifyitems(items):
    import random

    random.Random({seed}).shuffle(items)
"""


@dataclass(frozen=True)
class CleanSetting:
    """How a session without a fault runs."""

    seed: int
    engine: str
    batch_size: int
    numbers: str
    variables: Mapping[str, str]

    @property
    def options(self) -> tuple[str, ...]:
        """Options of the session; it is strict."""
        return (*AUTO, f"--scanproof-engine={self.engine}")

    @property
    def conftest(self) -> str:
        """What the session's conftest.py has at its end: tests run in an order that the seed says."""
        return SHUFFLE.format(seed=self.seed)

    def __str__(self) -> str:
        variables = "".join(f", {name}={value}" for name, value in self.variables.items())
        return f"seed {self.seed}: {self.numbers}, engine {self.engine}, batch size {self.batch_size}{variables}"


def draw_clean_setting(seed: int) -> CleanSetting:
    """The setting that a seed stands for."""
    numbers = random.Random(seed)
    return CleanSetting(
        seed=seed,
        engine=numbers.choice(ENGINES),
        batch_size=numbers.choice(BATCH_SIZES),
        numbers=numbers.choice(NUMBERS),
        variables=numbers.choice(VARIABLES),
    )


@dataclass(frozen=True)
class CleanAnswer:
    """How a session without a fault ended."""

    setting: CleanSetting
    result: SessionResult

    @property
    def alarm(self) -> bool:
        """Whether it did not pass, or compared nothing."""
        return not self.result.passed
