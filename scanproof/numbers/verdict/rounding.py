"""By how much rounding alone can move an answer: one rule for the second gate and triage.  Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import ROUND_CEILING, Context, Decimal
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scanproof.files import parse_yaml

if TYPE_CHECKING:
    from scanproof.numbers.values import EvalJob
    from scanproof.record import Evaluation

FLOAT32_CEILING = 1e-3
"""Nats by which rounding in float32 can move an answer of any model: of published checkpoints, and between engines."""
HIGHEST_CEILING = 1e-4
"""Nats: no stand-in has a higher ceiling, and one that was not measured has this one."""
MARGIN = 2
"""Ceiling of a stand-in, divided by the largest move that was measured.

Each of two runs in float32 may be that far from float64, on opposite sides.
"""
TABLE = Path(__file__).parent / "rounding.yaml"
"""What was measured; its first lines name the command."""


@dataclass(frozen=True, kw_only=True)
class MeasuredRounding:
    """By how much rounding moved the answers of a stand-in between float64 and float32 on a CPU."""

    name: str
    checkpoint: str
    """Hub name."""
    model: str
    """lm-eval model class."""
    answers: int
    """Number of answers that were compared."""
    largest: float
    """Nats."""
    recorded: str
    """Digest of the float64 answers that it was measured against: `digest_answers`."""

    @property
    def ceiling(self) -> float:
        """Nats beyond which rounding cannot move an answer: MARGIN times the largest, rounded up to three digits."""
        return float(Context(prec=3, rounding=ROUND_CEILING).create_decimal(MARGIN * Decimal(repr(self.largest))))

    def to_fields(self) -> dict[str, Any]:
        """The fields of its row in the table."""
        return asdict(self)

    @classmethod
    def read(cls, path: Path) -> tuple[MeasuredRounding, ...]:
        """The rows of a table."""
        return tuple(cls(**{**row, "largest": float(row["largest"])}) for row in parse_yaml(path.read_text()))


@cache
def read_table() -> dict[tuple[str, str], MeasuredRounding]:
    """(checkpoint, model class) -> what was measured."""
    return {(row.checkpoint, row.model): row for row in MeasuredRounding.read(TABLE)}


def digest_answers(recorded: Mapping[tuple[str, int], Sequence[float]]) -> str:
    """Sixteen digits that change with any recorded log-likelihood, by task and document, in any order."""
    ordered = sorted((key, list(values)) for key, values in recorded.items())
    return hashlib.sha256(repr(ordered).encode()).hexdigest()[:16]


def explain_other_answers(job: EvalJob, recorded: Mapping[tuple[str, int], Sequence[float]]) -> str | None:
    """Why the ceiling of a job's stand-in says nothing of these float64 answers; None where it does, or has no row."""
    measured = read_table().get((job.pretrained, job.model))
    digest = digest_answers(recorded)
    if measured is None or job.dtype != "float32" or measured.recorded == digest:
        return None
    return f"what rounding may move was measured for other answers ({measured.recorded}) than these ({digest})"


def device_of(evaluation: Evaluation) -> str:
    """The device that the worker computed on; where the evaluation does not say it, the one that its job asks for."""
    return str(evaluation.environment.get("device") or evaluation.job.device)


def is_bounded(evaluation: Evaluation) -> bool:
    """Whether rounding was measured where this evaluation ran: a stand-in in float32 on a CPU.

    A GPU multiplies float32 in TF32 in some kernels, and adds in other orders.
    """
    job = evaluation.job
    return job.suite == "embedded" and job.dtype == "float32" and device_of(evaluation).startswith("cpu")


def ceiling_of(evaluation: Evaluation) -> float:
    """Nats by which rounding can move an answer of a stand-in in float32 on a CPU."""
    measured = read_table().get((evaluation.job.pretrained, evaluation.job.model))
    # This order, because a row that holds no number must not lift the bound: min(x, nan) is x.
    return HIGHEST_CEILING if measured is None else min(HIGHEST_CEILING, measured.ceiling)


def find_ceiling(*evaluations: Evaluation) -> float | None:
    """Nats by which rounding can move an answer between these evaluations, or between one and its float64 answers.

    None where that was not measured for every one of them.
    """
    return max(map(ceiling_of, evaluations)) if all(map(is_bounded, evaluations)) else None


def describe_unbounded(*evaluations: Evaluation) -> str:
    """`float32 on cuda:0`: the first evaluation whose rounding was not measured; empty where there is none."""
    unbounded = (each for each in evaluations if not is_bounded(each))
    return next((f"{each.job.dtype} on {device_of(each)}" for each in unbounded), "")
