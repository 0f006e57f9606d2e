"""`mamba_hybrid` and `mamba2_hybrid` as lm-eval uses them."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.embedded import MIRROR
from scanproof.models import register
from scanproof.models.layout import CheckpointError
from tests.support import hybrid_checkpoint
from tests.support.late import Late

if TYPE_CHECKING:
    import numpy as np
    import torch

    from scanproof.models.mamba_in_llama import adapters
    from tests.support import hybrid_oracle as oracle
else:
    torch, np, oracle = Late("torch"), Late("numpy"), Late("tests.support.hybrid_oracle")
    adapters = Late("scanproof.models.mamba_in_llama.adapters")

NAMES = {"mamba_hybrid": ("mamba1", "8b"), "mamba2_hybrid": ("mamba2", "3b")}
CONTEXT, CONTINUATION = "Question: What color is a parsam?\nAnswer:", " pale gray"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A checkpoint for each class, with the stand-ins' tokenizer."""
    found = {}
    for name, (mixer, shape) in NAMES.items():
        found[name] = hybrid_checkpoint.write(tmp_path_factory.mktemp(name), mixer, shape, vocab_size=1280)
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy(MIRROR / "scanproof/pythia-tiny" / file, found[name])
    return found


def model(folder: Path, name: str, **arguments: Any) -> Any:
    register()
    from lm_eval.api.registry import get_model

    defaults = {"pretrained": str(folder), "device": "cpu", "dtype": "float64", "batch_size": 4}
    return get_model(name)(**(defaults | arguments))


def scored(lm: Any, *pairs: tuple[str, str]) -> list[tuple[float, bool]]:
    from lm_eval.api.instance import Instance

    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=number) for number, pair in enumerate(pairs)
    ]
    answers: list[tuple[float, bool]] = lm.loglikelihood(requests, disable_tqdm=True)
    return answers


def by_hand(name: str, lm: Any, context: str, continuation: str) -> float:
    """Log-likelihood of the continuation, from the tests' own float64 implementation."""
    mixer, shape = NAMES[name]
    mamba, base = hybrid_checkpoint.configs(mixer, shape, vocab_size=1280)
    weights = {key: value.double().numpy() for key, value in hybrid_checkpoint.tensors(mixer, mamba, base).items()}
    whole, start = lm.tok_encode(context + continuation), len(lm.tok_encode(context))
    logits = oracle.logits(weights, mamba, base, whole[:-1])
    logs = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
    return float(sum(logs[place - 1, whole[place]] for place in range(start, len(whole))))


@pytest.mark.parametrize("name", NAMES)
def test_a_log_likelihood_is_that_of_the_formulas(folders: dict[str, Path], name: str) -> None:
    lm = model(folders[name], name)
    wanted = by_hand(name, lm, CONTEXT, CONTINUATION)
    longer = ("Abstract: " + CONTEXT * 3, CONTINUATION)
    assert scored(lm, (CONTEXT, CONTINUATION))[0][0] == pytest.approx(wanted, abs=1e-4)
    assert scored(lm, (CONTEXT, CONTINUATION), longer)[0][0] == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_a_task_of_the_stand_ins_gets_the_scores_of_the_formulas(
    folders: dict[str, Path], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import lm_eval

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(MIRROR)
    lm = model(folders[name], name)
    results = lm_eval.simple_evaluate(model=lm, tasks=["arc_easy"], limit=3, bootstrap_iters=0)
    samples = results["samples"]["arc_easy"]
    assert len(samples) == 3
    for sample in samples:
        answers = [float(answer[0]) for (answer,) in sample["resps"]]
        wanted = [by_hand(name, lm, *pair) for pair in sample["arguments"]]
        assert answers == pytest.approx(wanted, abs=1e-4)
        assert sample["acc"] == float(np.argmax(wanted) == sample["target"])
    assert results["results"]["arc_easy"]["acc,none"] == pytest.approx(sum(s["acc"] for s in samples) / 3)


def test_what_is_loaded_is_bfloat16_with_2048_tokens_unless_asked_otherwise(folders: dict[str, Path]) -> None:
    folder = folders["mamba_hybrid"]
    lm = model(folder, "mamba_hybrid", dtype="auto")
    assert {value.dtype for value in lm.model.parameters()} == {torch.bfloat16}
    assert (lm.max_length, lm.tokenizer.vocab_size, lm.add_bos_token) == (2048, 1280, None)
    asked = {"ssm_dtype": "float32", "rope_dtype": "float32", "max_length": 128, "add_bos_token": False}
    lm = model(folder, "mamba_hybrid", dtype="bfloat16", attn_implementation="eager", **asked)
    assert lm.model.model.layers[0].mamba.A_log.dtype == torch.float32
    assert lm.model.model.layers[0].mamba.out_proj.weight.dtype == torch.bfloat16
    assert (lm.max_length, lm.add_bos_token, lm.model.config._attn_implementation) == (128, False, "eager")


@pytest.mark.parametrize("name", NAMES)
def test_generation_in_a_batch_is_generation_one_by_one(folders: dict[str, Path], name: str) -> None:
    from lm_eval.api.instance import Instance

    def written(lm: Any) -> list[str]:
        options = {"until": ["\n\n"], "max_gen_toks": 8, "do_sample": False}
        requests = [
            Instance(request_type="generate_until", doc={}, arguments=(text, dict(options)), idx=number)
            for number, text in enumerate(("Question: What", CONTEXT, "A"))
        ]
        answers: list[str] = lm.generate_until(requests, disable_tqdm=True)
        return answers

    together = written(model(folders[name], name, batch_size=3))
    assert together == written(model(folders[name], name, batch_size=1))
    assert all(together)


def test_a_missing_tokenizer_is_named(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = hybrid_checkpoint.write(tmp_path, "mamba2", "8b")
    with pytest.raises(CheckpointError, match=f"{tmp_path}: there is no tokenizer .*tokenizer="):
        model(folder, "mamba2_hybrid")
    named = model(folder, "mamba2_hybrid", tokenizer=str(folders["mamba2_hybrid"]))
    assert named.tokenizer.vocab_size == 1280


def test_a_name_that_is_neither_folder_nor_on_the_hub_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for name in ("scanproof/mamba9-tiny", "not/a/name"):
        with pytest.raises(CheckpointError, match=f"{name}: there is no such folder .*at revision main"):
            model(Path(name), "mamba_hybrid")


def test_what_is_not_supported_says_so(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="peft='adapter': the model class mamba2_hybrid does not support it"):
        model(folders["mamba2_hybrid"], "mamba2_hybrid", peft="adapter")


@pytest.mark.skipif("torch.cuda.is_available()", reason="needs a machine without a GPU")
def test_a_gpu_that_is_not_there_is_an_error(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="device=cuda: there is no GPU here"):
        model(folders["mamba_hybrid"], "mamba_hybrid", device="cuda")


def test_flash_attention_is_for_half_precision_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu, cpu = torch.device("cuda"), torch.device("cpu")
    module = sys.modules[adapters.MambaHybrid.__module__]
    monkeypatch.setattr(module, "find_spec", lambda name: name == "flash_attn")
    assert adapters.choose_attention(gpu, torch.bfloat16) == "flash_attention_2"
    assert adapters.choose_attention(gpu, torch.float32) == "sdpa"
    assert adapters.choose_attention(cpu, torch.bfloat16) == "sdpa"


def test_the_command_line_of_the_documents_runs(folders: dict[str, Path]) -> None:
    command = [
        sys.executable, "-m", "scanproof", "lm-eval", "--model", "mamba2_hybrid",
        "--model_args", f"pretrained={folders['mamba2_hybrid']}", "--tasks", "arc_easy", "--num_fewshot", "0",
        "--device", "cpu", "--batch_size", "16", "--limit", "4",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, cwd=MIRROR, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\|arc_easy\|.*\|acc +\|", done.stdout), done.stdout
