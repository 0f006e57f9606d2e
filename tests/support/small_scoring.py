"""Tiny random models of every class, as lm-eval loads them, and token requests that share beginnings."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest
from hypothesis import strategies as st

from scanproof.evaluation.worker.checkpoint_check import require_complete_checkpoint
from scanproof.models import register
from tests.support import hybrid_checkpoint, small_families, small_megatron, tiny_models
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof import scoring
    from scanproof.models import loading, states
    from scanproof.scoring import carried_state
else:
    torch, loading = Late("torch"), Late("scanproof.models.loading")
    scoring, states = Late("scanproof.scoring"), Late("scanproof.models.states")
    carried_state = Late("scanproof.scoring.carried_state")

VOCABULARY = 1280
CLOSE = 1e-4
"""Nats between the two engines in float32."""
Tokens = list[int]
Request = tuple[tuple[str, str] | None, Tokens, Tokens]
Answer = tuple[float, bool]
ODD_MAMBA2 = {
    "layer": "Mamba2", "d_state": 8, "headdim": 8, "ngroups": 2, "chunk_size": 4, "d_ssm": 48, "D_has_hdim": True,
    "dt_limit": [0.01, 0.5], "rmsnorm": False, "d_conv": 3,
}  # fmt: skip
ODD_ATTENTION = {
    "causal": True, "head_dim": 8, "num_heads": 4, "num_heads_kv": 2, "mlp_dim": 8, "rotary_emb_dim": 4,
    "rotary_emb_interleaved": True, "softmax_scale": 0.5,
}  # fmt: skip
STATE_SPACES: dict[str, tuple[str, dict[str, Any]]] = {
    "mamba1": ("mamba1", {}),
    "mamba2": ("mamba2", {}),
    "mamba2attn": ("mamba2attn", {}),
    "odd": ("mamba2", {"ssm_cfg": ODD_MAMBA2, "attn_layer_idx": [1], "attn_cfg": ODD_ATTENTION, "n_layer": 3}),
    "transformer": ("transformer", {}),
}
GEMMA = small_families.CONFIGS["llama"] | {"num_key_value_heads": 1, "head_dim": 8, "hidden_activation": "gelu"}


def state_spaces(folder: Path, name: str) -> None:
    """A checkpoint of STATE_SPACES."""
    kind, changes = STATE_SPACES[name]
    loading.save(tiny_models.tiny(kind, vocab_size=VOCABULARY, **changes), folder, torch.float32)


def gemma(folder: Path) -> None:
    """Attention with one key head, its embedding scaled."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(AutoConfig.for_model("gemma", **GEMMA)).save_pretrained(folder)


def hybrid(folder: Path, mixer: str, shape: str) -> None:
    """A MambaInLlama checkpoint."""
    hybrid_checkpoint.write(folder, mixer, shape, vocab_size=VOCABULARY)


FAMILY = {name: partial(small_families.write, family=name) for name in small_families.FAMILIES}
CUT = {"method": "personalized", "start_block": 1, "end_block": 2}
MODELS: dict[str, tuple[str, Callable[[Path], Any], dict[str, Any]]] = {
    **{name: ("mamba_ssm", partial(state_spaces, name=name), {}) for name in STATE_SPACES},
    "pythia": ("hf", FAMILY["gpt_neox"], {}),
    "llama": ("hf", FAMILY["llama"], {}),
    "eager llama": ("hf", FAMILY["llama"], {"attn_implementation": "eager"}),
    "mistral": ("hf", FAMILY["mistral"], {}),
    "gemma": ("hf", gemma, {}),
    "mamba-7b": ("hf", FAMILY["mamba"], {}),
    "mamba_hybrid": ("mamba_hybrid", partial(hybrid, mixer="mamba1", shape="8b"), {}),
    "mamba2_hybrid": ("mamba2_hybrid", partial(hybrid, mixer="mamba2", shape="3b"), {}),
    "megatron": ("mamba2_hybrid_megatron", small_megatron.write, {}),
    "pruned llama": ("depth_pruned", FAMILY["llama"], CUT),
    "pruned mamba": ("depth_pruned", FAMILY["mamba"], CUT),
    "pruned mamba1": ("depth_pruned_mamba_ssm", FAMILY["state-spaces-mamba"], CUT),
    "pruned mamba2attn": ("depth_pruned_mamba_ssm", FAMILY["state-spaces-mamba2attn"], CUT),
}
"""Name -> (class in lm-eval, how its checkpoint is written, further arguments)."""


def model(folder: Path, name: str, **options: Any) -> Any:
    """The lm-eval model of a row of MODELS on the CPU in float32; its checkpoint is written below `folder` once."""
    kind, write, arguments = MODELS[name]
    place = folder / name
    if not place.is_dir():
        place.mkdir(parents=True)
        write(place)
        if kind != "mamba2_hybrid_megatron":
            for file in ("tokenizer.json", "tokenizer_config.json"):
                shutil.copy(small_families.TOKENIZER / file, place)
    return loaded(kind, place, **(arguments | options))


def loaded(kind: str, folder: Path, batch_size: int | str = 4, **options: Any) -> Any:
    """lm-eval's model class `kind` with the checkpoint in a folder."""
    register()
    from lm_eval.api.registry import get_model

    arguments = {"pretrained": str(folder), "dtype": "float32"} | options
    with require_complete_checkpoint():
        return get_model(kind).create_from_arg_obj(arguments, {"batch_size": batch_size, "device": "cpu"})


def numbered(pairs: Sequence[tuple[Tokens, Tokens]]) -> list[Request]:
    """Requests as lm-eval hands them to `_loglikelihood_tokens`, each with a key of its own."""
    return [((str(number), ""), list(context), list(rest)) for number, (context, rest) in enumerate(pairs)]


def plain(lm: Any, pairs: Sequence[tuple[Tokens, Tokens]], rows: int = 4) -> list[Answer]:
    """What lm-eval says, batch by batch."""
    lm.batch_size_per_gpu = rows
    return list(type(lm)._loglikelihood_tokens(lm, numbered(pairs), disable_tqdm=True))


def one_by_one(lm: Any, pairs: Sequence[tuple[Tokens, Tokens]]) -> list[Answer]:
    """What lm-eval says of each by itself."""
    return [plain(lm, [pair], 1)[0] for pair in pairs]


def shared(
    lm: Any, pairs: Sequence[tuple[Tokens, Tokens]], positions: int = 10**6, state_bytes: float = 1e12
) -> tuple[list[Answer], scoring.Tally]:
    """What the engine says within some limits, and its tally; `lm` is plain again afterwards."""
    with installed(lm, positions, state_bytes) as tally:
        return lm._loglikelihood_tokens(numbered(pairs), disable_tqdm=True), tally


@contextmanager
def installed(
    lm: Any, positions: int = 10**6, state_bytes: float = 1e12, say: Callable[[str], None] = lambda _: None
) -> Iterator[scoring.Tally]:
    """The engine in an lm-eval model, within some limits."""
    with mock.patch("scanproof.scoring.choose_limits", return_value=scoring.Limits(positions, state_bytes)):
        tally = scoring.install(lm, say)
        try:
            yield tally
        finally:
            del lm._loglikelihood_tokens, lm.loglikelihood


def apart(one: Sequence[Answer], other: Sequence[Answer]) -> float:
    """Largest difference of two lists of answers in nats; infinite where a greedy flag or a number is not alike."""
    if len(one) != len(other) or any(a[1] != b[1] for a, b in zip(one, other, strict=True)):
        return float("inf")
    return max((abs(a[0] - b[0]) for a, b in zip(one, other, strict=True)), default=0.0)


def tree_of_requests(
    most: int = 12, tokens: int = 300, longest: int = 14
) -> st.SearchStrategy[list[tuple[Tokens, Tokens]]]:
    """(context, continuation) pairs that go on from each other: shared, nested, duplicate, one-token branches.

    A piece is a start chosen among the sequences so far, cut anywhere, and a few new tokens.
    """
    piece = st.tuples(
        st.integers(0, 10**6), st.integers(0, 10**6), st.lists(st.integers(1, tokens - 1), min_size=1, max_size=longest)
    )
    return st.lists(st.tuples(piece, st.integers(1, 10**6)), min_size=1, max_size=most).map(_grown)


def _grown(pieces: list[tuple[tuple[int, int, list[int]], int]]) -> list[tuple[Tokens, Tokens]]:
    known: list[Tokens] = [[]]
    pairs = []
    for (source, cut, new), split in pieces:
        start = known[source % len(known)]
        whole = [*start[: cut % (len(start) + 1)], *new]
        whole = whole if len(whole) > 1 else [*whole, 7]
        known.append(whole)
        at = 1 + split % (len(whole) - 1)
        pairs.append((whole[:at], whole[at:]))
    return pairs


def forgotten_scan_state(patch: pytest.MonkeyPatch) -> None:
    """Every pass begins without the states that its parents left."""
    before = carried_state.CarriedState.read_scan_states

    def wrong(self: Any, slot: int, empty: Any) -> Any:
        state = before(self, slot, empty)
        return states.ScanState(state.conv, torch.zeros_like(state.ssm))

    patch.setattr("scanproof.scoring.carried_state.CarriedState.read_scan_states", wrong)
