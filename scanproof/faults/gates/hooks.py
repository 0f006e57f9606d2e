"""Faults of a hook that evaluates in place of scanproof, or that changes what it measured."""

from __future__ import annotations

from scanproof.faults.gates.endings import OTHER_AGGREGATE, OTHER_ANSWERS, OTHER_DOCUMENTS, Ending, error
from scanproof.faults.gates.gate_fault import REUSING, Before, Conftest, GateFault

HOOK = """\
import json
from dataclasses import replace


def measured(evaluation, **fields):
    changed = tuple(replace(measurement, **fields) for measurement in evaluation.measurements)
    return replace(evaluation, measurements=changed)


def answered(evaluation, change):
    folder = Path(evaluation.samples).parent / "samples-of-the-hook"
    folder.mkdir(exist_ok=True)
    for path in Path(evaluation.samples).glob("*.jsonl"):
        rows = [change(json.loads(line)) for line in path.read_text().splitlines()]
        (folder / path.name).write_text("".join(json.dumps(row) + "\\n" for row in rows if row))
    return replace(evaluation, samples=str(folder))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_scanproof_evaluate(config, job):
    evaluation = yield
    nowhere, empty = config.rootpath / "none", config.rootpath / "empty"
    empty.mkdir(exist_ok=True)
    return {value}
"""
"""A hook that changes the evaluation of the default implementation."""


def by_hook(name: str, what: str, value: str, ending: Ending) -> GateFault:
    """A hook that returns `value`, a Python expression, in place of the evaluation."""
    changes = (Conftest(HOOK.replace("{value}", value)),)
    return GateFault(name, "hooks", what, changes, ending, options=REUSING, before=Before.KEPT_CLEAN)


def refused(says: str) -> Ending:
    """The hook's evaluation is refused for this reason."""
    return error(rf"the evaluation of pytest_scanproof_evaluate is refused: .*{says}")


FAULTS = (
    by_hook(
        "hook_without_samples",
        "Its evaluation has no answers.",
        "replace(evaluation, samples=str(nowhere))",
        refused(r"samples: piqa\.jsonl: missing"),
    ),
    by_hook(
        "hook_with_empty_samples",
        "Its folder of answers is empty.",
        "replace(evaluation, samples=str(empty))",
        refused(r"samples: piqa\.jsonl: missing"),
    ),
    by_hook(
        "hook_without_environment",
        "It has no environment and no answers.",
        "replace(evaluation, environment={}, samples=str(nowhere))",
        refused(r"environment: packages\.lm-eval: missing"),
    ),
    by_hook(
        "hook_of_another_job",
        "It is of another job.",
        'replace(evaluation, job=replace(job, name="embedded-another-0shot", pretrained="scanproof/another"))',
        refused(r"job\.name: 'embedded-another-0shot', asked for was"),
    ),
    by_hook(
        "hook_with_a_limit",
        "It has a limit.",
        "replace(evaluation, job=replace(job, limit=3))",
        refused(r"job\.limit: 3, asked for was None"),
    ),
    by_hook(
        "hook_of_fewer_documents",
        "It counts fewer documents.",
        "measured(evaluation, n_samples=150)",
        refused("n_samples: 150, but 200 documents have answers"),
    ),
    by_hook(
        "hook_of_other_shots",
        "It had other examples.",
        "measured(evaluation, num_fewshot=3)",
        refused("num_fewshot: 3, asked for was 0"),
    ),
    by_hook(
        "hook_of_another_version",
        "It had another version of the task.",
        'measured(evaluation, task_version="9.9")',
        refused(r"task_version: 9\.9, but lm-eval \S+ has version"),
    ),
    by_hook(
        "hook_of_other_prompts",
        "It had other prompts.",
        'measured(evaluation, prompts_hash="0" * 64)',
        refused(r"prompts_hash: not that of the prompts of piqa\.jsonl"),
    ),
    by_hook(
        "hook_of_another_value",
        "Its values are others than its answers say.",
        "measured(evaluation, value=0.78)",
        OTHER_AGGREGATE,
    ),
    by_hook(
        "hook_with_value_none",
        "Its values are None.",
        "measured(evaluation, value=None)",
        refused(r"value: Input should be a valid number"),
    ),
    by_hook(
        "hook_with_value_nan",
        "Its values are NaN.",
        'measured(evaluation, value=float("nan"))',
        error("nan in the evaluation, its 200 documents make"),
    ),
    by_hook(
        "hook_without_measurements",
        "It measured nothing.",
        "replace(evaluation, measurements=())",
        error("the evaluation measured no acc"),
    ),
    by_hook(
        "hook_with_fewer_answers",
        "Its answers lack a document.",
        'answered(evaluation, lambda row: row if row["doc_id"] else None)',
        refused("doc_id: not every document from 0 to 198 once"),
    ),
    by_hook(
        "hook_with_other_answers",
        "Its answers are 1% nearer to zero.",
        'answered(evaluation, lambda row: {**row, "loglikelihoods": [v * 0.99 for v in row["loglikelihoods"]]})',
        OTHER_ANSWERS,
    ),
    by_hook(
        "hook_with_answers_to_others",
        "Its answers are to other documents.",
        'answered(evaluation, lambda row: {**row, "doc_hash": "0" * 64})',
        OTHER_DOCUMENTS,
    ),
    by_hook(
        "hook_with_scores_alone",
        "It has scores and no answers.",
        'answered(evaluation, lambda row: {**row, "loglikelihoods": []})',
        error("200 documents got no answer"),
    ),
    by_hook(
        "hook_that_skips",
        "It calls pytest.skip.",
        'pytest.skip("no machine")',
        error("the hook that evaluates skipped: no machine"),
    ),
    by_hook(
        "hook_that_expects_failure",
        "It calls pytest.xfail.",
        'pytest.xfail("no machine")',
        error("the hook that evaluates ended: XFailed: no machine"),
    ),
    by_hook("hook_that_raises", "It raises an error.", "1 / 0", error("ZeroDivisionError: division by zero")),
    by_hook(
        "hook_that_exits",
        "It leaves by SystemExit(0).",
        "exit(0)",
        error("the hook that evaluates ended: SystemExit: 0"),
    ),
    by_hook("hook_that_returns_none", "It returns nothing.", "None", refused("it is a NoneType, not an Evaluation")),
)
