"""A stand-in whose answers are none, or whose scores lm-eval makes of something else than its answers, does not pass.

Each case is a session of its own over a copy of the project.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

from scanproof.record import Record, find_run, read_run
from tests.support.planted import MODEL, SHARED, Copy, clean_copy

pytestmark = pytest.mark.usefixtures("warm_copies")

CHOICES = ("piqa", "winogrande", "boolq", "arc_easy")


def measure(copy: Copy, tasks: tuple[str, ...], *options: str) -> tuple[int, dict[str, Record], str]:
    """Exit code, records by task and metric, and the output of a strict session over some tasks of the stand-in."""
    store = copy.folder / "store"
    ended = copy.evaluate(store, "--scanproof-strict", *options, task=f"({' or '.join(tasks)})")
    run = read_run(find_run(store / "runs", "latest"))
    return ended.returncode, {f"{record.task} {record.metric}": record for record in run.records}, ended.stdout


def set_last_norm(copy: Copy, weight: float) -> None:
    """Give every weight of the norm before the logits one value."""
    from safetensors.numpy import load_file, save_file

    path = copy.own(f"scanproof/{MODEL}/model.safetensors")
    weights = load_file(path)
    (name,) = (name for name in weights if "norm_f" in name)
    weights[name] = weights[name] * 0 + weight
    save_file(weights, path, metadata={"format": "pt"})


@pytest.mark.parametrize("engine", ["plain", "shared", "auto"])
def test_answers_that_are_nan_are_an_error_by_every_engine(tmp_path: Path, engine: str) -> None:
    copy = clean_copy(tmp_path)
    set_last_norm(copy, float("nan"))
    code, records, output = measure(copy, CHOICES, "--scanproof-engine", engine)
    assert code != 0
    assert len(records) == 6
    assert {record.outcome for record in records.values()} == {"ERROR"}, output
    said = r"(\d+) of \1 answers are no finite number \(\1 nan\), in (\d+) of \2 documents: piqa 0, 1, 2, 3, 4 and "
    assert re.match(said, records["piqa acc"].because), records["piqa acc"].because
    assert "ENGINES_DISAGREE" not in output
    assert "a kernel that carries a state over is wrong" not in output


def test_answers_that_are_nan_are_an_error_where_shared_scoring_hands_the_job_to_plain(tmp_path: Path) -> None:
    """As it does with architectures whose state it cannot carry."""
    copy = clean_copy(tmp_path)
    call = "tally = scoring.install(model, say=print)"
    copy.edit("scanproof/evaluation/worker/run.py", call, 'raise scoring.Unsupported("it takes no state")')
    set_last_norm(copy, float("nan"))
    code, records, output = measure(copy, CHOICES, "--scanproof-engine", "auto")
    assert code != 0
    assert "scored plain: it takes no state (1 jobs)" in output
    assert {record.outcome for record in records.values()} == {"ERROR"}, output


def test_equal_logits_are_an_error_in_every_task(tmp_path: Path) -> None:
    copy = clean_copy(tmp_path)
    set_last_norm(copy, 0.0)
    code, records, output = measure(copy, (*CHOICES, "lambada", "hellaswag", "truthfulqa"), *SHARED)
    assert code != 0
    assert {record.outcome for record in records.values()} == {"ERROR"}, output
    assert re.match(r"all answers are exactly equal in (\d+) of \1 documents", records["boolq acc"].because)


def change_metrics(copy: Copy) -> None:
    """Other lengths, another base, a mass that is not normalised, groups whose last tasks weigh more."""
    metrics = "site/lm_eval/api/metrics.py"
    copy.edit("site/lm_eval/api/task.py", "np.argmax(lls / completion_len)", "np.argmax(lls / completion_len**0.5)")
    copy.edit(metrics, "return math.exp(-mean(items))", "return 2.7 ** -mean(items)")
    copy.edit("site/lm_eval/tasks/truthfulqa/utils.py", "probs / np.sum(probs)", "probs / np.max(probs)")
    copy.edit(metrics, "    assert len(metrics) == len(sizes)", "    sizes = range(1, 1 + len(metrics))")


def change_mean(copy: Copy) -> None:
    """The mean over other documents than all."""
    copy.edit("site/lm_eval/api/metrics.py", "return sum(arr) / len(arr)", "return sum(arr[:-9]) / len(arr[:-9])")


@pytest.mark.parametrize(
    ("change", "tasks", "wrong", "right"),
    [
        pytest.param(
            change_metrics,
            ("piqa", "lambada", "truthfulqa", "mmlu_stem"),
            {
                "piqa acc_norm": r"piqa document \d+: acc_norm is [01] in the evaluation, [01] made again from its",
                "lambada_openai perplexity": r"perplexity: [\d.]+ in the evaluation, its \d+ documents make ([\d.]+)",
                "truthfulqa_mc2 acc": r"truthfulqa_mc2 document 0: acc is [\d.]+ in the evaluation, [\d.]+ made again",
                "mmlu_stem acc": r"acc: [\d.]+ in the evaluation, its \d+ documents of 19 tasks make ([\d.]+)",
            },
            ("piqa acc", "lambada_openai acc"),
            id="metrics",
        ),
        pytest.param(
            change_mean,
            ("arc_easy",),
            {
                "arc_easy acc": r"arc_easy acc: [\d.]+ in the evaluation, its \d+ documents make ([\d.]+)",
                "arc_easy acc_norm": r"arc_easy acc_norm: [\d.]+ in the evaluation, its \d+ documents make ([\d.]+)",
            },
            (),
            id="mean",
        ),
    ],
)
def test_a_number_that_is_not_made_of_its_answers_is_an_error(
    tmp_path: Path,
    change: Callable[[Copy], None],
    tasks: tuple[str, ...],
    wrong: dict[str, str],
    right: tuple[str, ...],
) -> None:
    copy = clean_copy(tmp_path)
    copy.harness()
    change(copy)
    code, records, output = measure(copy, tasks, *SHARED)
    assert code != 0
    for name, said in wrong.items():
        assert records[name].outcome == "ERROR", output
        told = re.search(said, records[name].because)
        assert told is not None, records[name].because
        assert all(float(made) == pytest.approx(float(records[name].printed), abs=1e-4) for made in told.groups())
    for name in right:
        assert records[name].outcome == "REPRODUCED", output
