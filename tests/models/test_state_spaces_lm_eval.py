"""The model class `mamba_ssm` as lm-eval uses it, on the embedded checkpoints."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.embedded import MIRROR
from scanproof.models import register
from scanproof.models.layout import CheckpointError
from tests.support.late import Late

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


def generated(lm: Any, prompts: list[str], **settings: Any) -> list[str]:
    """The continuations that lm-eval's `generate_until` returns."""
    from lm_eval.api.instance import Instance

    given = [(prompt, {"max_gen_toks": 12, **settings}) for prompt in prompts]
    requests = [
        Instance(request_type="generate_until", doc={}, arguments=pair, idx=number) for number, pair in enumerate(given)
    ]
    answers: list[str] = lm.generate_until(requests, disable_tqdm=True)
    return answers


def most_likely(lm: Any, name: str, prompt: str, count: int = 12) -> str:
    """The same continuations, with a full pass for every token, one prompt at a time."""
    network = loading.load(MIRROR / name, torch.float64)
    tokens = lm.tok_encode(prompt) or [lm.prefix_token_id]
    start = len(tokens)
    with torch.no_grad():
        while len(tokens) < start + count and (len(tokens) == start or tokens[-1] != lm.eot_token_id):
            tokens = [*tokens, int(network(torch.tensor([tokens])).logits[0, -1].argmax())]
    text: str = lm.tok_decode(tokens[start:])
    return text


PROMPTS = [CONTEXT, "Question: Is a parsam", "The", CONTEXT * 2, "Answer: Is a parsam", "One day", ""]


@pytest.mark.parametrize("name", ["mamba1-tiny", "mamba2-tiny", "mamba2attn-tiny"])
def test_generation_is_greedy_whatever_stands_beside_a_prompt(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    lm = model(monkeypatch, pretrained=f"scanproof/{name}", batch_size=7)
    texts = generated(lm, PROMPTS)
    assert texts == [most_likely(lm, f"scanproof/{name}", prompt) for prompt in PROMPTS]
    assert len(set(texts)) > 2


def test_generation_ends_at_a_stop_sequence_and_leaves_it_out(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model(monkeypatch)
    whole = generated(lm, PROMPTS)
    for term in (" ", "a", "e", "."):
        assert generated(lm, PROMPTS, until=[term]) == [text.partition(term)[0] for text in whole]
    assert generated(lm, PROMPTS, until=["never seen"], top_p=0.9) == whole


def test_generation_ends_at_the_end_of_a_text(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model(monkeypatch)
    answer, longer = generated(lm, [CONTEXT, "The"], max_gen_toks=120)
    assert answer == most_likely(lm, "scanproof/mamba2-tiny", CONTEXT, count=120)
    assert len(answer) < 30 < 100 < len(longer)


def test_generation_takes_no_step_after_every_row_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model(monkeypatch)
    calls = []
    lm.model.backbone.register_forward_hook(lambda *_: calls.append(1))
    lm._model_generate(torch.tensor([lm.tok_encode(CONTEXT)]), 500, [" "])
    assert len(calls) < 5


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
    with pytest.raises(ValueError, match=r"do_sample=True: .* generates greedily"):
        generated(model(monkeypatch), [CONTEXT], do_sample=True, temperature=0.7)
    with pytest.raises(ValueError, match=r"num_beams=4: .* generates greedily"):
        generated(model(monkeypatch), [CONTEXT], num_beams=4)


def test_a_model_on_a_gpu_refuses_to_generate(monkeypatch: pytest.MonkeyPatch) -> None:
    lm = model(monkeypatch)
    monkeypatch.setattr(lm, "_device", torch.device("cuda"))
    with pytest.raises(NotImplementedError, match=r"on cuda .* log-likelihoods only"):
        lm._model_generate(torch.zeros(1, 3, dtype=torch.long), 5, [])


@pytest.mark.skipif("torch.cuda.is_available()", reason="needs a machine without a GPU")
@pytest.mark.parametrize("device", ["cuda", "cuda:0"])
def test_a_gpu_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch, device: str) -> None:
    with pytest.raises(ValueError, match=f"device={device}: there is no GPU here"):
        model(monkeypatch, device=device)


def test_the_checkpoint_may_be_given_by_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    lm = model(monkeypatch, pretrained=str(MIRROR / "scanproof/mamba1-tiny"))
    monkeypatch.chdir(tmp_path)
    assert scores(lm, (CONTEXT, CONTINUATION))[0][0] < 0
