"""What a number has to show before it is compared with anything: usable answers that it is made of.  Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scanproof.numbers.values import PublishedValue
from scanproof.numbers.verdict import remaking, tolerance, usable_answers
from scanproof.numbers.verdict.answers import Samples
from scanproof.numbers.verdict.tolerance import Verdict

if TYPE_CHECKING:
    from scanproof.record import Evaluation


def judge_answers(value: PublishedValue, evaluation: Evaluation, samples: Samples) -> Verdict | None:
    """An ERROR where the answers of a number are none, or where the number is not made of them; else None.

    Args:
        value: the number.
        evaluation: the evaluation that measured it.
        samples: the answers of that evaluation.

    Raises:
        scores.MissingEvidenceError: something that this needs was not kept.
    """
    kept = {task: answers for (job, task), answers in samples.items() if job == evaluation.job.name}
    unusable = usable_answers.explain_unusable(remaking.find_tasks(value, kept), value.job.dtype)
    because = unusable or remaking.explain_other_scores(value, evaluation.measurements, kept)
    return None if because is None else tolerance.reject(value, because)
