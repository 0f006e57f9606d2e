"""Which documents of a number a report calls changed: those whose scores moved further than rounding moves them."""

from __future__ import annotations

import pytest

from scanproof.numbers.verdict.answers import Samples
from scanproof.numbers.verdict.baseline_gate import Baseline
from scanproof.numbers.verdict.rounding import FLOAT32_CEILING
from scanproof.report.changed_documents import Texts, find_changed_documents
from tests.support.builders import JOB, published
from tests.support.small_history import line, task

VALUE = published(task="lambada_openai", metric="perplexity", documents=2)
CEILING = 1e-4


@pytest.mark.parametrize(
    ("ceiling", "by", "changed"),
    [
        (CEILING, 3 * CEILING, 1),
        (CEILING, 0.9 * CEILING, 0),
        (None, 3 * CEILING, 0),
        (None, 1.1 * FLOAT32_CEILING, 1),
    ],
)
def test_a_document_that_moved_beyond_the_rounding_of_its_baseline_is_shown(
    ceiling: float | None, by: float, changed: int
) -> None:
    def answered(*answers: float) -> Samples:
        rows = [
            {**line(doc, right=True), "loglikelihoods": [answer], "metrics": {"perplexity": answer}}
            for doc, answer in enumerate(answers)
        ]
        return {(JOB.name, "lambada_openai"): task(rows, name="lambada_openai")}

    before = Baseline(name="b", samples=answered(-2.0, -3.0), ceiling=ceiling)
    made = find_changed_documents(VALUE, answered(-2.0, -3.0 - by), before, Texts(None))
    assert made.because is None
    assert (made.changed, [shown.doc_id for shown in made.shown]) == (changed, [1] * changed)
