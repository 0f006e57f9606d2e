"""Reading MambaInLlama checkpoints: all published forms of the files, all mistakes, memory."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from scanproof.models.layout import CheckpointError
from tests.support import hybrid_checkpoint
from tests.support.late import Late

if TYPE_CHECKING:
    import torch

    from scanproof.models import shards
    from scanproof.models.mamba_in_llama import config, loading, model
    from tests.support import counted_memory as counted
else:
    torch, counted, shards = Late("torch"), Late("tests.support.counted_memory"), Late("scanproof.models.shards")
    config, loading = Late("scanproof.models.mamba_in_llama.config"), Late("scanproof.models.mamba_in_llama.loading")

MIXERS = ("mamba1", "mamba2")
FILES = ("safetensors", "bin", "safetensors-shards", "bin-shards")
A_KEY = "model.layers.0.mamba.out_proj.weight"


def load(folder: Path, mixer: str = "mamba2", dtype: str = "float32") -> model.HybridLlama:
    settings = config.Mamba1Settings if mixer == "mamba1" else config.Mamba2Settings
    return loading.load(folder, settings, loading.Precision(weights=getattr(torch, dtype)))


def edit(path: Path, **changes: Any) -> None:
    """Change fields of a JSON file; None removes a field."""
    data = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in data.items() if value is not None}))


def edit_weights(folder: Path, kind: str, **changes: torch.Tensor | None) -> None:
    mamba, base = hybrid_checkpoint.configs("mamba2", "8b")
    found = hybrid_checkpoint.tensors("mamba2", mamba, base)
    for key, value in changes.items():
        found.pop(key, None)
        if value is not None:
            found[key] = value
    hybrid_checkpoint.write_weights(folder, found, kind)


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("shape", hybrid_checkpoint.SHAPES)
@pytest.mark.parametrize("kind", FILES)
def test_every_published_form_loads_to_the_stored_tensors(tmp_path: Path, mixer: str, shape: str, kind: str) -> None:
    hybrid_checkpoint.write(tmp_path, mixer, shape, kind)
    stored = hybrid_checkpoint.tensors(mixer, *hybrid_checkpoint.configs(mixer, shape))
    found = load(tmp_path, mixer).state_dict()
    if shape == "3b":
        assert torch.equal(found.pop("lm_head.weight"), stored["model.embed_tokens.weight"])
    assert {key: value.shape for key, value in found.items()} == {key: value.shape for key, value in stored.items()}
    assert all(torch.equal(value, stored[key]) for key, value in found.items())


@pytest.mark.parametrize("mixer", MIXERS)
@pytest.mark.parametrize("shape", hybrid_checkpoint.SHAPES)
@pytest.mark.parametrize("shards", [False, True])
def test_a_saved_model_loads_to_the_same_model(tmp_path: Path, mixer: str, shape: str, shards: bool) -> None:
    first = load(hybrid_checkpoint.write(tmp_path / "one", mixer, shape), mixer)
    loading.save(first, tmp_path / "two", torch.float32, "40KB" if shards else "5GB")
    assert (tmp_path / "two" / "model.safetensors.index.json").is_file() == shards
    second = load(tmp_path / "two", mixer)
    assert second.hybrid == first.hybrid
    ids = torch.tensor([[1, 2, 3, 4, 5]])
    with torch.no_grad():
        assert torch.equal(first(ids).logits, second(ids).logits)


def test_transformers_reads_the_saved_config(tmp_path: Path) -> None:
    from transformers import AutoConfig

    loading.save(load(hybrid_checkpoint.write(tmp_path / "one", "mamba2", "3b")), tmp_path / "two", torch.bfloat16)
    one, two = (AutoConfig.from_pretrained(tmp_path / name) for name in ("one", "two"))
    for name in ("hidden_size", "num_attention_heads", "num_key_value_heads", "tie_word_embeddings", "rms_norm_eps"):
        assert getattr(one, name) == getattr(two, name), name
    assert json.loads((tmp_path / "two/config.json").read_text())["rope_scaling"] == hybrid_checkpoint.LLAMA3


def test_a_checkpoint_that_names_a_tied_head_must_mean_it(tmp_path: Path) -> None:
    mamba, base = hybrid_checkpoint.configs("mamba2", "3b")
    hybrid_checkpoint.write(tmp_path, "mamba2", "3b")
    found = hybrid_checkpoint.tensors("mamba2", mamba, base)
    head = found["model.embed_tokens.weight"].clone()
    hybrid_checkpoint.write_weights(tmp_path, found | {"lm_head.weight": head}, "safetensors")
    assert torch.equal(load(tmp_path).state_dict()["lm_head.weight"], head)
    hybrid_checkpoint.write_weights(tmp_path, found | {"lm_head.weight": head + 1}, "safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors: lm_head\.weight: differs from model\.embed_tokens"):
        load(tmp_path)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize(
    ("key", "shape", "dtype", "message"),
    [
        (A_KEY, None, "float32", "out_proj.weight: missing"),
        ("model.layers.0.self_attn.q_proj.weight", (8, 8), "float32", "q_proj.weight: the config has no place for it"),
        (A_KEY, (64, 63), "float32", r"out_proj.weight: shape \(64, 63\), but the config asks for \(64, 64\)"),
        (A_KEY, (64, 64), "int64", "out_proj.weight: torch.int64; weights are floating-point numbers"),
    ],
)
def test_a_wrong_tensor_is_named_with_its_file(
    tmp_path: Path, kind: str, key: str, shape: tuple[int, ...] | None, dtype: str, message: str
) -> None:
    hybrid_checkpoint.write(tmp_path, "mamba2", "8b", "bin")
    (tmp_path / "pytorch_model.bin").unlink()
    value = None if shape is None else torch.zeros(shape, dtype=getattr(torch, dtype))
    edit_weights(tmp_path, kind, **{key: value})
    stem = "model" if kind.startswith("safetensors") else "pytorch_model"
    with pytest.raises(CheckpointError, match=rf"{stem}[-0-9of]*\.(safetensors|bin).*: model\.layers\.0\..*{message}"):
        load(tmp_path)


@pytest.mark.parametrize("kind", FILES)
@pytest.mark.parametrize("kept", [0.99, 0.5, 0.0])
def test_a_truncated_file_is_named(tmp_path: Path, kind: str, kept: float) -> None:
    hybrid_checkpoint.write(tmp_path, "mamba2", "8b", kind)
    path = sorted(file for file in tmp_path.iterdir() if file.suffix in (".bin", ".safetensors"))[-1]
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(CheckpointError, match=rf"{path.name}: not a readable .*perhaps it was cut short"):
        load(tmp_path)


@pytest.mark.parametrize("kind", ["safetensors-shards", "bin-shards"])
def test_a_shard_that_is_not_there_is_named_with_a_key(tmp_path: Path, kind: str) -> None:
    hybrid_checkpoint.write(tmp_path, "mamba2", "8b", kind)
    path = next(tmp_path.glob("*-00002-of-00003.*"))
    path.unlink()
    with pytest.raises(CheckpointError, match=rf"{path.name}: there is no such file; .*index\.json has \S+ in it"):
        load(tmp_path)


def test_an_index_that_does_not_fit_its_shards_is_named(tmp_path: Path) -> None:
    hybrid_checkpoint.write(tmp_path, "mamba2", "8b", "safetensors-shards")
    index = tmp_path / "model.safetensors.index.json"
    kept = json.loads(index.read_text())
    where = dict(kept["weight_map"])
    name = where.pop(A_KEY)
    index.write_text(json.dumps(kept | {"weight_map": where}))
    with pytest.raises(CheckpointError, match=rf"{name}: {A_KEY}: model\.safetensors\.index\.json does not have it"):
        load(tmp_path)
    index.write_text(json.dumps(kept | {"weight_map": kept["weight_map"] | {"ghost": name}}))
    with pytest.raises(CheckpointError, match=rf"{name}: ghost: missing, but model\.safetensors\.index\.json has it"):
        load(tmp_path)
    for broken in ("{", "[]", '{"weight_map": [1]}', '{"weight_map": {"a": "../b.safetensors"}}'):
        index.write_text(broken)
        with pytest.raises(CheckpointError, match=r"model\.safetensors\.index\.json(:1)?: "):
            load(tmp_path)


def test_a_folder_without_weights_is_named(tmp_path: Path) -> None:
    (hybrid_checkpoint.write(tmp_path, "mamba2", "8b") / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"neither model\.safetensors nor pytorch_model\.bin, nor an index"):
        load(tmp_path)


class Malicious:
    """When pickle loads it, it creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["bin", "bin-shards"])
def test_a_pickle_that_tries_to_run_code_is_refused_and_nothing_runs(tmp_path: Path, kind: str) -> None:
    hybrid_checkpoint.write(tmp_path, "mamba2", "8b", kind)
    path = sorted(tmp_path.glob("*.bin"))[-1]
    mark = tmp_path / "it-ran"
    torch.save({A_KEY: Malicious(mark)}, path)
    with pytest.raises(CheckpointError, match=rf"{path.name}: .*refused, and nothing of it was run"):
        load(tmp_path)
    assert not mark.exists()
    torch.load(path, weights_only=False)
    assert mark.is_dir(), "the file was no danger to begin with"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([1], "a list, not a state dict"),
        ({A_KEY: 3}, f"{A_KEY}: a int, not a tensor"),
    ],
)
def test_a_pickle_of_something_else_is_named(tmp_path: Path, content: Any, message: str) -> None:
    hybrid_checkpoint.write(tmp_path, "mamba2", "8b", "bin")
    torch.save(content, tmp_path / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match=rf"pytorch_model\.bin: {message}"):
        load(tmp_path)


@pytest.mark.parametrize(
    "key", ["d_model", "d_inner", "d_xb", "n_layer", "intermediate_size", "attn_layers", "ssm_cfg"]
)
def test_a_field_that_mamba_config_lacks_is_named(tmp_path: Path, key: str) -> None:
    edit(hybrid_checkpoint.write(tmp_path, "mamba2", "8b") / "mamba_config.json", **{key: None})
    with pytest.raises(CheckpointError, match=rf"mamba_config\.json: {key}: missing"):
        load(tmp_path)


@pytest.mark.parametrize(
    "key",
    [
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
        "num_key_value_heads", "rms_norm_eps", "hidden_act", "rope_theta",
    ],
)  # fmt: skip
def test_a_field_that_config_lacks_is_named(tmp_path: Path, key: str) -> None:
    edit(hybrid_checkpoint.write(tmp_path, "mamba2", "8b") / "config.json", **{key: None})
    with pytest.raises(CheckpointError, match=rf"{tmp_path}/config\.json: {key}: missing"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("mamba_config", {"d_model": "64"}, "d_model: expected a whole number from 1, found '64'"),
        ("mamba_config", {"d_xb": 0}, "d_xb: expected a whole number from 1, found 0"),
        ("mamba_config", {"d_xb": 24}, "d_xb: 24 does not divide d_inner 64"),
        ("mamba_config", {"d_xb": 4}, "ssm_cfg.d_state: 8 does not divide d_xb 4"),
        ("mamba_config", {"attn_layers": [1, 4]}, "attn_layers: 4 is not a layer; there are 0 to 3"),
        ("mamba_config", {"n_layer": 5}, "n_layer: 5, but config.json has num_hidden_layers 4"),
        ("mamba_config", {"rms_norm_eps": 1e-6}, "rms_norm_eps: 1e-06, but config.json has rms_norm_eps 1e-05"),
        ("mamba_config", {"ssm_cfg": {"expand": 1}}, "ssm_cfg.ngroups: missing; Mamba-2 layers have it"),
        ("mamba_config", {"ssm_cfg": {"ngroups": 7, "d_state": 8}}, "ssm_cfg.ngroups: 7 groups of d_state 8"),
        ("mamba_config", {"ssm_cfg": {"ngroups": 8, "d_stat": 8}}, "ssm_cfg.d_stat: not supported; known are"),
        ("mamba_config", {"ssm_cfg": {"ngroups": 8, "d_state": "8"}}, "ssm_cfg.d_state: '8' is not a value"),
        ("mamba_config", {"ssm_cfg": {"ngroups": 8, "d_state": 8, "repeat_kv_before_conv": True}}, "ssm_cfg.repeat_kv"),
        ("config", {"num_key_value_heads": "2"}, "num_key_value_heads: expected a whole number from 1, found '2'"),
        ("config", {"num_attention_heads": 7}, "transformers does not accept it: .*hidden size"),
        ("config", {"rope_theta": "big"}, "rope_theta: expected a number, found 'big'"),
        ("config", {"rope_scaling": 3}, "rope_scaling: expected an object, found 3"),
        ("config", {"rope_scaling": {"rope_type": "yarn"}}, "rope_scaling.rope_type: 'yarn' is not supported"),
        ("config", {"rope_scaling": {"rope_type": "llama3"}}, "rope_scaling.factor: missing; rope_type llama3 needs"),
        ("config", {"model_type": "mistral"}, "model_type: 'mistral'; only checkpoints made from a Llama"),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, file: str, changes: dict[str, Any], message: str) -> None:
    edit(hybrid_checkpoint.write(tmp_path, "mamba2", "8b") / f"{file}.json", **changes)
    with pytest.raises(CheckpointError, match=rf"{tmp_path}/{file}\.json: {message}"):
        load(tmp_path)


@pytest.mark.parametrize("file", ["config.json", "mamba_config.json"])
@pytest.mark.parametrize(
    ("content", "message"),
    [(None, ": there is no such file"), ("{\n x", ":2: no JSON"), ("[]", ": expected an object")],
)
def test_a_config_that_cannot_be_read_is_named(tmp_path: Path, file: str, content: str | None, message: str) -> None:
    path = hybrid_checkpoint.write(tmp_path, "mamba2", "8b") / file
    path.unlink()
    if content is not None:
        path.write_text(content)
    with pytest.raises(CheckpointError, match=f"/{file}{message}"):
        load(tmp_path)


def test_a_class_for_the_other_mixer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"ssm_cfg\.ngroups: .*use the model class mamba2_hybrid"):
        load(hybrid_checkpoint.write(tmp_path, "mamba2", "8b"), "mamba1")


def test_the_gated_base_model_is_never_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("the network was used")

    folder = hybrid_checkpoint.write(tmp_path, "mamba2", "8b")
    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    load(folder)
    name = "meta-llama/Meta-Llama-3-8B-Instruct"
    (folder / "config.json").write_text(json.dumps({"_name_or_path": name}))
    with pytest.raises(
        CheckpointError, match=rf"config\.json: vocab_size: missing; the base model {name} .*is not down"
    ):
        load(folder)


@pytest.mark.parametrize("threads", [1, 4])
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("safetensors", "bfloat16"), ("bin-shards", "bfloat16"), ("safetensors", "float32"), ("bin-shards", "float32")],
)
def test_loading_holds_the_weights_and_little_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, dtype: str, threads: int
) -> None:
    """Two tensors are nearly the whole model; neither may be in memory twice.  Mapped tensors are read at the end."""
    hybrid_checkpoint.write(tmp_path, "mamba2", "8b", kind, "bfloat16", vocab_size=10_000)
    counted.small_rounds(monkeypatch, threads)
    with counted.counted_memory(counted.SHARDS) as memory:
        found = load(tmp_path, dtype=dtype)
        counted.read(found)
    stored = shards.map_tensors(tmp_path)
    changed = [stored[key].tensor for key, each in found.named_parameters() if each.dtype != stored[key].tensor.dtype]
    counted.assert_held_once(memory, found.parameters(), changed, threads)
