"""By how much rounding alone can move an answer: one rule for the second gate and triage.  Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scanproof.record import Evaluation

FLOAT32_CEILING = 1e-3
"""Nats by which rounding can move an answer between float64 and float32 on a CPU.

The largest of 36,320 answers of the stand-ins moved by 2.3e-5; docs/decisions/0010-second-gate.md.
"""


def device_of(evaluation: Evaluation) -> str:
    """The device that the worker computed on; where the evaluation does not say it, the one that its job asks for."""
    return str(evaluation.environment.get("device") or evaluation.job.device)


def is_bounded(evaluation: Evaluation) -> bool:
    """Whether rounding was measured where this evaluation ran: a stand-in in float32 on a CPU.

    A GPU multiplies float32 in TF32 in some kernels, and adds in other orders.
    """
    job = evaluation.job
    return job.suite == "embedded" and job.dtype == "float32" and device_of(evaluation).startswith("cpu")


def find_ceiling(*evaluations: Evaluation) -> float | None:
    """Nats by which rounding can move an answer between these evaluations, or between one and its float64 answers.

    None where that was not measured for every one of them.
    """
    return FLOAT32_CEILING if all(map(is_bounded, evaluations)) else None


def describe_unbounded(*evaluations: Evaluation) -> str:
    """`float32 on cuda:0`: the first evaluation whose rounding was not measured; empty where there is none."""
    unbounded = (each for each in evaluations if not is_bounded(each))
    return next((f"{each.job.dtype} on {device_of(each)}" for each in unbounded), "")
