"""Inputs that changed or are broken.  Each test starts a worker process with torch and lm-eval."""

from __future__ import annotations

import os
import pickle
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file, save_file

from scanproof.errors import EvaluationError
from scanproof.evaluation.evaluate_job import evaluate
from scanproof.evaluation.process import Progress
from scanproof.record import Evaluation
from tests.support import small_hub
from tests.support import small_mirror as small
from tests.support.small_jobs import fails, lines


@pytest.mark.usefixtures("warm_workers")
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
    @pytest.mark.usefixtures("warm_workers")
    def test_corrupt_safetensors_is_a_checkpoint_error(self, own: Path, tmp_path: Path) -> None:
        weights = own / small.MODEL / "model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        error = fails(own, tmp_path)
        assert error.kind == "checkpoint"
        assert error.log is not None
        assert Path(error.log).is_file()
        assert "afetensor" in error.message

    @pytest.mark.usefixtures("warm_workers")
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

    @pytest.mark.usefixtures("warm_workers")
    def test_broken_dataset_is_a_dataset_error(self, own: Path, tmp_path: Path) -> None:
        (own / small.DATASET / "ARC-Easy" / "test.jsonl").write_text('{"id": "q1", "question": \n')
        assert fails(own, tmp_path).kind == "dataset"

    @pytest.mark.usefixtures("warm_workers")
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
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        settings = replace(small.settings(tmp_path, tmp_path), mirror=None)
        with small_hub.unreachable() as address:
            monkeypatch.setenv("HF_ENDPOINT", address)
            with pytest.raises(EvaluationError) as caught:
                evaluate(small.JOB, settings, progress=small.ignore)
        assert caught.value.kind == "hub", str(caught.value)

    @pytest.mark.parametrize("name", ["weights_only", "trust_remote_code", "revision"])
    def test_model_args_cannot_open_a_back_door(self, mirror: Path, tmp_path: Path, name: str) -> None:
        error = fails(mirror, tmp_path, replace(small.JOB, model_args=((name, "x"),)))
        assert name in error.message


def flip_last_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


class Harm:
    """Its pickle calls a function that creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"touch {self.path}",))
