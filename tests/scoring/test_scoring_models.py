"""For every model class, a tree of requests gets the scores of single requests, with any batch and memory limit."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from scanproof.embedded import MIRROR
from tests.support import small_scoring as small
from tests.support.late import Late

if TYPE_CHECKING:
    import torch
else:
    torch = Late("torch")

Pairs = list[tuple[list[int], list[int]]]
SHARED_START: Pairs = [
    ([1, 2, 3, 4, 5, 6, 7], [8, 9]),
    ([1, 2, 3, 4, 5, 6, 7], [8, 10, 11]),
    ([1, 2, 3, 4, 5, 6, 7], [12]),
    ([1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 18, 19], [20]),
    ([1, 2, 3, 4, 5, 6, 7, 8, 9, 13, 14, 15, 16, 17, 18, 19, 20], [21]),
    ([1, 2, 3], [30, 31]),
    ([1, 2, 3], [30, 32]),
    ([1], [2]),
    ([1, 2, 3], [30, 31]),
    ([40, 41], [42]),
]
"""Shared, nested, duplicate and one-token branches; prefixes of several lengths are in one batch."""
LIMITS = st.tuples(st.sampled_from([1, 7, 40, 10**6]), st.sampled_from([0.0, 3e3, 3e4, 1e12]))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("scoring")


pytestmark = pytest.mark.usefixtures("offline")


@pytest.mark.parametrize("name", small.MODELS)
def test_a_tree_scores_as_its_requests_one_by_one(folder: Path, name: str) -> None:
    lm = small.model(folder, name)
    # One list for all examples, so that hypothesis can reproduce a failure.
    wanted = cache(lambda context, rest: small.plain(lm, [(list(context), list(rest))], 1)[0])

    @settings(max_examples=6, derandomize=True, suppress_health_check=list(HealthCheck))
    @example(SHARED_START, (10**6, 1e12))
    @example(SHARED_START, (1, 0.0))
    @given(small.tree_of_requests(), LIMITS)
    def check(pairs: Pairs, limits: tuple[int, float]) -> None:
        answers, tally = small.shared(lm, pairs, *limits)
        expected = [wanted(tuple(context), tuple(rest)) for context, rest in pairs]
        assert small.apart(expected, answers) < small.CLOSE
        assert tally.distinct_tokens <= tally.tokens <= 1.08 * tally.distinct_tokens
        assert not tally.notes

    check()


@pytest.mark.parametrize("name", ["mamba1", "mamba2attn", "mistral", "megatron"])
def test_a_text_longer_than_chunks_and_windows(folder: Path, name: str) -> None:
    """The prefix and the branch are both longer than several chunks of the scan and several sliding windows."""
    lm = small.model(folder, name)
    text = [3 + 7 * number % 290 for number in range(150)]
    pairs = [(text[:end], text[end : end + 30]) for end in (1, 2, 9, 70, 71, 100)]
    pairs += [([*text[:end], 299], text[end : end + 40]) for end in (3, 64, 65, 100)]
    answers, tally = small.shared(lm, pairs)
    assert small.apart(small.one_by_one(lm, pairs), answers) < small.CLOSE
    assert tally.tokens < tally.plain_tokens / 2


@pytest.mark.parametrize("name", ["mamba2attn", "llama", "mamba_hybrid"])
def test_which_models_it_refuses(folder: Path, name: str) -> None:
    from scanproof import scoring

    lm = small.model(folder, name)
    for attribute, value, reason in (
        ("backend", "seq2seq", "it is no causal model but seq2seq"),
        ("_world_size", 2, "it is spread over 2 processes"),
    ):
        before = getattr(lm, attribute)
        setattr(lm, attribute, value)
        with pytest.raises(scoring.Unsupported, match=reason):
            scoring.install(lm, lambda _: None)
        setattr(lm, attribute, before)
    lm.model.lm_head.weight = torch.nn.Parameter(lm.model.lm_head.weight.to("meta"))
    with pytest.raises(scoring.Unsupported, match="its weights lie on several devices: cpu, meta"):
        scoring.install(lm, lambda _: None)
    assert "_loglikelihood_tokens" not in vars(lm)


@pytest.mark.parametrize("family", ["qwen2", "mamba2"])
def test_an_architecture_that_nobody_taught_it_is_refused_by_name(tmp_path: Path, family: str) -> None:
    from scanproof import scoring

    lm = small.loaded("hf", small.FAMILY[family](tmp_path))
    with pytest.raises(scoring.Unsupported, match=f"of the architecture '{family}'"):
        scoring.install(lm, lambda _: None)
    assert "_loglikelihood_tokens" not in vars(lm)


@pytest.mark.parametrize("name", ["llama", "mamba-7b"])
@pytest.mark.parametrize("part", ["model", "layer"])
def test_code_that_came_with_a_checkpoint_is_refused(folder: Path, name: str, part: str) -> None:
    """Such code may use a known architecture's name for another model, whose layers would ignore the state."""
    from scanproof import scoring

    lm = small.model(folder, name)
    for module in [lm.model] if part == "model" else list(lm.model.modules()):
        if part == "model" or hasattr(module, "layer_idx"):
            own = {"__module__": "transformers_modules.modeling_own"}
            module.__class__ = type("Own", (type(module),), own)
    with pytest.raises(scoring.Unsupported, match=r"transformers_modules\.modeling_own\.Own"):
        scoring.install(lm, lambda _: None)


def test_a_mixer_that_nobody_taught_it_is_refused_beside_known_ones(folder: Path) -> None:
    from scanproof import scoring

    lm = small.model(folder, "mamba2attn")
    mixer = lm.model.backbone.layers[0].mixer
    mixer.__class__ = type("Mamba3", (type(mixer),), {"__module__": "mamba_ssm.modules.mamba3"})
    with pytest.raises(scoring.Unsupported, match=r"mamba_ssm\.modules\.mamba3\.Mamba3"):
        scoring.install(lm, lambda _: None)


def test_attention_that_looks_ahead_is_refused(folder: Path) -> None:
    from scanproof import scoring

    lm = small.model(folder, "mamba2attn")
    attention = next(block.mixer for block in lm.model.backbone.layers if hasattr(block.mixer, "causal"))
    attention.causal = False
    with pytest.raises(scoring.Unsupported, match="its attention is not causal"):
        scoring.install(lm, lambda _: None)


@pytest.mark.parametrize("name", ["mamba-7b", "megatron"])
def test_an_activation_that_no_kernel_has_is_refused(folder: Path, name: str) -> None:
    from scanproof import scoring

    lm = small.model(folder, name)
    for module in lm.model.modules():
        if hasattr(module, "A_log"):
            module.activation = "relu"
    with pytest.raises(scoring.Unsupported, match="the activation of its mixers is relu"):
        scoring.install(lm, lambda _: None)


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_positions_that_turn_with_the_length_of_a_text_are_refused(tmp_path: Path, kind: str) -> None:
    """Beyond its training length such a model rotates earlier keys by other angles: a difference of 2.5 nats."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from scanproof import scoring

    factors = {"long_factor": [4.0] * 4, "short_factor": [1.0] * 4} if kind == "longrope" else {}
    positions = {"rope_type": kind, "factor": 4.0, "rope_theta": 10000.0, **factors}
    config = AutoConfig.for_model("llama", **{**small.GEMMA, "rope_parameters": positions})
    lm = small.loaded("hf", small.FAMILY["llama"](tmp_path))
    lm._model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(scoring.Unsupported, match=f"its positions are of the type {kind}"):
        scoring.install(lm, lambda _: None)


def test_logits_of_all_positions_are_not_taken_for_those_that_are_scored(folder: Path) -> None:
    """A model that uses the projection's weights without calling the projection computes logits at all positions."""

    def forward(self: Any, tokens: torch.Tensor, **options: object) -> SimpleNamespace:
        return SimpleNamespace(logits=self.model(tokens, **options).last_hidden_state @ self.lm_head.weight.T)

    lm = small.model(folder, "llama")
    lm.model.__class__ = type("Llama", (type(lm.model),), {"forward": forward})
    pairs = [([1, 2, 3], [4]), ([5, 6, 7], [8])]
    assert small.apart(small.plain(lm, pairs), small.plain(small.model(folder, "llama"), pairs)) < small.CLOSE
    with pytest.raises(RuntimeError, match="does not call its vocabulary projection"):
        small.shared(lm, pairs)


def test_an_answer_that_is_missing_is_no_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """0 nats would mean a probability of 1."""
    from scanproof.scoring import engine

    lm = small.model(folder, "llama")
    monkeypatch.setattr(engine.Scores, "_add", lambda *_: None)
    with pytest.raises(RuntimeError, match="10 of 10 requests were not answered"):
        small.shared(lm, SHARED_START)


def test_an_lm_eval_class_that_calls_its_model_otherwise_is_refused(folder: Path) -> None:
    """`steered` changes the layers for the time of `_model_call`."""
    from scanproof import scoring

    lm = small.model(folder, "llama")
    lm.__class__ = type("Steered", (type(lm),), {"_model_call": lambda self, *given: None})
    with pytest.raises(scoring.Unsupported, match="Steered has a _model_call of its own"):
        scoring.install(lm, lambda _: None)


STAND_INS = {
    "mamba1-tiny": "mamba_ssm",
    "mamba2-tiny": "mamba_ssm",
    "mamba2attn-tiny": "mamba_ssm",
    "pythia-tiny": "hf",
    "mamba-hybrid-tiny": "mamba_hybrid",
    "mamba2-hybrid-tiny": "mamba2_hybrid",
    "mamba-7b-tiny": "hf",
    "megatron-hybrid-tiny": "mamba2_hybrid_megatron",
}
OTHERWISE_ROUNDED = ("mamba-7b-tiny", "megatron-hybrid-tiny")
"""transformers' PyTorch paths round step sizes to bfloat16; kernels and forms do not."""


def questions() -> Pairs:
    """72 requests: 24 questions after beginnings of 0, 20 or 40 tokens, with three answers each."""
    draw = torch.Generator().manual_seed(1)

    def tokens(low: int, high: int) -> list[int]:
        count = int(torch.randint(low, high + 1, (1,), generator=draw))
        return list(torch.randint(1, 300, (count,), generator=draw).tolist())

    start = tokens(40, 40)
    contexts = [start[: 20 * (number % 3)] + tokens(3, 40) for number in range(24)]
    return [(context, tokens(1, 5)) for context in contexts for _ in range(3)]


def values(answers: list[small.Answer]) -> torch.Tensor:
    return torch.tensor([value for value, _ in answers], dtype=torch.float64)


@pytest.mark.parametrize("name", STAND_INS)
def test_bfloat16_moves_as_much_as_another_batch_size_does(name: str) -> None:
    """Each answer is as close to one of plain's answers at batch sizes 1, 7 and 64 as these are to each other.

    "As near" is the largest move among all 72 requests, or the spacing of bfloat16 at the answer where that is more,
    and at most 5 of 100 requests more than plain's own may move at all.  Where plain rounds otherwise than any kernel,
    the engine's error against float32 must not exceed plain's own by more than a quarter.
    """
    pairs = questions()
    lm = small.loaded(STAND_INS[name], MIRROR / "scanproof" / name, dtype="bfloat16")
    plain = torch.stack([values(small.plain(lm, pairs, rows)) for rows in (1, 7, 64)])
    got = values(small.shared(lm, pairs)[0])
    if name in OTHERWISE_ROUNDED:
        exact = small.loaded(STAND_INS[name], MIRROR / "scanproof" / name, dtype="float32")
        truth = values(small.plain(exact, pairs))
        assert (got - truth).square().mean().sqrt() < 1.25 * (plain[0] - truth).square().mean().sqrt()
        return
    moves = plain.max(dim=0).values - plain.min(dim=0).values
    spacing = 2.0 ** (got.abs().log2().floor() - 7)
    nearest = (plain - got).abs().min(dim=0).values
    assert (nearest <= torch.maximum(moves.max(), spacing)).all()
    assert (nearest > 0).double().mean() <= (moves > 0).double().mean() + 0.05


def test_a_device_without_the_kernels_that_hand_states_over_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Like a GPU without mamba_ssm, where transformers' own path runs a Mamba."""
    from scanproof import scoring

    def missing(*_: Any) -> None:
        raise ImportError("scoring on a GPU needs selective_scan_fn of mamba_ssm")

    monkeypatch.setattr("scanproof.scoring.network.operations", missing)
    lm = small.model(folder, "mamba-7b")
    with pytest.raises(scoring.Unsupported, match=r"kernels that are not installed: .* selective_scan_fn of mamba_ssm"):
        scoring.install(lm, lambda _: None)
    assert "_loglikelihood_tokens" not in vars(lm)
    scoring.install(small.model(folder, "llama"), lambda _: None)
