"""`mamba2_hybrid_megatron` through the production code, and what `scanproof convert` writes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from scanproof.cli.app import app
from scanproof.errors import EvaluationError
from scanproof.models import register
from scanproof.numbers.values import EvalJob
from tests.support import embedded_scores as scores
from tests.support import small_megatron as small
from tests.support import small_mirror
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
    import transformers

    from scanproof.models.megatron import conversion, reading
else:
    torch, transformers = Late("torch"), Late("transformers")
    conversion, reading = (Late(f"scanproof.models.megatron.{name}") for name in ("conversion", "reading"))

NAME, CONVERTED = "nvidia/small-hybrid", "nvidia/small-hybrid-hf"
DOCUMENTS = 2
JOB = EvalJob(
    name="test-hybrid-0shot",
    model="mamba2_hybrid_megatron",
    pretrained=NAME,
    revision="main",
    model_args=(("add_bos_token", False),),
    dtype="float32",
    device="cpu",
    tasks=scores.TASKS,
    num_fewshot=0,
    batch_size=4,
    max_length=512,
    limit=DOCUMENTS,
)


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Path:
    mirror = scores.copy_datasets(tmp_path_factory.mktemp("hybrid") / "mirror")
    small.write(mirror / NAME)
    return mirror


def encoder() -> Callable[[str], list[int]]:
    from sentencepiece import SentencePieceProcessor

    encode: Callable[[str], list[int]] = SentencePieceProcessor(model_proto=small.sentencepiece()).encode_as_ids
    return encode


@pytest.mark.usefixtures("warm_workers")
def test_the_embedded_tasks_score_as_by_hand_in_float64(tmp_path: Path, mirror: Path) -> None:
    evaluation = small_mirror.evaluate(JOB, small_mirror.settings(tmp_path, mirror), progress=small_mirror.ignore)
    assert {found.task for found in evaluation.measurements} == set(scores.TASKS)
    assert evaluation.environment["network_class"].endswith("NemotronHForCausalLM")
    for task in scores.CHECKED:
        expected = scores.right_answers(
            task, DOCUMENTS, encoder(), lambda ids: small.logits(small.tensors(), ids[:, :-1])
        )
        assert scores.measured(evaluation, task) == pytest.approx(expected, abs=1e-3), task


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda folder: (folder / small.TOKENIZER).unlink(), r"\*.model: there is no such file; the tokenizer"),
        (lambda folder: (folder / small.WEIGHTS).write_bytes(b"PK\x03\x04"), r"model_optim_rng.pt: not a readable"),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_a_checkpoint_error(
    tmp_path: Path, mirror: Path, spoil: Callable[[Path], object], told: str
) -> None:
    own = Path(shutil.copytree(mirror, tmp_path / "mirror"))
    spoil(own / NAME)
    with pytest.raises(EvaluationError, match=told) as error:
        small_mirror.evaluate(JOB, small_mirror.settings(tmp_path, own), progress=small_mirror.ignore)
    assert error.value.kind == "checkpoint"
    assert "Traceback" not in error.value.message


def model(mirror: Path, **arguments: Any) -> Any:
    register()
    from lm_eval.api.registry import get_model

    return get_model("mamba2_hybrid_megatron")(pretrained=str(mirror / NAME), device="cpu", **arguments)


def test_length_dtype_and_tokens_come_from_the_checkpoint(mirror: Path) -> None:
    lm = model(mirror)
    assert (lm.max_length, lm.model.dtype, lm.prefix_token_id) == (512, torch.bfloat16, 1)
    assert (lm.config.bos_token_id, lm.config.eos_token_id) == (1, 2)
    assert lm.tok_encode(" which of") == encoder()(" which of")


def test_what_is_not_supported_says_so(mirror: Path) -> None:
    with pytest.raises(ValueError, match="peft='x': the model class mamba2_hybrid_megatron does not support it"):
        model(mirror, peft="x")


class TestConvert:
    def run(self, *words: str) -> Any:
        return CliRunner().invoke(app, ["convert", *words])

    @pytest.mark.parametrize("dtype", [None, "bfloat16"])
    def test_logits_are_the_same_before_and_after(self, tmp_path: Path, mirror: Path, dtype: str | None) -> None:
        out = tmp_path / "out"
        done = self.run(str(mirror / NAME), str(out), *(("--dtype", dtype) if dtype else ()))
        assert done.exit_code == 0, done.output
        assert "1 safetensors file(s), read by `hf`" in done.stdout
        ids = torch.randint(0, small.ROWS, (2, 131), generator=torch.Generator().manual_seed(5))
        kind = None if dtype is None else getattr(torch, dtype)
        before = conversion.build(reading.read_checkpoint(mirror / NAME), kind)(ids).logits
        after = transformers.AutoModelForCausalLM.from_pretrained(out, dtype="auto")(ids).logits
        assert torch.equal(before, after)

    @pytest.mark.usefixtures("warm_workers")
    def test_the_class_hf_scores_what_was_written(self, tmp_path: Path, mirror: Path) -> None:
        own = Path(shutil.copytree(mirror, tmp_path / "mirror"))
        assert self.run(str(mirror / NAME), str(own / CONVERTED)).exit_code == 0
        settings = small_mirror.settings(tmp_path, own)
        job = EvalJob(**(vars(JOB) | {"model": "hf", "pretrained": CONVERTED, "tasks": ("arc_easy", "piqa")}))
        evaluation = small_mirror.evaluate(job, settings, progress=small_mirror.ignore)
        for task in job.tasks:
            expected = scores.right_answers(
                task, DOCUMENTS, encoder(), lambda ids: small.logits(small.tensors(), ids[:, :-1])
            )
            assert scores.measured(evaluation, task) == pytest.approx(expected, abs=1e-3)

    def test_an_existing_folder_is_left_alone(self, tmp_path: Path, mirror: Path) -> None:
        done = self.run(str(mirror / NAME), str(tmp_path))
        assert done.exit_code == 2
        assert f"{tmp_path}: exists already" in done.stderr
        assert not list(tmp_path.iterdir())

    def test_a_conversion_that_fails_leaves_nothing_behind(
        self, tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_space(self: Any, folder: Path) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(transformers.BertGenerationTokenizer, "save_pretrained", no_space)
        done = self.run(str(mirror / NAME), str(tmp_path / "out"))
        assert done.exit_code == 2
        assert "No space left on device" in done.stderr
        assert not list(tmp_path.iterdir())

    def test_a_broken_checkpoint_is_named(self, tmp_path: Path) -> None:
        done = self.run(str(tmp_path), str(tmp_path / "out"))
        assert done.exit_code == 2
        assert f"{tmp_path / small.WEIGHTS}: there is no such file" in done.stderr

    def test_the_config_says_what_the_checkpoint_is(self, tmp_path: Path, mirror: Path) -> None:
        self.run(str(mirror / NAME), str(tmp_path / "out"))
        written = json.loads((tmp_path / "out/config.json").read_text())
        assert written["architectures"] == ["NemotronHForCausalLM"]
        assert (written["time_step_min"], written["mlp_hidden_act"], written["dtype"]) == (0.0, "gelu", "float32")
