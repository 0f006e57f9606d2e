"""The model classes that remove a block of layers, on tiny checkpoints of every family."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.evaluation.worker.checkpoint_check import require_complete_checkpoint
from scanproof.models import cache_names
from scanproof.models.pruning.blocks import LayerBlock, PruningError
from tests.support import small_families as small
from tests.support.late import Late
from tests.support.small_families import is_state_spaces, pruned

if TYPE_CHECKING:
    import numpy as np
    import torch
    import transformers

    from scanproof.models import loading, states
    from scanproof.models.against_float64 import decoding
    from scanproof.models.pruning import layer_distance, removal
else:
    np, torch, transformers = Late("numpy"), Late("torch"), Late("transformers")
    loading, removal = Late("scanproof.models.loading"), Late("scanproof.models.pruning.removal")
    decoding, states = Late("scanproof.models.against_float64.decoding"), Late("scanproof.models.states")
    layer_distance = Late("scanproof.models.pruning.layer_distance")

TRANSFORMERS = tuple(family for family in small.FAMILIES if family not in small.STATE_SPACES)
BLOCKS = [(0, 0), (1, 2), (2, 4)]
TEXT = "Question: What color is a parsam?\nAnswer: pale gray, and the sky over the harbor was dark."


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("families")
    for family in small.FAMILIES:
        small.write(folder / family, family)
    return folder


pytestmark = pytest.mark.usefixtures("offline")


def plain(folder: Path, dtype: str = "float64") -> Any:
    """The same checkpoint without our class."""
    if is_state_spaces(folder):
        return loading.load(folder, getattr(torch, dtype))
    model: Any = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    return model.eval()


def ids(length: int = 19, rows: int = 2) -> torch.Tensor:
    return torch.randint(0, small.VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(1))


def logits(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(tokens).logits
    return found


@pytest.mark.parametrize(("start", "end"), BLOCKS)
@pytest.mark.parametrize("family", small.FAMILIES)
def test_logits_are_those_of_the_shallower_checkpoint(
    checkpoints: Path, tmp_path: Path, family: str, start: int, end: int
) -> None:
    wanted = plain(small.shallower(checkpoints / family, tmp_path / "cut", family, start, end))
    lm = pruned(checkpoints / family, start_block=start, end_block=end)
    assert lm.removed == LayerBlock(start, end)
    assert torch.equal(logits(lm.model, ids()), logits(wanted, ids()))
    assert not torch.equal(logits(lm.model, ids()), logits(plain(checkpoints / family), ids()))
    single = pruned(checkpoints / family, start_block=start, end_block=end, dtype="float32")
    torch.testing.assert_close(
        logits(single.model, ids()).double(), logits(wanted, ids()).double(), rtol=1e-3, atol=1e-3
    )


@pytest.mark.parametrize("family", ["mamba", "mamba2"])
def test_mamba_logits_are_those_of_the_float64_reference(checkpoints: Path, family: str) -> None:
    """transformers computes parts of both families in float32, whatever the dtype; the reference does not."""
    from safetensors.torch import load_file

    from scanproof.models import language_model
    from scanproof.models.layout import StateSpacesConfig

    mamba2 = {"layer": "Mamba2", "d_state": 16, "headdim": 16, "chunk_size": 8}
    settings: dict[str, Any] = {"d_state": 8} if family == "mamba" else mamba2
    tied = family == "mamba"
    config = StateSpacesConfig(
        d_model=32, n_layer=small.LAYERS, vocab_size=small.VOCABULARY, ssm_cfg=settings, tie_embeddings=tied
    )
    reference = language_model.StateSpacesLM(config, torch.float64)
    state = load_file(checkpoints / family / "model.safetensors")
    state["backbone.embedding.weight"] = state.pop("backbone.embeddings.weight")
    reference.load_state_dict({"lm_head.weight": state["backbone.embedding.weight"]} | state)
    removal.remove_block(reference, LayerBlock(1, 2))
    lm = pruned(checkpoints / family, start_block=1, end_block=2, dtype="float32")
    wanted = logits(reference.eval(), ids())
    torch.testing.assert_close(logits(lm.model, ids()).double(), wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("family", small.FAMILIES)
def test_the_full_model_is_left_as_it_is(checkpoints: Path, family: str) -> None:
    lm = pruned(checkpoints / family, "full")
    assert lm.removed is None
    assert torch.equal(logits(lm.model, ids()), logits(plain(checkpoints / family), ids()))


@pytest.mark.parametrize(("start", "end"), BLOCKS)
@pytest.mark.parametrize("family", TRANSFORMERS)
def test_generation_with_a_cache_is_generation_without(checkpoints: Path, family: str, start: int, end: int) -> None:
    """Generate token by token: from the cache, and from the whole sequence again."""
    model = pruned(checkpoints / family, start_block=start, end_block=end).model
    prompt = ids(9)
    options = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.no_grad():
        out = model.generate(
            prompt, attention_mask=torch.ones_like(prompt), return_dict_in_generate=True, output_logits=True, **options
        )
    sequence = prompt
    for step in range(12):
        last = logits(model, sequence)[:, -1]
        torch.testing.assert_close(out.logits[step], last.to(out.logits[step].dtype), rtol=1e-5, atol=1e-5)
        sequence = torch.cat([sequence, last.argmax(-1, keepdim=True)], dim=1)
    assert torch.equal(out.sequences, sequence)
    caches = out.cache_params if "cache_params" in out else cache_names.read_cache(out)
    assert len(caches.layers) == small.LAYERS - (end - start + 1)


@pytest.mark.parametrize(("start", "end"), BLOCKS)
@pytest.mark.parametrize("family", small.STATE_SPACES)
def test_generation_from_states_is_generation_without(checkpoints: Path, family: str, start: int, end: int) -> None:
    """Generate token by token: from the states of the remaining layers, and from the whole sequence again."""
    model = pruned(checkpoints / family, start_block=start, end_block=end).model
    attention = {0: [0, 3], 1: [2], 2: [1]}[start] if "attn" in family else []
    state = model.initial_state(2)
    kinds = [isinstance(layer, states.AttentionState) for layer in state.layers]
    assert kinds == [layer in attention for layer in range(small.LAYERS - (end - start + 1))]
    prompts = [ids(9)[0].tolist(), ids(9)[1].tolist(), ids(5)[0].tolist()]
    found = decoding.generate_greedily(model, prompts, 12, lambda _: False)
    for prompt, generated in zip(prompts, found, strict=True):
        sequence = list(prompt)
        for _ in range(12):
            sequence.append(int(logits(model, torch.tensor([sequence]))[0, -1].argmax()))
        assert generated == sequence[len(prompt) :]
    with torch.no_grad():
        stepped, after = decoding.run_in_pieces(model, ids(), [1] * ids().shape[1])
    torch.testing.assert_close(stepped, logits(model, ids()), rtol=1e-10, atol=1e-10)
    assert all(layer.seen == ids().shape[1] for layer in after.layers if isinstance(layer, states.AttentionState))


@pytest.mark.parametrize("family", small.FAMILIES)
def test_lm_eval_generates_with_the_shallower_model(checkpoints: Path, tmp_path: Path, family: str) -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    from scanproof.models.state_spaces import StateSpaces

    options = {"until": ["\n\n"], "max_gen_toks": 12, "do_sample": False}
    requests = [
        Instance(request_type="generate_until", doc={}, arguments=(text, options), idx=number)
        for number, text in enumerate((TEXT, TEXT[:30]))
    ]
    cut = small.shallower(checkpoints / family, tmp_path / "cut", family, 1, 2)
    unpruned = StateSpaces if family in small.STATE_SPACES else HFLM
    wanted = unpruned(pretrained=str(cut), dtype="float64", device="cpu", batch_size=1)
    lm = pruned(checkpoints / family, start_block=1, end_block=2)
    lm.batch_size_per_gpu = 1
    assert lm.generate_until(requests, disable_tqdm=True) == wanted.generate_until(requests, disable_tqdm=True)


def assert_same_weights(one: Any, other: Any) -> None:
    first, second = one.state_dict(), other.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.parametrize("family", TRANSFORMERS)
def test_a_pruned_model_can_be_saved_and_loaded(checkpoints: Path, tmp_path: Path, family: str) -> None:
    model = pruned(checkpoints / family, start_block=1, end_block=2).model
    model.save_pretrained(tmp_path)
    with require_complete_checkpoint():
        again = plain(tmp_path)
    assert_same_weights(again, model)
    # The alignment of a tensor in a mapped file changes the order of summation.
    torch.testing.assert_close(logits(again, ids()), logits(model, ids()), rtol=1e-12, atol=1e-12)
    assert json.loads((tmp_path / "config.json").read_text())["num_hidden_layers"] == small.LAYERS - 2


def test_a_pruned_state_spaces_model_can_be_saved_and_loaded(checkpoints: Path, tmp_path: Path) -> None:
    model = pruned(checkpoints / "state-spaces-mamba2attn", start_block=1, end_block=2).model
    loading.save(model, tmp_path, torch.float64)
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["n_layer"], config["attn_layer_idx"]) == (3, [2])
    torch.testing.assert_close(logits(plain(tmp_path), ids()), logits(model, ids()), rtol=1e-6, atol=1e-6)


def zigzag(folder: Path) -> Path:
    """A diagram of five layers: one feature exists in all layers, two more in layers 2 and 3 only."""
    path = folder / "zigzag.csv"
    path.write_text("dimension,birth,death\n" + "1,1,12\n" + "1,5,9\n" * 20)
    return path


@pytest.mark.parametrize("family", small.FAMILIES)
def test_persistence_removes_what_the_file_chooses(checkpoints: Path, tmp_path: Path, family: str) -> None:
    lm = pruned(checkpoints / family, "persistence", zigzag_output=str(zigzag(tmp_path)), p=0.9)
    assert lm.removed == LayerBlock(2, 3)
    by_hand = pruned(checkpoints / family, start_block=2, end_block=3)
    assert torch.equal(logits(lm.model, ids()), logits(by_hand.model, ids()))


def sample(folder: Path, lines: int = 7) -> Path:
    path = folder / "sample.txt"
    path.write_text("\n\n".join(TEXT.replace("\n", " ")[: 30 + 9 * number] for number in range(lines)) + "\n")
    return path


def naive(
    checkpoints: Path, family: str, texts: list[list[int]], metric: str, between: int, last: bool
) -> tuple[float, ...]:
    """The same distances in plain Python, from all hidden states: the embedding, then each layer's output."""
    model = plain(checkpoints / family)
    base = getattr(model, getattr(model, "base_model_prefix", "backbone"))
    table = base.embedding if family in small.STATE_SPACES else model.get_input_embeddings()
    states: list[list[Any]] = [[table(torch.tensor(text)).detach().double().numpy() for text in texts]]
    for layer in base.layers:
        states.append([])

        def keep(_: Any, __: Any, out: Any, kept: list[Any] = states[-1]) -> None:
            hidden = out[0] if isinstance(out, tuple) else out
            kept.append(hidden[0].double().numpy())

        layer.register_forward_hook(keep)
    for text in texts:
        logits(model, torch.tensor([text]))
    result = []
    for start in range(small.LAYERS + 1 - between):
        values = []
        for x, y in zip(states[start], states[start + between], strict=True):
            for a, b in list(zip(x, y, strict=True))[-1 if last else 0 :]:
                cosine = float(np.dot(a, b) / (np.linalg.norm(a) * np.linalg.norm(b)))
                values.append(math.acos(max(-1, min(1, cosine))) / math.pi if metric == "angular" else 1 - cosine)
        result.append(math.fsum(values) / len(values))
    return tuple(result)


@pytest.mark.parametrize("script", [False, True])
@pytest.mark.parametrize("metric", ["angular", "bi_score"])
@pytest.mark.parametrize("family", small.FAMILIES)
def test_distances_are_those_of_all_states_at_once(
    checkpoints: Path, tmp_path: Path, family: str, metric: layer_distance.Metric, script: bool
) -> None:
    lm = pruned(checkpoints / family, "full")
    texts = [lm.tokenizer(text)["input_ids"] for text in layer_distance.read_sample(sample(tmp_path), 100)]
    between, last = 2 + script, metric == "angular" and not script
    expected = naive(checkpoints, family, texts, metric, between, last)
    found = layer_distance.measure_distances(lm.model, texts, layer_distance.choose_definition(metric, 2, script))
    assert found == pytest.approx(expected, rel=1e-9)
    cut = pruned(
        checkpoints / family,
        metric,
        block_size=2,
        sample=str(sample(tmp_path)),
        definition="script" if script else "paper",
    )
    start = expected.index(min(expected))
    assert cut.removed == LayerBlock(start, start + 1)
    by_hand = pruned(checkpoints / family, start_block=start, end_block=start + 1)
    assert torch.equal(logits(cut.model, ids()), logits(by_hand.model, ids()))


def test_a_sample_is_read_up_to_its_limits(checkpoints: Path, tmp_path: Path) -> None:
    lm = pruned(checkpoints / "llama", "full")
    lines = list(lm._encode_sample(sample(tmp_path), texts=3, tokens=6))
    assert [len(line) for line in lines] == [6, 6, 6]
    pile = tmp_path / "pile.jsonl"
    pile.write_text(json.dumps({"text": "one\ntwo", "meta": 1}) + "\n" + json.dumps({"text": "three"}) + "\n")
    assert list(layer_distance.read_sample(pile, 100)) == ["one\ntwo", "three"]


def test_states_do_not_outlive_their_text(checkpoints: Path, tmp_path: Path) -> None:
    model = pruned(checkpoints / "llama", "full").model
    chosen = layer_distance.choose_definition("bi_score", 2, False)
    with layer_distance.capture_states(removal.find_layers(model), False) as states:
        layer_distance.measure_distances(model, ([1, 2, 3] for _ in range(4)), chosen)
        held = len(states)
    # The outer list gets the states of all four texts: the inner context has removed its hooks.
    assert held == 4 * (small.LAYERS + 1)
    assert not any(layer._forward_hooks or layer._forward_pre_hooks for layer in removal.find_layers(model))


@pytest.mark.parametrize(
    ("method", "arguments", "message"),
    [
        ("half", {}, "method=half: unknown; one of full, personalized, persistence, angular, bi_score"),
        ("personalized", {"start_block": 1}, "method=personalized needs end_block"),
        ("personalized", {"start_block": 1, "end_block": 5}, "the model's layers are 0 to 4"),
        ("personalized", {"start_block": 3, "end_block": 2}, "the first may not lie behind the last"),
        ("personalized", {"start_block": 0, "end_block": 4}, "this is every layer"),
        ("personalized", {"start_block": 0, "end_block": 4, "p": 0.9}, "method=personalized takes no p"),
        ("persistence", {"p": 0.9}, "method=persistence needs zigzag_output"),
        ("persistence", {"p": 0.9, "zigzag_output": "absent.csv"}, "absent.csv: there is no such file"),
        ("angular", {"block_size": 2, "sample": "absent.txt"}, "absent.txt: there is no such file"),
        ("angular", {"block_size": 0, "sample": "x"}, "block_size=0: expected a whole number"),
        ("bi_score", {"block_size": 6, "sample": "x", "definition": "mine"}, "definition=mine: unknown"),
        ("full", {"sample": "x"}, "method=full takes no sample"),
    ],
)
def test_wrong_arguments_are_told(checkpoints: Path, method: str, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(PruningError, match=message):
        pruned(checkpoints / "llama", method, **arguments)


def test_a_sample_without_use_is_told(checkpoints: Path, tmp_path: Path) -> None:
    path = tmp_path / "sample.jsonl"
    model = pruned(checkpoints / "llama", "full").model
    path.write_text('{"text": "a"}\n{"words": 1}\n')
    with pytest.raises(PruningError, match=r"sample\.jsonl:2: expected a JSON object with a string `text`"):
        list(layer_distance.read_sample(path, 5))
    with pytest.raises(PruningError, match="has no token"):
        layer_distance.measure_distances(model, [[]], layer_distance.choose_definition("angular", 2, False))
    with pytest.raises(PruningError, match="5 layers, and 6 were to be compared"):
        layer_distance.measure_distances(model, [[1]], layer_distance.choose_definition("angular", 5, True))
    with torch.no_grad():
        model.model.layers[2].mlp.down_proj.weight.fill_(torch.nan)
    with pytest.raises(PruningError, match="around layer 1 are not finite"):
        layer_distance.measure_distances(model, [[1, 2]], layer_distance.choose_definition("bi_score", 2, False))
