"""MambaInLlama: logits against an independent float64 implementation, whole and step by step; precision; kernels."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.models import cache_names
from tests.support import hybrid_checkpoint
from tests.support.late import Late

if TYPE_CHECKING:
    import numpy as np
    import torch

    from scanproof.kernels import operation_table
    from scanproof.kernels.operation import Op
    from scanproof.models.mamba_in_llama import config, loading, model, operations
    from tests.support import hybrid_oracle as oracle
else:
    torch, np, oracle, operation_table = (
        Late("torch"),
        Late("numpy"),
        Late("tests.support.hybrid_oracle"),
        Late("scanproof.kernels.operation_table"),
    )
    config, loading = Late("scanproof.models.mamba_in_llama.config"), Late("scanproof.models.mamba_in_llama.loading")
    model = Late("scanproof.models.mamba_in_llama.model")
    operations = Late("scanproof.models.mamba_in_llama.operations")

MIXERS = ("mamba1", "mamba2")
KINDS = [(mixer, shape) for mixer in MIXERS for shape in hybrid_checkpoint.SHAPES]
each_kind = pytest.mark.parametrize(("mixer", "shape"), KINDS, ids=["-".join(kind) for kind in KINDS])
# transformers' Llama computes norms and rotary angles in float32, in a float64 model too; errors of 2e-6 were measured.
EXACT: dict[str, Any] = {"rtol": 0.0, "atol": 1e-5}


def settings(mixer: str) -> Any:
    return config.Mamba1Settings if mixer == "mamba1" else config.Mamba2Settings


def loaded(folder: Path, mixer: str, shape: str, dtype: str = "float64", **llama: Any) -> model.HybridLlama:
    hybrid_checkpoint.write(folder, mixer, shape, **llama)
    return loading.load(folder, settings(mixer), loading.Precision(weights=getattr(torch, dtype)))


def expected(mixer: str, shape: str, ids: list[int], **llama: Any) -> torch.Tensor:
    mamba, base = hybrid_checkpoint.configs(mixer, shape, **llama)
    weights = {key: value.double().numpy() for key, value in hybrid_checkpoint.tensors(mixer, mamba, base).items()}
    return torch.from_numpy(oracle.logits(weights, mamba, base, ids))


def text(length: int, seed: int = 1) -> list[int]:
    random = torch.Generator().manual_seed(seed)
    return [int(number) for number in torch.randint(0, hybrid_checkpoint.VOCABULARY, (length,), generator=random)]


def whole(lm: model.HybridLlama, ids: list[int]) -> torch.Tensor:
    with torch.no_grad():
        logits: torch.Tensor = lm(torch.tensor([ids])).logits[0]
    return logits


def in_pieces(lm: model.HybridLlama, ids: list[int], *lengths: int) -> torch.Tensor:
    """Logits of a text that is read in pieces of these lengths; the last length is repeated."""
    cache, done = None, 0
    found: list[torch.Tensor] = []
    while done < len(ids):
        length = lengths[min(len(found), len(lengths) - 1)]
        with torch.no_grad():
            output = lm(torch.tensor([ids[done : done + length]]), past_key_values=cache, use_cache=True)
        cache, done = cache_names.read_cache(output), done + length
        found.append(output.logits[0])
    return torch.cat(found)


@each_kind
@pytest.mark.parametrize("length", [1, 3, 29])
def test_logits_are_those_of_the_formulas(tmp_path: Path, mixer: str, shape: str, length: int) -> None:
    ids = text(length)
    torch.testing.assert_close(
        whole(loaded(tmp_path, mixer, shape), ids), expected(mixer, shape, ids), **EXACT, check_dtype=True
    )


@each_kind
@pytest.mark.parametrize(("dtype", "share"), [("float32", 1e-5), ("float16", 0.01), ("bfloat16", 0.05)])
def test_lower_precision_is_close_to_the_formulas(
    tmp_path: Path, mixer: str, shape: str, dtype: str, share: float
) -> None:
    """The mean error as a share of the logits' spread; at most 1e-6, 0.003 and 0.04 were measured."""
    ids = text(29)
    found, wanted = whole(loaded(tmp_path, mixer, shape, dtype), ids), expected(mixer, shape, ids)
    assert found.dtype == getattr(torch, dtype)
    assert (found.double() - wanted).abs().mean() < share * wanted.std()


@each_kind
@pytest.mark.parametrize("lengths", [(1,), (2, 1), (17, 1), (5, 4)], ids=str)
def test_steps_go_on_where_the_prompt_ended(tmp_path: Path, mixer: str, shape: str, lengths: tuple[int, ...]) -> None:
    ids = text(21)
    found = in_pieces(loaded(tmp_path, mixer, shape), ids, *lengths)
    torch.testing.assert_close(found, expected(mixer, shape, ids), **EXACT)


@each_kind
def test_a_batch_padded_on_the_right_scores_each_row_as_if_alone(tmp_path: Path, mixer: str, shape: str) -> None:
    lm = loaded(tmp_path, mixer, shape)
    rows = [text(length, seed=length) for length in (7, 19, 12)]
    batch = torch.tensor([row + text(19 - len(row), seed=99) for row in rows])
    with torch.no_grad():
        found = lm(batch).logits
    for row, logits in zip(rows, found, strict=True):
        torch.testing.assert_close(logits[: len(row)], expected(mixer, shape, row), **EXACT)


@each_kind
def test_generation_takes_the_likeliest_token_of_a_whole_pass(tmp_path: Path, mixer: str, shape: str) -> None:
    lm, ids = loaded(tmp_path, mixer, shape), text(6)
    for _ in range(8):
        ids = [*ids, int(expected(mixer, shape, ids)[-1].argmax())]
    assert generated(lm, [text(6)], 8)[0] == ids


@each_kind
def test_padding_before_a_prompt_changes_nothing_of_what_follows(tmp_path: Path, mixer: str, shape: str) -> None:
    """For generation lm-eval pads on the left; padding that changed a state would change all later positions."""
    lm, prompts = loaded(tmp_path, mixer, shape), [text(4, seed=1), text(9, seed=2)]
    together = generated(lm, prompts, 6)
    alone = [generated(lm, [prompt], 6)[0] for prompt in prompts]
    assert [row[-6:] for row in together] == [row[-6:] for row in alone]
    padded = torch.tensor([[0] * 5 + prompts[0]])
    mask = torch.tensor([[0] * 5 + [1] * 4])
    with torch.no_grad():
        found = lm(padded, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits[0, 5:]
    torch.testing.assert_close(found, expected(mixer, shape, prompts[0]), **EXACT)


@each_kind
def test_beams_keep_their_own_states(tmp_path: Path, mixer: str, shape: str) -> None:
    lm, prompt = loaded(tmp_path, mixer, shape), torch.tensor([text(5)])
    options: dict[str, Any] = {"num_beams": 3, "max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(prompt)
    cached = lm.generate(prompt, attention_mask=mask, eos_token_id=None, **options)
    again = lm.generate(prompt, attention_mask=mask, eos_token_id=None, use_cache=False, **options)
    assert torch.equal(cached, again)


def generated(lm: model.HybridLlama, prompts: list[list[int]], count: int) -> list[list[int]]:
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.tensor([[0] * (longest - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    found = lm.generate(
        ids, attention_mask=mask, max_new_tokens=count, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    return [[int(number) for number in row] for row in found]


def test_the_step_bias_of_mamba_1_is_added_twice(tmp_path: Path) -> None:
    """delta = softplus(W dt + 2 b).

    The published code gives dt_proj its bias and hands the same bias to the scan, which adds it again; so the
    checkpoints were trained.  Mamba itself adds it once, which for these weights is another model: a correction of
    what looks like a slip would lose the published numbers.
    """
    lm = loaded(tmp_path, "mamba1", "8b")
    mamba, base = hybrid_checkpoint.configs("mamba1", "8b")
    weights = {key: value.double().numpy() for key, value in hybrid_checkpoint.tensors("mamba1", mamba, base).items()}
    part = oracle.below(weights, "model.layers.0.mamba.")
    hidden = torch.randn(1, 11, 64, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        found = lm.model.layers[0].mamba(hidden)[0].numpy()
    twice, once = (oracle.mamba1(part, mamba, hidden[0].numpy(), times) for times in (2, 1))
    assert np.abs(found - twice).max() < 1e-12
    assert np.abs(found - once).max() > 0.1


@pytest.mark.parametrize("mixer", MIXERS)
def test_llama_3_scaling_of_the_rotary_frequencies_is_honoured(tmp_path: Path, mixer: str) -> None:
    lm = loaded(tmp_path, mixer, "3b")
    _, base = hybrid_checkpoint.configs(mixer, "3b")
    scaled, plain = (oracle.frequencies(fields, 8) for fields in (base, {**base, "rope_scaling": None}))
    assert lm.model.rotary_emb.inv_freq.numpy() == pytest.approx(scaled, rel=1e-6)
    assert lm.model.rotary_emb.inv_freq.numpy() != pytest.approx(plain, rel=1e-2)
    ids = text(29)
    without = expected(mixer, "3b", ids, rope_scaling=None)
    assert (whole(lm, ids) - without).abs().max() > 100 * EXACT["atol"]


@pytest.mark.parametrize(
    "scaling", [{"rope_type": "linear", "factor": 4.0}, {"type": "linear", "factor": 4.0}], ids=str
)
def test_linear_scaling_in_both_its_spellings(tmp_path: Path, scaling: dict[str, Any]) -> None:
    lm, ids = loaded(tmp_path, "mamba2", "8b", rope_scaling=scaling), text(29)
    wanted = expected("mamba2", "8b", ids, rope_scaling={"rope_type": "linear", "factor": 4.0})
    torch.testing.assert_close(whole(lm, ids), wanted, **EXACT)


def test_the_newer_spelling_of_the_rotary_fields_is_the_same_model(tmp_path: Path) -> None:
    """transformers 5 writes rope_parameters, which transformers 4 ignores without a warning."""
    old, new = (hybrid_checkpoint.write(tmp_path / name, "mamba2", "3b") for name in ("old", "new"))
    data = json.loads((new / "config.json").read_text())
    data["rope_parameters"] = {**data.pop("rope_scaling"), "rope_theta": data.pop("rope_theta")}
    (new / "config.json").write_text(json.dumps(data))
    one, two = (config.read_config(folder, config.Mamba2Settings) for folder in (old, new))
    assert one == two


@pytest.mark.parametrize("mixer", MIXERS)
def test_all_of_a_published_checkpoint_is_bfloat16_unless_asked_otherwise(tmp_path: Path, mixer: str) -> None:
    folder = hybrid_checkpoint.write(tmp_path, mixer, "8b")
    lm = loading.load(folder, settings(mixer), loading.Precision())
    assert {value.dtype for value in lm.state_dict().values()} == {torch.bfloat16}
    _, base = hybrid_checkpoint.configs(mixer, "8b")
    exact = torch.from_numpy(oracle.frequencies(base, 8))
    assert torch.equal(lm.model.rotary_emb.inv_freq, exact.float().bfloat16().float())


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_log_d_and_the_frequencies_stay_in_float32_when_asked(tmp_path: Path, mixer: str) -> None:
    folder = hybrid_checkpoint.write(tmp_path, mixer, "8b")
    stored = hybrid_checkpoint.read_weights(folder)
    precision = loading.Precision(ssm=torch.float32, rope=torch.float32)
    lm = loading.load(folder, settings(mixer), precision)
    for key, value in lm.state_dict().items():
        kept = key.endswith(("mamba.A_log", "mamba.D"))
        assert value.dtype == (torch.float32 if kept else torch.bfloat16), key
        assert torch.equal(value, stored[key].to(value.dtype)), key
    _, base = hybrid_checkpoint.configs(mixer, "8b")
    assert lm.model.rotary_emb.inv_freq.numpy() == pytest.approx(oracle.frequencies(base, 8), rel=1e-6)


def checked(row: Op, call: Any, seen: set[str]) -> Any:
    """`call`, after a check that names, axes and dtypes of its arguments are those of the kernel suite's row."""
    import inspect

    signature = inspect.signature(row.reference)
    described = {argument.name: argument for argument in row.arguments}

    def checking(*args: Any, **kwargs: Any) -> Any:
        given = signature.bind(*args, **kwargs).arguments
        sizes: dict[str, int] = {}
        for name, value in given.items():
            if not isinstance(value, torch.Tensor):
                continue
            axes = described[name].axes.split()
            if row.name == "causal_conv1d_update" and name == "x":
                axes = ["b", "d"]  # Or with positions behind: both forms are the operation's.
            if row.name.startswith("rms"):
                axes = axes[-value.dim() :]
            assert len(axes) == value.dim(), (row.name, name, value.shape)
            for axis, size in zip(axes, value.shape, strict=True):
                assert sizes.setdefault("b" if axis == "N" else axis, size) == size, (row.name, name, axis)
            if described[name].dtype == "float32" or name == "state":
                assert value.dtype == torch.float32, (row.name, name)
            else:
                assert value.dtype == torch.bfloat16, (row.name, name)
        seen.add(row.name)
        return call(*args, **kwargs)

    return checking


@each_kind
def test_the_kernels_are_called_with_what_their_rows_describe(tmp_path: Path, mixer: str, shape: str) -> None:
    """On a GPU the same calls go to the installed kernels, which the kernel suite compares with the same rows."""
    hybrid_checkpoint.write(tmp_path, mixer, shape)
    seen: set[str] = set()
    plain = operations.operations(torch.device("cpu"))
    watched = operations.Operations(
        **{
            item.name: checked(operation_table.find_operation(item.name), getattr(plain, item.name), seen)
            for item in fields(plain)
        }
    )
    lm = loading.load(tmp_path, settings(mixer), loading.Precision())
    for part in lm.modules():
        if hasattr(part, "ops"):
            setattr(part, "ops", watched)  # noqa: B010 - to mypy an attribute of a module is a tensor
    in_pieces(lm, text(9), 7, 1)
    scan = {"selective_scan_fn"} if mixer == "mamba1" else {"mamba_chunk_scan_combined", "rmsnorm_fn"}
    assert seen == scan | {"causal_conv1d_fn", "causal_conv1d_update", "selective_state_update", "rms_norm_fn"}


def test_a_gpu_without_the_kernels_is_told_what_to_install() -> None:
    row = operation_table.find_operation("selective_scan_fn")
    try:
        row.load_implementation()
    except ImportError:
        with pytest.raises(ImportError, match=r"selective_scan_fn of mamba-ssm: .*scanproof\[gpu\]"):
            operations.operations(torch.device("cuda"))
    else:
        assert operations.operations(torch.device("cuda")).selective_scan_fn is row.load_implementation()


def test_a_cache_of_another_kind_is_refused(tmp_path: Path) -> None:
    from transformers import DynamicCache

    for name in (cache_names.NEW, cache_names.OLD):
        with pytest.raises(TypeError, match="a hybrid needs a HybridCache, not a DynamicCache"):
            loaded(tmp_path, "mamba2", "8b")(torch.tensor([[1]]), **{name: DynamicCache()})


def test_a_cache_is_taken_by_the_name_before_and_after_transformers_5_24(tmp_path: Path) -> None:
    lm, tokens = loaded(tmp_path, "mamba2", "8b"), torch.tensor([[5, 6, 7, 8]])
    with torch.no_grad():
        expected = lm(tokens).logits[:, 3:]
        for name in (cache_names.NEW, cache_names.OLD):
            held = cache_names.read_cache(lm(tokens[:, :3], use_cache=True))
            torch.testing.assert_close(lm(tokens[:, 3:], **{name: held}).logits, expected, rtol=1e-5, atol=1e-5)


def test_a_cache_that_no_layer_was_given_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As transformers 5.24 did to whoever knew the earlier name alone: every position was the first."""
    lm = loaded(tmp_path, "mamba2", "8b")
    layer = type(next(each for each in lm.model.layers if hasattr(each, "mamba")))
    forward = layer.forward
    monkeypatch.setattr(layer, "forward", lambda self, hidden, **_: forward(self, hidden))
    with pytest.raises(RuntimeError, match="did not hand the cache to layer 0"), torch.no_grad():
        lm(torch.tensor([[1]]), use_cache=True)


def test_a_cache_that_no_layer_is_given_any_more_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The states of the call before are there, and say nothing of this one."""
    lm = loaded(tmp_path, "mamba2", "8b")
    layer = type(next(each for each in lm.model.layers if hasattr(each, "mamba")))
    forward = layer.forward
    with torch.no_grad():
        held = cache_names.read_cache(lm(torch.tensor([[1]]), use_cache=True))
        monkeypatch.setattr(layer, "forward", lambda self, hidden, **_: forward(self, hidden))
        with pytest.raises(RuntimeError, match="did not hand the cache to layer 0"):
            lm(torch.tensor([[2]]), past_key_values=held)


@pytest.mark.parametrize("mixer", MIXERS)
def test_a_fresh_model_learns(mixer: str) -> None:
    """Gradients reach every parameter."""
    torch.manual_seed(0)
    mamba, base = hybrid_checkpoint.configs(mixer, "8b")
    ssm = config.Mamba1Settings() if mixer == "mamba1" else config.Mamba2Settings(ngroups=8, d_state=8)
    fresh = model.HybridLlama(
        config.HybridConfig(
            llama={key: base[key] for key in (*config.LLAMA_KEYS, "rope_theta", "rope_scaling")},
            d_inner=mamba["d_inner"],
            d_xb=mamba["d_xb"],
            attn_layers=(1, 3),
            ssm=ssm,
        )
    )
    fresh(torch.tensor([text(9)])).logits.square().mean().backward()
    silent = [name for name, value in fresh.named_parameters() if value.grad is None or not value.grad.any()]
    assert not silent
