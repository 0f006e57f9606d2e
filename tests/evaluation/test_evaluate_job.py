"""Jobs in real worker processes: the content of a finished evaluation, and when it is reused."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from scanproof.errors import EvaluationError
from scanproof.evaluation import command_line, request
from scanproof.evaluation.evaluate_job import evaluate, explain_os_error
from scanproof.evaluation.process import Progress
from scanproof.evaluation.request import Settings
from scanproof.numbers.values import EvalJob
from scanproof.record import Evaluation
from tests.support import small_mirror as small
from tests.support.small_jobs import lines, values

ROOT = Path(__file__).resolve().parents[2]


class TestFinishedJob:
    def test_measures_every_metric_of_the_task_over_every_document(self, measured: Evaluation) -> None:
        assert set(values(measured)) == {("arc_easy", "acc"), ("arc_easy", "acc_norm")}
        assert {found.n_samples for found in measured.measurements} == {small.QUESTIONS}
        assert {found.num_fewshot for found in measured.measurements} == {0}
        assert not measured.reused

    def test_samples_reproduce_the_accuracy_from_the_log_likelihoods(self, measured: Evaluation) -> None:
        rows = lines(measured)
        right = [max(range(4), key=row["loglikelihoods"].__getitem__) == row["target"] for row in rows]
        assert [row["doc_id"] for row in rows] == list(range(small.QUESTIONS))
        assert sum(right) / len(right) == values(measured)["arc_easy", "acc"]

    def test_environment_says_what_ran(self, measured: Evaluation) -> None:
        assert measured.environment["weights_dtype"].keys() == {"float32"}
        assert measured.environment["network_class"].endswith("GPTNeoXForCausalLM")
        assert measured.environment["packages"]["lm-eval"]
        assert measured.peak_memory_bytes is not None
        assert measured.peak_memory_bytes > 10**8

    def test_progress_counts_all_requests(self, measured: Evaluation, stages: list[Progress]) -> None:
        assert measured
        requests = [state for state in stages if state.stage == "requests"]
        assert requests[0].done == 0
        assert requests[-1].done == requests[-1].total == 4 * small.QUESTIONS

    def test_second_call_reuses_it_without_a_worker(self, measured: Evaluation, mirror: Path, place: Path) -> None:
        states: list[Progress] = []
        again = evaluate(small.JOB, small.settings(place, mirror), progress=states.append)
        assert again.reused
        assert not states
        assert again.measurements == measured.measurements

    def test_fresh_reuses_only_what_this_session_measured(
        self, measured: Evaluation, mirror: Path, place: Path
    ) -> None:
        assert measured
        settings = small.settings(place, mirror, fresh=True)
        assert evaluate(small.JOB, settings, progress=small.ignore).reused
        other = replace(settings, session="second", timeout=0.0)
        with pytest.raises(EvaluationError, match="no result after 0 s"):
            evaluate(small.JOB, other, progress=small.ignore)

    def test_plain_lm_eval_gives_the_same_numbers(self, measured: Evaluation, tmp_path: Path) -> None:
        tools = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        line = f"{measured.command} --output_path {tmp_path}"
        done = subprocess.run(
            ["/bin/sh", "-c", line],
            env={**os.environ, "PATH": tools},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        plain = json.loads(next(tmp_path.rglob("results_*.json")).read_text())["results"]["arc_easy"]
        assert values(measured) == {
            ("arc_easy", "acc"): plain["acc,none"],
            ("arc_easy", "acc_norm"): plain["acc_norm,none"],
        }
        stderrs = {found.metric: found.stderr for found in measured.measurements}
        assert stderrs == {"acc": plain["acc_stderr,none"], "acc_norm": plain["acc_norm_stderr,none"]}


@pytest.mark.parametrize("name", ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TRANSFORMERS_VERBOSITY"])
def test_the_worker_gets_no_variable_that_opens_pickles_or_hides_warnings(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OF_NO_CONCERN", "kept")
    variables = request.worker_environment(request.resolve_job(small.JOB, small.settings(tmp_path, mirror)))
    assert name not in variables
    assert variables["OF_NO_CONCERN"] == "kept"
    assert variables["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"


def test_a_stand_in_runs_on_one_thread_unless_the_user_says_otherwise(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def threads(job: EvalJob) -> str | None:
        return request.worker_environment(request.resolve_job(job, small.settings(tmp_path, mirror))).get(
            "OMP_NUM_THREADS"
        )

    embedded = replace(small.JOB, suite="embedded")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert (threads(embedded), threads(replace(small.JOB, suite="gpu"))) == ("1", None)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads(embedded) == "3"


def plain_command(job: EvalJob, settings: Settings) -> str:
    """The line that an evaluation of the job records."""
    return command_line.command(job, settings.mirror, request.select_tasks(job, settings)[1].roots)


class TestPlainCommand:
    def test_says_what_plain_lm_eval_cannot_do(self, mirror: Path, tmp_path: Path) -> None:
        job = replace(small.JOB, model="mamba_ssm")
        line = plain_command(job, small.settings(tmp_path, mirror))
        assert "&& HF_HUB_OFFLINE=1" in line
        assert " scanproof lm-eval run --model mamba_ssm " in line

    def test_without_a_mirror_it_pins_the_revision(self, mirror: Path, tmp_path: Path) -> None:
        settings = replace(small.settings(tmp_path, mirror), mirror=None)
        job = replace(small.JOB, revision="step3000", limit=5)
        line = plain_command(job, settings)
        assert "revision=step3000" in line
        assert line.endswith("--limit 5")

    def test_names_a_group_once_when_its_members_are_asked_for_too(self, mirror: Path, tmp_path: Path) -> None:
        job = replace(small.JOB, tasks=("mmlu", "mmlu_stem"))
        assert "--tasks mmlu " in plain_command(job, small.settings(tmp_path, mirror))


def test_parent_side_loads_neither_torch_nor_lm_eval() -> None:
    code = (
        "import sys, scanproof.evaluation.evaluate_job, scanproof.evaluation.hub.prefetch\n"
        "heavy = {'torch', 'lm_eval', 'transformers', 'datasets', 'huggingface_hub', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_only_what_is_wrong_with_the_store_is_blamed_on_it(mirror: Path, tmp_path: Path) -> None:
    settings = small.settings(tmp_path, mirror)
    settings.store.mkdir()
    (settings.store / "locks").write_text("no folder")
    with pytest.raises(EvaluationError, match=r"the store \S+ cannot be used: .*locks"):
        evaluate(small.JOB, settings, progress=small.ignore)
    elsewhere = OSError(errno.EIO, "Input/output error", "/disk/weights")
    assert explain_os_error(elsewhere, settings.store) == "/disk/weights cannot be read: Input/output error"
