"""`triage --substitute` decides as the gate does: by the largest move of any answer and the ceiling of rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from scanproof import files
from scanproof.embedded import MIRROR
from scanproof.numbers.verdict.rounding import FLOAT32_CEILING, read_table
from scanproof.triage import moves
from scanproof.triage.checks import kernel
from scanproof.triage.evidence import Evidence, Side, Substituted, Trial
from scanproof.triage.finding import Finding, FindingState
from tests.support.late import Late

if TYPE_CHECKING:
    from scanproof.evaluation.worker.substitution import score
    from scanproof.kernels.references import papers
else:
    papers = Late("scanproof.kernels.references.papers")
    score = Late("scanproof.evaluation.worker.substitution.score")

CEILING = read_table()["scanproof/mamba1-tiny", "mamba_ssm"].ceiling
SHORT, LONG = "Tom has", "Tom has a red ball and Ann has a blue ball and Ben has a cup and Sue has a hat, so Tom"
"""Prompts of fewer and of more tokens than WRONG_FROM."""
WRONG_FROM = 20
DOCUMENTS = [{"doc_id": doc, "prompts": [SHORT], "choices": [" a ball"]} for doc in range(15)]
DOCUMENTS.append({"doc_id": 15, "prompts": [LONG], "choices": [" has a red ball"]})


@pytest.fixture(scope="module")
def model() -> Any:
    """The stand-in, as triage loads it."""
    job = {"model": "mamba_ssm", "batch_size": 1, "device": "cpu"}
    arguments = {"pretrained": str(MIRROR / "scanproof" / "mamba1-tiny"), "dtype": "float32"}
    return score.load_model(
        {"mirror": None, "revision": None, "models": "scanproof.models", "job": job, "model_args": arguments}
    )


def judged(tried: Substituted) -> Finding:
    evidence = Evidence(
        run="r", number="n", outcome="CHANGED", because="b", metric="acc", leaves=(("t", "acc"),), store="s",
        substituted=tried,
    )  # fmt: skip
    (finding,) = kernel.check(evidence)
    return finding


def test_one_answer_of_many_decides(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scan is wrong in one of 16 documents, so that the mean of all answers stays within the ceiling."""
    reference = score.score_documents(model, DOCUMENTS)
    right = papers.selective_scan
    factor = 1 + 1e-5

    def wrong(u: Any, delta: Any, A: Any, B: Any, C: Any, D: Any, *rest: Any, **options: Any) -> Any:
        skip = D * factor if u.shape[-1] >= WRONG_FROM else D
        return right(u, delta, A, B, C, skip, *rest, **options)

    monkeypatch.setattr("scanproof.models.layers.selective_scan", wrong)
    while max(score.differences(score.score_documents(model, DOCUMENTS), reference)) <= 4 * CEILING:
        factor = 1 + 2 * (factor - 1)
    documents = [{**line, "answers": [answer]} for line, answer in zip(DOCUMENTS, reference, strict=True)]
    request = {"documents": documents, "job": {"device": "cpu"}, "limit": CEILING, "task": "t"}
    tried = files.from_json(Substituted, files.to_sorted_json(score.substitute_operations(model, request)))
    assert tried.as_is <= CEILING < tried.deciding_as_is, "the mean says nothing, the largest move does"
    restored = {trial.operation: trial.deciding <= CEILING for trial in tried.trials}
    assert [name for name, back in restored.items() if back] == ["selective_scan"]
    finding = judged(tried)
    assert finding.state is FindingState.CAUSE
    assert finding.title.startswith("selective_scan: replacing it")


def substituted(largest_of_scan: float, largest_of_norm: float) -> Substituted:
    """The means of both trials are within the limit; only their largest moves differ."""
    trials = (
        Trial(operation="selective_scan", distance=1e-6, restored=16, largest=largest_of_scan),
        Trial(operation="rms_norm", distance=1e-6, restored=15, largest=largest_of_norm),
    )
    return Substituted(
        documents=(1,), task="t", answers=16, limit=CEILING, as_is=1e-5, trials=trials, all_replaced=1e-6,
        as_is_largest=1e-3, all_replaced_largest=largest_of_scan,
    )  # fmt: skip


def test_an_operation_that_leaves_one_answer_far_off_does_not_restore_them() -> None:
    finding = judged(substituted(1e-6, 1e-3))
    assert (finding.state, finding.title.partition(":")[0]) == (FindingState.CAUSE, "selective_scan")
    assert judged(substituted(8e-4, 1e-3)).state is FindingState.UNKNOWN


def test_the_limit_of_an_answer_is_the_ceiling_of_the_gate() -> None:
    assert moves.find_threshold(Side(name="recorded", ceiling=CEILING)) == CEILING < FLOAT32_CEILING
    assert moves.find_threshold(Side(name="the good run")) == FLOAT32_CEILING
