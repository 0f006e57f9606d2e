"""The model class `mamba_ssm` as lm-eval uses it, on the embedded checkpoints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from late import Late
from scanproof.embedded import MIRROR
from scanproof.models import register
from scanproof.models.layout import CheckpointError

if TYPE_CHECKING:
    import torch

    from scanproof.models import loading
else:
    torch, loading = Late("torch"), Late("scanproof.models.loading")

CONTEXT, CONTINUATION = "Question: What color is a parsam?\nAnswer:", " pale gray"


def model_class() -> Any:
    register()
    from lm_eval.api.registry import get_model

    return get_model("mamba_ssm")


def model(monkeypatch: pytest.MonkeyPatch, **arguments: Any) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(MIRROR)
    defaults = {"pretrained": "scanproof/mamba2-tiny", "device": "cpu", "dtype": "float64", "batch_size": 4}
    return model_class()(**(defaults | arguments))


def scores(lm: Any, *pairs: tuple[str, str]) -> list[tuple[float, bool]]:
    from lm_eval.api.instance import Instance

    requests = [
        Instance(request_type="loglikelihood", doc={}, arguments=pair, idx=number) for number, pair in enumerate(pairs)
    ]
    answers: list[tuple[float, bool]] = lm.loglikelihood(requests, disable_tqdm=True)
    return answers


def test_our_class_replaces_the_one_of_lm_eval() -> None:
    assert model_class().__module__ == "scanproof.models.state_spaces"
    register()
    assert model_class().__module__ == "scanproof.models.state_spaces"


def test_registering_keeps_the_other_classes_and_loads_no_torch_by_itself() -> None:
    code = (
        "import sys, scanproof.models; assert 'torch' not in sys.modules; scanproof.models.register();"
        "from lm_eval.api.registry import get_model; print(get_model('hf').__module__)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "lm_eval.models.huggingface"


def test_a_log_likelihood_is_the_sum_over_the_continuation(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model(monkeypatch)
    context = lm.tok_encode(CONTEXT)
    whole = lm.tok_encode(CONTEXT + CONTINUATION)
    with torch.no_grad():
        logits = loading.load(MIRROR / "scanproof/mamba2-tiny", torch.float64)(torch.tensor([whole])).logits[0]
    by_hand = sum(
        logits.log_softmax(-1)[position - 1, whole[position]].item() for position in range(len(context), len(whole))
    )
    longer = ("Abstract: " + CONTEXT * 3, CONTINUATION)
    (alone, _), (beside_longer, _), _ = (
        *scores(lm, (CONTEXT, CONTINUATION)),
        *scores(lm, (CONTEXT, CONTINUATION), longer),
    )
    assert alone == pytest.approx(by_hand, abs=1e-9)
    assert beside_longer == pytest.approx(by_hand, abs=1e-9)


def test_the_checkpoint_brings_its_own_tokenizer_and_length(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model(monkeypatch, dtype="float32")
    assert lm.tokenizer.vocab_size == 1280
    assert lm.max_length == 2048
    assert lm.model.dtype == torch.float32
    assert model(monkeypatch, max_length=128).max_length == 128


def test_a_folder_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CheckpointError, match="scanproof/mamba9-tiny: there is no such folder"):
        model(monkeypatch, pretrained="scanproof/mamba9-tiny")


def test_what_is_not_supported_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="peft='adapter': the model class mamba_ssm does not support it"):
        model(monkeypatch, peft="adapter")
    with pytest.raises(NotImplementedError, match="log-likelihoods only"):
        model(monkeypatch)._model_generate(None, 5, [])


@pytest.mark.skipif("torch.cuda.is_available()", reason="needs a machine without a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    with pytest.raises(ValueError, match=f"device={device}: there is no GPU here"):
        model(monkeypatch, device=device)


def test_the_checkpoint_may_be_given_by_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lm = model(monkeypatch, pretrained=str(MIRROR / "scanproof/mamba1-tiny"))
    monkeypatch.chdir(tmp_path)
    assert scores(lm, (CONTEXT, CONTINUATION))[0][0] < 0
