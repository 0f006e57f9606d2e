"""Jobs in real worker processes: each test below that says so starts python, torch and lm-eval once."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file, save_file

import small_mirror as small
from scanproof import evaluation
from scanproof.evaluation import EvaluationError, Progress, evaluate
from scanproof.record import Evaluation
from scanproof.values import EvalJob

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.build(tmp_path_factory.mktemp("small") / "mirror")


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the store that the finished evaluation is in."""
    return tmp_path_factory.mktemp("place")


@pytest.fixture(scope="session")
def stages() -> list[Progress]:
    return []


@pytest.fixture(scope="session")
def measured(mirror: Path, place: Path, stages: list[Progress]) -> Evaluation:
    """One real run, shared by the tests that only look at it."""
    return evaluate(small.JOB, small.settings(place, mirror), progress=stages.append)


@pytest.fixture
def own(mirror: Path, tmp_path: Path) -> Path:
    """A mirror that the test may damage."""
    return small.copy_of(mirror, tmp_path / "mirror")


def values(evaluation: Evaluation) -> dict[tuple[str, str], float]:
    return {(found.task, found.metric): found.value for found in evaluation.measurements}


def lines(evaluation: Evaluation) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (Path(evaluation.samples) / "arc_easy.jsonl").read_text().splitlines()]


def children() -> list[int]:
    """Process ids of this process's children."""
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = status.read_text()
        except OSError:
            continue
        if int(text.rpartition(")")[2].split()[1]) == os.getpid():
            found.append(int(status.parent.name))
    return found


def is_running(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    try:
        return status.read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], object], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


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


class TestChangedInput:
    def test_changed_dataset_row_is_seen_although_size_and_time_stay(
        self, measured: Evaluation, own: Path, tmp_path: Path
    ) -> None:
        assert measured
        first = evaluate(small.JOB, small.settings(tmp_path, own), progress=small.ignore)
        path = own / small.DATASET / "ARC-Easy" / "test.jsonl"
        before = path.stat()
        rows = small.rows()
        for row in rows:
            row["answerKey"] = "ABCD"[("ABCD".index(row["answerKey"]) + 1) % 4]
        small.write_rows(path, rows)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert path.stat().st_size == before.st_size
        second = evaluate(small.JOB, small.settings(tmp_path, own), progress=small.ignore)
        assert first.measurements == measured.measurements
        assert not second.reused
        assert [row["target"] for row in lines(second)] == [(row["target"] + 1) % 4 for row in lines(first)]
        assert second.environment["recomputed_because"] == [
            "datasets / allenai/ai2_arc / files / ARC-Easy/test.jsonl: changed"
        ]

    def test_flipped_byte_in_a_weight_changes_the_key_and_the_log_likelihoods(
        self, measured: Evaluation, own: Path, tmp_path: Path
    ) -> None:
        weights = own / small.MODEL / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-2] ^= 0x40
        weights.write_bytes(content)
        flipped = evaluate(small.JOB, small.settings(tmp_path, own), progress=small.ignore)
        assert flipped.key != measured.key
        assert [row["loglikelihoods"] for row in lines(flipped)] != [row["loglikelihoods"] for row in lines(measured)]

    def test_input_that_changes_while_the_worker_runs_spoils_the_numbers(self, own: Path, tmp_path: Path) -> None:
        weights = own / small.MODEL / "model.safetensors"
        questions = own / small.DATASET / "ARC-Easy" / "test.jsonl"

        def change(state: Progress) -> None:
            if state.stage == "requests" and state.done == 0:
                flip_last_bit(weights)
                flip_last_bit(questions)

        with pytest.raises(EvaluationError, match="changed while the job ran") as caught:
            evaluate(small.JOB, small.settings(tmp_path, own), progress=change)
        assert "model.safetensors: changed" in caught.value.message
        assert "ARC-Easy/test.jsonl: changed" in caught.value.message
        assert list((tmp_path / "store").glob("??/*")) == []

    def test_damaged_entry_is_never_trusted(
        self, measured: Evaluation, mirror: Path, place: Path, tmp_path: Path
    ) -> None:
        folder = tmp_path / "store"
        shutil.copytree(place / "store", folder)
        stored = folder / measured.key[:2] / measured.key / "results.json"
        stored.write_text(stored.read_text().replace("0.", "1."))
        with pytest.raises(EvaluationError, match="no result after 0 s"):
            evaluate(small.JOB, small.settings(tmp_path, mirror, timeout=0.0), progress=small.ignore)
        assert [path.name.partition("-")[0] for path in (folder / "damaged").iterdir()] == [measured.key]


class TestBrokenInput:
    def test_corrupt_safetensors_is_a_checkpoint_error(self, own: Path, tmp_path: Path) -> None:
        weights = own / small.MODEL / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        error = fails(own, tmp_path)
        assert error.kind == "checkpoint"
        assert error.log is not None
        assert Path(error.log).is_file()
        assert "afetensor" in error.message

    def test_a_checkpoint_that_lacks_a_tensor_is_named_not_filled_at_random(self, own: Path, tmp_path: Path) -> None:
        weights = own / small.MODEL / "model.safetensors"
        tensors = load_file(weights)
        del tensors["gpt_neox.layers.1.mlp.dense_4h_to_h.weight"]
        save_file(tensors, weights, metadata={"format": "pt"})
        error = fails(own, tmp_path)
        assert error.kind == "checkpoint"
        assert "1 tensors are missing from the checkpoint" in error.message
        assert "layers.1.mlp.dense_4h_to_h.weight" in error.message

    def test_pickle_that_runs_code_is_refused(self, own: Path, tmp_path: Path) -> None:
        folder = own / small.MODEL
        (folder / "model.safetensors").unlink()
        harm = tmp_path / "harm"
        with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
            archive.writestr("model/data.pkl", pickle.dumps(Harm(harm), protocol=2))
            archive.writestr("model/version", "3\n")
            archive.writestr("model/byteorder", "little")
        error = fails(own, tmp_path)
        assert error.kind == "checkpoint"
        assert "weights" in error.message.lower()
        assert not harm.exists()

    def test_broken_dataset_is_a_dataset_error(self, own: Path, tmp_path: Path) -> None:
        (own / small.DATASET / "ARC-Easy" / "test.jsonl").write_text('{"id": "q1", "question": \n')
        assert fails(own, tmp_path).kind == "dataset"

    def test_unknown_model_class_is_named(self, mirror: Path, tmp_path: Path) -> None:
        job = replace(small.JOB, model="no_such_class")
        error = fails(mirror, tmp_path, job)
        assert error.kind == "model_class"
        assert "no_such_class" in error.message

    def test_unknown_checkpoint_says_how_to_get_it(self, mirror: Path, tmp_path: Path) -> None:
        error = fails(mirror, tmp_path, replace(small.JOB, pretrained="EleutherAI/pythia-160m"))
        assert error.kind == "missing"
        assert "has no model EleutherAI/pythia-160m" in error.message
        assert "scanproof prefetch" in error.message

    def test_missing_dataset_is_named_before_a_worker_starts(self, own: Path, tmp_path: Path) -> None:
        (own / small.DATASET).rename(tmp_path / "elsewhere")
        error = fails(own, tmp_path)
        assert error.kind == "missing"
        assert small.DATASET in error.message

    def test_unknown_task_offers_the_nearest_names(self, mirror: Path, tmp_path: Path) -> None:
        error = fails(mirror, tmp_path, replace(small.JOB, tasks=("arc_eazy",)))
        assert "arc_easy" in error.message

    def test_unreachable_hub_is_no_checkpoint_error(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        settings = replace(small.settings(tmp_path, tmp_path), mirror=None)
        with pytest.raises(EvaluationError) as caught:
            evaluate(small.JOB, settings, progress=small.ignore)
        assert caught.value.kind == "hub", str(caught.value)

    @pytest.mark.parametrize("name", ["weights_only", "trust_remote_code", "revision"])
    def test_model_args_cannot_open_a_back_door(self, mirror: Path, tmp_path: Path, name: str) -> None:
        error = fails(mirror, tmp_path, replace(small.JOB, model_args=((name, "x"),)))
        assert name in error.message


class TestWorkerThatDies:
    def test_killed_worker_is_an_error_and_the_next_call_succeeds(
        self, measured: Evaluation, mirror: Path, tmp_path: Path
    ) -> None:
        def kill(state: Progress) -> None:
            if state.stage == "checkpoint":
                for process in children():
                    os.kill(process, signal.SIGKILL)

        settings = small.settings(tmp_path, mirror)
        with pytest.raises(EvaluationError, match="killed by SIGKILL") as caught:
            evaluate(small.JOB, settings, progress=kill)
        assert caught.value.kind == "killed"
        assert "out-of-memory" in caught.value.message
        again = evaluate(small.JOB, settings, progress=small.ignore)
        assert again.measurements == measured.measurements

    def test_timeout_leaves_no_process_behind(self, mirror: Path, tmp_path: Path) -> None:
        seen: list[int] = []

        def look(_: Progress) -> None:
            seen.extend(children())

        with pytest.raises(EvaluationError) as caught:
            evaluate(small.JOB, small.settings(tmp_path, mirror, timeout=2.0), progress=look)
        assert caught.value.kind == "timeout"
        assert seen
        assert not any(is_running(process) for process in seen)

    def test_worker_ends_when_the_process_that_started_it_is_killed(self, mirror: Path, tmp_path: Path) -> None:
        log = tmp_path / "progress"
        with start_elsewhere(mirror, tmp_path) as parent:
            try:
                assert wait_until(lambda: log.exists() and log.read_text().strip()), "no worker was started"
                worker = int(log.read_text().split()[0])
                assert is_running(worker)
            finally:
                parent.kill()
        assert wait_until(lambda: not is_running(worker)), "the worker outlived its parent"

    def test_two_processes_run_a_job_once(self, measured: Evaluation, mirror: Path, tmp_path: Path) -> None:
        both = [start_elsewhere(mirror, tmp_path) for _ in range(2)]
        told = [process.communicate(timeout=300)[0].decode().split() for process in both]
        assert sorted(reused for reused, _ in told) == ["False", "True"]
        assert {float(value) for _, value in told} == {values(measured)["arc_easy", "acc"]}


def flip_last_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def fails(mirror: Path, folder: Path, job: EvalJob = small.JOB) -> EvaluationError:
    """The error of a job that cannot run."""
    with pytest.raises(EvaluationError) as caught:
        evaluate(job, small.settings(folder, mirror), progress=small.ignore)
    return caught.value


class Harm:
    """Pickles to a call that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.path}",))


PARENT = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1], str(Path(sys.argv[1]).parents[1])]
import small_mirror as small
import test_evaluation as tests
def tell(state):
    with open(Path(sys.argv[3]) / "progress", "a") as file:
        print(*tests.children(), file=file)
done = small.evaluate(small.JOB, small.settings(Path(sys.argv[3]), Path(sys.argv[2])), progress=tell)
print(done.reused, tests.values(done)["arc_easy", "acc"])
"""


def start_elsewhere(mirror: Path, folder: Path) -> subprocess.Popen[bytes]:
    """Evaluate in another process; it prints whether the result was reused, and the accuracy."""
    here = str(Path(__file__).parent)
    return subprocess.Popen(
        [sys.executable, "-c", PARENT, here, str(mirror), str(folder)], cwd=ROOT, stdout=subprocess.PIPE
    )


class TestOneGpu:
    def test_jobs_on_one_gpu_wait_for_each_other(self, mirror: Path, tmp_path: Path) -> None:
        """The first job's worker is stopped by its timeout; while it lives the second one is told to wait."""

        class Waited(Exception):
            pass

        def second_job(state: Progress) -> None:
            if state.stage == "waiting":
                raise Waited

        def during_the_first(state: Progress) -> None:
            if state.stage == "start":
                job = replace(small.JOB, device="cuda", num_fewshot=1)
                with pytest.raises(Waited):
                    evaluate(job, small.settings(tmp_path, mirror), progress=second_job)

        job = replace(small.JOB, device="cuda")
        with pytest.raises(EvaluationError, match="no result after 1 s"):
            evaluate(job, small.settings(tmp_path, mirror, timeout=1.0), progress=during_the_first)


@pytest.mark.parametrize("name", ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "TRANSFORMERS_VERBOSITY"])
def test_the_worker_gets_no_variable_that_opens_pickles_or_hides_warnings(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv(name, "1")
    monkeypatch.setenv("OF_NO_CONCERN", "kept")
    variables = evaluation._environment(evaluation._plan(small.JOB, small.settings(tmp_path, mirror)))
    assert name not in variables
    assert variables["OF_NO_CONCERN"] == "kept"
    assert variables["TORCH_FORCE_WEIGHTS_ONLY_LOAD"] == "1"


def test_a_stand_in_runs_on_one_thread_unless_the_user_says_otherwise(
    mirror: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def threads(job: EvalJob) -> str | None:
        return evaluation._environment(evaluation._plan(job, small.settings(tmp_path, mirror))).get("OMP_NUM_THREADS")

    embedded = replace(small.JOB, suite="embedded")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert (threads(embedded), threads(replace(small.JOB, suite="gpu"))) == ("1", None)
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert threads(embedded) == "3"


class TestPlainCommand:
    def test_says_what_plain_lm_eval_cannot_do(self, mirror: Path, tmp_path: Path) -> None:
        job = replace(small.JOB, model="mamba_ssm")
        line = evaluation.plain_command(job, small.settings(tmp_path, mirror))
        assert "&& HF_HUB_OFFLINE=1" in line
        assert " scanproof lm-eval run --model mamba_ssm " in line

    def test_without_a_mirror_it_pins_the_revision(self, mirror: Path, tmp_path: Path) -> None:
        settings = replace(small.settings(tmp_path, mirror), mirror=None)
        job = replace(small.JOB, revision="step3000", limit=5)
        line = evaluation.plain_command(job, settings)
        assert "revision=step3000" in line
        assert line.endswith("--limit 5")

    def test_names_a_group_once_when_its_members_are_asked_for_too(self, mirror: Path, tmp_path: Path) -> None:
        job = replace(small.JOB, tasks=("mmlu", "mmlu_stem"))
        assert "--tasks mmlu " in evaluation.plain_command(job, small.settings(tmp_path, mirror))


def test_parent_side_loads_neither_torch_nor_lm_eval() -> None:
    code = (
        "import sys, scanproof.evaluation, scanproof.prefetch\n"
        "heavy = {'torch', 'lm_eval', 'transformers', 'datasets', 'huggingface_hub', 'numpy'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
